/* Every function with arguments that cannot be: an error each time, and nothing worse. */
#include <limits.h>

#include "check.h"

static counter drops;

static void never_in(void *user_data, const rt_incoming *in) {
    (void)user_data, (void)in;
    FAIL("called");
}
static void never_outcome(void *user_data, const rt_outcome *outcome) {
    (void)user_data, (void)outcome;
    FAIL("called");
}
static void never_reply(void *user_data, const rt_reply *reply) {
    (void)user_data, (void)reply;
    FAIL("called");
}
static void never_event(void *user_data, const rt_event *event) {
    (void)user_data, (void)event;
}
static void never_ready(void *user_data) {
    (void)user_data;
    FAIL("called");
}
static void never_readable(void *user_data, const rt_reply *reply, rt_readable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}
static void never_writable(void *user_data, const rt_reply *reply, rt_writable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}
static void never_log(void *user_data, const rt_log_record *record) {
    (void)user_data, (void)record;
    FAIL("called");
}
static void never_unit(void *user_data, rt_unit unit) {
    (void)user_data, (void)unit;
    FAIL("called");
}
static void never_info(void *user_data, const rt_unit_info *info) {
    (void)user_data, (void)info;
    FAIL("called");
}

#define DROPPED(handler) handler_##handler(never_##handler, &drops, count_drop)
#define never_rt_incoming_handler never_in
#define never_rt_outcome_handler never_outcome
#define never_rt_reply_handler never_reply
#define never_rt_event_handler never_event
#define never_rt_ready_handler never_ready
#define never_rt_readable_handler never_readable
#define never_rt_writable_handler never_writable

/* One call that takes a closure: it fails, and drop is called all the same. */
#define EXPECT_DROP(status, call)                                                                  \
    do {                                                                                           \
        long before_ = counted(&drops);                                                            \
        EXPECT(status, call);                                                                      \
        wait_count(&drops, before_ + 1);                                                           \
    } while (0)

/* All functions that take handles, with a number that is none. */
static void wrong_handles(uint64_t id) {
    rt_peer peer = {id};
    rt_listener listener = {id};
    rt_role role = {id};
    rt_destination to = {id};
    rt_unit unit = {id};
    rt_context context = {id};
    rt_answer answer = {id};
    rt_survey survey = {id};
    rt_readable readable = {id};
    rt_writable writable = {id};
    rt_operation operation = {id};
    rt_string s = RT_STR("s");
    rt_data d = rt_null();
    char buffer[64];
    size_t len;
    int32_t flag;
    int fd;
    const int32_t bad = RT_INVALID_HANDLE;
    rt_peer_stats peer_stats;
    rt_unit_stats unit_stats;
    rt_connection_stats connection_stats;
    rt_reply reply;
    rt_incoming in;
    peer_stats.struct_size = sizeof peer_stats;
    unit_stats.struct_size = sizeof unit_stats;
    connection_stats.struct_size = sizeof connection_stats;
    reply.struct_size = sizeof reply;
    in.struct_size = sizeof in;

    EXPECT(bad, rt_peer_close(peer));
    EXPECT(bad, rt_peer_drain(peer, 0, &flag));
    EXPECT(bad, rt_peer_id(peer, buffer, sizeof buffer, &len));
    EXPECT(bad, rt_peer_set_tag(peer, s, s));
    EXPECT(bad, rt_peer_add_key(peer, s, s));
    EXPECT(bad, rt_peer_remove_key(peer, s));
    EXPECT(bad, rt_peer_role(peer, s, 0, &role));
    EXPECT(bad, rt_peer_destination(peer, s, &to));
    EXPECT(bad, rt_peer_each_unit(peer, never_unit, NULL));
    EXPECT_DROP(bad, rt_peer_layer(peer, DROPPED(rt_incoming_handler)));
    EXPECT(bad, rt_peer_listen(peer, s, NULL, &listener));
    EXPECT(bad, rt_peer_accept_fd(peer, -1, 0));
    EXPECT(bad, rt_peer_connect(peer, s, NULL, &unit));
    EXPECT_DROP(bad, rt_peer_connect_async(peer, s, NULL, DROPPED(rt_reply_handler), NULL));
    EXPECT(bad, rt_peer_disconnect(peer, s));
    EXPECT(bad, rt_peer_get_stats(peer, &peer_stats));
    EXPECT_DROP(bad, rt_peer_on_event(peer, DROPPED(rt_event_handler), NULL));
    EXPECT(bad, rt_fd(peer, &fd));
    EXPECT(bad, rt_poll(peer, 0, &len));
    EXPECT(bad, rt_listener_url(listener, buffer, sizeof buffer, &len));
    EXPECT(bad, rt_listener_close(listener));
    EXPECT_DROP(bad, rt_role_handle(role, RT_REQUEST, s, DROPPED(rt_incoming_handler)));
    EXPECT_DROP(bad, rt_role_layer(role, DROPPED(rt_incoming_handler)));
    EXPECT(bad, rt_role_enable(role));
    EXPECT(bad, rt_role_disable(role));
    EXPECT(bad, rt_role_is_active(role, &flag));
    EXPECT(bad, rt_context_respond(context, d));
    EXPECT(bad, rt_context_reject(context, s));
    EXPECT(bad, rt_context_accept_readable(context, d, &readable));
    EXPECT(bad, rt_context_accept_writable(context, d, &writable));
    EXPECT(bad, rt_context_view(context, &in));
    EXPECT(bad, rt_context_unit(context, &unit));
    EXPECT(bad, rt_context_set_data(context, d));
    EXPECT_DROP(bad, rt_context_on_outcome(context, DROPPED(rt_outcome_handler)));
    CHECK(rt_context_defer(context, &context) != RT_OK);
    CHECK(rt_context_next(context) != RT_OK);
    EXPECT(bad, rt_destination_ready(to, 0));
    EXPECT(bad, rt_destination_each_unit(to, never_unit, NULL));
    EXPECT(bad, rt_destination_send(to, s, d, NULL));
    EXPECT_DROP(bad, rt_destination_on_room(to, NULL, DROPPED(rt_ready_handler)));
    EXPECT(bad, rt_destination_broadcast(to, s, d, NULL, &len));
    EXPECT(bad, rt_destination_request(to, s, d, NULL, &answer));
    EXPECT_DROP(bad, rt_destination_request_async(to, s, d, NULL, DROPPED(rt_reply_handler), NULL));
    EXPECT(bad, rt_destination_survey(to, s, d, NULL, &survey));
    EXPECT_DROP(bad, rt_destination_survey_async(to, s, d, NULL, DROPPED(rt_reply_handler), NULL));
    EXPECT(bad, rt_destination_readable(to, s, d, NULL, &readable, NULL));
    EXPECT(bad, rt_destination_writable(to, s, d, NULL, &writable, NULL));
    EXPECT_DROP(bad,
                rt_destination_readable_async(to, s, d, NULL, DROPPED(rt_readable_handler), NULL));
    EXPECT_DROP(bad,
                rt_destination_writable_async(to, s, d, NULL, DROPPED(rt_writable_handler), NULL));
    EXPECT(bad, rt_answer_view(answer, &reply));
    EXPECT(bad, rt_answer_unit(answer, &unit));
    EXPECT(bad, rt_answer_free(answer));
    EXPECT(bad, rt_survey_next(survey, 0, &answer));
    EXPECT(bad, rt_survey_free(survey));
    EXPECT(bad, rt_operation_cancel(operation));
    EXPECT(bad, rt_operation_free(operation));
    EXPECT(bad, rt_readable_read(readable, buffer, sizeof buffer, 0, &len));
    EXPECT_DROP(bad, rt_readable_on_ready(readable, DROPPED(rt_ready_handler)));
    EXPECT(bad, rt_readable_unit(readable, &unit));
    EXPECT(bad, rt_readable_abort(readable, s));
    EXPECT(bad, rt_readable_close(readable));
    EXPECT(bad, rt_writable_write(writable, buffer, 1, 0, &len));
    EXPECT_DROP(bad, rt_writable_on_ready(writable, DROPPED(rt_ready_handler)));
    EXPECT(bad, rt_writable_unit(writable, &unit));
    EXPECT(bad, rt_writable_finish(writable, 0));
    EXPECT(bad, rt_writable_abort(writable, s));
    EXPECT(bad, rt_writable_close(writable));
    EXPECT(bad, rt_unit_clone(unit, &unit));
    EXPECT(bad, rt_unit_free(unit));
    EXPECT(bad, rt_unit_id(unit, buffer, sizeof buffer, &len));
    EXPECT(bad, rt_unit_name(unit, buffer, sizeof buffer, &len));
    EXPECT(bad, rt_unit_describe(unit, never_info, NULL));
    EXPECT(bad, rt_unit_is_open(unit, &flag));
    EXPECT(bad, rt_unit_close(unit));
    EXPECT(bad, rt_unit_get_stats(unit, &unit_stats));
    EXPECT(bad, rt_unit_get_connection_stats(unit, 0, &connection_stats));
}

static void echo(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_readable readable;
    rt_context deferred;
    EXPECT(RT_INVALID_ARGUMENT, rt_context_accept_readable(in->context, rt_null(), &readable));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_accept_readable(in->context, rt_null(), NULL));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_accept_writable(in->context, rt_null(), NULL));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_defer(in->context, NULL));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_view(in->context, NULL));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_unit(in->context, NULL));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_next(in->context));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_set_data(in->context, rt_null()));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_on_outcome(in->context, DROPPED(rt_outcome_handler)));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_reject(in->context, rt_string_of(NULL, 3)));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_respond(in->context, rt_data_of(RT_BINARY, NULL, 1)));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_respond(in->context, rt_data_of(77, "x", 1)));
    EXPECT(RT_DATA, rt_context_respond(in->context, rt_data_of(RT_NUMBER, "x", 1)));
    EXPECT(RT_DATA, rt_context_respond(in->context, rt_data_of(RT_NULL, "x", 1)));
    EXPECT(RT_DATA, rt_context_respond(in->context, rt_data_of(RT_BOOLEAN, "x", 1)));
    EXPECT(RT_DATA, rt_context_respond(in->context, rt_data_of(RT_TEXT, "\xff", 1)));
    OK(rt_context_defer(in->context, &deferred));
    OK(rt_context_respond(deferred, rt_null()));
}

/* Good handles, other arguments that cannot be. */
static void wrong_values(void) {
    const int32_t bad = RT_INVALID_ARGUMENT;
    const rt_string null = rt_string_of(NULL, 1), huge = rt_string_of("x", SIZE_MAX),
                    binary = RT_STR("\xff\xfe"), s = RT_STR("s");
    rt_data d = rt_null();
    pair p = connect_pair(RT_CALLBACKS_THREAD);
    handle(&p, RT_REQUEST, "echo", echo, NULL);
    OK(rt_destination_request(p.to, RT_STR("echo"), d, NULL, NULL));

    rt_peer peer;
    rt_peer_options options;
    memset(&options, 0, sizeof options);
    EXPECT(bad, rt_peer_new(NULL, NULL));
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.struct_size = 3;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.struct_size = sizeof options;
    options.callbacks = 9;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.callbacks = 0;
    options.name = binary;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.name = null;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.name = huge;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.name = s;
    options.tag_count = 1;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.tag_count = 0;
    options.key_count = SIZE_MAX;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.key_count = 0;
    options.reconnect_jitter = 2;
    EXPECT(bad, rt_peer_new(&options, &peer));
    options.reconnect_jitter = 0;
    rt_limits limits;
    memset(&limits, 0, sizeof limits);
    options.limits = &limits;
    EXPECT(bad, rt_peer_new(&options, &peer));

    rt_listener listener;
    rt_listen_options listen;
    memset(&listen, 0, sizeof listen);
    listen.struct_size = sizeof listen;
    EXPECT(RT_IO, rt_peer_listen(p.server, RT_STR("nonsense"), NULL, &listener));
    EXPECT(bad, rt_peer_listen(p.server, null, NULL, &listener));
    listen.path = RT_STR("no-slash");
    EXPECT(bad, rt_peer_listen(p.server, RT_STR("127.0.0.1:0"), &listen, &listener));
    listen.path = RT_STR("/path");
    listen.tls_key = RT_STR("not PEM");
    EXPECT(RT_TLS, rt_peer_listen(p.server, RT_STR("127.0.0.1:0"), &listen, &listener));
    EXPECT(bad, rt_peer_accept_fd(p.server, -1, 0));

    rt_unit unit;
    rt_connect_options connect;
    memset(&connect, 0, sizeof connect);
    connect.struct_size = sizeof connect;
    EXPECT(bad, rt_peer_connect(p.client, RT_STR("http://x"), NULL, &unit));
    connect.header_count = 1;
    EXPECT(bad, rt_peer_connect(p.client, RT_STR("ws://127.0.0.1:1"), &connect, &unit));
    connect.header_count = 0;
    connect.tls_ca = RT_STR("not PEM");
    EXPECT(RT_TLS, rt_peer_connect(p.client, RT_STR("wss://127.0.0.1:1"), &connect, &unit));
    EXPECT_DROP(bad, rt_peer_connect_async(p.client, RT_STR("nonsense"), NULL,
                                           DROPPED(rt_reply_handler), NULL));

    EXPECT(bad, rt_peer_add_key(p.client, RT_STR(""), s));
    EXPECT(bad, rt_peer_add_key(p.client, s, RT_STR("")));
    EXPECT(bad, rt_peer_set_tag(p.client, null, s));
    rt_role role;
    rt_destination to;
    EXPECT(bad, rt_peer_role(p.client, RT_STR(""), 0, &role));
    EXPECT(bad, rt_peer_role(p.client, s, 0, NULL));
    EXPECT(bad, rt_peer_destination(p.client, RT_STR(""), &to));
    EXPECT(bad, rt_peer_destination(p.client, s, NULL));
    EXPECT(bad, rt_peer_each_unit(p.client, NULL, NULL));
    EXPECT(bad, rt_destination_each_unit(p.to, NULL, NULL));
    EXPECT(bad, rt_peer_id(p.client, NULL, 1, NULL));
    EXPECT(RT_TOO_LARGE, rt_peer_id(p.client, NULL, 0, NULL));
    EXPECT(bad, rt_peer_get_stats(p.client, NULL));
    EXPECT(bad, rt_role_handle(p.role, 9, s, HANDLER(rt_incoming_handler, never_in, NULL)));
    EXPECT_DROP(bad, rt_role_handle(p.role, 0, s, DROPPED(rt_incoming_handler)));
    EXPECT_DROP(bad, rt_role_handle(p.role, RT_REQUEST, s,
                                    handler_rt_incoming_handler(NULL, &drops, count_drop)));
    EXPECT_DROP(bad,
                rt_peer_layer(p.server, handler_rt_incoming_handler(NULL, &drops, count_drop)));
    EXPECT(bad, rt_role_is_active(p.role, NULL));

    rt_send_options send;
    memset(&send, 0, sizeof send);
    rt_readable readable;
    rt_writable writable;
    rt_survey survey;
    EXPECT(bad, rt_destination_send(p.to, s, d, &send));
    send.struct_size = sizeof send;
    send.unit.id = 12345;
    EXPECT(RT_INVALID_HANDLE, rt_destination_send(p.to, s, d, &send));
    send.unit.id = 0;
    send.timeout_ms = -1;
    EXPECT(bad, rt_destination_request(p.to, s, d, &send, NULL));
    EXPECT_DROP(bad,
                rt_destination_request_async(p.to, s, d, &send, DROPPED(rt_reply_handler), NULL));
    EXPECT_DROP(bad,
                rt_destination_request_async(
                    p.to, s, d, NULL, handler_rt_reply_handler(NULL, &drops, count_drop), NULL));
    EXPECT(bad, rt_destination_survey(p.to, s, d, NULL, NULL));
    EXPECT(bad, rt_destination_survey(p.to, s, d, &send, &survey));
    EXPECT(bad, rt_destination_readable(p.to, s, d, NULL, NULL, NULL));
    EXPECT(bad, rt_destination_writable(p.to, s, d, NULL, NULL, NULL));
    EXPECT(bad, rt_destination_readable(p.to, null, d, NULL, &readable, NULL));
    EXPECT(bad, rt_destination_writable(p.to, binary, d, NULL, &writable, NULL));
    EXPECT(bad, rt_destination_broadcast(p.to, null, d, NULL, NULL));
    EXPECT_DROP(bad, rt_destination_readable_async(p.to, null, d, NULL,
                                                   DROPPED(rt_readable_handler), NULL));
    EXPECT_DROP(bad, rt_destination_writable_async(p.to, null, d, NULL,
                                                   DROPPED(rt_writable_handler), NULL));
    EXPECT_DROP(bad,
                rt_destination_survey_async(p.to, null, d, NULL, DROPPED(rt_reply_handler), NULL));
    static char long_name[70000];
    memset(long_name, 'x', sizeof long_name);
    EXPECT(bad, rt_destination_send(p.to, rt_string_of(long_name, sizeof long_name), d, NULL));

    EXPECT_DROP(bad, rt_log(9, handler_rt_log_handler(never_log, &drops, count_drop)));
    EXPECT_DROP(bad, rt_log(-1, handler_rt_log_handler(never_log, &drops, count_drop)));

    rt_number number;
    int32_t flag;
    double value;
    int64_t integer;
    uint64_t natural;
    EXPECT(bad, rt_number_from_double(1, NULL));
    EXPECT(bad, rt_number_from_int64(1, NULL));
    EXPECT(bad, rt_number_from_uint64(1, NULL));
    OK(rt_number_from_int64(INT64_MIN, &number));
    OK(rt_data_as_int64(rt_number_data(&number), &integer));
    CHECK(integer == INT64_MIN);
    EXPECT(RT_DATA, rt_data_as_uint64(rt_number_data(&number), &natural));
    OK(rt_number_from_uint64(UINT64_MAX, &number));
    OK(rt_data_as_uint64(rt_number_data(&number), &natural));
    CHECK(natural == UINT64_MAX);
    OK(rt_data_as_double(rt_number_data(&number), &value));
    EXPECT(bad, rt_data_as_double(rt_number_data(&number), NULL));
    EXPECT(RT_DATA, rt_data_as_double(rt_null(), &value));
    OK(rt_data_as_bool(rt_boolean(7), &flag));
    CHECK(flag == 1);
    EXPECT(RT_DATA, rt_data_as_bool(rt_null(), &flag));
    EXPECT(bad, rt_data_as_bool(rt_boolean(1), NULL));

    /* Handles of another kind. */
    wrong_handles(p.server.id ^ (1ULL << 32));
    rt_role not_a_role = {p.server.id};
    EXPECT(RT_INVALID_HANDLE, rt_role_enable(not_a_role));
    rt_peer not_a_peer = {p.role.id};
    EXPECT(RT_INVALID_HANDLE, rt_peer_close(not_a_peer));
    uint64_t before = p.server.id;
    close_pair(&p);
    wrong_handles(before);
}

int main(void) {
    counter_init(&drops);
    CHECK(rt_abi_version() == RT_ABI_VERSION);
    CHECK(rt_version().len > 0 && is(rt_status_name(RT_NO_UNIT), "NO_UNIT"));
    CHECK(is(rt_status_name(INT_MIN), "UNKNOWN"));
    wrong_handles(0);
    wrong_handles(1);
    wrong_handles(~0ULL >> 8);
    wrong_values();
    counter_destroy(&drops);
    puts("arguments: ok");
    return 0;
}
