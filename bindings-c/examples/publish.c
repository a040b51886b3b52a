/* Publishes each line of its input to all that serve role "news", once there is one. Prints its address.
 *
 *   publish [ADDRESS]
 */
#include "example.h"

int main(int argc, char **argv) {
    roletalk_peer peer;
    roletalk_destination news;
    roletalk_listener listener;
    MUST(roletalk_peer_new(NULL, &peer));
    MUST(roletalk_peer_listen(peer, argc > 1 ? text(argv[1]) : ROLETALK_STR("127.0.0.1:0"), NULL,
                              &listener));
    print_address(listener);
    MUST(roletalk_peer_destination(peer, ROLETALK_STR("news"), &news));
    MUST(roletalk_destination_ready(news, -1));
    char line[1024];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        size_t count;
        MUST(roletalk_destination_broadcast(news, ROLETALK_STR("line"),
                                            roletalk_data_text(text(line)), NULL, &count));
        printf("%zu\n", count);
    }
    MUST(roletalk_peer_drain(peer, 10000, NULL));
    return 0;
}
