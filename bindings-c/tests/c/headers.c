/* What goes with messages, requests, streams and answers besides their payload: headers, trace context, and how a
   handler has failed. */
#include "check.h"

static const char PARENT[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
static const char OTHER[] = "00-0af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00";
static const char RAW[] = {'\xff', 0, 'r'};

static roletalk_data raw(void) {
    return roletalk_data_binary(RAW, sizeof RAW);
}

static int is_raw(roletalk_data data) {
    return data.kind == ROLETALK_DATA_BINARY && data.len == sizeof RAW &&
           memcmp(data.bytes, RAW, sizeof RAW) == 0;
}

static roletalk_send_options options_with(const roletalk_header *headers, size_t header_count) {
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.headers = headers;
    options.header_count = header_count;
    return options;
}

static roletalk_reply view_of(roletalk_answer answer) {
    roletalk_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_answer_view(answer, &reply));
    return reply;
}

/* Handlers. */

static counter seen;

/* "tenant" twice, and "raw". */
static void see_headers(const roletalk_incoming *in) {
    roletalk_data value;
    roletalk_header header;
    OK(roletalk_context_header(in->context, ROLETALK_STR("tenant"), &value));
    CHECK(data_is(value, ROLETALK_DATA_TEXT, "blue"));
    OK(roletalk_context_header(in->context, ROLETALK_STR("raw"), &value));
    CHECK(is_raw(value));
    OK(roletalk_context_header(in->context, ROLETALK_STR("none"), &value));
    CHECK(value.kind == ROLETALK_DATA_NULL && value.len == 0);
    OK(roletalk_context_header_at(in->context, 2, &header));
    CHECK(is(header.name, "tenant") && data_is(header.value, ROLETALK_DATA_TEXT, "green"));
    EXPECT(ROLETALK_STATUS_END, roletalk_context_header_at(in->context, 3, &header));
    count(&seen);
}

static void set_headers(roletalk_context context) {
    OK(roletalk_context_set_header(context, ROLETALK_STR("served-by"), txt("here")));
    OK(roletalk_context_set_header(context, ROLETALK_STR("raw"), raw()));
}

static void at_once(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    see_headers(in);
    set_headers(in->context);
    if (in->kind == ROLETALK_KIND_MESSAGE) return;
    OK(roletalk_context_respond(in->context, in->data));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_context_set_header(in->context, ROLETALK_STR("late"), txt("x")));
}

static void *later(void *argument) {
    roletalk_incoming in;
    in.struct_size = sizeof in;
    roletalk_context context = *(roletalk_context *)argument;
    free(argument);
    OK(roletalk_context_view(context, &in));
    see_headers(&in);
    set_headers(context);
    OK(roletalk_context_respond(context, in.data));
    return NULL;
}

static void deferred(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context *context = (roletalk_context *)malloc(sizeof *context);
    CHECK(context != NULL);
    OK(roletalk_context_defer(in->context, context));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, later, context) == 0 && pthread_detach(thread) == 0);
}

static void accept_stream(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    see_headers(in);
    set_headers(in->context);
    roletalk_readable stream;
    OK(roletalk_context_accept_readable(in->context, in->data, &stream));
    OK(roletalk_readable_close(stream));
}

/* Of a handler whose middleware adds a header of its own when it has answered. */
static void add_one(void *user_data, const roletalk_outcome *outcome) {
    (void)user_data;
    OK(roletalk_context_set_header(outcome->context, ROLETALK_STR("seen-by"), txt("layer")));
}

static void layer(void *user_data, const roletalk_incoming *in) {
    if (!is(in->event, "layered")) return;
    OK(roletalk_context_on_outcome(in->context,
                                   HANDLER(roletalk_outcome_handler, add_one, user_data)));
}

/* What comes back. */

static void check_answer(const roletalk_reply *reply, size_t headers) {
    CHECK(reply->status == ROLETALK_STATUS_OK && reply->header_count == headers);
    CHECK(is(reply->headers[0].name, "served-by"));
    CHECK(data_is(reply->headers[0].value, ROLETALK_DATA_TEXT, "here"));
    CHECK(is_raw(roletalk_header_value(reply->headers, headers, ROLETALK_STR("raw"))));
    CHECK(roletalk_header_value(reply->headers, headers, ROLETALK_STR("no")).kind ==
          ROLETALK_DATA_NULL);
    CHECK(reply->error_code.len == 0 && reply->retry_after_ms == -1 && reply->unhandled == 0);
}

static void on_reply(void *user_data, const roletalk_reply *reply) {
    check_answer(reply, 2);
    count((counter *)user_data);
}

static void headers_go_and_come(int32_t callbacks) {
    const roletalk_header headers[] = {
        roletalk_header_of(ROLETALK_STR("tenant"), txt("blue")),
        roletalk_header_of(ROLETALK_STR("raw"), raw()),
        roletalk_header_of(ROLETALK_STR("tenant"), txt("green")),
    };
    roletalk_send_options options = options_with(headers, 3);
    counter replies;
    counter_init(&replies);
    counter_init(&seen);
    pair p = connect_pair(callbacks);
    OK(roletalk_role_layer(p.role, HANDLER(roletalk_incoming_handler, layer, NULL)));
    handle(&p, ROLETALK_KIND_REQUEST, "once", at_once, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "layered", at_once, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "deferred", deferred, NULL);
    handle(&p, ROLETALK_KIND_MESSAGE, "once", at_once, NULL);
    handle(&p, ROLETALK_KIND_READABLE, "once", accept_stream, NULL);
    roletalk_answer answer;
    for (int required = 0; required < 2; required++) {
        options.headers_required = required;
        static const char *const events[] = {"once", "deferred", "layered"};
        for (int i = 0; i < 3; i++) {
            OK(roletalk_destination_request(p.to, str(events[i]), txt("x"), &options, &answer));
            roletalk_reply reply = view_of(answer);
            check_answer(&reply, i == 2 ? 3 : 2);
            roletalk_data by =
                roletalk_header_value(reply.headers, reply.header_count, ROLETALK_STR("seen-by"));
            CHECK(i == 2 ? data_is(by, ROLETALK_DATA_TEXT, "layer") : by.len == 0);
            OK(roletalk_answer_free(answer));
        }
    }
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("once"), txt("x"), &options,
                                          HANDLER(roletalk_reply_handler, on_reply, &replies),
                                          NULL));
    OK(roletalk_destination_survey_async(p.to, ROLETALK_STR("deferred"), txt("x"), &options,
                                         HANDLER(roletalk_reply_handler, on_reply, &replies),
                                         NULL));
    wait_count(&replies, 2);
    roletalk_survey survey;
    OK(roletalk_destination_survey(p.to, ROLETALK_STR("once"), txt("x"), &options, &survey));
    OK(roletalk_survey_next(survey, -1, &answer));
    roletalk_reply reply = view_of(answer);
    check_answer(&reply, 2);
    OK(roletalk_answer_free(answer));
    OK(roletalk_survey_close(survey));
    roletalk_writable stream;
    OK(roletalk_destination_writable(p.to, ROLETALK_STR("once"), txt("x"), &options, &stream,
                                     &answer));
    reply = view_of(answer);
    check_answer(&reply, 2);
    OK(roletalk_answer_free(answer));
    OK(roletalk_writable_close(stream));
    OK(roletalk_destination_send(p.to, ROLETALK_STR("once"), txt("x"), &options));
    OK(roletalk_destination_broadcast(p.to, ROLETALK_STR("once"), txt("x"), &options, NULL));
    wait_count(&seen, 12);
    close_pair(&p);
    counter_destroy(&replies);
    counter_destroy(&seen);
}

/* Limits. */

static size_t expected_len;

static void measure(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_data value;
    OK(roletalk_context_header(in->context, ROLETALK_STR("long"), &value));
    CHECK(value.len == expected_len);
    EXPECT(ROLETALK_STATUS_TOO_LARGE,
           roletalk_context_set_header(
               in->context, ROLETALK_STR("long"),
               roletalk_data_text(roletalk_string_of((const char *)value.bytes, value.len + 1))));
    OK(roletalk_context_set_header(in->context, ROLETALK_STR("long"), value));
    EXPECT(ROLETALK_STATUS_TOO_LARGE,
           roletalk_context_set_header(in->context, ROLETALK_STR("more"), txt("x")));
    OK(roletalk_context_respond(in->context, in->data));
}

static void headers_have_limits(void) {
    static char text[8193];
    memset(text, 'x', sizeof text);
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_REQUEST, "measure", measure, NULL);
    expected_len = 8192 - strlen("long");
    roletalk_header header = roletalk_header_of(
        ROLETALK_STR("long"), roletalk_data_text(roletalk_string_of(text, expected_len)));
    roletalk_send_options options = options_with(&header, 1);
    roletalk_answer answer;
    OK(roletalk_destination_request(p.to, ROLETALK_STR("measure"), txt("x"), &options, &answer));
    roletalk_reply reply = view_of(answer);
    CHECK(reply.header_count == 1 && reply.headers[0].value.len == expected_len);
    OK(roletalk_answer_free(answer));
    header.value.len++;
    EXPECT(ROLETALK_STATUS_TOO_LARGE,
           roletalk_destination_request(p.to, ROLETALK_STR("measure"), txt("x"), &options, NULL));
    CHECK(is(roletalk_last_error(), "The headers have 8193 bytes, more than the limit of 8192"));
    EXPECT(ROLETALK_STATUS_TOO_LARGE,
           roletalk_destination_send(p.to, ROLETALK_STR("measure"), txt("x"), &options));
    static roletalk_header many[129];
    for (size_t i = 0; i < 129; i++) many[i] = roletalk_header_of(ROLETALK_STR("h"), txt(""));
    options = options_with(many, 129);
    EXPECT(ROLETALK_STATUS_TOO_LARGE,
           roletalk_destination_send(p.to, ROLETALK_STR("measure"), txt("x"), &options));
    close_pair(&p);
}

/* How a handler fails. */

static roletalk_failure failure(void) {
    roletalk_failure made;
    memset(&made, 0, sizeof made);
    made.struct_size = sizeof made;
    made.reason = ROLETALK_STR("There is no such order");
    made.code = ROLETALK_STR("NOT_FOUND");
    made.data = ROLETALK_STR("{\"ids\": [7, 8]}");
    made.retry_after_ms = 1500;
    return made;
}

static void fail(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_failure made = failure();
    made.data = ROLETALK_STR("{no JSON");
    EXPECT(ROLETALK_STATUS_DATA, roletalk_context_reject_with(in->context, &made));
    static char text[9000];
    memset(text, 'c', sizeof text);
    made = failure();
    made.code = roletalk_string_of(text, sizeof text);
    EXPECT(ROLETALK_STATUS_TOO_LARGE, roletalk_context_reject_with(in->context, &made));
    made = failure();
    OK(roletalk_context_reject_with(in->context, &made));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_reject_with(in->context, &made));
}

/* One that says no more than it must. */
static void fail_shortly(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_failure made;
    memset(&made, 0, sizeof made);
    made.struct_size = sizeof made;
    made.reason = ROLETALK_STR("no");
    made.retry_after_ms = -1;
    OK(roletalk_context_reject_with(in->context, &made));
}

/* Middleware that looks at it, and sends another one on. */
static void replace(void *user_data, const roletalk_outcome *outcome) {
    (void)user_data;
    CHECK(outcome->status == ROLETALK_STATUS_HANDLER_FAILED);
    CHECK(is(outcome->error_code, "NOT_FOUND") && is(outcome->error_data, "{\"ids\": [7, 8]}"));
    CHECK(outcome->retry_after_ms == 1500);
    roletalk_failure made = failure();
    made.code = ROLETALK_STR("REPLACED");
    OK(roletalk_context_reject_with(outcome->context, &made));
}

static void look_at_failures(void *user_data, const roletalk_incoming *in) {
    if (is(in->event, "replaced"))
        OK(roletalk_context_on_outcome(in->context,
                                       HANDLER(roletalk_outcome_handler, replace, user_data)));
}

static void check_failure(const roletalk_reply *reply, const char *code) {
    CHECK(reply->status == ROLETALK_STATUS_REJECTED && is(reply->error, "There is no such order"));
    CHECK(is(reply->error_code, code) && is(reply->error_data, "{\"ids\": [7, 8]}"));
    CHECK(reply->retry_after_ms == 1500 && reply->unhandled == 0 && reply->header_count == 0);
}

static void on_failure(void *user_data, const roletalk_reply *reply) {
    check_failure(reply, "NOT_FOUND");
    count((counter *)user_data);
}

static void failures_have_codes(int32_t callbacks) {
    counter replies;
    counter_init(&replies);
    pair p = connect_pair(callbacks);
    handle(&p, ROLETALK_KIND_REQUEST, "fail", fail, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "replaced", fail, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "shortly", fail_shortly, NULL);
    handle(&p, ROLETALK_KIND_READABLE, "fail", fail, NULL);
    OK(roletalk_role_layer(p.role, HANDLER(roletalk_incoming_handler, look_at_failures, NULL)));
    roletalk_writable stream;
    for (int i = 0; i < 3; i++) {
        if (i < 2)
            EXPECT(ROLETALK_STATUS_REJECTED,
                   roletalk_destination_request(p.to, str(i ? "replaced" : "fail"), txt("x"), NULL,
                                                NULL));
        else
            EXPECT(ROLETALK_STATUS_REJECTED,
                   roletalk_destination_writable(p.to, ROLETALK_STR("fail"), txt("x"), NULL,
                                                 &stream, NULL));
        CHECK(is(roletalk_last_error(), "There is no such order"));
        CHECK(is(roletalk_last_error_code(), i == 1 ? "REPLACED" : "NOT_FOUND"));
        CHECK(is(roletalk_last_error_data(), "{\"ids\": [7, 8]}"));
        CHECK(roletalk_last_error_retry_after_ms() == 1500);
        CHECK(roletalk_last_error_unhandled() == 0);
    }
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("fail"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, on_failure, &replies),
                                          NULL));
    wait_count(&replies, 1);
    roletalk_survey survey;
    roletalk_answer answer;
    OK(roletalk_destination_survey(p.to, ROLETALK_STR("fail"), txt("x"), NULL, &survey));
    OK(roletalk_survey_next(survey, -1, &answer));
    roletalk_reply reply = view_of(answer);
    check_failure(&reply, "NOT_FOUND");
    OK(roletalk_answer_free(answer));
    OK(roletalk_survey_close(survey));
    static const struct {
        const char *event;
        int32_t unhandled;
    } others[] = {{"shortly", 0}, {"nobody handles this", 1}};
    for (int i = 0; i < 2; i++) {
        EXPECT(ROLETALK_STATUS_REJECTED,
               roletalk_destination_request(p.to, str(others[i].event), txt("x"), NULL, NULL));
        CHECK(roletalk_last_error_code().len == 0 && roletalk_last_error_data().len == 0);
        CHECK(roletalk_last_error_retry_after_ms() == -1);
        CHECK(roletalk_last_error_unhandled() == others[i].unhandled);
    }
    close_pair(&p);
    counter_destroy(&replies);
}

/* Trace context. */

static counter traced;
static roletalk_destination onwards;

static void check_trace(roletalk_context context, const char *parent, const char *state,
                        const char *baggage) {
    roletalk_trace trace;
    memset(&trace, 0, sizeof trace);
    trace.struct_size = sizeof trace;
    OK(roletalk_context_trace(context, &trace));
    CHECK(strcmp(trace.traceparent, parent) == 0);
    CHECK(is(trace.tracestate, state) && is(trace.baggage, baggage));
}

static void end_trace(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    if (is(in->event, "own"))
        check_trace(in->context, OTHER, "", "");
    else if (is(in->event, "none"))
        check_trace(in->context, "", "", "");
    else
        check_trace(in->context, PARENT, "a=b", "k=v");
    roletalk_data value;
    /* Headers are not handed down. */
    OK(roletalk_context_header(in->context, ROLETALK_STR("tenant"), &value));
    CHECK(value.kind == ROLETALK_DATA_NULL);
    count(&traced);
    if (in->kind == ROLETALK_KIND_REQUEST) OK(roletalk_context_respond(in->context, in->data));
}

static void hand_trace_on(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_send_options options = options_with(NULL, 0);
    check_trace(in->context, PARENT, "a=b", "k=v");
    OK(roletalk_destination_send(onwards, ROLETALK_STR("none"), in->data, &options));
    options.parent = in->context;
    OK(roletalk_destination_send(onwards, ROLETALK_STR("traced"), in->data, &options));
    OK(roletalk_destination_broadcast(onwards, ROLETALK_STR("traced"), in->data, &options, NULL));
    options.traceparent = str(OTHER);
    OK(roletalk_destination_send(onwards, ROLETALK_STR("own"), in->data, &options));
    if (in->kind == ROLETALK_KIND_REQUEST) OK(roletalk_context_respond(in->context, in->data));
}

static void traces_are_handed_on(int32_t callbacks) {
    counter_init(&traced);
    pair first = connect_pair(callbacks), last = connect_pair(callbacks);
    onwards = last.to;
    static const char *const events[] = {"none", "traced", "own"};
    for (int i = 0; i < 3; i++) handle(&last, ROLETALK_KIND_MESSAGE, events[i], end_trace, NULL);
    handle(&first, ROLETALK_KIND_REQUEST, "on", hand_trace_on, NULL);
    handle(&first, ROLETALK_KIND_MESSAGE, "on", hand_trace_on, NULL);
    roletalk_header header = roletalk_header_of(ROLETALK_STR("tenant"), txt("blue"));
    roletalk_send_options options = options_with(&header, 1);
    options.traceparent = str(PARENT);
    options.tracestate = ROLETALK_STR("a=b");
    options.baggage = ROLETALK_STR("k=v");
    OK(roletalk_destination_request(first.to, ROLETALK_STR("on"), txt("x"), &options, NULL));
    wait_count(&traced, 4);
    /* A message is not canceled, but has a trace context. */
    OK(roletalk_destination_send(first.to, ROLETALK_STR("on"), txt("x"), &options));
    wait_count(&traced, 8);
    close_pair(&first);
    close_pair(&last);
    counter_destroy(&traced);
}

int main(void) {
    for (int inline_ = 0; inline_ < 2; inline_++) {
        int32_t callbacks = inline_ ? ROLETALK_CALLBACKS_INLINE : ROLETALK_CALLBACKS_THREAD;
        headers_go_and_come(callbacks);
        failures_have_codes(callbacks);
        traces_are_handed_on(callbacks);
    }
    headers_have_limits();
    puts("headers: ok");
    return 0;
}
