/* Units that fail: they are left out, a destination has a bound of what is in flight, how units stand can be seen, and
   requests that may be handled more than once are made again. */
#include "check.h"

enum { MOST = 3 };

/* What a service does with a request. */
enum { ANSWERS, REJECTS, REJECTS_FOR_NOW, LOSES, KEEPS };

struct field;

typedef struct {
    const char *name;
    struct field *of;
    int does;
    roletalk_peer peer;
    roletalk_context kept[16];
    int kept_count;
} service;

typedef struct field {
    service services[MOST];
    int count;
    roletalk_peer client;
    roletalk_destination to;
    counter begun, canceled, outcomes;
    pthread_mutex_t mutex;
    /* The last letters of those who were asked, in order. */
    char asked[256];
    /* Of the last outcome of what does not wait. */
    roletalk_status last;
} field;

static void on_canceled(void *user_data, int32_t reason) {
    (void)reason;
    count(&((service *)user_data)->of->canceled);
}

static int what_to_do(service *s) {
    pthread_mutex_lock(&s->of->mutex);
    size_t len = strlen(s->of->asked);
    CHECK(len + 1 < sizeof s->of->asked);
    s->of->asked[len] = s->name[0];
    s->of->asked[len + 1] = 0;
    int does = s->does;
    pthread_mutex_unlock(&s->of->mutex);
    return does;
}

static void serve(void *user_data, const roletalk_incoming *in) {
    service *s = (service *)user_data;
    roletalk_failure later;
    const int what = what_to_do(s);
    switch (what) {
        case ANSWERS:
            OK(roletalk_context_respond(in->context, txt(s->name)));
            break;
        case REJECTS:
            OK(roletalk_context_reject(in->context, ROLETALK_STR("no")));
            break;
        case REJECTS_FOR_NOW:
            memset(&later, 0, sizeof later);
            later.struct_size = sizeof later;
            later.reason = ROLETALK_STR("not now");
            later.retry_after_ms = 5;
            OK(roletalk_context_reject_with(in->context, &later));
            break;
        case LOSES:
        case KEEPS:
            CHECK(s->kept_count < 16);
            OK(roletalk_context_on_cancel(in->context,
                                          HANDLER(roletalk_cancel_handler, on_canceled, s)));
            if (what == LOSES) OK(roletalk_unit_disconnect(in->unit));
            OK(roletalk_context_defer(in->context, &s->kept[s->kept_count++]));
            break;
    }
    count(&s->of->begun);
}

static void accept(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_writable stream;
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_writable_close(stream));
}

static void does(service *s, int what) {
    pthread_mutex_lock(&s->of->mutex);
    s->does = what;
    pthread_mutex_unlock(&s->of->mutex);
}

static size_t times_asked(field *f, char who) {
    size_t times = 0;
    pthread_mutex_lock(&f->mutex);
    for (const char *at = f->asked; *at; at++) times += *at == who;
    f->asked[0] = 0;
    pthread_mutex_unlock(&f->mutex);
    return times;
}

static void count_unit(void *user_data, roletalk_unit unit) {
    (void)unit;
    ++*(int *)user_data;
}

static void join(field *f, const char *name, int what) {
    struct timespec pause = {0, 1000000};
    service *s = &f->services[f->count++];
    memset(s, 0, sizeof *s);
    s->name = name;
    s->of = f;
    s->does = what;
    s->peer = new_peer(name, ROLETALK_CALLBACKS_THREAD);
    roletalk_role role;
    OK(roletalk_peer_role(s->peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("do"),
                            HANDLER(roletalk_incoming_handler, serve, s)));
    OK(roletalk_role_handle(role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("do"),
                            HANDLER(roletalk_incoming_handler, serve, s)));
    OK(roletalk_role_handle(role, ROLETALK_KIND_WRITABLE, ROLETALK_STR("stream"),
                            HANDLER(roletalk_incoming_handler, accept, s)));
    roletalk_listener listener;
    OK(roletalk_peer_listen(s->peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    OK(roletalk_peer_connect(f->client, roletalk_string_of(url, len), &once, NULL));
    for (long tries = 0;; tries++) {
        int units = 0;
        OK(roletalk_destination_each_unit(f->to, count_unit, &units));
        if (units == f->count) return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

static roletalk_balance in_turn(const roletalk_ejection *eject) {
    roletalk_balance balance;
    memset(&balance, 0, sizeof balance);
    balance.struct_size = sizeof balance;
    balance.by = ROLETALK_BALANCE_ROUND_ROBIN;
    balance.eject = eject;
    return balance;
}

static void start_at(field *f, int32_t callbacks) {
    roletalk_limits limits = patient_limits();
    roletalk_balance balance = in_turn(NULL);
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.limits = &limits;
    options.balance = &balance;
    options.callbacks = callbacks;
    options.unfriendly = 1;
    memset(f, 0, sizeof *f);
    counter_init(&f->begun);
    counter_init(&f->canceled);
    counter_init(&f->outcomes);
    CHECK(pthread_mutex_init(&f->mutex, NULL) == 0);
    OK(roletalk_peer_new(&options, &f->client));
    OK(roletalk_peer_destination(f->client, ROLETALK_STR("r"), &f->to));
}

static void start(field *f) {
    start_at(f, ROLETALK_CALLBACKS_THREAD);
}

static void stop(field *f) {
    OK(roletalk_peer_close(f->client));
    for (int i = 0; i < f->count; i++) {
        for (int k = 0; k < f->services[i].kept_count; k++)
            OK(roletalk_context_respond(f->services[i].kept[k], roletalk_data_null()));
        OK(roletalk_peer_close(f->services[i].peer));
    }
    counter_destroy(&f->begun);
    counter_destroy(&f->canceled);
    counter_destroy(&f->outcomes);
    pthread_mutex_destroy(&f->mutex);
}

static roletalk_send_options no_options(void) {
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_ms = LIMIT_S * 1000;
    return options;
}

static roletalk_status ask(field *f, const roletalk_send_options *options) {
    return roletalk_destination_request(f->to, ROLETALK_STR("do"), txt("x"), options, NULL);
}

static void note_outcome(void *user_data, const roletalk_reply *reply) {
    field *f = (field *)user_data;
    pthread_mutex_lock(&f->mutex);
    f->last = reply->status;
    pthread_mutex_unlock(&f->mutex);
    count(&f->outcomes);
}

static roletalk_status last_status(field *f) {
    pthread_mutex_lock(&f->mutex);
    roletalk_status last = f->last;
    pthread_mutex_unlock(&f->mutex);
    return last;
}

static roletalk_operation ask_async(field *f, const roletalk_send_options *options) {
    roletalk_operation operation;
    OK(roletalk_destination_request_async(f->to, ROLETALK_STR("do"), txt("x"), options,
                                          HANDLER(roletalk_reply_handler, note_outcome, f),
                                          &operation));
    return operation;
}

/* Ejection and standings. */

typedef struct {
    const char *name;
    int found;
    roletalk_standing standing;
} wanted;

static void find_standing(void *user_data, const roletalk_standing *standing) {
    wanted *w = (wanted *)user_data;
    char name[16];
    size_t len;
    CHECK(standing->struct_size == sizeof *standing);
    OK(roletalk_unit_name(standing->unit, name, sizeof name, &len));
    if (!is(roletalk_string_of(name, len), w->name)) return;
    w->found = 1;
    w->standing = *standing;
}

static roletalk_standing standing_of(field *f, const char *name) {
    wanted w;
    memset(&w, 0, sizeof w);
    w.name = name;
    OK(roletalk_destination_each_standing(f->to, find_standing, &w));
    CHECK(w.found);
    return w.standing;
}

static roletalk_ejection ejection_of(uint32_t failures) {
    roletalk_ejection ejection;
    memset(&ejection, 0, sizeof ejection);
    ejection.struct_size = sizeof ejection;
    ejection.failures = failures;
    ejection.rejections = 1;
    /* Longer than the test. */
    ejection.time_ms = 3600 * 1000;
    return ejection;
}

static counter ejected, restored;

static void on_event(void *user_data, const roletalk_event *event) {
    (void)user_data;
    if (event->kind != ROLETALK_EVENT_UNIT_EJECTED && event->kind != ROLETALK_EVENT_UNIT_RESTORED)
        return;
    CHECK(event->role.len == 1 && *event->role.data == 'r');
    char name[8];
    size_t len;
    OK(roletalk_unit_name(event->unit, name, sizeof name, &len));
    CHECK(len == 1 && *name == 'b');
    count(event->kind == ROLETALK_EVENT_UNIT_EJECTED ? &ejected : &restored);
}

static void who_keeps_rejecting_is_left_out(void) {
    field f;
    start(&f);
    join(&f, "a", ANSWERS);
    join(&f, "b", REJECTS);
    join(&f, "c", ANSWERS);
    counter_init(&ejected);
    counter_init(&restored);
    OK(roletalk_peer_on_event(f.client, HANDLER(roletalk_event_handler, on_event, NULL), NULL));
    roletalk_standing b = standing_of(&f, "b");
    CHECK(b.waiting == 0 && b.answer_time_us == 0 && b.unanswered == 0 && b.rejected == 0);
    CHECK(b.ejected_ms == -1);
    roletalk_ejection ejection = ejection_of(3);
    roletalk_balance balance = in_turn(&ejection);
    OK(roletalk_destination_set_balance(f.to, &balance));
    int failed = 0;
    for (int i = 0; i < 30; i++) failed += ask(&f, NULL) != ROLETALK_STATUS_OK;
    CHECK(failed == 3);
    CHECK(times_asked(&f, 'b') == 3);
    b = standing_of(&f, "b");
    roletalk_standing a = standing_of(&f, "a");
    CHECK(b.rejected == 3 && b.unanswered == 0 && a.rejected == 0);
    /* No time is longer than `time_ms`, which is longer than what `most_ms` is otherwise. */
    CHECK(b.ejected_ms > 1000 * 1000 && b.ejected_ms <= 3600 * 1000 && a.ejected_ms == -1);
    CHECK(a.answer_time_us > 0);
    /* Who does not leave it out asks it all the same, and its answer takes it back. */
    does(&f.services[1], ANSWERS);
    OK(roletalk_destination_set_balance(f.to, NULL));
    CHECK(standing_of(&f, "b").ejected_ms == -1);
    for (int i = 0; i < 3; i++) OK(ask(&f, NULL));
    OK(roletalk_destination_set_balance(f.to, &balance));
    b = standing_of(&f, "b");
    CHECK(b.ejected_ms == -1 && b.rejected == 0);
    CHECK(times_asked(&f, 'b') == 1);
    for (int i = 0; i < 3; i++) OK(ask(&f, NULL));
    CHECK(times_asked(&f, 'b') == 1);
    wait_count(&restored, 1);
    CHECK(counted(&ejected) == 1 && counted(&restored) == 1);
    stop(&f);
}

/* Rejections are no failures unless it is said so, and silence is one. */
static void who_does_not_answer_is_left_out(void) {
    field f;
    start(&f);
    join(&f, "a", ANSWERS);
    join(&f, "b", REJECTS);
    roletalk_ejection ejection = ejection_of(2);
    ejection.rejections = 0;
    roletalk_balance balance = in_turn(&ejection);
    roletalk_send_options options = no_options();
    options.balance = &balance;
    for (int i = 0; i < 10; i++) (void)!ask(&f, &options);
    CHECK(times_asked(&f, 'b') == 5);
    does(&f.services[1], KEEPS);
    options.timeout_ms = 50;
    /* `a` may be late, too, on a slow machine. */
    for (int i = 0; i < 100 && standing_of(&f, "b").unanswered < 2; i++) (void)!ask(&f, &options);
    CHECK(standing_of(&f, "b").unanswered == 2);
    times_asked(&f, 0);
    options.timeout_ms = LIMIT_S * 1000;
    OK(ask(&f, &options));
    for (int i = 0; i < 6; i++) OK(ask(&f, &options));
    CHECK(times_asked(&f, 'b') == 0);
    stop(&f);
}

/* The bound. */

static void so_many_are_in_flight_and_no_more(void) {
    field f;
    start(&f);
    join(&f, "a", KEEPS);
    OK(roletalk_destination_set_max_in_flight(f.to, 2));
    roletalk_operation first = ask_async(&f, NULL), second = ask_async(&f, NULL);
    wait_count(&f.begun, 2);
    CHECK(standing_of(&f, "a").waiting == 2);
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    CHECK(is(roletalk_last_error(),
             "Too many requests to this destination are in flight (the limit is 2)"));
    EXPECT(ROLETALK_STATUS_OVERLOADED,
           roletalk_destination_request_async(f.to, ROLETALK_STR("do"), txt("x"), NULL,
                                              HANDLER(roletalk_reply_handler, note_outcome, &f),
                                              NULL));
    roletalk_readable stream;
    EXPECT(
        ROLETALK_STATUS_OVERLOADED,
        roletalk_destination_readable(f.to, ROLETALK_STR("stream"), txt("x"), NULL, &stream, NULL));
    /* Another balance leaves the bound as it is. */
    roletalk_balance balance = in_turn(NULL);
    OK(roletalk_destination_set_balance(f.to, &balance));
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    OK(roletalk_destination_set_balance(f.to, NULL));
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    /* Messages and surveys are not counted. */
    does(&f.services[0], ANSWERS);
    OK(roletalk_destination_send(f.to, ROLETALK_STR("do"), txt("x"), NULL));
    roletalk_survey survey;
    roletalk_answer answer;
    OK(roletalk_destination_survey(f.to, ROLETALK_STR("do"), txt("x"), NULL, &survey));
    OK(roletalk_survey_next(survey, -1, &answer));
    OK(roletalk_answer_free(answer));
    OK(roletalk_survey_close(survey));
    /* One that is given up makes room, and so does one that is answered. */
    OK(roletalk_operation_cancel(first));
    for (int i = 0; i < 3; i++) OK(ask(&f, NULL));
    OK(roletalk_context_respond(f.services[0].kept[1], roletalk_data_null()));
    f.services[0].kept_count = 1;
    wait_count(&f.outcomes, 2);
    CHECK(last_status(&f) == ROLETALK_STATUS_OK);
    does(&f.services[0], KEEPS);
    OK(roletalk_operation_free(first));
    first = ask_async(&f, NULL);
    OK(roletalk_operation_free(second));
    second = ask_async(&f, NULL);
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    /* No bound, and a new one. */
    OK(roletalk_destination_set_max_in_flight(f.to, 0));
    OK(roletalk_operation_free(ask_async(&f, NULL)));
    OK(roletalk_destination_set_max_in_flight(f.to, 1));
    OK(roletalk_operation_free(ask_async(&f, NULL)));
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    wait_count(&f.begun, 11);
    OK(roletalk_operation_free(first));
    OK(roletalk_operation_free(second));
    stop(&f);
}

/* What is waited for is bounded in number, too. */
static void few_wait_for_a_unit(void) {
    field f;
    roletalk_limits limits = patient_limits();
    limits.waiting_requests = 2;
    roletalk_peer_options peer_options;
    memset(&peer_options, 0, sizeof peer_options);
    peer_options.struct_size = sizeof peer_options;
    peer_options.limits = &limits;
    start(&f);
    OK(roletalk_peer_close(f.client));
    OK(roletalk_peer_new(&peer_options, &f.client));
    OK(roletalk_peer_destination(f.client, ROLETALK_STR("r"), &f.to));
    roletalk_send_options options = no_options();
    options.wait_for_unit = 1;
    for (int i = 0; i < 3; i++) OK(roletalk_operation_free(ask_async(&f, &options)));
    /* Whichever of them began to wait last. */
    wait_count(&f.outcomes, 1);
    CHECK(last_status(&f) == ROLETALK_STATUS_OVERLOADED);
    stop(&f);
}

/* Several threads change different things. */

typedef struct {
    field *of;
    pthread_t thread;
} changer;

static void *change_balance(void *argument) {
    field *f = ((changer *)argument)->of;
    roletalk_ejection ejection = ejection_of(1);
    roletalk_balance balance = in_turn(&ejection);
    for (int i = 0; i < 500; i++) {
        OK(roletalk_destination_set_balance(f->to, NULL));
        OK(roletalk_destination_set_balance(f->to, &balance));
    }
    return NULL;
}

static void *change_bound(void *argument) {
    field *f = ((changer *)argument)->of;
    for (size_t i = 0; i < 500; i++) {
        OK(roletalk_destination_set_max_in_flight(f->to, 0));
        OK(roletalk_destination_set_max_in_flight(f->to, 1));
    }
    return NULL;
}

static void no_change_is_lost(void) {
    field f;
    start(&f);
    join(&f, "a", KEEPS);
    join(&f, "b", REJECTS);
    changer changers[2];
    for (int i = 0; i < 2; i++) {
        changers[i].of = &f;
        CHECK(pthread_create(&changers[i].thread, NULL, i ? change_bound : change_balance,
                             &changers[i]) == 0);
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_join(changers[i].thread, NULL) == 0);
    /* The bound is there, and so is the ejection. */
    OK(roletalk_operation_free(ask_async(&f, NULL)));
    EXPECT(ROLETALK_STATUS_OVERLOADED, ask(&f, NULL));
    OK(roletalk_destination_set_max_in_flight(f.to, 0));
    does(&f.services[0], REJECTS);
    for (int i = 0; i < 4; i++) EXPECT(ROLETALK_STATUS_REJECTED, ask(&f, NULL));
    CHECK(standing_of(&f, "a").ejected_ms != -1 || standing_of(&f, "b").ejected_ms != -1);
    stop(&f);
}

/* What is made again. */

static roletalk_retry_options retry_options(void) {
    roletalk_retry_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.backoff_ms = options.longest_ms = 1;
    return options;
}

static roletalk_retry retry_of(const roletalk_retry_options *options) {
    roletalk_retry retry;
    OK(roletalk_retry_new(options, &retry));
    return retry;
}

static void expect_stats_at(roletalk_retry retry, uint64_t retried, uint64_t hedged,
                            uint64_t refused, int line) {
    roletalk_retry_stats stats;
    stats.struct_size = sizeof stats;
    OK(roletalk_retry_get_stats(retry, &stats));
    CHECK(stats.struct_size == sizeof stats);
    if (stats.retried != retried || stats.hedged != hedged || stats.refused != refused)
        FAIL("line %d: %d retried, %d hedged, %d refused", line, (int)stats.retried,
             (int)stats.hedged, (int)stats.refused);
}

#define EXPECT_STATS(retry, retried, hedged, refused)                                              \
    expect_stats_at(retry, retried, hedged, refused, __LINE__)

static void expect_asked(field *f, const char *who) {
    pthread_mutex_lock(&f->mutex);
    if (strcmp(f->asked, who) != 0) FAIL("%s were asked, not %s", f->asked, who);
    f->asked[0] = 0;
    pthread_mutex_unlock(&f->mutex);
}

/* The outcome of one that does not wait. */
static roletalk_status ask_and_hear(field *f, const roletalk_send_options *options) {
    long before = counted(&f->outcomes);
    OK(roletalk_operation_free(ask_async(f, options)));
    wait_count(&f->outcomes, before + 1);
    return last_status(f);
}

/* Both ways to ask. */
static roletalk_status (*const asks[])(field *, const roletalk_send_options *) = {ask,
                                                                                  ask_and_hear};

static void two(field *f, int first, int second) {
    start(f);
    join(f, "a", first);
    join(f, "b", second);
}

static void what_may_have_begun(size_t way) {
    field f;
    two(&f, LOSES, ANSWERS);
    EXPECT(ROLETALK_STATUS_CONNECTION_LOST, asks[way](&f, NULL));
    expect_asked(&f, "a");
    stop(&f);
    roletalk_retry retry = retry_of(NULL);
    roletalk_send_options options = no_options();
    options.retry = retry;
    two(&f, LOSES, ANSWERS);
    OK(asks[way](&f, &options));
    expect_asked(&f, "ab");
    EXPECT_STATS(retry, 1, 0, 0);
    stop(&f);
    /* For all requests of a destination. */
    two(&f, LOSES, ANSWERS);
    OK(roletalk_destination_set_retry(f.to, retry));
    OK(asks[way](&f, NULL));
    expect_asked(&f, "ab");
    EXPECT_STATS(retry, 2, 0, 0);
    stop(&f);
    /* And no more. */
    two(&f, LOSES, ANSWERS);
    roletalk_retry none = {0};
    OK(roletalk_destination_set_retry(f.to, retry));
    OK(roletalk_destination_set_retry(f.to, none));
    EXPECT(ROLETALK_STATUS_CONNECTION_LOST, asks[way](&f, NULL));
    EXPECT_STATS(retry, 2, 0, 0);
    stop(&f);
    OK(roletalk_retry_free(retry));
}

static void keep_unit(void *user_data, roletalk_unit unit) {
    roletalk_unit *kept = (roletalk_unit *)user_data;
    char name[16];
    size_t len;
    OK(roletalk_unit_name(unit, name, sizeof name, &len));
    if (is(roletalk_string_of(name, len), "a")) OK(roletalk_unit_clone(unit, kept));
}

static void who_chooses_the_unit_means_that_one(void) {
    field f;
    two(&f, LOSES, ANSWERS);
    roletalk_retry retry = retry_of(NULL);
    roletalk_send_options options = no_options();
    options.retry = retry;
    OK(roletalk_destination_each_unit(f.to, keep_unit, &options.unit));
    OK(roletalk_destination_set_retry(f.to, retry));
    EXPECT(ROLETALK_STATUS_CONNECTION_LOST, ask(&f, &options));
    expect_asked(&f, "a");
    EXPECT_STATS(retry, 0, 0, 0);
    OK(roletalk_unit_free(options.unit));
    stop(&f);
    OK(roletalk_retry_free(retry));
}

static void an_answer_is_an_answer_even_if_it_is_a_rejection(size_t way) {
    field f;
    two(&f, REJECTS, ANSWERS);
    roletalk_retry retry = retry_of(NULL);
    roletalk_send_options options = no_options();
    options.retry = retry;
    EXPECT(ROLETALK_STATUS_REJECTED, asks[way](&f, &options));
    expect_asked(&f, "a");
    /* Neither is silence a reason. */
    does(&f.services[1], KEEPS);
    options.timeout_ms = 20;
    EXPECT(ROLETALK_STATUS_TIMEOUT, asks[way](&f, &options));
    EXPECT_STATS(retry, 0, 0, 0);
    wait_count(&f.begun, 2);
    stop(&f);
    OK(roletalk_retry_free(retry));
}

static int64_t micros_since(const struct timespec *begin) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)(now.tv_sec - begin->tv_sec) * 1000000 + (now.tv_nsec - begin->tv_nsec) / 1000;
}

static void who_says_when_to_try_again_is_asked_then(size_t way) {
    field f;
    two(&f, REJECTS_FOR_NOW, REJECTS_FOR_NOW);
    roletalk_retry_options four = retry_options(), one = retry_options();
    four.attempts = 4;
    one.attempts = 1;
    roletalk_retry retry = retry_of(&four), once = retry_of(&one);
    OK(roletalk_destination_set_retry(f.to, retry));
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    EXPECT(ROLETALK_STATUS_REJECTED, asks[way](&f, NULL));
    CHECK(micros_since(&begin) >= 3 * 5000);
    /* Never the same one twice in a row. */
    expect_asked(&f, "abab");
    EXPECT_STATS(retry, 3, 0, 0);
    /* What a request says counts more. */
    roletalk_send_options options = no_options();
    options.retry = once;
    EXPECT(ROLETALK_STATUS_REJECTED, asks[way](&f, &options));
    CHECK(strlen(f.asked) == 1);
    EXPECT_STATS(retry, 3, 0, 0);
    stop(&f);
    OK(roletalk_retry_free(retry));
    OK(roletalk_retry_free(once));
}

static void a_slow_answer_is_overtaken_and_its_handler_given_up(size_t way) {
    field f;
    two(&f, KEEPS, ANSWERS);
    roletalk_retry_options how = retry_options();
    /* Time for the thread of `a` to begin its handler: one that is given up before is not called. */
    how.hedge_after_ms = 500;
    roletalk_retry retry = retry_of(&how);
    roletalk_send_options options = no_options();
    options.retry = retry;
    OK(asks[way](&f, &options));
    expect_asked(&f, "ab");
    wait_count(&f.canceled, 1);
    EXPECT_STATS(retry, 0, 1, 0);
    stop(&f);
    OK(roletalk_retry_free(retry));
}

/* After the time that most answers take, which a hundred of them tell. */
static void a_slow_answer_is_one_that_takes_longer_than_most(void) {
    field f;
    two(&f, ANSWERS, ANSWERS);
    roletalk_retry_options how = retry_options();
    how.hedge_quantile = 0.5;
    how.budget = 1;
    roletalk_retry retry = retry_of(&how);
    roletalk_send_options options = no_options();
    options.retry = retry;
    for (int i = 0; i < 100; i++) {
        OK(ask(&f, &options));
        times_asked(&f, 0);
    }
    EXPECT_STATS(retry, 0, 0, 0);
    does(&f.services[0], KEEPS);
    /* Every other one goes to `a` first. One that is overtaken before its handler is called is not told of. */
    for (int i = 0; i < 2 || counted(&f.canceled) == 0; i++) {
        CHECK(i < LIMIT_S * 1000);
        OK(ask(&f, &options));
        times_asked(&f, 0);
    }
    roletalk_retry_stats stats;
    stats.struct_size = sizeof stats;
    OK(roletalk_retry_get_stats(retry, &stats));
    CHECK(stats.hedged >= 1 && stats.retried == 0);
    stop(&f);
    OK(roletalk_retry_free(retry));
}

static void further_requests_have_a_budget(void) {
    field f;
    two(&f, REJECTS_FOR_NOW, REJECTS_FOR_NOW);
    roletalk_retry_options how = retry_options();
    how.attempts = 2;
    how.budget = ROLETALK_RETRY_NO_BUDGET;
    roletalk_retry retry = retry_of(&how);
    OK(roletalk_destination_set_retry(f.to, retry));
    for (int i = 0; i < 12; i++) EXPECT(ROLETALK_STATUS_REJECTED, ask(&f, NULL));
    CHECK(strlen(f.asked) == 22);
    EXPECT_STATS(retry, 10, 0, 2);
    stop(&f);
    OK(roletalk_retry_free(retry));
}

/* The handle is freed while a request and a destination use the retry. */
static void a_handle_is_freed_while_it_is_in_use(void) {
    field f;
    two(&f, KEEPS, ANSWERS);
    roletalk_retry retry = retry_of(NULL);
    OK(roletalk_destination_set_retry(f.to, retry));
    roletalk_operation operation = ask_async(&f, NULL);
    wait_count(&f.begun, 1);
    OK(roletalk_retry_free(retry));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_retry_free(retry));
    roletalk_failure later;
    memset(&later, 0, sizeof later);
    later.struct_size = sizeof later;
    later.reason = ROLETALK_STR("not now");
    later.retry_after_ms = 5;
    OK(roletalk_context_reject_with(f.services[0].kept[0], &later));
    f.services[0].kept_count = 0;
    wait_count(&f.outcomes, 1);
    OK(last_status(&f));
    expect_asked(&f, "ab");
    /* It is at the destination still. */
    does(&f.services[0], REJECTS_FOR_NOW);
    for (int i = 0; i < 2; i++) OK(ask(&f, NULL));
    roletalk_send_options options = no_options();
    options.retry = retry;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, ask(&f, &options));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_set_retry(f.to, retry));
    stop(&f);
    OK(roletalk_operation_free(operation));
}

static void wait_retried(roletalk_retry retry, uint64_t count) {
    struct timespec pause = {0, 1000000};
    roletalk_retry_stats stats;
    for (long tries = 0;; tries++) {
        stats.struct_size = sizeof stats;
        OK(roletalk_retry_get_stats(retry, &stats));
        if (stats.retried == count) return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

typedef struct {
    field *of;
    const roletalk_send_options *options;
    pthread_t thread;
    roletalk_status status;
} blocked;

static void *ask_blocking(void *argument) {
    blocked *b = (blocked *)argument;
    b->status = ask(b->of, b->options);
    return NULL;
}

/* What waits for a further attempt can be canceled, and ends with its peer. */
static void the_wait_ends_where_nobody_waits(void) {
    field f;
    start(&f);
    join(&f, "a", REJECTS_FOR_NOW);
    roletalk_retry_options how = retry_options();
    how.backoff_ms = 3600 * 1000;
    roletalk_retry retry = retry_of(&how);
    roletalk_send_options options = no_options();
    options.timeout_ms = 2 * 3600 * 1000;
    options.retry = retry;
    roletalk_operation operation = ask_async(&f, &options);
    wait_retried(retry, 1);
    OK(roletalk_operation_cancel(operation));
    wait_count(&f.outcomes, 1);
    CHECK(last_status(&f) == ROLETALK_STATUS_CANCELED);
    OK(roletalk_operation_free(operation));
    blocked b;
    b.of = &f;
    b.options = &options;
    CHECK(pthread_create(&b.thread, NULL, ask_blocking, &b) == 0);
    wait_retried(retry, 2);
    OK(roletalk_operation_free(ask_async(&f, &options)));
    wait_retried(retry, 3);
    CHECK(times_asked(&f, 'a') == 3);
    stop(&f);
    CHECK(pthread_join(b.thread, NULL) == 0);
    CHECK(b.status == ROLETALK_STATUS_REJECTED && f.last == ROLETALK_STATUS_REJECTED);
    OK(roletalk_retry_free(retry));
}

static void never_opened(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}

static void never_opened_to_write(void *user_data, const roletalk_reply *reply,
                                  roletalk_writable stream) {
    (void)user_data, (void)reply, (void)stream;
    FAIL("called");
}

static void never_answered(void *user_data, const roletalk_reply *reply) {
    (void)user_data, (void)reply;
    FAIL("called");
}

static void only_requests_are_made_again(void) {
    field f;
    start(&f);
    join(&f, "a", ANSWERS);
    roletalk_retry retry = retry_of(NULL);
    roletalk_send_options options = no_options();
    options.retry = retry;
    const roletalk_string to_do = ROLETALK_STR("do"), open = ROLETALK_STR("stream");
    const roletalk_data x = txt("x");
    roletalk_readable readable;
    roletalk_writable writable;
    roletalk_survey survey;
    counter dropped;
    counter_init(&dropped);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_destination_send(f.to, to_do, x, &options));
    CHECK(strstr(roletalk_last_error().data, "Only requests are made again"));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_broadcast(f.to, to_do, x, &options, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_survey(f.to, to_do, x, &options, &survey));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_survey_async(
               f.to, to_do, x, &options,
               handler_roletalk_reply_handler(never_answered, &dropped, count_drop), NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_readable(f.to, open, x, &options, &readable, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_writable(f.to, open, x, &options, &writable, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_readable_async(
               f.to, open, x, &options,
               handler_roletalk_readable_handler(never_opened, &dropped, count_drop), NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_writable_async(
               f.to, open, x, &options,
               handler_roletalk_writable_handler(never_opened_to_write, &dropped, count_drop),
               NULL));
    wait_count(&dropped, 3);
    expect_asked(&f, "");
    /* A destination's is for its requests, and nothing to everything else. */
    OK(roletalk_destination_set_retry(f.to, retry));
    OK(roletalk_destination_send(f.to, to_do, x, NULL));
    OK(roletalk_destination_readable(f.to, open, x, NULL, &readable, NULL));
    OK(roletalk_readable_close(readable));
    OK(ask(&f, NULL));
    EXPECT_STATS(retry, 0, 0, 0);
    stop(&f);
    OK(roletalk_retry_free(retry));
    counter_destroy(&dropped);
}

static void wrong_retries(void) {
    static const struct {
        double budget, quantile;
        uint64_t after;
        const char *text;
    } wrong[] = {
        {1.5, 0, 0, "`budget` should be from 0 to 1, and is 1.5"},
        {-0.5, 0, 0, "`budget` should be from 0 to 1, and is -0.5"},
        {0, 95, 0, "`hedge_quantile` should be from 0 to 1, and is 95"},
        {0, -1, 0, "`hedge_quantile` should be from 0 to 1, and is -1"},
        {0, 0.95, 5, "`hedge_after_ms` and `hedge_quantile` are both set: set one of them"},
    };
    roletalk_retry retry = {7};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        roletalk_retry_options how = retry_options();
        how.budget = wrong[i].budget;
        how.hedge_quantile = wrong[i].quantile;
        how.hedge_after_ms = wrong[i].after;
        EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_new(&how, &retry));
        CHECK(is(roletalk_last_error(), wrong[i].text));
    }
    roletalk_retry_options how = retry_options();
    /* No number. */
    memset(&how.budget, 0xff, sizeof how.budget);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_new(&how, &retry));
    how = retry_options();
    how.struct_size = 3;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_new(&how, &retry));
    CHECK(retry.id == 7);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_new(NULL, NULL));
    /* The longest times that there are. */
    how = retry_options();
    how.attempts = UINT32_MAX;
    how.backoff_ms = how.longest_ms = how.hedge_after_ms = UINT64_MAX;
    how.budget = 1;
    OK(roletalk_retry_new(&how, &retry));
    field f;
    two(&f, REJECTS_FOR_NOW, ANSWERS);
    OK(roletalk_destination_set_retry(f.to, retry));
    EXPECT(ROLETALK_STATUS_REJECTED, ask(&f, NULL));
    OK(ask(&f, NULL));
    EXPECT_STATS(retry, 0, 0, 0);
    roletalk_destination nowhere = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_set_retry(nowhere, retry));
    roletalk_retry_stats stats;
    stats.struct_size = 0;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_get_stats(retry, &stats));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_retry_get_stats(retry, NULL));
    stop(&f);
    OK(roletalk_retry_free(retry));
    roletalk_retry none = {0};
    stats.struct_size = sizeof stats;
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_retry_get_stats(none, &stats));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_retry_free(none));
}

/* Arguments that cannot be. */

static void wrong_arguments(void) {
    field f;
    start(&f);
    roletalk_destination nowhere = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_set_max_in_flight(nowhere, 1));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_destination_each_standing(nowhere, find_standing, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_destination_each_standing(f.to, NULL, NULL));
    roletalk_ejection ejection = ejection_of(1);
    ejection.struct_size = 0;
    roletalk_balance balance = in_turn(&ejection);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_destination_set_balance(f.to, &balance));
    /* A program that was compiled before does not know of it. */
    balance.struct_size = offsetof(roletalk_balance, eject);
    OK(roletalk_destination_set_balance(f.to, &balance));
    stop(&f);
}

int main(void) {
    who_keeps_rejecting_is_left_out();
    who_does_not_answer_is_left_out();
    so_many_are_in_flight_and_no_more();
    few_wait_for_a_unit();
    no_change_is_lost();
    for (size_t way = 0; way < 2; way++) {
        what_may_have_begun(way);
        an_answer_is_an_answer_even_if_it_is_a_rejection(way);
        who_says_when_to_try_again_is_asked_then(way);
        a_slow_answer_is_overtaken_and_its_handler_given_up(way);
    }
    who_chooses_the_unit_means_that_one();
    a_slow_answer_is_one_that_takes_longer_than_most();
    further_requests_have_a_budget();
    a_handle_is_freed_while_it_is_in_use();
    the_wait_ends_where_nobody_waits();
    only_requests_are_made_again();
    wrong_retries();
    wrong_arguments();
    return 0;
}
