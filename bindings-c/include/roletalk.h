/*
 * roletalk: brokerless, peer-to-peer messaging between services, over WebSocket.
 *
 * Made by cbindgen from the sources of bindings-c: do not edit. docs/C-API.md is a guide to it.
 *
 * Names: functions and types begin with roletalk_, constants and macros with ROLETALK_. Then comes what a
 * function works on: roletalk_peer_connect is of a roletalk_peer.
 *
 * Conventions, for all functions:
 *
 * - They return a roletalk_status: ROLETALK_STATUS_OK (0) or why they failed. roletalk_last_error gives a
 *   text for that. A call that fails has changed nothing, unless its description says otherwise. Besides what
 *   descriptions say, every function can return ROLETALK_STATUS_INVALID_HANDLE,
 *   ROLETALK_STATUS_INVALID_ARGUMENT, ROLETALK_STATUS_FORKED and ROLETALK_STATUS_INTERNAL.
 *   Compilers warn where the status of a function with ROLETALK_MUST_USE is ignored.
 * - Handles (roletalk_peer, roletalk_unit, ...) are numbers in a struct, not pointers. Zero is no handle. One
 *   that has ended, or never was one, is an error (ROLETALK_STATUS_INVALID_HANDLE) and nothing worse; so is
 *   ending one twice, also from two threads at the same time.
 * - A handle that the program owns ends in one of two ways. ..._close ends what it stands for, and the
 *   handle: a peer, a listener, a survey, either end of a stream. ..._free ends the handle only: a unit stays
 *   connected, an operation goes on. Two other functions close as well: ..._abort tells the other end of a
 *   stream why, roletalk_peer_drain lets a peer finish first. A context ends with its answer, an upgrade
 *   when it is judged. Roles and destinations end with their peer, which owns them.
 * - Every function may be called from any thread, and inside callbacks, closing and freeing included,
 *   unless its description says otherwise.
 * - Calls that wait return ROLETALK_STATUS_WOULD_DEADLOCK inside a callback of ROLETALK_CALLBACKS_INLINE,
 *   unless they are told not to wait. Inside other callbacks they wait, and hold up the further callbacks of
 *   that peer: what one of those would have to do first does not come.
 * - Strings and payloads are a pointer and a length, in both directions; there is no zero at the end.
 *   What a program passes in is copied before the call returns. A pointer must point to as many
 *   readable (or writable) bytes as the length says: that, no library can check. NULL where something
 *   is needed, and lengths and structs that cannot be, are errors.
 * - Structs that begin with struct_size: set it to the sizeof, and the rest to zero before use, as in
 *   roletalk_peer_options options = {.struct_size = sizeof options}. So older programs work with newer
 *   libraries.
 *   Structs that the library passes to callbacks have it set: fields behind it are not there.
 * - Callbacks are a function with user_data and drop. The function is called where the peer's
 *   callbacks run (roletalk_peer_options.callbacks); those of one peer never run at the same time. But
 *   a function that chooses (roletalk_choose_handler) is called on whichever thread sends. drop is
 *   called exactly once, after the last call, also when the function that got the callback fails; on
 *   the thread of the callbacks, or on the one that calls that function or roletalk_peer_close. No lock of
 *   the library's is held during either. They must return: a C++ exception that
 *   leaves one aborts the process. roletalk.hpp catches those of its handlers.
 * - Pointers that a callback gets are valid until it returns, unless it is said otherwise.
 * - What a handler was called for may be canceled: the requester gives up, its time is up, or it is gone.
 *   roletalk_context_on_cancel and roletalk_context_cancel_reason tell. Canceling is a hint: the handler goes
 *   on, the context is still to be answered, and nobody hears of the answer. What a handler sends inherits nothing
 *   of it by itself: name its context as roletalk_send_options.parent. Peers of other implementations neither
 *   tell of this nor are told.
 * - In the child of a fork everything but roletalk_peer_new returns ROLETALK_STATUS_FORKED, and so do the
 *   parent's handles after that. A child that is forked inside a callback must not return from it.
 * - The library sets no signal handler (but for roletalk_peer_serve, while it waits), raises no SIGPIPE and
 *   does nothing at exit. dlclose leaves it loaded: its threads end with the peers, and with
 *   roletalk_log(ROLETALK_LOG_OFF).
 */

#ifndef ROLETALK_H
#define ROLETALK_H



#include <stddef.h>
#include <stdint.h>

/// At functions whose status must not be ignored: nothing else tells that they have given nothing out, or
/// have done nothing.
#ifndef ROLETALK_MUST_USE
#if defined(__cplusplus) && __cplusplus >= 201703L
#define ROLETALK_MUST_USE [[nodiscard]]
#elif defined(__GNUC__)
#define ROLETALK_MUST_USE __attribute__((warn_unused_result))
#else
#define ROLETALK_MUST_USE
#endif
#endif


/// The version of the ABI that this header describes; the number in the soname.
#define ROLETALK_ABI_VERSION 0

/// Milliseconds that a peer drains after a signal, unless the program has a reason for another time.
#define ROLETALK_DRAIN_LIMIT_MS 10000

/// Callbacks of the dispatch thread may block: heartbeats and other traffic go on meanwhile.
#define ROLETALK_CALLBACKS_THREAD 0

/// Callbacks run right on the thread that does the peer's input and output: the fastest way, for
/// callbacks that never wait. Blocking calls return ROLETALK_STATUS_WOULD_DEADLOCK there.
#define ROLETALK_CALLBACKS_INLINE 1

/// Callbacks run only inside roletalk_peer_poll, which the program calls when roletalk_peer_fd is readable.
#define ROLETALK_CALLBACKS_POLL 2

/// What the other side names must be this connection. One that names nothing, such as an original, is answered, too.
#define ROLETALK_CHANNEL_BINDING_PREFER 0

/// Nothing is named nor compared: for proxies that end TLS with another certificate.
#define ROLETALK_CHANNEL_BINDING_DISABLE 1

/// Keys are proved only to those that name this connection.
#define ROLETALK_CHANNEL_BINDING_REQUIRE 2

/// One unit after the other, but instead of one another that is drawn by lot where that is clearly better: has
/// fewer requests to answer, or is to answer in less than half of the time.
#define ROLETALK_BALANCE_LEAST_LOADED 0

/// One unit after the other.
#define ROLETALK_BALANCE_ROUND_ROBIN 1

/// For roletalk_retry_options.budget: no further requests but those that are saved up at first.
#define ROLETALK_RETRY_NO_BUDGET -1.0

/// Somebody waits for the answer.
#define ROLETALK_CANCEL_NONE 0

/// The requester has given up.
#define ROLETALK_CANCEL_REQUESTER 1

/// The requester's time is up.
#define ROLETALK_CANCEL_DEADLINE 2

/// The unit is gone.
#define ROLETALK_CANCEL_UNIT_LOST 3

/// A unit connected.
#define ROLETALK_EVENT_UNIT_OPENED 1

/// A unit's last connection closed.
#define ROLETALK_EVENT_UNIT_CLOSED 2

/// The first unit that serves a destination's role is there.
#define ROLETALK_EVENT_DESTINATION_OPENED 3

/// No unit serves a destination's role any more.
#define ROLETALK_EVENT_DESTINATION_CLOSED 4

/// A unit serves a destination's role from now on.
#define ROLETALK_EVENT_DESTINATION_GAINED 5

/// A unit serves a destination's role no longer.
#define ROLETALK_EVENT_DESTINATION_LOST 6

/// A handshake was refused, by this side or the other: `text` says why.
#define ROLETALK_EVENT_AUTH_REFUSED 7

/// An address that was lost, or never reached, is connected now, after `count` failures.
#define ROLETALK_EVENT_RECONNECT_SUCCEEDED 8

/// An address was dialed again in vain. It is tried further.
#define ROLETALK_EVENT_RECONNECT_FAILED 9

/// A connection closed: `status` and `text` say why. `unit` is none before the handshake was done.
#define ROLETALK_EVENT_CONNECTION_CLOSED 10

/// Something came that the protocol does not allow; that one connection is closed.
#define ROLETALK_EVENT_BAD_INPUT 11

/// A unit takes no data although `queued` bytes wait for it, or sends more than the handlers can do:
/// `count` messages and requests were dropped or rejected so far.
#define ROLETALK_EVENT_SLOW_CONSUMER 12

/// The handler of a message failed, or that of a stream after it had accepted it: `role` and `event` say
/// which, `text` is what it rejected with.
#define ROLETALK_EVENT_HANDLER_FAILED 13

/// This subscriber was too slow and has missed `count` events.
#define ROLETALK_EVENT_MISSED 14

/// A unit keeps failing, so the destination of `role` leaves it out for a while (roletalk_balance.eject). Reported at
/// the next choice of a unit.
#define ROLETALK_EVENT_UNIT_EJECTED 15

/// A unit that was left out has recovered. Reported at the next choice of a unit.
#define ROLETALK_EVENT_UNIT_RESTORED 16

/// A unit has made a call, or announced a role, that the policy does not allow: `what`, `role` and `event` describe it,
/// `count` is the number of denials since the last report, and `text` has all of this. Denied calls are reported at
/// most once a second for each unit.
#define ROLETALK_EVENT_DENIED 17

/// The file of the policy, `path`, has changed, and what is in it is in force.
#define ROLETALK_EVENT_POLICY_LOADED 18

/// The file of the policy, `path`, has changed, and cannot be used: `text` says why, and the policy before stays in force.
#define ROLETALK_EVENT_POLICY_FAILED 19

/// Certificates that the peer listens or dials with have changed, through their files or a call. `expires_ms` is when
/// they expire. Several changes in quick succession may be reported as one.
#define ROLETALK_EVENT_TLS_RELOADED 20

/// Files of certificates that are watched have changed, and cannot be used: `text` says which and why. What was in
/// force stays. Told once for each change.
#define ROLETALK_EVENT_TLS_RELOAD_FAILED 21

/// Connections could not be accepted for want of file descriptors or memory, or unauthenticated connections were
/// evicted (roletalk_limits.handshakes): `status`, `text` and `hint` say what is lacking. The peer goes on accepting
/// as soon as it can. Reported at most once a second for each of the two.
#define ROLETALK_EVENT_ACCEPT_FAILED 22

/// No diagnostics.
#define ROLETALK_LOG_OFF 0

/// What is broken.
#define ROLETALK_LOG_ERROR 1

/// What should be looked at: refused authentication and TLS, with the remote address and the reason, bad input,
/// failed handlers, slow consumers.
#define ROLETALK_LOG_WARN 2

/// Listening, units that connect and disconnect, draining.
#define ROLETALK_LOG_INFO 3

/// Connections of strangers, addresses that are dialed in vain, and messages that have no handler.
#define ROLETALK_LOG_DEBUG 4

/// Everything.
#define ROLETALK_LOG_TRACE 5

/// Bytes.
#define ROLETALK_DATA_BINARY 0

/// Nothing.
#define ROLETALK_DATA_NULL 1

/// One byte, 0 or 1.
#define ROLETALK_DATA_BOOLEAN 2

/// UTF-8.
#define ROLETALK_DATA_TEXT 3

/// A number as text, as JavaScript prints it.
#define ROLETALK_DATA_NUMBER 4

/// JSON.
#define ROLETALK_DATA_JSON 5

/// What a roletalk_choose_handler returns when none of the candidates will do.
#define ROLETALK_CHOOSE_NONE -1

/// What a roletalk_choose_handler returns when it has failed.
#define ROLETALK_CHOOSE_FAILED -2

/// What a handler is for, from its own side. A message: nobody waits for an answer.
#define ROLETALK_KIND_MESSAGE 1

/// A request: the handler answers.
#define ROLETALK_KIND_REQUEST 2

/// A stream that this peer reads: another one asked for a writable.
#define ROLETALK_KIND_READABLE 3

/// A stream that this peer writes: another one asked for a readable.
#define ROLETALK_KIND_WRITABLE 4

/// What a call returns. Numbers never change their meaning; later versions may have further ones, so take
/// what is not known for a failure.
typedef enum {
    /// It worked.
    ROLETALK_STATUS_OK = 0,
    /// An argument is not usable: NULL where something is needed, a name that is too long or not UTF-8,
    /// an address that does not parse, a `struct_size` that no version knows.
    ROLETALK_STATUS_INVALID_ARGUMENT = 1,
    /// The peer was closed, or is draining and takes no new work.
    ROLETALK_STATUS_CLOSED = 2,
    /// No connected unit serves the role.
    ROLETALK_STATUS_NO_UNIT = 3,
    /// It did not come in time.
    ROLETALK_STATUS_TIMEOUT = 4,
    /// The remote peer rejected the request or refused the stream.
    ROLETALK_STATUS_REJECTED = 5,
    /// The unit's last connection, or the stream's connection, was lost.
    ROLETALK_STATUS_CONNECTION_LOST = 6,
    /// A bound was reached: queued bytes, waiting requests, open streams, units.
    ROLETALK_STATUS_OVERLOADED = 7,
    /// The message is larger than the limit, or the buffer is smaller than the text.
    ROLETALK_STATUS_TOO_LARGE = 8,
    /// One side did not accept the other's preshared key, or broke the handshake.
    ROLETALK_STATUS_AUTH_REFUSED = 9,
    /// The address could not be dialed: name, TCP, TLS or upgrade.
    ROLETALK_STATUS_CONNECT_FAILED = 10,
    /// The remote peer sent something that the protocol does not allow.
    ROLETALK_STATUS_PROTOCOL = 11,
    /// The stream was ended, or broken off by the other end.
    ROLETALK_STATUS_STREAM_CLOSED = 12,
    /// A payload is not of the type that it says, or not of the one that was asked for.
    ROLETALK_STATUS_DATA = 13,
    /// An operation of the operating system failed.
    ROLETALK_STATUS_IO = 14,
    /// Certificates, keys or TLS settings are not usable.
    ROLETALK_STATUS_TLS = 15,
    /// A handler panicked. Handlers of C programs do not; only events of peers in Rust tell of it.
    ROLETALK_STATUS_HANDLER_PANICKED = 16,
    /// A handler rejected a message, or a stream after it had accepted it.
    ROLETALK_STATUS_HANDLER_FAILED = 17,
    /// The remote peer did not answer a ping in time.
    ROLETALK_STATUS_HEARTBEAT_TIMEOUT = 18,
    /// The unit does not take what is required, such as headers.
    ROLETALK_STATUS_UNSUPPORTED = 19,
    /// It was given up with its parent (roletalk_send_options.parent), for whose answer nobody waits any more.
    /// `CANCELLED` in other languages. What the program cancels itself is ROLETALK_STATUS_CANCELED.
    ROLETALK_STATUS_PARENT_CANCELED = 20,
    /// Nothing more comes: the end of a stream or of a survey.
    ROLETALK_STATUS_END = 100,
    /// Nothing can be done without waiting, and the caller did not want to wait.
    ROLETALK_STATUS_WOULD_BLOCK = 101,
    /// The handle is zero, of another kind, was closed or freed, or is valid only inside the callback that
    /// it was given to.
    ROLETALK_STATUS_INVALID_HANDLE = 102,
    /// The call would wait for something that cannot happen while its caller waits.
    ROLETALK_STATUS_WOULD_DEADLOCK = 103,
    /// The process is the child of a fork, and the handle is of the parent.
    ROLETALK_STATUS_FORKED = 104,
    /// The program has canceled the operation, or it has ended with its peer.
    ROLETALK_STATUS_CANCELED = 105,
    /// A bug of the library. It caught itself; what the call was about may be lost.
    ROLETALK_STATUS_INTERNAL = 106,
} roletalk_status;

/// Text: UTF-8 with its length in bytes, without a zero at the end. `data` may be NULL when `len` is 0.
/// Make one of a literal with ROLETALK_STR("text"), print one with printf("%.*s", ROLETALK_ARG(string)).
typedef struct {
    /// The first byte.
    const char *data;
    /// How many bytes.
    size_t len;
} roletalk_string;

/// Key and value: a tag, a header, a preshared key with its id.
typedef struct {
    /// The key.
    roletalk_string key;
    /// The value.
    roletalk_string value;
} roletalk_pair;

/// Bounds on what a peer holds and how long it waits. 0 stands for the default.
typedef struct {
    /// sizeof(roletalk_limits).
    size_t struct_size;
    /// Bytes of one message, sent or received. Default 100 MiB. Sending more is
    /// ROLETALK_STATUS_TOO_LARGE; receiving more closes the connection.
    uint64_t message_size;
    /// Bytes of one message before the connection is authenticated. Default 1 MiB.
    uint64_t handshake_message_size;
    /// Bytes of the HTTP head of an upgrade. Default 16 KiB.
    uint64_t upgrade_size;
    /// Milliseconds for TLS, the upgrade and the handshake together, from accept on. Default 4 000.
    uint64_t handshake_timeout_ms;
    /// Unauthenticated connections: accepted, and not through the handshake. Default 1 024, and at most a quarter of
    /// the process's limit on file descriptors. Beyond it, the oldest one of the address that has the most is evicted.
    uint64_t handshakes;
    /// Connected units. Default 65 536; the handshake of a further one is refused.
    uint64_t units;
    /// Connections of one unit. Default 16; the handshake of a further one is refused.
    uint64_t connections_per_unit;
    /// Requests to one unit that wait for an answer. Default 65 536; further ones are
    /// ROLETALK_STATUS_OVERLOADED.
    uint64_t waiting_requests;
    /// Requests and messages of one unit whose handlers are running or wait for their turn, also for the
    /// dispatch thread and for roletalk_peer_poll, deferred contexts included. Default 65 536; further
    /// ones wait. If no handler ends for a second, requests are rejected and messages dropped, counted
    /// and reported.
    uint64_t running_handlers;
    /// Bytes that wait to be written to one connection. Default 1 MiB; at the bound, sending waits.
    uint64_t queue_per_connection;
    /// Bytes that wait to be written to all connections. Default 256 MiB; as above. As many again may be
    /// kept for what was asked without waiting and has to wait for room; beyond that such calls are
    /// ROLETALK_STATUS_OVERLOADED. Answers queued for one unit take at most a 32nd of it. Up to 32 MiB of further
    /// ones may wait behind these; then the unit's requests wait, and are rejected after a second.
    uint64_t queue_per_peer;
    /// Open streams with one unit. Default 4 096; further ones are ROLETALK_STATUS_OVERLOADED.
    uint64_t streams;
    /// Bytes of one stream that are held unread. Default 1 MiB.
    uint64_t stream_window;
    /// Bytes of one stream that are held unread when the sender does not keep to its quota, as the
    /// originals may. Default 16 MiB; over it the stream is broken off.
    uint64_t stream_overrun;
    /// Milliseconds for an answer, when the request does not say. Default 300 000.
    uint64_t request_timeout_ms;
    /// Addresses learned by acquaintance that are being dialed at the same time. Default 16.
    uint64_t acquaintance_dials;
    /// Addresses learned by acquaintance that are remembered. Default 1 024.
    uint64_t acquaintance_addresses;
    /// Milliseconds that an address learned by acquaintance is tried in vain. Default 120 000.
    uint64_t acquaintance_patience_ms;
    /// Bytes that the running handlers of one unit were called with, deferred contexts and what waits for
    /// the dispatch thread or roletalk_peer_poll included. Default 256 MiB; the bound as for
    /// running_handlers. What comes with the same read may go over.
    uint64_t running_bytes;
    /// Bytes that all streams of a unit hold unread beyond their windows. Default 256 MiB; a stream that
    /// would need more is broken off.
    uint64_t overrun_per_unit;
    /// Bytes that wait to be written to one connection and that the other side has caused itself (pongs,
    /// rejections, answers to streams). Default 1 MiB, and never more than queue_per_connection. At the
    /// bound nothing is read from the connection until the other side has read some of that.
    uint64_t owed_per_connection;
    /// Dials of addresses learned by acquaintance in a minute. Default 600; further ones wait.
    uint64_t acquaintance_dials_per_minute;
    /// Addresses learned from one unit that are remembered while there is no connection to them. Default 256;
    /// further ones are ignored.
    uint64_t acquaintance_addresses_per_unit;
    /// Unauthenticated connections from one IPv4 address or one IPv6 network (/64). Default 1 024. Beyond it, the oldest
    /// one from there is evicted.
    uint64_t handshakes_per_address;
    /// Maximum age of a connection that was dialed and not with `once`, in milliseconds. It is then replaced by a new one
    /// to the same address, so that changed certificates and keys take effect; nothing is lost. The actual age is up to a
    /// tenth less, at random. Needs room for two connections (`connections_per_unit`, also that of the other side).
    /// Default: never.
    uint64_t connection_age_ms;
} roletalk_limits;

/// How to connect. All zero but the size: dial again whenever the connection is lost, verify
/// certificates against the system's roots.
typedef struct {
    /// sizeof(roletalk_connect_options).
    size_t struct_size;
    /// Not 0: connect once; a failure or a loss is final.
    int32_t once;
    /// Not 0: accept any certificate. Whoever can reach the wire can then read and change everything:
    /// only for tests.
    int32_t danger_accept_any_certificate;
    /// Milliseconds for name lookup, TCP and TLS together. 0 stands for 10 000.
    uint64_t timeout_ms;
    /// Headers for the upgrade, such as Authorization.
    const roletalk_pair *headers;
    /// How many headers.
    size_t header_count;
    /// PEM: authorities to trust instead of the system's.
    roletalk_string tls_ca;
    /// PEM: the certificate chain to show, leaf first, with `tls_key`.
    roletalk_string tls_certificates;
    /// PEM: the private key of `tls_certificates`.
    roletalk_string tls_key;
    /// The name to expect in the certificate instead of the address's host.
    roletalk_string tls_server_name;
    /// The file of the authorities (PEM), instead of `tls_ca`. Files can change: roletalk_peer_reload_tls, `tls_watch_ms`.
    roletalk_string tls_ca_file;
    /// The file of the certificate chain (PEM), instead of `tls_certificates`.
    roletalk_string tls_certificates_file;
    /// The file of its key (PEM), instead of `tls_key`.
    roletalk_string tls_key_file;
    /// Milliseconds between two looks at the files, as in roletalk_listen_options. 0: they are not watched.
    uint64_t tls_watch_ms;
} roletalk_connect_options;

/// A function that chooses a unit. Made by roletalk_chooser_new, freed by roletalk_chooser_free.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_chooser;

/// When a unit that keeps failing is left out for a while. Never more than half of those that serve a role are. It is
/// asked again, once, when its time is over: if that fails, too, it is left out for twice as long, otherwise it is as
/// good as any. All zero but the size: the defaults.
typedef struct {
    /// sizeof(roletalk_ejection).
    size_t struct_size;
    /// So many requests in a row that fail; 0 stands for 5. A request fails when it is not answered within its time.
    uint32_t failures;
    /// Not 0: rejections are failures, too: by handlers, for want of a handler, or because the unit is overloaded.
    /// Otherwise they are not, since a handler may reject what is wrong with the request.
    int32_t rejections;
    /// Milliseconds that the unit is left out at first. 0 stands for 5 000.
    uint64_t time_ms;
    /// Milliseconds that it is left out at most. 0 stands for 60 000, or for `time_ms` if that is longer.
    uint64_t most_ms;
} roletalk_ejection;

/// How a unit is chosen among those that serve a role. All zero but the size: by load.
typedef struct {
    /// sizeof(roletalk_balance).
    size_t struct_size;
    /// ROLETALK_BALANCE_LEAST_LOADED or ROLETALK_BALANCE_ROUND_ROBIN.
    int32_t by;
    /// Tags: only among units that have all of them, such as those in the same zone, as long as one of these can be
    /// asked; among all others otherwise.
    const roletalk_pair *prefer;
    /// How many tags.
    size_t prefer_count;
    /// A function that chooses, in the place of `by`; zero for none.
    roletalk_chooser chooser;
    /// When a unit that keeps failing is left out for a while; NULL: never.
    const roletalk_ejection *eject;
} roletalk_balance;

/// A request for an upgrade, which the program is to judge. Ended by roletalk_upgrade_allow, roletalk_upgrade_deny or
/// roletalk_upgrade_free, and when the time for the handshake is over.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_upgrade;

/// Ends the life of `user_data`. NULL where nothing has to be done.
typedef void (*roletalk_drop)(void *user_data);

/// Called for each upgrade that this peer is asked for, before it is answered, where the peer's callbacks run.
typedef struct {
    /// The function. It judges `upgrade` once, at once or later from any thread: with roletalk_upgrade_allow,
    /// roletalk_upgrade_deny or roletalk_upgrade_free. The handle also ends when the time for the handshake
    /// (roletalk_limits.handshake_timeout_ms) is over: then the upgrade is refused with 503.
    void (*call)(void *user_data, roletalk_upgrade upgrade);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_authenticate_handler;

/// How to make a peer. All zero but the size: no name, no keys, friendly, callbacks on a thread of the
/// library's.
typedef struct {
    /// sizeof(roletalk_peer_options).
    size_t struct_size;
    /// The name shown to others.
    roletalk_string name;
    /// Static tags shown to others.
    const roletalk_pair *tags;
    /// How many tags.
    size_t tag_count;
    /// Preshared keys, id and key: only peers that share one get in. Offered in this order.
    const roletalk_pair *keys;
    /// How many keys.
    size_t key_count;
    /// Not 0: takes no part in acquaintance.
    int32_t unfriendly;
    /// Where callbacks run: ROLETALK_CALLBACKS_THREAD, ROLETALK_CALLBACKS_INLINE or ROLETALK_CALLBACKS_POLL.
    int32_t callbacks;
    /// Bounds; NULL for the defaults.
    const roletalk_limits *limits;
    /// Milliseconds between two attempts to reach a lost address, at most. 0 stands for 60 000.
    uint64_t reconnect_cap_ms;
    /// The share of each wait that is random, from 0 to 1.
    double reconnect_jitter;
    /// How to connect to the addresses that other units tell; NULL for the defaults.
    const roletalk_connect_options *acquaintance;
    /// How destinations choose among the units that serve their role, unless they say it themselves
    /// (roletalk_destination_set_balance); NULL for the least loaded unit.
    const roletalk_balance *balance;
    /// Who may call and serve what, as JSON (docs/POLICY.md); NULL: everyone everything. See roletalk_peer_set_policy.
    roletalk_string policy;
    /// Origins whose pages may connect, such as `https://app.example.org`; `*` lets all. Upgrades with any other
    /// `Origin` are refused with 403: browsers send one, others do not, and a page that somebody opens on this machine
    /// could reach this peer.
    const roletalk_string *origins;
    /// How many origins.
    size_t origin_count;
    /// Headers of upgrades that are kept as part of the identity (roletalk_unit_identity), at most 8 KiB in all. Whoever
    /// dials chooses what is in them, unless a proxy does.
    const roletalk_string *identity_headers;
    /// How many such headers.
    size_t identity_header_count;
    /// Judges each upgrade on connections from this peer's listeners and roletalk_peer_accept_fd. All zero: no
    /// judgement; everyone with the keys gets in. `drop` is also called when roletalk_peer_new fails, unless it cannot
    /// read these options (`struct_size`).
    roletalk_authenticate_handler authenticate;
    /// Whether proofs of preshared keys are bound to TLS connections, so that nobody can relay them:
    /// ROLETALK_CHANNEL_BINDING_PREFER, ROLETALK_CHANNEL_BINDING_DISABLE or ROLETALK_CHANNEL_BINDING_REQUIRE.
    int32_t channel_binding;
    /// The peer's own key: 32 random bytes, to be kept secret like other private keys; NULL for none. The peer's id
    /// begins with the name of the key. Over TLS nobody else can claim that id, and after a restart others recognize
    /// the peer by the name (roletalk_identity.peer), also in their policies.
    const uint8_t *peer_key;
    /// The networks in which addresses from other units are dialed, separated by commas: `public`, `private`,
    /// `loopback`, `link_local`, blocks such as `10.0.0.0/8`, or `near`, which stands for loopback and private
    /// addresses from units that have such an address themselves. Empty stands for `public, near`. Addresses that the
    /// program connects to are not filtered.
    roletalk_string acquaintance_networks;
    /// The ports of these addresses, separated by commas: numbers, ranges such as `9000-9100`, or `any`. Empty stands
    /// for `80, 443, 1024-65535`: below that are mail, name servers and the like.
    roletalk_string acquaintance_ports;
} roletalk_peer_options;

/// The local node. Made by roletalk_peer_new, closed by roletalk_peer_close.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_peer;

/// A service that a peer offers. Belongs to its peer and is valid until that is closed.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_role;

/// A role as offered by units. Belongs to its peer and is valid until that is closed.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_destination;

/// A connected remote peer. Callbacks borrow it: keep it with roletalk_unit_clone, and free that with
/// roletalk_unit_free.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_unit;

/// Called for each unit, on the caller's thread. The unit is borrowed.
typedef void (*roletalk_unit_visitor)(void *user_data, roletalk_unit unit);

/// A payload: its type, and its bytes as they are on the wire. Make one with roletalk_data_null,
/// roletalk_data_boolean, roletalk_data_text, roletalk_data_binary, roletalk_data_json and
/// roletalk_data_number; read one with its bytes and roletalk_data_as_bool, roletalk_data_as_double,
/// roletalk_data_as_int64, roletalk_data_as_uint64.
typedef struct {
    /// ROLETALK_DATA_BINARY and so on. Other numbers may come from peers of later versions: read those as
    /// null.
    int32_t kind;
    /// How many bytes.
    size_t len;
    /// The first byte; may be NULL when `len` is 0. Text and JSON have no zero at the end.
    const void *bytes;
} roletalk_data;

/// What a handler is to answer. Valid inside the handler; roletalk_context_defer makes one that is valid
/// until it is answered.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_context;

/// What came for a handler. Valid until the handler returns, also when it answers before.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// ROLETALK_KIND_MESSAGE, ROLETALK_KIND_REQUEST, ROLETALK_KIND_READABLE or ROLETALK_KIND_WRITABLE.
    int32_t kind;
    /// The role that it is addressed to.
    roletalk_string role;
    /// The name of the action; may be empty.
    roletalk_string event;
    /// The payload.
    roletalk_data data;
    /// The unit that sent it, borrowed.
    roletalk_unit unit;
    /// What to answer.
    roletalk_context context;
} roletalk_incoming;

/// Called for what comes, where the peer's callbacks run. Messages of one unit come in their order.
///
/// A request or a stream that the handler neither answers nor defers is rejected when it returns.
/// Middleware that neither answers nor defers passes it on.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_incoming *incoming);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_incoming_handler;

/// Counters of a peer. Set `struct_size` before.
typedef struct {
    /// sizeof(roletalk_peer_stats).
    size_t struct_size;
    /// Connected units.
    uint64_t units;
    /// Accepted connections whose handshake is under way.
    uint64_t handshakes;
    /// Bytes that wait to be written on all connections.
    uint64_t queued;
    /// Addresses that were connected again after a loss, or after failures.
    uint64_t reconnects;
    /// Addresses that units have told and that were not dialed (`acquaintance_networks` of roletalk_peer_options). One
    /// whose name resolves to such addresses counts for each attempt.
    uint64_t addresses_ignored;
} roletalk_peer_stats;

/// How to listen. All zero but the size: plain TCP, any path.
typedef struct {
    /// sizeof(roletalk_listen_options).
    size_t struct_size;
    /// Serve only upgrades to this path, such as `/rt`; others get 400.
    roletalk_string path;
    /// PEM: serve TLS (`wss`) with this certificate chain, leaf first, and `tls_key`.
    roletalk_string tls_certificates;
    /// PEM: the private key of `tls_certificates`.
    roletalk_string tls_key;
    /// PEM: only clients with a certificate that one of these authorities has signed get in.
    roletalk_string tls_client_ca;
    /// The file of the certificate chain (PEM), instead of `tls_certificates`, with `tls_key_file` and, if wanted,
    /// `tls_client_ca_file`. Files can change: roletalk_peer_reload_tls, `tls_watch_ms`.
    roletalk_string tls_certificates_file;
    /// The file of its key (PEM), instead of `tls_key`.
    roletalk_string tls_key_file;
    /// The file of the client authorities (PEM), instead of `tls_client_ca`.
    roletalk_string tls_client_ca_file;
    /// Milliseconds between two checks of the files; 0: they are not watched. Changed files are loaded
    /// (ROLETALK_EVENT_TLS_RELOADED). Unusable ones change nothing, and are reported once for each change, when a
    /// second check, after at most a second, finds the same fault (ROLETALK_EVENT_TLS_RELOAD_FAILED).
    uint64_t tls_watch_ms;
} roletalk_listen_options;

/// An address that is listened on. Closed by roletalk_listener_close, and with its peer.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_listener;

/// A header: what goes with a message, a request, a stream or an answer besides its payload.
typedef struct {
    /// Up to 128 characters of `a` to `z`, digits, `-`, `_` and `.`; not beginning with `rt-`.
    roletalk_string name;
    /// Text or bytes: ROLETALK_DATA_TEXT or ROLETALK_DATA_BINARY.
    roletalk_data value;
} roletalk_header;

/// The end of an operation. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// ROLETALK_STATUS_OK, or why there is no answer.
    roletalk_status status;
    /// The answer's payload; null if there is none.
    roletalk_data data;
    /// The text that belongs to `status`, such as the reason of a rejection.
    roletalk_string error;
    /// The unit that answered, borrowed; none when it is not known.
    roletalk_unit unit;
    /// For surveys: how many more answers will come.
    size_t remaining;
    /// What there is to know besides `error`, and what to try; may be empty.
    roletalk_string hint;
    /// The headers of the answer, in the order in which its handler has added them. See roletalk_header_value.
    const roletalk_header *headers;
    /// How many headers.
    size_t header_count;
    /// The name that the handler has given its failure (roletalk_failure.code); may be empty.
    roletalk_string error_code;
    /// What the handler has added to its failure (roletalk_failure.data): JSON; may be empty.
    roletalk_string error_data;
    /// After how many milliseconds, says the handler, it is worth trying again; -1 when it says nothing.
    int64_t retry_after_ms;
    /// Whether the other side has said that it has begun no handler, so that surely nothing was done: 1 or 0,
    /// which says nothing.
    int32_t unhandled;
} roletalk_reply;

/// Called with the end of an operation, where the peer's callbacks run.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_reply *reply);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_reply_handler;

/// Something under way that will call back. Freed by roletalk_operation_free, which does not end it.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_operation;

/// A unit that can be asked. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// The remote peer's id.
    roletalk_string id;
    /// Its name; may be empty.
    roletalk_string name;
    /// Its tags.
    const roletalk_pair *tags;
    /// How many tags.
    size_t tag_count;
    /// Requests that wait for its answer.
    uint64_t waiting;
    /// Microseconds that an answer is likely to take, by what its answers have taken and how long it has been silent;
    /// 0 when nothing is known.
    int64_t answer_time_us;
} roletalk_candidate;

/// Called to choose a unit. Unlike other callbacks it is called on whichever thread sends, or sends again what
/// a unit has not begun, and on several at the same time. It must return soon. Calls that wait return
/// ROLETALK_STATUS_WOULD_DEADLOCK inside, as in callbacks of ROLETALK_CALLBACKS_INLINE; everything else may be
/// called, sending and closing included. A context that is not deferred is not valid inside.
typedef struct {
    /// The function; not NULL. `candidates` points to `count` pointers, at least one: to those that can be asked, in
    /// the order in which they were found. It returns the place of one of them, counted from 0.
    /// ROLETALK_CHOOSE_NONE, or a place that there is not, means that none of them will do: then it is as if no unit
    /// served the role. ROLETALK_CHOOSE_FAILED ends at once what is sent, also what waits for a unit, goes on to
    /// another or is made again, with ROLETALK_STATUS_INVALID_ARGUMENT.
    int64_t (*call)(void *user_data, const roletalk_candidate *const *candidates, size_t count);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_choose_handler;

/// How requests that may be handled more than once are retried. All zero but the size: three attempts, a backoff of
/// 25 ms, a budget of 0.1, and no hedging.
typedef struct {
    /// sizeof(roletalk_retry_options).
    size_t struct_size;
    /// The most attempts, hedges included; 0 stands for 3. 1: no retry, for example for one request to a destination
    /// with a retry.
    uint32_t attempts;
    /// Milliseconds before the second attempt; 0 stands for 25. They double with each further attempt, and up to half
    /// of them is taken off at random. A longer time that the other side asks for (roletalk_failure.retry_after_ms)
    /// is kept to.
    uint64_t backoff_ms;
    /// The longest backoff in milliseconds; 0 stands for 1 000. Never less than `backoff_ms`.
    uint64_t longest_ms;
    /// Further attempts for each request, from 0 to 1; 0 stands for 0.1, ROLETALK_RETRY_NO_BUDGET for none. Unused
    /// attempts are saved up to ten, and a new retry starts with ten.
    double budget;
    /// Milliseconds without an answer after which a second attempt is made at another unit. The first answer counts,
    /// and the other attempt is canceled. 0: no hedging by time.
    uint64_t hedge_after_ms;
    /// The same after this quantile of all answer times, from 0 to 1: 0.95 hedges the slowest twentieth. There are no
    /// hedges before a hundred answers are known. 0: no hedging by quantile. Set only one of the two.
    double hedge_quantile;
} roletalk_retry_options;

/// How requests are made again. Made by roletalk_retry_new, freed by roletalk_retry_free.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_retry;

/// What was done with a retry. Set `struct_size` before.
typedef struct {
    /// sizeof(roletalk_retry_stats).
    size_t struct_size;
    /// Requests that were made again after a failure.
    uint64_t retried;
    /// Requests that were made besides one that was slow.
    uint64_t hedged;
    /// Requests that were not made again because the account was empty.
    uint64_t refused;
} roletalk_retry_stats;

/// How a handler is to be treated. All zero but the size: as roletalk_role_handle does.
typedef struct {
    /// sizeof(roletalk_handler_options).
    size_t struct_size;
    /// Not 0: it is never canceled, and neither are requests whose parent it is. For what is to be done to its end,
    /// whether or not the requester still waits.
    int32_t detached;
} roletalk_handler_options;

/// How a handler fails. All but the reason may be zero.
typedef struct {
    /// sizeof(roletalk_failure).
    size_t struct_size;
    /// A text for people.
    roletalk_string reason;
    /// A name for programs, such as `NOT_FOUND`.
    roletalk_string code;
    /// What belongs to it, as JSON.
    roletalk_string data;
    /// After how many milliseconds it is worth trying again; 0 or less says nothing of that.
    int64_t retry_after_ms;
} roletalk_failure;

/// The reading end of a stream. Closed by roletalk_readable_close.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_readable;

/// The writing end of a stream. Closed by roletalk_writable_close.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_writable;

/// How something that middleware has passed on was answered. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// ROLETALK_STATUS_OK, or ROLETALK_STATUS_HANDLER_FAILED when it was rejected.
    roletalk_status status;
    /// The answer, when it was not rejected.
    roletalk_data data;
    /// Why it was rejected.
    roletalk_string error;
    /// roletalk_context_respond, roletalk_context_reject and roletalk_context_reject_with replace the outcome.
    roletalk_context context;
    /// The name that the handler has given its failure (roletalk_failure.code); may be empty.
    roletalk_string error_code;
    /// What the handler has added to its failure (roletalk_failure.data): JSON; may be empty.
    roletalk_string error_data;
    /// After how many milliseconds, says the handler, it is worth trying again; -1 when it says nothing.
    int64_t retry_after_ms;
} roletalk_outcome;

/// Called with the outcome of what went on to further middleware and the handler.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_outcome *outcome);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_outcome_handler;

/// A trace context, as in W3C Trace Context and W3C Baggage. Set `struct_size` before.
typedef struct {
    /// sizeof(roletalk_trace).
    size_t struct_size;
    /// Text with a zero at the end; empty when there is no trace context.
    char traceparent[56];
    /// May be empty.
    roletalk_string tracestate;
    /// May be empty.
    roletalk_string baggage;
} roletalk_trace;

/// Called when nobody waits for an answer any more, where the peer's callbacks run.
typedef struct {
    /// The function; not NULL. `reason` is ROLETALK_CANCEL_REQUESTER, ROLETALK_CANCEL_DEADLINE or
    /// ROLETALK_CANCEL_UNIT_LOST.
    void (*call)(void *user_data, int32_t reason);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_cancel_handler;

/// How a unit stands with this peer. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// The unit; borrowed.
    roletalk_unit unit;
    /// Requests that wait for its answer.
    uint64_t waiting;
    /// Microseconds that an answer is likely to take, by what its answers have taken and how long it has been silent;
    /// 0 when nothing is known.
    int64_t answer_time_us;
    /// Requests in a row that were not answered within their time.
    uint64_t unanswered;
    /// Requests in a row that were rejected.
    uint64_t rejected;
    /// Milliseconds that it is still left out (roletalk_balance.eject), 0 while one request finds out whether it has
    /// recovered; -1 when it is not left out.
    int64_t ejected_ms;
} roletalk_standing;

/// Called for each unit, on the caller's thread.
typedef void (*roletalk_standing_visitor)(void *user_data, const roletalk_standing *standing);

/// How to send or to ask. All zero but the size: to the unit that the destination's balance says, in order, with the
/// default time limit.
typedef struct {
    /// sizeof(roletalk_send_options).
    size_t struct_size;
    /// The unit to send to; zero to have one chosen. Not for broadcasts and surveys.
    roletalk_unit unit;
    /// Not 0: take the least loaded connection, though it may then overtake others. Not for streams.
    int32_t unordered;
    /// Requests, surveys, streams: milliseconds for the answer; 0 stands for the default, five minutes.
    /// roletalk_destination_send, roletalk_destination_broadcast: milliseconds to wait for room in the
    /// queue; 0: without a limit; negative: not at all.
    int64_t timeout_ms;
    /// What goes with it besides the payload: up to 8 KiB of names and values. Left out where a unit does not take
    /// headers.
    const roletalk_header *headers;
    /// How many headers.
    size_t header_count;
    /// Not 0: only units that take headers are chosen; ROLETALK_STATUS_UNSUPPORTED when there is none.
    int32_t headers_required;
    /// The context of the handler on whose behalf this is sent; zero for none. What is asked has at most the time that
    /// is left there, and is given up when that is canceled, with ROLETALK_STATUS_PARENT_CANCELED, unless the handler is
    /// detached. The trace context of the parent goes with it, also with messages. Headers do not.
    roletalk_context parent;
    /// The trace context, as in W3C Trace Context and W3C Baggage, in the place of the parent's; may be empty.
    roletalk_string traceparent;
    /// Only with `traceparent`; may be empty.
    roletalk_string tracestate;
    /// Only with `traceparent`; may be empty.
    roletalk_string baggage;
    /// Requests, streams. Not 0: when no unit serves the role, one is waited for, within `timeout_ms`, instead of
    /// ROLETALK_STATUS_NO_UNIT. Then it does not matter who starts first.
    int32_t wait_for_unit;
    /// How the unit is chosen; NULL: as the destination says. Neither this nor `key` counts where `unit` is given, and
    /// for broadcasts and surveys, which go to every unit.
    const roletalk_balance *balance;
    /// The same unit for the same key, which may be any bytes, as long as that unit is there: in the place of whatever
    /// chooses, among the units with the tags that are preferred there. Every peer chooses alike. Units are told apart
    /// by their names, which outlive a restart, or by their ids where names are not unique. No key when `data` is NULL.
    roletalk_string key;
    /// For requests only. Says that the request may be handled more than once, and how it is retried: after a lost
    /// connection, an overload, or a failure that says when to try again; with hedging, also while its answer is slow.
    /// Each attempt goes to another unit than the one before, all within `timeout_ms`. Zero: the retry of the
    /// destination; with neither, nothing that may have begun is retried. Ignored when `unit` is given. Messages,
    /// broadcasts, surveys and streams with a retry fail with ROLETALK_STATUS_INVALID_ARGUMENT.
    roletalk_retry retry;
} roletalk_send_options;

/// Called once when a stream can go on, where the peer's callbacks run.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_ready_handler;

/// The answer to a blocking call. Freed by roletalk_answer_free.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_answer;

/// The answers to a survey. Closed by roletalk_survey_close.
typedef struct {
    /// Zero is none.
    uint64_t id;
} roletalk_survey;

/// Called with a stream that was opened, or why it was not: then `stream` is zero. `reply->data` is what
/// the other side has said. The stream is the callee's, who closes it with roletalk_readable_close.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_reply *reply, roletalk_readable stream);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_readable_handler;

/// Called with a stream that was opened, or why it was not: then `stream` is zero. `reply->data` is what
/// the other side has said. The stream is the callee's, who closes it with roletalk_writable_close.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_reply *reply, roletalk_writable stream);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_writable_handler;

/// What is known of a unit. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// The remote peer's id, unique for its lifetime.
    roletalk_string id;
    /// Its name; may be empty.
    roletalk_string name;
    /// Whether it wants to be told of others: 1 or 0.
    int32_t friendly;
    /// Whether a connection is open: 1 or 0.
    int32_t open;
    /// The operating system that it runs on.
    roletalk_string os;
    /// What it runs in.
    roletalk_string runtime;
    /// The version of the protocol that it speaks.
    roletalk_string protocol;
    /// Its clock when it connected, in milliseconds since 1970. Go counts in units of 10 ms.
    uint64_t time;
    /// How long it had been running when it connected, in milliseconds. Go counts in units of 10 ms.
    uint64_t uptime;
    /// Its tags, as they were when it connected.
    const roletalk_pair *tags;
    /// How many tags.
    size_t tag_count;
    /// The roles that it serves now.
    const roletalk_string *roles;
    /// How many roles.
    size_t role_count;
} roletalk_unit_info;

/// Called with what is known of a unit, on the caller's thread.
typedef void (*roletalk_unit_info_visitor)(void *user_data, const roletalk_unit_info *info);

/// Counters of a unit since it connected. Set `struct_size` before.
typedef struct {
    /// sizeof(roletalk_unit_stats).
    size_t struct_size;
    /// One-way messages sent.
    uint64_t messages_sent;
    /// One-way messages received.
    uint64_t messages_received;
    /// One-way messages dropped because too many handlers were running.
    uint64_t messages_dropped;
    /// Requests sent, stream openings included.
    uint64_t requests_sent;
    /// Requests received, stream openings included.
    uint64_t requests_received;
    /// Requests rejected because too many handlers were running.
    uint64_t requests_shed;
    /// Requests sent that wait for an answer.
    uint64_t waiting;
    /// Handlers that are running, deferred contexts included.
    uint64_t running;
    /// Streams that are open or being opened.
    uint64_t streams;
    /// Stream bytes sent.
    uint64_t stream_bytes_sent;
    /// Stream bytes received.
    uint64_t stream_bytes_received;
    /// Microseconds from the last answered request to its answer; -1 before the first.
    int64_t last_answer_us;
    /// Microseconds that the last ping took on the fastest connection; -1 before the first.
    int64_t round_trip_us;
    /// Open connections.
    uint64_t connections;
    /// Bytes of what those running handlers were called with.
    uint64_t running_bytes;
    /// Requests received that were not begun, since their time was up or their requester had given up.
    uint64_t requests_expired;
    /// Requests sent that were given up, of which the other side was told.
    uint64_t cancels_sent;
    /// Requests received of which the other side told that they were given up, whether or not they were still
    /// running.
    uint64_t cancels_received;
    /// Messages, requests and answers whose headers and trace context were left out, since the other side does not
    /// take them.
    uint64_t fields_left_out;
    /// Requests received that were not begun, since they came after the roles were withdrawn.
    uint64_t requests_turned_away;
    /// Requests sent that the other side has surely not begun, and that went on to another unit.
    uint64_t requests_rerouted;
    /// Microseconds that its answers take, smoothed, a second at most: what the choice of the least loaded unit counts
    /// with; -1 before the first.
    int64_t answer_time_us;
    /// What the unit called and the policy did not allow.
    uint64_t denied;
} roletalk_unit_stats;

/// Counters of one connection of a unit. Set `struct_size` before.
typedef struct {
    /// sizeof(roletalk_connection_stats).
    size_t struct_size;
    /// The connection's number, never used again.
    uint64_t connection;
    /// roletalk frames sent, or waiting to be written.
    uint64_t frames_sent;
    /// roletalk frames received.
    uint64_t frames_received;
    /// Bytes of WebSocket frames sent, or waiting to be written.
    uint64_t bytes_sent;
    /// Bytes of roletalk frames received.
    uint64_t bytes_received;
    /// Bytes that wait to be written.
    uint64_t queued;
    /// Microseconds that the last ping took; -1 before the first answer.
    int64_t round_trip_us;
} roletalk_connection_stats;

/// A certificate that the other end has shown, and that TLS has verified, unless verification was switched off. Valid
/// during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// The subject as RFC 4514 writes it, such as `CN=billing,O=Example`; may be empty.
    roletalk_string subject;
    /// Its subject alternative names, each with its type: `dns:a.example`, `uri:spiffe://prod/a`, `ip:10.0.0.1`,
    /// `email:a@example.org`.
    const roletalk_string *names;
    /// How many names.
    size_t name_count;
    /// SHA-256 of the whole certificate, 64 lowercase hexadecimal digits.
    roletalk_string fingerprint;
    /// When it expires, in seconds since 1970.
    uint64_t expires;
} roletalk_certificate;

/// What the other end of a connection has shown. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// The connection's number, as in roletalk_connection_stats; in roletalk_unit_describe_identity 0.
    uint64_t connection;
    /// Whether this peer has dialed it: 1 or 0.
    int32_t dialed;
    /// The id of the preshared key that it has proved; empty when this peer asks for no proof.
    roletalk_string key;
    /// The same without the version behind a `#`.
    roletalk_string key_name;
    /// The name of its own key, when it has proved that its id belongs to that: `key-` and 40 hexadecimal digits; else empty.
    roletalk_string peer;
    /// Its certificate; NULL when it has shown none.
    const roletalk_certificate *certificate;
    /// What the program has said of it (roletalk_upgrade_allow): a JSON object, `{}` for nothing.
    roletalk_string claims;
    /// Where the connection comes from or leads to, such as `192.0.2.1:51234`; empty when that is not known.
    roletalk_string address;
    /// The headers of its upgrade that were to be kept (roletalk_peer_options.identity_headers), in lower case.
    const roletalk_pair *headers;
    /// How many headers.
    size_t header_count;
} roletalk_identity;

/// Called with an identity, on the caller's thread.
typedef void (*roletalk_identity_visitor)(void *user_data, const roletalk_identity *identity);

/// Called with a certificate, on the caller's thread.
typedef void (*roletalk_certificate_visitor)(void *user_data,
                                             const roletalk_certificate *certificate);

/// Something that happened to a peer. Valid during the call. Fields that do not belong to the kind are
/// zero. New kinds may be added.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// ROLETALK_EVENT_UNIT_OPENED and so on.
    int32_t kind;
    /// The status code that belongs to `text`.
    roletalk_status status;
    /// The unit, borrowed.
    roletalk_unit unit;
    /// The role of the destination, or of the handler.
    roletalk_string role;
    /// The address that was dialed.
    roletalk_string address;
    /// What there is to say.
    roletalk_string text;
    /// How many.
    uint64_t count;
    /// Bytes that wait to be written.
    uint64_t queued;
    /// The event that the handler is for; may be empty.
    roletalk_string event;
    /// What there is to know besides `text`, and what to try; may be empty.
    roletalk_string hint;
    /// What was denied: `message`, `request`, `readable`, `writable`, or `serve` for a role that was announced.
    roletalk_string what;
    /// The file of the policy.
    roletalk_string path;
    /// Milliseconds since 1970; 0 when it is not known.
    uint64_t expires_ms;
} roletalk_event;

/// Called for each event, in their order, where the peer's callbacks run.
typedef struct {
    /// The function; not NULL.
    void (*call)(void *user_data, const roletalk_event *event);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_event_handler;

/// The text of a number. Use it as a payload with roletalk_data_number.
typedef struct {
    /// How many bytes of `text`.
    size_t len;
    /// No zero at the end.
    char text[32];
} roletalk_number;

/// A line of diagnostics. Valid during the call.
typedef struct {
    /// The size of this struct in the library.
    size_t struct_size;
    /// ROLETALK_LOG_ERROR and so on.
    int32_t level;
    /// The part of the library that it comes from.
    roletalk_string target;
    /// The message, with its fields as ` name=value`.
    roletalk_string text;
    /// How many records were dropped before this one, since the function was too slow.
    uint64_t dropped;
} roletalk_log_record;

/// Called for each line, one at a time, on a thread that does nothing else.
typedef struct {
    /// The function; NULL to log no more.
    void (*call)(void *user_data, const roletalk_log_record *record);
    /// Given to both functions.
    void *user_data;
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    roletalk_drop drop;
} roletalk_log_handler;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// The text of the last call on this thread that returned something else than ROLETALK_STATUS_OK.
/// Successful calls leave it as it is. Never fails; empty before the first. Any thread, also inside
/// callbacks. Valid until the next call that fails on this thread, so copy what is to be kept.
roletalk_string roletalk_last_error(void);

/// What there is to know besides roletalk_last_error, and what to try: for people, in English; empty when there
/// is nothing. Never fails, any thread, also inside callbacks, and valid as long as that text.
roletalk_string roletalk_last_error_hint(void);

/// The name that the handler at the other end has given its failure (roletalk_failure.code), such as
/// `NOT_FOUND`; empty when it has given none. Never fails, any thread, also inside callbacks, and valid as long as
/// roletalk_last_error.
roletalk_string roletalk_last_error_code(void);

/// What that handler has added to its failure (roletalk_failure.data): JSON; empty for nothing. Never fails, any
/// thread, also inside callbacks, and valid as long as roletalk_last_error.
roletalk_string roletalk_last_error_data(void);

/// After how many milliseconds, says that handler, it is worth trying again; -1 when it says nothing. Never
/// fails. Any thread, also inside callbacks.
int64_t roletalk_last_error_retry_after_ms(void);

/// Whether the other side has said that it has begun no handler, so that surely nothing was done: 1 or 0, which
/// says nothing. Never fails. Any thread, also inside callbacks.
int32_t roletalk_last_error_unhandled(void);

/// The name of a status code, such as `NO_UNIT`; `UNKNOWN` for other numbers. Never fails. Any thread, also
/// inside callbacks. Valid for ever.
roletalk_string roletalk_status_name(int32_t status);

/// The version of the library, such as `0.1.0`. Never fails. Any thread, also inside callbacks. Valid for
/// ever.
roletalk_string roletalk_version(void);

/// The version of the ABI. A program runs with every library whose ABI version is the ROLETALK_ABI_VERSION
/// that it was compiled with. Never fails. Any thread, also inside callbacks.
uint32_t roletalk_abi_version(void);

/// Makes a peer and starts its threads. `options` may be NULL. The caller closes it with roletalk_peer_close.
/// Works in the child of a fork, too: all handles of the parent's are invalid there.
///
/// Errors: ROLETALK_STATUS_IO, ROLETALK_STATUS_TLS. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_new(const roletalk_peer_options *options,
                                  roletalk_peer *peer);

/// Closes all connections with code 4000, stops listening and dialing, and ends the peer's threads. When
/// it returns, all callbacks have returned, operations under way have called back (with
/// ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_CONNECTION_LOST or ROLETALK_STATUS_CANCELED), and every `drop`
/// was called (where middleware has deferred contexts, that of what comes behind it follows when they are
/// answered). That takes two seconds at most if the other side does not answer, besides the time that
/// callbacks take.
///
/// Inside a callback, of whichever peer, it does not wait: the rest happens when the callback has
/// returned. The peer's roles, destinations and listeners end with it; units, streams, answers and
/// deferred contexts are the caller's still.
///
/// Any thread.
roletalk_status roletalk_peer_close(roletalk_peer peer);

/// Stops offering roles, lets running requests and streams finish within `timeout_ms`, then closes as
/// roletalk_peer_close. `finished`, which may be NULL, is set to 1 when everything had finished, else to 0.
/// The peer's roles and destinations stay usable until then; `peer` itself ends at once.
///
/// Inside a callback it does not wait and sets `finished` to 0.
///
/// Any thread.
roletalk_status roletalk_peer_drain(roletalk_peer peer,
                                    uint64_t timeout_ms,
                                    int32_t *finished);

/// Waits until the process gets SIGINT or SIGTERM, or until the peer is closed by somebody else, then drains
/// as roletalk_peer_drain within `limit_ms` (mostly ROLETALK_DRAIN_LIMIT_MS). `finished`, which may be
/// NULL, is set to 1 when everything had finished, else to 0. `peer` ends with it.
///
/// The first signal ends the waiting of all peers that serve. From then on the second one has its default
/// action: it ends the process, whatever that is at. When no peer serves any more, the handlers that the
/// program had before are in place again, unless it has set others meanwhile. In the child of a fork the
/// signals have their default action.
///
/// With ROLETALK_CALLBACKS_POLL it runs the callbacks, unless another thread is inside roletalk_peer_poll.
///
/// Errors: ROLETALK_STATUS_WOULD_DEADLOCK inside callbacks, ROLETALK_STATUS_IO; the peer goes on then. Any
/// thread, also several for several peers; one thread at least must not block the two signals (those of
/// the library do).
ROLETALK_MUST_USE
roletalk_status roletalk_peer_serve(roletalk_peer peer,
                                    uint64_t limit_ms,
                                    int32_t *finished);

/// Copies the peer's id, 32 hexadecimal digits, to `buffer`, without a zero at the end, and its length
/// to `len`, which may be NULL. With roletalk_peer_options.peer_key it is 61 characters: the name of that key, and 16
/// digits.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_id(roletalk_peer peer,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *len);

/// Sets a tag. Units that connect from now on see it.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_peer_set_tag(roletalk_peer peer,
                                      roletalk_string key,
                                      roletalk_string value);

/// Adds a preshared key, or replaces the one with this id. From the first one on, only peers that share
/// a key get in. Connections that are up stay.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the id or the key is empty or longer than 1 024 bytes.
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_add_key(roletalk_peer peer,
                                      roletalk_string id,
                                      roletalk_string key);

/// Removes a preshared key. Connections that are up stay. Without any key everyone gets in.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when there is none with this id. Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_remove_key(roletalk_peer peer,
                                         roletalk_string id);

/// The role of this name, added if it is new: offered at once, or, when `active` is 0, after
/// roletalk_role_enable. The same name gives the same handle, which belongs to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_role(roletalk_peer peer,
                                   roletalk_string name,
                                   int32_t active,
                                   roletalk_role *role);

/// The destination of this name, added if it is new. The same name gives the same handle, which belongs
/// to the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that is empty or longer than 65 535 bytes,
/// ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_destination(roletalk_peer peer,
                                          roletalk_string role,
                                          roletalk_destination *destination);

/// Calls `visitor` for each connected unit, before this returns.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_peer_each_unit(roletalk_peer peer,
                                        roletalk_unit_visitor visitor,
                                        void *user_data);

/// Adds middleware for all that any role handles; it comes before that of the roles. See
/// roletalk_role_layer.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_peer_layer(roletalk_peer peer, roletalk_incoming_handler layer);

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_get_stats(roletalk_peer peer,
                                        roletalk_peer_stats *stats);

/// Sets who may call and serve what from now on, including connected units: a policy as JSON (docs/POLICY.md). NULL: no
/// policy, everyone may do everything. Stops watching a policy file.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a text that is no policy, an empty one included:
/// roletalk_last_error says where and what is wrong; the policy before stays in force. Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_set_policy(roletalk_peer peer,
                                         roletalk_string policy);

/// Takes the policy from a file, and again within a second after each of its changes. A file that cannot be read or has
/// a fault changes nothing: ROLETALK_EVENT_POLICY_FAILED tells why, once for each change of the file;
/// ROLETALK_EVENT_POLICY_LOADED tells that a new one is in force. Ends with roletalk_peer_set_policy, with another file,
/// and with the peer.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when there is no usable policy in the file now, ROLETALK_STATUS_CLOSED:
/// nothing has changed. Any thread; in callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_watch_policy(roletalk_peer peer,
                                           roletalk_string path);

/// Checks the text of a policy. No peer is needed.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT: roletalk_last_error says where and what is wrong. Any thread, also
/// inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_policy_check(roletalk_string policy);

/// Listens on an address, such as `127.0.0.1:9000`; port 0 takes a free one. `options` may be NULL.
/// `listener` may be NULL: it belongs to the peer in any case.
///
/// Errors: ROLETALK_STATUS_IO when the address cannot be listened on, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; for an address that has a name, in
/// callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_listen(roletalk_peer peer,
                                     roletalk_string address,
                                     const roletalk_listen_options *options,
                                     roletalk_listener *listener);

/// Copies the address that a peer on the same machine can connect to, such as `ws://127.0.0.1:9000`,
/// to `buffer`, without a zero at the end, and its length to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_listener_url(roletalk_listener listener,
                                      char *buffer,
                                      size_t capacity,
                                      size_t *len);

/// Stops listening, and ends the handle. Connections that were accepted stay.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_listener_close(roletalk_listener listener);

/// Serves a TCP connection that the program's own server has accepted. Its first bytes are an HTTP
/// upgrade, or, when `upgraded` is not 0, the upgrade was done already: then it is for that server to look at the
/// `Origin` and to authenticate. The library owns `fd` from here on, unless this fails with
/// ROLETALK_STATUS_INVALID_ARGUMENT or ROLETALK_STATUS_INVALID_HANDLE.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when `fd` is not a connected stream socket,
/// ROLETALK_STATUS_IO. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_accept_fd(roletalk_peer peer,
                                        int32_t fd,
                                        int32_t upgraded);

/// Connects to a `ws://` or `wss://` address, and again whenever the connection is lost, until
/// roletalk_peer_disconnect. Waits for the first outcome; after a failure the address is tried further,
/// unless it is to be connected once. `options` may be NULL. `unit`, which may be NULL, is set to the
/// unit that answered; the caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_CONNECT_FAILED, ROLETALK_STATUS_AUTH_REFUSED, ROLETALK_STATUS_TLS,
/// ROLETALK_STATUS_CLOSED. Any thread; in callbacks as every call that waits.
roletalk_status roletalk_peer_connect(roletalk_peer peer,
                                      roletalk_string address,
                                      const roletalk_connect_options *options,
                                      roletalk_unit *unit);

/// As roletalk_peer_connect, without waiting: `handler` is called with the first outcome, and with the unit
/// if it connected. `operation` may be NULL; canceling it does not end the dialing. `handler.drop` is
/// called after that, or when this fails.
///
/// Errors: ROLETALK_STATUS_TLS, ROLETALK_STATUS_CLOSED; others by callback. Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_connect_async(roletalk_peer peer,
                                            roletalk_string address,
                                            const roletalk_connect_options *options,
                                            roletalk_reply_handler handler,
                                            roletalk_operation *operation);

/// Stops dialing an address. A connection that is up stays: roletalk_unit_disconnect ends it.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the address is not dialed. Any thread, also inside
/// callbacks.
roletalk_status roletalk_peer_disconnect(roletalk_peer peer, roletalk_string address);

/// Reads the files of certificates again that the peer listens and dials with (`tls_certificates_file` and so on
/// of roletalk_listen_options and roletalk_connect_options). New handshakes use them, connections that are up stay.
///
/// Errors: ROLETALK_STATUS_TLS when a file cannot be read, when key and certificate do not fit together, and when a
/// certificate is not valid now: then what was in force stays. All are tried; this is the first error. Any thread,
/// also inside callbacks; it waits for the files only.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_reload_tls(roletalk_peer peer);

/// Sets `expires_ms` to the earliest expiry of the TLS settings that the peer listens and dials with, in milliseconds
/// since 1970; 0 if that is not known. A chain expires with the certificate in it that expires first, a set of
/// authorities with the one that expires last.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_get_tls_expires(roletalk_peer peer,
                                              uint64_t *expires_ms);

/// Dials an address with new certificates from now on. `address` is the text that was passed to roletalk_peer_connect.
/// The other arguments are PEM; an empty one keeps the old value, but `certificates` and `key` belong together. Watched
/// files are loaded again when they next change.
///
/// Errors: ROLETALK_STATUS_TLS as for roletalk_peer_reload_tls, ROLETALK_STATUS_INVALID_ARGUMENT when the address is
/// not dialed. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_replace_tls(roletalk_peer peer,
                                          roletalk_string address,
                                          roletalk_string ca,
                                          roletalk_string certificates,
                                          roletalk_string key);

/// Listens with another certificate chain from now on, leaf first, and its key; and with other client authorities,
/// unless `client_ca` is empty. All are PEM. New handshakes use them, connections that are up stay. Files that are
/// watched are taken again when they next change.
///
/// Errors: ROLETALK_STATUS_TLS as for roletalk_peer_reload_tls, ROLETALK_STATUS_INVALID_ARGUMENT for a listener
/// without TLS. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_listener_replace_tls(roletalk_listener listener,
                                              roletalk_string certificates,
                                              roletalk_string key,
                                              roletalk_string client_ca);

/// For ROLETALK_CALLBACKS_POLL: a file descriptor that is readable while callbacks wait for
/// roletalk_peer_poll. The library owns it; it is valid until the peer is closed.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for other peers. Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_peer_fd(roletalk_peer peer, int32_t *fd);

/// For ROLETALK_CALLBACKS_POLL: runs the callbacks that wait, on this thread. When none does, waits for up to
/// `timeout_ms` milliseconds, without a limit if that is negative, not at all if it is 0. `count`, which
/// may be NULL, is set to how many pieces of work were done.
///
/// Errors: ROLETALK_STATUS_CLOSED when the peer was closed and nothing more will come;
/// ROLETALK_STATUS_INVALID_ARGUMENT for other peers and while another roletalk_peer_poll of this peer
/// runs. Any thread; not inside callbacks of the same peer.
ROLETALK_MUST_USE
roletalk_status roletalk_peer_poll(roletalk_peer peer,
                                   int64_t timeout_ms,
                                   size_t *count);

/// Makes a chooser of a function, for roletalk_balance.chooser. The caller frees it with roletalk_chooser_free. It may
/// be used with several peers.
///
/// `handler.drop` is called once, when the chooser was freed and nothing uses it any more: the peers that have it are
/// closed, destinations have another balance, and what was sent with it has its outcome. Then it is called by
/// roletalk_chooser_free, or where the callbacks of the last peer run that has used it. It is called at once when this
/// fails.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_chooser_new(roletalk_choose_handler handler,
                                     roletalk_chooser *chooser);

/// Frees a handle. What was given the chooser goes on using it.
///
/// Any thread, also inside callbacks, its own included.
roletalk_status roletalk_chooser_free(roletalk_chooser chooser);

/// Makes a retry, for roletalk_send_options.retry and roletalk_destination_set_retry: use one for all requests of a
/// kind, since it has the account of how many further ones there may be. It may be used with several peers, and by
/// several threads at the same time. `options` may be NULL. The caller frees it with roletalk_retry_free.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a `budget` or `hedge_quantile` that is not from 0 to 1, and for both
/// ways to hedge. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_retry_new(const roletalk_retry_options *options,
                                   roletalk_retry *retry);

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_retry_get_stats(roletalk_retry retry,
                                         roletalk_retry_stats *stats);

/// Frees a handle. Requests that are under way and destinations that were given the retry go on using it.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_retry_free(roletalk_retry retry);

/// Sets the handler of one kind of communication for one event, in the place of the one before. `kind` is
/// ROLETALK_KIND_MESSAGE, ROLETALK_KIND_REQUEST, ROLETALK_KIND_READABLE or ROLETALK_KIND_WRITABLE;
/// `event` may be empty. `handler.drop` is called when the handler is replaced or the peer closed, or
/// when this fails.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_role_handle(roletalk_role role,
                                     int32_t kind,
                                     roletalk_string event,
                                     roletalk_incoming_handler handler);

/// As roletalk_role_handle, with options, which may be NULL.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_role_handle_with(roletalk_role role,
                                          int32_t kind,
                                          roletalk_string event,
                                          const roletalk_handler_options *options,
                                          roletalk_incoming_handler handler);

/// Adds middleware for all that this role handles, behind that of the peer (roletalk_peer_layer) and that
/// added before. See roletalk_incoming_handler, roletalk_context_next, roletalk_context_set_data,
/// roletalk_context_on_outcome. `layer.drop` is called when the peer is closed, or when this fails.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_role_layer(roletalk_role role,
                                    roletalk_incoming_handler layer);

/// Offers the role; units are told.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_role_enable(roletalk_role role);

/// Offers the role no longer: requests are rejected, messages dropped, units are told. What is running
/// goes on.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_role_disable(roletalk_role role);

/// Whether the role is offered: 1 or 0.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_role_is_active(roletalk_role role, int32_t *active);

/// Answers a request with a payload, which is copied. Ends the context. For a message it says that it
/// was dealt with, which also returning from the handler does.
///
/// When the unit has no room for the answer, the library keeps it until there is. Inside an outcome
/// handler it replaces the outcome.
///
/// Errors: ROLETALK_STATUS_DATA, ROLETALK_STATUS_INVALID_ARGUMENT: the context is as before. Any thread,
/// also inside callbacks, for deferred contexts; inside the handler for others.
roletalk_status roletalk_context_respond(roletalk_context context,
                                         roletalk_data data);

/// Rejects a request or a stream with a text for the requester. Ends the context. A message that is
/// rejected, and a stream that was accepted before, is reported by ROLETALK_EVENT_HANDLER_FAILED.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT: the context is as before. Any thread, also inside callbacks,
/// for deferred contexts; inside the handler for others.
roletalk_status roletalk_context_reject(roletalk_context context,
                                        roletalk_string reason);

/// As roletalk_context_reject, with a code and data for the requester's program, who finds them in roletalk_reply, or
/// with roletalk_last_error_code and so on. Peers that do not know of these get the reason alone.
/// `failure->struct_size` must be set.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT, ROLETALK_STATUS_DATA for `data` that is not JSON,
/// ROLETALK_STATUS_TOO_LARGE for more than 8 KiB of code and data: the context is as before. Threads and callbacks
/// as roletalk_context_reject.
roletalk_status roletalk_context_reject_with(roletalk_context context,
                                             const roletalk_failure *failure);

/// Accepts a stream that this peer reads, with a payload for the requester. Ends the context; the
/// stream belongs to the caller, who closes it with roletalk_readable_close.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT when the context is not of ROLETALK_KIND_READABLE,
/// ROLETALK_STATUS_DATA: the context is as before. ROLETALK_STATUS_CONNECTION_LOST when the requester is
/// gone, ROLETALK_STATUS_OVERLOADED when too many streams are open: the context has ended. Any thread,
/// also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_accept_readable(roletalk_context context,
                                                 roletalk_data data,
                                                 roletalk_readable *stream);

/// Accepts a stream that this peer writes, with a payload for the requester. Ends the context; the
/// stream belongs to the caller, who finishes it with roletalk_writable_finish and closes it with
/// roletalk_writable_close.
///
/// Errors, threads and callbacks as roletalk_context_accept_readable, for ROLETALK_KIND_WRITABLE.
ROLETALK_MUST_USE
roletalk_status roletalk_context_accept_writable(roletalk_context context,
                                                 roletalk_data data,
                                                 roletalk_writable *stream);

/// Keeps what came beyond the handler's return, to be answered later from any thread. `context` ends;
/// `deferred` belongs to the caller and is valid until it is answered, also when the peer has closed
/// meanwhile. Until then it counts as a running handler.
///
/// Inside the handler or middleware.
ROLETALK_MUST_USE
roletalk_status roletalk_context_defer(roletalk_context context,
                                       roletalk_context *deferred);

/// Shows a deferred context again, as its handler saw it. `incoming->struct_size` must be set. The
/// pointers are valid until the context is answered; `incoming->unit` is none: see roletalk_context_unit.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_context_view(roletalk_context context,
                                      roletalk_incoming *incoming);

/// The unit that sent it. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_unit(roletalk_context context,
                                      roletalk_unit *unit);

/// Passes what middleware has deferred on to the next middleware or the handler. Ends the context.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a context that is not deferred: returning from the
/// middleware passes that on. Any thread, also inside callbacks.
roletalk_status roletalk_context_next(roletalk_context context);

/// Replaces the payload, for middleware that changes it before the handler sees it. Pointers into the
/// payload before are valid until the callback returns; in a deferred context they end.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks, for deferred contexts; inside the
/// middleware for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_set_data(roletalk_context context,
                                          roletalk_data data);

/// For middleware: calls `handler` with the outcome, before the requester gets it. Several are called
/// in the reverse order of their middleware. `drop` is called also when this fails.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the middleware for others.
roletalk_status roletalk_context_on_outcome(roletalk_context context,
                                            roletalk_outcome_handler handler);

/// The first header of this name that came with it: `value` is set to text or bytes, or to null when there is none.
/// `value->bytes` is valid as long as the payload.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_header(roletalk_context context,
                                        roletalk_string name,
                                        roletalk_data *value);

/// One of the headers that came with it, in the order in which the sender has added them: `at` counts from 0. What
/// `header` points to is valid as long as the payload.
///
/// Errors: ROLETALK_STATUS_END when there are not so many. Any thread, also inside callbacks, for deferred contexts;
/// inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_header_at(roletalk_context context,
                                           size_t at,
                                           roletalk_header *header);

/// Sets a header of the answer in the place of what was set by this name, whether that is a payload, a rejection or
/// an accepted stream. The value is text or bytes. All headers may have 8 KiB together, names included. Left out
/// where the requester's peer does not take headers; for a message nothing happens.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a name that does not fit (see roletalk_header), and for another kind of
/// data; ROLETALK_STATUS_DATA; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks, for deferred contexts;
/// inside the handler, middleware or outcome handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_set_header(roletalk_context context,
                                            roletalk_string name,
                                            roletalk_data value);

/// The trace context that came with it. `trace->struct_size` must be set. The two strings are valid as long as the
/// payload. What is sent with this context as its parent hands it on by itself; see roletalk_send_options.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_trace(roletalk_context context,
                                       roletalk_trace *trace);

/// How many milliseconds the requester still waits: -1 when it has set no time limit, 0 when the time is up.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_remaining_ms(roletalk_context context,
                                              int64_t *remaining);

/// Why nobody waits for the answer any more: ROLETALK_CANCEL_REQUESTER and so on, or ROLETALK_CANCEL_NONE (0) while
/// somebody does. For handlers that work on for long: ask now and then, and end if it is not 0. What is answered all
/// the same is dropped. Always 0 for messages and for handlers that are detached (roletalk_handler_options); a
/// callback of ROLETALK_CALLBACKS_INLINE holds up what would tell it.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
ROLETALK_MUST_USE
roletalk_status roletalk_context_cancel_reason(roletalk_context context,
                                               int32_t *reason);

/// Calls `handler` once if nobody waits for the answer any more: the requester has given up, its time is up, or its unit
/// is gone. Soon, if that is so already. The context is still to be answered, which nobody hears of.
/// `handler.drop` is called after that, when the context is answered, or when this fails: then there is no call any
/// more, unless it has begun on another thread. Never called for messages and for handlers that are detached
/// (roletalk_handler_options). Callbacks of a peer run one after the other: it is for contexts that are deferred, now or
/// later in the handler; a handler that works on itself asks roletalk_context_cancel_reason.
///
/// Any thread, also inside callbacks, for deferred contexts; inside the handler for others.
roletalk_status roletalk_context_on_cancel(roletalk_context context,
                                           roletalk_cancel_handler handler);

/// Waits until a unit serves the role: for `timeout_ms` milliseconds, without a limit if that is
/// negative, not at all if it is 0.
///
/// Errors: ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK, ROLETALK_STATUS_CLOSED. Any thread; in
/// callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_ready(roletalk_destination destination,
                                           int64_t timeout_ms);

/// Calls `visitor` for each unit that serves the role, before this returns.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_destination_each_unit(roletalk_destination destination,
                                               roletalk_unit_visitor visitor,
                                               void *user_data);

/// Calls `visitor` for each unit that serves the role, before this returns, with how it stands with this peer: what it
/// owes, how long it takes, whether it fails and is left out, by the balance of the destination.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_destination_each_standing(roletalk_destination destination,
                                                   roletalk_standing_visitor visitor,
                                                   void *user_data);

/// How a unit is chosen from now on, for all who use this destination; NULL: as the peer says
/// (roletalk_peer_options.balance). What is sent with a balance of its own (roletalk_send_options.balance) has that.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for an unknown `by`, and for tags that are not usable. Any thread, also
/// inside callbacks.
roletalk_status roletalk_destination_set_balance(roletalk_destination destination,
                                                 const roletalk_balance *balance);

/// At most so many requests of this destination are in flight from now on, stream openings included: a further one
/// fails at once, with ROLETALK_STATUS_OVERLOADED. 0: any number, which is the default. So a destination that does not
/// answer takes no more than its part of what else the program needs. For all who use this destination; what is in
/// flight already is not counted, and neither are messages, broadcasts and surveys.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_destination_set_max_in_flight(roletalk_destination destination,
                                                       size_t requests);

/// Sets how all requests of this destination are retried, whoever uses it; from now on they may be handled more than
/// once. Zero, the default: they are not retried. A retry of the request itself takes precedence; see
/// roletalk_send_options.retry. Messages, broadcasts, surveys and streams are never retried.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_destination_set_retry(roletalk_destination destination,
                                               roletalk_retry retry);

/// Sends a one-way message. Returns when the unit's connection has taken it into its queue: nothing
/// tells whether it arrived. `options` may be NULL. When the queue is full it waits for room, as
/// `options->timeout_ms` says; in a callback of ROLETALK_CALLBACKS_INLINE not at all.
///
/// Errors: ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED when
/// there is no room and it is not to wait, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_TOO_LARGE,
/// ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_send(roletalk_destination destination,
                                          roletalk_string event,
                                          roletalk_data data,
                                          const roletalk_send_options *options);

/// Calls `handler` once, as soon as roletalk_destination_send may find room: at once if there is some, or
/// if it would fail for another reason, such as ROLETALK_STATUS_NO_UNIT. For programs that send without
/// waiting, as in callbacks of ROLETALK_CALLBACKS_INLINE: after ROLETALK_STATUS_OVERLOADED, send on in
/// `handler`. It may be early, if others take the room, or it is another unit's than whose turn it is:
/// try again then. Of `options`, which may be NULL, `unit` counts. `handler.drop` is called after that,
/// when the peer is closed, or when this fails.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_destination_on_room(roletalk_destination destination,
                                             const roletalk_send_options *options,
                                             roletalk_ready_handler handler);

/// Sends a one-way message to every unit that serves the role. `count`, which may be NULL, is set to how
/// many took it. `options` may be NULL. Waits for room as roletalk_destination_send.
///
/// Errors: ROLETALK_STATUS_OVERLOADED and ROLETALK_STATUS_TIMEOUT when some units had no room: others may
/// have taken it. ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread,
/// also inside callbacks.
roletalk_status roletalk_destination_broadcast(roletalk_destination destination,
                                               roletalk_string event,
                                               roletalk_data data,
                                               const roletalk_send_options *options,
                                               size_t *count);

/// Asks, and waits for the answer. `options` may be NULL; `options->timeout_ms` limits the whole.
/// `answer`, which may be NULL, is set on success; the caller frees it with roletalk_answer_free.
///
/// Errors: ROLETALK_STATUS_REJECTED (roletalk_last_error is the handler's text), ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED,
/// ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED. Any thread. In a callback it
/// holds up all other callbacks of that peer: a request to a handler of the same peer ends with
/// ROLETALK_STATUS_TIMEOUT there.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_request(roletalk_destination destination,
                                             roletalk_string event,
                                             roletalk_data data,
                                             const roletalk_send_options *options,
                                             roletalk_answer *answer);

/// Asks, without waiting: `handler` is called with the answer, once. `options` may be NULL. `operation`,
/// which may be NULL, is set to a handle to cancel it with; the caller frees it with
/// roletalk_operation_free. `handler.drop` is called after that, or when this fails. A request for which
/// there is no room in the unit's queue is kept until there is.
///
/// Errors: ROLETALK_STATUS_NO_UNIT, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OVERLOADED when too
/// many requests wait for answers, or for room (`queue_per_peer` bounds the bytes of these),
/// ROLETALK_STATUS_TOO_LARGE, ROLETALK_STATUS_DATA, ROLETALK_STATUS_CLOSED: then there is no call. By
/// callback: ROLETALK_STATUS_REJECTED, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_CONNECTION_LOST,
/// ROLETALK_STATUS_CANCELED. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_request_async(roletalk_destination destination,
                                                   roletalk_string event,
                                                   roletalk_data data,
                                                   const roletalk_send_options *options,
                                                   roletalk_reply_handler handler,
                                                   roletalk_operation *operation);

/// Asks every unit that serves the role. `options` may be NULL; `options->timeout_ms` limits each answer.
/// Take the answers with roletalk_survey_next; the caller ends the survey with roletalk_survey_close.
/// Nothing is sent before the first roletalk_survey_next.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_survey(roletalk_destination destination,
                                            roletalk_string event,
                                            roletalk_data data,
                                            const roletalk_send_options *options,
                                            roletalk_survey *survey);

/// Waits for the next answer: for `timeout_ms` milliseconds, without a limit if that is negative, not at
/// all if it is 0. The caller frees the answer with roletalk_answer_free; its status says whether that unit
/// gave one, roletalk_answer_unit which it was.
///
/// Errors: ROLETALK_STATUS_END when every unit has been heard, ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_WOULD_BLOCK. One thread at a time, ROLETALK_STATUS_INVALID_ARGUMENT for others; in
/// callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_survey_next(roletalk_survey survey,
                                     int64_t timeout_ms,
                                     roletalk_answer *answer);

/// Ends a survey, waiting for further answers included, and its handle.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_survey_close(roletalk_survey survey);

/// Asks every unit that serves the role, without waiting: `handler` is called for each with its answer
/// or why there is none, and how many remain. When none serves it, there is no call. `handler.drop` is
/// called after the last one, or when this fails. `options` and `operation` may be NULL;
/// when the operation is canceled there are no more calls.
///
/// Errors: ROLETALK_STATUS_DATA. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_survey_async(roletalk_destination destination,
                                                  roletalk_string event,
                                                  roletalk_data data,
                                                  const roletalk_send_options *options,
                                                  roletalk_reply_handler handler,
                                                  roletalk_operation *operation);

/// Shows an answer. `reply->struct_size` must be set. The pointers are valid until the answer is
/// freed; `reply->unit` is none: see roletalk_answer_unit.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_answer_view(roletalk_answer answer,
                                     roletalk_reply *reply);

/// The unit that answered. The caller frees it with roletalk_unit_free.
///
/// Errors: ROLETALK_STATUS_NO_UNIT when it is not known. Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_answer_unit(roletalk_answer answer, roletalk_unit *unit);

/// Frees an answer; pointers into it end.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_answer_free(roletalk_answer answer);

/// Asks for a stream to read, and waits until it is accepted. `options` may be NULL;
/// `options->timeout_ms` limits the wait. The caller closes the stream with roletalk_readable_close.
/// `answer`, which may be NULL, is set to what the other side has said; the caller frees it with
/// roletalk_answer_free.
///
/// Errors: those of roletalk_destination_request; ROLETALK_STATUS_REJECTED when it is refused,
/// ROLETALK_STATUS_OVERLOADED also when too many streams are open. Any thread; in a callback as
/// roletalk_destination_request.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_readable(roletalk_destination destination,
                                              roletalk_string event,
                                              roletalk_data data,
                                              const roletalk_send_options *options,
                                              roletalk_readable *stream,
                                              roletalk_answer *answer);

/// Asks for a stream to write, and waits until it is accepted, as roletalk_destination_readable. The caller
/// finishes it with roletalk_writable_finish and closes it with roletalk_writable_close.
///
/// Errors, threads and callbacks as roletalk_destination_readable.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_writable(roletalk_destination destination,
                                              roletalk_string event,
                                              roletalk_data data,
                                              const roletalk_send_options *options,
                                              roletalk_writable *stream,
                                              roletalk_answer *answer);

/// Asks for a stream to read, without waiting: `handler` is called once. `options` and `operation` may
/// be NULL. `handler.drop` is called after that, or when this fails.
///
/// Errors: those of roletalk_destination_request_async. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_readable_async(roletalk_destination destination,
                                                    roletalk_string event,
                                                    roletalk_data data,
                                                    const roletalk_send_options *options,
                                                    roletalk_readable_handler handler,
                                                    roletalk_operation *operation);

/// Asks for a stream to write, without waiting: `handler` is called once. `options` and `operation` may
/// be NULL. `handler.drop` is called after that, or when this fails.
///
/// Errors: those of roletalk_destination_request_async. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_destination_writable_async(roletalk_destination destination,
                                                    roletalk_string event,
                                                    roletalk_data data,
                                                    const roletalk_send_options *options,
                                                    roletalk_writable_handler handler,
                                                    roletalk_operation *operation);

/// Cancels an operation: its callback is called with ROLETALK_STATUS_CANCELED soon; a subscription is
/// called no more. The handlers of requests and of streams that were not accepted yet are canceled, if the other side
/// knows how to (docs/PROTOCOL.md, section 14).
///
/// Errors: ROLETALK_STATUS_END when it has ended already, also while its callback is running. Any thread,
/// also inside callbacks.
roletalk_status roletalk_operation_cancel(roletalk_operation operation);

/// Frees the handle. The operation goes on, and calls back.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_operation_free(roletalk_operation operation);

/// Reads up to `capacity` bytes, at least one: waits for `timeout_ms` milliseconds, without a limit if
/// that is negative, not at all if it is 0. `len` is set to how many bytes were read; 0 with
/// ROLETALK_STATUS_OK is the end. The writer may send more as its bytes are read.
///
/// Errors: what the writer broke off with, mostly ROLETALK_STATUS_STREAM_CLOSED, and
/// ROLETALK_STATUS_CONNECTION_LOST, each behind the data that had arrived; ROLETALK_STATUS_TIMEOUT,
/// ROLETALK_STATUS_WOULD_BLOCK; ROLETALK_STATUS_INVALID_ARGUMENT also for a capacity of 0. Any thread; in
/// callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_readable_read(roletalk_readable stream,
                                       void *buffer,
                                       size_t capacity,
                                       int64_t timeout_ms,
                                       size_t *len);

/// Calls `handler` once, as soon as roletalk_readable_read would not wait: at once if there is something, or
/// the stream has ended. `handler.drop` is called after that, when the peer is closed, or when this
/// fails.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_readable_on_ready(roletalk_readable stream,
                                           roletalk_ready_handler handler);

/// The unit at the other end. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_readable_unit(roletalk_readable stream,
                                       roletalk_unit *unit);

/// Breaks off with a reason for the writer, and ends the handle.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_readable_abort(roletalk_readable stream, roletalk_string reason);

/// Closes the reading end, and ends the handle. A writer that has not come to its end is told; one that
/// waits in roletalk_writable_finish is told that all was read, if it was. Reads that wait on other
/// threads end with ROLETALK_STATUS_STREAM_CLOSED.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_readable_close(roletalk_readable stream);

/// Writes bytes, which are copied: waits for `timeout_ms` milliseconds until the other side and the
/// connection have taken them, without a limit if that is negative, not at all if it is 0. `written` is
/// set to how many bytes were taken, which on ROLETALK_STATUS_OK are all of them, unless the time was
/// over before: then at least one. It may be NULL only when the time has no limit.
///
/// Errors: ROLETALK_STATUS_STREAM_CLOSED when the reader has broken off or the stream was finished,
/// ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK. Any thread; the
/// bytes of several writes at the same time may mix. In callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_writable_write(roletalk_writable stream,
                                        const void *bytes,
                                        size_t len,
                                        int64_t timeout_ms,
                                        size_t *written);

/// Calls `handler` once, as soon as the stream may go on: at once, unless the last write or finish did not
/// get through. It may be early: try again then. `handler.drop` is called after that, when the peer is
/// closed, or when this fails.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_writable_on_ready(roletalk_writable stream,
                                           roletalk_ready_handler handler);

/// The unit at the other end. The caller frees it with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_writable_unit(roletalk_writable stream,
                                       roletalk_unit *unit);

/// Ends the stream, and waits for `timeout_ms` milliseconds until the reader has read everything and
/// closed its end, without a limit if that is negative, not at all if it is 0. With peers of other
/// implementations it waits only until the end was queued. After ROLETALK_STATUS_TIMEOUT and
/// ROLETALK_STATUS_WOULD_BLOCK the stream has ended all the same: call it again to wait on. The handle is
/// still to be closed.
///
/// Errors: ROLETALK_STATUS_STREAM_CLOSED when the reader has broken off, ROLETALK_STATUS_CONNECTION_LOST,
/// ROLETALK_STATUS_TIMEOUT, ROLETALK_STATUS_WOULD_BLOCK. Any thread; in callbacks as every call that waits.
ROLETALK_MUST_USE
roletalk_status roletalk_writable_finish(roletalk_writable stream,
                                         int64_t timeout_ms);

/// Breaks off with a reason for the reader, and ends the handle.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_writable_abort(roletalk_writable stream, roletalk_string reason);

/// Closes the writing end, and ends the handle. Without a successful roletalk_writable_finish before,
/// the reader is told that it broke off. Writes that wait on other threads end with
/// ROLETALK_STATUS_STREAM_CLOSED.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_writable_close(roletalk_writable stream);

/// Another handle of the same unit, to be freed with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_unit_clone(roletalk_unit unit, roletalk_unit *clone);

/// Frees a handle. The unit stays connected.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a handle that a callback borrows. Any thread, also inside
/// callbacks.
roletalk_status roletalk_unit_free(roletalk_unit unit);

/// Copies the remote peer's id, unique for its lifetime, to `buffer`, without a zero at the end, and
/// its length to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_unit_id(roletalk_unit unit,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *len);

/// Copies the remote peer's name as roletalk_unit_id does its id; it may be empty.
///
/// Errors, threads and callbacks as roletalk_unit_id.
ROLETALK_MUST_USE
roletalk_status roletalk_unit_name(roletalk_unit unit,
                                   char *buffer,
                                   size_t capacity,
                                   size_t *len);

/// Calls `visitor` once, before this returns, with all that is known of the unit.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_unit_describe(roletalk_unit unit,
                                       roletalk_unit_info_visitor visitor,
                                       void *user_data);

/// Whether a connection is open: 1 or 0.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_unit_is_open(roletalk_unit unit, int32_t *open);

/// Closes all connections to the unit with code 4000. The addresses that were dialed for them are not
/// dialed again; the remote peer may come back if it has dialed this one. Returns once they are
/// closed, at the latest after two seconds; inside a callback it does not wait. The handle stays
/// valid.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_unit_disconnect(roletalk_unit unit);

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_unit_get_stats(roletalk_unit unit,
                                        roletalk_unit_stats *stats);

/// Counters of one of the unit's connections: `at` counts from 0.
///
/// Errors: ROLETALK_STATUS_END when there are not so many. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_unit_get_connection_stats(roletalk_unit unit,
                                                   size_t at,
                                                   roletalk_connection_stats *stats);

/// Copies the unit's identity as JSON to `buffer`, without a terminating zero, and its length to `len`, which may be
/// NULL. This is what the unit has shown on the most recently opened connection. Its name, its tags and its id are only
/// what it says about itself. Unknown members are `null`:
///
///     {"key": "billing", "peer": null, "certificate": {"subject": "", "names": [], "fingerprint": "", "expires": 0}, "claims": {},
///      "address": "192.0.2.1:51234", "headers": [["x-team", "red"]], "dialed": false}
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_unit_identity(roletalk_unit unit,
                                       char *buffer,
                                       size_t capacity,
                                       size_t *len);

/// Calls `visitor` once, before this returns, with what roletalk_unit_identity says.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_unit_describe_identity(roletalk_unit unit,
                                                roletalk_identity_visitor visitor,
                                                void *user_data);

/// Calls `visitor` for each connection of the unit, before this returns. What they have shown agrees in all but address,
/// headers and direction.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_unit_each_identity(roletalk_unit unit,
                                            roletalk_identity_visitor visitor,
                                            void *user_data);

/// Copies the path that is asked for, without the query, to `buffer`, without a zero at the end, and its length to
/// `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_upgrade_path(roletalk_upgrade upgrade,
                                      char *buffer,
                                      size_t capacity,
                                      size_t *len);

/// Copies the first header of this name, in which upper and lower case are the same, as roletalk_upgrade_path does the
/// path. Headers may be secrets.
///
/// Errors: ROLETALK_STATUS_END when there is none that is text; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside
/// callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_upgrade_header(roletalk_upgrade upgrade,
                                        roletalk_string name,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *len);

/// Copies the token of the header `Authorization: Bearer`, as roletalk_upgrade_path does the path.
///
/// Errors: ROLETALK_STATUS_END when there is none; ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_upgrade_bearer(roletalk_upgrade upgrade,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *len);

/// Copies the address that the connection comes from, such as `192.0.2.1:51234`, as roletalk_upgrade_path does the
/// path; empty when it is not known.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_upgrade_address(roletalk_upgrade upgrade,
                                         char *buffer,
                                         size_t capacity,
                                         size_t *len);

/// Calls `visitor` once, before this returns, with the certificate that was shown, which TLS has verified.
///
/// Errors: ROLETALK_STATUS_END when none was shown. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_upgrade_certificate(roletalk_upgrade upgrade,
                                             roletalk_certificate_visitor visitor,
                                             void *user_data);

/// Accepts the upgrade. `claims`, a JSON object of at most 8 KiB, becomes part of the identity
/// (roletalk_unit_identity). Its member `sub` is the subject, which is the same on all connections of a unit. NULL: no
/// claims. Ends the handle.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for invalid claims: the handle stays valid.
/// ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also inside
/// callbacks.
roletalk_status roletalk_upgrade_allow(roletalk_upgrade upgrade,
                                       roletalk_string claims);

/// Refuses it with an HTTP status from 400 to 599, such as 401; 0 stands for 403. `reason` is for this side's events and
/// log: the other side is not told. Ends the handle.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for another status: the handle is as before.
/// ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also inside
/// callbacks.
roletalk_status roletalk_upgrade_deny(roletalk_upgrade upgrade,
                                      int32_t status,
                                      roletalk_string reason);

/// Ends the handle. An upgrade that was not judged is refused with 403.
///
/// Errors: ROLETALK_STATUS_INVALID_HANDLE also when it was judged already, and when its time is over. Any thread, also
/// inside callbacks.
roletalk_status roletalk_upgrade_free(roletalk_upgrade upgrade);

/// Subscribes to what happens from now on. `operation`, which may be NULL, is set to a handle to cancel
/// the subscription with; the caller frees it with roletalk_operation_free. `handler.drop` is called when the
/// subscription is canceled or the peer closed, or when this fails. A subscriber that lags
/// more than a thousand events behind misses the oldest, and is told by ROLETALK_EVENT_MISSED.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_peer_on_event(roletalk_peer peer,
                                       roletalk_event_handler handler,
                                       roletalk_operation *operation);

/// Prints a number as JavaScript does: NaN and the infinities are kept, negative zero loses its sign.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_number_from_double(double value,
                                            roletalk_number *number);

/// Prints an integer exactly. JavaScript rounds those beyond 2^53 when it reads them.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_number_from_int64(int64_t value, roletalk_number *number);

/// Prints an integer exactly. JavaScript rounds those beyond 2^53 when it reads them.
///
/// Any thread, also inside callbacks.
roletalk_status roletalk_number_from_uint64(uint64_t value, roletalk_number *number);

/// Reads a boolean: 0 or 1.
///
/// Errors: ROLETALK_STATUS_DATA when it is none. Any thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_data_as_bool(roletalk_data data, int32_t *value);

/// Reads a number as JavaScript does: text that is no number is NaN.
///
/// Errors: ROLETALK_STATUS_DATA when the data is of another kind. Any thread, also inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_data_as_double(roletalk_data data,
                                        double *value);

/// Reads an integer exactly.
///
/// Errors: ROLETALK_STATUS_DATA when it is no number, has a fraction or does not fit. Any thread, also
/// inside callbacks.
ROLETALK_MUST_USE
roletalk_status roletalk_data_as_int64(roletalk_data data,
                                       int64_t *value);

/// Reads an integer exactly.
///
/// Errors: ROLETALK_STATUS_DATA when it is no number, negative, has a fraction or does not fit. Any
/// thread, also inside callbacks.
ROLETALK_MUST_USE roletalk_status roletalk_data_as_uint64(roletalk_data data, uint64_t *value);

/// Lets `handler` have the diagnostics of all peers up to `level`, ROLETALK_LOG_ERROR to
/// ROLETALK_LOG_TRACE, in the place of the handler before, whose `drop` is called before this returns
/// (or, inside its own call, after that). ROLETALK_LOG_OFF or a NULL function logs no more and ends the
/// thread. Keys and proofs never appear.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for other levels, ROLETALK_STATUS_IO. Any thread, also inside
/// callbacks.
roletalk_status roletalk_log(int32_t level,
                             roletalk_log_handler handler);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/// A string of a literal.
#define ROLETALK_STR(literal) roletalk_string_of("" literal, sizeof(literal) - 1)
/// The two arguments of printf's "%.*s".
#define ROLETALK_ARG(string) (int)(string).len, ((string).data ? (string).data : "")

/// A string of a pointer and a length.
static inline roletalk_string roletalk_string_of(const char *data, size_t len) {
    roletalk_string string;
    string.data = data;
    string.len = len;
    return string;
}

/// A payload of a kind, a pointer and a length.
static inline roletalk_data roletalk_data_of(int32_t kind, const void *bytes, size_t len) {
    roletalk_data data;
    data.kind = kind;
    data.len = len;
    data.bytes = bytes;
    return data;
}

/// The payload that says nothing.
static inline roletalk_data roletalk_data_null(void) {
    return roletalk_data_of(ROLETALK_DATA_NULL, NULL, 0);
}

/// A payload of true (not 0) or false.
static inline roletalk_data roletalk_data_boolean(int value) {
    static const unsigned char bytes[2] = {0, 1};
    return roletalk_data_of(ROLETALK_DATA_BOOLEAN, &bytes[value != 0], 1);
}

/// A payload of text, which is not copied.
static inline roletalk_data roletalk_data_text(roletalk_string text) {
    return roletalk_data_of(ROLETALK_DATA_TEXT, text.data, text.len);
}

/// A payload of bytes, which are not copied.
static inline roletalk_data roletalk_data_binary(const void *bytes, size_t len) {
    return roletalk_data_of(ROLETALK_DATA_BINARY, bytes, len);
}

/// A payload of JSON text, which is not copied.
static inline roletalk_data roletalk_data_json(roletalk_string json) {
    return roletalk_data_of(ROLETALK_DATA_JSON, json.data, json.len);
}

/// A payload of a number, which must live as long as the payload.
static inline roletalk_data roletalk_data_number(const roletalk_number *number) {
    return roletalk_data_of(ROLETALK_DATA_NUMBER, number ? number->text : NULL,
                            number ? number->len : 0);
}

/// A header, neither part of which is copied: roletalk_data_text and roletalk_data_binary make values.
static inline roletalk_header roletalk_header_of(roletalk_string name, roletalk_data value) {
    roletalk_header header;
    header.name = name;
    header.value = value;
    return header;
}

/// The value of the first header of this name; null when there is none.
static inline roletalk_data roletalk_header_value(const roletalk_header *headers, size_t count,
                                                  roletalk_string name) {
    size_t i, at;
    for (i = 0; i < count; i++) {
        if (headers[i].name.len != name.len) continue;
        for (at = 0; at < name.len && headers[i].name.data[at] == name.data[at]; at++) continue;
        if (at == name.len) return headers[i].value;
    }
    return roletalk_data_null();
}

#if !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
static inline roletalk_data roletalk_data_number_of(const roletalk_number *number,
                                                    roletalk_number *room) {
    (void)room;
    return roletalk_data_number(number);
}
static inline roletalk_data roletalk_data_number_of_int64(int64_t value, roletalk_number *room) {
    roletalk_number_from_int64(value, room);
    return roletalk_data_number(room);
}
static inline roletalk_data roletalk_data_number_of_uint64(uint64_t value, roletalk_number *room) {
    roletalk_number_from_uint64(value, room);
    return roletalk_data_number(room);
}
static inline roletalk_data roletalk_data_number_of_double(double value, roletalk_number *room) {
    roletalk_number_from_double(value, room);
    return roletalk_data_number(room);
}
/// In C11 it also takes integers and floating-point numbers themselves: the payload lives as long as the block
/// that it is made in. What is neither does not compile.
#define roletalk_data_number(number)                                                               \
    _Generic((number),                                                                             \
        roletalk_number *: roletalk_data_number_of,                                                \
        const roletalk_number *: roletalk_data_number_of,                                          \
        _Bool: roletalk_data_number_of_int64,                                                      \
        char: roletalk_data_number_of_int64,                                                       \
        signed char: roletalk_data_number_of_int64,                                                \
        short: roletalk_data_number_of_int64,                                                      \
        int: roletalk_data_number_of_int64,                                                        \
        long: roletalk_data_number_of_int64,                                                       \
        long long: roletalk_data_number_of_int64,                                                  \
        unsigned char: roletalk_data_number_of_uint64,                                             \
        unsigned short: roletalk_data_number_of_uint64,                                            \
        unsigned: roletalk_data_number_of_uint64,                                                  \
        unsigned long: roletalk_data_number_of_uint64,                                             \
        unsigned long long: roletalk_data_number_of_uint64,                                        \
        float: roletalk_data_number_of_double,                                                     \
        double: roletalk_data_number_of_double)((number), &(roletalk_number){0, {0}})
#endif

#endif  /* ROLETALK_H */
