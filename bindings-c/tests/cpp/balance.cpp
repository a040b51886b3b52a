// Which unit gets it, in C++: strategies, tags, keys, functions that hold things, and their exceptions.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <future>
#include <iostream>
#include <thread>

#include "check.hpp"

using namespace std::chrono_literals;
using roletalk::Balance;
using Candidates = std::vector<roletalk::Candidate>;

// The text of what a call throws.
template <class Call> std::string thrown_by(Call call) {
    try {
        call();
    } catch (const roletalk::Error &) {
        return "an error of the library";
    } catch (const std::exception &error) {
        return error.what();
    }
    return "nothing";
}

// A peer that gives a loaded machine time for the handshake, with its name as tag.
roletalk::Peer patient_peer(std::string_view name, const Balance &balance = {}) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    const roletalk_pair zone{ROLETALK_STR("zone"), roletalk::detail::lend(name)};
    roletalk_peer_options options = roletalk::peer_options();
    options.name = roletalk::detail::lend(name);
    options.tags = &zone;
    options.tag_count = 1;
    options.limits = &limits;
    options.balance = balance.get();
    options.unfriendly = 1;
    return roletalk::Peer(options);
}

auto named(std::string name) {
    return [name = std::move(name)](const Candidates &candidates) -> std::optional<size_t> {
        for (size_t i = 0; i < candidates.size(); i++)
            if (candidates[i].name() == name) return i;
        return std::nullopt;
    };
}

int main() {
    auto held = std::make_shared<int>(7);
    {
        roletalk::Peer a = patient_peer("a"), b = patient_peer("b");
        roletalk::Peer client = patient_peer("client", Balance::round_robin());
        std::atomic<int> streams{0};
        for (auto *peer : {&a, &b}) {
            const std::string name = peer == &a ? "a" : "b";
            peer->role("r")
                .on_request("name", [name](roletalk::Context &) { return name; })
                .on_message("note", [](roletalk::Context &) {})
                .on_writable("stream", [&](roletalk::Context &context) {
                    streams++;
                    context.accept_writable();
                });
            client.connect(peer->listen("127.0.0.1:0").url());
        }
        b.role("r").on_request("new", [](roletalk::Context &) { return "new"; });
        auto to = client.destination("r");
        while (to.units().size() < 2) std::this_thread::sleep_for(1ms);
        auto name = [&](const roletalk::SendOptions &options = {}) {
            return to.request("name", {}, options).as_text();
        };

        // The peer's, the destination's, the call's.
        CHECK(name() != name());
        to.set_balance(Balance::least_loaded().prefer("zone", "a"));
        for (int i = 0; i < 4; i++) CHECK(name() == "a");
        roletalk::SendOptions options;
        options.balance = Balance::round_robin().prefer("zone", "b");
        for (int i = 0; i < 4; i++) CHECK(name(options) == "b");
        // Copies stay right when what they were made of is gone.
        roletalk::SendOptions copy = options;
        options = {};
        for (int i = 0; i < 4; i++) CHECK(name(copy) == "b");
        copy.balance = copy.balance.prefer("zone", "c");
        CHECK(name(copy) != name(copy));
        to.set_balance({});
        CHECK(name() != name());

        // A key.
        for (const char *key : {"", "user 1", "user 2"}) {
            options.key = key;
            const std::string first = name(options);
            for (int i = 0; i < 4; i++) CHECK(name(options) == first);
        }
        options = {};

        // A function, with what it holds.
        std::atomic<int> calls{0};
        to.set_balance(Balance::custom([&calls, held](const Candidates &candidates) {
            calls++;
            CHECK(candidates.size() == 2 && candidates[0].id().size() == 32);
            CHECK(candidates[0].tag("zone") == candidates[0].name());
            CHECK(!candidates[0].tag("none") && candidates[0].waiting() == 0);
            CHECK(candidates[0].answer_time() >= 0us && candidates[0].raw().tag_count == 1);
            return candidates[1].name() == "b" ? 1 : 0;
        }));
        CHECK(held.use_count() == 2);
        for (int i = 0; i < 4; i++) CHECK(name() == "b");
        CHECK(calls == 4);
        options.balance = Balance::custom(named("a"));
        CHECK(name(options) == "a" && calls == 4);
        to.set_balance({});
        while (held.use_count() > 1) std::this_thread::sleep_for(1ms);

        // It goes on: the function is asked again.
        options.balance = Balance::custom(
            [](const Candidates &candidates) { return named("a")(candidates).value_or(0); });
        CHECK(to.request("new", {}, options).as_text() == "new");

        // None, and junk.
        for (size_t junk : {size_t{2}, SIZE_MAX}) {
            options.balance = Balance::custom([junk](const Candidates &) { return junk; });
            CHECK(status_of([&] { name(options); }) == ROLETALK_STATUS_NO_UNIT);
        }
        options.balance = Balance::custom(named("nobody"));
        CHECK(status_of([&] { to.send("note", {}, options); }) == ROLETALK_STATUS_NO_UNIT);

        // An exception is thrown by whatever sends, and nothing is sent.
        const auto failing = Balance::custom([](const Candidates &) -> std::optional<size_t> {
            throw std::logic_error("on purpose");
        });
        options.balance = failing;
        const auto never = [](auto &&...) { CHECK(false); };
        CHECK(thrown_by([&] { name(options); }) == "on purpose");
        CHECK(thrown_by([&] { to.send("note", {}, options); }) == "on purpose");
        CHECK(thrown_by([&] { to.readable("stream", {}, options); }) == "on purpose");
        CHECK(thrown_by([&] { to.writable("none", {}, options); }) == "on purpose");
        CHECK(thrown_by([&] { to.request_async("name", {}, never, options); }) == "on purpose");
        CHECK(thrown_by([&] { to.readable_async("stream", {}, never, options); }) == "on purpose");
        CHECK(thrown_by([&] { to.writable_async("none", {}, never, options); }) == "on purpose");
        CHECK(streams == 0);
        // And by nothing else.
        CHECK(status_of([&] { client.destination("nobody").send("x"); }) ==
              ROLETALK_STATUS_NO_UNIT);
        // It waits for no unit then, at once or when it has waited.
        options.wait_for_unit = true;
        options.timeout = 1h;
        CHECK(thrown_by([&] { name(options); }) == "on purpose");
        CHECK(thrown_by([&] { to.request_async("name", {}, never, options); }) == "on purpose");
        std::atomic<int> waits{0};
        std::optional<roletalk::Peer> c;
        options.balance = Balance::custom([&](const Candidates &all) -> std::optional<size_t> {
            if (all.size() > 2) throw std::logic_error("on purpose");
            waits++;
            return std::nullopt;
        });
        auto asked =
            std::async(std::launch::async, [&] { return thrown_by([&] { name(options); }); });
        std::promise<roletalk::Reply> failed;
        to.request_async(
            "name", {}, [&](roletalk::Reply reply) { failed.set_value(std::move(reply)); },
            options);
        while (waits < 2) std::this_thread::sleep_for(1ms);
        c.emplace(patient_peer("c"));
        c->role("r").on_request("name", [](roletalk::Context &) { return "c"; });
        client.connect(c->listen("127.0.0.1:0").url());
        CHECK(asked.get() == "on purpose");
        CHECK(failed.get_future().get().status == ROLETALK_STATUS_INVALID_ARGUMENT);
        options = {};
        // A function that sends, and fails there.
        options.balance = Balance::custom([&](const Candidates &) {
            roletalk::SendOptions inner;
            inner.balance = failing;
            CHECK(thrown_by([&] { to.send("note", {}, inner); }) == "on purpose");
            CHECK(status_of([&] { to.request("name"); }) == ROLETALK_STATUS_WOULD_DEADLOCK);
            inner.balance = Balance::round_robin();
            to.send("note", {}, inner);
            return 0;
        });
        CHECK(name(options).size() == 1);

        // A unit that keeps rejecting is left out, by whatever else a balance says.
        for (const bool rejections : {false, true}) {
            roletalk::Ejection ejection;
            ejection.failures = 1;
            ejection.rejections = rejections;
            ejection.time = 1h;
            ejection.most = 2h;
            to.set_balance(Balance::round_robin().eject(ejection).prefer("none", "none"));
            int rejected = 0;
            for (int i = 0; i < 9; i++)
                rejected += status_of([&] { to.request("new"); }) == ROLETALK_STATUS_REJECTED;
            CHECK(rejected == 0);
            for (const roletalk::Standing &standing : to.standings()) {
                CHECK(standing.waiting == 0 && standing.unanswered == 0);
                const bool handles = standing.unit.name() == "b";
                CHECK((standing.rejected == 0) == handles);
                if (!rejections || handles) CHECK(!standing.ejected);
            }
        }
        CHECK(to.standings().size() == to.units().size());
        roletalk::Ejection wrong;
        wrong.time = -1ms;
        CHECK(status_of([&] { Balance().eject(wrong); }) == ROLETALK_STATUS_INVALID_ARGUMENT);

        // A bound.
        to.set_max_in_flight(1);
        to.set_balance({});
        std::promise<void> begun;
        std::optional<roletalk::Deferred> deferred;
        for (auto *peer : {&a, &b, &*c})
            peer->role("r").on_request("wait", [&](roletalk::Context &context) {
                deferred.emplace(context.defer());
                begun.set_value();
            });
        std::promise<void> replied;
        to.request_async("wait", {}, [&](const roletalk::Reply &) { replied.set_value(); });
        begun.get_future().wait();
        CHECK(status_of([&] { name(); }) == ROLETALK_STATUS_OVERLOADED);
        deferred->respond("done");
        replied.get_future().wait();
        CHECK(name().size() == 1);
        to.set_max_in_flight(0);

        // What is wrong is told when it is given.
        CHECK(status_of([&] { to.set_balance(Balance().prefer("zone", "\xff")); }) ==
              ROLETALK_STATUS_INVALID_ARGUMENT);
        CHECK(to.units().at(0).stats().answer_time_us >= 0);
        to.set_balance(Balance::custom([held](const Candidates &) { return 0; }));
        CHECK(held.use_count() == 2);
        client.close();
        CHECK(held.use_count() == 1);
    }
    std::cout << "balance: ok\n";
    return 0;
}
