// The echo service in a program with a loop of its own: epoll watches the library's descriptor beside the
// program's others, and all callbacks run in that loop. Prints its address; ends with SIGTERM or
// Ctrl-C.
//
//   epoll_service [ADDRESS]
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    // Signals are one more descriptor.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const int told = signalfd(-1, &signals, SFD_CLOEXEC);
    auto options = roletalk::peer_options();
    options.callbacks = ROLETALK_CALLBACKS_POLL;
    roletalk::Peer peer(options);
    auto role = peer.role("echo", false);
    role.on_request("say", [](roletalk::Context &context) { return context.data(); });
    role.enable();
    std::cout << peer.listen(argc > 1 ? argv[1] : "127.0.0.1:0").url() << std::endl;

    const int loop = epoll_create1(EPOLL_CLOEXEC);
    for (int fd : {peer.fd(), told}) {
        epoll_event watched{};
        watched.events = EPOLLIN;
        watched.data.fd = fd;
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &watched);
    }
    for (;;) {
        epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) != 1) continue;
        signalfd_siginfo signal;
        if (event.data.fd == told && read(told, &signal, sizeof signal) > 0) break;
        peer.poll();
    }
    // The next signal ends the program.
    sigprocmask(SIG_UNBLOCK, &signals, nullptr);
    // Runs the callbacks of what is under way.
    peer.drain(roletalk::drain_limit);
    close(told), close(loop);
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
