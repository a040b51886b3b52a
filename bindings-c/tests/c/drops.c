/* Every function that takes a callback calls its drop exactly once: after the last call, when it fails for
   whatever reason, and when the peer ends. An argument leaves the fork out. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* One for each callback that is given away. */
typedef struct {
    int calls, drops;
} ticket;

static ticket tickets[1024];
static int given;
/* The one that this program's main thread gave away last. */
static ticket *latest;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* With ROLETALK_CALLBACKS_POLL: whose callbacks this program runs. */
static pair *polled;

static ticket *new_ticket(void) {
    pthread_mutex_lock(&mutex);
    CHECK(given < (int)(sizeof tickets / sizeof tickets[0]));
    ticket *t = &tickets[given++];
    pthread_mutex_unlock(&mutex);
    return t;
}

static ticket *give(void) {
    return latest = new_ticket();
}

static void called(void *user_data) {
    ticket *t = (ticket *)user_data;
    pthread_mutex_lock(&mutex);
    CHECK(t->drops == 0);
    t->calls++;
    pthread_mutex_unlock(&mutex);
}

static void dropped(void *user_data) {
    ticket *t = (ticket *)user_data;
    pthread_mutex_lock(&mutex);
    CHECK(t->drops == 0);
    t->drops++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

/* Waits until the latest is dropped. */
static void expect_drop_at(int calls, int line) {
    ticket *t = latest;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&mutex);
    while (t->drops == 0) {
        if (time(NULL) > limit.tv_sec) FAIL("line %d: no drop", line);
        if (polled) {
            pthread_mutex_unlock(&mutex);
            OK(roletalk_peer_poll(polled->client, 1, NULL));
            OK(roletalk_peer_poll(polled->server, 1, NULL));
            pthread_mutex_lock(&mutex);
        } else {
            pthread_cond_timedwait(&changed, &mutex, &limit);
        }
    }
    if (t->calls != calls) FAIL("line %d: %d calls instead of %d", line, t->calls, calls);
    pthread_mutex_unlock(&mutex);
}

#define DROPPED(calls) expect_drop_at(calls, __LINE__)
#define FAILS(status, call)                                                                        \
    do {                                                                                           \
        EXPECT(status, call);                                                                      \
        DROPPED(0);                                                                                \
    } while (0)

static void on_incoming(void *user_data, const roletalk_incoming *in) {
    (void)in;
    called(user_data);
}
static void on_outcome(void *user_data, const roletalk_outcome *outcome) {
    (void)outcome;
    called(user_data);
}
static void on_reply(void *user_data, const roletalk_reply *reply) {
    (void)reply;
    called(user_data);
}
static void on_event(void *user_data, const roletalk_event *event) {
    (void)event;
    called(user_data);
}
static void on_record(void *user_data, const roletalk_log_record *record) {
    (void)record;
    called(user_data);
}
static void on_readable(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    called(user_data);
    if (reply->status == ROLETALK_STATUS_OK) OK(roletalk_readable_close(stream));
}
static void on_writable(void *user_data, const roletalk_reply *reply, roletalk_writable stream) {
    called(user_data);
    if (reply->status == ROLETALK_STATUS_OK) OK(roletalk_writable_close(stream));
}

#define GIVE(type, function) handler_##type(function, give(), dropped)
#define NONE(type) handler_##type(NULL, give(), dropped)

/* The four functions that ask and call back, which fail in the same ways. */
enum { REQUEST, SURVEY, READABLE, WRITABLE, ASKS };

static roletalk_status ask(int how, roletalk_destination to, roletalk_string event,
                           roletalk_data data, const roletalk_send_options *options, int with_call,
                           roletalk_operation *operation) {
    roletalk_reply_handler reply =
        handler_roletalk_reply_handler(with_call ? on_reply : NULL, NULL, dropped);
    roletalk_readable_handler readable =
        handler_roletalk_readable_handler(with_call ? on_readable : NULL, NULL, dropped);
    roletalk_writable_handler writable =
        handler_roletalk_writable_handler(with_call ? on_writable : NULL, NULL, dropped);
    reply.user_data = readable.user_data = writable.user_data = give();
    switch (how) {
        case REQUEST:
            return roletalk_destination_request_async(to, event, data, options, reply, operation);
        case SURVEY:
            return roletalk_destination_survey_async(to, event, data, options, reply, operation);
        case READABLE:
            return roletalk_destination_readable_async(to, event, data, options, readable,
                                                       operation);
        default:
            return roletalk_destination_writable_async(to, event, data, options, writable,
                                                       operation);
    }
}

static void asks(pair *p) {
    const roletalk_string s = ROLETALK_STR("event"), null = roletalk_string_of(NULL, 1),
                          binary = ROLETALK_STR("\xff");
    const roletalk_data d = roletalk_data_null();
    roletalk_destination none = {0}, other = {p->role.id}, nowhere;
    roletalk_send_options options;
    roletalk_operation operations[2];
    roletalk_operation *misaligned = (roletalk_operation *)(void *)((char *)operations + 1);
    static char large[4096], long_name[70000];
    memset(long_name, 'x', sizeof long_name);
    OK(roletalk_peer_destination(p->client, ROLETALK_STR("nobody"), &nowhere));
    for (int how = 0; how < ASKS; how++) {
        FAILS(ROLETALK_STATUS_INVALID_HANDLE, ask(how, none, s, d, NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_HANDLE, ask(how, other, s, d, NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, s, d, NULL, 0, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, null, d, NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, binary, d, NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
              ask(how, p->to, s, roletalk_data_binary(NULL, 1), NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
              ask(how, p->to, s, roletalk_data_of(77, "", 0), NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_DATA,
              ask(how, p->to, s, roletalk_data_json(ROLETALK_STR("{")), NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, s, d, NULL, 1, misaligned));
        memset(&options, 0, sizeof options);
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, s, d, &options, 1, NULL));
        options.struct_size = sizeof options;
        options.timeout_ms = -1;
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT, ask(how, p->to, s, d, &options, 1, NULL));
        options.timeout_ms = 0;
        options.unit.id = 12345;
        FAILS(ROLETALK_STATUS_INVALID_HANDLE, ask(how, p->to, s, d, &options, 1, NULL));
        if (how == SURVEY) {
            /* Nobody is asked, or each one has an answer of its own. */
            OK(ask(how, nowhere, s, d, NULL, 1, NULL));
            DROPPED(0);
            OK(ask(how, p->to, s, roletalk_data_binary(large, sizeof large), NULL, 1, NULL));
            DROPPED(1);
            continue;
        }
        FAILS(ROLETALK_STATUS_NO_UNIT, ask(how, nowhere, s, d, NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_TOO_LARGE,
              ask(how, p->to, s, roletalk_data_binary(large, sizeof large), NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
              ask(how, p->to, roletalk_string_of(long_name, sizeof long_name), d, NULL, 1, NULL));
    }
}

/* The other functions, with what makes them fail. */
static void others(pair *p) {
    const roletalk_string s = ROLETALK_STR("s"), null = roletalk_string_of(NULL, 1);
    roletalk_peer no_peer = {0};
    roletalk_role no_role = {p->client.id};
    roletalk_context no_context = {0};
    roletalk_readable no_readable = {0};
    roletalk_writable no_writable = {0};
    roletalk_operation operations[2];
    roletalk_operation *misaligned = (roletalk_operation *)(void *)((char *)operations + 1);

    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_peer_layer(no_peer, GIVE(roletalk_incoming_handler, on_incoming)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_layer(p->server, NONE(roletalk_incoming_handler)));
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_role_layer(no_role, GIVE(roletalk_incoming_handler, on_incoming)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_role_layer(p->role, NONE(roletalk_incoming_handler)));
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_role_handle(no_role, ROLETALK_KIND_MESSAGE, s,
                               GIVE(roletalk_incoming_handler, on_incoming)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_role_handle(p->role, 99, s, GIVE(roletalk_incoming_handler, on_incoming)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_role_handle(p->role, ROLETALK_KIND_MESSAGE, null,
                               GIVE(roletalk_incoming_handler, on_incoming)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_role_handle(p->role, ROLETALK_KIND_MESSAGE, s, NONE(roletalk_incoming_handler)));

    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_peer_on_event(no_peer, GIVE(roletalk_event_handler, on_event), NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_on_event(p->client, NONE(roletalk_event_handler), NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_on_event(p->client, GIVE(roletalk_event_handler, on_event), misaligned));

    const roletalk_string address = ROLETALK_STR("ws://127.0.0.1:1");
    roletalk_connect_options options;
    memset(&options, 0, sizeof options);
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_peer_connect_async(no_peer, address, NULL,
                                      GIVE(roletalk_reply_handler, on_reply), NULL));
    FAILS(
        ROLETALK_STATUS_INVALID_ARGUMENT,
        roletalk_peer_connect_async(p->client, address, NULL, NONE(roletalk_reply_handler), NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_connect_async(p->client, null, NULL, GIVE(roletalk_reply_handler, on_reply),
                                      NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_connect_async(p->client, ROLETALK_STR("nonsense"), NULL,
                                      GIVE(roletalk_reply_handler, on_reply), NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_connect_async(p->client, address, NULL,
                                      GIVE(roletalk_reply_handler, on_reply), misaligned));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_peer_connect_async(p->client, address, &options,
                                      GIVE(roletalk_reply_handler, on_reply), NULL));
    options.struct_size = sizeof options;
    options.tls_ca = ROLETALK_STR("not PEM");
    FAILS(ROLETALK_STATUS_TLS,
          roletalk_peer_connect_async(p->client, ROLETALK_STR("wss://127.0.0.1:1"), &options,
                                      GIVE(roletalk_reply_handler, on_reply), NULL));

    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_context_on_outcome(no_context, GIVE(roletalk_outcome_handler, on_outcome)));
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_readable_on_ready(no_readable, GIVE(roletalk_ready_handler, called)));
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_writable_on_ready(no_writable, GIVE(roletalk_ready_handler, called)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_log(99, GIVE(roletalk_log_handler, on_record)));

    roletalk_destination no_destination = {0};
    roletalk_send_options to;
    memset(&to, 0, sizeof to);
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_destination_on_room(no_destination, NULL, GIVE(roletalk_ready_handler, called)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_destination_on_room(p->to, NULL, NONE(roletalk_ready_handler)));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_destination_on_room(p->to, &to, GIVE(roletalk_ready_handler, called)));
    to.struct_size = sizeof to;
    to.unit.id = 12345;
    FAILS(ROLETALK_STATUS_INVALID_HANDLE,
          roletalk_destination_on_room(p->to, &to, GIVE(roletalk_ready_handler, called)));
}

static void readiness(pair *p) {
    roletalk_writable writable;
    OK(roletalk_destination_writable(p->to, ROLETALK_STR("store"), roletalk_data_null(), NULL,
                                     &writable, NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_writable_on_ready(writable, NONE(roletalk_ready_handler)));
    OK(roletalk_writable_on_ready(writable, GIVE(roletalk_ready_handler, called)));
    DROPPED(1);
    OK(roletalk_writable_close(writable));
    roletalk_readable readable;
    OK(roletalk_destination_readable(p->to, ROLETALK_STR("load"), roletalk_data_null(), NULL,
                                     &readable, NULL));
    FAILS(ROLETALK_STATUS_INVALID_ARGUMENT,
          roletalk_readable_on_ready(readable, NONE(roletalk_ready_handler)));
    OK(roletalk_readable_on_ready(readable, GIVE(roletalk_ready_handler, called)));
    DROPPED(1);
    OK(roletalk_readable_close(readable));
}

static void store(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_readable stream;
    OK(roletalk_context_accept_readable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_readable_close(stream));
}

static void load(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_writable stream;
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &stream));
    OK(roletalk_writable_close(stream));
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, in->data));
}

/* Middleware that looks at outcomes, with callbacks that are refused in between. */
static void look(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_on_outcome(
               in->context, handler_roletalk_outcome_handler(NULL, new_ticket(), dropped)));
    OK(roletalk_context_on_outcome(
        in->context, handler_roletalk_outcome_handler(on_outcome, new_ticket(), dropped)));
}

static roletalk_context kept;

static void keep(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_defer(in->context, &kept));
}

/* What is called, and then dropped, in the end. */
static void good(pair *p) {
    for (int how = 0; how < ASKS; how++) {
        const roletalk_string events[] = {ROLETALK_STR("echo"), ROLETALK_STR("echo"),
                                          ROLETALK_STR("load"), ROLETALK_STR("store")};
        OK(ask(how, p->to, events[how], roletalk_data_null(), NULL, 1, NULL));
        DROPPED(1);
        /* Rejected: there is no such handler. */
        OK(ask(how, p->to, ROLETALK_STR("nothing"), roletalk_data_null(), NULL, 1, NULL));
        DROPPED(1);
    }
    OK(roletalk_destination_on_room(p->to, NULL, GIVE(roletalk_ready_handler, called)));
    DROPPED(1);
    roletalk_operation events;
    OK(roletalk_peer_on_event(p->client, GIVE(roletalk_event_handler, on_event), &events));
    OK(roletalk_operation_cancel(events));
    DROPPED(0);
    OK(roletalk_operation_free(events));
    OK(roletalk_role_handle(p->role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("m"),
                            GIVE(roletalk_incoming_handler, on_incoming)));
    handle(p, ROLETALK_KIND_MESSAGE, "m", on_incoming, NULL);
    DROPPED(0);
    OK(roletalk_log(ROLETALK_LOG_ERROR, GIVE(roletalk_log_handler, on_record)));
    roletalk_log_handler off;
    memset(&off, 0, sizeof off);
    OK(roletalk_log(ROLETALK_LOG_OFF, off));
    DROPPED(0);
}

/* In the child of a fork nothing works, but what is given is dropped. */
static void forked(pair *p) {
    fflush(NULL);
    /* Another thread, which the child has not, must not have locked it then: a callback is just being called. */
    pthread_mutex_lock(&mutex);
    pid_t child = fork();
    pthread_mutex_unlock(&mutex);
    CHECK(child >= 0);
    if (child == 0) {
        for (int how = 0; how < ASKS; how++)
            FAILS(ROLETALK_STATUS_FORKED,
                  ask(how, p->to, ROLETALK_STR("echo"), roletalk_data_null(), NULL, 1, NULL));
        FAILS(ROLETALK_STATUS_FORKED,
              roletalk_peer_layer(p->server, GIVE(roletalk_incoming_handler, on_incoming)));
        FAILS(ROLETALK_STATUS_FORKED,
              roletalk_peer_on_event(p->client, GIVE(roletalk_event_handler, on_event), NULL));
        FAILS(ROLETALK_STATUS_FORKED,
              roletalk_destination_on_room(p->to, NULL, GIVE(roletalk_ready_handler, called)));
        FAILS(ROLETALK_STATUS_FORKED,
              roletalk_log(ROLETALK_LOG_ERROR, GIVE(roletalk_log_handler, on_record)));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void everything(int32_t callbacks, int with_fork) {
    roletalk_limits limits = patient_limits();
    limits.message_size = 2048;
    limits.handshake_message_size = 2048;
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.callbacks = callbacks;
    options.limits = &limits;
    pair p;
    OK(roletalk_peer_new(&options, &p.server));
    OK(roletalk_peer_new(&options, &p.client));
    listen_and_connect(&p);
    polled = callbacks == ROLETALK_CALLBACKS_POLL ? &p : NULL;
    const int first = given;
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    handle(&p, ROLETALK_KIND_REQUEST, "keep", keep, NULL);
    handle(&p, ROLETALK_KIND_READABLE, "store", store, NULL);
    handle(&p, ROLETALK_KIND_WRITABLE, "load", load, NULL);
    asks(&p);
    others(&p);
    /* Opening a stream waits for its handler, which with ROLETALK_CALLBACKS_POLL only this thread
     * would run. */
    if (!polled) readiness(&p);
    good(&p);
    OK(roletalk_role_layer(p.role, handler_roletalk_incoming_handler(look, NULL, NULL)));
    OK(ask(REQUEST, p.to, ROLETALK_STR("echo"), roletalk_data_null(), NULL, 1, NULL));
    if (with_fork) forked(&p);
    /* What is open when the peers end. */
    OK(roletalk_peer_layer(p.server, GIVE(roletalk_incoming_handler, on_incoming)));
    OK(roletalk_peer_on_event(p.client, GIVE(roletalk_event_handler, on_event), NULL));
    OK(ask(REQUEST, p.to, ROLETALK_STR("keep"), roletalk_data_null(), NULL, 1, NULL));
    close_pair(&p);
    if (kept.id) OK(roletalk_context_reject(kept, ROLETALK_STR("late")));
    kept.id = 0;
    for (int i = first; i < given; i++)
        if (tickets[i].drops != 1) FAIL("callback %d: %d drops", i - first, tickets[i].drops);
}

int main(int argc, char **argv) {
    (void)argv;
    everything(ROLETALK_CALLBACKS_THREAD, argc == 1);
    everything(ROLETALK_CALLBACKS_INLINE, argc == 1);
    everything(ROLETALK_CALLBACKS_POLL, argc == 1);
    puts("drops: ok");
    return 0;
}
