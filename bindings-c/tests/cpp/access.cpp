// Who gets in, who it is, and what it may do, in C++: policies, identities, functions that judge, their exceptions.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>

#include "check.hpp"
#include <unistd.h>

using namespace std::chrono_literals;
using roletalk::Access;
using roletalk::Policy;

// A peer that gives a loaded machine time for the handshake.
roletalk::Peer patient_peer(std::string_view name, const Access &access = {}) {
    roletalk_limits limits{};
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = 120000;
    roletalk_peer_options options = roletalk::peer_options();
    options.name = roletalk::detail::lend(name);
    options.limits = &limits;
    options.unfriendly = 1;
    return roletalk::Peer(options, access);
}

// Dials with a token, once, as somebody new; the status of the refusal, or 0.
int refused_with(const std::string &url, std::string_view token) {
    roletalk::Peer peer = patient_peer("stranger");
    const std::string bearer = "Bearer " + std::string(token);
    const roletalk_pair header{ROLETALK_STR("authorization"), roletalk::detail::lend(bearer)};
    roletalk_connect_options dialing = roletalk::connect_options();
    dialing.once = 1;
    dialing.headers = &header;
    dialing.header_count = 1;
    try {
        peer.connect(url, dialing);
        return 0;
    } catch (const roletalk::Error &error) {
        const std::string text = error.what();
        const size_t at = text.find("server response: ");
        CHECK(error.status() == ROLETALK_STATUS_CONNECT_FAILED && at != std::string::npos);
        return std::atoi(text.c_str() + at + 17);
    }
}

roletalk::Unit unit_of(const roletalk::Peer &peer, const std::string &id) {
    std::vector<roletalk::Unit> units = peer.units();
    for (auto &unit : units)
        if (unit.id() == id) return std::move(unit);
    std::cerr << "no such unit\n";
    std::abort();
}

// Every kind of call, allowed and denied.
void every_kind_of_call() {
    Access access;
    access.policy = Policy(R"({"rules": [{"who": "any", "call": ["r/open"]}]})");
    roletalk::Peer server = patient_peer("server", access), client = patient_peer("client");
    std::atomic<int> handled{0}, shut{0};
    auto role = server.role("r");
    for (const char *event : {"open", "shut"}) {
        std::atomic<int> &count = *event == 'o' ? handled : shut;
        role.on_message(event, [&count](roletalk::Context &) { count++; })
            .on_request(event, [&count](roletalk::Context &) { return ++count; })
            .on_readable(event,
                         [&count](roletalk::Context &context) {
                             count++;
                             context.accept_readable();
                         })
            .on_writable(event, [&count](roletalk::Context &context) {
                count++;
                context.accept_writable();
            });
    }
    client.connect(server.listen("127.0.0.1:0").url());
    auto to = client.destination("r");
    to.ready();
    const std::map<std::string, std::function<void(std::string_view)>> calls = {
        {"request", [&](std::string_view event) { to.request(event); }},
        {"readable", [&](std::string_view event) { to.readable(event); }},
        {"writable", [&](std::string_view event) { to.writable(event); }},
        {"survey",
         [&](std::string_view event) {
             const auto replies = to.survey(event);
             CHECK(replies.size() == 1);
             replies[0].value();
         }},
    };
    for (const auto &[name, call] : calls) {
        try {
            call("shut");
            std::cerr << name << " is let through\n";
            std::abort();
        } catch (const roletalk::Error &error) {
            CHECK(error.status() == ROLETALK_STATUS_REJECTED && error.code() == "NOT_ALLOWED");
            CHECK(error.unhandled());
        }
        call("open");
    }
    to.send("shut", "x");
    to.broadcast("shut", "x");
    to.send("open", "x");
    // Behind them on the same connection: they were judged by then.
    to.request("open");
    CHECK(shut == 0);
    uint64_t denied = 0;
    for (const auto &unit : server.units()) denied += unit.stats().denied;
    CHECK(denied == 6);
    server.set_policy(std::nullopt);
    to.request("shut");
    server.set_policy(Policy("{}"));
    CHECK(status_of([&] { to.request("open"); }) == ROLETALK_STATUS_REJECTED);
}

// What a function that judges does, and what comes of it.
void the_program_judges() {
    auto held = std::make_shared<int>(7);
    std::promise<roletalk::Upgrade> asked;
    std::mutex mutex;
    std::string told;
    {
        Access access;
        access.policy =
            Policy(R"({"rules": [{"who": {"claim": {"sub": "billing"}}, "call": ["*"]}]})");
        access.identity_headers = {"x-team"};
        access.origins = {"https://app.example.org"};
        access.channel_binding = roletalk::ChannelBinding::disable;
        access.authenticate = [held, &asked](roletalk::Upgrade &upgrade) {
            CHECK(upgrade.path() == "/" && !upgrade.certificate() && !upgrade.header("x-none"));
            CHECK(upgrade.address().rfind("127.0.0.1:", 0) == 0);
            const auto token = upgrade.bearer();
            CHECK(token && upgrade.header("Authorization") == "Bearer " + *token);
            if (*token == "secret") return upgrade.allow(R"({"sub": "billing"})");
            if (*token == "deny") return upgrade.deny(401, "no such token");
            if (*token == "throw") throw std::runtime_error("the database is away");
            if (*token == "denied") throw roletalk::Denied(429, "not so fast");
            if (*token == "no status") throw roletalk::Denied(200);
            if (*token == "number") throw 7;
            if (*token == "claims") return upgrade.allow("no claims");
            if (*token == "judged") {
                upgrade.allow();
                throw std::runtime_error("too late");
            }
            if (*token == "later") asked.set_value(std::move(upgrade));
            // Nothing: it is refused.
        };
        roletalk::Peer server = patient_peer("server", access), client = patient_peer("client");
        access = {};
        CHECK(held.use_count() == 2);
        auto events = server.on_event([&](const roletalk_event &event) {
            if (event.kind != ROLETALK_EVENT_CONNECTION_CLOSED) return;
            std::lock_guard<std::mutex> lock(mutex);
            told += roletalk::detail::view(event.text);
        });
        const std::string url = server.listen("127.0.0.1:0").url();
        const std::vector<std::pair<std::string, int>> cases = {
            {"deny", 401},   {"throw", 500},  {"denied", 429}, {"no status", 500},
            {"number", 500}, {"claims", 500}, {"judged", 0},   {"other", 403},
        };
        for (const auto &[token, expected] : cases) {
            const int status = refused_with(url, token);
            if (status != expected) std::cerr << token << ": " << status << "\n";
            CHECK(status == expected);
        }
        // Judged by another thread, and let go of by it.
        for (const bool allowed : {true, false}) {
            asked = {};
            std::thread judging([&, upgrade = asked.get_future()]() mutable {
                roletalk::Upgrade kept = upgrade.get();
                if (allowed) {
                    kept.allow(R"({"sub": "late"})");
                    CHECK(status_of([&] { kept.allow(); }) == ROLETALK_STATUS_INVALID_HANDLE);
                }
            });
            CHECK(refused_with(url, "later") == (allowed ? 0 : 403));
            judging.join();
        }
        // Claims reach the identity and the policy.
        server.role("r").on_request(
            "who", [](roletalk::Context &context) { return context.unit().identity().claims; });
        const roletalk_pair headers[] = {
            {ROLETALK_STR("authorization"), ROLETALK_STR("Bearer secret")},
            {ROLETALK_STR("X-Team"), ROLETALK_STR("red")}};
        roletalk_connect_options dialing = roletalk::connect_options();
        dialing.headers = headers;
        dialing.header_count = 2;
        const roletalk::Unit dialed = client.connect(url, dialing);
        CHECK(dialed.identity().dialed && url.find(dialed.identity().address) != std::string::npos);
        auto to = client.destination("r");
        to.ready();
        CHECK(to.request("who").as_text() == R"({"sub":"billing"})");
        const auto unit = unit_of(server, client.id());
        const auto identity = unit.identity();
        CHECK(!identity.dialed && !identity.key && !identity.key_name && !identity.certificate);
        CHECK(identity.headers.size() == 1 && identity.headers[0].first == "x-team");
        CHECK(identity.headers[0].second == "red");
        CHECK(unit.identities().size() == 1 && unit.identities()[0].address == identity.address);
        CHECK(unit.identity_json().find(R"("claims":{"sub":"billing"})") != std::string::npos);
    }
    CHECK(held.use_count() == 1);
    for (const char *reason : {"no such token", "the database is away", "not so fast"})
        CHECK(told.find(reason) != std::string::npos);
}

void watched_file() {
    const auto directory =
        std::filesystem::temp_directory_path() / ("roletalk-access-" + std::to_string(getpid()));
    CHECK(std::filesystem::create_directory(directory));
    const std::string path = (directory / "policy.json").string(), next = path + ".next";
    const auto replace = [&](std::string_view text) {
        std::ofstream(next) << text;
        CHECK(std::rename(next.c_str(), path.c_str()) == 0);
    };
    std::promise<std::string> loaded, failed;
    roletalk::Peer peer = patient_peer("server");
    peer.on_event([&](const roletalk_event &event) {
        if (event.kind == ROLETALK_EVENT_POLICY_LOADED)
            loaded.set_value(std::string(roletalk::detail::view(event.path)));
        if (event.kind == ROLETALK_EVENT_POLICY_FAILED)
            failed.set_value(std::string(roletalk::detail::view(event.text)));
    });
    CHECK(status_of([&] { peer.watch_policy(path); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    replace("{}");
    peer.watch_policy(path);
    replace("{");
    auto why = failed.get_future();
    CHECK(why.wait_for(120s) == std::future_status::ready);
    CHECK(why.get().find(path) != std::string::npos);
    replace(R"({"default": "allow"})");
    auto what = loaded.get_future();
    CHECK(what.wait_for(120s) == std::future_status::ready);
    CHECK(what.get() == path);
    peer.close();
    CHECK(std::filesystem::remove_all(directory) == 2);
}

void misuse() {
    CHECK(status_of([] { Policy("[]"); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(status_of([] { Policy(""); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    CHECK(Policy("{}").json() == "{}");
    auto held = std::make_shared<int>(7);
    Access access;
    access.authenticate = [held](roletalk::Upgrade &) {};
    access.origins = {"no origin"};
    CHECK(status_of([&] { patient_peer("x", access); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    access.origins.clear();
    access.identity_headers = {"no header"};
    CHECK(status_of([&] { patient_peer("x", access); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    access.identity_headers.clear();
    access.channel_binding = static_cast<roletalk::ChannelBinding>(9);
    CHECK(status_of([&] { patient_peer("x", access); }) == ROLETALK_STATUS_INVALID_ARGUMENT);
    // What was given away was given back.
    CHECK(held.use_count() == 2);
    roletalk::Upgrade none;
    CHECK(status_of([&] { none.allow(); }) == ROLETALK_STATUS_INVALID_HANDLE);
    CHECK(status_of([&] { none.path(); }) == ROLETALK_STATUS_INVALID_HANDLE);
    CHECK(status_of([&] { none.certificate(); }) == ROLETALK_STATUS_INVALID_HANDLE);
    roletalk::Peer named("named", Access{});
    CHECK(named.id().size() == 32);
}

int main() {
    every_kind_of_call();
    the_program_judges();
    watched_file();
    misuse();
    std::cout << "access: ok" << std::endl;
}
