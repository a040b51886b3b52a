/* The echo service in a program with a loop of its own: epoll watches the library's descriptor beside
 * the program's others, and all callbacks run in that loop. Prints its address; ends with its input.
 *
 *   epoll_service [ADDRESS]
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "example.h"

static void say(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context_respond(in->context, in->data);
}

int main(int argc, char **argv) {
    roletalk_peer_options options = {.struct_size = sizeof options,
                                     .callbacks = ROLETALK_CALLBACKS_POLL};
    roletalk_peer peer;
    roletalk_role role;
    roletalk_listener listener;
    roletalk_incoming_handler handler = {.call = say};
    int fd;
    MUST(roletalk_peer_new(&options, &peer));
    MUST(roletalk_peer_role(peer, ROLETALK_STR("echo"), 1, &role));
    MUST(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("say"), handler));
    MUST(roletalk_role_enable(role));
    MUST(roletalk_peer_listen(peer, argc > 1 ? text(argv[1]) : ROLETALK_STR("127.0.0.1:0"), NULL,
                              &listener));
    MUST(roletalk_peer_fd(peer, &fd));
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
            MUST(roletalk_peer_poll(peer, 0, NULL));
        } else {
            char bytes[64];
            if (read(STDIN_FILENO, bytes, sizeof bytes) <= 0) break;
        }
    }
    close(loop);
    MUST(roletalk_peer_close(peer));
    return 0;
}
