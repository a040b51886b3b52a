// Publish-subscribe and a file's way over a stream, with both peers in this one program.
#include <future>
#include <iostream>
#include <thread>

#include <roletalk.hpp>

int main() try {
    std::promise<std::string> line, file;
    roletalk::Peer subscriber("subscriber"), publisher("publisher");
    subscriber.role("news").on_message("line", [&](roletalk::Context &context) {
        line.set_value(context.data().as_text());
    });
    std::thread reader;
    subscriber.role("store").on_readable("upload", [&](roletalk::Context &context) {
        // On a thread of its own: callbacks of other requests must not wait for a file.
        reader = std::thread([&file, stream = context.accept_readable()]() mutable {
            file.set_value(stream.read_all());
        });
    });
    publisher.connect(subscriber.listen("127.0.0.1:0"));

    auto news = publisher.destination("news");
    news.ready(std::chrono::seconds(10));
    news.broadcast("line", "it rains");
    std::cout << line.get_future().get() << "\n";

    auto store = publisher.destination("store");
    store.ready(std::chrono::seconds(10));
    auto stream = store.writable("upload", "name");
    stream.write(std::string(1 << 20, 'x'));
    stream.finish();
    std::cout << file.get_future().get().size() << " bytes\n";
    reader.join();
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
