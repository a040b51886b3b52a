/* The echo service in a program with a loop of its own: epoll watches the library's descriptor beside
 * the program's others, and all callbacks run in that loop. Prints its address; ends with its input.
 *
 *   epoll_service [ADDRESS]
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "example.h"

static void say(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_context_respond(in->context, in->data);
}

int main(int argc, char **argv) {
    rt_peer_options options = {.struct_size = sizeof options, .callbacks = RT_CALLBACKS_POLL};
    rt_peer peer;
    rt_role role;
    rt_listener listener;
    rt_incoming_handler handler = {.call = say};
    int fd;
    MUST(rt_peer_new(&options, &peer));
    MUST(rt_peer_role(peer, RT_STR("echo"), 1, &role));
    MUST(rt_role_handle(role, RT_REQUEST, RT_STR("say"), handler));
    MUST(rt_role_enable(role));
    MUST(rt_peer_listen(peer, argc > 1 ? text(argv[1]) : RT_STR("127.0.0.1:0"), NULL, &listener));
    MUST(rt_fd(peer, &fd));
    print_address(listener);

    int loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event library = {.events = EPOLLIN, .data.fd = fd};
    struct epoll_event input = {.events = EPOLLIN, .data.fd = STDIN_FILENO};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &library);
    epoll_ctl(loop, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) != 1) continue;
        if (event.data.fd == fd) {
            MUST(rt_poll(peer, 0, NULL));
        } else {
            char bytes[64];
            if (read(STDIN_FILENO, bytes, sizeof bytes) <= 0) break;
        }
    }
    close(loop);
    MUST(rt_peer_close(peer));
    return 0;
}
