// What users do wrong, and what they are told: the rows of tests/data/mistakes.json. The other languages have
// the same.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <roletalk.hpp>

static std::string read(const std::string &name) {
    const std::string here = __FILE__;
    const std::string path = here.substr(0, here.rfind('/')) + "/../../../tests/data/" + name;
    std::ifstream file(path);
    if (!file) throw std::runtime_error("no file " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

static std::string pem(const std::string &name) {
    return read("tls/" + name + ".pem");
}

static roletalk_string lend(const std::string &text) {
    return roletalk_string_of(text.data(), text.size());
}

// A listener that knows no WebSocket: it answers the first bytes with this, or with nothing.
class Raw {
public:
    explicit Raw(std::string answer = {}) : answer_(std::move(answer)) {
        socket_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        if (bind(socket_, reinterpret_cast<sockaddr *>(&address), size) || listen(socket_, 1))
            throw std::runtime_error("no socket");
        getsockname(socket_, reinterpret_cast<sockaddr *>(&address), &size);
        port_ = ntohs(address.sin_port);
        if (!answer_.empty())
            thread_ = std::thread([this] {
                int accepted = accept(socket_, nullptr, nullptr);
                char head[1024];
                if (::read(accepted, head, sizeof head) > 0 &&
                    write(accepted, answer_.data(), answer_.size()) < 0)
                    std::abort();
                ::close(accepted);
            });
    }
    ~Raw() {
        if (thread_.joinable()) thread_.join();
        ::close(socket_);
    }
    std::string address() const { return "ws://127.0.0.1:" + std::to_string(port_); }

private:
    std::string answer_;
    int socket_;
    unsigned port_;
    std::thread thread_;
};

// With this time for the handshake.
static roletalk::Peer with_time(const char *name, uint64_t handshake_ms) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = handshake_ms;
    roletalk_peer_options options{};
    options.struct_size = sizeof options;
    options.name = roletalk_string_of(name, std::strlen(name));
    options.limits = &limits;
    return roletalk::Peer(options);
}

// A loaded machine may take long for it.
static roletalk::Peer patient(const char *name) {
    return with_time(name, 120000);
}

static roletalk_connect_options once() {
    roletalk_connect_options options = roletalk::connect_options();
    options.once = 1;
    return options;
}

static void dial(const std::string &address, roletalk_connect_options options = once()) {
    patient("client").connect(address, options);
}

static std::string port_of(const std::string &url) {
    return url.substr(url.rfind(':'));
}

static void over_tls(const std::string &certificate, const std::string &ca,
                     const std::string &client_ca = {}, const std::string &scheme = "wss") {
    roletalk::Peer service = patient("service");
    const std::string chain = pem(certificate), key = pem("key");
    roletalk_listen_options listening = roletalk::listen_options();
    listening.tls_certificates = lend(chain);
    listening.tls_key = lend(key);
    if (!client_ca.empty()) listening.tls_client_ca = lend(client_ca);
    auto listener = service.listen("127.0.0.1:0", listening);
    auto options = once();
    if (!ca.empty()) options.tls_ca = lend(ca);
    dial(scheme + "://localhost" + port_of(listener.url()), options);
}

static void with_keys(const char *service_id, const char *service_key, const char *client_id,
                      const char *client_key) {
    roletalk::Peer service = patient("service"), client = patient("client");
    service.add_key(service_id, service_key);
    if (client_id) client.add_key(client_id, client_key);
    client.connect(service.listen("127.0.0.1:0").url(), once());
}

static void
asking(const std::function<void(roletalk::Peer &service, roletalk::Peer &client)> &ask) {
    // The handler's deferred answers: unanswered until the service is closed.
    std::vector<roletalk::Deferred> held;
    roletalk::Peer service = patient("service"), client = patient("client");
    service.role("math")
        .on_request("add", [](roletalk::Context &) { return roletalk::Data(); })
        .on_request("slow", [&](roletalk::Context &context) {
            held.push_back(context.defer());
            return roletalk::Data();
        });
    client.connect(service.listen("127.0.0.1:0").url());
    client.destination("math").ready();
    ask(service, client);
}

static const std::map<std::string, std::function<void()>> mistakes = {
    {"port closed",
     [] {
         std::string address = Raw().address();
         dial(address);
     }},
    {"name unknown", [] { dial("ws://no..name:9000"); }},
    {"silent port",
     [] {
         Raw raw;
         with_time("client", 50).connect(raw.address(), once());
     }},
    {"TLS against a plain port",
     [] {
         roletalk::Peer service = patient("service");
         auto listener = service.listen("127.0.0.1:0");
         auto options = once();
         const std::string ca = pem("ca");
         options.tls_ca = lend(ca);
         dial("wss://localhost" + port_of(listener.url()), options);
     }},
    {"plain against a TLS port", [] { over_tls("localhost", {}, {}, "ws"); }},
    {"certificate of an unknown authority", [] { over_tls("localhost", {}); }},
    {"certificate expired", [] { over_tls("expired", pem("ca")); }},
    {"certificate of another host", [] { over_tls("other-name", pem("ca")); }},
    {"client certificate missing", [] { over_tls("localhost", pem("ca"), pem("ca")); }},
    {"no key", [] { with_keys("k", "secret", nullptr, nullptr); }},
    {"wrong key", [] { with_keys("k", "secret", "k", "other"); }},
    {"no common key", [] { with_keys("k", "secret", "l", "secret"); }},
    {"path refused",
     [] {
         roletalk::Peer service = patient("service");
         auto options = roletalk::listen_options();
         const std::string path = "/mesh";
         options.path = lend(path);
         auto listener = service.listen("127.0.0.1:0", options);
         std::string url = listener.url();
         dial(url.substr(0, url.rfind('/')) + "/other");
     }},
    {"origin refused",
     [] {
         Raw raw("HTTP/1.1 403 Forbidden\r\n\r\n");
         dial(raw.address());
     }},
    {"address without a scheme", [] { dial("localhost"); }},
    {"port out of range", [] { dial("ws://localhost:99999"); }},
    {"empty address", [] { dial(""); }},
    {"role not served",
     [] { asking([](auto &, auto &client) { client.destination("meth").request("add"); }); }},
    {"event mistyped",
     [] { asking([](auto &, auto &client) { client.destination("math").request("ad"); }); }},
    {"too large",
     [] {
         const std::string large(101 << 20, 'x');
         asking([&](auto &, auto &client) {
             client.destination("math").request("add", roletalk::Data(large));
         });
     }},
    {"timeout",
     [] {
         asking([](auto &, auto &client) {
             roletalk::SendOptions options;
             options.timeout = std::chrono::milliseconds(10);
             client.destination("math").request("slow", {}, options);
         });
     }},
    {"unit lost",
     [] {
         asking([](auto &service, auto &client) {
             std::promise<roletalk::Reply> replied;
             auto operation = client.destination("math").request_async(
                 "slow", {}, [&](roletalk::Reply reply) { replied.set_value(std::move(reply)); });
             service.close();
             replied.get_future().get().value();
         });
     }},
    {"closed peer",
     [] {
         asking([](auto &, auto &client) {
             auto math = client.destination("math");
             client.close();
             math.request("add");
         });
     }},
    {"port in use",
     [] {
         roletalk::Peer service = patient("service");
         std::string url = service.listen("127.0.0.1:0").url();
         service.listen(url.substr(std::strlen("ws://")));
     }},
};

static bool any_of(const std::string &parts, const std::function<bool(const std::string &)> &is) {
    for (size_t from = 0; from <= parts.size();) {
        size_t to = std::min(parts.find('|', from), parts.size());
        if (is(parts.substr(from, to - from))) return true;
        from = to + 1;
    }
    return false;
}

// A text of a row, which is a line of its own; without its escapes.
static std::string text_of(const std::string &line, const std::string &name) {
    const std::string before = "\"" + name + "\": \"";
    std::string text;
    for (size_t at = line.find(before) + before.size(); line.at(at) != '"'; at++) {
        if (line.at(at) == '\\') at++;
        text += line.at(at);
    }
    return text;
}

int main() {
    std::istringstream table(read("mistakes.json"));
    size_t wrong = 0, rows = 0;
    for (std::string line; std::getline(table, line);) {
        if (line.find("\"mistake\"") == std::string::npos) continue;
        rows++;
        const std::string name = text_of(line, "mistake"), kinds = text_of(line, "kind");
        const std::string hints = text_of(line, "hint");
        // JSON is a text here, which is sent as it is.
        if (name == "not serializable") continue;
        std::string told = "nothing";
        bool right = false;
        try {
            mistakes.at(name)();
        } catch (const roletalk::Error &error) {
            const roletalk_string status = roletalk_status_name(error.status());
            const std::string kind(status.data, status.len);
            told = kind + ": " + error.what() + " (" + error.hint() + ")";
            // A handle of a peer that was closed is no handle any more.
            const bool gone = name == "closed peer" && kind == "INVALID_HANDLE";
            right = gone || (any_of(kinds, [&](auto &part) { return part == kind; }) &&
                             any_of(hints, [&](auto &part) {
                                 return error.hint().find(part) != std::string::npos;
                             }));
        }
        if (!right) {
            std::cerr << name << ": " << told << "\n";
            wrong++;
        }
    }
    if (rows != mistakes.size() + 1) {
        std::cerr << rows << " rows, " << mistakes.size() << " mistakes\n";
        return 1;
    }
    return wrong != 0;
}
