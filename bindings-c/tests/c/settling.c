/* Every call that waits returns when another thread ends its peer; of a hundred pairs nothing is left. */
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "check.h"

static char silent_url[64];
static roletalk_context held[64];
static counter holds;

static void hold(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_defer(in->context, &held[counted(&holds)]));
    count(&holds);
}

static roletalk_readable unread;
static roletalk_writable unwritten;

static void never_read(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_accept_readable(in->context, roletalk_data_null(), &unread));
}

static void never_write(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &unwritten));
}

/* The calls. Those that need something first do that, and then say that they begin. */

typedef struct {
    pair *p;
    sleeper sleeping;
    roletalk_status (*call)(void *waiter);
    roletalk_status status;
} waiter;

static pair *begin(void *argument) {
    waiter *w = (waiter *)argument;
    sleeper_begin(&w->sleeping);
    return w->p;
}

static roletalk_status connects(void *w) {
    return roletalk_peer_connect(begin(w)->client, str(silent_url), NULL, NULL);
}

static roletalk_status waits_for_a_unit(void *w) {
    roletalk_destination nobody;
    OK(roletalk_peer_destination(((waiter *)w)->p->client, ROLETALK_STR("nobody"), &nobody));
    begin(w);
    return roletalk_destination_ready(nobody, -1);
}

static roletalk_status asks_when_there_is_a_unit(void *w) {
    roletalk_destination nobody;
    OK(roletalk_peer_destination(((waiter *)w)->p->client, ROLETALK_STR("nobody"), &nobody));
    roletalk_send_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.wait_for_unit = 1;
    begin(w);
    return roletalk_destination_request(nobody, ROLETALK_STR("hold"), txt("x"), &options, NULL);
}

static roletalk_status requests(void *w) {
    roletalk_answer answer;
    return roletalk_destination_request(begin(w)->to, ROLETALK_STR("hold"), txt("x"), NULL,
                                        &answer);
}

static roletalk_status surveys(void *w) {
    pair *p = ((waiter *)w)->p;
    roletalk_survey survey;
    roletalk_answer answer;
    OK(roletalk_destination_survey(p->to, ROLETALK_STR("hold"), txt("x"), NULL, &survey));
    begin(w);
    OK(roletalk_survey_next(survey, -1, &answer));
    roletalk_reply reply;
    memset(&reply, 0, sizeof reply);
    reply.struct_size = sizeof reply;
    OK(roletalk_answer_view(answer, &reply));
    roletalk_status status = reply.status;
    OK(roletalk_answer_free(answer));
    OK(roletalk_survey_close(survey));
    return status;
}

static roletalk_status asks_to_read(void *w) {
    roletalk_readable stream;
    return roletalk_destination_readable(begin(w)->to, ROLETALK_STR("hold"), txt("x"), NULL,
                                         &stream, NULL);
}

static roletalk_status asks_to_write(void *w) {
    roletalk_writable stream;
    return roletalk_destination_writable(begin(w)->to, ROLETALK_STR("hold"), txt("x"), NULL,
                                         &stream, NULL);
}

static roletalk_status reads(void *w) {
    roletalk_readable stream;
    OK(roletalk_destination_readable(((waiter *)w)->p->to, ROLETALK_STR("silent"), txt("x"), NULL,
                                     &stream, NULL));
    begin(w);
    char byte;
    size_t len;
    roletalk_status status = roletalk_readable_read(stream, &byte, 1, -1, &len);
    OK(roletalk_readable_close(stream));
    return status;
}

static roletalk_status writes(void *w) {
    static const char bytes[16 << 20] = {0};
    roletalk_writable stream;
    OK(roletalk_destination_writable(((waiter *)w)->p->to, ROLETALK_STR("silent"), txt("x"), NULL,
                                     &stream, NULL));
    begin(w);
    size_t written;
    roletalk_status status = roletalk_writable_write(stream, bytes, sizeof bytes, -1, &written);
    OK(roletalk_writable_close(stream));
    return status;
}

static roletalk_status finishes(void *w) {
    roletalk_writable stream;
    OK(roletalk_destination_writable(((waiter *)w)->p->to, ROLETALK_STR("silent"), txt("x"), NULL,
                                     &stream, NULL));
    OK(roletalk_writable_write(stream, "x", 1, -1, NULL));
    begin(w);
    roletalk_status status = roletalk_writable_finish(stream, -1);
    OK(roletalk_writable_close(stream));
    return status;
}

static roletalk_status serves(void *w) {
    return roletalk_peer_serve(begin(w)->client, 0, NULL);
}

static roletalk_status polls(void *w) {
    roletalk_status status;
    begin(w);
    while ((status = roletalk_peer_poll(((waiter *)w)->p->client, -1, NULL)) ==
           ROLETALK_STATUS_OK) {
    }
    return status;
}

static const struct {
    const char *name;
    roletalk_status (*call)(void *);
    /* One of these; the second is 0 where there is one only. */
    roletalk_status status, or_status;
} calls[] = {
    {"roletalk_peer_connect", connects, ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_OK},
    {"roletalk_destination_ready", waits_for_a_unit, ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_OK},
    {"roletalk_destination_request, waiting for a unit", asks_when_there_is_a_unit,
     ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_OK},
    {"roletalk_destination_request", requests, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OK},
    {"roletalk_survey_next", surveys, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OK},
    {"roletalk_destination_readable", asks_to_read, ROLETALK_STATUS_CONNECTION_LOST,
     ROLETALK_STATUS_OK},
    {"roletalk_destination_writable", asks_to_write, ROLETALK_STATUS_CONNECTION_LOST,
     ROLETALK_STATUS_OK},
    {"roletalk_readable_read", reads, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OK},
    {"roletalk_writable_write", writes, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OK},
    {"roletalk_writable_finish", finishes, ROLETALK_STATUS_CONNECTION_LOST, ROLETALK_STATUS_OK},
    {"roletalk_peer_serve", serves, ROLETALK_STATUS_OK, ROLETALK_STATUS_OK},
    {"roletalk_peer_poll", polls, ROLETALK_STATUS_CLOSED, ROLETALK_STATUS_INVALID_HANDLE},
};

/* How the peer ends. */

static roletalk_status closes(roletalk_peer peer) {
    return roletalk_peer_close(peer);
}

/* There is something that does not finish. */
static roletalk_status drains(roletalk_peer peer) {
    int32_t finished = 1;
    return roletalk_peer_drain(peer, 10, &finished);
}

static roletalk_peer to_close;
static counter closed_inside;

static void close_inside(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    (void)in;
    OK(roletalk_peer_close(to_close));
    count(&closed_inside);
}

/* In a callback of another peer. */
static roletalk_status closes_in_a_callback(roletalk_peer peer) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_MESSAGE, "close", close_inside, NULL);
    to_close = peer;
    long before = counted(&closed_inside);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("close"), txt("x"), NULL));
    wait_count(&closed_inside, before + 1);
    close_pair(&p);
    return ROLETALK_STATUS_OK;
}

static roletalk_status (*const ends[])(roletalk_peer) = {closes, drains, closes_in_a_callback};

static void *wait_in(void *argument) {
    waiter *w = (waiter *)argument;
    w->status = w->call(w);
    return NULL;
}

static void one_call(size_t which, size_t end) {
    const int polled = calls[which].call == polls;
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = new_peer("client", polled ? ROLETALK_CALLBACKS_POLL : ROLETALK_CALLBACKS_THREAD);
    listen_and_connect(&p);
    handle(&p, ROLETALK_KIND_REQUEST, "hold", hold, NULL);
    handle(&p, ROLETALK_KIND_READABLE, "hold", hold, NULL);
    handle(&p, ROLETALK_KIND_WRITABLE, "hold", hold, NULL);
    handle(&p, ROLETALK_KIND_READABLE, "silent", never_read, NULL);
    handle(&p, ROLETALK_KIND_WRITABLE, "silent", never_write, NULL);
    waiter w;
    memset(&w, 0, sizeof w);
    w.p = &p;
    w.call = calls[which].call;
    counter_init(&w.sleeping.begun);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_in, &w) == 0);
    wait_until_asleep(&w.sleeping);
    OK(ends[end](p.client));
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    if (pthread_timedjoin_np(thread, NULL, &limit) != 0)
        FAIL("%s still waits (end %zu)", calls[which].name, end);
    if (w.status != calls[which].status && w.status != calls[which].or_status) {
        roletalk_string name = roletalk_status_name(w.status);
        FAIL("%s: %.*s (end %zu)", calls[which].name, ROLETALK_ARG(name), end);
    }
    CHECK(w.status != ROLETALK_STATUS_OK || calls[which].call == serves);
    for (long i = counted(&holds); i-- > 0;)
        (void)roletalk_context_reject(held[i], ROLETALK_STR("too late"));
    holds.count = 0;
    OK(roletalk_peer_close(p.server));
    /* Those that the server has accepted are the program's. */
    if (unread.id) OK(roletalk_readable_close(unread));
    if (unwritten.id) OK(roletalk_writable_close(unwritten));
    unread.id = unwritten.id = 0;
    counter_destroy(&w.sleeping.begun);
}

/* What is left. */

static long entries(const char *path) {
    DIR *directory = opendir(path);
    CHECK(directory != NULL);
    long found = 0;
    while (readdir(directory)) found++;
    closedir(directory);
    return found;
}

/* Of the last pair. */
static counter deferred;
static roletalk_context unanswered;

static void never_answer(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_defer(in->context, &unanswered));
    count(&deferred);
}

static void ignore_event(void *user_data, const roletalk_event *event) {
    (void)user_data;
    (void)event;
}

static void ignore_reply(void *user_data, const roletalk_reply *reply) {
    (void)user_data;
    (void)reply;
}

/* Returns how many threads there are without a peer. */
static long nothing_is_left(int32_t callbacks, int pairs) {
    long threads = 1, descriptors = 0;
    deferred.count = 0;
    for (int i = 0; i < pairs; i++) {
        if (i == 1) {
            threads = entries("/proc/self/task");
            descriptors = entries("/proc/self/fd");
        }
        pair p = connect_pair(callbacks);
        handle(&p, ROLETALK_KIND_REQUEST, "hold", never_answer, NULL);
        OK(roletalk_peer_on_event(p.client, HANDLER(roletalk_event_handler, ignore_event, NULL),
                                  NULL));
        OK(roletalk_destination_request_async(p.to, ROLETALK_STR("hold"), txt("x"), NULL,
                                              HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                              NULL));
        /* What is dialed for ever, with a name that has to be looked up, too. */
        static const char *const addresses[] = {"ws://127.0.0.1:1", "ws://localhost:1"};
        for (int n = 0; n < 2; n++)
            OK(roletalk_peer_connect_async(p.client, str(addresses[n]), NULL,
                                           HANDLER(roletalk_reply_handler, ignore_reply, NULL),
                                           NULL));
        if (callbacks == ROLETALK_CALLBACKS_POLL)
            while (counted(&deferred) <= i) OK(roletalk_peer_poll(p.server, 100, NULL));
        wait_count(&deferred, i + 1);
        close_pair(&p);
        /* This is the program's, and holds something of the peer. */
        OK(roletalk_context_reject(unanswered, ROLETALK_STR("too late")));
        if (i > 0) {
            long now = entries("/proc/self/task"), open = entries("/proc/self/fd");
            if (now != threads || open != descriptors)
                FAIL("pair %d: %ld threads instead of %ld, %ld descriptors instead of %ld", i, now,
                     threads, open, descriptors);
        }
    }
    return threads;
}

int main(int argc, char **argv) {
    const int pairs = argc > 1 ? atoi(argv[1]) : 100;
    counter_init(&holds);
    counter_init(&closed_inside);
    counter_init(&deferred);
    /* First: what is closed in a callback ends a little later. */
    long threads = nothing_is_left(ROLETALK_CALLBACKS_THREAD, pairs);
    nothing_is_left(ROLETALK_CALLBACKS_INLINE, pairs);
    nothing_is_left(ROLETALK_CALLBACKS_POLL, pairs);
    int silent = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof address;
    CHECK(bind(silent, (struct sockaddr *)&address, len) == 0 && listen(silent, 8) == 0);
    CHECK(getsockname(silent, (struct sockaddr *)&address, &len) == 0);
    snprintf(silent_url, sizeof silent_url, "ws://127.0.0.1:%d", ntohs(address.sin_port));
    for (size_t end = 0; end < sizeof ends / sizeof ends[0]; end++)
        for (size_t which = 0; which < sizeof calls / sizeof calls[0]; which++)
            one_call(which, end);
    close(silent);
    /* The threads of those have ended, too: one that had not would count as lost. */
    struct timespec pause = {0, 1000000};
    for (long tries = 0; entries("/proc/self/task") > threads; tries++) {
        CHECK(tries < LIMIT_S * 1000);
        nanosleep(&pause, NULL);
    }
    puts("settling: ok");
    return 0;
}
