/* Every kind of event, with what it tells. */
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* What was told of one kind: how often, and the last time. */
typedef struct {
    long times;
    roletalk_status status;
    int had_unit;
    uint64_t count, queued;
    char role[64], event[64], address[128], text[256];
} told;

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    told of[ROLETALK_EVENT_MISSED + 1];
    /* While not 0, callbacks do not return. */
    int held;
} watcher;

static void copy(char *to, size_t room, roletalk_string from) {
    CHECK(from.len < room);
    if (from.len > 0) memcpy(to, from.data, from.len);
    to[from.len] = 0;
}

static void on_event(void *user_data, const roletalk_event *event) {
    watcher *w = (watcher *)user_data;
    CHECK(event->struct_size == sizeof *event);
    CHECK(event->kind >= ROLETALK_EVENT_UNIT_OPENED && event->kind <= ROLETALK_EVENT_MISSED);
    pthread_mutex_lock(&w->mutex);
    while (w->held) pthread_cond_wait(&w->changed, &w->mutex);
    told *t = &w->of[event->kind];
    t->times++;
    t->status = event->status;
    t->had_unit = event->unit.id != 0;
    t->count = event->count;
    t->queued = event->queued;
    copy(t->role, sizeof t->role, event->role);
    copy(t->event, sizeof t->event, event->event);
    copy(t->address, sizeof t->address, event->address);
    copy(t->text, sizeof t->text, event->text);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

static void watch(watcher *w, roletalk_peer peer) {
    memset(w, 0, sizeof *w);
    CHECK(pthread_mutex_init(&w->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&w->changed, NULL) == 0);
    OK(roletalk_peer_on_event(peer, HANDLER(roletalk_event_handler, on_event, w), NULL));
}

static void hold(watcher *w, int held) {
    pthread_mutex_lock(&w->mutex);
    w->held = held;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

/* Waits for the first event of a kind since the last call for it. */
static told next_at(watcher *w, int32_t kind, int line) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&w->mutex);
    while (w->of[kind].times == 0) {
        if (pthread_cond_timedwait(&w->changed, &w->mutex, &limit) == ETIMEDOUT)
            FAIL("line %d: no event of kind %d", line, kind);
    }
    told t = w->of[kind];
    w->of[kind].times = 0;
    pthread_mutex_unlock(&w->mutex);
    return t;
}

#define NEXT(watcher, kind) next_at(watcher, kind, __LINE__)

static void refuse(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_reject(in->context, ROLETALK_STR("not today")));
}

static roletalk_context kept;

static void keep(void *user_data, const roletalk_incoming *in) {
    OK(roletalk_context_defer(in->context, &kept));
    count((counter *)user_data);
}

static roletalk_peer limited_peer(void) {
    roletalk_limits limits = patient_limits();
    limits.running_handlers = 1;
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.limits = &limits;
    options.reconnect_cap_ms = 20;
    roletalk_peer peer;
    OK(roletalk_peer_new(&options, &peer));
    return peer;
}

static roletalk_string listen_anywhere(roletalk_peer peer, roletalk_listener *listener, char *url,
                                       size_t room) {
    size_t len;
    OK(roletalk_peer_listen(peer, ROLETALK_STR("127.0.0.1:0"), NULL, listener));
    OK(roletalk_listener_url(*listener, url, room, &len));
    return roletalk_string_of(url, len);
}

/* Two peers meet, and part. */
static void units_and_roles(void) {
    pair p;
    watcher server, client;
    told t;
    p.server = limited_peer();
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    watch(&server, p.server);
    watch(&client, p.client);
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    listen_and_connect(&p);
    CHECK(NEXT(&client, ROLETALK_EVENT_UNIT_OPENED).had_unit);
    t = NEXT(&client, ROLETALK_EVENT_DESTINATION_OPENED);
    CHECK(strcmp(t.role, "r") == 0 && !t.had_unit);
    t = NEXT(&client, ROLETALK_EVENT_DESTINATION_GAINED);
    CHECK(strcmp(t.role, "r") == 0 && t.had_unit);
    OK(roletalk_role_disable(p.role));
    t = NEXT(&client, ROLETALK_EVENT_DESTINATION_LOST);
    CHECK(strcmp(t.role, "r") == 0 && t.had_unit);
    t = NEXT(&client, ROLETALK_EVENT_DESTINATION_CLOSED);
    CHECK(strcmp(t.role, "r") == 0 && !t.had_unit);
    OK(roletalk_role_enable(p.role));
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));

    handle(&p, ROLETALK_KIND_MESSAGE, "fails", refuse, NULL);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("fails"), roletalk_data_null(), NULL));
    t = NEXT(&server, ROLETALK_EVENT_HANDLER_FAILED);
    CHECK(strcmp(t.role, "r") == 0 && strcmp(t.event, "fails") == 0 && t.had_unit);
    CHECK(t.status == ROLETALK_STATUS_HANDLER_FAILED && strcmp(t.text, "not today") == 0);

    /* One handler at a time: what comes meanwhile is dropped. */
    counter keeping;
    counter_init(&keeping);
    handle(&p, ROLETALK_KIND_MESSAGE, "keep", keep, &keeping);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("keep"), roletalk_data_null(), NULL));
    wait_count(&keeping, 1);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("keep"), roletalk_data_null(), NULL));
    t = NEXT(&server, ROLETALK_EVENT_SLOW_CONSUMER);
    CHECK(t.had_unit && t.count == 1);
    OK(roletalk_context_respond(kept, roletalk_data_null()));
    CHECK(counted(&keeping) == 1);
    counter_destroy(&keeping);

    OK(roletalk_peer_close(p.server));
    t = NEXT(&client, ROLETALK_EVENT_CONNECTION_CLOSED);
    CHECK(t.had_unit && t.status != ROLETALK_STATUS_OK && t.text[0] != 0);
    CHECK(NEXT(&client, ROLETALK_EVENT_UNIT_CLOSED).had_unit);
    OK(roletalk_peer_close(p.client));
}

enum { MANY = 1500 };

static roletalk_context many[MANY];

static void keep_many(void *user_data, const roletalk_incoming *in) {
    counter *c = (counter *)user_data;
    OK(roletalk_context_defer(in->context, &many[counted(c)]));
    count(c);
}

/* More happens than a subscriber may lag behind. */
static void missed(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    watcher server;
    counter came;
    counter_init(&came);
    watch(&server, p.server);
    handle(&p, ROLETALK_KIND_MESSAGE, "keep", keep_many, &came);
    for (int i = 0; i < MANY; i++)
        OK(roletalk_destination_send(p.to, ROLETALK_STR("keep"), roletalk_data_null(), NULL));
    wait_count(&came, MANY);
    hold(&server, 1);
    for (int i = 0; i < MANY; i++) OK(roletalk_context_reject(many[i], ROLETALK_STR("no")));
    hold(&server, 0);
    const uint64_t count = NEXT(&server, ROLETALK_EVENT_MISSED).count;
    CHECK(count > 0 && count < MANY);
    close_pair(&p);
    counter_destroy(&came);
}

/* Who must not come in, and what nobody can read. */
static void strangers(void) {
    watcher server;
    told t;
    char url[128];
    roletalk_listener listener;
    roletalk_peer guarded = new_peer("guarded", ROLETALK_CALLBACKS_THREAD);
    roletalk_peer stranger = new_peer("stranger", ROLETALK_CALLBACKS_THREAD);
    watch(&server, guarded);
    OK(roletalk_peer_add_key(guarded, ROLETALK_STR("id"), ROLETALK_STR("key")));
    roletalk_string address = listen_anywhere(guarded, &listener, url, sizeof url);
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    EXPECT(ROLETALK_STATUS_AUTH_REFUSED, roletalk_peer_connect(stranger, address, &once, NULL));
    t = NEXT(&server, ROLETALK_EVENT_AUTH_REFUSED);
    CHECK(t.status == ROLETALK_STATUS_AUTH_REFUSED && t.text[0] != 0);
    NEXT(&server, ROLETALK_EVENT_CONNECTION_CLOSED);

    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    OK(roletalk_peer_accept_fd(guarded, ends[0], 1));
    /* A frame of a kind that WebSocket does not have. */
    static const unsigned char frame[] = {0x8f, 0x80, 0, 0, 0, 0};
    CHECK(write(ends[1], frame, sizeof frame) == (ssize_t)sizeof frame);
    t = NEXT(&server, ROLETALK_EVENT_BAD_INPUT);
    CHECK(!t.had_unit && t.status == ROLETALK_STATUS_PROTOCOL && t.text[0] != 0);
    close(ends[1]);
    OK(roletalk_peer_close(stranger));
    OK(roletalk_peer_close(guarded));
}

/* An address that is lost, and found again. */
static void reconnecting(void) {
    watcher client;
    char url[128];
    roletalk_listener listener;
    roletalk_peer server = new_peer("server", ROLETALK_CALLBACKS_THREAD), dialing = limited_peer();
    watch(&client, dialing);
    roletalk_string address = listen_anywhere(server, &listener, url, sizeof url);
    OK(roletalk_peer_connect(dialing, address, NULL, NULL));
    OK(roletalk_peer_close(server));
    told t = NEXT(&client, ROLETALK_EVENT_RECONNECT_FAILED);
    CHECK(is(address, t.address));
    CHECK(t.count > 0 && t.status == ROLETALK_STATUS_CONNECT_FAILED && t.text[0] != 0);
    server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_listen(server, roletalk_string_of(url + 5, address.len - 5), NULL, &listener));
    t = NEXT(&client, ROLETALK_EVENT_RECONNECT_SUCCEEDED);
    CHECK(is(address, t.address) && t.count > 0 && t.had_unit);
    OK(roletalk_peer_close(dialing));
    OK(roletalk_peer_close(server));
}

int main(void) {
    units_and_roles();
    missed();
    strangers();
    reconnecting();
    puts("events: ok");
    return 0;
}
