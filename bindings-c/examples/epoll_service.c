/* The echo service in a program with a loop of its own: epoll watches the library's descriptor beside
 * the program's others, and all callbacks run in that loop. Prints its address; ends with SIGTERM or Ctrl-C.
 *
 *   epoll_service [ADDRESS]
 */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
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
    /* Signals are one more descriptor. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int told = signalfd(-1, &signals, SFD_CLOEXEC);
    MUST(roletalk_peer_new(&options, &peer));
    MUST(roletalk_peer_role(peer, ROLETALK_STR("echo"), 0, &role));
    MUST(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("say"), handler));
    MUST(roletalk_role_enable(role));
    MUST(roletalk_peer_listen(peer, argc > 1 ? text(argv[1]) : ROLETALK_STR("127.0.0.1:0"), NULL,
                              &listener));
    MUST(roletalk_peer_fd(peer, &fd));
    print_address(listener);

    int loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event library = {.events = EPOLLIN, .data.fd = fd};
    struct epoll_event end = {.events = EPOLLIN, .data.fd = told};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &library);
    epoll_ctl(loop, EPOLL_CTL_ADD, told, &end);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) != 1) continue;
        struct signalfd_siginfo signal;
        if (event.data.fd == told && read(told, &signal, sizeof signal) > 0) break;
        MUST(roletalk_peer_poll(peer, 0, NULL));
    }
    /* The next signal ends the program. */
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    /* Runs the callbacks of what is under way. */
    MUST(roletalk_peer_drain(peer, ROLETALK_DRAIN_LIMIT_MS, NULL));
    close(told), close(loop);
    return 0;
}
