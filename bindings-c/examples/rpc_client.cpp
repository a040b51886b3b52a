// Asks role "echo", first waiting for each answer, then for many at the same time.
//
//   rpc_client URL
#include <future>
#include <iostream>
#include <memory>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    if (argc != 2) return std::cerr << "rpc_client URL\n", 2;
    roletalk::Peer peer;
    peer.connect(argv[1]);
    auto echo = peer.destination("echo");
    echo.ready(std::chrono::seconds(10));
    std::cout << echo.request("say", "hello").as_text() << "\n";

    std::vector<std::future<roletalk::Reply>> replies;
    for (int i = 0; i < 100; i++) {
        auto promise = std::make_shared<std::promise<roletalk::Reply>>();
        replies.push_back(promise->get_future());
        echo.request_async(
            "say", i, [promise](roletalk::Reply reply) { promise->set_value(std::move(reply)); });
    }
    int64_t sum = 0;
    for (auto &reply : replies) sum += reply.get().value().as_int64();
    std::cout << replies.size() << " answers, " << sum << " in sum\n";
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
