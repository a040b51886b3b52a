/* What the test programs share. Compiles as C11 and as C++17. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "roletalk.h"

/* Longer than anything takes, also under valgrind. Only there to fail. */
#define LIMIT_S 120

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                            \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fprintf(stderr, "\n");                                                                     \
        abort();                                                                                   \
    } while (0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) FAIL("%s", #condition);                                                  \
    } while (0)

/* A call that is to give this status. */
#define EXPECT(expected, call)                                                                     \
    do {                                                                                           \
        roletalk_status status_ = (call);                                                          \
        if (status_ != (expected)) {                                                               \
            roletalk_string is_ = roletalk_status_name(status_),                                   \
                            should_ = roletalk_status_name(expected);                              \
            roletalk_string why_ = roletalk_last_error();                                          \
            FAIL("%s: %.*s instead of %.*s: %.*s", #call, ROLETALK_ARG(is_),                       \
                 ROLETALK_ARG(should_), ROLETALK_ARG(why_));                                       \
        }                                                                                          \
    } while (0)

#define OK(call) EXPECT(ROLETALK_STATUS_OK, call)

/* A callback without drop. */
#define HANDLER(type, function, data) handler_##type(function, data, NULL)

#define DEFINE_HANDLER(type, function_type)                                                        \
    static inline type handler_##type(function_type, void *user_data, void (*drop)(void *)) {      \
        type handler;                                                                              \
        handler.call = call;                                                                       \
        handler.user_data = user_data;                                                             \
        handler.drop = drop;                                                                       \
        return handler;                                                                            \
    }

DEFINE_HANDLER(roletalk_incoming_handler, void (*call)(void *, const roletalk_incoming *))
DEFINE_HANDLER(roletalk_outcome_handler, void (*call)(void *, const roletalk_outcome *))
DEFINE_HANDLER(roletalk_reply_handler, void (*call)(void *, const roletalk_reply *))
DEFINE_HANDLER(roletalk_event_handler, void (*call)(void *, const roletalk_event *))
DEFINE_HANDLER(roletalk_log_handler, void (*call)(void *, const roletalk_log_record *))
DEFINE_HANDLER(roletalk_ready_handler, void (*call)(void *))
DEFINE_HANDLER(roletalk_cancel_handler, void (*call)(void *, int32_t))
DEFINE_HANDLER(roletalk_authenticate_handler, void (*call)(void *, roletalk_upgrade))
DEFINE_HANDLER(roletalk_readable_handler,
               void (*call)(void *, const roletalk_reply *, roletalk_readable))
DEFINE_HANDLER(roletalk_writable_handler,
               void (*call)(void *, const roletalk_reply *, roletalk_writable))

/* Counts what happens, and waits for it. */
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    long count;
} counter;

static inline void counter_init(counter *c) {
    CHECK(pthread_mutex_init(&c->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&c->changed, NULL) == 0);
    c->count = 0;
}

static inline void counter_destroy(counter *c) {
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mutex);
}

static inline void count(counter *c) {
    pthread_mutex_lock(&c->mutex);
    c->count++;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

static inline long counted(counter *c) {
    pthread_mutex_lock(&c->mutex);
    long n = c->count;
    pthread_mutex_unlock(&c->mutex);
    return n;
}

static inline void wait_count_at(counter *c, long until, int line) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&c->mutex);
    while (c->count < until) {
        if (pthread_cond_timedwait(&c->changed, &c->mutex, &limit) == ETIMEDOUT)
            FAIL("line %d: only %ld of %ld", line, c->count, until);
    }
    pthread_mutex_unlock(&c->mutex);
}

#define wait_count(c, until) wait_count_at(c, until, __LINE__)

/* For `drop`. */
static inline void count_drop(void *user_data) {
    count((counter *)user_data);
}

/* Threads that are to be waiting before something happens to what they wait for. */
typedef struct {
    counter begun;
    pid_t id;
} sleeper;

/* The thread's last step before the call in which it waits. */
static inline void sleeper_begin(sleeper *s) {
    s->id = (pid_t)syscall(SYS_gettid);
    count(&s->begun);
}

static inline void wait_until_asleep(sleeper *s) {
    char path[64], state;
    wait_count(&s->begun, 1);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)s->id);
    do {
        FILE *stat = fopen(path, "r");
        /* It has returned already. */
        if (!stat) return;
        if (fscanf(stat, "%*d (%*[^)]) %c", &state) != 1) state = 0;
        fclose(stat);
    } while (state != 'S');
}

static inline int is(roletalk_string string, const char *text) {
    return string.len == strlen(text) &&
           (string.len == 0 || memcmp(string.data, text, string.len) == 0);
}

static inline int data_is(roletalk_data data, int32_t kind, const char *bytes) {
    return data.kind == kind && data.len == strlen(bytes) &&
           (data.len == 0 || memcmp(data.bytes, bytes, data.len) == 0);
}

static inline roletalk_string str(const char *text) {
    return roletalk_string_of(text, strlen(text));
}

static inline roletalk_data txt(const char *text) {
    return roletalk_data_text(str(text));
}

/* The usual limits, but for the time of the handshake, in which a loaded machine has to be in time. */
/* A directory of this program's own, made when it is first asked for. */
static inline const char *own_directory(void) {
    static char directory[256];
    if (!*directory) {
        const char *parent = getenv("TMPDIR");
        snprintf(directory, sizeof directory, "%s/roletalk-test-%s", parent ? parent : "/tmp",
                 "XXXXXX");
        CHECK(mkdtemp(directory) != NULL);
    }
    return directory;
}

/* A path in it, one of few at a time. */
static inline const char *own_path(const char *name) {
    static char room[8][320];
    static int next;
    char *path = room[next++ % 8];
    snprintf(path, sizeof room[0], "%s/%s", own_directory(), name);
    return path;
}

/* A whole file takes the place of another. */
static inline void put_file(const char *path, roletalk_string content) {
    const char *fresh = own_path("new");
    FILE *file = fopen(fresh, "wb");
    CHECK(file != NULL);
    CHECK(content.len == 0 || fwrite(content.data, 1, content.len, file) == content.len);
    CHECK(fclose(file) == 0 && rename(fresh, path) == 0);
}

static inline roletalk_limits patient_limits(void) {
    roletalk_limits limits;
    memset(&limits, 0, sizeof limits);
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = LIMIT_S * 1000;
    return limits;
}

static inline roletalk_peer new_peer(const char *name, int32_t callbacks) {
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.name = str(name);
    options.callbacks = callbacks;
    options.limits = &limits;
    roletalk_peer peer;
    OK(roletalk_peer_new(&options, &peer));
    return peer;
}

/* Two peers that are connected: the server serves "r", and the client knows that. */
typedef struct {
    roletalk_peer server, client;
    roletalk_role role;
    roletalk_destination to;
} pair;

static inline void listen_and_connect(pair *p) {
    roletalk_listener listener;
    OK(roletalk_peer_role(p->server, ROLETALK_STR("r"), 1, &p->role));
    OK(roletalk_peer_listen(p->server, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    OK(roletalk_peer_connect(p->client, roletalk_string_of(url, len), NULL, NULL));
    OK(roletalk_peer_destination(p->client, ROLETALK_STR("r"), &p->to));
    OK(roletalk_destination_ready(p->to, LIMIT_S * 1000));
}

static inline pair connect_pair(int32_t callbacks) {
    pair p;
    p.server = new_peer("server", callbacks);
    p.client = new_peer("client", callbacks);
    listen_and_connect(&p);
    return p;
}

static inline void close_pair(pair *p) {
    OK(roletalk_peer_close(p->client));
    OK(roletalk_peer_close(p->server));
}

static inline void handle(pair *p, int32_t kind, const char *event,
                          void (*call)(void *, const roletalk_incoming *), void *user_data) {
    OK(roletalk_role_handle(p->role, kind, str(event),
                            handler_roletalk_incoming_handler(call, user_data, NULL)));
}

#endif
