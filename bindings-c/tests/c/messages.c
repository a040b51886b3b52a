/* Messages and requests, in each of the ways in which callbacks run. */
#include "check.h"

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    CHECK(in->struct_size == sizeof *in && in->kind == ROLETALK_KIND_REQUEST);
    CHECK(is(in->role, "r"));
    OK(roletalk_context_respond(in->context, in->data));
    /* What came stays readable; the context has ended. */
    CHECK(is(in->event, "echo"));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_context_respond(in->context, roletalk_data_null()));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_context_reject(in->context, ROLETALK_STR("late")));
}

static void reject(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_reject(in->context, ROLETALK_STR("no, thanks")));
}

static void silent(void *user_data, const roletalk_incoming *in) {
    (void)user_data, (void)in;
}

static void count_message(void *user_data, const roletalk_incoming *in) {
    CHECK(in->kind == ROLETALK_KIND_MESSAGE && data_is(in->data, ROLETALK_DATA_TEXT, "hello"));
    char name[16];
    size_t len;
    OK(roletalk_unit_name(in->unit, name, sizeof name, &len));
    CHECK(is(roletalk_string_of(name, len), "client"));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_unit_free(in->unit));
    count((counter *)user_data);
}

static void ask(pair *p) {
    roletalk_answer answer;
    roletalk_reply reply;
    roletalk_number number;
    OK(roletalk_number_from_double(-1.5, &number));
    const roletalk_data values[] = {roletalk_data_null(),
                                    roletalk_data_boolean(1),
                                    roletalk_data_boolean(0),
                                    txt(""),
                                    txt("gr\xc3\xbc\xc3\x9f"),
                                    roletalk_data_binary("\0\1\2", 3),
                                    roletalk_data_json(ROLETALK_STR("{\"a\":[1,2]}")),
                                    roletalk_data_number(&number)};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        OK(roletalk_destination_request(p->to, ROLETALK_STR("echo"), values[i], NULL, &answer));
        memset(&reply, 0, sizeof reply);
        reply.struct_size = sizeof reply;
        OK(roletalk_answer_view(answer, &reply));
        CHECK(reply.data.kind == values[i].kind && reply.data.len == values[i].len);
        CHECK(reply.data.len == 0 ||
              memcmp(reply.data.bytes, values[i].bytes, reply.data.len) == 0);
        roletalk_unit unit;
        OK(roletalk_answer_unit(answer, &unit));
        char name[16];
        size_t len;
        OK(roletalk_unit_name(unit, name, sizeof name, &len));
        CHECK(is(roletalk_string_of(name, len), "server"));
        OK(roletalk_unit_free(unit));
        OK(roletalk_answer_free(answer));
        EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_answer_free(answer));
    }
    EXPECT(
        ROLETALK_STATUS_REJECTED,
        roletalk_destination_request(p->to, ROLETALK_STR("no"), roletalk_data_null(), NULL, NULL));
    CHECK(is(roletalk_last_error(), "no, thanks"));
    CHECK(roletalk_last_error_hint().len > 0);
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p->to, ROLETALK_STR("silent"), roletalk_data_null(), NULL,
                                        NULL));
    CHECK(is(roletalk_last_error(), "The handler did not answer"));
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p->to, ROLETALK_STR("nothing"), roletalk_data_null(), NULL,
                                        NULL));
}

typedef struct {
    counter calls, drops;
    roletalk_status status;
} replies;

static void on_reply(void *user_data, const roletalk_reply *reply) {
    replies *r = (replies *)user_data;
    CHECK(reply->struct_size == sizeof *reply);
    r->status = reply->status;
    if (reply->status == ROLETALK_STATUS_OK) {
        CHECK(data_is(reply->data, ROLETALK_DATA_TEXT, "hi") && reply->error.len == 0 &&
              reply->unit.id != 0);
    }
    count(&r->calls);
}

static void drop_reply(void *user_data) {
    replies *r = (replies *)user_data;
    /* After the call. */
    CHECK(counted(&r->calls) >= counted(&r->drops));
    count(&r->drops);
}

static void ask_without_waiting(pair *p) {
    replies r;
    counter_init(&r.calls), counter_init(&r.drops);
    roletalk_reply_handler handler = handler_roletalk_reply_handler(on_reply, &r, drop_reply);
    enum { N = 500 };
    for (int i = 0; i < N; i++)
        OK(roletalk_destination_request_async(p->to, ROLETALK_STR("echo"), txt("hi"), NULL, handler,
                                              NULL));
    wait_count(&r.drops, N);
    CHECK(counted(&r.calls) == N && r.status == ROLETALK_STATUS_OK);
    /* What fails at once calls nothing but drop. */
    roletalk_destination nobody;
    OK(roletalk_peer_destination(p->client, ROLETALK_STR("nobody"), &nobody));
    EXPECT(ROLETALK_STATUS_NO_UNIT,
           roletalk_destination_request_async(nobody, ROLETALK_STR("x"), roletalk_data_null(), NULL,
                                              handler, NULL));
    CHECK(counted(&r.drops) == N + 1 && counted(&r.calls) == N);
    counter_destroy(&r.calls), counter_destroy(&r.drops);
}

static roletalk_context kept;
static counter keeping;

static void keep(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_defer(in->context, &kept));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_context_respond(in->context, roletalk_data_null()));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_defer(kept, &kept));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_next(kept));
    CHECK(is(in->event, "keep") && data_is(in->data, ROLETALK_DATA_TEXT, "hi"));
    count(&keeping);
}

static void defer_and_cancel(pair *p) {
    replies r;
    counter_init(&r.calls), counter_init(&r.drops), counter_init(&keeping);
    roletalk_reply_handler handler = handler_roletalk_reply_handler(on_reply, &r, drop_reply);
    OK(roletalk_destination_request_async(p->to, ROLETALK_STR("keep"), txt("hi"), NULL, handler,
                                          NULL));
    wait_count(&keeping, 1);
    roletalk_incoming view;
    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    OK(roletalk_context_view(kept, &view));
    CHECK(data_is(view.data, ROLETALK_DATA_TEXT, "hi") && is(view.role, "r") &&
          view.context.id == kept.id);
    roletalk_unit unit;
    OK(roletalk_context_unit(kept, &unit));
    OK(roletalk_unit_free(unit));
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(kept, roletalk_data_json(ROLETALK_STR("{"))));
    OK(roletalk_context_respond(kept, view.data));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_respond(kept, roletalk_data_null()));
    wait_count(&r.drops, 1);
    CHECK(counted(&r.calls) == 1 && r.status == ROLETALK_STATUS_OK);

    roletalk_operation operation;
    OK(roletalk_destination_request_async(p->to, ROLETALK_STR("keep"), txt("hi"), NULL, handler,
                                          &operation));
    wait_count(&keeping, 2);
    OK(roletalk_operation_cancel(operation));
    EXPECT(ROLETALK_STATUS_END, roletalk_operation_cancel(operation));
    wait_count(&r.drops, 2);
    CHECK(counted(&r.calls) == 2 && r.status == ROLETALK_STATUS_CANCELED);
    OK(roletalk_operation_free(operation));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_operation_cancel(operation));
    OK(roletalk_context_reject(kept, ROLETALK_STR("nobody hears it")));

    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_ms = 50;
    EXPECT(ROLETALK_STATUS_TIMEOUT,
           roletalk_destination_request(p->to, ROLETALK_STR("keep"), txt("hi"), &options, NULL));
    /* The request may be over before its handler is. */
    wait_count(&keeping, 3);
    OK(roletalk_context_respond(kept, roletalk_data_null()));
    counter_destroy(&r.calls), counter_destroy(&r.drops), counter_destroy(&keeping);
}

static void one_way(pair *p, counter *messages) {
    enum { N = 1000 };
    long before = counted(messages);
    for (int i = 0; i < N; i++)
        OK(roletalk_destination_send(p->to, ROLETALK_STR("count"), txt("hello"), NULL));
    wait_count(messages, before + N);
    size_t taken = 0;
    OK(roletalk_destination_broadcast(p->to, ROLETALK_STR("count"), txt("hello"), NULL, &taken));
    CHECK(taken == 1);
    wait_count(messages, before + N + 1);
}

static void heard(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_OK && reply->remaining == 0 &&
          data_is(reply->data, ROLETALK_DATA_TEXT, "hi"));
    count((counter *)user_data);
}

static void survey(pair *p) {
    roletalk_survey s;
    roletalk_answer answer;
    OK(roletalk_destination_survey(p->to, ROLETALK_STR("echo"), txt("hi"), NULL, &s));
    OK(roletalk_survey_next(s, -1, &answer));
    roletalk_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_answer_view(answer, &reply));
    CHECK(reply.status == ROLETALK_STATUS_OK && data_is(reply.data, ROLETALK_DATA_TEXT, "hi"));
    OK(roletalk_answer_free(answer));
    EXPECT(ROLETALK_STATUS_END, roletalk_survey_next(s, -1, &answer));
    OK(roletalk_survey_close(s));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_survey_next(s, -1, &answer));

    counter calls;
    counter_init(&calls);
    OK(roletalk_destination_survey_async(p->to, ROLETALK_STR("echo"), txt("hi"), NULL,
                                         handler_roletalk_reply_handler(heard, &calls, count_drop),
                                         NULL));
    /* The call and the drop. */
    wait_count(&calls, 2);
    counter_destroy(&calls);
}

/* Middleware: one that counts outcomes, one that changes payloads, one that refuses, one that takes its
   time. */

static counter outcomes;

static void on_outcome(void *user_data, const roletalk_outcome *outcome) {
    (void)user_data;
    CHECK(outcome->struct_size == sizeof *outcome);
    if (outcome->status == ROLETALK_STATUS_OK &&
        data_is(outcome->data, ROLETALK_DATA_TEXT, "changed"))
        OK(roletalk_context_respond(outcome->context, txt("twice")));
    count(&outcomes);
}

static void observe(void *user_data, const roletalk_incoming *in) {
    OK(roletalk_context_on_outcome(in->context,
                                   handler_roletalk_outcome_handler(on_outcome, user_data, NULL)));
}

static void change(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    if (data_is(in->data, ROLETALK_DATA_TEXT, "change"))
        OK(roletalk_context_set_data(in->context, txt("changed")));
    if (data_is(in->data, ROLETALK_DATA_TEXT, "refuse"))
        OK(roletalk_context_reject(in->context, ROLETALK_STR("refused")));
    CHECK(is(in->event, "echo"));
}

static void *go_on(void *context) {
    roletalk_context *deferred = (roletalk_context *)context;
    OK(roletalk_context_next(*deferred));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_next(*deferred));
    free(deferred);
    return NULL;
}

static void later(void *user_data, const roletalk_incoming *in) {
    pthread_t *thread = (pthread_t *)user_data;
    if (!data_is(in->data, ROLETALK_DATA_TEXT, "later")) return;
    roletalk_context *deferred = (roletalk_context *)malloc(sizeof *deferred);
    OK(roletalk_context_defer(in->context, deferred));
    CHECK(pthread_create(thread, NULL, go_on, deferred) == 0);
}

static void expect_answer(pair *p, const char *ask_with, const char *expected) {
    roletalk_answer answer;
    OK(roletalk_destination_request(p->to, ROLETALK_STR("echo"), txt(ask_with), NULL, &answer));
    roletalk_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_answer_view(answer, &reply));
    if (!data_is(reply.data, ROLETALK_DATA_TEXT, expected)) FAIL("not %s", expected);
    OK(roletalk_answer_free(answer));
}

static void middleware(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    counter_init(&outcomes);
    counter drops;
    counter_init(&drops);
    pthread_t thread;
    OK(roletalk_peer_layer(p.server,
                           handler_roletalk_incoming_handler(observe, &drops, count_drop)));
    OK(roletalk_role_layer(p.role, HANDLER(roletalk_incoming_handler, later, &thread)));
    OK(roletalk_role_layer(p.role, HANDLER(roletalk_incoming_handler, change, NULL)));
    expect_answer(&p, "plain", "plain");
    expect_answer(&p, "change", "twice");
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p.to, ROLETALK_STR("echo"), txt("refuse"), NULL, NULL));
    CHECK(is(roletalk_last_error(), "refused"));
    expect_answer(&p, "later", "later");
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(counted(&outcomes) == 4);
    CHECK(counted(&drops) == 0);
    close_pair(&p);
    CHECK(counted(&drops) == 1);
    counter_destroy(&drops), counter_destroy(&outcomes);
}

static void everything(int32_t callbacks) {
    pair p = connect_pair(callbacks);
    counter messages;
    counter_init(&messages);
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "no", reject, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "silent", silent, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "keep", keep, NULL);
    handle(&p, ROLETALK_KIND_MESSAGE, "count", count_message, &messages);
    ask(&p);
    ask_without_waiting(&p);
    defer_and_cancel(&p);
    one_way(&p, &messages);
    survey(&p);
    close_pair(&p);
    counter_destroy(&messages);
}

int main(void) {
    everything(ROLETALK_CALLBACKS_THREAD);
    everything(ROLETALK_CALLBACKS_INLINE);
    middleware();
    puts("messages: ok");
    return 0;
}
