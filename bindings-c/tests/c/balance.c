/* Which unit gets it: by load, round robin, by key, by tag, by a function; what each of peer, destination and call
   says; when functions are dropped. The argument is the table of keys. */
#include "check.h"

enum { MOST = 4 };

/* What the services have begun, and what one of them keeps. */
typedef struct {
    const char *name;
    roletalk_peer peer;
    counter asked, told;
    roletalk_context kept[64];
} service;

static void answer_name(void *user_data, const roletalk_incoming *in) {
    service *s = (service *)user_data;
    count(&s->asked);
    OK(roletalk_context_respond(in->context, txt(s->name)));
}

static void note(void *user_data, const roletalk_incoming *in) {
    (void)in;
    count(&((service *)user_data)->told);
}

/* Answers when the test is over. */
static void keep(void *user_data, const roletalk_incoming *in) {
    service *s = (service *)user_data;
    long at = counted(&s->asked);
    CHECK(at < (long)(sizeof s->kept / sizeof s->kept[0]));
    OK(roletalk_context_defer(in->context, &s->kept[at]));
    count(&s->asked);
}

static void open_stream(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_writable stream;
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_writable_close(stream));
}

typedef struct {
    service services[MOST];
    int count;
    roletalk_peer client;
    roletalk_destination to;
} net;

static void count_unit(void *user_data, roletalk_unit unit) {
    (void)unit;
    ++*(long *)user_data;
}

static void wait_for_units(roletalk_destination to, long wanted) {
    struct timespec pause = {0, 1000000};
    for (long tries = 0;; tries++) {
        long units = 0;
        OK(roletalk_destination_each_unit(to, count_unit, &units));
        if (units == wanted) return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

static roletalk_peer new_client(int32_t callbacks, const roletalk_balance *balance) {
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.callbacks = callbacks;
    options.limits = &limits;
    options.balance = balance;
    options.unfriendly = 1;
    roletalk_peer peer;
    OK(roletalk_peer_new(&options, &peer));
    return peer;
}

/* In the zone with the last letter of its name. */
static void serve(service *s, const char *name) {
    roletalk_limits limits = patient_limits();
    roletalk_pair zone;
    zone.key = ROLETALK_STR("zone");
    zone.value = roletalk_string_of(name + strlen(name) - 1, 1);
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.name = str(name);
    options.tags = &zone;
    options.tag_count = 1;
    options.limits = &limits;
    options.unfriendly = 1;
    s->name = name;
    counter_init(&s->asked);
    counter_init(&s->told);
    OK(roletalk_peer_new(&options, &s->peer));
    roletalk_role role;
    OK(roletalk_peer_role(s->peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("name"),
                            HANDLER(roletalk_incoming_handler, answer_name, s)));
    OK(roletalk_role_handle(role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("note"),
                            HANDLER(roletalk_incoming_handler, note, s)));
    OK(roletalk_role_handle(role, ROLETALK_KIND_WRITABLE, ROLETALK_STR("stream"),
                            HANDLER(roletalk_incoming_handler, open_stream, s)));
}

static void connect_to(roletalk_peer client, service *s) {
    roletalk_listener listener;
    OK(roletalk_peer_listen(s->peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    OK(roletalk_peer_connect(client, roletalk_string_of(url, len), &once, NULL));
}

static void stop_serving(service *s) {
    OK(roletalk_peer_close(s->peer));
    counter_destroy(&s->asked);
    counter_destroy(&s->told);
}

static void start(net *n, int32_t callbacks, const roletalk_balance *balance,
                  const char *const *names, int services) {
    n->client = new_client(callbacks, balance);
    n->count = services;
    OK(roletalk_peer_destination(n->client, ROLETALK_STR("r"), &n->to));
    for (int i = 0; i < services; i++) {
        serve(&n->services[i], names[i]);
        connect_to(n->client, &n->services[i]);
    }
    wait_for_units(n->to, services);
}

static void stop_services(net *n) {
    for (int i = 0; i < n->count; i++) stop_serving(&n->services[i]);
}

static void stop(net *n) {
    OK(roletalk_peer_close(n->client));
    stop_services(n);
}

static const char *const ABC[] = {"a", "b", "c"};

static roletalk_send_options no_options(void) {
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    return options;
}

static roletalk_balance balance_by(int32_t by) {
    roletalk_balance balance;
    memset(&balance, 0, sizeof balance);
    balance.struct_size = sizeof balance;
    balance.by = by;
    return balance;
}

/* Who answers. */
static void ask(roletalk_destination to, const roletalk_send_options *options, char name[16]) {
    roletalk_answer answer;
    roletalk_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_destination_request(to, ROLETALK_STR("name"), roletalk_data_null(), options,
                                    &answer));
    OK(roletalk_answer_view(answer, &reply));
    CHECK(reply.data.len < 16);
    memset(name, 0, 16);
    memcpy(name, reply.data.bytes, reply.data.len);
    OK(roletalk_answer_free(answer));
}

static int asks(roletalk_destination to, const roletalk_send_options *options, const char *who) {
    char name[16];
    ask(to, options, name);
    return strcmp(name, who) == 0;
}

/* So many requests, one after the other. */
static void ask_times(net *n, const roletalk_send_options *options, int times) {
    char name[16];
    for (int i = 0; i < times; i++) ask(n->to, options, name);
}

static void take_unit(void *user_data, roletalk_unit unit) {
    if (((roletalk_unit *)user_data)->id == 0)
        OK(roletalk_unit_clone(unit, (roletalk_unit *)user_data));
}

static int64_t answer_time_of(roletalk_unit unit) {
    roletalk_unit_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(roletalk_unit_get_stats(unit, &stats));
    CHECK(stats.struct_size == sizeof stats);
    return stats.answer_time_us;
}

/* Round robin. */

static void one_after_the_other(void) {
    roletalk_balance in_turn = balance_by(ROLETALK_BALANCE_ROUND_ROBIN);
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, &in_turn, ABC, 3);
    roletalk_unit unit = {0};
    OK(roletalk_destination_each_unit(n.to, take_unit, &unit));
    CHECK(answer_time_of(unit) == -1);
    ask_times(&n, NULL, 30);
    CHECK(answer_time_of(unit) >= 0);
    OK(roletalk_unit_free(unit));
    for (int i = 0; i < 3; i++) CHECK(counted(&n.services[i].asked) == 10);
    for (int i = 0; i < 30; i++) {
        OK(roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), NULL));
    }
    for (int i = 0; i < 3; i++) wait_count(&n.services[i].told, 10);
    stop(&n);
}

/* By load. */

static void ignore_reply(void *user_data, const roletalk_reply *reply) {
    (void)user_data, (void)reply;
}

static void ignore_stream(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    (void)user_data, (void)reply;
    CHECK(stream.id == 0);
}

static long all_asked(net *n) {
    long all = 0;
    for (int i = 0; i < n->count; i++) all += counted(&n->services[i].asked);
    return all;
}

/* One of three answers nothing at all. */
static void who_does_not_answer_gets_few(void) {
    enum { TIMES = 200 };
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, ABC, 3);
    roletalk_role role;
    OK(roletalk_peer_role(n.services[0].peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("name"),
                            HANDLER(roletalk_incoming_handler, keep, &n.services[0])));
    struct timespec pause = {0, 100000};
    for (int i = 0; i < TIMES; i++) {
        OK(roletalk_destination_request_async(
            n.to, ROLETALK_STR("name"), roletalk_data_null(), NULL,
            HANDLER(roletalk_reply_handler, ignore_reply, NULL), NULL));
        for (long tries = 0; all_asked(&n) <= i; tries++) {
            CHECK(tries < LIMIT_S * 10000);
            nanosleep(&pause, NULL);
        }
    }
    long slow = counted(&n.services[0].asked);
    CHECK(slow > 0 && slow < TIMES / 4);
    CHECK(counted(&n.services[1].asked) > 0 && counted(&n.services[2].asked) > 0);
    for (long i = 0; i < slow; i++) {
        OK(roletalk_context_respond(n.services[0].kept[i], roletalk_data_null()));
    }
    stop(&n);
}

/* By key. */

enum { KEYS = 100 };
static char keys[KEYS][16], places[KEYS][16];

static void read_table(const char *path) {
    char line[256];
    int at = 0;
    FILE *table = fopen(path, "r");
    if (!table) FAIL("there is no %s", path);
    while (fgets(line, sizeof line, table)) {
        if (line[0] == '#') continue;
        CHECK(at < KEYS);
        char *arrow = strstr(line, " -> ");
        CHECK(arrow && arrow - line < 16);
        memcpy(keys[at], line, (size_t)(arrow - line));
        CHECK(sscanf(arrow, " -> %15s", places[at]) == 1);
        at++;
    }
    fclose(table);
    CHECK(at == KEYS);
}

static void same_key_same_unit(void) {
    static const char *const names[] = {"math-1", "math-2", "math-3", "math-4"};
    /* In another order for the second client. */
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, names, 4);
    roletalk_balance in_turn = balance_by(ROLETALK_BALANCE_ROUND_ROBIN);
    roletalk_peer other = new_client(ROLETALK_CALLBACKS_INLINE, &in_turn);
    roletalk_destination to;
    OK(roletalk_peer_destination(other, ROLETALK_STR("r"), &to));
    for (int i = 3; i >= 0; i--) connect_to(other, &n.services[i]);
    wait_for_units(to, 4);
    roletalk_send_options options = no_options();
    for (int i = 0; i < KEYS; i++) {
        options.key = str(keys[i]);
        CHECK(asks(n.to, &options, places[i]));
        CHECK(asks(to, &options, places[i]));
    }
    /* Messages and streams go there, too. */
    options.key = str(keys[0]);
    OK(roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), &options));
    roletalk_readable stream;
    OK(roletalk_destination_readable(n.to, ROLETALK_STR("stream"), txt("x"), &options, &stream,
                                     NULL));
    roletalk_unit unit;
    OK(roletalk_readable_unit(stream, &unit));
    char name[16];
    size_t len;
    OK(roletalk_unit_name(unit, name, sizeof name, &len));
    CHECK(is(roletalk_string_of(name, len), places[0]));
    OK(roletalk_unit_free(unit));
    OK(roletalk_readable_close(stream));
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], places[0]) == 0) wait_count(&n.services[i].told, 1);
    }
    /* Any bytes are a key, none as well. */
    options.key = roletalk_string_of("\xff\0x", 3);
    ask(n.to, &options, name);
    CHECK(asks(to, &options, name));
    options.key = roletalk_string_of("", 0);
    ask(n.to, &options, name);
    for (int i = 0; i < 8; i++) CHECK(asks(to, &options, name));
    /* Only the keys of who leaves move. */
    stop_serving(&n.services[3]);
    n.count = 3;
    wait_for_units(n.to, 3);
    wait_for_units(to, 3);
    for (int i = 0; i < KEYS; i++) {
        options.key = str(keys[i]);
        ask(n.to, &options, name);
        CHECK(asks(to, &options, name));
        CHECK(strcmp(name, "math-4") != 0);
        CHECK(strcmp(places[i], "math-4") == 0 || strcmp(places[i], name) == 0);
    }
    OK(roletalk_peer_close(other));
    stop(&n);
}

/* By tag. */

static void preferred_as_long_as_they_are_there(void) {
    static const char *const names[] = {"1a", "2a", "3b"};
    roletalk_pair zone;
    zone.key = ROLETALK_STR("zone");
    zone.value = ROLETALK_STR("a");
    roletalk_balance balance = balance_by(ROLETALK_BALANCE_ROUND_ROBIN);
    balance.prefer = &zone;
    balance.prefer_count = 1;
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, names, 3);
    OK(roletalk_destination_set_balance(n.to, &balance));
    ask_times(&n, NULL, 20);
    CHECK(counted(&n.services[0].asked) == 10 && counted(&n.services[1].asked) == 10);
    /* A key keeps to what is preferred. */
    roletalk_send_options options = no_options();
    for (int i = 0; i < KEYS; i++) {
        options.key = str(keys[i]);
        CHECK(!asks(n.to, &options, "3b"));
    }
    options = no_options();
    options.balance = &balance;
    zone.value = ROLETALK_STR("b");
    for (int i = 0; i < 10; i++) CHECK(asks(n.to, &options, "3b"));
    /* Nobody has both. */
    roletalk_pair both[2];
    both[0] = zone;
    both[1] = zone;
    both[1].value = ROLETALK_STR("a");
    balance.prefer = both;
    balance.prefer_count = 2;
    long before = counted(&n.services[2].asked);
    ask_times(&n, &options, 9);
    CHECK(counted(&n.services[2].asked) == before + 3);
    stop_serving(&n.services[2]);
    n.count = 2;
    wait_for_units(n.to, 2);
    balance.prefer_count = 1;
    ask_times(&n, &options, 9);
    stop(&n);
}

/* By a function. */

typedef struct {
    /* Who is to be chosen; what to return when nobody has this name. */
    const char *name;
    int64_t otherwise;
    counter calls, drops;
    /* How many candidates there were. */
    size_t count;
    pthread_t thread;
    void (*within)(void *);
    void *argument;
    roletalk_chooser chooser;
    roletalk_balance balance;
} function;

static int64_t choose(void *user_data, const roletalk_candidate *const *candidates, size_t size) {
    function *f = (function *)user_data;
    int64_t chosen = f->otherwise;
    CHECK(counted(&f->drops) == 0 && size > 0);
    for (size_t i = 0; i < size; i++) {
        const roletalk_candidate *c = candidates[i];
        CHECK(c->struct_size == sizeof *c && c->id.len == 32);
        CHECK(c->tag_count == 1 && is(c->tags[0].key, "zone"));
        CHECK(c->tags[0].value.data[0] == c->name.data[c->name.len - 1]);
        CHECK(c->waiting < 64 && c->answer_time_us >= 0);
        if (f->name && is(c->name, f->name)) chosen = (int64_t)i;
    }
    f->count = size;
    f->thread = pthread_self();
    if (f->within) f->within(f->argument);
    count(&f->calls);
    return chosen;
}

static void drop_function(void *user_data) {
    count(&((function *)user_data)->drops);
}

static void make(function *f, const char *name) {
    memset(f, 0, sizeof *f);
    f->name = name;
    f->otherwise = ROLETALK_CHOOSE_NONE;
    counter_init(&f->calls);
    counter_init(&f->drops);
    roletalk_choose_handler handler;
    handler.call = choose;
    handler.user_data = f;
    handler.drop = drop_function;
    OK(roletalk_chooser_new(handler, &f->chooser));
    f->balance = balance_by(0);
    f->balance.chooser = f->chooser;
}

static void unmake(function *f) {
    CHECK(counted(&f->drops) == 1);
    counter_destroy(&f->calls);
    counter_destroy(&f->drops);
}

static void as_the_function_says(void) {
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, ABC, 3);
    function f;
    make(&f, "b");
    roletalk_send_options options = no_options();
    options.balance = &f.balance;
    for (int i = 0; i < 10; i++) CHECK(asks(n.to, &options, "b"));
    CHECK(counted(&f.calls) == 10 && f.count == 3 && pthread_equal(f.thread, pthread_self()));
    for (int i = 0; i < 10; i++) {
        OK(roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), &options));
    }
    wait_count(&n.services[1].told, 10);
    /* None of them, or junk. */
    f.name = "nobody";
    const int64_t junk[] = {ROLETALK_CHOOSE_NONE, -7, 3, INT64_MAX, INT64_MIN};
    roletalk_readable stream;
    for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        f.otherwise = junk[i];
        EXPECT(ROLETALK_STATUS_NO_UNIT,
               roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), &options, NULL));
        EXPECT(ROLETALK_STATUS_NO_UNIT,
               roletalk_destination_request_async(
                   n.to, ROLETALK_STR("name"), txt("x"), &options,
                   HANDLER(roletalk_reply_handler, ignore_reply, NULL), NULL));
        EXPECT(ROLETALK_STATUS_NO_UNIT,
               roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), &options));
        EXPECT(ROLETALK_STATUS_NO_UNIT,
               roletalk_destination_readable(n.to, ROLETALK_STR("stream"), txt("x"), &options,
                                             &stream, NULL));
    }
    f.otherwise = ROLETALK_CHOOSE_NONE;
    options.wait_for_unit = 1;
    options.timeout_ms = 50;
    EXPECT(ROLETALK_STATUS_TIMEOUT,
           roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), &options, NULL));
    /* It has failed: there is nothing to wait for. */
    f.otherwise = ROLETALK_CHOOSE_FAILED;
    options.timeout_ms = 0;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), &options, NULL));
    CHECK(is(roletalk_last_error(), "The function that chooses the unit failed"));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_request_async(n.to, ROLETALK_STR("name"), txt("x"), &options,
                                              HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                              NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_readable(n.to, ROLETALK_STR("stream"), txt("x"), &options, &stream,
                                         NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), &options));
    CHECK(counted(&n.services[0].asked) + counted(&n.services[2].asked) == 0);
    /* A key is in its place, and so is a unit; what goes to all asks nobody. */
    options = no_options();
    options.balance = &f.balance;
    options.key = ROLETALK_STR("user 0");
    long calls = counted(&f.calls);
    char name[16];
    ask(n.to, &options, name);
    OK(roletalk_destination_each_unit(n.to, take_unit, &options.unit));
    ask(n.to, &options, name);
    OK(roletalk_unit_free(options.unit));
    options.unit.id = 0;
    size_t taken;
    OK(roletalk_destination_broadcast(n.to, ROLETALK_STR("note"), txt("x"), &options, &taken));
    CHECK(taken == 3);
    roletalk_survey survey;
    OK(roletalk_destination_survey(n.to, ROLETALK_STR("name"), txt("x"), &options, &survey));
    for (int i = 0; i < 3; i++) {
        roletalk_answer answer;
        OK(roletalk_survey_next(survey, -1, &answer));
        OK(roletalk_answer_free(answer));
    }
    OK(roletalk_survey_close(survey));
    CHECK(counted(&f.calls) == calls);
    OK(roletalk_chooser_free(f.chooser));
    stop(&n);
    unmake(&f);
}

static void count_named(void *user_data, const roletalk_reply *reply) {
    CHECK(data_is(reply->data, ROLETALK_DATA_TEXT, "b"));
    count((counter *)user_data);
}

/* The one that is chosen first does not handle it: the function is asked again, for the others. */
static void asked_again_for_the_next_one(int32_t callbacks) {
    net n;
    start(&n, callbacks, NULL, ABC, 2);
    roletalk_role role;
    OK(roletalk_peer_role(n.services[1].peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("new"),
                            HANDLER(roletalk_incoming_handler, answer_name, &n.services[1])));
    function f;
    make(&f, "a");
    f.otherwise = 0;
    OK(roletalk_destination_set_balance(n.to, &f.balance));
    OK(roletalk_destination_request(n.to, ROLETALK_STR("new"), txt("x"), NULL, NULL));
    CHECK(counted(&f.calls) == 2 && f.count == 1 && pthread_equal(f.thread, pthread_self()));
    counter answered;
    counter_init(&answered);
    OK(roletalk_destination_request_async(n.to, ROLETALK_STR("new"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, count_named, &answered),
                                          NULL));
    wait_count(&answered, 1);
    CHECK(counted(&f.calls) == 4 && f.count == 1 && !pthread_equal(f.thread, pthread_self()));
    /* It wants none of the others: the first one's outcome is what there is. */
    f.otherwise = ROLETALK_CHOOSE_NONE;
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(n.to, ROLETALK_STR("new"), txt("x"), NULL, NULL));
    CHECK(is(roletalk_last_error(), "The event \"new\" is not handled"));
    /* It fails then. */
    f.otherwise = ROLETALK_CHOOSE_FAILED;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_request(n.to, ROLETALK_STR("new"), txt("x"), NULL, NULL));
    OK(roletalk_chooser_free(f.chooser));
    CHECK(counted(&f.drops) == 0);
    stop(&n);
    unmake(&f);
    counter_destroy(&answered);
}

/* A unit that leaves. */

static void *drain(void *argument) {
    OK(roletalk_peer_drain(((service *)argument)->peer, LIMIT_S * 1000, NULL));
    return NULL;
}

static void none_to_who_leaves(void) {
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, ABC, 2);
    roletalk_role role;
    OK(roletalk_peer_role(n.services[0].peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("keep"),
                            HANDLER(roletalk_incoming_handler, keep, &n.services[0])));
    function f;
    make(&f, "a");
    f.otherwise = 0;
    OK(roletalk_destination_set_balance(n.to, &f.balance));
    /* So that draining does not come to its end before. */
    OK(roletalk_destination_request_async(n.to, ROLETALK_STR("keep"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                          NULL));
    wait_count(&n.services[0].asked, 1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, drain, &n.services[0]) == 0);
    /* Either unit may have those that are on their way. */
    for (long units = 2; units > 1;) {
        char name[16];
        ask(n.to, NULL, name);
        units = 0;
        OK(roletalk_destination_each_unit(n.to, count_unit, &units));
    }
    CHECK(asks(n.to, NULL, "b"));
    OK(roletalk_context_respond(n.services[0].kept[0], roletalk_data_null()));
    CHECK(pthread_join(thread, NULL) == 0);
    OK(roletalk_chooser_free(f.chooser));
    OK(roletalk_peer_close(n.client));
    stop_serving(&n.services[1]);
    counter_destroy(&n.services[0].asked);
    counter_destroy(&n.services[0].told);
    unmake(&f);
}

/* What the function itself does. */

typedef struct {
    net *n;
    roletalk_chooser chooser;
    roletalk_send_options in_turn;
    counter answered;
} inner;

static void count_reply(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_OK);
    count((counter *)user_data);
}

static void send_within(void *argument) {
    inner *i = (inner *)argument;
    roletalk_destination to = i->n->to;
    OK(roletalk_destination_send(to, ROLETALK_STR("note"), txt("x"), &i->in_turn));
    OK(roletalk_destination_request_async(
        to, ROLETALK_STR("name"), txt("x"), &i->in_turn,
        HANDLER(roletalk_reply_handler, count_reply, &i->answered), NULL));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_destination_request(to, ROLETALK_STR("name"), txt("x"), &i->in_turn, NULL));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_peer_serve(i->n->client, ROLETALK_DRAIN_LIMIT_MS, NULL));
    long units = 0;
    OK(roletalk_destination_each_unit(to, count_unit, &units));
    CHECK(units == 2);
}

static void free_within(void *argument) {
    inner *i = (inner *)argument;
    OK(roletalk_destination_set_balance(i->n->to, NULL));
    OK(roletalk_chooser_free(i->chooser));
}

static void close_within(void *argument) {
    OK(roletalk_peer_close(((inner *)argument)->n->client));
}

/* On the program's threads and, with `new`, on the library's. */
static void anything_within(int32_t callbacks) {
    net n;
    start(&n, callbacks, NULL, ABC, 2);
    roletalk_role role;
    OK(roletalk_peer_role(n.services[1].peer, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("new"),
                            HANDLER(roletalk_incoming_handler, answer_name, &n.services[1])));
    roletalk_balance in_turn = balance_by(ROLETALK_BALANCE_ROUND_ROBIN);
    function f;
    make(&f, "a");
    f.otherwise = 0;
    inner i;
    i.n = &n;
    i.chooser = f.chooser;
    i.in_turn = no_options();
    i.in_turn.balance = &in_turn;
    counter_init(&i.answered);
    f.within = send_within;
    f.argument = &i;
    OK(roletalk_destination_set_balance(n.to, &f.balance));
    counter answered;
    counter_init(&answered);
    OK(roletalk_destination_request(n.to, ROLETALK_STR("new"), txt("x"), NULL, NULL));
    OK(roletalk_destination_request_async(n.to, ROLETALK_STR("new"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, count_named, &answered),
                                          NULL));
    roletalk_readable stream;
    OK(roletalk_destination_readable(n.to, ROLETALK_STR("stream"), txt("x"), NULL, &stream, NULL));
    OK(roletalk_readable_close(stream));
    wait_count(&answered, 1);
    CHECK(counted(&f.calls) == 5);
    wait_count(&i.answered, 5);
    /* It lets go of itself. */
    f.within = free_within;
    OK(roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), NULL, NULL));
    wait_count(&f.drops, 1);
    unmake(&f);
    /* The peer is closed where it is to choose. */
    make(&f, "a");
    f.within = close_within;
    f.argument = &i;
    roletalk_send_options options = no_options();
    options.balance = &f.balance;
    roletalk_status status =
        roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), &options, NULL);
    CHECK(status != ROLETALK_STATUS_INTERNAL);
    OK(roletalk_chooser_free(f.chooser));
    wait_count(&f.drops, 1);
    stop_services(&n);
    unmake(&f);
    counter_destroy(&answered);
    counter_destroy(&i.answered);
}

/* Who says how: the call, else the destination, else the peer. */

static void the_nearest_one_counts(void) {
    function of_peer, of_destination, of_call;
    make(&of_peer, "a");
    make(&of_destination, "b");
    make(&of_call, "c");
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, &of_peer.balance, ABC, 3);
    roletalk_send_options options = no_options();
    options.balance = &of_call.balance;
    CHECK(asks(n.to, NULL, "a") && asks(n.to, &options, "c"));
    OK(roletalk_destination_set_balance(n.to, &of_destination.balance));
    CHECK(asks(n.to, NULL, "b") && asks(n.to, &options, "c"));
    /* The same destination. */
    roletalk_destination again;
    OK(roletalk_peer_destination(n.client, ROLETALK_STR("r"), &again));
    CHECK(again.id == n.to.id && asks(again, NULL, "b"));
    /* What is wrong changes nothing. */
    roletalk_balance wrong = balance_by(7);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_destination_set_balance(n.to, &wrong));
    CHECK(asks(n.to, NULL, "b"));
    /* Each is dropped when nothing uses it any more. */
    OK(roletalk_chooser_free(of_destination.chooser));
    CHECK(asks(n.to, NULL, "b") && counted(&of_destination.drops) == 0);
    OK(roletalk_destination_set_balance(n.to, NULL));
    wait_count(&of_destination.drops, 1);
    CHECK(asks(n.to, NULL, "a") && asks(n.to, &options, "c"));
    OK(roletalk_chooser_free(of_call.chooser));
    CHECK(counted(&of_call.drops) == 1);
    OK(roletalk_chooser_free(of_peer.chooser));
    CHECK(asks(n.to, NULL, "a") && counted(&of_peer.drops) == 0);
    /* Also when the program has something of the peer's left. */
    roletalk_unit unit = {0};
    OK(roletalk_destination_each_unit(n.to, take_unit, &unit));
    stop(&n);
    CHECK(counted(&of_peer.drops) == 1);
    OK(roletalk_unit_free(unit));
    unmake(&of_peer);
    unmake(&of_destination);
    unmake(&of_call);
}

/* What waits has it, with the chooser freed meanwhile, until the peer is closed. */
static void what_waits_keeps_it(int32_t callbacks) {
    function f;
    make(&f, "nobody");
    net n;
    start(&n, callbacks, NULL, ABC, 2);
    roletalk_send_options options = no_options();
    options.balance = &f.balance;
    options.wait_for_unit = 1;
    for (int i = 0; i < 3; i++) {
        OK(roletalk_destination_request_async(n.to, ROLETALK_STR("name"), txt("x"), &options,
                                              HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                              NULL));
    }
    OK(roletalk_destination_readable_async(n.to, ROLETALK_STR("stream"), txt("x"), &options,
                                           HANDLER(roletalk_readable_handler, ignore_stream, NULL),
                                           NULL));
    OK(roletalk_chooser_free(f.chooser));
    CHECK(counted(&f.drops) == 0);
    stop(&n);
    unmake(&f);
}

/* Several threads ask at the same time, and the function changes meanwhile. */

typedef struct {
    net *n;
    pthread_t thread;
} asker;

static void *ask_often(void *argument) {
    char name[16];
    for (int i = 0; i < 100; i++) ask(((asker *)argument)->n->to, NULL, name);
    return NULL;
}

static void changed_while_in_use(void) {
    enum { ASKERS = 4, CHANGES = 50 };
    static function functions[CHANGES];
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, ABC, 3);
    asker askers[ASKERS];
    for (int i = 0; i < ASKERS; i++) {
        askers[i].n = &n;
        CHECK(pthread_create(&askers[i].thread, NULL, ask_often, &askers[i]) == 0);
    }
    for (int i = 0; i < CHANGES; i++) {
        make(&functions[i], ABC[i % 3]);
        OK(roletalk_destination_set_balance(n.to, &functions[i].balance));
        OK(roletalk_chooser_free(functions[i].chooser));
    }
    for (int i = 0; i < ASKERS; i++) CHECK(pthread_join(askers[i].thread, NULL) == 0);
    stop(&n);
    for (int i = 0; i < CHANGES; i++) unmake(&functions[i]);
}

/* Arguments that cannot be. */

static int64_t never(void *user_data, const roletalk_candidate *const *candidates, size_t size) {
    (void)user_data, (void)candidates, (void)size;
    FAIL("called");
}

static void expect_wrong(net *n, roletalk_status expected, const roletalk_balance *balance) {
    roletalk_send_options options = no_options();
    options.balance = balance;
    EXPECT(expected, roletalk_destination_set_balance(n->to, balance));
    EXPECT(expected, roletalk_destination_send(n->to, ROLETALK_STR("note"), txt("x"), &options));
    EXPECT(expected,
           roletalk_destination_request(n->to, ROLETALK_STR("name"), txt("x"), &options, NULL));
    roletalk_peer_options peer_options;
    memset(&peer_options, 0, sizeof peer_options);
    peer_options.struct_size = sizeof peer_options;
    peer_options.balance = balance;
    roletalk_peer peer;
    EXPECT(expected, roletalk_peer_new(&peer_options, &peer));
}

static void wrong_arguments(void) {
    net n;
    start(&n, ROLETALK_CALLBACKS_THREAD, NULL, ABC, 2);
    counter drops;
    counter_init(&drops);
    roletalk_choose_handler handler;
    handler.call = NULL;
    handler.user_data = &drops;
    handler.drop = count_drop;
    roletalk_chooser chooser;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_chooser_new(handler, &chooser));
    CHECK(counted(&drops) == 1);
    handler.call = never;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_chooser_new(handler, NULL));
    CHECK(counted(&drops) == 2);
    OK(roletalk_chooser_new(handler, &chooser));
    OK(roletalk_chooser_free(chooser));
    CHECK(counted(&drops) == 3);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_chooser_free(chooser));
    roletalk_chooser none = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_chooser_free(none));
    roletalk_destination nowhere = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_destination_set_balance(nowhere, NULL));

    roletalk_balance balance = balance_by(2);
    expect_wrong(&n, ROLETALK_STATUS_INVALID_ARGUMENT, &balance);
    CHECK(is(roletalk_last_error(), "there is no balance 2"));
    balance = balance_by(-1);
    expect_wrong(&n, ROLETALK_STATUS_INVALID_ARGUMENT, &balance);
    balance = balance_by(0);
    balance.struct_size = 0;
    expect_wrong(&n, ROLETALK_STATUS_INVALID_ARGUMENT, &balance);
    balance = balance_by(0);
    balance.prefer_count = 1;
    expect_wrong(&n, ROLETALK_STATUS_INVALID_ARGUMENT, &balance);
    roletalk_pair tag;
    tag.key = ROLETALK_STR("zone");
    tag.value = ROLETALK_STR("\xff");
    balance.prefer = &tag;
    expect_wrong(&n, ROLETALK_STATUS_INVALID_ARGUMENT, &balance);
    balance = balance_by(0);
    balance.chooser = chooser;
    expect_wrong(&n, ROLETALK_STATUS_INVALID_HANDLE, &balance);
    balance.chooser.id = n.to.id;
    expect_wrong(&n, ROLETALK_STATUS_INVALID_HANDLE, &balance);
    roletalk_send_options options = no_options();
    options.key.len = 1;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_destination_send(n.to, ROLETALK_STR("note"), txt("x"), &options));
    /* A program that was compiled before knows of neither. */
    balance = balance_by(7);
    options.balance = &balance;
    options.struct_size = offsetof(roletalk_send_options, balance);
    OK(roletalk_destination_request(n.to, ROLETALK_STR("name"), txt("x"), &options, NULL));
    stop(&n);
    counter_destroy(&drops);
}

int main(int argc, char **argv) {
    if (argc != 2) FAIL("usage: %s TABLE", argv[0]);
    read_table(argv[1]);
    one_after_the_other();
    who_does_not_answer_gets_few();
    same_key_same_unit();
    preferred_as_long_as_they_are_there();
    as_the_function_says();
    asked_again_for_the_next_one(ROLETALK_CALLBACKS_THREAD);
    asked_again_for_the_next_one(ROLETALK_CALLBACKS_INLINE);
    none_to_who_leaves();
    anything_within(ROLETALK_CALLBACKS_THREAD);
    anything_within(ROLETALK_CALLBACKS_INLINE);
    the_nearest_one_counts();
    what_waits_keeps_it(ROLETALK_CALLBACKS_THREAD);
    what_waits_keeps_it(ROLETALK_CALLBACKS_INLINE);
    changed_while_in_use();
    wrong_arguments();
    return 0;
}
