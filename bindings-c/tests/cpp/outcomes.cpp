// Whatever a handler throws, and whenever, the requester has one outcome.
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <iostream>
#include <mutex>
#include <new>
#include <optional>

#include <sys/wait.h>
#include <unistd.h>

#include "check.hpp"

struct Says : std::exception {
    const char *text;
    explicit Says(const char *text) : text(text) {}
    const char *what() const noexcept override { return text; }
};

struct Nothing {};

// An answer that cannot be made.
struct Unmade {
    operator roletalk::Data() const { throw 42; }
};

using Handler = std::function<roletalk::Data(roletalk::Context &)>;

static std::mutex mutex;
static std::optional<roletalk::Deferred> kept;

struct Way {
    const char *event;
    Handler handler;
    // None for the answer "first".
    const char *rejection;
};

static std::vector<Way> ways() {
    const char *failed = "The handler failed";
    return {
        {"text", [](auto &) -> roletalk::Data { throw std::runtime_error("on purpose"); },
         "on purpose"},
        {"number", [](auto &) -> roletalk::Data { throw 42; }, failed},
        {"string", [](auto &) -> roletalk::Data { throw std::string("text"); }, failed},
        {"literal", [](auto &) -> roletalk::Data { throw "text"; }, failed},
        {"null", [](auto &) -> roletalk::Data { throw nullptr; }, failed},
        {"nothing", [](auto &) -> roletalk::Data { throw Nothing(); }, failed},
        {"memory", [](auto &) -> roletalk::Data { throw std::bad_alloc(); },
         std::bad_alloc().what()},
        {"no text", [](auto &) -> roletalk::Data { throw Says(nullptr); }, failed},
        {"empty text", [](auto &) -> roletalk::Data { throw Says(""); }, failed},
        {"no UTF-8", [](auto &) -> roletalk::Data { throw Says("\xff\xfe"); }, failed},
        {"library's",
         [](auto &) -> roletalk::Data { throw roletalk::Error(ROLETALK_STATUS_TIMEOUT, "late"); },
         "late"},
        {"unmade", [](auto &) -> roletalk::Data { return Unmade(); }, failed},
        {"responds",
         [](auto &context) {
             context.respond("first");
             return "second";
         },
         nullptr},
        {"responds, throws",
         [](auto &context) -> roletalk::Data {
             context.respond("first");
             throw 42;
         },
         nullptr},
        {"responds twice",
         [](auto &context) -> roletalk::Data {
             context.respond("first");
             context.respond("second");
             return {};
         },
         nullptr},
        {"rejects, throws",
         [](auto &context) -> roletalk::Data {
             context.reject("no");
             throw 42;
         },
         "no"},
        {"defers, throws",
         [](auto &context) -> roletalk::Data {
             auto deferred = context.defer();
             throw 42;
         },
         "The handler did not answer"},
        {"keeps, throws",
         [](auto &context) -> roletalk::Data {
             std::lock_guard<std::mutex> lock(mutex);
             kept = context.defer();
             throw 42;
         },
         nullptr},
    };
}

static roletalk::Peer peer(const char *name, int32_t callbacks) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    auto options = roletalk::peer_options();
    options.name = roletalk_string_of(name, std::strlen(name));
    options.callbacks = callbacks;
    options.limits = &limits;
    return roletalk::Peer(options);
}

static void all(int32_t callbacks, const std::function<void(roletalk::Context &)> &layer) {
    const std::vector<Way> known = ways();
    auto server = peer("server", callbacks), client = peer("client", ROLETALK_CALLBACKS_THREAD);
    if (layer) server.layer(layer);
    auto role = server.role("r");
    for (const Way &way : known) role.on_request(way.event, way.handler);
    // One that returns nothing, and one that does not even answer.
    role.on_request("void", [](roletalk::Context &context) { context.respond("first"); });
    role.on_request("silent", [](roletalk::Context &) {});
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready(std::chrono::seconds(120));
    auto ask = [&](const char *event, const char *rejection) {
        std::promise<roletalk::Reply> promised;
        to.request_async(event, {},
                         [&](roletalk::Reply reply) { promised.set_value(std::move(reply)); });
        auto answered = promised.get_future();
        if (std::strcmp(event, "keeps, throws") == 0) {
            std::optional<roletalk::Deferred> deferred;
            while (!deferred) {
                std::lock_guard<std::mutex> lock(mutex);
                deferred.swap(kept);
            }
            deferred->respond("first");
        }
        roletalk::Reply reply = answered.get();
        if (rejection ? reply.ok() || reply.error != rejection
                      : !reply.ok() || reply.data != roletalk::Data("first")) {
            std::cerr << event << ": " << reply.error << "\n";
            std::abort();
        }
    };
    for (const Way &way : known) ask(way.event, way.rejection);
    ask("void", nullptr);
    ask("silent", "The handler did not answer");
    // No handler is left over.
    CHECK(server.drain(std::chrono::seconds(120)));
}

// Middleware that throws rejects what came; the handler does not run.
static void throwing_layers() {
    auto server = peer("server", ROLETALK_CALLBACKS_THREAD);
    auto client = peer("client", ROLETALK_CALLBACKS_THREAD);
    server.layer([](roletalk::Context &) { throw 42; });
    server.role("r").on_request("x", [](roletalk::Context &) {
        CHECK(false);
        return nullptr;
    });
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready(std::chrono::seconds(120));
    try {
        to.request("x");
        CHECK(false);
    } catch (const roletalk::Error &error) {
        CHECK(std::string(error.what()) == "The handler failed");
    }
}

// Past the C header, where nobody can catch it: the process ends, at once.
static int throws_out_of_c() {
    roletalk::Peer server("server"), client("client");
    auto role = server.role("r");
    roletalk_incoming_handler handler{};
    handler.call = [](void *, const roletalk_incoming *) { throw 42; };
    CHECK(roletalk_role_handle(role.get(), ROLETALK_KIND_REQUEST, ROLETALK_STR("x"), handler) ==
          ROLETALK_STATUS_OK);
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready();
    to.request("x");
    return 1;
}

int main(int argc, char **argv) {
    if (argc == 2) return throws_out_of_c();
    for (int32_t callbacks : {ROLETALK_CALLBACKS_THREAD, ROLETALK_CALLBACKS_INLINE}) {
        all(callbacks, nullptr);
        all(callbacks, [](roletalk::Context &) {});
        all(callbacks, [](roletalk::Context &context) {
            context.on_outcome([](roletalk::Outcome &) { throw 42; });
        });
        all(callbacks, [](roletalk::Context &context) { context.defer().next(); });
    }
    throwing_layers();
    pid_t child = fork();
    if (child == 0) {
        execl(argv[0], argv[0], "throws", static_cast<char *>(nullptr));
        _exit(127);
    }
    int ended;
    CHECK(waitpid(child, &ended, 0) == child && WIFSIGNALED(ended) && WTERMSIG(ended) == SIGABRT);
    std::cout << "outcomes: ok\n";
    return 0;
}
