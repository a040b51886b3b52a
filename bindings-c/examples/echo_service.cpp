// Serves role "echo". Prints its address; ends with SIGTERM or Ctrl-C.
//
//   echo_service [ADDRESS]
#include <iostream>

#include <roletalk.hpp>

int main(int argc, char **argv) try {
    roletalk::Peer peer("echo service");
    auto role = peer.role("echo", false);
    role.on_request("say", [](roletalk::Context &context) { return context.data(); });
    role.enable();
    std::cout << peer.listen(argc > 1 ? argv[1] : "127.0.0.1:0").url() << std::endl;
    // Until a signal; what is under way then may finish.
    peer.serve();
    return 0;
} catch (const roletalk::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
