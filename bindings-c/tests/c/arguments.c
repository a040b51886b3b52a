/* Every function with arguments that cannot be: an error each time, and nothing worse. */
#include <limits.h>

#include "check.h"

static counter drops;

static void never_in(void *user_data, const roletalk_incoming *in) {
    (void)user_data, (void)in;
    FAIL("called");
}
static void never_outcome(void *user_data, const roletalk_outcome *outcome) {
    (void)user_data, (void)outcome;
    FAIL("called");
}
static void never_reply(void *user_data, const roletalk_reply *reply) {
    (void)user_data, (void)reply;
    FAIL("called");
}
static void never_event(void *user_data, const roletalk_event *event) {
    (void)user_data, (void)event;
}
static void never_ready(void *user_data) {
    (void)user_data;
    FAIL("called");
}
static void never_cancel(void *user_data, int32_t reason) {
    (void)user_data, (void)reason;
    FAIL("called");
}
static void never_readable(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}
static void never_writable(void *user_data, const roletalk_reply *reply, roletalk_writable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}
static void never_log(void *user_data, const roletalk_log_record *record) {
    (void)user_data, (void)record;
    FAIL("called");
}
static void never_unit(void *user_data, roletalk_unit unit) {
    (void)user_data, (void)unit;
    FAIL("called");
}
static void never_info(void *user_data, const roletalk_unit_info *info) {
    (void)user_data, (void)info;
    FAIL("called");
}

static void never_identity(void *user_data, const roletalk_identity *identity) {
    (void)user_data, (void)identity;
    FAIL("called");
}
static void never_certificate(void *user_data, const roletalk_certificate *certificate) {
    (void)user_data, (void)certificate;
    FAIL("called");
}

#define DROPPED(handler) handler_##handler(never_##handler, &drops, count_drop)
#define never_roletalk_incoming_handler never_in
#define never_roletalk_outcome_handler never_outcome
#define never_roletalk_reply_handler never_reply
#define never_roletalk_event_handler never_event
#define never_roletalk_ready_handler never_ready
#define never_roletalk_cancel_handler never_cancel
#define never_roletalk_readable_handler never_readable
#define never_roletalk_writable_handler never_writable

/* One call that takes a closure: it fails, and drop is called all the same. */
#define EXPECT_DROP(status, call)                                                                  \
    do {                                                                                           \
        long before_ = counted(&drops);                                                            \
        EXPECT(status, call);                                                                      \
        wait_count(&drops, before_ + 1);                                                           \
    } while (0)

/* All functions that take handles, with a number that is none. */
static void wrong_handles(uint64_t id) {
    roletalk_peer peer = {id};
    roletalk_listener listener = {id};
    roletalk_role role = {id};
    roletalk_destination to = {id};
    roletalk_unit unit = {id};
    roletalk_context context = {id};
    roletalk_answer answer = {id};
    roletalk_survey survey = {id};
    roletalk_readable readable = {id};
    roletalk_writable writable = {id};
    roletalk_operation operation = {id};
    roletalk_upgrade upgrade = {id};
    roletalk_string s = ROLETALK_STR("s");
    roletalk_data d = roletalk_data_null();
    char buffer[64];
    size_t len;
    int32_t flag;
    int fd;
    const roletalk_status bad = ROLETALK_STATUS_INVALID_HANDLE;
    roletalk_peer_stats peer_stats;
    roletalk_unit_stats unit_stats;
    roletalk_connection_stats connection_stats;
    roletalk_reply reply;
    roletalk_incoming in;
    roletalk_failure failure;
    roletalk_trace trace;
    roletalk_header header;
    roletalk_send_options options;
    int64_t millis;
    memset(&failure, 0, sizeof failure);
    failure.struct_size = sizeof failure;
    trace.struct_size = sizeof trace;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.parent = context;
    peer_stats.struct_size = sizeof peer_stats;
    unit_stats.struct_size = sizeof unit_stats;
    connection_stats.struct_size = sizeof connection_stats;
    reply.struct_size = sizeof reply;
    in.struct_size = sizeof in;

    EXPECT(bad, roletalk_peer_close(peer));
    EXPECT(bad, roletalk_peer_drain(peer, 0, &flag));
    EXPECT(bad, roletalk_peer_id(peer, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_peer_set_tag(peer, s, s));
    EXPECT(bad, roletalk_peer_add_key(peer, s, s));
    EXPECT(bad, roletalk_peer_remove_key(peer, s));
    EXPECT(bad, roletalk_peer_role(peer, s, 1, &role));
    EXPECT(bad, roletalk_peer_destination(peer, s, &to));
    EXPECT(bad, roletalk_peer_each_unit(peer, never_unit, NULL));
    EXPECT_DROP(bad, roletalk_peer_layer(peer, DROPPED(roletalk_incoming_handler)));
    EXPECT(bad, roletalk_peer_listen(peer, s, NULL, &listener));
    EXPECT(bad, roletalk_peer_accept_fd(peer, -1, 0));
    EXPECT(bad, roletalk_peer_connect(peer, s, NULL, &unit));
    EXPECT_DROP(bad,
                roletalk_peer_connect_async(peer, s, NULL, DROPPED(roletalk_reply_handler), NULL));
    EXPECT(bad, roletalk_peer_disconnect(peer, s));
    EXPECT(bad, roletalk_peer_get_stats(peer, &peer_stats));
    EXPECT_DROP(bad, roletalk_peer_on_event(peer, DROPPED(roletalk_event_handler), NULL));
    EXPECT(bad, roletalk_peer_fd(peer, &fd));
    EXPECT(bad, roletalk_peer_poll(peer, 0, &len));
    EXPECT(bad, roletalk_listener_url(listener, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_listener_close(listener));
    EXPECT_DROP(bad, roletalk_role_handle(role, ROLETALK_KIND_REQUEST, s,
                                          DROPPED(roletalk_incoming_handler)));
    EXPECT_DROP(bad, roletalk_role_handle_with(role, ROLETALK_KIND_REQUEST, s, NULL,
                                               DROPPED(roletalk_incoming_handler)));
    EXPECT_DROP(bad, roletalk_role_layer(role, DROPPED(roletalk_incoming_handler)));
    EXPECT(bad, roletalk_role_enable(role));
    EXPECT(bad, roletalk_role_disable(role));
    EXPECT(bad, roletalk_role_is_active(role, &flag));
    EXPECT(bad, roletalk_context_respond(context, d));
    EXPECT(bad, roletalk_context_reject(context, s));
    EXPECT(bad, roletalk_context_accept_readable(context, d, &readable));
    EXPECT(bad, roletalk_context_accept_writable(context, d, &writable));
    EXPECT(bad, roletalk_context_view(context, &in));
    EXPECT(bad, roletalk_context_unit(context, &unit));
    EXPECT(bad, roletalk_context_set_data(context, d));
    EXPECT_DROP(bad, roletalk_context_on_outcome(context, DROPPED(roletalk_outcome_handler)));
    EXPECT(bad, roletalk_context_reject_with(context, &failure));
    EXPECT(bad, roletalk_context_header(context, s, &d));
    EXPECT(bad, roletalk_context_header_at(context, 0, &header));
    EXPECT(bad, roletalk_context_set_header(context, s, txt("x")));
    EXPECT(bad, roletalk_context_trace(context, &trace));
    EXPECT(bad, roletalk_context_remaining_ms(context, &millis));
    EXPECT(bad, roletalk_context_cancel_reason(context, &flag));
    EXPECT_DROP(bad, roletalk_context_on_cancel(context, DROPPED(roletalk_cancel_handler)));
    CHECK(roletalk_context_defer(context, &context) != ROLETALK_STATUS_OK);
    CHECK(roletalk_context_next(context) != ROLETALK_STATUS_OK);
    EXPECT(bad, roletalk_destination_ready(to, 0));
    EXPECT(bad, roletalk_destination_each_unit(to, never_unit, NULL));
    EXPECT(bad, roletalk_destination_set_max_in_flight(to, 1));
    EXPECT(bad, roletalk_destination_send(to, s, d, NULL));
    EXPECT(bad, roletalk_destination_send(to, s, d, &options));
    EXPECT_DROP(bad, roletalk_destination_on_room(to, NULL, DROPPED(roletalk_ready_handler)));
    EXPECT(bad, roletalk_destination_broadcast(to, s, d, NULL, &len));
    EXPECT(bad, roletalk_destination_request(to, s, d, NULL, &answer));
    EXPECT_DROP(bad, roletalk_destination_request_async(to, s, d, NULL,
                                                        DROPPED(roletalk_reply_handler), NULL));
    EXPECT(bad, roletalk_destination_survey(to, s, d, NULL, &survey));
    EXPECT_DROP(bad, roletalk_destination_survey_async(to, s, d, NULL,
                                                       DROPPED(roletalk_reply_handler), NULL));
    EXPECT(bad, roletalk_destination_readable(to, s, d, NULL, &readable, NULL));
    EXPECT(bad, roletalk_destination_writable(to, s, d, NULL, &writable, NULL));
    EXPECT_DROP(bad, roletalk_destination_readable_async(to, s, d, NULL,
                                                         DROPPED(roletalk_readable_handler), NULL));
    EXPECT_DROP(bad, roletalk_destination_writable_async(to, s, d, NULL,
                                                         DROPPED(roletalk_writable_handler), NULL));
    EXPECT(bad, roletalk_answer_view(answer, &reply));
    EXPECT(bad, roletalk_answer_unit(answer, &unit));
    EXPECT(bad, roletalk_answer_free(answer));
    EXPECT(bad, roletalk_survey_next(survey, 0, &answer));
    EXPECT(bad, roletalk_survey_close(survey));
    EXPECT(bad, roletalk_operation_cancel(operation));
    EXPECT(bad, roletalk_operation_free(operation));
    EXPECT(bad, roletalk_readable_read(readable, buffer, sizeof buffer, 0, &len));
    EXPECT_DROP(bad, roletalk_readable_on_ready(readable, DROPPED(roletalk_ready_handler)));
    EXPECT(bad, roletalk_readable_unit(readable, &unit));
    EXPECT(bad, roletalk_readable_abort(readable, s));
    EXPECT(bad, roletalk_readable_close(readable));
    EXPECT(bad, roletalk_writable_write(writable, buffer, 1, 0, &len));
    EXPECT_DROP(bad, roletalk_writable_on_ready(writable, DROPPED(roletalk_ready_handler)));
    EXPECT(bad, roletalk_writable_unit(writable, &unit));
    EXPECT(bad, roletalk_writable_finish(writable, 0));
    EXPECT(bad, roletalk_writable_abort(writable, s));
    EXPECT(bad, roletalk_writable_close(writable));
    EXPECT(bad, roletalk_unit_clone(unit, &unit));
    EXPECT(bad, roletalk_unit_free(unit));
    EXPECT(bad, roletalk_unit_id(unit, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_unit_name(unit, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_unit_describe(unit, never_info, NULL));
    EXPECT(bad, roletalk_unit_is_open(unit, &flag));
    EXPECT(bad, roletalk_unit_disconnect(unit));
    EXPECT(bad, roletalk_unit_get_stats(unit, &unit_stats));
    EXPECT(bad, roletalk_unit_get_connection_stats(unit, 0, &connection_stats));
    EXPECT(bad, roletalk_unit_identity(unit, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_unit_describe_identity(unit, never_identity, NULL));
    EXPECT(bad, roletalk_unit_each_identity(unit, never_identity, NULL));
    EXPECT(bad, roletalk_peer_set_policy(peer, s));
    EXPECT(bad, roletalk_peer_watch_policy(peer, s));
    EXPECT(bad, roletalk_upgrade_path(upgrade, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_upgrade_header(upgrade, s, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_upgrade_bearer(upgrade, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_upgrade_address(upgrade, buffer, sizeof buffer, &len));
    EXPECT(bad, roletalk_upgrade_certificate(upgrade, never_certificate, NULL));
    EXPECT(bad, roletalk_upgrade_allow(upgrade, s));
    EXPECT(bad, roletalk_upgrade_deny(upgrade, 1, s));
    EXPECT(bad, roletalk_upgrade_free(upgrade));
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_readable readable;
    roletalk_context deferred;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_accept_readable(in->context, roletalk_data_null(), &readable));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_accept_readable(in->context, roletalk_data_null(), NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_accept_writable(in->context, roletalk_data_null(), NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_defer(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_view(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_unit(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_next(in->context));
    roletalk_failure failure;
    memset(&failure, 0, sizeof failure);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_reject_with(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_reject_with(in->context, &failure));
    failure.struct_size = sizeof failure;
    failure.code = roletalk_string_of(NULL, 3);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_reject_with(in->context, &failure));
    roletalk_data value;
    roletalk_header header;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_header(in->context, str("name"), NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_header(in->context, roletalk_string_of(NULL, 3), &value));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_header_at(in->context, 0, NULL));
    EXPECT(ROLETALK_STATUS_END, roletalk_context_header_at(in->context, 0, &header));
    EXPECT(ROLETALK_STATUS_END, roletalk_context_header_at(in->context, (size_t)-1, &header));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_set_header(in->context, str("name"), roletalk_data_null()));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_set_header(in->context, str("name"), roletalk_data_binary(NULL, 1)));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_set_header(in->context, str("name"), txt("\xff")));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_set_header(in->context, str("NAME"), txt("x")));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_trace(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_remaining_ms(in->context, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_cancel_reason(in->context, NULL));
    EXPECT_DROP(ROLETALK_STATUS_INVALID_ARGUMENT,
                roletalk_context_on_cancel(
                    in->context, handler_roletalk_cancel_handler(NULL, &drops, count_drop)));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_set_data(in->context, roletalk_data_null()));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_on_outcome(in->context, DROPPED(roletalk_outcome_handler)));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_reject(in->context, roletalk_string_of(NULL, 3)));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_respond(in->context, roletalk_data_of(ROLETALK_DATA_BINARY, NULL, 1)));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_respond(in->context, roletalk_data_of(77, "x", 1)));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(in->context, roletalk_data_of(ROLETALK_DATA_NUMBER, "x", 1)));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(in->context, roletalk_data_of(ROLETALK_DATA_NULL, "x", 1)));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(in->context, roletalk_data_of(ROLETALK_DATA_BOOLEAN, "x", 1)));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(in->context, roletalk_data_of(ROLETALK_DATA_TEXT, "\xff", 1)));
    OK(roletalk_context_defer(in->context, &deferred));
    OK(roletalk_context_respond(deferred, roletalk_data_null()));
}

/* Good handles, other arguments that cannot be. */
static void wrong_values(void) {
    const roletalk_status bad = ROLETALK_STATUS_INVALID_ARGUMENT;
    const roletalk_string null = roletalk_string_of(NULL, 1),
                          huge = roletalk_string_of("x", SIZE_MAX),
                          binary = ROLETALK_STR("\xff\xfe"), s = ROLETALK_STR("s");
    roletalk_data d = roletalk_data_null();
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), d, NULL, NULL));

    roletalk_peer peer;
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    EXPECT(bad, roletalk_peer_new(NULL, NULL));
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.struct_size = 3;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.struct_size = sizeof options;
    options.callbacks = 9;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.callbacks = 0;
    options.name = binary;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.name = null;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.name = huge;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.name = s;
    options.tag_count = 1;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.tag_count = 0;
    options.key_count = SIZE_MAX;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.key_count = 0;
    options.reconnect_jitter = 2;
    EXPECT(bad, roletalk_peer_new(&options, &peer));
    options.reconnect_jitter = 0;
    roletalk_limits limits;
    memset(&limits, 0, sizeof limits);
    options.limits = &limits;
    EXPECT(bad, roletalk_peer_new(&options, &peer));

    roletalk_listener listener;
    roletalk_listen_options listen;
    memset(&listen, 0, sizeof listen);
    listen.struct_size = sizeof listen;
    EXPECT(ROLETALK_STATUS_IO,
           roletalk_peer_listen(p.server, ROLETALK_STR("nonsense"), NULL, &listener));
    EXPECT(bad, roletalk_peer_listen(p.server, null, NULL, &listener));
    listen.path = ROLETALK_STR("no-slash");
    EXPECT(bad, roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listen, &listener));
    listen.path = ROLETALK_STR("/path");
    listen.tls_key = ROLETALK_STR("not PEM");
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listen, &listener));
    EXPECT(bad, roletalk_peer_accept_fd(p.server, -1, 0));

    roletalk_unit unit;
    roletalk_connect_options connect;
    memset(&connect, 0, sizeof connect);
    connect.struct_size = sizeof connect;
    EXPECT(bad, roletalk_peer_connect(p.client, ROLETALK_STR("http://x"), NULL, &unit));
    connect.header_count = 1;
    EXPECT(bad, roletalk_peer_connect(p.client, ROLETALK_STR("ws://127.0.0.1:1"), &connect, &unit));
    connect.header_count = 0;
    connect.tls_ca = ROLETALK_STR("not PEM");
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_peer_connect(p.client, ROLETALK_STR("wss://127.0.0.1:1"), &connect, &unit));
    EXPECT_DROP(bad, roletalk_peer_connect_async(p.client, ROLETALK_STR("nonsense"), NULL,
                                                 DROPPED(roletalk_reply_handler), NULL));

    EXPECT(bad, roletalk_peer_add_key(p.client, ROLETALK_STR(""), s));
    EXPECT(bad, roletalk_peer_add_key(p.client, s, ROLETALK_STR("")));
    EXPECT(bad, roletalk_peer_set_tag(p.client, null, s));
    roletalk_role role;
    roletalk_destination to;
    EXPECT(bad, roletalk_peer_role(p.client, ROLETALK_STR(""), 1, &role));
    EXPECT(bad, roletalk_peer_role(p.client, s, 1, NULL));
    EXPECT(bad, roletalk_peer_destination(p.client, ROLETALK_STR(""), &to));
    EXPECT(bad, roletalk_peer_destination(p.client, s, NULL));
    EXPECT(bad, roletalk_peer_each_unit(p.client, NULL, NULL));
    EXPECT(bad, roletalk_destination_each_unit(p.to, NULL, NULL));
    EXPECT(bad, roletalk_peer_id(p.client, NULL, 1, NULL));
    EXPECT(ROLETALK_STATUS_TOO_LARGE, roletalk_peer_id(p.client, NULL, 0, NULL));
    EXPECT(bad, roletalk_peer_get_stats(p.client, NULL));
    EXPECT(bad,
           roletalk_role_handle(p.role, 9, s, HANDLER(roletalk_incoming_handler, never_in, NULL)));
    EXPECT_DROP(bad, roletalk_role_handle(p.role, 0, s, DROPPED(roletalk_incoming_handler)));
    EXPECT_DROP(bad,
                roletalk_role_handle(p.role, ROLETALK_KIND_REQUEST, s,
                                     handler_roletalk_incoming_handler(NULL, &drops, count_drop)));
    roletalk_handler_options treated;
    memset(&treated, 0, sizeof treated);
    EXPECT_DROP(bad, roletalk_role_handle_with(p.role, ROLETALK_KIND_REQUEST, s, &treated,
                                               DROPPED(roletalk_incoming_handler)));
    treated.struct_size = sizeof treated;
    EXPECT_DROP(
        bad, roletalk_role_handle_with(p.role, 0, s, &treated, DROPPED(roletalk_incoming_handler)));
    EXPECT_DROP(bad, roletalk_peer_layer(
                         p.server, handler_roletalk_incoming_handler(NULL, &drops, count_drop)));
    EXPECT(bad, roletalk_role_is_active(p.role, NULL));

    roletalk_send_options send;
    memset(&send, 0, sizeof send);
    roletalk_readable readable;
    roletalk_writable writable;
    roletalk_survey survey;
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.struct_size = sizeof send;
    send.unit.id = 12345;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_send(p.to, s, d, &send));
    send.unit.id = 0;
    send.parent.id = 12345;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_send(p.to, s, d, &send));
    send.parent.id = p.server.id;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_request(p.to, s, d, &send, NULL));
    send.parent.id = 0;
    roletalk_header header = roletalk_header_of(str("name"), txt("value"));
    send.header_count = 1;
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.headers = &header;
    send.header_count = SIZE_MAX;
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.header_count = 1;
    header.value = roletalk_data_json(str("1"));
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    header.value = roletalk_data_binary(NULL, 1);
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    header.value = txt("\xff");
    EXPECT(ROLETALK_STATUS_DATA, roletalk_destination_send(p.to, s, d, &send));
    header.value = txt("value");
    const char *const names[] = {"", "Upper", "with space", "rt-own", "\xff"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        header.name = str(names[i]);
        EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
        EXPECT_DROP(bad, roletalk_destination_request_async(p.to, s, d, &send,
                                                            DROPPED(roletalk_reply_handler), NULL));
    }
    header.name = null;
    EXPECT(bad, roletalk_destination_broadcast(p.to, s, d, &send, NULL));
    send.headers = NULL;
    send.header_count = 0;
    send.traceparent = ROLETALK_STR("00-nonsense");
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.traceparent = roletalk_string_of(NULL, 0);
    send.baggage = ROLETALK_STR("only=baggage");
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.baggage = null;
    EXPECT(bad, roletalk_destination_send(p.to, s, d, &send));
    send.baggage = roletalk_string_of(NULL, 0);
    /* A program that was compiled before these were there: what lies behind is not its options. */
    send.headers = (const roletalk_header *)1;
    send.header_count = 7;
    send.parent.id = 12345;
    send.struct_size = offsetof(roletalk_send_options, headers);
    OK(roletalk_destination_send(p.to, s, d, &send));
    memset(&send, 0, sizeof send);
    send.struct_size = sizeof send;
    send.timeout_ms = -1;
    EXPECT(bad, roletalk_destination_request(p.to, s, d, &send, NULL));
    EXPECT_DROP(bad, roletalk_destination_request_async(p.to, s, d, &send,
                                                        DROPPED(roletalk_reply_handler), NULL));
    EXPECT_DROP(
        bad, roletalk_destination_request_async(
                 p.to, s, d, NULL, handler_roletalk_reply_handler(NULL, &drops, count_drop), NULL));
    EXPECT(bad, roletalk_destination_survey(p.to, s, d, NULL, NULL));
    EXPECT(bad, roletalk_destination_survey(p.to, s, d, &send, &survey));
    EXPECT(bad, roletalk_destination_readable(p.to, s, d, NULL, NULL, NULL));
    EXPECT(bad, roletalk_destination_writable(p.to, s, d, NULL, NULL, NULL));
    EXPECT(bad, roletalk_destination_readable(p.to, null, d, NULL, &readable, NULL));
    EXPECT(bad, roletalk_destination_writable(p.to, binary, d, NULL, &writable, NULL));
    EXPECT(bad, roletalk_destination_broadcast(p.to, null, d, NULL, NULL));
    EXPECT_DROP(bad, roletalk_destination_readable_async(p.to, null, d, NULL,
                                                         DROPPED(roletalk_readable_handler), NULL));
    EXPECT_DROP(bad, roletalk_destination_writable_async(p.to, null, d, NULL,
                                                         DROPPED(roletalk_writable_handler), NULL));
    EXPECT_DROP(bad, roletalk_destination_survey_async(p.to, null, d, NULL,
                                                       DROPPED(roletalk_reply_handler), NULL));
    static char long_name[70000];
    memset(long_name, 'x', sizeof long_name);
    EXPECT(bad, roletalk_destination_send(p.to, roletalk_string_of(long_name, sizeof long_name), d,
                                          NULL));

    EXPECT_DROP(bad, roletalk_log(9, handler_roletalk_log_handler(never_log, &drops, count_drop)));
    EXPECT_DROP(bad, roletalk_log(-1, handler_roletalk_log_handler(never_log, &drops, count_drop)));

    roletalk_number number;
    int32_t flag;
    double value;
    int64_t integer;
    uint64_t natural;
    EXPECT(bad, roletalk_number_from_double(1, NULL));
    EXPECT(bad, roletalk_number_from_int64(1, NULL));
    EXPECT(bad, roletalk_number_from_uint64(1, NULL));
    OK(roletalk_number_from_int64(INT64_MIN, &number));
    OK(roletalk_data_as_int64(roletalk_data_number(&number), &integer));
    const roletalk_number *none = NULL;
    CHECK(roletalk_data_number(none).len == 0);
#ifndef __cplusplus
    /* C11: numbers themselves. */
    CHECK(data_is(roletalk_data_number(41), ROLETALK_DATA_NUMBER, "41"));
    CHECK(data_is(roletalk_data_number(-41L), ROLETALK_DATA_NUMBER, "-41"));
    CHECK(data_is(roletalk_data_number(UINT64_MAX), ROLETALK_DATA_NUMBER, "18446744073709551615"));
    CHECK(data_is(roletalk_data_number(2.5), ROLETALK_DATA_NUMBER, "2.5"));
    CHECK(data_is(roletalk_data_number((unsigned char)200), ROLETALK_DATA_NUMBER, "200"));
#endif
    CHECK(integer == INT64_MIN);
    EXPECT(ROLETALK_STATUS_DATA, roletalk_data_as_uint64(roletalk_data_number(&number), &natural));
    OK(roletalk_number_from_uint64(UINT64_MAX, &number));
    OK(roletalk_data_as_uint64(roletalk_data_number(&number), &natural));
    CHECK(natural == UINT64_MAX);
    OK(roletalk_data_as_double(roletalk_data_number(&number), &value));
    EXPECT(bad, roletalk_data_as_double(roletalk_data_number(&number), NULL));
    EXPECT(ROLETALK_STATUS_DATA, roletalk_data_as_double(roletalk_data_null(), &value));
    OK(roletalk_data_as_bool(roletalk_data_boolean(7), &flag));
    CHECK(flag == 1);
    EXPECT(ROLETALK_STATUS_DATA, roletalk_data_as_bool(roletalk_data_null(), &flag));
    EXPECT(bad, roletalk_data_as_bool(roletalk_data_boolean(1), NULL));

    /* Handles of another kind. */
    wrong_handles(p.server.id ^ (1ULL << 32));
    roletalk_role not_a_role = {p.server.id};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_role_enable(not_a_role));
    roletalk_peer not_a_peer = {p.role.id};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_close(not_a_peer));
    uint64_t before = p.server.id;
    close_pair(&p);
    wrong_handles(before);
}

#define NAME_OF(name)                                                                              \
    case ROLETALK_STATUS_##name:                                                                   \
        return #name

/* Without a default: the compiler tells of a status that is not here. */
static const char *name_of(roletalk_status status) {
    switch (status) {
        NAME_OF(OK);
        NAME_OF(INVALID_ARGUMENT);
        NAME_OF(CLOSED);
        NAME_OF(NO_UNIT);
        NAME_OF(TIMEOUT);
        NAME_OF(REJECTED);
        NAME_OF(CONNECTION_LOST);
        NAME_OF(OVERLOADED);
        NAME_OF(TOO_LARGE);
        NAME_OF(AUTH_REFUSED);
        NAME_OF(CONNECT_FAILED);
        NAME_OF(PROTOCOL);
        NAME_OF(STREAM_CLOSED);
        NAME_OF(DATA);
        NAME_OF(IO);
        NAME_OF(TLS);
        NAME_OF(HANDLER_PANICKED);
        NAME_OF(HANDLER_FAILED);
        NAME_OF(HEARTBEAT_TIMEOUT);
        NAME_OF(UNSUPPORTED);
        NAME_OF(PARENT_CANCELED);
        NAME_OF(END);
        NAME_OF(WOULD_BLOCK);
        NAME_OF(INVALID_HANDLE);
        NAME_OF(WOULD_DEADLOCK);
        NAME_OF(FORKED);
        NAME_OF(CANCELED);
        NAME_OF(INTERNAL);
    }
    return NULL;
}
#undef NAME_OF

static void names_of_statuses(void) {
    int named = 0;
    for (int number = 0; number < 128; number++) {
        const char *name = name_of((roletalk_status)number);
        CHECK(is(roletalk_status_name(number), name ? name : "UNKNOWN"));
        named += name != NULL;
    }
    CHECK(named == 28);
    CHECK(is(roletalk_status_name(INT_MIN), "UNKNOWN"));
}

int main(void) {
    counter_init(&drops);
    CHECK(roletalk_abi_version() == ROLETALK_ABI_VERSION);
    CHECK(roletalk_version().len > 0);
    names_of_statuses();
    wrong_handles(0);
    wrong_handles(1);
    wrong_handles(~0ULL >> 8);
    wrong_values();
    counter_destroy(&drops);
    puts("arguments: ok");
    return 0;
}
