/* What is bounded, and how a program goes on at a bound: what waits to be sent, and what waits for the
   handlers of a program that does not come to run them. */
#include "check.h"

#define MESSAGES 2000
#define SIZE 1024

static roletalk_peer bounded_peer(int32_t callbacks, const roletalk_limits *limits) {
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.callbacks = callbacks;
    options.limits = limits;
    roletalk_peer peer;
    OK(roletalk_peer_new(&options, &peer));
    return peer;
}

static void count_message(void *user_data, const roletalk_incoming *in) {
    (void)in;
    count((counter *)user_data);
}

/* Sending without waiting. */

typedef struct {
    /* The first, for count_drop. */
    counter drops;
    counter done;
    roletalk_destination to;
    long asked, sent;
} sender;

static void sender_init(sender *s, roletalk_destination to) {
    counter_init(&s->drops), counter_init(&s->done);
    s->to = to, s->asked = s->sent = 0;
}

static void sender_destroy(sender *s) {
    counter_destroy(&s->drops), counter_destroy(&s->done);
}

static void send_as_room_comes(sender *s, void (*call)(void *)) {
    s->asked++;
    OK(roletalk_destination_on_room(s->to, NULL,
                                    handler_roletalk_ready_handler(call, s, count_drop)));
}

static roletalk_send_options at_once(void) {
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.timeout_ms = -1;
    return options;
}

static void send_some(void *user_data) {
    sender *s = (sender *)user_data;
    static const char bytes[SIZE] = {0};
    roletalk_send_options options = at_once();
    for (; s->sent < MESSAGES; s->sent++) {
        roletalk_status status = roletalk_destination_send(
            s->to, ROLETALK_STR("m"), roletalk_data_binary(bytes, SIZE), &options);
        if (status == ROLETALK_STATUS_OVERLOADED) {
            send_as_room_comes(s, send_some);
            return;
        }
        OK(status);
    }
    count(&s->done);
}

static void room(int32_t callbacks) {
    roletalk_limits small = patient_limits();
    small.queue_per_connection = 16 * SIZE;
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = bounded_peer(callbacks, &small);
    listen_and_connect(&p);
    counter arrived;
    counter_init(&arrived);
    handle(&p, ROLETALK_KIND_MESSAGE, "m", count_message, &arrived);
    sender s;
    sender_init(&s, p.to);
    send_as_room_comes(&s, send_some);
    while (callbacks == ROLETALK_CALLBACKS_POLL && counted(&s.done) == 0)
        OK(roletalk_peer_poll(p.client, 1000, NULL));
    wait_count(&s.done, 1);
    wait_count(&arrived, MESSAGES);
    /* While such a callback runs, nothing is written. */
    if (callbacks == ROLETALK_CALLBACKS_INLINE) CHECK(s.asked > MESSAGES / 20);
    close_pair(&p);
    CHECK(counted(&s.drops) == s.asked && counted(&arrived) == MESSAGES);
    sender_destroy(&s), counter_destroy(&arrived);
}

static void send_in_vain(void *user_data) {
    sender *s = (sender *)user_data;
    roletalk_send_options options = at_once();
    EXPECT(ROLETALK_STATUS_NO_UNIT,
           roletalk_destination_send(s->to, ROLETALK_STR("m"), roletalk_data_null(), &options));
    count(&s->done);
}

static void keep_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_clone(unit, (roletalk_unit *)user_data));
}

static void see_room(void *user_data) {
    count(&((sender *)user_data)->done);
}

/* There is nobody to wait for, or somebody in particular. */
static void no_unit_and_one_unit(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    roletalk_destination nobody;
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("nobody"), &nobody));
    sender s;
    sender_init(&s, nobody);
    send_as_room_comes(&s, send_in_vain);
    wait_count(&s.done, 1);
    roletalk_unit unit;
    OK(roletalk_peer_each_unit(p.client, keep_unit, &unit));
    roletalk_send_options options = at_once();
    options.unit = unit;
    roletalk_ready_handler handler = handler_roletalk_ready_handler(see_room, &s, count_drop);
    OK(roletalk_destination_on_room(p.to, &options, handler));
    wait_count(&s.done, 2);
    /* A unit that is gone keeps nobody waiting. */
    OK(roletalk_unit_disconnect(unit));
    OK(roletalk_destination_on_room(p.to, &options, handler));
    wait_count(&s.done, 3);
    options.struct_size = 1;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_destination_on_room(p.to, &options, handler));
    wait_count(&s.drops, 4);
    OK(roletalk_unit_free(unit));
    close_pair(&p);
    CHECK(counted(&s.done) == 3 && counted(&s.drops) == 4);
    sender_destroy(&s);
}

typedef struct {
    counter entered;
    pthread_mutex_t busy;
} blocker;

/* Blocks until `busy` is unlocked. */
static void blocker_init(blocker *b) {
    counter_init(&b->entered);
    CHECK(pthread_mutex_init(&b->busy, NULL) == 0);
    pthread_mutex_lock(&b->busy);
}

static void blocker_destroy(blocker *b) {
    counter_destroy(&b->entered);
    pthread_mutex_destroy(&b->busy);
}

static void block(void *user_data, const roletalk_incoming *in) {
    (void)in;
    blocker *b = (blocker *)user_data;
    count(&b->entered);
    pthread_mutex_lock(&b->busy);
    pthread_mutex_unlock(&b->busy);
}

/* A client, and a server that reads nothing until `b` is unlocked. */
static pair deaf_pair(const roletalk_limits *of_client, blocker *b) {
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_INLINE);
    p.client = bounded_peer(ROLETALK_CALLBACKS_THREAD, of_client);
    listen_and_connect(&p);
    handle(&p, ROLETALK_KIND_MESSAGE, "block", block, b);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("block"), roletalk_data_null(), NULL));
    wait_count(&b->entered, 1);
    return p;
}

static void flood(void *user_data) {
    sender *s = (sender *)user_data;
    static const char bytes[SIZE] = {0};
    roletalk_send_options options = at_once();
    roletalk_status status;
    do {
        status = roletalk_destination_send(s->to, ROLETALK_STR("m"),
                                           roletalk_data_binary(bytes, SIZE), &options);
    } while (status == ROLETALK_STATUS_OK);
    if (status == ROLETALK_STATUS_OVERLOADED)
        send_as_room_comes(s, flood);
    else
        /* Between the two, the peer still is open and its connection is not. */
        CHECK(status == ROLETALK_STATUS_CLOSED || status == ROLETALK_STATUS_CONNECTION_LOST);
    count(&s->done);
}

/* Who waits for room at the end hears of it no later than from roletalk_peer_close. */
static void closing_without_room(void) {
    blocker b;
    blocker_init(&b);
    roletalk_limits small = patient_limits();
    small.queue_per_connection = 16 * SIZE;
    pair p = deaf_pair(&small, &b);
    sender s;
    sender_init(&s, p.to);
    send_as_room_comes(&s, flood);
    wait_count(&s.done, 1);
    OK(roletalk_peer_close(p.client));
    CHECK(counted(&s.drops) == s.asked);
    pthread_mutex_unlock(&b.busy);
    OK(roletalk_peer_close(p.server));
    blocker_destroy(&b);
    sender_destroy(&s);
}

/* Asking without waiting. */

typedef struct {
    /* The first, for count_drop. */
    counter drops;
    counter answers;
} asker;

static void on_answer(void *user_data, const roletalk_reply *reply) {
    (void)reply;
    count(&((asker *)user_data)->answers);
}

/* What finds no room is kept, up to a bound; then asking fails, and later it goes on. */
static void asking_without_room(void) {
    const long kept = 64;
    blocker b;
    blocker_init(&b);
    roletalk_limits small = patient_limits();
    small.queue_per_connection = 16 * SIZE;
    /* With 1 KiB besides the payload. */
    small.queue_per_peer = kept * 2 * SIZE;
    pair p = deaf_pair(&small, &b);
    roletalk_send_options options = at_once();
    static const char bytes[SIZE] = {0};
    roletalk_status status;
    do {
        status = roletalk_destination_send(p.to, ROLETALK_STR("m"),
                                           roletalk_data_binary(bytes, SIZE), &options);
    } while (status == ROLETALK_STATUS_OK);
    CHECK(status == ROLETALK_STATUS_OVERLOADED);
    asker a;
    counter_init(&a.drops), counter_init(&a.answers);
    const roletalk_reply_handler handler =
        handler_roletalk_reply_handler(on_answer, &a, count_drop);
    const roletalk_data data = roletalk_data_binary(bytes, SIZE);
    /* The kernel may still take some. */
    long asked = 0, refused = 0;
    while (asked < 100 * kept && refused == 0) {
        status =
            roletalk_destination_request_async(p.to, ROLETALK_STR("r"), data, NULL, handler, NULL);
        CHECK(status == ROLETALK_STATUS_OK || status == ROLETALK_STATUS_OVERLOADED);
        if (status == ROLETALK_STATUS_OK)
            asked++;
        else
            refused++;
    }
    CHECK(refused == 1 && asked >= kept);
    pthread_mutex_unlock(&b.busy);
    wait_count(&a.answers, asked);
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("r"), data, NULL, handler, NULL));
    wait_count(&a.answers, asked + 1);
    close_pair(&p);
    CHECK(counted(&a.answers) == asked + 1 && counted(&a.drops) == asked + 1 + refused);
    blocker_destroy(&b);
    counter_destroy(&a.drops), counter_destroy(&a.answers);
}

/* What waits for handlers. */

#define LARGE (16 << 10)
#define HELD 4

/* Messages that nobody works on are bounded by their bytes, too: beyond that they are dropped. */
static void unheard(int32_t callbacks) {
    roletalk_limits few = patient_limits();
    few.running_bytes = HELD * LARGE;
    pair p;
    p.server = bounded_peer(callbacks, &few);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    listen_and_connect(&p);
    blocker b;
    blocker_init(&b);
    counter arrived;
    counter_init(&arrived);
    handle(&p, ROLETALK_KIND_MESSAGE, "block", block, &b);
    handle(&p, ROLETALK_KIND_MESSAGE, "m", count_message, &arrived);
    if (callbacks == ROLETALK_CALLBACKS_THREAD) {
        OK(roletalk_destination_send(p.to, ROLETALK_STR("block"), roletalk_data_null(), NULL));
        wait_count(&b.entered, 1);
    }
    static const char bytes[LARGE] = {0};
    for (int i = 0; i < 10 * HELD; i++)
        OK(roletalk_destination_send(p.to, ROLETALK_STR("m"), roletalk_data_binary(bytes, LARGE),
                                     NULL));
    /* It comes behind them all, and nobody has worked on anything: so it is shed. */
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p.to, ROLETALK_STR("m"), roletalk_data_null(), NULL, NULL));
    roletalk_unit unit;
    OK(roletalk_peer_each_unit(p.server, keep_unit, &unit));
    roletalk_unit_stats stats;
    stats.struct_size = sizeof stats;
    OK(roletalk_unit_get_stats(unit, &stats));
    long blocked = callbacks == ROLETALK_CALLBACKS_THREAD;
    long held = (long)stats.running - blocked;
    /* What comes with the same read may go over. */
    CHECK(held >= HELD && held <= 2 * HELD);
    CHECK((long)stats.messages_dropped == 10 * HELD - held && stats.requests_shed == 1);
    pthread_mutex_unlock(&b.busy);
    while (callbacks == ROLETALK_CALLBACKS_POLL && counted(&arrived) < held)
        OK(roletalk_peer_poll(p.server, 1000, NULL));
    wait_count(&arrived, held);
    OK(roletalk_unit_free(unit));
    close_pair(&p);
    CHECK(counted(&arrived) == held);
    blocker_destroy(&b);
    counter_destroy(&arrived);
}

int main(void) {
    room(ROLETALK_CALLBACKS_INLINE);
    room(ROLETALK_CALLBACKS_THREAD);
    room(ROLETALK_CALLBACKS_POLL);
    no_unit_and_one_unit();
    closing_without_room();
    asking_without_room();
    unheard(ROLETALK_CALLBACKS_THREAD);
    unheard(ROLETALK_CALLBACKS_POLL);
    puts("bounds: ok");
    return 0;
}
