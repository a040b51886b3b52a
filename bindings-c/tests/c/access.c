/* Who gets in, who it is, and what it may do. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "check.h"

static roletalk_peer_options named(const char *name, const roletalk_limits *limits) {
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.name = str(name);
    options.limits = limits;
    options.unfriendly = 1;
    return options;
}

static roletalk_peer make(const roletalk_peer_options *options) {
    roletalk_peer peer;
    OK(roletalk_peer_new(options, &peer));
    return peer;
}

/* A peer that shows a key of its name. */
static roletalk_peer keyed(const char *name) {
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options = named(name, &limits);
    roletalk_pair key;
    key.key = str(name);
    key.value = ROLETALK_STR("secret");
    options.keys = &key;
    options.key_count = 1;
    return make(&options);
}

/* One that knows those of "a", "b" and "c#1". */
static roletalk_peer guarded(const char *policy) {
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options = named("server", &limits);
    const char *const ids[] = {"a", "b", "c#1"};
    roletalk_pair keys[3];
    for (int i = 0; i < 3; i++) {
        keys[i].key = str(ids[i]);
        keys[i].value = ROLETALK_STR("secret");
    }
    options.keys = keys;
    options.key_count = 3;
    if (policy) options.policy = str(policy);
    return make(&options);
}

static char url_of[128];

static roletalk_string listen_anywhere(roletalk_peer peer) {
    roletalk_listener listener;
    size_t len;
    OK(roletalk_peer_listen(peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    OK(roletalk_listener_url(listener, url_of, sizeof url_of, &len));
    return roletalk_string_of(url_of, len);
}

/* How often each kind was told; of denials the first one, of others the last. */

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    long times[ROLETALK_EVENT_POLICY_FAILED + 1];
    char what[32], role[64], event[64], text[512], path[512], unit[64];
} watcher;

static void copy(char *to, size_t room, roletalk_string from) {
    CHECK(from.len < room);
    if (from.len > 0) memcpy(to, from.data, from.len);
    to[from.len] = 0;
}

static void on_event(void *user_data, const roletalk_event *event) {
    watcher *w = (watcher *)user_data;
    CHECK(event->struct_size == sizeof *event);
    pthread_mutex_lock(&w->mutex);
    w->times[event->kind]++;
    if (event->kind == ROLETALK_EVENT_DENIED)
        CHECK(event->count > 0 && event->what.len > 0 && event->text.len > 0);
    /* How many follow depends on the time that the test takes. */
    if (event->kind == ROLETALK_EVENT_DENIED && w->times[event->kind] == 1) {
        copy(w->what, sizeof w->what, event->what);
        copy(w->role, sizeof w->role, event->role);
        copy(w->event, sizeof w->event, event->event);
        size_t len;
        OK(roletalk_unit_name(event->unit, w->unit, sizeof w->unit - 1, &len));
        w->unit[len] = 0;
    }
    if (event->kind >= ROLETALK_EVENT_POLICY_LOADED || event->kind == ROLETALK_EVENT_AUTH_REFUSED ||
        event->kind == ROLETALK_EVENT_CONNECTION_CLOSED) {
        copy(w->text, sizeof w->text, event->text);
        copy(w->path, sizeof w->path, event->path);
    }
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

static void watch(watcher *w, roletalk_peer peer) {
    memset(w, 0, sizeof *w);
    CHECK(pthread_mutex_init(&w->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&w->changed, NULL) == 0);
    OK(roletalk_peer_on_event(peer, HANDLER(roletalk_event_handler, on_event, w), NULL));
}

static void wait_event_at(watcher *w, int32_t kind, long times, int line) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&w->mutex);
    while (w->times[kind] < times) {
        if (pthread_cond_timedwait(&w->changed, &w->mutex, &limit) == ETIMEDOUT)
            FAIL("line %d: no event of kind %d", line, kind);
    }
    pthread_mutex_unlock(&w->mutex);
}

#define WAIT(watcher, kind, times) wait_event_at(watcher, kind, times, __LINE__)

static long times_of(watcher *w, int32_t kind) {
    pthread_mutex_lock(&w->mutex);
    long times = w->times[kind];
    pthread_mutex_unlock(&w->mutex);
    return times;
}

/* Every kind of call, of an event that is allowed and of one that is not. */

static void on_message(void *user_data, const roletalk_incoming *in) {
    (void)in;
    count((counter *)user_data);
}

static void on_request(void *user_data, const roletalk_incoming *in) {
    count((counter *)user_data);
    OK(roletalk_context_respond(in->context, in->data));
}

static void on_readable(void *user_data, const roletalk_incoming *in) {
    roletalk_readable stream;
    count((counter *)user_data);
    OK(roletalk_context_accept_readable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_readable_close(stream));
}

static void on_writable(void *user_data, const roletalk_incoming *in) {
    roletalk_writable stream;
    count((counter *)user_data);
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_writable_close(stream));
}

static roletalk_status send_it(roletalk_destination to, roletalk_string event) {
    return roletalk_destination_send(to, event, txt("x"), NULL);
}

static roletalk_status request_it(roletalk_destination to, roletalk_string event) {
    return roletalk_destination_request(to, event, txt("x"), NULL, NULL);
}

/* The requester reads, and the handler writes. */
static roletalk_status read_it(roletalk_destination to, roletalk_string event) {
    roletalk_readable stream;
    roletalk_status status =
        roletalk_destination_readable(to, event, txt("x"), NULL, &stream, NULL);
    if (status == ROLETALK_STATUS_OK) OK(roletalk_readable_close(stream));
    return status;
}

static roletalk_status write_it(roletalk_destination to, roletalk_string event) {
    roletalk_writable stream;
    roletalk_status status =
        roletalk_destination_writable(to, event, txt("x"), NULL, &stream, NULL);
    if (status == ROLETALK_STATUS_OK) OK(roletalk_writable_close(stream));
    return status;
}

static roletalk_status broadcast_it(roletalk_destination to, roletalk_string event) {
    size_t units;
    OK(roletalk_destination_broadcast(to, event, txt("x"), NULL, &units));
    CHECK(units == 1);
    return ROLETALK_STATUS_OK;
}

static roletalk_status survey_it(roletalk_destination to, roletalk_string event) {
    roletalk_survey survey;
    roletalk_answer answer;
    roletalk_reply reply;
    OK(roletalk_destination_survey(to, event, txt("x"), NULL, &survey));
    OK(roletalk_survey_next(survey, LIMIT_S * 1000, &answer));
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_answer_view(answer, &reply));
    const roletalk_status status = reply.status;
    if (status != ROLETALK_STATUS_OK) CHECK(is(reply.error_code, "NOT_ALLOWED") && reply.unhandled);
    OK(roletalk_answer_free(answer));
    EXPECT(ROLETALK_STATUS_END, roletalk_survey_next(survey, LIMIT_S * 1000, &answer));
    OK(roletalk_survey_close(survey));
    return status;
}

static uint64_t denied_of(roletalk_unit unit) {
    roletalk_unit_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(roletalk_unit_get_stats(unit, &stats));
    return stats.denied;
}

static void add_denied(void *user_data, roletalk_unit unit) {
    *(uint64_t *)user_data += denied_of(unit);
}

static void every_kind_of_call(void) {
    static const struct {
        const char *name;
        roletalk_status (*call)(roletalk_destination, roletalk_string);
        int32_t kind;
        /* Nobody is told of messages. */
        int answered;
    } calls[] = {
        {"message", send_it, ROLETALK_KIND_MESSAGE, 0},
        {"request", request_it, ROLETALK_KIND_REQUEST, 1},
        {"readable", read_it, ROLETALK_KIND_WRITABLE, 1},
        {"writable", write_it, ROLETALK_KIND_READABLE, 1},
        {"broadcast", broadcast_it, ROLETALK_KIND_MESSAGE, 0},
        {"survey", survey_it, ROLETALK_KIND_REQUEST, 1},
    };
    static void (*const handlers[])(void *, const roletalk_incoming *) = {
        NULL, on_message, on_request, on_readable, on_writable};
    pair p;
    watcher server;
    p.server = guarded("{\"rules\": [{\"who\": {\"key\": \"a\"}, \"call\": [\"r/open\"]}]}");
    p.client = keyed("a");
    watch(&server, p.server);
    counter open, shut;
    counter_init(&open);
    counter_init(&shut);
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    for (int32_t kind = ROLETALK_KIND_MESSAGE; kind <= ROLETALK_KIND_WRITABLE; kind++) {
        handle(&p, kind, "open", handlers[kind], &open);
        handle(&p, kind, "shut", handlers[kind], &shut);
    }
    OK(roletalk_peer_connect(p.client, listen_anywhere(p.server), NULL, NULL));
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));
    long opened = 0;
    uint64_t denied = 0;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        const roletalk_status refused =
            calls[i].answered ? ROLETALK_STATUS_REJECTED : ROLETALK_STATUS_OK;
        EXPECT(refused, calls[i].call(p.to, ROLETALK_STR("shut")));
        if (refused != ROLETALK_STATUS_OK && calls[i].call != survey_it) {
            CHECK(is(roletalk_last_error_code(), "NOT_ALLOWED"));
            CHECK(roletalk_last_error_unhandled() == 1);
        }
        /* It comes behind the other, so that the other was judged by then. */
        OK(calls[i].call(p.to, ROLETALK_STR("open")));
        wait_count(&open, ++opened);
        uint64_t counted_here = 0;
        OK(roletalk_peer_each_unit(p.server, add_denied, &counted_here));
        if (counted_here != ++denied) FAIL("%s: %d denied", calls[i].name, (int)counted_here);
        CHECK(counted(&shut) == 0 && counted(&open) == opened);
    }
    WAIT(&server, ROLETALK_EVENT_DENIED, 1);
    CHECK(strcmp(server.role, "r") == 0 && strcmp(server.event, "shut") == 0);
    CHECK(strcmp(server.what, "message") == 0 && strcmp(server.unit, "a") == 0);
    /* Another policy is in force at once, none allows everything, and one with a fault changes nothing. */
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_set_policy(p.server, ROLETALK_STR("{\"rules\": 7}")));
    EXPECT(ROLETALK_STATUS_REJECTED, request_it(p.to, ROLETALK_STR("shut")));
    OK(roletalk_peer_set_policy(p.server, ROLETALK_STR("{\"default\": \"allow\"}")));
    OK(request_it(p.to, ROLETALK_STR("shut")));
    OK(roletalk_peer_set_policy(p.server, ROLETALK_STR("{}")));
    EXPECT(ROLETALK_STATUS_REJECTED, request_it(p.to, ROLETALK_STR("open")));
    OK(roletalk_peer_set_policy(p.server, roletalk_string_of(NULL, 0)));
    OK(request_it(p.to, ROLETALK_STR("shut")));
    close_pair(&p);
    counter_destroy(&open);
    counter_destroy(&shut);
}

/* Whoever announces a role without permission is asked nothing. */

static void count_unit(void *user_data, roletalk_unit unit) {
    (void)unit;
    (*(int *)user_data)++;
}

static void no_request_for_a_stranger(void) {
    roletalk_peer server = guarded("{\"default\": {\"call\": \"allow\"}, \"rules\": ["
                                   "{\"who\": {\"key\": \"a\"}, \"serve\": [\"work\"]}]}");
    roletalk_peer workers[2];
    const char *const names[] = {"b", "a"};
    watcher w;
    counter asked[2];
    watch(&w, server);
    roletalk_destination work;
    OK(roletalk_peer_destination(server, ROLETALK_STR("work"), &work));
    const roletalk_string url = listen_anywhere(server);
    for (int i = 0; i < 2; i++) {
        roletalk_role role;
        counter_init(&asked[i]);
        workers[i] = keyed(names[i]);
        OK(roletalk_peer_role(workers[i], ROLETALK_STR("work"), 1, &role));
        OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("do"),
                                HANDLER(roletalk_incoming_handler, on_request, &asked[i])));
        OK(roletalk_peer_connect(workers[i], url, NULL, NULL));
    }
    OK(roletalk_destination_ready(work, LIMIT_S * 1000));
    WAIT(&w, ROLETALK_EVENT_DENIED, 1);
    CHECK(strcmp(w.what, "serve") == 0 && strcmp(w.role, "work") == 0);
    CHECK(strcmp(w.unit, "b") == 0 && w.event[0] == 0);
    int units = 0;
    OK(roletalk_destination_each_unit(work, count_unit, &units));
    CHECK(units == 1);
    for (int i = 0; i < 10; i++) OK(request_it(work, ROLETALK_STR("do")));
    OK(survey_it(work, ROLETALK_STR("do")));
    CHECK(counted(&asked[0]) == 0 && counted(&asked[1]) == 11);
    for (int i = 0; i < 2; i++) {
        OK(roletalk_peer_close(workers[i]));
        counter_destroy(&asked[i]);
    }
    OK(roletalk_peer_close(server));
}

/* An upgrade by hand. */

static int dial(roletalk_string url) {
    const int port = atoi(strrchr(url_of, ':') + 1);
    struct sockaddr_in at;
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_port = htons((uint16_t)port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(url.len > 0);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    struct timeval limit = {LIMIT_S, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    return fd;
}

static void say_upgrade(int fd, const char *headers) {
    char request[1024];
    const int len =
        snprintf(request, sizeof request,
                 "GET /some/path?query HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                 "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
                 headers);
    CHECK(write(fd, request, (size_t)len) == len);
}

/* The status of the answer; 0 when the connection ends without one. */
static int hear_status(int fd) {
    char answer[16] = "";
    size_t len = 0;
    while (len < 12) {
        const ssize_t heard = read(fd, answer + len, 12 - len);
        CHECK(heard >= 0);
        if (heard == 0) return 0;
        len += (size_t)heard;
    }
    CHECK(memcmp(answer, "HTTP/1.1 ", 9) == 0);
    return atoi(answer + 9);
}

static int upgrade_with(roletalk_string url, const char *headers) {
    const int fd = dial(url);
    say_upgrade(fd, headers);
    const int status = hear_status(fd);
    close(fd);
    return status;
}

static void foreign_origins(void) {
    roletalk_limits limits = patient_limits();
    for (int allowed = 0; allowed < 2; allowed++) {
        roletalk_peer_options options = named("server", &limits);
        const roletalk_string origin = ROLETALK_STR("https://app.example.org");
        if (allowed) {
            options.origins = &origin;
            options.origin_count = 1;
        }
        roletalk_peer peer = make(&options);
        const roletalk_string url = listen_anywhere(peer);
        CHECK(upgrade_with(url, "") == 101);
        CHECK(upgrade_with(url, "Origin: https://evil.example\r\n") == 403);
        CHECK(upgrade_with(url, "Origin: https://app.example.org\r\n") == (allowed ? 101 : 403));
        /* As the host, which any page can have fit. */
        CHECK(upgrade_with(url, "Origin: http://localhost\r\n") == 403);
        OK(roletalk_peer_close(peer));
    }
}

/* The program judges upgrades. */

typedef struct {
    counter asked, dropped;
    pthread_mutex_t mutex;
    /* Not judged in the callback. */
    roletalk_upgrade kept;
    char path[64], address[64], team[64];
} judge;

static void no_certificate(void *user_data, const roletalk_certificate *certificate) {
    (void)user_data, (void)certificate;
    FAIL("there is none");
}

#define READ(call, into, ...)                                                                      \
    do {                                                                                           \
        size_t len_;                                                                               \
        OK(call(__VA_ARGS__, into, sizeof(into) - 1, &len_));                                      \
        into[len_] = 0;                                                                            \
    } while (0)

static void drop_judge(void *user_data) {
    count(&((judge *)user_data)->dropped);
}

static void on_upgrade(void *user_data, roletalk_upgrade upgrade) {
    judge *j = (judge *)user_data;
    const roletalk_status bad = ROLETALK_STATUS_INVALID_ARGUMENT;
    char token[64];
    size_t len;
    READ(roletalk_upgrade_path, j->path, upgrade);
    READ(roletalk_upgrade_address, j->address, upgrade);
    EXPECT(ROLETALK_STATUS_TOO_LARGE, roletalk_upgrade_path(upgrade, token, 0, &len));
    EXPECT(ROLETALK_STATUS_END,
           roletalk_upgrade_header(upgrade, ROLETALK_STR("x-none"), token, sizeof token, &len));
    EXPECT(bad, roletalk_upgrade_header(upgrade, roletalk_string_of(NULL, 1), token, 0, &len));
    EXPECT(bad, roletalk_upgrade_certificate(upgrade, NULL, NULL));
    EXPECT(ROLETALK_STATUS_END, roletalk_upgrade_certificate(upgrade, no_certificate, NULL));
    if (roletalk_upgrade_bearer(upgrade, token, sizeof token - 1, &len) != ROLETALK_STATUS_OK) {
        OK(roletalk_upgrade_deny(upgrade, 401, ROLETALK_STR("no token")));
        EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
               roletalk_upgrade_allow(upgrade, roletalk_string_of(NULL, 0)));
    } else {
        token[len] = 0;
        if (strcmp(token, "drop") == 0) {
            OK(roletalk_upgrade_free(upgrade));
        } else if (strcmp(token, "plain") == 0) {
            OK(roletalk_upgrade_allow(upgrade, roletalk_string_of(NULL, 0)));
        } else if (strcmp(token, "later") == 0) {
            pthread_mutex_lock(&j->mutex);
            j->kept = upgrade;
            pthread_mutex_unlock(&j->mutex);
        } else {
            CHECK(strcmp(token, "secret") == 0);
            READ(roletalk_upgrade_header, j->team, upgrade, ROLETALK_STR("x-TEAM"));
            /* What is refused leaves it as it is. */
            static char large[9000];
            memset(large, ' ', sizeof large);
            EXPECT(bad, roletalk_upgrade_allow(upgrade, ROLETALK_STR("[]")));
            EXPECT(bad, roletalk_upgrade_allow(upgrade, ROLETALK_STR("")));
            EXPECT(bad, roletalk_upgrade_allow(upgrade, roletalk_string_of(large, sizeof large)));
            EXPECT(bad, roletalk_upgrade_deny(upgrade, 200, ROLETALK_STR("")));
            EXPECT(bad, roletalk_upgrade_deny(upgrade, -1, ROLETALK_STR("")));
            EXPECT(bad, roletalk_upgrade_deny(upgrade, 70000, ROLETALK_STR("")));
            EXPECT(bad, roletalk_upgrade_deny(upgrade, 401, roletalk_string_of(NULL, 1)));
            OK(roletalk_upgrade_allow(upgrade,
                                      ROLETALK_STR("{\"sub\": \"red-1\", \"team\": \"red\"}")));
            EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
                   roletalk_upgrade_deny(upgrade, 401, ROLETALK_STR("")));
            EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_upgrade_free(upgrade));
        }
    }
    count(&j->asked);
}

static void judge_init(judge *j) {
    memset(j, 0, sizeof *j);
    counter_init(&j->asked);
    counter_init(&j->dropped);
    CHECK(pthread_mutex_init(&j->mutex, NULL) == 0);
}

static void judge_end(judge *j) {
    CHECK(counted(&j->dropped) == 1);
    counter_destroy(&j->asked);
    counter_destroy(&j->dropped);
    pthread_mutex_destroy(&j->mutex);
}

static roletalk_peer judging(judge *j, int32_t callbacks) {
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options = named("server", &limits);
    const roletalk_string kept[] = {ROLETALK_STR("X-Team"), ROLETALK_STR("x-other")};
    judge_init(j);
    options.callbacks = callbacks;
    options.policy = ROLETALK_STR("{\"rules\": [{\"who\": {\"claim\": {\"team\": \"red\"}}, "
                                  "\"call\": [\"r/*\"]}]}");
    options.identity_headers = kept;
    options.identity_header_count = 2;
    options.authenticate = handler_roletalk_authenticate_handler(on_upgrade, j, drop_judge);
    return make(&options);
}

static void *allow_later(void *upgrade) {
    OK(roletalk_upgrade_allow(*(roletalk_upgrade *)upgrade, ROLETALK_STR("{\"sub\": \"late\"}")));
    return NULL;
}

typedef struct {
    int seen;
} seen_identity;

static void check_red(void *user_data, const roletalk_identity *identity) {
    seen_identity *seen = (seen_identity *)user_data;
    CHECK(identity->struct_size == sizeof *identity);
    CHECK(identity->dialed == 0 && identity->key.len == 0 && identity->key_name.len == 0);
    CHECK(identity->certificate == NULL);
    CHECK(is(identity->claims, "{\"sub\":\"red-1\",\"team\":\"red\"}"));
    CHECK(identity->address.len > 10 && memcmp(identity->address.data, "127.0.0.1:", 10) == 0);
    CHECK(identity->header_count == 1 && is(identity->headers[0].key, "x-team"));
    CHECK(is(identity->headers[0].value, "red"));
    seen->seen++;
}

static void check_red_unit(void *user_data, roletalk_unit unit) {
    seen_identity *seen = (seen_identity *)user_data;
    char json[512];
    size_t len;
    READ(roletalk_unit_identity, json, unit);
    CHECK(strstr(json, "\"claims\":{\"sub\":\"red-1\",\"team\":\"red\"}"));
    CHECK(strstr(json, "\"headers\":[[\"x-team\",\"red\"]]") && strstr(json, "\"dialed\":false"));
    CHECK(strstr(json, "\"key\":null") && strstr(json, "\"peer\":null") &&
          strstr(json, "\"certificate\":null"));
    EXPECT(ROLETALK_STATUS_TOO_LARGE, roletalk_unit_identity(unit, json, 3, &len));
    CHECK(len > 3);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_unit_describe_identity(unit, NULL, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_unit_each_identity(unit, NULL, NULL));
    OK(roletalk_unit_describe_identity(unit, check_red, seen));
    CHECK(seen->seen == 1);
    OK(roletalk_unit_each_identity(unit, check_red, seen));
    CHECK(seen->seen == 2);
}

static void the_program_judges(int32_t callbacks) {
    judge j;
    watcher w;
    roletalk_peer server = judging(&j, callbacks);
    watch(&w, server);
    const roletalk_string url = listen_anywhere(server);
    roletalk_role role;
    counter asked;
    counter_init(&asked);
    OK(roletalk_peer_role(server, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("e"),
                            HANDLER(roletalk_incoming_handler, on_request, &asked)));
    /* Without a token, with one that is let go of, and judged by another thread. */
    CHECK(upgrade_with(url, "") == 401);
    WAIT(&w, ROLETALK_EVENT_CONNECTION_CLOSED, 1);
    CHECK(strstr(w.text, "refused the upgrade: no token"));
    CHECK(strcmp(j.path, "/some/path") == 0 && strncmp(j.address, "127.0.0.1:", 10) == 0);
    CHECK(upgrade_with(url, "Authorization: Bearer drop\r\n") == 403);
    const int fd = dial(url);
    say_upgrade(fd, "Authorization: Bearer later\r\n");
    wait_count(&j.asked, 3);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, allow_later, &j.kept) == 0);
    CHECK(hear_status(fd) == 101);
    CHECK(pthread_join(thread, NULL) == 0);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_upgrade_deny(j.kept, 401, ROLETALK_STR("once more")));
    close(fd);
    /* Claims reach the identity and the policy. */
    roletalk_pair headers[2];
    headers[0].key = ROLETALK_STR("authorization");
    headers[0].value = ROLETALK_STR("Bearer secret");
    headers[1].key = ROLETALK_STR("x-team");
    headers[1].value = ROLETALK_STR("red");
    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.once = 1;
    dialing.headers = headers;
    dialing.header_count = 2;
    roletalk_peer red = new_peer("red", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_connect(red, url, &dialing, NULL));
    CHECK(strcmp(j.team, "red") == 0);
    roletalk_destination to;
    OK(roletalk_peer_destination(red, ROLETALK_STR("r"), &to));
    OK(roletalk_destination_ready(to, LIMIT_S * 1000));
    OK(request_it(to, ROLETALK_STR("e")));
    seen_identity seen = {0};
    OK(roletalk_peer_each_unit(server, check_red_unit, &seen));
    CHECK(seen.seen == 2);
    OK(roletalk_peer_close(red));
    headers[0].value = ROLETALK_STR("Bearer plain");
    roletalk_peer plain = new_peer("plain", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_connect(plain, url, &dialing, NULL));
    OK(roletalk_peer_destination(plain, ROLETALK_STR("r"), &to));
    OK(roletalk_destination_ready(to, LIMIT_S * 1000));
    EXPECT(ROLETALK_STATUS_REJECTED, request_it(to, ROLETALK_STR("e")));
    CHECK(is(roletalk_last_error_code(), "NOT_ALLOWED"));
    OK(roletalk_peer_close(plain));
    /* The dialer is told no more than the status. */
    roletalk_peer stranger = new_peer("stranger", ROLETALK_CALLBACKS_THREAD);
    dialing.header_count = 0;
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED, roletalk_peer_connect(stranger, url, &dialing, NULL));
    roletalk_string why = roletalk_last_error();
    CHECK(memmem(why.data, why.len, "401", 3) && !memmem(why.data, why.len, "no token", 8));
    OK(roletalk_peer_close(stranger));
    CHECK(counted(&j.asked) == 6 && counted(&j.dropped) == 0);
    OK(roletalk_peer_close(server));
    judge_end(&j);
    counter_destroy(&asked);
}

/* Nobody judges in time: the handle ends, and so does the connection. */

static void keep_upgrade(void *user_data, roletalk_upgrade upgrade) {
    judge *j = (judge *)user_data;
    pthread_mutex_lock(&j->mutex);
    j->kept = upgrade;
    pthread_mutex_unlock(&j->mutex);
    count(&j->asked);
}

static int is_asked(judge *j) {
    const struct timespec pause = {0, 1000000};
    for (int tries = 0; tries < 2000 && counted(&j->asked) == 0; tries++) nanosleep(&pause, NULL);
    return counted(&j->asked) > 0;
}

static void a_verdict_that_is_late(void) {
    /* A slow machine may need longer to ask. */
    for (uint64_t limit = 50, done = 0; !done; limit *= 2) {
        judge j;
        judge_init(&j);
        roletalk_limits limits = patient_limits();
        limits.handshake_timeout_ms = limit;
        roletalk_peer_options options = named("server", &limits);
        options.authenticate = handler_roletalk_authenticate_handler(keep_upgrade, &j, drop_judge);
        roletalk_peer server = make(&options);
        const int status = upgrade_with(listen_anywhere(server), "");
        CHECK(status == 503 || status == 0);
        if (is_asked(&j)) {
            char path[64];
            size_t len;
            const struct timespec pause = {0, 1000000};
            for (long tries = 0; roletalk_upgrade_path(j.kept, path, sizeof path, &len) !=
                                 ROLETALK_STATUS_INVALID_HANDLE;
                 tries++) {
                CHECK(tries < LIMIT_S * 1000);
                nanosleep(&pause, NULL);
            }
            EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
                   roletalk_upgrade_allow(j.kept, roletalk_string_of(NULL, 0)));
            done = 1;
        }
        OK(roletalk_peer_close(server));
        judge_end(&j);
    }
}

/* Of several threads that judge, one succeeds, and that one counts. */

typedef struct {
    roletalk_upgrade upgrade;
    /* 101 allows. */
    int with;
    roletalk_status outcome;
} verdict;

static void *give_verdict(void *given) {
    verdict *v = (verdict *)given;
    v->outcome = v->with == 101 ? roletalk_upgrade_allow(v->upgrade, roletalk_string_of(NULL, 0))
                                : roletalk_upgrade_deny(v->upgrade, v->with, ROLETALK_STR("no"));
    return NULL;
}

static void several_threads_judge(void) {
    judge j;
    judge_init(&j);
    roletalk_limits limits = patient_limits();
    roletalk_peer_options options = named("server", &limits);
    options.authenticate = handler_roletalk_authenticate_handler(keep_upgrade, &j, drop_judge);
    roletalk_peer server = make(&options);
    const roletalk_string url = listen_anywhere(server);
    for (long round = 1; round <= 20; round++) {
        enum { THREADS = 3 };
        static const int with[THREADS] = {101, 401, 418};
        pthread_t threads[THREADS];
        verdict verdicts[THREADS];
        const int fd = dial(url);
        say_upgrade(fd, "");
        wait_count(&j.asked, round);
        for (int i = 0; i < THREADS; i++) {
            verdicts[i].upgrade = j.kept;
            verdicts[i].with = with[i];
            CHECK(pthread_create(&threads[i], NULL, give_verdict, &verdicts[i]) == 0);
        }
        int counted_one = 0;
        for (int i = 0; i < THREADS; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            if (verdicts[i].outcome == ROLETALK_STATUS_INVALID_HANDLE) continue;
            CHECK(verdicts[i].outcome == ROLETALK_STATUS_OK && counted_one == 0);
            counted_one = with[i];
        }
        CHECK(hear_status(fd) == counted_one);
        close(fd);
    }
    OK(roletalk_peer_close(server));
    judge_end(&j);
}

/* A peer that ends while somebody waits for the verdict. */
static void the_peer_ends_first(void) {
    judge j;
    roletalk_peer server = judging(&j, ROLETALK_CALLBACKS_THREAD);
    const int fd = dial(listen_anywhere(server));
    say_upgrade(fd, "Authorization: Bearer later\r\n");
    wait_count(&j.asked, 1);
    OK(roletalk_peer_close(server));
    close(fd);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_upgrade_allow(j.kept, roletalk_string_of(NULL, 0)));
    judge_end(&j);
}

static void on_reply(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_OK);
    count((counter *)user_data);
}

/* The program runs the callback itself. */
static void judged_where_it_polls(void) {
    judge j;
    counter connected;
    counter_init(&connected);
    roletalk_peer server = judging(&j, ROLETALK_CALLBACKS_POLL);
    roletalk_peer client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    roletalk_pair header;
    header.key = ROLETALK_STR("authorization");
    header.value = ROLETALK_STR("Bearer plain");
    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.headers = &header;
    dialing.header_count = 1;
    OK(roletalk_peer_connect_async(client, listen_anywhere(server), &dialing,
                                   HANDLER(roletalk_reply_handler, on_reply, &connected), NULL));
    while (counted(&j.asked) == 0) OK(roletalk_peer_poll(server, 100, NULL));
    wait_count(&connected, 1);
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(server));
    judge_end(&j);
    counter_destroy(&connected);
}

/* A socket that the program has accepted: the address is part of the identity. */

static void check_local(void *user_data, const roletalk_identity *identity) {
    CHECK(identity->address.len > 10 && memcmp(identity->address.data, "127.0.0.1:", 10) == 0);
    (*(int *)user_data)++;
}

static void check_local_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_describe_identity(unit, check_local, user_data));
}

static void accepted_by_the_program(void) {
    roletalk_peer server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    roletalk_peer client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    counter connected;
    counter_init(&connected);
    struct sockaddr_in at;
    socklen_t room = sizeof at;
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int listening = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listening, (struct sockaddr *)&at, sizeof at) == 0 && listen(listening, 1) == 0);
    CHECK(getsockname(listening, (struct sockaddr *)&at, &room) == 0);
    char url[64];
    snprintf(url, sizeof url, "ws://127.0.0.1:%d", ntohs(at.sin_port));
    OK(roletalk_peer_connect_async(client, str(url), NULL,
                                   HANDLER(roletalk_reply_handler, on_reply, &connected), NULL));
    const int fd = accept(listening, NULL, NULL);
    CHECK(fd >= 0);
    OK(roletalk_peer_accept_fd(server, fd, 0));
    wait_count(&connected, 1);
    int seen = 0;
    struct timespec pause = {0, 1000000};
    for (long tries = 0; seen == 0; tries++) {
        OK(roletalk_peer_each_unit(server, check_local_unit, &seen));
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
    close(listening);
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(server));
    counter_destroy(&connected);
}

/* Which key was proved, and on which side. */

static void check_key(void *user_data, const roletalk_identity *identity) {
    const int dialed = *(int *)user_data;
    CHECK(identity->dialed == dialed);
    /* The client asks for the key that it has. */
    CHECK(is(identity->key, "c#1") && is(identity->key_name, "c"));
    CHECK(is(identity->claims, "{}") && identity->header_count == 0);
    *(int *)user_data = 2;
}

static void check_key_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_describe_identity(unit, check_key, user_data));
}

static void the_key_is_known(void) {
    roletalk_peer server = guarded(NULL), client = keyed("c#1");
    OK(roletalk_peer_remove_key(server, ROLETALK_STR("a")));
    OK(roletalk_peer_remove_key(server, ROLETALK_STR("b")));
    roletalk_unit unit;
    OK(roletalk_peer_connect(client, listen_anywhere(server), NULL, &unit));
    int seen = 1;
    check_key_unit(&seen, unit);
    CHECK(seen == 2);
    OK(roletalk_unit_free(unit));
    roletalk_destination to;
    roletalk_role role;
    OK(roletalk_peer_role(server, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_peer_destination(client, ROLETALK_STR("r"), &to));
    OK(roletalk_destination_ready(to, LIMIT_S * 1000));
    seen = 0;
    OK(roletalk_peer_each_unit(server, check_key_unit, &seen));
    CHECK(seen == 2);
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(server));
}

/* Without TLS there is nothing to name: who demands that gets no further. The rest is in tls.c. */
static void channel_binding(void) {
    static const struct {
        int32_t mode;
        roletalk_status expected;
    } cases[] = {
        {ROLETALK_CHANNEL_BINDING_PREFER, ROLETALK_STATUS_OK},
        {ROLETALK_CHANNEL_BINDING_DISABLE, ROLETALK_STATUS_OK},
        {ROLETALK_CHANNEL_BINDING_REQUIRE, ROLETALK_STATUS_AUTH_REFUSED},
    };
    roletalk_peer server = guarded(NULL);
    const roletalk_string url = listen_anywhere(server);
    roletalk_limits limits = patient_limits();
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        roletalk_peer_options options = named("client", &limits);
        roletalk_pair key;
        key.key = ROLETALK_STR("a");
        key.value = ROLETALK_STR("secret");
        options.keys = &key;
        options.key_count = 1;
        options.channel_binding = cases[i].mode;
        roletalk_peer client = make(&options);
        EXPECT(cases[i].expected, roletalk_peer_connect(client, url, &once, NULL));
        OK(roletalk_peer_close(client));
    }
    OK(roletalk_peer_close(server));
}

/* A policy in a file. */

static void replace(const char *path, const char *text) {
    put_file(path, str(text));
}

static void watched_file(void) {
    static const char allowing[] = "{\"default\": \"allow\"}";
    pair p;
    watcher w;
    char path[320];
    snprintf(path, sizeof path, "%s", own_path("policy.json"));
    p.server = guarded(NULL);
    p.client = keyed("a");
    watch(&w, p.server);
    counter asked;
    counter_init(&asked);
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    handle(&p, ROLETALK_KIND_REQUEST, "e", on_request, &asked);
    OK(roletalk_peer_connect(p.client, listen_anywhere(p.server), NULL, NULL));
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));
    /* There is none, or one that cannot be used. */
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_watch_policy(p.server, str(path)));
    replace(path, "");
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_watch_policy(p.server, str(path)));
    OK(request_it(p.to, ROLETALK_STR("e")));
    replace(path, "{}");
    OK(roletalk_peer_watch_policy(p.server, str(path)));
    EXPECT(ROLETALK_STATUS_REJECTED, request_it(p.to, ROLETALK_STR("e")));
    replace(path, allowing);
    WAIT(&w, ROLETALK_EVENT_POLICY_LOADED, 1);
    CHECK(strcmp(w.path, path) == 0);
    OK(request_it(p.to, ROLETALK_STR("e")));
    replace(path, "{\"default\": \"maybe\"}");
    WAIT(&w, ROLETALK_EVENT_POLICY_FAILED, 1);
    CHECK(strcmp(w.path, path) == 0 && strstr(w.text, path));
    OK(request_it(p.to, ROLETALK_STR("e")));
    replace(path, "{}");
    WAIT(&w, ROLETALK_EVENT_POLICY_LOADED, 2);
    EXPECT(ROLETALK_STATUS_REJECTED, request_it(p.to, ROLETALK_STR("e")));
    CHECK(times_of(&w, ROLETALK_EVENT_POLICY_FAILED) == 1);
    /* One that is set takes its place. */
    OK(roletalk_peer_set_policy(p.server, str(allowing)));
    OK(request_it(p.to, ROLETALK_STR("e")));
    close_pair(&p);
    CHECK(unlink(path) == 0 && rmdir(own_directory()) == 0);
    counter_destroy(&asked);
}

/* What cannot be: an error each time, nothing has changed, and what was given is dropped. */

static void misuse(void) {
    const roletalk_status bad = ROLETALK_STATUS_INVALID_ARGUMENT;
    static const char *const policies[] = {"",
                                           " ",
                                           "[]",
                                           "{",
                                           "{\"rules\": [{}]}",
                                           "{\"unknown\": 1}",
                                           "{\"default\": \"maybe\"}",
                                           "{\"rules\": [{\"who\": {}, \"call\": [\"*\"]}]}",
                                           "\xff"};
    roletalk_limits limits = patient_limits();
    judge j;
    roletalk_peer peer;
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        roletalk_peer_options options = named("x", &limits);
        judge_init(&j);
        options.authenticate = handler_roletalk_authenticate_handler(on_upgrade, &j, drop_judge);
        options.policy = str(policies[i]);
        EXPECT(bad, roletalk_peer_new(&options, &peer));
        judge_end(&j);
        EXPECT(bad, roletalk_policy_check(str(policies[i])));
    }
    EXPECT(bad, roletalk_policy_check(roletalk_string_of(NULL, 0)));
    EXPECT(bad, roletalk_policy_check(roletalk_string_of(NULL, 1)));
    OK(roletalk_policy_check(ROLETALK_STR("{}")));
    const roletalk_string origins[] = {ROLETALK_STR("https://a.example"),
                                       ROLETALK_STR("no origin")};
    const roletalk_string names[] = {ROLETALK_STR("x-good"), ROLETALK_STR("not good")};
    for (int what = 0; what < 9; what++) {
        roletalk_peer_options options = named("x", &limits);
        roletalk_peer *out = &peer;
        judge_init(&j);
        options.authenticate = handler_roletalk_authenticate_handler(on_upgrade, &j, drop_judge);
        switch (what) {
            case 0:
                options.origins = origins, options.origin_count = 2;
                break;
            case 1:
                options.origin_count = 1;
                break;
            case 2:
                options.identity_headers = names, options.identity_header_count = 2;
                break;
            case 3:
                options.identity_header_count = 1;
                break;
            case 4:
                options.channel_binding = 3;
                break;
            case 5:
                options.channel_binding = -1;
                break;
            case 6:
                options.callbacks = 9;
                break;
            case 7:
                out = NULL;
                break;
            default:
                options.authenticate.call = NULL;
                break;
        }
        EXPECT(bad, roletalk_peer_new(&options, out));
        judge_end(&j);
    }
    /* A program that was compiled before these were there. */
    roletalk_peer_options options = named("x", &limits);
    options.policy = ROLETALK_STR("no policy");
    options.channel_binding = 9;
    options.struct_size = offsetof(roletalk_peer_options, policy);
    OK(roletalk_peer_new(&options, &peer));
    EXPECT(bad, roletalk_peer_watch_policy(peer, roletalk_string_of(NULL, 1)));
    EXPECT(bad, roletalk_peer_watch_policy(peer, ROLETALK_STR("/there/is/no/such/file")));
    EXPECT(bad, roletalk_peer_set_policy(peer, roletalk_string_of(NULL, 1)));
    OK(roletalk_peer_close(peer));
}

int main(void) {
    every_kind_of_call();
    no_request_for_a_stranger();
    foreign_origins();
    the_program_judges(ROLETALK_CALLBACKS_THREAD);
    the_program_judges(ROLETALK_CALLBACKS_INLINE);
    a_verdict_that_is_late();
    several_threads_judge();
    the_peer_ends_first();
    judged_where_it_polls();
    accepted_by_the_program();
    the_key_is_known();
    channel_binding();
    watched_file();
    misuse();
    puts("access: ok");
    return 0;
}
