/* Every way in which a handler can end gives exactly one outcome, with and without middleware. */
#include "check.h"

static roletalk_context kept;

static void respond(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, txt("first")));
}

static void respond_twice(void *user_data, const roletalk_incoming *in) {
    respond(user_data, in);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_respond(in->context, txt("second")));
}

static void respond_then_reject(void *user_data, const roletalk_incoming *in) {
    respond(user_data, in);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_reject(in->context, str("second")));
}

static void reject_then_respond(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_reject(in->context, str("first")));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_respond(in->context, txt("second")));
}

/* What fails is no answer. */
static void respond_badly(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    EXPECT(ROLETALK_STATUS_DATA,
           roletalk_context_respond(in->context, roletalk_data_json(str("no JSON"))));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_context_reject(in->context, str("\xff")));
}

static void nothing(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    (void)in;
}

static void defer_and_respond(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context context;
    OK(roletalk_context_defer(in->context, &context));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_defer(in->context, &kept));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_respond(in->context, txt("second")));
    OK(roletalk_context_respond(context, txt("first")));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_respond(context, txt("second")));
}

/* Two threads answer the same: one of them succeeds. */
typedef struct {
    roletalk_context context;
    counter answered;
} contest;

static void *answer(void *argument) {
    contest *c = (contest *)argument;
    if (roletalk_context_respond(c->context, txt("first")) == ROLETALK_STATUS_OK)
        count(&c->answered);
    return NULL;
}

static void *race(void *argument) {
    contest *c = (contest *)argument;
    pthread_t other;
    CHECK(pthread_create(&other, NULL, answer, c) == 0);
    answer(c);
    CHECK(pthread_join(other, NULL) == 0);
    CHECK(counted(&c->answered) == 1);
    counter_destroy(&c->answered);
    free(c);
    return NULL;
}

static void defer_and_race(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    contest *c = (contest *)malloc(sizeof *c);
    CHECK(c != NULL);
    counter_init(&c->answered);
    OK(roletalk_context_defer(in->context, &c->context));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, race, c) == 0);
    CHECK(pthread_detach(thread) == 0);
}

static const struct way {
    const char *event;
    void (*handler)(void *, const roletalk_incoming *);
    /* NULL for an answer. */
    const char *rejection;
} ways[] = {
    {"respond", respond, NULL},
    {"respond twice", respond_twice, NULL},
    {"respond, then reject", respond_then_reject, NULL},
    {"reject, then respond", reject_then_respond, "first"},
    {"respond badly", respond_badly, "The handler did not answer"},
    {"nothing", nothing, "The handler did not answer"},
    {"defer and respond", defer_and_respond, NULL},
    {"defer and race", defer_and_race, NULL},
};
enum { WAYS = sizeof ways / sizeof ways[0] };

/* Middleware. */

static void see(void *user_data, const roletalk_outcome *outcome) {
    (void)outcome;
    count((counter *)user_data);
}

static void observe(void *user_data, const roletalk_incoming *in) {
    OK(roletalk_context_on_outcome(in->context, HANDLER(roletalk_outcome_handler, see, user_data)));
}

static void *pass_on(void *argument) {
    roletalk_context context = *(roletalk_context *)argument;
    free(argument);
    OK(roletalk_context_next(context));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_next(context));
    return NULL;
}

static void pass_on_later(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context *context = (roletalk_context *)malloc(sizeof *context);
    CHECK(context != NULL);
    OK(roletalk_context_defer(in->context, context));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, pass_on, context) == 0);
    CHECK(pthread_detach(thread) == 0);
}

static void (*const layers[])(void *, const roletalk_incoming *) = {NULL, nothing, observe,
                                                                    pass_on_later};

/* The requester. */

typedef struct {
    const struct way *way;
    counter calls, drops;
} asked;

static void on_reply(void *user_data, const roletalk_reply *reply) {
    asked *a = (asked *)user_data;
    if (a->way->rejection) {
        CHECK(reply->status == ROLETALK_STATUS_REJECTED);
        if (!is(reply->error, a->way->rejection))
            FAIL("%s: %.*s", a->way->event, ROLETALK_ARG(reply->error));
    } else {
        CHECK(reply->status == ROLETALK_STATUS_OK);
        CHECK(data_is(reply->data, ROLETALK_DATA_TEXT, "first"));
    }
    count(&a->calls);
}

static void on_drop(void *user_data) {
    count(&((asked *)user_data)->drops);
}

static void *poll_to_the_end(void *peer) {
    while (roletalk_peer_poll(*(roletalk_peer *)peer, -1, NULL) == ROLETALK_STATUS_OK) {
    }
    return NULL;
}

static void all_ways(int32_t callbacks) {
    for (size_t layer = 0; layer < sizeof layers / sizeof layers[0]; layer++) {
        counter seen;
        counter_init(&seen);
        pair p;
        p.server = new_peer("server", callbacks);
        p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
        pthread_t polling;
        const int polls = callbacks == ROLETALK_CALLBACKS_POLL;
        if (polls) CHECK(pthread_create(&polling, NULL, poll_to_the_end, &p.server) == 0);
        listen_and_connect(&p);
        if (layers[layer])
            OK(roletalk_peer_layer(p.server,
                                   HANDLER(roletalk_incoming_handler, layers[layer], &seen)));
        static asked all[WAYS];
        for (size_t i = 0; i < WAYS; i++) {
            handle(&p, ROLETALK_KIND_REQUEST, ways[i].event, ways[i].handler, NULL);
            all[i].way = &ways[i];
            counter_init(&all[i].calls);
            counter_init(&all[i].drops);
            OK(roletalk_destination_request_async(
                p.to, str(ways[i].event), txt("x"), NULL,
                handler_roletalk_reply_handler(on_reply, &all[i], on_drop), NULL));
        }
        for (size_t i = 0; i < WAYS; i++) wait_count(&all[i].drops, 1);
        /* No handler counts as running any more. */
        int32_t finished = 0;
        OK(roletalk_peer_drain(p.server, LIMIT_S * 1000, &finished));
        CHECK(finished);
        OK(roletalk_peer_close(p.client));
        if (polls) CHECK(pthread_join(polling, NULL) == 0);
        for (size_t i = 0; i < WAYS; i++) {
            CHECK(counted(&all[i].calls) == 1 && counted(&all[i].drops) == 1);
            counter_destroy(&all[i].calls);
            counter_destroy(&all[i].drops);
        }
        CHECK(counted(&seen) == (layers[layer] == observe ? WAYS : 0));
        counter_destroy(&seen);
    }
}

int main(void) {
    all_ways(ROLETALK_CALLBACKS_THREAD);
    all_ways(ROLETALK_CALLBACKS_INLINE);
    all_ways(ROLETALK_CALLBACKS_POLL);
    puts("outcomes: ok");
    return 0;
}
