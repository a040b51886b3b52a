/* Handlers hear that nobody waits for them any more, and so does what they have asked for. */
#include <sched.h>

#include "check.h"

/* The peers of a test, and the threads that poll those that want that. */
typedef struct {
    roletalk_peer peer;
    pthread_t thread;
    int polled;
} node;

static void *poll_on(void *argument) {
    roletalk_peer peer = *(roletalk_peer *)argument;
    roletalk_status status;
    while ((status = roletalk_peer_poll(peer, -1, NULL)) == ROLETALK_STATUS_OK) continue;
    CHECK(status == ROLETALK_STATUS_CLOSED || status == ROLETALK_STATUS_INVALID_HANDLE);
    return NULL;
}

static void begin(node *n, roletalk_peer peer, int32_t callbacks) {
    n->peer = peer;
    n->polled = callbacks == ROLETALK_CALLBACKS_POLL;
    if (n->polled) CHECK(pthread_create(&n->thread, NULL, poll_on, &n->peer) == 0);
}

static void end(node *n) {
    OK(roletalk_peer_close(n->peer));
    if (n->polled) CHECK(pthread_join(n->thread, NULL) == 0);
}

typedef struct {
    pair p;
    node server, client;
} link_;

static void link_up(link_ *l, int32_t callbacks) {
    l->p = connect_pair(callbacks);
    begin(&l->server, l->p.server, callbacks);
    begin(&l->client, l->p.client, callbacks);
}

static void link_down(link_ *l) {
    end(&l->client);
    end(&l->server);
}

/* Counters of the only unit of a peer. */
static void take_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_clone(unit, (roletalk_unit *)user_data));
}

static roletalk_unit_stats stats_of(roletalk_peer peer) {
    roletalk_unit unit = {0};
    OK(roletalk_peer_each_unit(peer, take_unit, &unit));
    roletalk_unit_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(roletalk_unit_get_stats(unit, &stats));
    OK(roletalk_unit_free(unit));
    return stats;
}

/* Until all that was asked has come, and nothing of it runs any more. */
static void wait_until_settled(pair *p) {
    struct timespec pause = {0, 1000000};
    for (long tries = 0;; tries++) {
        roletalk_unit_stats server = stats_of(p->server);
        if (server.running == 0 && server.requests_received == stats_of(p->client).requests_sent)
            return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

/* Handlers that wait until they are canceled. */

enum { MANY = 100 };

typedef struct waiting waiting;

/* One of them. */
typedef struct {
    waiting *all;
    roletalk_context context;
} one;

struct waiting {
    counter begun, canceled, dropped, replied;
    one each[MANY];
    /* Sums of what they were told. */
    int32_t reasons[4];
    int64_t remaining;
    /* What became of the requests. */
    roletalk_status status;
};

static void waiting_init(waiting *w) {
    memset(w, 0, sizeof *w);
    counter_init(&w->begun);
    counter_init(&w->canceled);
    counter_init(&w->dropped);
    counter_init(&w->replied);
}

static void waiting_destroy(waiting *w) {
    counter_destroy(&w->begun);
    counter_destroy(&w->canceled);
    counter_destroy(&w->dropped);
    counter_destroy(&w->replied);
}

/* Answers, which nobody hears of. */
static void canceled(void *user_data, int32_t reason) {
    one *o = (one *)user_data;
    int32_t known;
    OK(roletalk_context_cancel_reason(o->context, &known));
    CHECK(known == reason && reason > 0 && reason < 4);
    o->all->reasons[reason]++;
    OK(roletalk_context_reject(o->context, ROLETALK_STR("nobody hears of it")));
    count(&o->all->canceled);
}

static void drop_one(void *user_data) {
    count(&((one *)user_data)->all->dropped);
}

static one *defer_one(waiting *w, const roletalk_incoming *in) {
    one *o = &w->each[counted(&w->begun)];
    o->all = w;
    OK(roletalk_context_remaining_ms(in->context, &w->remaining));
    OK(roletalk_context_defer(in->context, &o->context));
    return o;
}

static void hold(void *user_data, const roletalk_incoming *in) {
    waiting *w = (waiting *)user_data;
    one *o = defer_one(w, in);
    OK(roletalk_context_on_cancel(o->context,
                                  handler_roletalk_cancel_handler(canceled, o, drop_one)));
    count(&w->begun);
}

/* It is asked for before it is deferred. */
static void hold_later(void *user_data, const roletalk_incoming *in) {
    waiting *w = (waiting *)user_data;
    one *o = &w->each[counted(&w->begun)];
    OK(roletalk_context_on_cancel(in->context,
                                  handler_roletalk_cancel_handler(canceled, o, drop_one)));
    CHECK(defer_one(w, in) == o);
    count(&w->begun);
}

/* Others look at a flag. */
static void *look(void *argument) {
    one *o = (one *)argument;
    int32_t reason = 0;
    while (reason == 0) {
        OK(roletalk_context_cancel_reason(o->context, &reason));
        sched_yield();
    }
    CHECK(reason == ROLETALK_CANCEL_REQUESTER);
    OK(roletalk_context_respond(o->context, roletalk_data_null()));
    count(&o->all->canceled);
    return NULL;
}

static void hold_and_look(void *user_data, const roletalk_incoming *in) {
    waiting *w = (waiting *)user_data;
    one *o = defer_one(w, in);
    pthread_attr_t attr;
    pthread_t thread;
    CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 256 << 10) == 0);
    CHECK(pthread_create(&thread, &attr, look, o) == 0);
    CHECK(pthread_detach(thread) == 0 && pthread_attr_destroy(&attr) == 0);
    count(&w->begun);
}

static void replied(void *user_data, const roletalk_reply *reply) {
    waiting *w = (waiting *)user_data;
    w->status = reply->status;
    CHECK(reply->status != ROLETALK_STATUS_OK);
    count(&w->replied);
}

static void ask_all(link_ *l, waiting *w, const char *event, int count_of,
                    roletalk_operation *all) {
    for (int i = 0; i < count_of; i++)
        OK(roletalk_destination_request_async(l->p.to, str(event), txt("x"), NULL,
                                              HANDLER(roletalk_reply_handler, replied, w),
                                              &all[i]));
    wait_count(&w->begun, count_of);
}

static void cancel_all(roletalk_operation *all, int count_of) {
    for (int i = 0; i < count_of; i++) {
        OK(roletalk_operation_cancel(all[i]));
        OK(roletalk_operation_free(all[i]));
    }
}

static void a_hundred_are_given_up(int32_t callbacks,
                                   void (*handler)(void *, const roletalk_incoming *)) {
    /* As many threads look at flags. */
    const int many = handler == hold_and_look ? 20 : MANY;
    static waiting w;
    waiting_init(&w);
    link_ l;
    link_up(&l, callbacks);
    handle(&l.p, ROLETALK_KIND_REQUEST, "hold", handler, &w);
    for (int round = 1; round <= MANY / many; round++) {
        roletalk_operation all[MANY];
        w.begun.count = 0;
        ask_all(&l, &w, "hold", many, all);
        CHECK(w.remaining == -1);
        cancel_all(all, many);
        wait_count(&w.canceled, (long)round * many);
        wait_count(&w.replied, (long)round * many);
    }
    CHECK(w.status == ROLETALK_STATUS_CANCELED);
    if (handler != hold_and_look) {
        wait_count(&w.dropped, MANY);
        CHECK(w.reasons[ROLETALK_CANCEL_REQUESTER] == MANY);
    }
    wait_until_settled(&l.p);
    CHECK(stats_of(l.p.client).cancels_sent == MANY);
    CHECK(stats_of(l.p.server).cancels_received == MANY);
    link_down(&l);
    waiting_destroy(&w);
}

static void a_hundred_lose_their_unit(int32_t callbacks) {
    static waiting w;
    waiting_init(&w);
    link_ l;
    link_up(&l, callbacks);
    handle(&l.p, ROLETALK_KIND_REQUEST, "hold", hold, &w);
    roletalk_operation all[MANY];
    ask_all(&l, &w, "hold", MANY, all);
    end(&l.client);
    wait_count(&w.canceled, MANY);
    wait_count(&w.dropped, MANY);
    wait_count(&w.replied, MANY);
    CHECK(w.reasons[ROLETALK_CANCEL_UNIT_LOST] == MANY);
    for (int i = 0; i < MANY; i++) OK(roletalk_operation_free(all[i]));
    end(&l.server);
    waiting_destroy(&w);
}

static roletalk_send_options options_within(int64_t timeout_ms, roletalk_context parent) {
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_ms = timeout_ms;
    options.parent = parent;
    return options;
}

static const roletalk_context nobody = {0};

/* Asks with a time limit, in the end long enough for the handler to begin: `begun` says so, when all is over. Then
   behind it, where it asks further. */
static int64_t until_begun(pair *p, const char *event, counter *begun, pair *behind) {
    for (int64_t limit = 50;; limit *= 2) {
        roletalk_send_options options = options_within(limit, nobody);
        EXPECT(ROLETALK_STATUS_TIMEOUT,
               roletalk_destination_request(p->to, str(event), txt("x"), &options, NULL));
        wait_until_settled(p);
        if (behind) wait_until_settled(behind);
        if (counted(begun) > 0) return limit;
    }
}

static void a_time_limit_is_known(int32_t callbacks) {
    static waiting w;
    waiting_init(&w);
    link_ l;
    link_up(&l, callbacks);
    handle(&l.p, ROLETALK_KIND_REQUEST, "hold", hold, &w);
    const int64_t limit = until_begun(&l.p, "hold", &w.begun, NULL);
    wait_count(&w.canceled, 1);
    CHECK(w.remaining >= 0 && w.remaining <= limit);
    /* Whichever of the two notices it first. */
    CHECK(w.reasons[ROLETALK_CANCEL_DEADLINE] + w.reasons[ROLETALK_CANCEL_REQUESTER] == 1);
    link_down(&l);
    waiting_destroy(&w);
}

/* A handler that computes looks at the flag, while the library reads on. */
static void compute(void *user_data, const roletalk_incoming *in) {
    waiting *w = (waiting *)user_data;
    count(&w->begun);
    int32_t reason = 0;
    while (reason == 0) {
        OK(roletalk_context_cancel_reason(in->context, &reason));
        sched_yield();
    }
    w->reasons[reason]++;
    count(&w->canceled);
}

static void a_handler_that_computes_can_look(void) {
    static waiting w;
    waiting_init(&w);
    link_ l;
    link_up(&l, ROLETALK_CALLBACKS_THREAD);
    handle(&l.p, ROLETALK_KIND_REQUEST, "compute", compute, &w);
    handle(&l.p, ROLETALK_KIND_REQUEST, "hold", hold, &w);
    roletalk_operation computing, behind;
    OK(roletalk_destination_request_async(l.p.to, ROLETALK_STR("compute"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, replied, &w),
                                          &computing));
    wait_count(&w.begun, 1);
    /* What is given up before its turn is not begun. */
    OK(roletalk_destination_request_async(l.p.to, ROLETALK_STR("hold"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, replied, &w), &behind));
    OK(roletalk_operation_cancel(behind));
    OK(roletalk_operation_cancel(computing));
    wait_count(&w.canceled, 1);
    wait_until_settled(&l.p);
    CHECK(counted(&w.begun) == 1 && w.reasons[ROLETALK_CANCEL_REQUESTER] == 1);
    OK(roletalk_operation_free(behind));
    OK(roletalk_operation_free(computing));
    link_down(&l);
    waiting_destroy(&w);
}

/* Three peers in a row: a asks b, whose handler asks c. */

typedef struct {
    link_ ab, bc;
    waiting w;
    /* What became of the request of b's handler. */
    counter told;
    roletalk_status told_status;
    roletalk_context between;
    int blocking;
} chain;

static void told(void *user_data, const roletalk_reply *reply) {
    chain *c = (chain *)user_data;
    c->told_status = reply->status;
    OK(roletalk_context_reject(c->between, reply->error));
    count(&c->told);
}

static void go_between(void *user_data, const roletalk_incoming *in) {
    chain *c = (chain *)user_data;
    if (c->blocking) {
        roletalk_send_options options = options_within(0, in->context);
        c->told_status = roletalk_destination_request(c->bc.p.to, ROLETALK_STR("hold"), in->data,
                                                      &options, NULL);
        OK(roletalk_context_reject(in->context, ROLETALK_STR("given up")));
        count(&c->told);
        return;
    }
    OK(roletalk_context_defer(in->context, &c->between));
    roletalk_send_options options = options_within(0, c->between);
    OK(roletalk_destination_request_async(c->bc.p.to, ROLETALK_STR("hold"), in->data, &options,
                                          HANDLER(roletalk_reply_handler, told, c), NULL));
}

static void chain_up(chain *c, int32_t callbacks, int blocking) {
    memset(c, 0, sizeof *c);
    waiting_init(&c->w);
    counter_init(&c->told);
    c->blocking = blocking;
    link_up(&c->ab, callbacks);
    link_up(&c->bc, callbacks);
    handle(&c->ab.p, ROLETALK_KIND_REQUEST, "between", go_between, c);
    handle(&c->bc.p, ROLETALK_KIND_REQUEST, "hold", hold, &c->w);
}

static void chain_down(chain *c) {
    link_down(&c->ab);
    link_down(&c->bc);
    counter_destroy(&c->told);
    waiting_destroy(&c->w);
}

static void giving_up_crosses_three_peers(int32_t callbacks, int blocking) {
    static chain c;
    chain_up(&c, callbacks, blocking);
    roletalk_operation asked;
    roletalk_send_options options = options_within(LIMIT_S * 1000, nobody);
    OK(roletalk_destination_request_async(c.ab.p.to, ROLETALK_STR("between"), txt("x"), &options,
                                          HANDLER(roletalk_reply_handler, replied, &c.w), &asked));
    wait_count(&c.w.begun, 1);
    CHECK(c.w.remaining > 0 && c.w.remaining <= LIMIT_S * 1000);
    OK(roletalk_operation_cancel(asked));
    OK(roletalk_operation_free(asked));
    wait_count(&c.w.canceled, 1);
    wait_count(&c.told, 1);
    CHECK(c.told_status == ROLETALK_STATUS_PARENT_CANCELED);
    CHECK(c.w.reasons[ROLETALK_CANCEL_REQUESTER] == 1);
    chain_down(&c);
}

static void a_time_limit_crosses_three_peers(int32_t callbacks) {
    static chain c;
    chain_up(&c, callbacks, 0);
    const int64_t limit = until_begun(&c.ab.p, "between", &c.w.begun, &c.bc.p);
    wait_count(&c.w.canceled, 1);
    CHECK(c.w.remaining >= 0 && c.w.remaining <= limit);
    CHECK(c.told_status == ROLETALK_STATUS_PARENT_CANCELED ||
          c.told_status == ROLETALK_STATUS_TIMEOUT);
    chain_down(&c);
}

/* What a handler asks for when nobody waits for it any more fails at once. */

typedef struct {
    link_ l;
    counter tried, dropped;
    roletalk_context context;
    int32_t callbacks;
} late;

static void never_replied(void *user_data, const roletalk_reply *reply) {
    (void)user_data, (void)reply;
    FAIL("called");
}

static void ask_too_late(void *user_data, int32_t reason) {
    late *t = (late *)user_data;
    CHECK(reason != ROLETALK_CANCEL_NONE);
    roletalk_send_options options = options_within(1000, t->context);
    if (t->callbacks != ROLETALK_CALLBACKS_INLINE) {
        roletalk_readable stream;
        EXPECT(ROLETALK_STATUS_PARENT_CANCELED,
               roletalk_destination_request(t->l.p.to, ROLETALK_STR("late"), txt("x"), &options,
                                            NULL));
        EXPECT(ROLETALK_STATUS_PARENT_CANCELED,
               roletalk_destination_readable(t->l.p.to, ROLETALK_STR("late"), txt("x"), &options,
                                             &stream, NULL));
    }
    EXPECT(ROLETALK_STATUS_PARENT_CANCELED,
           roletalk_destination_request_async(
               t->l.p.to, ROLETALK_STR("late"), txt("x"), &options,
               handler_roletalk_reply_handler(never_replied, &t->dropped, count_drop), NULL));
    wait_count(&t->dropped, 1);
    OK(roletalk_context_reject(t->context, ROLETALK_STR("late")));
    count(&t->tried);
}

static void be_late(void *user_data, const roletalk_incoming *in) {
    late *t = (late *)user_data;
    OK(roletalk_context_defer(in->context, &t->context));
    OK(roletalk_context_on_cancel(t->context, HANDLER(roletalk_cancel_handler, ask_too_late, t)));
}

static void what_is_asked_too_late_fails(int32_t callbacks) {
    static late t;
    memset(&t, 0, sizeof t);
    counter_init(&t.tried);
    counter_init(&t.dropped);
    t.callbacks = callbacks;
    link_up(&t.l, callbacks);
    handle(&t.l.p, ROLETALK_KIND_REQUEST, "late", be_late, &t);
    until_begun(&t.l.p, "late", &t.tried, NULL);
    wait_count(&t.tried, 1);
    link_down(&t.l);
    counter_destroy(&t.tried);
    counter_destroy(&t.dropped);
}

/* Detached handlers are not told, and neither is what they ask for. */

static void never_canceled(void *user_data, int32_t reason) {
    (void)user_data;
    FAIL("called, reason %d", (int)reason);
}

typedef struct {
    chain c;
    counter begun, dropped;
    roletalk_context context;
} detached;

static void stay(void *user_data, const roletalk_incoming *in) {
    detached *d = (detached *)user_data;
    OK(roletalk_context_defer(in->context, &d->context));
    OK(roletalk_context_on_cancel(
        d->context, handler_roletalk_cancel_handler(never_canceled, &d->dropped, count_drop)));
    roletalk_send_options options = options_within(0, d->context);
    OK(roletalk_destination_request_async(d->c.bc.p.to, ROLETALK_STR("hold"), in->data, &options,
                                          HANDLER(roletalk_reply_handler, replied, &d->c.w), NULL));
    count(&d->begun);
}

static void the_detached_go_on(int32_t callbacks) {
    static detached d;
    memset(&d, 0, sizeof d);
    counter_init(&d.begun);
    counter_init(&d.dropped);
    chain_up(&d.c, callbacks, 0);
    roletalk_handler_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.detached = 1;
    OK(roletalk_role_handle_with(d.c.ab.p.role, ROLETALK_KIND_REQUEST, ROLETALK_STR("stay"),
                                 &options, HANDLER(roletalk_incoming_handler, stay, &d)));
    roletalk_operation asked[2];
    ask_all(&d.c.ab, &d.c.w, "stay", 1, asked);
    /* A second one, which is told: the first would have been told before. */
    handle(&d.c.ab.p, ROLETALK_KIND_REQUEST, "hold", hold, &d.c.w);
    ask_all(&d.c.ab, &d.c.w, "hold", 1, asked + 1);
    wait_count(&d.c.w.begun, 2);
    cancel_all(asked, 2);
    wait_count(&d.c.w.canceled, 1);
    int32_t reason;
    OK(roletalk_context_cancel_reason(d.context, &reason));
    CHECK(reason == ROLETALK_CANCEL_NONE);
    CHECK(counted(&d.begun) == 1 && counted(&d.c.w.canceled) == 1 && counted(&d.dropped) == 0);
    OK(roletalk_context_respond(d.context, roletalk_data_null()));
    wait_count(&d.dropped, 1);
    chain_down(&d.c);
    counter_destroy(&d.begun);
    counter_destroy(&d.dropped);
}

/* Whoever answers is not told any more, and what was to be told is let go of. */

typedef struct {
    counter dropped, done;
    roletalk_context deferred;
} answering;

static void answer_first(void *user_data, const roletalk_incoming *in) {
    answering *a = (answering *)user_data;
    roletalk_cancel_handler handler =
        handler_roletalk_cancel_handler(never_canceled, &a->dropped, count_drop);
    OK(roletalk_context_on_cancel(in->context, handler));
    OK(roletalk_context_on_cancel(in->context, handler));
    OK(roletalk_context_respond(in->context, in->data));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_on_cancel(in->context, handler));
    int32_t reason;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_context_cancel_reason(in->context, &reason));
}

/* For a message it is never called. */
static void take_message(void *user_data, const roletalk_incoming *in) {
    answering *a = (answering *)user_data;
    OK(roletalk_context_defer(in->context, &a->deferred));
    OK(roletalk_context_on_cancel(
        a->deferred, handler_roletalk_cancel_handler(never_canceled, &a->dropped, count_drop)));
    int32_t reason;
    OK(roletalk_context_cancel_reason(a->deferred, &reason));
    CHECK(reason == ROLETALK_CANCEL_NONE);
    count(&a->done);
}

/* A handler that neither answers nor defers, and one that is dropped with its middleware. */
static void ignore(void *user_data, const roletalk_incoming *in) {
    answering *a = (answering *)user_data;
    OK(roletalk_context_on_cancel(
        in->context, handler_roletalk_cancel_handler(never_canceled, &a->dropped, count_drop)));
}

static void see(void *user_data, const roletalk_outcome *outcome) {
    answering *a = (answering *)user_data;
    CHECK(outcome->status == ROLETALK_STATUS_OK ||
          outcome->status == ROLETALK_STATUS_HANDLER_FAILED);
    count(&a->done);
}

static void observe(void *user_data, const roletalk_incoming *in) {
    OK(roletalk_context_on_outcome(in->context, HANDLER(roletalk_outcome_handler, see, user_data)));
}

static void whoever_answers_is_not_told(int32_t callbacks) {
    static answering a;
    for (int layered = 0; layered < 2; layered++) {
        memset(&a, 0, sizeof a);
        counter_init(&a.dropped);
        counter_init(&a.done);
        link_ l;
        link_up(&l, callbacks);
        handle(&l.p, ROLETALK_KIND_REQUEST, "answer", answer_first, &a);
        handle(&l.p, ROLETALK_KIND_REQUEST, "ignore", ignore, &a);
        handle(&l.p, ROLETALK_KIND_MESSAGE, "message", take_message, &a);
        if (layered)
            OK(roletalk_role_layer(l.p.role, HANDLER(roletalk_incoming_handler, observe, &a)));
        OK(roletalk_destination_request(l.p.to, ROLETALK_STR("answer"), txt("x"), NULL, NULL));
        wait_count(&a.dropped, 3);
        EXPECT(ROLETALK_STATUS_REJECTED,
               roletalk_destination_request(l.p.to, ROLETALK_STR("ignore"), txt("x"), NULL, NULL));
        wait_count(&a.dropped, 4);
        const long seen = layered ? 2 : 0;
        OK(roletalk_destination_send(l.p.to, ROLETALK_STR("message"), txt("x"), NULL));
        wait_count(&a.done, seen + 1);
        end(&l.client);
        OK(roletalk_context_respond(a.deferred, roletalk_data_null()));
        wait_count(&a.dropped, 5);
        /* After its answer, so does the end of the peer no harm. */
        end(&l.server);
        CHECK(counted(&a.dropped) == 5);
        counter_destroy(&a.dropped);
        counter_destroy(&a.done);
    }
}

/* What else is asked can be given up: a survey, a stream. */

static void never_opened(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    CHECK(stream.id == 0);
    replied(user_data, reply);
}

static void ignore_reply(void *user_data, const roletalk_reply *reply) {
    (void)user_data, (void)reply;
}

static void surveys_and_streams_are_given_up(int32_t callbacks) {
    static waiting w;
    waiting_init(&w);
    link_ l;
    link_up(&l, callbacks);
    handle(&l.p, ROLETALK_KIND_REQUEST, "hold", hold_later, &w);
    handle(&l.p, ROLETALK_KIND_WRITABLE, "hold", hold_later, &w);
    roletalk_operation operation;
    OK(roletalk_destination_survey_async(l.p.to, ROLETALK_STR("hold"), txt("x"), NULL,
                                         HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                         &operation));
    wait_count(&w.begun, 1);
    OK(roletalk_operation_cancel(operation));
    OK(roletalk_operation_free(operation));
    wait_count(&w.canceled, 1);

    roletalk_survey survey;
    roletalk_answer answer;
    OK(roletalk_destination_survey(l.p.to, ROLETALK_STR("hold"), txt("x"), NULL, &survey));
    EXPECT(ROLETALK_STATUS_WOULD_BLOCK, roletalk_survey_next(survey, 0, &answer));
    wait_count(&w.begun, 2);
    OK(roletalk_survey_close(survey));
    wait_count(&w.canceled, 2);

    OK(roletalk_destination_readable_async(l.p.to, ROLETALK_STR("hold"), txt("x"), NULL,
                                           HANDLER(roletalk_readable_handler, never_opened, &w),
                                           &operation));
    wait_count(&w.begun, 3);
    OK(roletalk_operation_cancel(operation));
    OK(roletalk_operation_free(operation));
    wait_count(&w.canceled, 3);
    wait_count(&w.replied, 1);
    CHECK(w.reasons[ROLETALK_CANCEL_REQUESTER] == 3 && w.status == ROLETALK_STATUS_CANCELED);
    link_down(&l);
    waiting_destroy(&w);
}

/* An answer, a callback that is asked for, a request on behalf of the handler, and the requester that gives up, all at
   the same time: whoever is first, every drop is called once. */

typedef struct {
    link_ l;
    counter begun, dropped, ended;
    roletalk_context context;
} contest;

static void may_be_canceled(void *user_data, int32_t reason) {
    contest *c = (contest *)user_data;
    CHECK(reason == ROLETALK_CANCEL_REQUESTER);
    int32_t known;
    roletalk_status status = roletalk_context_cancel_reason(c->context, &known);
    CHECK(status == ROLETALK_STATUS_OK || status == ROLETALK_STATUS_INVALID_HANDLE);
}

static void drop_contest(void *user_data) {
    count(&((contest *)user_data)->dropped);
}

static void *ask_to_be_told(void *argument) {
    contest *c = (contest *)argument;
    roletalk_status status = roletalk_context_on_cancel(
        c->context, handler_roletalk_cancel_handler(may_be_canceled, c, drop_contest));
    CHECK(status == ROLETALK_STATUS_OK || status == ROLETALK_STATUS_INVALID_HANDLE);
    count(&c->ended);
    return NULL;
}

static void *ask_within(void *argument) {
    contest *c = (contest *)argument;
    roletalk_send_options options = options_within(0, c->context);
    roletalk_status status =
        roletalk_destination_request(c->l.p.to, ROLETALK_STR("nothing"), txt("x"), &options, NULL);
    CHECK(status == ROLETALK_STATUS_REJECTED || status == ROLETALK_STATUS_PARENT_CANCELED ||
          status == ROLETALK_STATUS_INVALID_HANDLE);
    count(&c->ended);
    return NULL;
}

static void *answer(void *argument) {
    contest *c = (contest *)argument;
    OK(roletalk_context_respond(c->context, roletalk_data_null()));
    count(&c->ended);
    return NULL;
}

static void defer_contest(void *user_data, const roletalk_incoming *in) {
    contest *c = (contest *)user_data;
    OK(roletalk_context_defer(in->context, &c->context));
    count(&c->begun);
}

static void all_at_once(int32_t callbacks, int rounds) {
    static contest c;
    memset(&c, 0, sizeof c);
    counter_init(&c.begun);
    counter_init(&c.dropped);
    counter_init(&c.ended);
    link_up(&c.l, callbacks);
    handle(&c.l.p, ROLETALK_KIND_REQUEST, "contest", defer_contest, &c);
    for (int i = 0; i < rounds; i++) {
        roletalk_operation asked;
        OK(roletalk_destination_request_async(c.l.p.to, ROLETALK_STR("contest"), txt("x"), NULL,
                                              HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                              &asked));
        wait_count(&c.begun, i + 1);
        static void *(*const all[])(void *) = {ask_to_be_told, ask_within, answer};
        for (int n = 0; n < 3; n++) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, all[(n + i) % 3], &c) == 0);
            CHECK(pthread_detach(thread) == 0);
        }
        roletalk_status status = roletalk_operation_cancel(asked);
        CHECK(status == ROLETALK_STATUS_OK || status == ROLETALK_STATUS_END);
        OK(roletalk_operation_free(asked));
        wait_count(&c.ended, 3L * (i + 1));
        wait_count(&c.dropped, i + 1);
    }
    link_down(&c.l);
    CHECK(counted(&c.dropped) == rounds);
    counter_destroy(&c.begun);
    counter_destroy(&c.dropped);
    counter_destroy(&c.ended);
}

int main(void) {
    static const int32_t ways[] = {ROLETALK_CALLBACKS_THREAD, ROLETALK_CALLBACKS_INLINE,
                                   ROLETALK_CALLBACKS_POLL};
    for (int i = 0; i < 3; i++) {
        a_hundred_are_given_up(ways[i], hold);
        a_hundred_are_given_up(ways[i], hold_later);
        a_hundred_are_given_up(ways[i], hold_and_look);
        a_hundred_lose_their_unit(ways[i]);
        a_time_limit_is_known(ways[i]);
        giving_up_crosses_three_peers(ways[i], 0);
        a_time_limit_crosses_three_peers(ways[i]);
        what_is_asked_too_late_fails(ways[i]);
        the_detached_go_on(ways[i]);
        whoever_answers_is_not_told(ways[i]);
        surveys_and_streams_are_given_up(ways[i]);
        all_at_once(ways[i], 50);
    }
    a_handler_that_computes_can_look();
    giving_up_crosses_three_peers(ROLETALK_CALLBACKS_THREAD, 1);
    giving_up_crosses_three_peers(ROLETALK_CALLBACKS_POLL, 1);
    puts("canceling: ok");
    return 0;
}
