// The C++ layer: ownership, exceptions, handlers that hold things.
#include <cstdlib>
#include <cstring>
#include <future>
#include <iostream>
#include <thread>

#include "check.hpp"

// A peer that gives a loaded machine time for the handshake.
roletalk::Peer patient_peer(const char *name) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    roletalk_peer_options options{};
    options.struct_size = sizeof options;
    options.name = roletalk_string_of(name, std::strlen(name));
    options.limits = &limits;
    return roletalk::Peer(options);
}

int main() {
    using namespace std::chrono_literals;
    auto held = std::make_shared<int>(7);
    {
        roletalk::Peer server = patient_peer("server"), client = patient_peer("client");
        auto role = server.role("r");
        std::promise<std::thread> later;
        role.on_request("held", [held](roletalk::Context &) { return *held; })
            .on_request("throw",
                        [](roletalk::Context &) -> roletalk::Data {
                            throw std::runtime_error("on purpose");
                        })
            .on_request("later",
                        [&](roletalk::Context &context) {
                            auto answer = [deferred = context.defer()]() mutable {
                                deferred.respond(deferred.data());
                            };
                            later.set_value(std::thread(std::move(answer)));
                            return roletalk::Data();
                        })
            .on_request("drop", [](roletalk::Context &context) {
                context.defer();
                return roletalk::Data();
            });
        CHECK(held.use_count() == 2);
        server.layer([](roletalk::Context &context) {
            if (context.event() == "forbidden") context.reject("no");
            context.on_outcome([event = std::string(context.event())](roletalk::Outcome &outcome) {
                if (event == "doubled") outcome.respond(outcome.data().as_int64() * 2);
                if (event == "throw" && outcome.error() == "on purpose") outcome.reject("on view");
            });
        });
        role.on_request("doubled", [](roletalk::Context &context) { return context.data(); });
        role.on_request("forbidden", [](roletalk::Context &) { return true; });
        std::promise<void> opened;
        server.on_event([&](const roletalk_event &event) {
            if (event.kind == ROLETALK_EVENT_UNIT_OPENED) opened.set_value();
        });
        auto listener = server.listen("127.0.0.1:0");
        auto unit = client.connect(listener.url());
        opened.get_future().wait();
        CHECK(unit.name() == "server" && unit.id() == server.id() && unit.is_open());

        auto to = client.destination("r");
        to.ready(120s);
        CHECK(to.request("held").as_int64() == 7);
        CHECK(to.request("doubled", 21).as_int64() == 42);
        CHECK(to.request("later", roletalk::Data::json("[1]")) == roletalk::Data::json("[1]"));
        later.get_future().get().join();
        for (auto [event, text] : {std::pair("throw", "on view"), std::pair("forbidden", "no"),
                                   std::pair("drop", "The handler did not answer")}) {
            try {
                to.request(event);
                CHECK(false);
            } catch (const roletalk::Error &error) {
                CHECK(error.status() == ROLETALK_STATUS_REJECTED &&
                      std::string(error.what()) == text);
            }
        }
        CHECK(to.survey("held").at(0).value().as_int64() == 7 && to.units().size() == 1);
        std::promise<roletalk::Reply> heard;
        to.survey_async("held", {}, [&](roletalk::Reply got) { heard.set_value(std::move(got)); });
        roletalk::Reply only = heard.get_future().get();
        CHECK(only.value().as_int64() == 7 && only.remaining == 0 && only.unit.id() == server.id());
        CHECK(client.units().at(0).id() == server.id());
        server.set_tag("zone", "eu");
        size_t roles = 0;
        unit.describe([&](const roletalk_unit_info &info) { roles = info.role_count; });
        CHECK(roles == 1);
        try {
            unit.describe([](const roletalk_unit_info &) { throw std::logic_error("comes out"); });
            CHECK(false);
        } catch (const std::logic_error &error) {
            CHECK(std::string(error.what()) == "comes out");
        }
        // Canceling: what nobody answers, and then what has ended.
        std::promise<roletalk::Deferred> kept;
        role.on_request("keep", [&](roletalk::Context &context) {
            kept.set_value(context.defer());
            return nullptr;
        });
        std::promise<roletalk_status> canceled;
        auto operation = to.request_async(
            "keep", {}, [&](roletalk::Reply got) { canceled.set_value(got.status); });
        roletalk::Deferred unanswered = kept.get_future().get();
        CHECK(unanswered.unit().id() == client.id());
        CHECK(operation.cancel() && canceled.get_future().get() == ROLETALK_STATUS_CANCELED);
        CHECK(!operation.cancel());
        // Middleware that passes on later.
        std::promise<roletalk::Deferred> waiting;
        server.layer([&](roletalk::Context &context) {
            if (context.event() == "waits") waiting.set_value(context.defer());
        });
        role.on_request("waits", [](roletalk::Context &) { return "through"; });
        std::promise<roletalk::Reply> passed;
        to.request_async("waits", {},
                         [&](roletalk::Reply got) { passed.set_value(std::move(got)); });
        waiting.get_future().get().next();
        CHECK(passed.get_future().get().value().as_text() == "through");
        // A stream whose reason is refused is still there to be closed.
        role.on_readable("take", [](roletalk::Context &context) { context.accept_readable(); });
        auto taken = to.writable("take");
        CHECK(taken.unit().id() == server.id());
        CHECK(status_of([&] { taken.abort("\xff"); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
        CHECK(taken.get().id != 0);
        taken.abort("no");
        CHECK(taken.get().id == 0);
        server.add_key("id", "key");
        server.remove_key("id");
        CHECK(status_of([&] { server.remove_key("id"); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
        CHECK(status_of([&] { server.accept_fd(-1); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
        roletalk::SendOptions options;
        options.unit = &unit;
        std::promise<roletalk::Reply> reply;
        to.request_async(
            "held", {}, [&](roletalk::Reply got) { reply.set_value(std::move(got)); }, options);
        CHECK(reply.get_future().get().unit.id() == server.id());
        CHECK(status_of([&] { client.destination("nobody").send("x"); }) ==
              ROLETALK_STATUS_NO_UNIT);
        CHECK(status_of([&] { roletalk::Data("x").as_int64(); }) == ROLETALK_STATUS_DATA);
        CHECK(status_of([&] { client.connect("nonsense"); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
        // Without waiting: a stream by readiness, and connecting.
        std::promise<std::string> uploaded;
        std::promise<void> written;
        role.on_readable("up", [&](roletalk::Context &context) {
            auto stream = std::make_shared<roletalk::Readable>(context.accept_readable("go on"));
            CHECK(stream->unit().name() == "client");
            stream->on_ready([&uploaded, stream] {
                char buffer[16];
                uploaded.set_value({buffer, stream->read(buffer, sizeof buffer, 0ms)});
            });
        });
        to.writable_async("up", {}, [&](roletalk::Reply got, roletalk::Writable stream) {
            CHECK(got.value().as_text() == "go on");
            auto shared = std::make_shared<roletalk::Writable>(std::move(stream));
            shared->on_ready([&written, shared] {
                CHECK(shared->write("hello", 5, 0ms) == 5);
                written.set_value();
                throw std::runtime_error("goes no further");
            });
        });
        written.get_future().wait();
        CHECK(uploaded.get_future().get() == "hello");
        std::promise<void> roomy;
        to.on_room([&] { roomy.set_value(); }, options);
        roomy.get_future().wait();
        std::promise<roletalk_status> refused, failed;
        to.readable_async("none", {}, [&](roletalk::Reply got, roletalk::Readable stream) {
            CHECK(stream.get().id == 0);
            refused.set_value(got.status);
        });
        CHECK(refused.get_future().get() == ROLETALK_STATUS_REJECTED);
        auto once = roletalk::connect_options();
        once.once = 1;
        client.connect_async(
            "ws://127.0.0.1:1", [&](roletalk::Reply got) { failed.set_value(got.status); }, once);
        CHECK(failed.get_future().get() == ROLETALK_STATUS_CONNECT_FAILED);
        std::promise<void> logged;
        roletalk::log(ROLETALK_LOG_DEBUG,
                      [&, done = false](const roletalk_log_record &record) mutable {
                          CHECK(record.text.len > 0);
                          if (!std::exchange(done, true)) logged.set_value();
                      });
        CHECK(status_of([&] { to.request("unknown"); }) == ROLETALK_STATUS_REJECTED);
        logged.get_future().wait();
        roletalk::log_off();
        roletalk::Peer moved(std::move(client));
        CHECK(status_of([&] { client.id(); }) == ROLETALK_STATUS_INVALID_HANDLE);
        CHECK(moved.stats().units == 1 && unit.connection_stats().size() == 1);
        const std::string url = listener.url();
        listener.close();
        CHECK(status_of([&] { listener.url(); }) == ROLETALK_STATUS_INVALID_HANDLE);
        CHECK(status_of([&] { moved.connect(url, once); }) == ROLETALK_STATUS_CONNECT_FAILED);
        CHECK(roletalk::status_name(ROLETALK_STATUS_CONNECT_FAILED) == "CONNECT_FAILED");
        CHECK(roletalk::version().size() > 0);
        CHECK(moved.drain(120s));
    }
    // The peers are closed: no handler is left.
    CHECK(held.use_count() == 1);
    std::cout << "layer: ok\n";
    return 0;
}
