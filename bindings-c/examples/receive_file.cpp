// Serves role "store": writes one uploaded file to its standard output, then ends. Prints its address to
// standard error.
//
//   receive_file [ADDRESS]
#include <future>
#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    std::promise<roletalk::Readable> upload;
    roletalk::Peer peer;
    auto role = peer.role("store", false);
    // Accepts, and leaves the reading to the main thread: callbacks of other requests must not wait for a
    // file.
    role.on_readable("upload", [&, taken = false](roletalk::Context &context) mutable {
        if (std::exchange(taken, true)) return context.reject("one file is enough");
        upload.set_value(context.accept_readable());
    });
    role.enable();
    std::cerr << peer.listen(argc > 1 ? argv[1] : "127.0.0.1:0").url() << std::endl;
    roletalk::Readable stream = upload.get_future().get();
    std::vector<char> piece(64 << 10);
    while (size_t len = stream.read(piece.data(), piece.size()))
        std::cout.write(piece.data(), static_cast<std::streamsize>(len));
    stream = {};
    peer.drain(std::chrono::seconds(10));
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
