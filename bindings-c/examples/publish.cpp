// Publishes each line of its input to all that serve role "news", once there is one. Prints its address.
//
//   publish [ADDRESS]
#include <iostream>
#include <string>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    roletalk::Peer peer;
    std::cout << peer.listen(argc > 1 ? argv[1] : "127.0.0.1:0").url() << std::endl;
    auto news = peer.destination("news");
    news.ready();
    for (std::string line; std::getline(std::cin, line);)
        std::cout << news.broadcast("line", line) << "\n";
    peer.drain(std::chrono::seconds(10));
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
