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
/* With RT_CALLBACKS_POLL: whose callbacks this program runs. */
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
            OK(rt_poll(polled->client, 1, NULL));
            OK(rt_poll(polled->server, 1, NULL));
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

static void on_incoming(void *user_data, const rt_incoming *in) {
    (void)in;
    called(user_data);
}
static void on_outcome(void *user_data, const rt_outcome *outcome) {
    (void)outcome;
    called(user_data);
}
static void on_reply(void *user_data, const rt_reply *reply) {
    (void)reply;
    called(user_data);
}
static void on_event(void *user_data, const rt_event *event) {
    (void)event;
    called(user_data);
}
static void on_record(void *user_data, const rt_log_record *record) {
    (void)record;
    called(user_data);
}
static void on_readable(void *user_data, const rt_reply *reply, rt_readable stream) {
    called(user_data);
    if (reply->status == RT_OK) OK(rt_readable_close(stream));
}
static void on_writable(void *user_data, const rt_reply *reply, rt_writable stream) {
    called(user_data);
    if (reply->status == RT_OK) OK(rt_writable_close(stream));
}

#define GIVE(type, function) handler_##type(function, give(), dropped)
#define NONE(type) handler_##type(NULL, give(), dropped)

/* The four functions that ask and call back, which fail in the same ways. */
enum { REQUEST, SURVEY, READABLE, WRITABLE, ASKS };

static int32_t ask(int how, rt_destination to, rt_string event, rt_data data,
                   const rt_send_options *options, int with_call, rt_operation *operation) {
    rt_reply_handler reply = handler_rt_reply_handler(with_call ? on_reply : NULL, NULL, dropped);
    rt_readable_handler readable =
        handler_rt_readable_handler(with_call ? on_readable : NULL, NULL, dropped);
    rt_writable_handler writable =
        handler_rt_writable_handler(with_call ? on_writable : NULL, NULL, dropped);
    reply.user_data = readable.user_data = writable.user_data = give();
    switch (how) {
        case REQUEST:
            return rt_destination_request_async(to, event, data, options, reply, operation);
        case SURVEY:
            return rt_destination_survey_async(to, event, data, options, reply, operation);
        case READABLE:
            return rt_destination_readable_async(to, event, data, options, readable, operation);
        default:
            return rt_destination_writable_async(to, event, data, options, writable, operation);
    }
}

static void asks(pair *p) {
    const rt_string s = RT_STR("event"), null = rt_string_of(NULL, 1), binary = RT_STR("\xff");
    const rt_data d = rt_null();
    rt_destination none = {0}, other = {p->role.id}, nowhere;
    rt_send_options options;
    rt_operation operations[2];
    rt_operation *misaligned = (rt_operation *)(void *)((char *)operations + 1);
    static char large[4096], long_name[70000];
    memset(long_name, 'x', sizeof long_name);
    OK(rt_peer_destination(p->client, RT_STR("nobody"), &nowhere));
    for (int how = 0; how < ASKS; how++) {
        FAILS(RT_INVALID_HANDLE, ask(how, none, s, d, NULL, 1, NULL));
        FAILS(RT_INVALID_HANDLE, ask(how, other, s, d, NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, d, NULL, 0, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, null, d, NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, binary, d, NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, rt_binary(NULL, 1), NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, rt_data_of(77, "", 0), NULL, 1, NULL));
        FAILS(RT_DATA, ask(how, p->to, s, rt_json(RT_STR("{")), NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, d, NULL, 1, misaligned));
        memset(&options, 0, sizeof options);
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, d, &options, 1, NULL));
        options.struct_size = sizeof options;
        options.timeout_ms = -1;
        FAILS(RT_INVALID_ARGUMENT, ask(how, p->to, s, d, &options, 1, NULL));
        options.timeout_ms = 0;
        options.unit.id = 12345;
        FAILS(RT_INVALID_HANDLE, ask(how, p->to, s, d, &options, 1, NULL));
        if (how == SURVEY) {
            /* Nobody is asked, or each one has an answer of its own. */
            OK(ask(how, nowhere, s, d, NULL, 1, NULL));
            DROPPED(0);
            OK(ask(how, p->to, s, rt_binary(large, sizeof large), NULL, 1, NULL));
            DROPPED(1);
            continue;
        }
        FAILS(RT_NO_UNIT, ask(how, nowhere, s, d, NULL, 1, NULL));
        FAILS(RT_TOO_LARGE, ask(how, p->to, s, rt_binary(large, sizeof large), NULL, 1, NULL));
        FAILS(RT_INVALID_ARGUMENT,
              ask(how, p->to, rt_string_of(long_name, sizeof long_name), d, NULL, 1, NULL));
    }
}

/* The other functions, with what makes them fail. */
static void others(pair *p) {
    const rt_string s = RT_STR("s"), null = rt_string_of(NULL, 1);
    rt_peer no_peer = {0};
    rt_role no_role = {p->client.id};
    rt_context no_context = {0};
    rt_readable no_readable = {0};
    rt_writable no_writable = {0};
    rt_operation operations[2];
    rt_operation *misaligned = (rt_operation *)(void *)((char *)operations + 1);

    FAILS(RT_INVALID_HANDLE, rt_peer_layer(no_peer, GIVE(rt_incoming_handler, on_incoming)));
    FAILS(RT_INVALID_ARGUMENT, rt_peer_layer(p->server, NONE(rt_incoming_handler)));
    FAILS(RT_INVALID_HANDLE, rt_role_layer(no_role, GIVE(rt_incoming_handler, on_incoming)));
    FAILS(RT_INVALID_ARGUMENT, rt_role_layer(p->role, NONE(rt_incoming_handler)));
    FAILS(RT_INVALID_HANDLE,
          rt_role_handle(no_role, RT_MESSAGE, s, GIVE(rt_incoming_handler, on_incoming)));
    FAILS(RT_INVALID_ARGUMENT,
          rt_role_handle(p->role, 99, s, GIVE(rt_incoming_handler, on_incoming)));
    FAILS(RT_INVALID_ARGUMENT,
          rt_role_handle(p->role, RT_MESSAGE, null, GIVE(rt_incoming_handler, on_incoming)));
    FAILS(RT_INVALID_ARGUMENT, rt_role_handle(p->role, RT_MESSAGE, s, NONE(rt_incoming_handler)));

    FAILS(RT_INVALID_HANDLE, rt_peer_on_event(no_peer, GIVE(rt_event_handler, on_event), NULL));
    FAILS(RT_INVALID_ARGUMENT, rt_peer_on_event(p->client, NONE(rt_event_handler), NULL));
    FAILS(RT_INVALID_ARGUMENT,
          rt_peer_on_event(p->client, GIVE(rt_event_handler, on_event), misaligned));

    const rt_string address = RT_STR("ws://127.0.0.1:1");
    rt_connect_options options;
    memset(&options, 0, sizeof options);
    FAILS(RT_INVALID_HANDLE,
          rt_peer_connect_async(no_peer, address, NULL, GIVE(rt_reply_handler, on_reply), NULL));
    FAILS(RT_INVALID_ARGUMENT,
          rt_peer_connect_async(p->client, address, NULL, NONE(rt_reply_handler), NULL));
    FAILS(RT_INVALID_ARGUMENT,
          rt_peer_connect_async(p->client, null, NULL, GIVE(rt_reply_handler, on_reply), NULL));
    FAILS(RT_INVALID_ARGUMENT, rt_peer_connect_async(p->client, RT_STR("nonsense"), NULL,
                                                     GIVE(rt_reply_handler, on_reply), NULL));
    FAILS(RT_INVALID_ARGUMENT, rt_peer_connect_async(p->client, address, NULL,
                                                     GIVE(rt_reply_handler, on_reply), misaligned));
    FAILS(RT_INVALID_ARGUMENT, rt_peer_connect_async(p->client, address, &options,
                                                     GIVE(rt_reply_handler, on_reply), NULL));
    options.struct_size = sizeof options;
    options.tls_ca = RT_STR("not PEM");
    FAILS(RT_TLS, rt_peer_connect_async(p->client, RT_STR("wss://127.0.0.1:1"), &options,
                                        GIVE(rt_reply_handler, on_reply), NULL));

    FAILS(RT_INVALID_HANDLE,
          rt_context_on_outcome(no_context, GIVE(rt_outcome_handler, on_outcome)));
    FAILS(RT_INVALID_HANDLE, rt_readable_on_ready(no_readable, GIVE(rt_ready_handler, called)));
    FAILS(RT_INVALID_HANDLE, rt_writable_on_ready(no_writable, GIVE(rt_ready_handler, called)));
    FAILS(RT_INVALID_ARGUMENT, rt_log(99, GIVE(rt_log_handler, on_record)));

    rt_destination no_destination = {0};
    rt_send_options to;
    memset(&to, 0, sizeof to);
    FAILS(RT_INVALID_HANDLE,
          rt_destination_on_room(no_destination, NULL, GIVE(rt_ready_handler, called)));
    FAILS(RT_INVALID_ARGUMENT, rt_destination_on_room(p->to, NULL, NONE(rt_ready_handler)));
    FAILS(RT_INVALID_ARGUMENT, rt_destination_on_room(p->to, &to, GIVE(rt_ready_handler, called)));
    to.struct_size = sizeof to;
    to.unit.id = 12345;
    FAILS(RT_INVALID_HANDLE, rt_destination_on_room(p->to, &to, GIVE(rt_ready_handler, called)));
}

static void readiness(pair *p) {
    rt_writable writable;
    OK(rt_destination_writable(p->to, RT_STR("store"), rt_null(), NULL, &writable, NULL));
    FAILS(RT_INVALID_ARGUMENT, rt_writable_on_ready(writable, NONE(rt_ready_handler)));
    OK(rt_writable_on_ready(writable, GIVE(rt_ready_handler, called)));
    DROPPED(1);
    OK(rt_writable_close(writable));
    rt_readable readable;
    OK(rt_destination_readable(p->to, RT_STR("load"), rt_null(), NULL, &readable, NULL));
    FAILS(RT_INVALID_ARGUMENT, rt_readable_on_ready(readable, NONE(rt_ready_handler)));
    OK(rt_readable_on_ready(readable, GIVE(rt_ready_handler, called)));
    DROPPED(1);
    OK(rt_readable_close(readable));
}

static void store(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_readable stream;
    OK(rt_context_accept_readable(in->context, rt_null(), &stream));
    OK(rt_readable_close(stream));
}

static void load(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_writable stream;
    OK(rt_context_accept_writable(in->context, rt_null(), &stream));
    OK(rt_writable_close(stream));
}

static void echo(void *user_data, const rt_incoming *in) {
    (void)user_data;
    OK(rt_context_respond(in->context, in->data));
}

/* Middleware that looks at outcomes, with callbacks that are refused in between. */
static void look(void *user_data, const rt_incoming *in) {
    (void)user_data;
    EXPECT(RT_INVALID_ARGUMENT,
           rt_context_on_outcome(in->context,
                                 handler_rt_outcome_handler(NULL, new_ticket(), dropped)));
    OK(rt_context_on_outcome(in->context,
                             handler_rt_outcome_handler(on_outcome, new_ticket(), dropped)));
}

static rt_context kept;

static void keep(void *user_data, const rt_incoming *in) {
    (void)user_data;
    OK(rt_context_defer(in->context, &kept));
}

/* What is called, and then dropped, in the end. */
static void good(pair *p) {
    for (int how = 0; how < ASKS; how++) {
        const rt_string events[] = {RT_STR("echo"), RT_STR("echo"), RT_STR("load"),
                                    RT_STR("store")};
        OK(ask(how, p->to, events[how], rt_null(), NULL, 1, NULL));
        DROPPED(1);
        /* Rejected: there is no such handler. */
        OK(ask(how, p->to, RT_STR("nothing"), rt_null(), NULL, 1, NULL));
        DROPPED(1);
    }
    OK(rt_destination_on_room(p->to, NULL, GIVE(rt_ready_handler, called)));
    DROPPED(1);
    rt_operation events;
    OK(rt_peer_on_event(p->client, GIVE(rt_event_handler, on_event), &events));
    OK(rt_operation_cancel(events));
    DROPPED(0);
    OK(rt_operation_free(events));
    OK(rt_role_handle(p->role, RT_MESSAGE, RT_STR("m"), GIVE(rt_incoming_handler, on_incoming)));
    handle(p, RT_MESSAGE, "m", on_incoming, NULL);
    DROPPED(0);
    OK(rt_log(RT_LOG_ERROR, GIVE(rt_log_handler, on_record)));
    rt_log_handler off;
    memset(&off, 0, sizeof off);
    OK(rt_log(RT_LOG_OFF, off));
    DROPPED(0);
}

/* In the child of a fork nothing works, but what is given is dropped. */
static void forked(pair *p) {
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (int how = 0; how < ASKS; how++)
            FAILS(RT_FORKED, ask(how, p->to, RT_STR("echo"), rt_null(), NULL, 1, NULL));
        FAILS(RT_FORKED, rt_peer_layer(p->server, GIVE(rt_incoming_handler, on_incoming)));
        FAILS(RT_FORKED, rt_peer_on_event(p->client, GIVE(rt_event_handler, on_event), NULL));
        FAILS(RT_FORKED, rt_destination_on_room(p->to, NULL, GIVE(rt_ready_handler, called)));
        FAILS(RT_FORKED, rt_log(RT_LOG_ERROR, GIVE(rt_log_handler, on_record)));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void everything(int32_t callbacks, int with_fork) {
    rt_limits limits = patient_limits();
    limits.message_size = 2048;
    limits.handshake_message_size = 2048;
    rt_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.callbacks = callbacks;
    options.limits = &limits;
    pair p;
    OK(rt_peer_new(&options, &p.server));
    OK(rt_peer_new(&options, &p.client));
    listen_and_connect(&p);
    polled = callbacks == RT_CALLBACKS_POLL ? &p : NULL;
    const int first = given;
    handle(&p, RT_REQUEST, "echo", echo, NULL);
    handle(&p, RT_REQUEST, "keep", keep, NULL);
    handle(&p, RT_READABLE, "store", store, NULL);
    handle(&p, RT_WRITABLE, "load", load, NULL);
    asks(&p);
    others(&p);
    /* Opening a stream waits for its handler, which with RT_CALLBACKS_POLL only this thread would run. */
    if (!polled) readiness(&p);
    good(&p);
    OK(rt_role_layer(p.role, handler_rt_incoming_handler(look, NULL, NULL)));
    OK(ask(REQUEST, p.to, RT_STR("echo"), rt_null(), NULL, 1, NULL));
    if (with_fork) forked(&p);
    /* What is open when the peers end. */
    OK(rt_peer_layer(p.server, GIVE(rt_incoming_handler, on_incoming)));
    OK(rt_peer_on_event(p.client, GIVE(rt_event_handler, on_event), NULL));
    OK(ask(REQUEST, p.to, RT_STR("keep"), rt_null(), NULL, 1, NULL));
    close_pair(&p);
    if (kept.id) OK(rt_context_reject(kept, RT_STR("late")));
    kept.id = 0;
    for (int i = first; i < given; i++)
        if (tickets[i].drops != 1) FAIL("callback %d: %d drops", i - first, tickets[i].drops);
}

int main(int argc, char **argv) {
    (void)argv;
    everything(RT_CALLBACKS_THREAD, argc == 1);
    everything(RT_CALLBACKS_INLINE, argc == 1);
    everything(RT_CALLBACKS_POLL, argc == 1);
    puts("drops: ok");
    return 0;
}
