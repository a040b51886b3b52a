// Streams a file to role "store".
//
//   send_file URL FILE
#include <fstream>
#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    if (argc != 3) return std::cerr << "send_file URL FILE\n", 2;
    std::ifstream file(argv[2], std::ios::binary);
    if (!file) return std::cerr << argv[2] << " cannot be read\n", 1;
    roletalk::Peer peer;
    peer.connect(argv[1]);
    auto store = peer.destination("store");
    store.ready(std::chrono::seconds(10));
    auto stream = store.writable("upload", argv[2]);
    std::vector<char> piece(64 << 10);
    size_t total = 0;
    while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())), file.gcount() > 0)
        total += stream.write(piece.data(), static_cast<size_t>(file.gcount()));
    // Returns when the other side has read everything.
    stream.finish();
    std::cout << total << " bytes\n";
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
