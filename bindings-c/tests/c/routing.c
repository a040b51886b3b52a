/* What no unit has begun goes on to the next one; a rolling restart loses nothing; requests wait for a unit. */
#include "check.h"

enum { SERVICES = 3, REPLACEMENTS = 6, ASKERS = 8, IDS = 1 << 20 };

/* How often the services have begun each request. */
static unsigned char begun[IDS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void answer(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    char text[24] = {0};
    CHECK(in->data.len < sizeof text);
    memcpy(text, in->data.bytes, in->data.len);
    long id = strtol(text, NULL, 10);
    CHECK(id >= 0 && id < IDS);
    pthread_mutex_lock(&mutex);
    begun[id]++;
    pthread_mutex_unlock(&mutex);
    OK(roletalk_context_respond(in->context, in->data));
}

static void add_service(roletalk_peer client, roletalk_peer *service, const char *event,
                        void (*handler)(void *, const roletalk_incoming *)) {
    *service = new_peer("service", ROLETALK_CALLBACKS_THREAD);
    roletalk_role role;
    OK(roletalk_peer_role(*service, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, str(event),
                            HANDLER(roletalk_incoming_handler, handler, NULL)));
    roletalk_listener listener;
    OK(roletalk_peer_listen(*service, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    OK(roletalk_peer_connect(client, roletalk_string_of(url, len), NULL, NULL));
}

/* Each asks with an id of its own, in either way, until it is told to stop. */
typedef struct {
    roletalk_destination to;
    pthread_t thread;
    counter answered;
} asker;

static long next_id;
static int stop;

static long take_id(void) {
    pthread_mutex_lock(&mutex);
    long id = stop ? -1 : next_id++;
    pthread_mutex_unlock(&mutex);
    CHECK(id < IDS);
    return id;
}

static void on_reply(void *user_data, const roletalk_reply *reply) {
    if (reply->status != ROLETALK_STATUS_OK) FAIL("%.*s", ROLETALK_ARG(reply->error));
    count((counter *)user_data);
}

static void *ask(void *argument) {
    asker *a = (asker *)argument;
    for (long id, asked = 1; (id = take_id()) >= 0; asked++) {
        char text[24];
        snprintf(text, sizeof text, "%ld", id);
        if (id % 2) {
            OK(roletalk_destination_request(a->to, ROLETALK_STR("ask"), txt(text), NULL, NULL));
            count(&a->answered);
        } else {
            roletalk_reply_handler handler =
                HANDLER(roletalk_reply_handler, on_reply, &a->answered);
            OK(roletalk_destination_request_async(a->to, ROLETALK_STR("ask"), txt(text), NULL,
                                                  handler, NULL));
        }
        wait_count(&a->answered, asked);
    }
    return NULL;
}

static void wait_for_id(long id) {
    struct timespec pause = {0, 1000000};
    for (long tries = 0;; tries++) {
        pthread_mutex_lock(&mutex);
        int reached = next_id > id;
        pthread_mutex_unlock(&mutex);
        if (reached) return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

static void count_unit(void *user_data, roletalk_unit unit) {
    (void)unit;
    ++*(long *)user_data;
}

static void wait_for_units(roletalk_destination to, long wanted) {
    struct timespec pause = {0, 1000000};
    for (long tries = 0;; tries++) {
        long units = 0;
        OK(roletalk_destination_each_unit(to, count_unit, &units));
        if (units >= wanted) return;
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
}

static void a_rolling_restart_loses_nothing(void) {
    roletalk_peer client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    roletalk_peer services[SERVICES + REPLACEMENTS];
    roletalk_destination to;
    OK(roletalk_peer_destination(client, ROLETALK_STR("r"), &to));
    for (int i = 0; i < SERVICES; i++) add_service(client, &services[i], "ask", answer);
    wait_for_units(to, SERVICES);
    asker askers[ASKERS];
    for (int i = 0; i < ASKERS; i++) {
        askers[i].to = to;
        counter_init(&askers[i].answered);
        CHECK(pthread_create(&askers[i].thread, NULL, ask, &askers[i]) == 0);
    }
    for (int i = 0; i < REPLACEMENTS; i++) {
        add_service(client, &services[SERVICES + i], "ask", answer);
        wait_for_units(to, SERVICES + 1);
        wait_for_id(50 * (i + 1));
        int32_t finished = 0;
        OK(roletalk_peer_drain(services[i], LIMIT_S * 1000, &finished));
        CHECK(finished == 1);
    }
    pthread_mutex_lock(&mutex);
    stop = 1;
    pthread_mutex_unlock(&mutex);
    long answered = 0;
    for (int i = 0; i < ASKERS; i++) {
        CHECK(pthread_join(askers[i].thread, NULL) == 0);
        answered += counted(&askers[i].answered);
        counter_destroy(&askers[i].answered);
    }
    CHECK(answered == next_id);
    for (long id = 0; id < next_id; id++) CHECK(begun[id] == 1);
    OK(roletalk_peer_close(client));
    for (int i = REPLACEMENTS; i < SERVICES + REPLACEMENTS; i++) {
        OK(roletalk_peer_close(services[i]));
    }
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, in->data));
}

static void add_rerouted(void *user_data, roletalk_unit unit) {
    roletalk_unit_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(roletalk_unit_get_stats(unit, &stats));
    *(uint64_t *)user_data += stats.requests_rerouted;
}

static void take_named_old(void *user_data, roletalk_unit unit) {
    char name[16];
    size_t len;
    OK(roletalk_unit_name(unit, name, sizeof name, &len));
    if (is(roletalk_string_of(name, len), "server")) {
        OK(roletalk_unit_clone(unit, (roletalk_unit *)user_data));
    }
}

/* Of two units, one knows nothing of the event. */
static void what_is_not_handled_goes_on(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    roletalk_peer newer;
    add_service(p.client, &newer, "new", echo);
    wait_for_units(p.to, 2);
    for (int i = 0; i < 10; i++) {
        OK(roletalk_destination_request(p.to, ROLETALK_STR("new"), txt("x"), NULL, NULL));
    }
    uint64_t rerouted = 0;
    OK(roletalk_peer_each_unit(p.client, add_rerouted, &rerouted));
    CHECK(rerouted > 0);
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p.to, ROLETALK_STR("none"), txt("x"), NULL, NULL));
    CHECK(is(roletalk_last_error(), "The event \"none\" is not handled"));
    // Who chooses the unit means that one.
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    OK(roletalk_peer_each_unit(p.client, take_named_old, &options.unit));
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p.to, ROLETALK_STR("new"), txt("x"), &options, NULL));
    OK(roletalk_unit_free(options.unit));
    OK(roletalk_peer_close(newer));
    close_pair(&p);
}

static void requests_wait_for_a_unit(void) {
    roletalk_peer client = new_peer("client", ROLETALK_CALLBACKS_THREAD), service;
    roletalk_destination to;
    OK(roletalk_peer_destination(client, ROLETALK_STR("r"), &to));
    EXPECT(ROLETALK_STATUS_NO_UNIT,
           roletalk_destination_request(to, ROLETALK_STR("e"), txt("x"), NULL, NULL));
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.wait_for_unit = 1;
    options.timeout_ms = 50;
    EXPECT(ROLETALK_STATUS_TIMEOUT,
           roletalk_destination_request(to, ROLETALK_STR("e"), txt("x"), &options, NULL));
    roletalk_readable stream;
    EXPECT(ROLETALK_STATUS_TIMEOUT,
           roletalk_destination_readable(to, ROLETALK_STR("e"), txt("x"), &options, &stream, NULL));
    options.timeout_ms = 0;
    counter answered;
    counter_init(&answered);
    for (int i = 0; i < 10; i++) {
        OK(roletalk_destination_request_async(to, ROLETALK_STR("e"), txt("x"), &options,
                                              HANDLER(roletalk_reply_handler, on_reply, &answered),
                                              NULL));
    }
    CHECK(counted(&answered) == 0);
    add_service(client, &service, "e", echo);
    wait_count(&answered, 10);
    /* The only one does not handle it: there may be another. */
    for (int i = 0; i < 10; i++) {
        OK(roletalk_destination_request_async(to, ROLETALK_STR("other"), txt("x"), &options,
                                              HANDLER(roletalk_reply_handler, on_reply, &answered),
                                              NULL));
    }
    roletalk_peer other;
    add_service(client, &other, "other", echo);
    wait_count(&answered, 20);
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(service));
    OK(roletalk_peer_close(other));
    counter_destroy(&answered);
}

int main(void) {
    a_rolling_restart_loses_nothing();
    what_is_not_handled_goes_on();
    requests_wait_for_a_unit();
    return 0;
}
