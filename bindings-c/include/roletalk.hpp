// roletalk for C++17: header only, over roletalk.h.
//
// Every object owns its handle and gives it back when it is destroyed; objects can be moved, not
// copied. Errors are exceptions of type roletalk::Error. Handlers are anything that can be called; they
// and what they hold live until they are replaced or the peer is closed. An exception of any type that
// leaves a handler rejects the request, with its text if it has one (an Error::rejection with its code and data,
// too), and goes no further; one that leaves a function that chooses (Balance::custom) ends what is sent, and is thrown
// by the call that sends; one that leaves a function that judges (Access::authenticate) refuses the upgrade, with 500
// unless it is a Denied; one that leaves another callback is dropped.
//
// Threads, lifetimes and what may be called inside callbacks are as roletalk.h says.
#ifndef ROLETALK_HPP
#define ROLETALK_HPP

#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "roletalk.h"

namespace roletalk {

/// What went wrong: a status code, such as ROLETALK_STATUS_NO_UNIT, and a text.
///
/// Handlers that reject throw one, or give it to `reject`:
/// `throw Error::rejection("There is no such order").with_code("NOT_FOUND")`.
class Error : public std::runtime_error {
public:
    Error(roletalk_status status, const std::string &text, std::string hint = {})
        : std::runtime_error(text), status_(status), hint_(std::move(hint)) {}

    /// The error of a handler that rejects, with a text for people.
    static Error rejection(const std::string &text) {
        return Error(ROLETALK_STATUS_HANDLER_FAILED, text);
    }
    /// Adds a name for programs.
    Error with_code(std::string code) && {
        code_ = std::move(code);
        return std::move(*this);
    }
    /// Adds data, as JSON.
    Error with_data(std::string json) && {
        data_ = std::move(json);
        return std::move(*this);
    }
    /// Adds when it is worth trying again.
    Error with_retry_after(std::optional<std::chrono::milliseconds> time) && {
        retry_after_ = time;
        return std::move(*this);
    }
    /// Says whether surely nothing was done.
    Error with_unhandled(bool unhandled) && {
        unhandled_ = unhandled;
        return std::move(*this);
    }

    roletalk_status status() const noexcept { return status_; }
    /// What there is to know besides `what()`, and what to try: for people, in English; may be empty.
    const std::string &hint() const noexcept { return hint_; }
    /// The name that the handler at the other end has given its failure; may be empty.
    const std::string &code() const noexcept { return code_; }
    /// What that handler has added to it: JSON; may be empty.
    const std::string &data() const noexcept { return data_; }
    /// When, says that handler, it is worth trying again.
    std::optional<std::chrono::milliseconds> retry_after() const noexcept { return retry_after_; }
    /// Whether the other side has said that it has begun no handler, so that surely nothing was done. False
    /// says nothing.
    bool unhandled() const noexcept { return unhandled_; }

private:
    roletalk_status status_;
    std::string hint_;
    std::string code_;
    std::string data_;
    std::optional<std::chrono::milliseconds> retry_after_;
    bool unhandled_ = false;
};

namespace detail {

inline std::string_view view(roletalk_string string) {
    return {string.data, string.len};
}

inline roletalk_string lend(std::string_view text) {
    return roletalk_string_of(text.data(), text.size());
}

/// None for a negative number.
inline std::optional<std::chrono::milliseconds> millis(int64_t count) {
    if (count < 0) return std::nullopt;
    return std::chrono::milliseconds(count);
}

/// For C, which knows no negative times.
inline uint64_t count(const char *what, std::chrono::milliseconds time) {
    if (time.count() >= 0) return static_cast<uint64_t>(time.count());
    throw Error(ROLETALK_STATUS_INVALID_ARGUMENT, std::string(what) + " is negative");
}

inline void check(roletalk_status status) {
    if (status == ROLETALK_STATUS_OK) return;
    throw Error(status, std::string(view(roletalk_last_error())),
                std::string(view(roletalk_last_error_hint())))
        .with_code(std::string(view(roletalk_last_error_code())))
        .with_data(std::string(view(roletalk_last_error_data())))
        .with_retry_after(millis(roletalk_last_error_retry_after_ms()))
        .with_unhandled(roletalk_last_error_unhandled() != 0);
}

/// Rejects with the code and data of an error, too.
inline roletalk_status reject_with(roletalk_context context, const Error &error) noexcept {
    roletalk_failure failure{};
    failure.struct_size = sizeof failure;
    failure.reason = roletalk_string_of(error.what(), std::strlen(error.what()));
    failure.code = lend(error.code());
    failure.data = lend(error.data());
    if (error.retry_after()) failure.retry_after_ms = error.retry_after()->count();
    return roletalk_context_reject_with(context, &failure);
}

/// A handle that is given back when it is destroyed.
template <class H, roletalk_status (*Free)(H)> class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(H handle) noexcept : handle_(handle) {}
    Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, H{})) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) {
            reset();
            handle_ = std::exchange(other.handle_, H{});
        }
        return *this;
    }
    ~Handle() { reset(); }

    H get() const noexcept { return handle_; }
    H *out() noexcept { return &handle_; }
    H release() noexcept { return std::exchange(handle_, H{}); }
    void reset() noexcept {
        if (handle_.id != 0) Free(std::exchange(handle_, H{}));
    }

private:
    H handle_{};
};

/// A function on the heap, as the user_data of a callback.
template <class F> void destroy(void *function) {
    delete static_cast<F *>(function);
}

template <class Handler, class F> Handler handler(F function, decltype(Handler::call) call) {
    Handler made{};
    made.call = call;
    made.user_data = new F(std::move(function));
    made.drop = destroy<F>;
    return made;
}

/// Calls a function whose exceptions nobody is left to hear of.
template <class Run> void quietly(Run run) noexcept {
    try {
        run();
    } catch (...) {
    }
}

template <class F> roletalk_ready_handler on_ready(F function) {
    return handler<roletalk_ready_handler>(std::move(function), [](void *user_data) {
        quietly([&] { (*static_cast<F *>(user_data))(); });
    });
}

/// Calls `each(view)` for what `visit(function, user_data)` shows, and lets its first exception out when
/// that has returned.
template <class View, class Visit, class Each> void visit(Visit visit, Each each) {
    std::exception_ptr failed;
    auto guarded = [&](View view) noexcept {
        try {
            if (!failed) each(view);
        } catch (...) {
            failed = std::current_exception();
        }
    };
    auto call = [](void *user_data, View view) {
        (*static_cast<decltype(guarded) *>(user_data))(view);
    };
    check(visit(call, &guarded));
    if (failed) std::rethrow_exception(failed);
}

template <class Call> std::string text(Call call) {
    std::string text(64, '\0');
    size_t len = 0;
    roletalk_status status = call(text.data(), text.size(), &len);
    if (status == ROLETALK_STATUS_TOO_LARGE) {
        text.resize(len);
        status = call(text.data(), text.size(), &len);
    }
    check(status);
    text.resize(len);
    return text;
}

} // namespace detail

/// The version of the library, such as `0.1.0`.
inline std::string_view version() {
    return detail::view(roletalk_version());
}

/// The name of a status, such as `NO_UNIT`.
inline std::string_view status_name(roletalk_status status) {
    return detail::view(roletalk_status_name(status));
}

/// No limit of time, for the calls that take milliseconds.
inline constexpr std::chrono::milliseconds forever{-1};

/// How long a peer that serves drains after a signal, unless it is told otherwise.
inline constexpr std::chrono::milliseconds drain_limit{ROLETALK_DRAIN_LIMIT_MS};

/// A payload that owns its bytes.
class Data {
public:
    Data() = default;
    Data(std::nullptr_t) {}
    Data(bool value) : kind_(ROLETALK_DATA_BOOLEAN), bytes_(1, value ? '\1' : '\0') {}
    Data(std::string text) : kind_(ROLETALK_DATA_TEXT), bytes_(std::move(text)) {}
    Data(std::string_view text) : kind_(ROLETALK_DATA_TEXT), bytes_(text) {}
    Data(const char *text) : kind_(ROLETALK_DATA_TEXT), bytes_(text) {}
    Data(double value) { number(roletalk_number_from_double, value); }
    Data(int value) { number(roletalk_number_from_int64, static_cast<int64_t>(value)); }
    Data(long value) { number(roletalk_number_from_int64, static_cast<int64_t>(value)); }
    Data(long long value) { number(roletalk_number_from_int64, static_cast<int64_t>(value)); }
    Data(unsigned value) { number(roletalk_number_from_uint64, static_cast<uint64_t>(value)); }
    Data(unsigned long value) { number(roletalk_number_from_uint64, static_cast<uint64_t>(value)); }
    Data(unsigned long long value) {
        number(roletalk_number_from_uint64, static_cast<uint64_t>(value));
    }
    /// A copy of what the library lends.
    explicit Data(roletalk_data data)
        : kind_(data.kind), bytes_(static_cast<const char *>(data.bytes), data.len) {}

    static Data binary(const void *bytes, size_t len) {
        return Data(roletalk_data_binary(bytes, len));
    }
    static Data json(std::string_view text) { return Data(roletalk_data_json(detail::lend(text))); }

    /// ROLETALK_DATA_BINARY and so on.
    int32_t kind() const noexcept { return kind_; }
    /// The bytes, whatever they are: text, JSON, or what a binary holds.
    const std::string &bytes() const noexcept { return bytes_; }

    bool as_bool() const {
        int32_t value;
        detail::check(roletalk_data_as_bool(get(), &value));
        return value != 0;
    }
    double as_double() const {
        double value;
        detail::check(roletalk_data_as_double(get(), &value));
        return value;
    }
    int64_t as_int64() const {
        int64_t value;
        detail::check(roletalk_data_as_int64(get(), &value));
        return value;
    }
    uint64_t as_uint64() const {
        uint64_t value;
        detail::check(roletalk_data_as_uint64(get(), &value));
        return value;
    }
    /// The text of a string.
    const std::string &as_text() const {
        if (kind_ != ROLETALK_DATA_TEXT) throw Error(ROLETALK_STATUS_DATA, "The data is not text");
        return bytes_;
    }

    /// Valid as long as this.
    roletalk_data get() const noexcept {
        return roletalk_data_of(kind_, bytes_.data(), bytes_.size());
    }

    friend bool operator==(const Data &a, const Data &b) {
        return a.kind_ == b.kind_ && a.bytes_ == b.bytes_;
    }
    friend bool operator!=(const Data &a, const Data &b) { return !(a == b); }

private:
    template <class Print, class Value> void number(Print print, Value value) {
        roletalk_number number;
        detail::check(print(value, &number));
        kind_ = ROLETALK_DATA_NUMBER;
        bytes_.assign(number.text, number.len);
    }

    int32_t kind_ = ROLETALK_DATA_NULL;
    std::string bytes_;
};

/// A header: the value is text or bytes.
struct Header {
    std::string name;
    Data value;
};

/// What goes with messages, requests, streams and answers besides their payload:
/// `{{"tenant", "blue"}, {"key", Data::binary(bytes, len)}}`.
class Headers {
public:
    Headers() = default;
    Headers(std::initializer_list<std::pair<std::string_view, Data>> headers) {
        for (const auto &[name, value] : headers) add(name, value);
    }
    /// Of a map, or of whatever else has pairs.
    template <class Map, class = typename Map::mapped_type> Headers(const Map &headers) {
        for (const auto &[name, value] : headers) add(name, value);
    }
    /// A copy of what the library lends.
    Headers(const roletalk_header *headers, size_t count) {
        for (size_t i = 0; i < count; i++)
            add(detail::view(headers[i].name), Data(headers[i].value));
    }

    /// A name may be there more than once.
    Headers &add(std::string_view name, Data value) {
        headers_.push_back(
            std::make_shared<const Header>(Header{std::string(name), std::move(value)}));
        const Header &added = *headers_.back();
        lent_.push_back(roletalk_header_of(detail::lend(added.name), added.value.get()));
        return *this;
    }
    /// The first one of this name; null when there is none. Valid as long as this.
    const Data *find(std::string_view name) const {
        for (const auto &header : headers_)
            if (header->name == name) return &header->value;
        return nullptr;
    }
    size_t size() const noexcept { return headers_.size(); }
    bool empty() const noexcept { return headers_.empty(); }
    const Header &operator[](size_t at) const { return *headers_[at]; }
    /// Valid as long as this.
    const roletalk_header *get() const noexcept { return lent_.data(); }

private:
    /// Shared between copies, so that what points into them stays right.
    std::vector<std::shared_ptr<const Header>> headers_;
    std::vector<roletalk_header> lent_;
};

/// A trace context, as in W3C Trace Context and W3C Baggage. All may be empty.
struct Trace {
    std::string traceparent;
    std::string tracestate;
    std::string baggage;
};

/// A certificate that the other end of a connection has shown; see roletalk_certificate.
struct Certificate {
    std::string subject;
    /// Its subject alternative names, each with its type, such as `dns:a.example`.
    std::vector<std::string> names;
    /// SHA-256, in hexadecimal.
    std::string fingerprint;
    std::chrono::system_clock::time_point expires;
};

/// What the other end of a connection has shown; see roletalk_identity.
struct Identity {
    /// The connection's number; 0 in `Unit::identity`.
    uint64_t connection = 0;
    /// Whether this peer has dialed it.
    bool dialed = false;
    /// The id of the preshared key that it has proved.
    std::optional<std::string> key;
    /// The same without the version behind a `#`.
    std::optional<std::string> key_name;
    /// The name of its own key, when it has proved that its id belongs to that.
    std::optional<std::string> peer;
    std::optional<Certificate> certificate;
    /// What `Access::authenticate` has said of it: a JSON object.
    std::string claims;
    /// Where the connection comes from or leads to; empty when that is not known.
    std::string address;
    /// The headers of its upgrade that were to be kept, with names in lower case.
    std::vector<std::pair<std::string, std::string>> headers;
};

namespace detail {

inline std::optional<std::string> some(roletalk_string text) {
    if (text.len == 0) return std::nullopt;
    return std::string(view(text));
}

inline Certificate keep(const roletalk_certificate &shown) {
    Certificate certificate;
    certificate.subject = view(shown.subject);
    for (size_t i = 0; i < shown.name_count; i++)
        certificate.names.emplace_back(view(shown.names[i]));
    certificate.fingerprint = view(shown.fingerprint);
    // What no clock can count expires at its end.
    using Clock = std::chrono::system_clock;
    const auto most = std::chrono::duration_cast<std::chrono::seconds>(
        Clock::time_point::max().time_since_epoch());
    certificate.expires = shown.expires < static_cast<uint64_t>(most.count())
                              ? Clock::time_point(std::chrono::seconds(shown.expires))
                              : Clock::time_point::max();
    return certificate;
}

inline Identity keep(const roletalk_identity &shown) {
    Identity identity;
    identity.connection = shown.connection;
    identity.dialed = shown.dialed != 0;
    identity.key = some(shown.key);
    identity.key_name = some(shown.key_name);
    identity.peer = some(shown.peer);
    if (shown.certificate) identity.certificate = keep(*shown.certificate);
    identity.claims = view(shown.claims);
    identity.address = view(shown.address);
    for (size_t i = 0; i < shown.header_count; i++)
        identity.headers.emplace_back(view(shown.headers[i].key), view(shown.headers[i].value));
    return identity;
}

} // namespace detail

/// A connected remote peer.
class Unit {
public:
    Unit() = default;
    explicit Unit(roletalk_unit owned) : handle_(owned) {}

    /// Keeps a unit that a callback borrows.
    static Unit keep(roletalk_unit borrowed) {
        Unit unit;
        detail::check(roletalk_unit_clone(borrowed, unit.handle_.out()));
        return unit;
    }

    std::string id() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_unit_id(handle_.get(), to, room, len);
        });
    }
    std::string name() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_unit_name(handle_.get(), to, room, len);
        });
    }
    bool is_open() const {
        int32_t open;
        detail::check(roletalk_unit_is_open(handle_.get(), &open));
        return open != 0;
    }
    /// Calls `function(const roletalk_unit_info &)` once, before this returns: meta, tags, roles.
    template <class F> void describe(F function) const {
        detail::visit<const roletalk_unit_info *>(
            [&](auto visitor, void *data) {
                return roletalk_unit_describe(handle_.get(), visitor, data);
            },
            [&](const roletalk_unit_info *info) { function(*info); });
    }
    /// Who it is, as far as it has shown that on the connection that was opened last. The name, the tags and the id are
    /// only what it says of itself.
    Identity identity() const {
        Identity identity;
        detail::visit<const roletalk_identity *>(
            [&](auto visitor, void *data) {
                return roletalk_unit_describe_identity(handle_.get(), visitor, data);
            },
            [&](const roletalk_identity *shown) { identity = detail::keep(*shown); });
        return identity;
    }
    /// The same as JSON; see roletalk_unit_identity.
    std::string identity_json() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_unit_identity(handle_.get(), to, room, len);
        });
    }
    /// What it has shown on each of its connections.
    std::vector<Identity> identities() const {
        std::vector<Identity> all;
        detail::visit<const roletalk_identity *>(
            [&](auto visitor, void *data) {
                return roletalk_unit_each_identity(handle_.get(), visitor, data);
            },
            [&](const roletalk_identity *shown) { all.push_back(detail::keep(*shown)); });
        return all;
    }
    void disconnect() { detail::check(roletalk_unit_disconnect(handle_.get())); }
    roletalk_unit_stats stats() const {
        roletalk_unit_stats stats{};
        stats.struct_size = sizeof stats;
        detail::check(roletalk_unit_get_stats(handle_.get(), &stats));
        return stats;
    }
    /// Counters of each connection.
    std::vector<roletalk_connection_stats> connection_stats() const {
        std::vector<roletalk_connection_stats> all;
        for (;;) {
            roletalk_connection_stats one{};
            one.struct_size = sizeof one;
            const roletalk_status status =
                roletalk_unit_get_connection_stats(handle_.get(), all.size(), &one);
            if (status == ROLETALK_STATUS_END) return all;
            detail::check(status);
            all.push_back(one);
        }
    }
    roletalk_unit get() const noexcept { return handle_.get(); }

private:
    detail::Handle<roletalk_unit, roletalk_unit_free> handle_;
};

namespace detail {

/// Keeps the units that `visit` shows.
template <class Visit> std::vector<Unit> units(Visit visit_units) {
    std::vector<Unit> units;
    visit<roletalk_unit>(visit_units,
                         [&](roletalk_unit unit) { units.push_back(Unit::keep(unit)); });
    return units;
}

} // namespace detail

/// A unit that can be asked, valid while the function that chooses runs.
class Candidate {
public:
    explicit Candidate(const roletalk_candidate *candidate) noexcept : candidate_(candidate) {}

    /// The remote peer's id.
    std::string_view id() const noexcept { return detail::view(candidate_->id); }
    /// Its name; may be empty.
    std::string_view name() const noexcept { return detail::view(candidate_->name); }
    /// The value of one of its tags.
    std::optional<std::string_view> tag(std::string_view key) const noexcept {
        for (size_t i = 0; i < candidate_->tag_count; i++) {
            const roletalk_pair &tag = candidate_->tags[i];
            if (detail::view(tag.key) == key) return detail::view(tag.value);
        }
        return std::nullopt;
    }
    /// Requests that wait for its answer.
    uint64_t waiting() const noexcept { return candidate_->waiting; }
    /// How long an answer is likely to take; zero when nothing is known.
    std::chrono::microseconds answer_time() const noexcept {
        return std::chrono::microseconds(candidate_->answer_time_us);
    }
    const roletalk_candidate &raw() const noexcept { return *candidate_; }

private:
    const roletalk_candidate *candidate_;
};

namespace detail {

/// Where the exception of a function that chooses is left while this thread sends.
inline thread_local std::exception_ptr *left = nullptr;

/// Calls what sends, which may choose a unit. Throws the exception of the function that chooses if that is why it fails.
template <class Call> void sending(Call call) {
    std::exception_ptr failed;
    std::exception_ptr *const around = std::exchange(left, &failed);
    const roletalk_status status = call();
    left = around;
    if (status == ROLETALK_STATUS_INVALID_ARGUMENT && failed) std::rethrow_exception(failed);
    check(status);
}

template <class F> roletalk_choose_handler on_choice(F function) {
    return handler<roletalk_choose_handler>(
        std::move(function),
        [](void *user_data, const roletalk_candidate *const *candidates,
           size_t count) noexcept -> int64_t {
            try {
                const std::vector<Candidate> all(candidates, candidates + count);
                // What the function itself sends leaves its exceptions elsewhere.
                const std::optional<size_t> place = (*static_cast<F *>(user_data))(all);
                if (left) *left = nullptr;
                return place && *place < count ? static_cast<int64_t>(*place)
                                               : ROLETALK_CHOOSE_NONE;
            } catch (...) {
                if (left) *left = std::current_exception();
                return ROLETALK_CHOOSE_FAILED;
            }
        });
}

} // namespace detail

/// When a unit that keeps failing is left out for a while; see roletalk_ejection, also for what 0 stands for.
struct Ejection {
    /// So many requests in a row that fail.
    uint32_t failures = 5;
    /// Whether rejections are failures, too.
    bool rejections = false;
    /// How long the unit is left out at first.
    std::chrono::milliseconds time{5000};
    /// The longest that it is left out.
    std::chrono::milliseconds most{60000};
};

/// How a unit is chosen among those that serve a role: a value, of which copies are cheap. One that is made without
/// arguments says nothing: then it is as the destination says, or the peer, or else by load.
class Balance {
public:
    Balance() noexcept = default;

    /// One unit after the other, but instead of one another where that is clearly better: has fewer requests to
    /// answer, or is to answer in less than half of the time.
    static Balance least_loaded() { return Balance(ROLETALK_BALANCE_LEAST_LOADED); }
    /// One unit after the other.
    static Balance round_robin() { return Balance(ROLETALK_BALANCE_ROUND_ROBIN); }
    /// As `function(const std::vector<Candidate> &)` says: it returns the place of one of them, or `std::nullopt` when
    /// none will do; then, and for a place that there is not, it is as if no unit served the role. It is called on
    /// whichever thread sends, and on several at the same time; see roletalk_choose_handler. An exception ends at once
    /// what is sent, also what waits for a unit, and is thrown by the call that sends. Where that call has returned,
    /// its callback is told ROLETALK_STATUS_INVALID_ARGUMENT. The function lives as long as the balance, its copies and
    /// what they were given to.
    template <class F> static Balance custom(F function) {
        static_assert(
            std::is_invocable_r_v<std::optional<size_t>, F &, const std::vector<Candidate> &>,
            "a function that chooses takes a `const std::vector<roletalk::Candidate> &` and "
            "returns the place of "
            "one, or `std::nullopt`");
        auto chooser = std::make_shared<Chooser>();
        detail::check(roletalk_chooser_new(detail::on_choice(std::move(function)), chooser->out()));
        Said said;
        said.chooser = std::move(chooser);
        return Balance(std::move(said));
    }

    /// The same, but only among units with this tag, such as those in the same zone, as long as one of them can be
    /// asked; among all others otherwise. Several tags must all be there.
    Balance prefer(std::string tag, std::string value) const {
        Said said = this->said();
        said.tags.emplace_back(std::move(tag), std::move(value));
        return Balance(std::move(said));
    }

    /// The same, but a unit that keeps failing is left out for a while; never more than half of those that serve a
    /// role are.
    Balance eject(const Ejection &ejection = {}) const {
        Said said = this->said();
        said.ejection = ejection;
        return Balance(std::move(said));
    }

    /// Valid as long as this; NULL when it says nothing.
    const roletalk_balance *get() const noexcept { return state_ ? &state_->raw : nullptr; }

private:
    using Chooser = detail::Handle<roletalk_chooser, roletalk_chooser_free>;

    struct Said {
        int32_t by = ROLETALK_BALANCE_LEAST_LOADED;
        std::shared_ptr<Chooser> chooser;
        std::vector<std::pair<std::string, std::string>> tags;
        std::optional<Ejection> ejection;
    };

    struct State {
        Said said;
        std::vector<roletalk_pair> lent;
        roletalk_ejection ejection{};
        roletalk_balance raw{};
    };

    explicit Balance(int32_t by) {
        Said said;
        said.by = by;
        *this = Balance(std::move(said));
    }

    explicit Balance(Said said) {
        auto state = std::make_shared<State>();
        state->said = std::move(said);
        for (const auto &[tag, value] : state->said.tags)
            state->lent.push_back({detail::lend(tag), detail::lend(value)});
        state->raw.struct_size = sizeof state->raw;
        state->raw.by = state->said.by;
        state->raw.prefer = state->lent.data();
        state->raw.prefer_count = state->lent.size();
        if (state->said.chooser) state->raw.chooser = state->said.chooser->get();
        if (const auto &ejection = state->said.ejection) {
            state->ejection.struct_size = sizeof state->ejection;
            state->ejection.failures = ejection->failures;
            state->ejection.rejections = ejection->rejections;
            state->ejection.time_ms = detail::count("Ejection::time", ejection->time);
            state->ejection.most_ms = detail::count("Ejection::most", ejection->most);
            state->raw.eject = &state->ejection;
        }
        state_ = std::move(state);
    }

    Said said() const { return state_ ? state_->said : Said(); }

    /// Shared between copies, so that what points into it stays right.
    std::shared_ptr<const State> state_;
};

/// How requests that may be handled more than once are retried; see roletalk_retry_options, also for the meaning of 0.
struct RetryOptions {
    /// The most attempts, hedges included.
    uint32_t attempts = 3;
    /// The wait before the second attempt.
    std::chrono::milliseconds backoff{25};
    /// The longest backoff.
    std::chrono::milliseconds longest{1000};
    /// Further attempts for each request, from 0 to 1, and ten besides. Unlike in C, 0 stands for none.
    double budget = 0.1;
    /// The time without an answer after which a second attempt is made; 0: no hedging by time.
    std::chrono::milliseconds hedge_after{0};
    /// The same after this quantile of all answer times, from 0 to 1; 0: none. Not with `hedge_after`.
    double hedge_quantile = 0;
};

/// Says that requests may be handled more than once, and how they are retried. Use one for all requests of a kind:
/// they share its budget. Copies are cheap and share it, too; any thread may use them. See roletalk_send_options.retry.
class Retry {
public:
    explicit Retry(const RetryOptions &options = {}) : handle_(std::make_shared<Owned>()) {
        roletalk_retry_options raw{};
        raw.struct_size = sizeof raw;
        raw.attempts = options.attempts;
        raw.backoff_ms = detail::count("RetryOptions::backoff", options.backoff);
        raw.longest_ms = detail::count("RetryOptions::longest", options.longest);
        raw.budget = options.budget == 0 ? ROLETALK_RETRY_NO_BUDGET : options.budget;
        raw.hedge_after_ms = detail::count("RetryOptions::hedge_after", options.hedge_after);
        raw.hedge_quantile = options.hedge_quantile;
        detail::check(roletalk_retry_new(&raw, handle_->out()));
    }

    /// Requests that were made again after a failure.
    uint64_t retried() const { return stats().retried; }
    /// Requests that were made besides one that was slow.
    uint64_t hedged() const { return stats().hedged; }
    /// Requests that were not made again because the account was empty.
    uint64_t refused() const { return stats().refused; }

    roletalk_retry_stats stats() const {
        roletalk_retry_stats stats{};
        stats.struct_size = sizeof stats;
        detail::check(roletalk_retry_get_stats(get(), &stats));
        return stats;
    }
    /// Valid as long as this.
    roletalk_retry get() const noexcept { return handle_ ? handle_->get() : roletalk_retry{}; }

private:
    using Owned = detail::Handle<roletalk_retry, roletalk_retry_free>;

    std::shared_ptr<Owned> handle_;
};

/// Something under way that will call back. Destroying it does not end it.
class Operation {
public:
    Operation() = default;
    explicit Operation(roletalk_operation owned) : handle_(owned) {}

    /// Ends it: what it would have called is called with ROLETALK_STATUS_CANCELED, a subscription is
    /// called no more; handlers at the other end are canceled. False when it has ended already.
    bool cancel() {
        roletalk_status status = roletalk_operation_cancel(handle_.get());
        if (status != ROLETALK_STATUS_END) detail::check(status);
        return status == ROLETALK_STATUS_OK;
    }
    roletalk_operation get() const noexcept { return handle_.get(); }

private:
    detail::Handle<roletalk_operation, roletalk_operation_free> handle_;
};

/// The reading end of a stream.
class Readable {
public:
    Readable() = default;
    explicit Readable(roletalk_readable owned) : handle_(owned) {}

    /// Reads up to `room` bytes, at least one; 0 is the end.
    size_t read(void *buffer, size_t room, std::chrono::milliseconds limit = forever) {
        size_t len = 0;
        detail::check(roletalk_readable_read(handle_.get(), buffer, room, limit.count(), &len));
        return len;
    }
    /// `function()` is called once, as soon as read() would not wait.
    template <class F> void on_ready(F function) {
        detail::check(
            roletalk_readable_on_ready(handle_.get(), detail::on_ready(std::move(function))));
    }
    /// Everything up to the end.
    std::string read_all() {
        std::string all;
        char buffer[16384];
        while (size_t len = read(buffer, sizeof buffer)) all.append(buffer, len);
        return all;
    }
    /// Breaks off.
    void abort(std::string_view reason) {
        detail::check(roletalk_readable_abort(handle_.get(), detail::lend(reason)));
        handle_.release();
    }
    /// The unit at the other end.
    Unit unit() const {
        roletalk_unit unit;
        detail::check(roletalk_readable_unit(handle_.get(), &unit));
        return Unit(unit);
    }
    roletalk_readable get() const noexcept { return handle_.get(); }

private:
    detail::Handle<roletalk_readable, roletalk_readable_close> handle_;
};

/// The writing end of a stream. Destroying it without finish() breaks it off.
class Writable {
public:
    Writable() = default;
    explicit Writable(roletalk_writable owned) : handle_(owned) {}

    /// How many bytes were taken: all, unless the time was over.
    size_t write(const void *bytes, size_t len, std::chrono::milliseconds limit = forever) {
        size_t written = 0;
        detail::check(roletalk_writable_write(handle_.get(), bytes, len, limit.count(), &written));
        return written;
    }
    void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
    /// `function()` is called once, as soon as it is worth trying to go on.
    template <class F> void on_ready(F function) {
        detail::check(
            roletalk_writable_on_ready(handle_.get(), detail::on_ready(std::move(function))));
    }
    /// Ends the stream, and waits until the reader has read everything.
    void finish(std::chrono::milliseconds limit = forever) {
        detail::check(roletalk_writable_finish(handle_.get(), limit.count()));
    }
    /// Breaks off.
    void abort(std::string_view reason) {
        detail::check(roletalk_writable_abort(handle_.get(), detail::lend(reason)));
        handle_.release();
    }
    /// The unit at the other end.
    Unit unit() const {
        roletalk_unit unit;
        detail::check(roletalk_writable_unit(handle_.get(), &unit));
        return Unit(unit);
    }
    roletalk_writable get() const noexcept { return handle_.get(); }

private:
    detail::Handle<roletalk_writable, roletalk_writable_close> handle_;
};

/// How something that middleware has passed on was answered, valid while it is told of.
class Outcome {
public:
    explicit Outcome(const roletalk_outcome *outcome) : outcome_(outcome) {}
    Outcome(const Outcome &) = delete;
    Outcome &operator=(const Outcome &) = delete;

    bool ok() const noexcept { return outcome_->status == ROLETALK_STATUS_OK; }
    /// A copy of the answer.
    Data data() const { return Data(outcome_->data); }
    /// Why it was rejected.
    std::string_view error() const { return detail::view(outcome_->error); }
    /// What it was rejected with: as `error`, with code and data.
    Error failure() const {
        return Error(outcome_->status, std::string(error()))
            .with_code(std::string(detail::view(outcome_->error_code)))
            .with_data(std::string(detail::view(outcome_->error_data)))
            .with_retry_after(detail::millis(outcome_->retry_after_ms));
    }

    /// Answers with something else.
    void respond(const Data &data) {
        detail::check(roletalk_context_respond(outcome_->context, data.get()));
    }
    /// Rejects instead.
    void reject(std::string_view reason) {
        detail::check(roletalk_context_reject(outcome_->context, detail::lend(reason)));
    }
    void reject(const Error &error) {
        detail::check(detail::reject_with(outcome_->context, error));
    }
    /// Sets a header of the answer, in the place of what was set by this name.
    void set_header(std::string_view name, const Data &value) {
        detail::check(
            roletalk_context_set_header(outcome_->context, detail::lend(name), value.get()));
    }

private:
    const roletalk_outcome *outcome_;
};

namespace detail {

template <class F> void on_outcome(roletalk_context context, F function) {
    auto call = [](void *user_data, const roletalk_outcome *told) {
        quietly([&] {
            Outcome outcome(told);
            (*static_cast<F *>(user_data))(outcome);
        });
    };
    check(roletalk_context_on_outcome(
        context, handler<roletalk_outcome_handler>(std::move(function), call)));
}

} // namespace detail

namespace detail {

/// What a context knows besides its payload, for those that have one with `get()`.
template <class Self> class Known {
public:
    /// The first header of this name.
    std::optional<Data> header(std::string_view name) const {
        roletalk_data value;
        check(roletalk_context_header(handle(), lend(name), &value));
        if (value.kind == ROLETALK_DATA_NULL) return std::nullopt;
        return Data(value);
    }
    /// All headers, in their order.
    Headers headers() const {
        Headers all;
        for (;;) {
            roletalk_header header;
            const roletalk_status status =
                roletalk_context_header_at(handle(), all.size(), &header);
            if (status == ROLETALK_STATUS_END) return all;
            check(status);
            all.add(view(header.name), Data(header.value));
        }
    }
    /// Sets a header of the answer, in the place of what was set by this name.
    void set_header(std::string_view name, const Data &value) {
        check(roletalk_context_set_header(handle(), lend(name), value.get()));
    }
    /// The sender's trace context.
    Trace trace() const {
        roletalk_trace trace{};
        trace.struct_size = sizeof trace;
        check(roletalk_context_trace(handle(), &trace));
        return Trace{trace.traceparent, std::string(view(trace.tracestate)),
                     std::string(view(trace.baggage))};
    }
    /// How long the requester still waits; none when it has set no time limit.
    std::optional<std::chrono::milliseconds> remaining() const {
        int64_t remaining;
        check(roletalk_context_remaining_ms(handle(), &remaining));
        return millis(remaining);
    }
    /// ROLETALK_CANCEL_REQUESTER and so on; ROLETALK_CANCEL_NONE while somebody waits for the answer.
    int32_t cancel_reason() const {
        int32_t reason;
        check(roletalk_context_cancel_reason(handle(), &reason));
        return reason;
    }
    /// Whether nobody waits for the answer any more.
    bool canceled() const { return cancel_reason() != ROLETALK_CANCEL_NONE; }
    /// `function(int32_t reason)` is called once if nobody waits for the answer any more, unless it is answered
    /// before. For what is deferred: a handler that works on itself asks canceled(). What the function holds lives
    /// until then: if that is what answers, it is to be answered.
    template <class F> void on_cancel(F function) {
        auto call = [](void *user_data, int32_t reason) {
            quietly([&] { (*static_cast<F *>(user_data))(reason); });
        };
        check(roletalk_context_on_cancel(
            handle(), handler<roletalk_cancel_handler>(std::move(function), call)));
    }

private:
    roletalk_context handle() const { return static_cast<const Self *>(this)->get(); }
};

} // namespace detail

/// A request that is answered later, from any thread. Destroying it unanswered rejects it.
class Deferred : public detail::Known<Deferred> {
public:
    Deferred() = default;
    explicit Deferred(roletalk_context owned) : context_(owned) {}
    Deferred(Deferred &&other) noexcept
        : context_(std::exchange(other.context_, roletalk_context{})) {}
    Deferred &operator=(Deferred &&other) noexcept {
        std::swap(context_, other.context_);
        return *this;
    }
    ~Deferred() {
        if (context_.id != 0)
            roletalk_context_reject(context_, ROLETALK_STR("The handler did not answer"));
    }

    void respond(const Data &data) {
        detail::check(roletalk_context_respond(context_, data.get()));
        context_ = roletalk_context{};
    }
    void reject(std::string_view reason) {
        detail::check(roletalk_context_reject(context_, detail::lend(reason)));
        context_ = roletalk_context{};
    }
    /// With its code and data.
    void reject(const Error &error) {
        detail::check(detail::reject_with(context_, error));
        context_ = roletalk_context{};
    }

    /// A copy of the payload.
    Data data() const {
        roletalk_incoming incoming{};
        incoming.struct_size = sizeof incoming;
        detail::check(roletalk_context_view(context_, &incoming));
        return Data(incoming.data);
    }

    /// For middleware: `function(Outcome &)` is called with the outcome, before the requester gets it.
    template <class F> void on_outcome(F function) {
        detail::on_outcome(context_, std::move(function));
    }
    /// For middleware: passes it on to the next, or to the handler.
    void next() {
        detail::check(roletalk_context_next(context_));
        context_ = roletalk_context{};
    }
    Unit unit() const {
        roletalk_unit unit;
        detail::check(roletalk_context_unit(context_, &unit));
        return Unit(unit);
    }
    roletalk_context get() const noexcept { return context_; }

private:
    roletalk_context context_{};
};

/// What came for a handler, valid while it runs.
class Context : public detail::Known<Context> {
public:
    explicit Context(const roletalk_incoming *incoming) : incoming_(incoming) {}
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    std::string_view role() const { return detail::view(incoming_->role); }
    std::string_view event() const { return detail::view(incoming_->event); }
    /// A copy of the payload.
    Data data() const { return Data(incoming_->data); }
    Unit unit() const { return Unit::keep(incoming_->unit); }
    /// The C view: the payload without a copy.
    const roletalk_incoming &raw() const { return *incoming_; }

    /// Answers; what the handler returns does not count then.
    void respond(const Data &data) {
        detail::check(roletalk_context_respond(incoming_->context, data.get()));
    }
    /// Answers after the handler has returned; what it returns does not count then.
    Deferred defer() {
        roletalk_context deferred;
        detail::check(roletalk_context_defer(incoming_->context, &deferred));
        return Deferred(deferred);
    }
    /// Accepts a stream that this peer reads.
    Readable accept_readable(const Data &answer = {}) {
        roletalk_readable stream;
        detail::check(roletalk_context_accept_readable(incoming_->context, answer.get(), &stream));
        return Readable(stream);
    }
    /// Accepts a stream that this peer writes.
    Writable accept_writable(const Data &answer = {}) {
        roletalk_writable stream;
        detail::check(roletalk_context_accept_writable(incoming_->context, answer.get(), &stream));
        return Writable(stream);
    }
    /// For middleware: `function(Outcome &)` is called with the outcome, before the requester gets it.
    template <class F> void on_outcome(F function) {
        detail::on_outcome(incoming_->context, std::move(function));
    }
    /// For middleware: changes the payload that those behind it see.
    void set_data(const Data &data) {
        detail::check(roletalk_context_set_data(incoming_->context, data.get()));
    }
    /// Rejects; what the handler returns does not count then.
    void reject(std::string_view reason) {
        detail::check(roletalk_context_reject(incoming_->context, detail::lend(reason)));
    }
    /// With its code and data.
    void reject(const Error &error) {
        detail::check(detail::reject_with(incoming_->context, error));
    }
    roletalk_context get() const noexcept { return incoming_->context; }

private:
    const roletalk_incoming *incoming_;
};

namespace detail {

/// Rejects with the text of an exception, which may have none, or one that cannot be sent.
inline void reject(roletalk_context context, const char *text) noexcept {
    roletalk_status status = ROLETALK_STATUS_INVALID_ARGUMENT;
    if (text && *text) status = roletalk_context_reject(context, lend(text));
    // When it was answered before, neither does anything.
    if (status != ROLETALK_STATUS_OK)
        (void)roletalk_context_reject(context, ROLETALK_STR("The handler failed"));
}

/// Runs a handler; an exception rejects.
template <class Run> void guard(const roletalk_incoming *incoming, Run run) noexcept {
    try {
        run();
    } catch (const Error &error) {
        // What another handler has said is not passed on unasked, and what cannot be sent goes without.
        const bool own = error.status() == ROLETALK_STATUS_HANDLER_FAILED && *error.what();
        if (!own || reject_with(incoming->context, error) != ROLETALK_STATUS_OK)
            reject(incoming->context, error.what());
    } catch (const std::exception &error) {
        reject(incoming->context, error.what());
    } catch (...) {
        reject(incoming->context, nullptr);
    }
}

template <class F> roletalk_incoming_handler on_context(F function) {
    static_assert(std::is_invocable_v<F &, Context &>,
                  "a handler is called with one argument: take a `roletalk::Context &`");
    return handler<roletalk_incoming_handler>(
        std::move(function), [](void *user_data, const roletalk_incoming *incoming) {
            guard(incoming, [&] {
                Context context(incoming);
                (*static_cast<F *>(user_data))(context);
            });
        });
}

template <class F> roletalk_incoming_handler on_request(F function) {
    static_assert(std::is_invocable_v<F &, Context &>,
                  "a handler is called with one argument: take a `roletalk::Context &`");
    using Answer = std::invoke_result_t<F &, Context &>;
    static_assert(
        std::is_void_v<Answer> || std::is_convertible_v<Answer, Data>,
        "a handler of requests returns its answer, anything that makes a `roletalk::Data`, or "
        "nothing, and calls `respond`, `reject` or `defer` of its context");
    return handler<roletalk_incoming_handler>(
        std::move(function), [](void *user_data, const roletalk_incoming *incoming) {
            guard(incoming, [&] {
                Context context(incoming);
                if constexpr (std::is_void_v<Answer>) {
                    (*static_cast<F *>(user_data))(context);
                } else {
                    const Data answer = (*static_cast<F *>(user_data))(context);
                    roletalk_status status =
                        roletalk_context_respond(incoming->context, answer.get());
                    // It may have been answered or deferred.
                    if (status != ROLETALK_STATUS_OK && status != ROLETALK_STATUS_INVALID_HANDLE)
                        check(status);
                }
            });
        });
}

} // namespace detail

/// A service that a peer offers. Belongs to its peer.
class Role {
public:
    explicit Role(roletalk_role role) : role_(role) {}

    /// The same role, whose handlers are never canceled, and neither are requests within their contexts: for what
    /// is to be done to its end, whether or not the requester still waits.
    Role detached() const {
        Role role(role_);
        role.detached_ = true;
        return role;
    }

    /// `function(Context &)` gives the answer: anything that makes a Data. Or it returns nothing, and
    /// answers with its context.
    template <class F> Role &on_request(std::string_view event, F function) {
        return handle(ROLETALK_KIND_REQUEST, event, detail::on_request(std::move(function)));
    }
    /// `function(Context &)`.
    template <class F> Role &on_message(std::string_view event, F function) {
        return handle(ROLETALK_KIND_MESSAGE, event, detail::on_context(std::move(function)));
    }
    /// `function(Context &)`, which accepts the stream.
    template <class F> Role &on_readable(std::string_view event, F function) {
        return handle(ROLETALK_KIND_READABLE, event, detail::on_context(std::move(function)));
    }
    /// `function(Context &)`, which accepts the stream.
    template <class F> Role &on_writable(std::string_view event, F function) {
        return handle(ROLETALK_KIND_WRITABLE, event, detail::on_context(std::move(function)));
    }
    /// Middleware: `function(Context &)`, which may reject, defer or change the payload.
    template <class F> Role &layer(F function) {
        detail::check(roletalk_role_layer(role_, detail::on_context(std::move(function))));
        return *this;
    }
    void enable() { detail::check(roletalk_role_enable(role_)); }
    void disable() { detail::check(roletalk_role_disable(role_)); }
    bool is_active() const {
        int32_t active;
        detail::check(roletalk_role_is_active(role_, &active));
        return active != 0;
    }
    roletalk_role get() const noexcept { return role_; }

private:
    Role &handle(int32_t kind, std::string_view event, roletalk_incoming_handler handler) {
        if (detached_) {
            roletalk_handler_options options{};
            options.struct_size = sizeof options;
            options.detached = 1;
            detail::check(
                roletalk_role_handle_with(role_, kind, detail::lend(event), &options, handler));
        } else {
            detail::check(roletalk_role_handle(role_, kind, detail::lend(event), handler));
        }
        return *this;
    }

    roletalk_role role_;
    bool detached_ = false;
};

/// The answer to a request, or why there is none.
struct Reply {
    roletalk_status status = ROLETALK_STATUS_OK;
    Data data;
    std::string error;
    Unit unit;
    /// Of a survey: how many more answers will come.
    size_t remaining = 0;
    /// What there is to know besides `error`, and what to try; may be empty.
    std::string hint;
    /// Those of the answer.
    Headers headers;
    /// See Error::code, Error::data, Error::retry_after and Error::unhandled.
    std::string error_code;
    std::string error_data;
    std::optional<std::chrono::milliseconds> retry_after;
    bool unhandled = false;

    bool ok() const noexcept { return status == ROLETALK_STATUS_OK; }
    /// Why there is no answer.
    Error failure() const {
        return Error(status, error, hint)
            .with_code(error_code)
            .with_data(error_data)
            .with_retry_after(retry_after)
            .with_unhandled(unhandled);
    }
    /// The payload, or an exception.
    const Data &value() const {
        if (!ok()) throw failure();
        return data;
    }
};

/// To whom, and how.
struct SendOptions {
    /// The unit to send to; null to have one chosen.
    const Unit *unit = nullptr;
    bool unordered = false;
    /// See roletalk_send_options.timeout_ms.
    std::chrono::milliseconds timeout{0};
    /// What goes with it besides the payload; left out where a unit does not take headers.
    Headers headers{};
    /// Only units that take headers are chosen.
    bool headers_required{false};
    /// See `within`.
    roletalk_context parent{};
    /// In the place of the parent's.
    Trace trace{};
    /// Requests, streams: a unit is waited for, within the time limit, when none serves the role.
    bool wait_for_unit{false};
    /// How the unit is chosen, in the place of what the destination says.
    Balance balance{};
    /// The same unit for the same key, which may be any bytes; see roletalk_send_options.key.
    std::optional<std::string> key{};
    /// Requests: they may be handled more than once, and are made again in this way.
    std::optional<Retry> retry{};

    /// On whose behalf it is sent, a Context or a Deferred: it has at most the time that is left there, is given up
    /// when that is canceled, and its trace context goes with it. See roletalk_send_options.parent.
    template <class C> SendOptions &within(const C &context) {
        parent = context.get();
        return *this;
    }

    /// Valid as long as this.
    roletalk_send_options get() const {
        roletalk_send_options options{};
        options.struct_size = sizeof options;
        if (unit) options.unit = unit->get();
        options.unordered = unordered;
        options.timeout_ms = timeout.count();
        options.headers = headers.get();
        options.header_count = headers.size();
        options.headers_required = headers_required;
        options.parent = parent;
        options.traceparent = detail::lend(trace.traceparent);
        options.tracestate = detail::lend(trace.tracestate);
        options.baggage = detail::lend(trace.baggage);
        options.wait_for_unit = wait_for_unit;
        options.balance = balance.get();
        if (key) options.key = detail::lend(*key);
        if (retry) options.retry = retry->get();
        return options;
    }
};

namespace detail {

inline Reply reply(const roletalk_reply &view) {
    Reply reply;
    reply.status = view.status;
    reply.data = Data(view.data);
    reply.error = std::string(detail::view(view.error));
    reply.remaining = view.remaining;
    reply.hint = std::string(detail::view(view.hint));
    reply.headers = Headers(view.headers, view.header_count);
    reply.error_code = std::string(detail::view(view.error_code));
    reply.error_data = std::string(detail::view(view.error_data));
    reply.retry_after = millis(view.retry_after_ms);
    reply.unhandled = view.unhandled != 0;
    return reply;
}

/// What a callback is lent, to be kept.
inline Reply keep(const roletalk_reply &view) {
    Reply made = reply(view);
    if (view.unit.id != 0) made.unit = Unit::keep(view.unit);
    return made;
}

template <class F> roletalk_reply_handler on_reply(F function) {
    return handler<roletalk_reply_handler>(
        std::move(function), [](void *user_data, const roletalk_reply *view) {
            quietly([&] { (*static_cast<F *>(user_data))(keep(*view)); });
        });
}

/// For streams: the function gets the reply and the stream, which is none if there is an error.
template <class Handler, class Stream, class Raw, class F> Handler on_stream(F function) {
    return handler<Handler>(std::move(function),
                            [](void *user_data, const roletalk_reply *view, Raw raw) {
                                quietly([&] {
                                    Stream stream(raw);
                                    (*static_cast<F *>(user_data))(keep(*view), std::move(stream));
                                });
                            });
}

inline Reply take(roletalk_answer answer) {
    Handle<roletalk_answer, roletalk_answer_free> owned(answer);
    roletalk_reply view{};
    view.struct_size = sizeof view;
    check(roletalk_answer_view(answer, &view));
    Reply made = reply(view);
    roletalk_unit unit;
    if (roletalk_answer_unit(answer, &unit) == ROLETALK_STATUS_OK) made.unit = Unit(unit);
    return made;
}

} // namespace detail

/// How a unit stands with this peer; see roletalk_standing.
struct Standing {
    explicit Standing(const roletalk_standing &view)
        : unit(Unit::keep(view.unit)), waiting(view.waiting), answer_time(view.answer_time_us),
          unanswered(view.unanswered), rejected(view.rejected),
          ejected(detail::millis(view.ejected_ms)) {}

    Unit unit;
    /// Requests that wait for its answer.
    uint64_t waiting;
    /// How long an answer is likely to take; zero when nothing is known.
    std::chrono::microseconds answer_time;
    /// Requests in a row that were not answered within their time.
    uint64_t unanswered;
    /// Requests in a row that were rejected.
    uint64_t rejected;
    /// How long it is still left out, if it is; zero while one request finds out whether it has recovered.
    std::optional<std::chrono::milliseconds> ejected;
};

/// A role as offered by units. Belongs to its peer.
class Destination {
public:
    explicit Destination(roletalk_destination destination) : destination_(destination) {}

    /// Waits until a unit serves the role.
    void ready(std::chrono::milliseconds limit = forever) const {
        detail::check(roletalk_destination_ready(destination_, limit.count()));
    }
    /// How units are chosen from now on, for all who use this destination; `Balance()`: as the peer says
    /// (`peer_options().balance`).
    void set_balance(const Balance &balance) const {
        detail::check(roletalk_destination_set_balance(destination_, balance.get()));
    }
    /// At most so many requests and stream openings are in flight from now on, for all who use this destination; 0: any
    /// number. See roletalk_destination_set_max_in_flight.
    void set_max_in_flight(size_t requests) const {
        detail::check(roletalk_destination_set_max_in_flight(destination_, requests));
    }
    /// All requests may be handled more than once from now on, and are made again in this way, for all who use this
    /// destination; `std::nullopt`: they are not.
    void set_retry(const std::optional<Retry> &retry) const {
        detail::check(
            roletalk_destination_set_retry(destination_, retry ? retry->get() : roletalk_retry{}));
    }
    void send(std::string_view event, const Data &data = {},
              const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        detail::sending([&] {
            return roletalk_destination_send(destination_, detail::lend(event), data.get(), &get);
        });
    }
    /// `function()` is called once, as soon as it is worth sending again what had no room with a
    /// negative timeout.
    template <class F> void on_room(F function, const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        detail::check(roletalk_destination_on_room(destination_, &get,
                                                   detail::on_ready(std::move(function))));
    }
    /// How many units took it.
    size_t broadcast(std::string_view event, const Data &data = {},
                     const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        size_t count = 0;
        detail::check(roletalk_destination_broadcast(destination_, detail::lend(event), data.get(),
                                                     &get, &count));
        return count;
    }
    /// Asks, and waits for the answer.
    Data request(std::string_view event, const Data &data = {},
                 const SendOptions &options = {}) const {
        return ask(event, data, options).data;
    }
    /// The same, with what came besides the payload: the unit that answered, the headers.
    Reply ask(std::string_view event, const Data &data = {},
              const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_answer answer;
        detail::sending([&] {
            return roletalk_destination_request(destination_, detail::lend(event), data.get(), &get,
                                                &answer);
        });
        return detail::take(answer);
    }
    /// Asks: `function(Reply)` is called with the answer.
    template <class F>
    Operation request_async(std::string_view event, const Data &data, F function,
                            const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_operation operation;
        const roletalk_reply_handler handler = detail::on_reply(std::move(function));
        detail::sending([&] {
            return roletalk_destination_request_async(destination_, detail::lend(event), data.get(),
                                                      &get, handler, &operation);
        });
        return Operation(operation);
    }
    /// Asks every unit, and waits for all answers.
    std::vector<Reply> survey(std::string_view event, const Data &data = {},
                              const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        detail::Handle<roletalk_survey, roletalk_survey_close> survey;
        detail::check(roletalk_destination_survey(destination_, detail::lend(event), data.get(),
                                                  &get, survey.out()));
        std::vector<Reply> replies;
        for (;;) {
            roletalk_answer answer;
            roletalk_status status = roletalk_survey_next(survey.get(), -1, &answer);
            if (status == ROLETALK_STATUS_END) return replies;
            detail::check(status);
            replies.push_back(detail::take(answer));
        }
    }
    /// Asks every unit: `function(Reply)` is called for each, and `Reply::remaining` counts down.
    template <class F>
    Operation survey_async(std::string_view event, const Data &data, F function,
                           const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_operation operation;
        detail::check(
            roletalk_destination_survey_async(destination_, detail::lend(event), data.get(), &get,
                                              detail::on_reply(std::move(function)), &operation));
        return Operation(operation);
    }
    /// Asks for a stream to read, and waits until it is accepted.
    Readable readable(std::string_view event, const Data &data = {},
                      const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_readable stream;
        detail::sending([&] {
            return roletalk_destination_readable(destination_, detail::lend(event), data.get(),
                                                 &get, &stream, nullptr);
        });
        return Readable(stream);
    }
    /// Asks for a stream to write, and waits until it is accepted.
    Writable writable(std::string_view event, const Data &data = {},
                      const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_writable stream;
        detail::sending([&] {
            return roletalk_destination_writable(destination_, detail::lend(event), data.get(),
                                                 &get, &stream, nullptr);
        });
        return Writable(stream);
    }
    /// Asks for a stream to read: `function(Reply, Readable)` is called once.
    template <class F>
    Operation readable_async(std::string_view event, const Data &data, F function,
                             const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_operation operation;
        const auto handler =
            detail::on_stream<roletalk_readable_handler, Readable, roletalk_readable>(
                std::move(function));
        detail::sending([&] {
            return roletalk_destination_readable_async(destination_, detail::lend(event),
                                                       data.get(), &get, handler, &operation);
        });
        return Operation(operation);
    }
    /// Asks for a stream to write: `function(Reply, Writable)` is called once.
    template <class F>
    Operation writable_async(std::string_view event, const Data &data, F function,
                             const SendOptions &options = {}) const {
        const roletalk_send_options get = options.get();
        roletalk_operation operation;
        const auto handler =
            detail::on_stream<roletalk_writable_handler, Writable, roletalk_writable>(
                std::move(function));
        detail::sending([&] {
            return roletalk_destination_writable_async(destination_, detail::lend(event),
                                                       data.get(), &get, handler, &operation);
        });
        return Operation(operation);
    }
    /// The units that serve the role.
    std::vector<Unit> units() const {
        return detail::units([&](auto visitor, void *data) {
            return roletalk_destination_each_unit(destination_, visitor, data);
        });
    }
    /// How the units that serve the role stand with this peer.
    std::vector<Standing> standings() const {
        std::vector<Standing> all;
        detail::visit<const roletalk_standing *>(
            [&](auto visitor, void *data) {
                return roletalk_destination_each_standing(destination_, visitor, data);
            },
            [&](const roletalk_standing *standing) { all.emplace_back(*standing); });
        return all;
    }
    roletalk_destination get() const noexcept { return destination_; }

private:
    roletalk_destination destination_;
};

/// Options with their size set: change what is needed.
inline roletalk_peer_options peer_options() {
    roletalk_peer_options options{};
    options.struct_size = sizeof options;
    return options;
}
inline roletalk_listen_options listen_options() {
    roletalk_listen_options options{};
    options.struct_size = sizeof options;
    return options;
}
inline roletalk_connect_options connect_options() {
    roletalk_connect_options options{};
    options.struct_size = sizeof options;
    return options;
}

/// `function(const roletalk_log_record &)` is called for the diagnostics of all peers up to `level`, in
/// the place of the one before.
template <class F> void log(int32_t level, F function) {
    auto call = [](void *user_data, const roletalk_log_record *record) {
        detail::quietly([&] { (*static_cast<F *>(user_data))(*record); });
    };
    detail::check(
        roletalk_log(level, detail::handler<roletalk_log_handler>(std::move(function), call)));
}

/// No diagnostics any more.
inline void log_off() {
    detail::check(roletalk_log(ROLETALK_LOG_OFF, roletalk_log_handler{}));
}

/// Who may call and serve what, as JSON: docs/POLICY.md.
class Policy {
public:
    /// Throws an Error that says where and what is wrong.
    explicit Policy(std::string_view json) : json_(json) {
        detail::check(roletalk_policy_check(detail::lend(json_)));
    }

    const std::string &json() const noexcept { return json_; }

private:
    std::string json_;
};

/// Refuses an upgrade, when it is thrown in Access::authenticate: with an HTTP status from 400 to 599, and a reason for
/// this side's events and log.
class Denied : public std::runtime_error {
public:
    explicit Denied(int status = 403, const std::string &reason = {})
        : std::runtime_error(reason), status_(status) {}

    int status() const noexcept { return status_; }

private:
    int status_;
};

/// A request for an upgrade, which is judged once, from any thread. Destroying it unjudged refuses it with 403. When the
/// time for the handshake is over, every call throws an Error with ROLETALK_STATUS_INVALID_HANDLE.
class Upgrade {
public:
    Upgrade() = default;
    explicit Upgrade(roletalk_upgrade owned) : handle_(owned) {}

    /// The path that is asked for, without the query.
    std::string path() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_upgrade_path(handle_.get(), to, room, len);
        });
    }
    /// The first header of this name. It may be a secret.
    std::optional<std::string> header(std::string_view name) const {
        return text_if_any([&](char *to, size_t room, size_t *len) {
            return roletalk_upgrade_header(handle_.get(), detail::lend(name), to, room, len);
        });
    }
    /// The token of the header `Authorization: Bearer`.
    std::optional<std::string> bearer() const {
        return text_if_any([&](char *to, size_t room, size_t *len) {
            return roletalk_upgrade_bearer(handle_.get(), to, room, len);
        });
    }
    /// Where the connection comes from; empty when that is not known.
    std::string address() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_upgrade_address(handle_.get(), to, room, len);
        });
    }
    /// The certificate that was shown, which TLS has verified.
    std::optional<Certificate> certificate() const {
        std::optional<Certificate> shown;
        std::exception_ptr failed;
        auto keep = [&](const roletalk_certificate *certificate) noexcept {
            try {
                shown = detail::keep(*certificate);
            } catch (...) {
                failed = std::current_exception();
            }
        };
        const roletalk_status status = roletalk_upgrade_certificate(
            handle_.get(),
            [](void *data, const roletalk_certificate *certificate) {
                (*static_cast<decltype(keep) *>(data))(certificate);
            },
            &keep);
        if (status != ROLETALK_STATUS_END) detail::check(status);
        if (failed) std::rethrow_exception(failed);
        return shown;
    }

    /// Lets it in. Claims, a JSON object, become part of the identity; `sub` is who it is.
    void allow(std::string_view claims = {}) {
        detail::check(roletalk_upgrade_allow(handle_.get(), detail::lend(claims)));
        handle_.release();
    }
    /// Refuses it with an HTTP status, such as 401. The reason is for this side's events and log.
    void deny(int status = 403, std::string_view reason = {}) {
        detail::check(roletalk_upgrade_deny(handle_.get(), status, detail::lend(reason)));
        handle_.release();
    }
    roletalk_upgrade get() const noexcept { return handle_.get(); }

private:
    template <class Call> static std::optional<std::string> text_if_any(Call call) {
        try {
            return detail::text(call);
        } catch (const Error &error) {
            if (error.status() != ROLETALK_STATUS_END) throw;
            return std::nullopt;
        }
    }

    detail::Handle<roletalk_upgrade, roletalk_upgrade_free> handle_;
};

/// Whether proofs of preshared keys are bound to TLS connections; see ROLETALK_CHANNEL_BINDING_PREFER and so on.
enum class ChannelBinding : int32_t {
    prefer = ROLETALK_CHANNEL_BINDING_PREFER,
    disable = ROLETALK_CHANNEL_BINDING_DISABLE,
    require = ROLETALK_CHANNEL_BINDING_REQUIRE,
};

/// Who gets in, and who may do what. Unset members leave the peer's options as they are.
struct Access {
    /// Who may call and serve what.
    std::optional<Policy> policy;
    /// Origins whose pages may connect, such as `https://app.example.org`; `*` lets all.
    std::vector<std::string> origins;
    /// Headers of upgrades that are kept as part of the identity.
    std::vector<std::string> identity_headers;
    /// Judges each upgrade: it allows or denies, now or, when it moves the upgrade away, later from any thread. An
    /// exception refuses with 500, unless it is a Denied.
    std::function<void(Upgrade &)> authenticate;
    /// Whether proofs of keys are bound to TLS connections.
    std::optional<ChannelBinding> channel_binding;
    /// The peer's own key, to which its id belongs from then on: random bytes, to be kept as other private keys are.
    std::optional<std::array<uint8_t, 32>> peer_key;
};

namespace detail {

/// Refuses what is not judged yet with the text of an exception, or without one that cannot be said.
inline void refuse(Upgrade &upgrade, int status, const char *reason) noexcept {
    const roletalk_string text = roletalk_string_of(reason, std::strlen(reason));
    if (roletalk_upgrade_deny(upgrade.get(), status, text) == ROLETALK_STATUS_INVALID_ARGUMENT)
        roletalk_upgrade_deny(upgrade.get(), 500, ROLETALK_STR("the hook has failed"));
}

inline roletalk_authenticate_handler on_upgrade(std::function<void(Upgrade &)> function) {
    return handler<roletalk_authenticate_handler>(
        std::move(function), [](void *user_data, roletalk_upgrade asked) noexcept {
            Upgrade upgrade(asked);
            try {
                (*static_cast<std::function<void(Upgrade &)> *>(user_data))(upgrade);
            } catch (const Denied &denied) {
                refuse(upgrade, denied.status(), denied.what());
            } catch (const std::exception &error) {
                refuse(upgrade, 500, error.what());
            } catch (...) {
                refuse(upgrade, 500, "the hook has failed");
            }
        });
}

inline std::vector<roletalk_string> lend(const std::vector<std::string> &texts) {
    std::vector<roletalk_string> lent;
    for (const std::string &text : texts) lent.push_back(lend(text));
    return lent;
}

} // namespace detail

/// An address that is listened on. Belongs to its peer: destroying this does not close it.
class Listener {
public:
    explicit Listener(roletalk_listener listener) : listener_(listener) {}

    /// What a peer on the same machine can connect to, such as `ws://127.0.0.1:9000`.
    std::string url() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_listener_url(listener_, to, room, len);
        });
    }
    /// Listens with another certificate chain and key (PEM) from now on, and with other client authorities unless
    /// there are none; see roletalk_listener_replace_tls.
    void replace_tls(std::string_view certificates, std::string_view key,
                     std::string_view client_ca = {}) {
        detail::check(roletalk_listener_replace_tls(listener_, detail::lend(certificates),
                                                    detail::lend(key), detail::lend(client_ca)));
    }
    /// Stops listening. Connections that were accepted stay.
    void close() { detail::check(roletalk_listener_close(listener_)); }
    roletalk_listener get() const noexcept { return listener_; }

private:
    roletalk_listener listener_;
};

/// The local node. Closes when it is destroyed: all callbacks have returned then, unless that happens
/// inside one.
class Peer {
public:
    explicit Peer(std::string_view name = {}) {
        roletalk_peer_options options = peer_options();
        options.name = detail::lend(name);
        detail::check(roletalk_peer_new(&options, peer_.out()));
    }
    explicit Peer(const roletalk_peer_options &options) {
        detail::check(roletalk_peer_new(&options, peer_.out()));
    }
    Peer(std::string_view name, const Access &access) {
        roletalk_peer_options options = peer_options();
        options.name = detail::lend(name);
        make(options, access);
    }
    Peer(const roletalk_peer_options &options, const Access &access) { make(options, access); }

    std::string id() const {
        return detail::text([&](char *to, size_t room, size_t *len) {
            return roletalk_peer_id(peer_.get(), to, room, len);
        });
    }
    /// Units that connect from now on see it.
    void set_tag(std::string_view key, std::string_view value) {
        detail::check(roletalk_peer_set_tag(peer_.get(), detail::lend(key), detail::lend(value)));
    }
    /// From the first preshared key on, only peers that share one get in.
    void add_key(std::string_view id, std::string_view key) {
        detail::check(roletalk_peer_add_key(peer_.get(), detail::lend(id), detail::lend(key)));
    }
    void remove_key(std::string_view id) {
        detail::check(roletalk_peer_remove_key(peer_.get(), detail::lend(id)));
    }
    /// Who may call and serve what, from now on, also those who are connected; `std::nullopt`: everyone everything.
    void set_policy(const std::optional<Policy> &policy) {
        detail::check(roletalk_peer_set_policy(peer_.get(), policy ? detail::lend(policy->json())
                                                                   : roletalk_string{}));
    }
    /// Takes the policy from a file, and again after each of its changes. See roletalk_peer_watch_policy.
    void watch_policy(std::string_view path) {
        detail::check(roletalk_peer_watch_policy(peer_.get(), detail::lend(path)));
    }
    /// The connected units.
    std::vector<Unit> units() const {
        return detail::units([&](auto visitor, void *data) {
            return roletalk_peer_each_unit(peer_.get(), visitor, data);
        });
    }
    /// The role of this name: offered at once, or, when it is not `active`, after `enable`.
    Role role(std::string_view name, bool active = true) {
        roletalk_role role;
        detail::check(roletalk_peer_role(peer_.get(), detail::lend(name), active, &role));
        return Role(role);
    }
    Destination destination(std::string_view role) {
        roletalk_destination destination;
        detail::check(roletalk_peer_destination(peer_.get(), detail::lend(role), &destination));
        return Destination(destination);
    }
    /// Listens on an address, such as `127.0.0.1:9000`; port 0 takes a free one.
    Listener listen(std::string_view address,
                    const roletalk_listen_options &options = listen_options()) {
        roletalk_listener listener;
        detail::check(
            roletalk_peer_listen(peer_.get(), detail::lend(address), &options, &listener));
        return Listener(listener);
    }
    /// Serves a connection that the program's own server has accepted; see roletalk_peer_accept_fd.
    void accept_fd(int fd, bool upgraded = false) {
        detail::check(roletalk_peer_accept_fd(peer_.get(), fd, upgraded));
    }
    /// Connects, and waits for the first outcome.
    Unit connect(std::string_view address,
                 const roletalk_connect_options &options = connect_options()) {
        roletalk_unit unit;
        detail::check(roletalk_peer_connect(peer_.get(), detail::lend(address), &options, &unit));
        return Unit(unit);
    }
    /// Connects: `function(Reply)` is called with the first outcome, and the unit if it connected.
    template <class F>
    Operation connect_async(std::string_view address, F function,
                            const roletalk_connect_options &options = connect_options()) {
        roletalk_operation operation;
        detail::check(roletalk_peer_connect_async(peer_.get(), detail::lend(address), &options,
                                                  detail::on_reply(std::move(function)),
                                                  &operation));
        return Operation(operation);
    }
    void disconnect(std::string_view address) {
        detail::check(roletalk_peer_disconnect(peer_.get(), detail::lend(address)));
    }
    /// Reads the files of certificates again; see roletalk_peer_reload_tls.
    void reload_tls() { detail::check(roletalk_peer_reload_tls(peer_.get())); }
    /// Dials an address with other certificates (PEM) from now on; what is empty stays. See roletalk_peer_replace_tls.
    void replace_tls(std::string_view address, std::string_view ca,
                     std::string_view certificates = {}, std::string_view key = {}) {
        detail::check(roletalk_peer_replace_tls(peer_.get(), detail::lend(address),
                                                detail::lend(ca), detail::lend(certificates),
                                                detail::lend(key)));
    }
    /// The earliest expiry of the TLS settings, if that is known; see
    /// roletalk_peer_get_tls_expires.
    std::optional<std::chrono::system_clock::time_point> tls_expires() const {
        uint64_t millis = 0;
        detail::check(roletalk_peer_get_tls_expires(peer_.get(), &millis));
        if (millis == 0) return std::nullopt;
        return std::chrono::system_clock::time_point(
            std::chrono::milliseconds(static_cast<int64_t>(millis)));
    }
    /// Middleware: `function(Context &)`.
    template <class F> void layer(F function) {
        detail::check(roletalk_peer_layer(peer_.get(), detail::on_context(std::move(function))));
    }
    /// `function(const roletalk_event &)` is called for each event until that is canceled or the peer closed.
    template <class F> Operation on_event(F function) {
        auto call = [](void *user_data, const roletalk_event *event) {
            detail::quietly([&] { (*static_cast<F *>(user_data))(*event); });
        };
        roletalk_operation operation;
        detail::check(roletalk_peer_on_event(
            peer_.get(), detail::handler<roletalk_event_handler>(std::move(function), call),
            &operation));
        return Operation(operation);
    }
    roletalk_peer_stats stats() const {
        roletalk_peer_stats stats{};
        stats.struct_size = sizeof stats;
        detail::check(roletalk_peer_get_stats(peer_.get(), &stats));
        return stats;
    }
    /// For ROLETALK_CALLBACKS_POLL.
    int fd() const {
        int fd;
        detail::check(roletalk_peer_fd(peer_.get(), &fd));
        return fd;
    }
    /// For ROLETALK_CALLBACKS_POLL: runs the callbacks that wait. How many pieces of work were done.
    size_t poll(std::chrono::milliseconds limit = std::chrono::milliseconds{0}) {
        size_t count = 0;
        detail::check(roletalk_peer_poll(peer_.get(), limit.count(), &count));
        return count;
    }
    /// Waits for SIGINT or SIGTERM, or until the peer is closed, then drains within the limit. Whether
    /// everything had finished. See roletalk_peer_serve.
    bool serve(std::chrono::milliseconds limit = drain_limit) {
        int32_t finished = 0;
        detail::check(
            roletalk_peer_serve(peer_.get(), static_cast<uint64_t>(limit.count()), &finished));
        peer_.release();
        return finished != 0;
    }
    /// Finishes what runs, then closes. Whether everything had finished.
    bool drain(std::chrono::milliseconds limit) {
        int32_t finished = 0;
        detail::check(
            roletalk_peer_drain(peer_.release(), static_cast<uint64_t>(limit.count()), &finished));
        return finished != 0;
    }
    void close() { detail::check(roletalk_peer_close(peer_.release())); }
    roletalk_peer get() const noexcept { return peer_.get(); }

private:
    void make(roletalk_peer_options options, const Access &access) {
        const auto origins = detail::lend(access.origins);
        const auto headers = detail::lend(access.identity_headers);
        if (access.policy) options.policy = detail::lend(access.policy->json());
        if (!origins.empty()) {
            options.origins = origins.data();
            options.origin_count = origins.size();
        }
        if (!headers.empty()) {
            options.identity_headers = headers.data();
            options.identity_header_count = headers.size();
        }
        if (access.channel_binding)
            options.channel_binding = static_cast<int32_t>(*access.channel_binding);
        if (access.peer_key) options.peer_key = access.peer_key->data();
        // Last, since it is given away.
        if (access.authenticate) options.authenticate = detail::on_upgrade(access.authenticate);
        detail::check(roletalk_peer_new(&options, peer_.out()));
    }

    detail::Handle<roletalk_peer, roletalk_peer_close> peer_;
};

} // namespace roletalk

#endif // ROLETALK_HPP
