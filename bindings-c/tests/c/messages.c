/* Messages and requests, in each of the ways in which callbacks run. */
#include "check.h"

static void echo(void *user_data, const rt_incoming *in) {
    (void)user_data;
    CHECK(in->struct_size == sizeof *in && in->kind == RT_REQUEST);
    CHECK(is(in->role, "r"));
    OK(rt_context_respond(in->context, in->data));
    /* What came stays readable; the context has ended. */
    CHECK(is(in->event, "echo"));
    EXPECT(RT_INVALID_HANDLE, rt_context_respond(in->context, rt_null()));
    EXPECT(RT_INVALID_HANDLE, rt_context_reject(in->context, RT_STR("late")));
}

static void reject(void *user_data, const rt_incoming *in) {
    (void)user_data;
    OK(rt_context_reject(in->context, RT_STR("no, thanks")));
}

static void silent(void *user_data, const rt_incoming *in) {
    (void)user_data, (void)in;
}

static void count_message(void *user_data, const rt_incoming *in) {
    CHECK(in->kind == RT_MESSAGE && data_is(in->data, RT_TEXT, "hello"));
    char name[16];
    size_t len;
    OK(rt_unit_name(in->unit, name, sizeof name, &len));
    CHECK(is(rt_string_of(name, len), "client"));
    EXPECT(RT_INVALID_ARGUMENT, rt_unit_free(in->unit));
    count((counter *)user_data);
}

static void ask(pair *p) {
    rt_answer answer;
    rt_reply reply;
    rt_number number;
    OK(rt_number_from_double(-1.5, &number));
    const rt_data values[] = {rt_null(),
                              rt_boolean(1),
                              rt_boolean(0),
                              txt(""),
                              txt("gr\xc3\xbc\xc3\x9f"),
                              rt_binary("\0\1\2", 3),
                              rt_json(RT_STR("{\"a\":[1,2]}")),
                              rt_number_data(&number)};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        OK(rt_destination_request(p->to, RT_STR("echo"), values[i], NULL, &answer));
        memset(&reply, 0, sizeof reply);
        reply.struct_size = sizeof reply;
        OK(rt_answer_view(answer, &reply));
        CHECK(reply.data.kind == values[i].kind && reply.data.len == values[i].len);
        CHECK(reply.data.len == 0 ||
              memcmp(reply.data.bytes, values[i].bytes, reply.data.len) == 0);
        rt_unit unit;
        OK(rt_answer_unit(answer, &unit));
        char name[16];
        size_t len;
        OK(rt_unit_name(unit, name, sizeof name, &len));
        CHECK(is(rt_string_of(name, len), "server"));
        OK(rt_unit_free(unit));
        OK(rt_answer_free(answer));
        EXPECT(RT_INVALID_HANDLE, rt_answer_free(answer));
    }
    EXPECT(RT_REJECTED, rt_destination_request(p->to, RT_STR("no"), rt_null(), NULL, NULL));
    CHECK(is(rt_last_error(), "no, thanks"));
    EXPECT(RT_REJECTED, rt_destination_request(p->to, RT_STR("silent"), rt_null(), NULL, NULL));
    CHECK(is(rt_last_error(), "The handler did not answer"));
    EXPECT(RT_REJECTED, rt_destination_request(p->to, RT_STR("nothing"), rt_null(), NULL, NULL));
}

typedef struct {
    counter calls, drops;
    int32_t status;
} replies;

static void on_reply(void *user_data, const rt_reply *reply) {
    replies *r = (replies *)user_data;
    CHECK(reply->struct_size == sizeof *reply);
    r->status = reply->status;
    if (reply->status == RT_OK) {
        CHECK(data_is(reply->data, RT_TEXT, "hi") && reply->error.len == 0 && reply->unit.id != 0);
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
    rt_reply_handler handler = handler_rt_reply_handler(on_reply, &r, drop_reply);
    enum { N = 500 };
    for (int i = 0; i < N; i++)
        OK(rt_destination_request_async(p->to, RT_STR("echo"), txt("hi"), NULL, handler, NULL));
    wait_count(&r.drops, N);
    CHECK(counted(&r.calls) == N && r.status == RT_OK);
    /* What fails at once calls nothing but drop. */
    rt_destination nobody;
    OK(rt_peer_destination(p->client, RT_STR("nobody"), &nobody));
    EXPECT(RT_NO_UNIT,
           rt_destination_request_async(nobody, RT_STR("x"), rt_null(), NULL, handler, NULL));
    CHECK(counted(&r.drops) == N + 1 && counted(&r.calls) == N);
    counter_destroy(&r.calls), counter_destroy(&r.drops);
}

static rt_context kept;
static counter keeping;

static void keep(void *user_data, const rt_incoming *in) {
    (void)user_data;
    OK(rt_context_defer(in->context, &kept));
    EXPECT(RT_INVALID_HANDLE, rt_context_respond(in->context, rt_null()));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_defer(kept, &kept));
    EXPECT(RT_INVALID_ARGUMENT, rt_context_next(kept));
    CHECK(is(in->event, "keep") && data_is(in->data, RT_TEXT, "hi"));
    count(&keeping);
}

static void defer_and_cancel(pair *p) {
    replies r;
    counter_init(&r.calls), counter_init(&r.drops), counter_init(&keeping);
    rt_reply_handler handler = handler_rt_reply_handler(on_reply, &r, drop_reply);
    OK(rt_destination_request_async(p->to, RT_STR("keep"), txt("hi"), NULL, handler, NULL));
    wait_count(&keeping, 1);
    rt_incoming view;
    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    OK(rt_context_view(kept, &view));
    CHECK(data_is(view.data, RT_TEXT, "hi") && is(view.role, "r") && view.context.id == kept.id);
    rt_unit unit;
    OK(rt_context_unit(kept, &unit));
    OK(rt_unit_free(unit));
    EXPECT(RT_DATA, rt_context_respond(kept, rt_json(RT_STR("{"))));
    OK(rt_context_respond(kept, view.data));
    EXPECT(RT_INVALID_HANDLE, rt_context_respond(kept, rt_null()));
    wait_count(&r.drops, 1);
    CHECK(counted(&r.calls) == 1 && r.status == RT_OK);

    rt_operation operation;
    OK(rt_destination_request_async(p->to, RT_STR("keep"), txt("hi"), NULL, handler, &operation));
    wait_count(&keeping, 2);
    OK(rt_operation_cancel(operation));
    EXPECT(RT_END, rt_operation_cancel(operation));
    wait_count(&r.drops, 2);
    CHECK(counted(&r.calls) == 2 && r.status == RT_CANCELED);
    OK(rt_operation_free(operation));
    EXPECT(RT_INVALID_HANDLE, rt_operation_cancel(operation));
    OK(rt_context_reject(kept, RT_STR("nobody hears it")));

    rt_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_ms = 50;
    EXPECT(RT_TIMEOUT, rt_destination_request(p->to, RT_STR("keep"), txt("hi"), &options, NULL));
    /* The request may be over before its handler is. */
    wait_count(&keeping, 3);
    OK(rt_context_respond(kept, rt_null()));
    counter_destroy(&r.calls), counter_destroy(&r.drops), counter_destroy(&keeping);
}

static void one_way(pair *p, counter *messages) {
    enum { N = 1000 };
    long before = counted(messages);
    for (int i = 0; i < N; i++) OK(rt_destination_send(p->to, RT_STR("count"), txt("hello"), NULL));
    wait_count(messages, before + N);
    size_t taken = 0;
    OK(rt_destination_broadcast(p->to, RT_STR("count"), txt("hello"), NULL, &taken));
    CHECK(taken == 1);
    wait_count(messages, before + N + 1);
}

static void heard(void *user_data, const rt_reply *reply) {
    CHECK(reply->status == RT_OK && reply->remaining == 0 && data_is(reply->data, RT_TEXT, "hi"));
    count((counter *)user_data);
}

static void survey(pair *p) {
    rt_survey s;
    rt_answer answer;
    OK(rt_destination_survey(p->to, RT_STR("echo"), txt("hi"), NULL, &s));
    OK(rt_survey_next(s, -1, &answer));
    rt_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(rt_answer_view(answer, &reply));
    CHECK(reply.status == RT_OK && data_is(reply.data, RT_TEXT, "hi"));
    OK(rt_answer_free(answer));
    EXPECT(RT_END, rt_survey_next(s, -1, &answer));
    OK(rt_survey_free(s));
    EXPECT(RT_INVALID_HANDLE, rt_survey_next(s, -1, &answer));

    counter calls;
    counter_init(&calls);
    OK(rt_destination_survey_async(p->to, RT_STR("echo"), txt("hi"), NULL,
                                   handler_rt_reply_handler(heard, &calls, count_drop), NULL));
    /* The call and the drop. */
    wait_count(&calls, 2);
    counter_destroy(&calls);
}

/* Middleware: one that counts outcomes, one that changes payloads, one that refuses, one that takes its
   time. */

static counter outcomes;

static void on_outcome(void *user_data, const rt_outcome *outcome) {
    (void)user_data;
    CHECK(outcome->struct_size == sizeof *outcome);
    if (outcome->status == RT_OK && data_is(outcome->data, RT_TEXT, "changed"))
        OK(rt_context_respond(outcome->context, txt("twice")));
    count(&outcomes);
}

static void observe(void *user_data, const rt_incoming *in) {
    OK(rt_context_on_outcome(in->context, handler_rt_outcome_handler(on_outcome, user_data, NULL)));
}

static void change(void *user_data, const rt_incoming *in) {
    (void)user_data;
    if (data_is(in->data, RT_TEXT, "change")) OK(rt_context_set_data(in->context, txt("changed")));
    if (data_is(in->data, RT_TEXT, "refuse")) OK(rt_context_reject(in->context, RT_STR("refused")));
    CHECK(is(in->event, "echo"));
}

static void *go_on(void *context) {
    rt_context *deferred = (rt_context *)context;
    OK(rt_context_next(*deferred));
    EXPECT(RT_INVALID_HANDLE, rt_context_next(*deferred));
    free(deferred);
    return NULL;
}

static void later(void *user_data, const rt_incoming *in) {
    pthread_t *thread = (pthread_t *)user_data;
    if (!data_is(in->data, RT_TEXT, "later")) return;
    rt_context *deferred = (rt_context *)malloc(sizeof *deferred);
    OK(rt_context_defer(in->context, deferred));
    CHECK(pthread_create(thread, NULL, go_on, deferred) == 0);
}

static void expect_answer(pair *p, const char *ask_with, const char *expected) {
    rt_answer answer;
    OK(rt_destination_request(p->to, RT_STR("echo"), txt(ask_with), NULL, &answer));
    rt_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(rt_answer_view(answer, &reply));
    if (!data_is(reply.data, RT_TEXT, expected)) FAIL("not %s", expected);
    OK(rt_answer_free(answer));
}

static void middleware(void) {
    pair p = connect_pair(RT_CALLBACKS_THREAD);
    handle(&p, RT_REQUEST, "echo", echo, NULL);
    counter_init(&outcomes);
    counter drops;
    counter_init(&drops);
    pthread_t thread;
    OK(rt_peer_layer(p.server, handler_rt_incoming_handler(observe, &drops, count_drop)));
    OK(rt_role_layer(p.role, HANDLER(rt_incoming_handler, later, &thread)));
    OK(rt_role_layer(p.role, HANDLER(rt_incoming_handler, change, NULL)));
    expect_answer(&p, "plain", "plain");
    expect_answer(&p, "change", "twice");
    EXPECT(RT_REJECTED, rt_destination_request(p.to, RT_STR("echo"), txt("refuse"), NULL, NULL));
    CHECK(is(rt_last_error(), "refused"));
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
    handle(&p, RT_REQUEST, "echo", echo, NULL);
    handle(&p, RT_REQUEST, "no", reject, NULL);
    handle(&p, RT_REQUEST, "silent", silent, NULL);
    handle(&p, RT_REQUEST, "keep", keep, NULL);
    handle(&p, RT_MESSAGE, "count", count_message, &messages);
    ask(&p);
    ask_without_waiting(&p);
    defer_and_cancel(&p);
    one_way(&p, &messages);
    survey(&p);
    close_pair(&p);
    counter_destroy(&messages);
}

int main(void) {
    everything(RT_CALLBACKS_THREAD);
    everything(RT_CALLBACKS_INLINE);
    middleware();
    puts("messages: ok");
    return 0;
}
