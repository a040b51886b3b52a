// Prints what is published to role "news", until the publisher is gone.
//
//   subscribe URL
#include <future>
#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    if (argc != 2) return std::cerr << "subscribe URL\n", 2;
    std::promise<void> gone;
    // After what its handlers use: it is closed before that goes.
    roletalk::Peer peer;
    peer.role("news").on_message("line", [](roletalk::Context &context) {
        std::cout << context.data().as_text() << std::endl;
    });
    peer.on_event([&](const roletalk_event &event) {
        if (event.kind == ROLETALK_EVENT_UNIT_CLOSED) gone.set_value();
    });
    peer.connect(argv[1]);
    gone.get_future().wait();
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
