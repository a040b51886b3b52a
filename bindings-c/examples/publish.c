/* Publishes each line of its input to all that serve role "news", once there is one. Prints its address.
 *
 *   publish [ADDRESS]
 */
#include "example.h"

int main(int argc, char **argv) {
    rt_peer peer;
    rt_destination news;
    rt_listener listener;
    MUST(rt_peer_new(NULL, &peer));
    MUST(rt_peer_listen(peer, argc > 1 ? text(argv[1]) : RT_STR("127.0.0.1:0"), NULL, &listener));
    print_address(listener);
    MUST(rt_peer_destination(peer, RT_STR("news"), &news));
    MUST(rt_destination_ready(news, -1));
    char line[1024];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        size_t count;
        MUST(rt_destination_broadcast(news, RT_STR("line"), rt_text(text(line)), NULL, &count));
        printf("%zu\n", count);
    }
    MUST(rt_peer_drain(peer, 10000, NULL));
    return 0;
}
