// The echo service in a program with a loop of its own: epoll watches the library's descriptor beside the
// program's others, and all callbacks run in that loop. Prints its address; ends with its input.
//
//   epoll_service [ADDRESS]
#include <sys/epoll.h>
#include <unistd.h>

#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    auto options = roletalk::peer_options();
    options.callbacks = ROLETALK_CALLBACKS_POLL;
    roletalk::Peer peer(options);
    auto role = peer.role("echo", true);
    role.on_request("say", [](roletalk::Context &context) { return context.data(); });
    role.enable();
    std::cout << peer.listen(argc > 1 ? argv[1] : "127.0.0.1:0").url() << std::endl;

    const int loop = epoll_create1(EPOLL_CLOEXEC);
    for (int fd : {peer.fd(), STDIN_FILENO}) {
        epoll_event watched{};
        watched.events = EPOLLIN;
        watched.data.fd = fd;
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &watched);
    }
    for (;;) {
        epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) != 1) continue;
        if (event.data.fd == STDIN_FILENO) {
            char bytes[64];
            if (read(STDIN_FILENO, bytes, sizeof bytes) <= 0) break;
        } else {
            peer.poll();
        }
    }
    close(loop);
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
