// Requests that may be handled more than once, in C++: for a call, for a destination, with the counters of both.
#include <atomic>
#include <cstdlib>
#include <future>
#include <iostream>
#include <thread>

#include "check.hpp"

using namespace std::chrono_literals;
using roletalk::Balance;
using roletalk::Retry;
using roletalk::RetryOptions;

roletalk::Peer patient_peer(std::string_view name) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    roletalk_peer_options options = roletalk::peer_options();
    options.name = roletalk::detail::lend(name);
    options.limits = &limits;
    options.unfriendly = 1;
    return roletalk::Peer(options);
}

bool has(const Retry &retry, uint64_t retried, uint64_t hedged, uint64_t refused) {
    return retry.retried() == retried && retry.hedged() == hedged && retry.refused() == refused;
}

template <class Change> Retry retry_of(Change change) {
    RetryOptions options;
    options.backoff = options.longest = 1ms;
    change(options);
    return Retry(options);
}

int main() {
    roletalk::Peer a = patient_peer("a"), b = patient_peer("b"), client = patient_peer("client");
    std::atomic<int> asked{0}, canceled{0};
    std::optional<roletalk::Deferred> slow;
    auto later = [&](roletalk::Context &) {
        asked++;
        throw roletalk::Error::rejection("not now").with_retry_after(5ms);
    };
    a.role("r")
        .on_request("half", later)
        .on_request("never", later)
        .on_request("slow",
                    [&](roletalk::Context &context) {
                        slow.emplace(context.defer());
                        slow->on_cancel([&](int32_t) { canceled++; });
                    })
        .on_request("no", [&](roletalk::Context &) { throw std::runtime_error("no"); })
        .on_message("note", [](roletalk::Context &) {});
    b.role("r")
        .on_request("half", [](roletalk::Context &) { return "b"; })
        .on_request("never", later)
        .on_request("slow", [](roletalk::Context &) { return "b"; })
        .on_request("no", [](roletalk::Context &) { return "b"; })
        .on_message("note", [](roletalk::Context &) {});
    client.connect(a.listen("127.0.0.1:0").url());
    client.connect(b.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    while (to.units().size() < 2) std::this_thread::sleep_for(1ms);
    // Whoever is first in question is asked first.
    to.set_balance(Balance::custom([](const std::vector<roletalk::Candidate> &all) {
        return all[0].name() == "a" || all.size() == 1 ? 0 : 1;
    }));

    // A call.
    CHECK(status_of([&] { to.request("half"); }) == ROLETALK_STATUS_REJECTED);
    const Retry retry;
    roletalk::SendOptions options;
    options.retry = retry;
    CHECK(to.request("half", {}, options).as_text() == "b");
    CHECK(has(retry, 1, 0, 0));
    std::promise<roletalk::Reply> replied;
    const auto on_reply = [&](roletalk::Reply reply) { replied.set_value(std::move(reply)); };
    to.request_async("half", {}, on_reply, options);
    CHECK(replied.get_future().get().unit.name() == "b");
    CHECK(has(retry, 2, 0, 0));
    CHECK(status_of([&] { to.request("no", {}, options); }) == ROLETALK_STATUS_REJECTED);
    CHECK(has(retry, 2, 0, 0));
    // Nothing else is made again.
    CHECK(status_of([&] { to.send("note", {}, options); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(status_of([&] { to.survey("half", {}, options); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(status_of([&] { to.readable("none", {}, options); }) == ROLETALK_STATUS_INVALID_ARGUMENT);

    // A destination, whose retry lives on; a copy has the same account.
    std::optional<Retry> copy;
    {
        const Retry four = retry_of([](RetryOptions &how) { how.attempts = 4; });
        copy = four;
        to.set_retry(four);
    }
    asked = 0;
    CHECK(status_of([&] { to.request("never"); }) == ROLETALK_STATUS_REJECTED);
    CHECK(asked == 4 && has(*copy, 3, 0, 0));
    to.send("note");
    options.retry = retry_of([](RetryOptions &how) { how.attempts = 1; });
    CHECK(status_of([&] { to.request("never", {}, options); }) == ROLETALK_STATUS_REJECTED);
    CHECK(asked == 5);
    to.set_retry(std::nullopt);
    CHECK(status_of([&] { to.request("never"); }) == ROLETALK_STATUS_REJECTED);
    CHECK(asked == 6 && has(*copy, 3, 0, 0));

    // A budget of none.
    const Retry poor = retry_of([](RetryOptions &how) {
        how.attempts = 2;
        how.budget = 0;
    });
    options.retry = poor;
    for (int i = 0; i < 12; i++)
        CHECK(status_of([&] { to.request("never", {}, options); }) == ROLETALK_STATUS_REJECTED);
    CHECK(has(poor, 10, 0, 2));

    // A hedge, after time for the other thread to begin its handler.
    const Retry hedged = retry_of([](RetryOptions &how) { how.hedge_after = 500ms; });
    options.retry = hedged;
    CHECK(to.request("slow", {}, options).as_text() == "b");
    while (canceled < 1) std::this_thread::sleep_for(1ms);
    CHECK(has(hedged, 0, 1, 0) && hedged.stats().hedged == 1);
    slow.reset();

    // What makes no sense is told when it is given.
    const auto wrong = [](auto change) { return status_of([&] { retry_of(change); }); };
    CHECK(wrong([](RetryOptions &how) { how.budget = 2; }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(wrong([](RetryOptions &how) { how.backoff = -1ms; }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(wrong([](RetryOptions &how) { how.hedge_quantile = 95; }) ==
          ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(wrong([](RetryOptions &how) {
              how.hedge_quantile = 0.95;
              how.hedge_after = 1s;
          }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(wrong([](RetryOptions &how) { how.hedge_quantile = 0.95; }) == ROLETALK_STATUS_OK);
    client.close();
    std::cout << "retries: ok\n";
    return 0;
}
