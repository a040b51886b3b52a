// The C++ layer: deadlines that cross services, handlers that are canceled, headers, failures with a code.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <future>
#include <iostream>
#include <map>
#include <thread>

#include "check.hpp"

using namespace std::chrono_literals;

// A peer that gives a loaded machine time for the handshake.
static roletalk::Peer patient_peer(const char *name) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    roletalk_peer_options options = roletalk::peer_options();
    options.name = roletalk_string_of(name, std::strlen(name));
    options.limits = &limits;
    return roletalk::Peer(options);
}

// What a call fails with.
template <class Call> static roletalk::Error error_of(Call call) {
    try {
        call();
    } catch (const roletalk::Error &error) {
        return error;
    }
    CHECK(!"it failed");
    std::abort();
}

// Until all that was asked has come, and nothing of it runs any more.
static void settle(const roletalk::Peer &asker, const roletalk::Peer &server) {
    for (;;) {
        uint64_t sent = 0, received = 0, running = 0;
        for (const auto &unit : server.units()) {
            received += unit.stats().requests_received;
            running += unit.stats().running;
        }
        for (const auto &unit : asker.units()) sent += unit.stats().requests_sent;
        if (running == 0 && sent == received) return;
        std::this_thread::sleep_for(1ms);
    }
}

static const char parent_trace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

// "front" asks "middle", whose handler asks "back", which waits until it is canceled.
static void a_deadline_crosses_three_services() {
    std::atomic<bool> begun{false};
    std::promise<std::optional<std::chrono::milliseconds>> left;
    std::promise<int32_t> reason;
    std::promise<std::string> traced;
    std::atomic<roletalk_status> between{ROLETALK_STATUS_OK};
    // Behind what their callbacks use.
    roletalk::Peer front = patient_peer("front"), middle = patient_peer("middle"),
                   back = patient_peer("back");
    auto middle_url = middle.listen("127.0.0.1:0"), back_url = back.listen("127.0.0.1:0");
    back.role("stock").on_request("reserve", [&](roletalk::Context &context) {
        begun = true;
        left.set_value(context.remaining());
        traced.set_value(context.trace().traceparent);
        auto deferred = std::make_shared<roletalk::Deferred>(context.defer());
        deferred->on_cancel([&, deferred](int32_t why) {
            CHECK(deferred->canceled());
            deferred->reject("nobody waits");
            reason.set_value(why);
        });
    });
    middle.connect(back_url.url());
    auto stock = middle.destination("stock");
    stock.ready(120s);
    middle.role("orders").on_request("place", [&](roletalk::Context &context) {
        CHECK(!context.canceled());
        roletalk::SendOptions options;
        options.within(context);
        auto deferred = std::make_shared<roletalk::Deferred>(context.defer());
        // Of what is deferred, too.
        stock.request_async(
            "reserve", context.data(),
            [&, deferred](roletalk::Reply reply) {
                between = reply.status;
                deferred->reject(reply.failure());
            },
            options.within(*deferred));
    });
    front.connect(middle_url.url());
    auto orders = front.destination("orders");
    orders.ready(120s);
    roletalk::SendOptions options;
    options.trace.traceparent = parent_trace;
    // In the end it is long enough for the last one to begin.
    for (options.timeout = 50ms;; options.timeout *= 2) {
        CHECK(error_of([&] { orders.request("place", 7, options); }).status() ==
              ROLETALK_STATUS_TIMEOUT);
        settle(front, middle);
        settle(middle, back);
        if (begun) break;
    }
    auto remaining = left.get_future().get();
    CHECK(remaining && *remaining <= options.timeout);
    CHECK(traced.get_future().get() == parent_trace);
    const int32_t why = reason.get_future().get();
    CHECK(why == ROLETALK_CANCEL_DEADLINE || why == ROLETALK_CANCEL_REQUESTER);
    const roletalk_status status = between;
    CHECK(status == ROLETALK_STATUS_PARENT_CANCELED || status == ROLETALK_STATUS_TIMEOUT);
}

static void headers_and_failures() {
    roletalk::Peer server = patient_peer("server"), client = patient_peer("client");
    auto role = server.role("r");
    const std::string raw("\xff\0", 2);
    role.on_request("headers", [&](roletalk::Context &context) {
        CHECK(context.header("tenant") == roletalk::Data("blue"));
        CHECK(!context.header("none"));
        const roletalk::Headers all = context.headers();
        CHECK(all.size() == 2 && all[1].name == "raw" && all[1].value.bytes() == raw);
        CHECK(all[1].value.kind() == ROLETALK_DATA_BINARY && all.find("none") == nullptr);
        context.set_header("served-by", "here");
        return !context.remaining();
    });
    auto fail = [] {
        return roletalk::Error::rejection("There is no such order")
            .with_code("NOT_FOUND")
            .with_data("[7]")
            .with_retry_after(1500ms);
    };
    role.on_request("throws", [&](roletalk::Context &) { throw fail(); });
    role.on_request("rejects", [&](roletalk::Context &context) { context.reject(fail()); });
    role.on_request("later", [&](roletalk::Context &context) { context.defer().reject(fail()); });
    role.on_request("seen", [&](roletalk::Context &) { throw fail(); });
    role.on_request("replaced", [&](roletalk::Context &) { throw fail(); });
    // What cannot be sent goes without.
    role.on_request("no-json", [](roletalk::Context &) {
        throw roletalk::Error::rejection("text").with_code("CODE").with_data("{no JSON");
    });
    // What came from elsewhere is not passed on unasked.
    role.on_request("passes", [](roletalk::Context &) {
        throw roletalk::Error(ROLETALK_STATUS_REJECTED, "text").with_code("CODE");
    });
    server.layer([&](roletalk::Context &context) {
        context.on_outcome([event = std::string(context.event())](roletalk::Outcome &outcome) {
            if (event == "seen") CHECK(outcome.failure().code() == "NOT_FOUND");
            if (event == "seen") outcome.set_header("seen-by", "layer");
            if (event == "replaced") {
                CHECK(outcome.failure().data() == "[7]" &&
                      outcome.failure().retry_after() == 1500ms);
                outcome.reject(roletalk::Error::rejection("other").with_code("OTHER"));
            }
        });
    });
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready(120s);

    roletalk::SendOptions options;
    options.headers = {{"tenant", "blue"}, {"raw", roletalk::Data::binary(raw.data(), raw.size())}};
    options.headers_required = true;
    // Copies and what is moved are as good.
    for (int i = 0; i < 2; i++) {
        roletalk::SendOptions copy = options;
        roletalk::SendOptions moved = std::move(copy);
        const roletalk::Reply reply = to.ask("headers", {}, moved);
        CHECK(reply.data.as_bool() && reply.unit.id() == server.id() && reply.headers.size() == 1);
        CHECK(*reply.headers.find("served-by") == roletalk::Data("here"));
    }
    CHECK(roletalk::Headers(std::map<std::string, std::string>{{"a", "b"}, {"c", "d"}})[1].name ==
          "c");
    options.headers.add("long", std::string(8192, 'x'));
    CHECK(error_of([&] { to.request("headers", {}, options); }).status() ==
          ROLETALK_STATUS_TOO_LARGE);
    CHECK(error_of([&] { to.send("headers", {}, options); }).status() == ROLETALK_STATUS_TOO_LARGE);

    for (const char *event : {"throws", "rejects", "later", "seen"}) {
        const roletalk::Error error = error_of([&] { to.request(event); });
        CHECK(error.status() == ROLETALK_STATUS_REJECTED);
        CHECK(std::string(error.what()) == "There is no such order" && error.code() == "NOT_FOUND");
        CHECK(error.data() == "[7]" && error.retry_after() == 1500ms && !error.unhandled());
    }
    CHECK(error_of([&] { to.request("replaced"); }).code() == "OTHER");
    for (const char *event : {"no-json", "passes"}) {
        const roletalk::Error plain = error_of([&] { to.request(event); });
        CHECK(plain.code().empty() && std::string(plain.what()) == "text" && !plain.retry_after());
    }
    CHECK(error_of([&] { to.request("nobody handles this"); }).unhandled());
    const std::vector<roletalk::Reply> survey = to.survey("throws");
    const roletalk::Reply &failed = survey.at(0);
    CHECK(!failed.ok() && failed.failure().code() == "NOT_FOUND");
    CHECK(error_of([&] { failed.value(); }).data() == "[7]");
}

static void handlers_are_canceled() {
    std::promise<void> begun;
    std::promise<int32_t> reason;
    std::promise<roletalk::Deferred> kept;
    std::atomic<bool> told{false};
    roletalk::Peer server = patient_peer("server"), client = patient_peer("client");
    auto role = server.role("r");
    role.on_request("compute", [&](roletalk::Context &context) {
        begun.set_value();
        while (!context.canceled()) std::this_thread::yield();
        reason.set_value(context.cancel_reason());
    });
    auto held = std::make_shared<int>(7);
    role.detached().on_request("detached", [&, held](roletalk::Context &context) {
        context.on_cancel([&told, held](int32_t) { told = true; });
        kept.set_value(context.defer());
    });
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready(120s);
    auto ignore = [](roletalk::Reply) {};
    auto second = to.request_async("detached", {}, ignore);
    roletalk::Deferred deferred = kept.get_future().get();
    auto first = to.request_async("compute", {}, ignore);
    begun.get_future().wait();
    // In this order: the first that can be told is told when the other would have been.
    CHECK(second.cancel() && first.cancel());
    CHECK(reason.get_future().get() == ROLETALK_CANCEL_REQUESTER);
    CHECK(!deferred.canceled() && !told);
    deferred.respond(nullptr);
    client.close();
    server.close();
    CHECK(!told && held.use_count() == 1);
}

int main() {
    a_deadline_crosses_three_services();
    headers_and_failures();
    handlers_are_canceled();
    std::cout << "canceling: ok\n";
}
