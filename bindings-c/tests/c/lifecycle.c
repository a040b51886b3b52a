/* Streams, events, counters, keys, the three ways to run callbacks, and the ends of peers. */
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { STREAM = 1 << 20 };

/* Streams, blocking: the server reads on a thread of its own what the client writes, and back. */

static counter served;

static void *read_all(void *argument) {
    rt_readable stream = *(rt_readable *)argument;
    free(argument);
    char buffer[5000];
    size_t total = 0, len;
    for (;;) {
        OK(rt_readable_read(stream, buffer, sizeof buffer, -1, &len));
        if (len == 0) break;
        for (size_t i = 0; i < len; i++) CHECK(buffer[i] == (char)((total + i) % 251));
        total += len;
    }
    CHECK(total == STREAM);
    OK(rt_readable_close(stream));
    EXPECT(RT_INVALID_HANDLE, rt_readable_close(stream));
    count(&served);
    return NULL;
}

static void write_all(rt_writable stream) {
    static char bytes[STREAM];
    for (size_t i = 0; i < STREAM; i++) bytes[i] = (char)(i % 251);
    size_t written;
    OK(rt_writable_write(stream, bytes, STREAM / 2, -1, NULL));
    OK(rt_writable_write(stream, bytes + STREAM / 2, STREAM / 2, -1, &written));
    CHECK(written == STREAM / 2);
    OK(rt_writable_finish(stream, -1));
    EXPECT(RT_STREAM_CLOSED, rt_writable_write(stream, bytes, 1, -1, &written));
    OK(rt_writable_close(stream));
    count(&served);
}

static void *write_thread(void *argument) {
    rt_writable stream = *(rt_writable *)argument;
    free(argument);
    write_all(stream);
    return NULL;
}

/* Writes until the other end has had enough. */
static void *write_endlessly(void *argument) {
    rt_writable stream = *(rt_writable *)argument;
    free(argument);
    static const char bytes[1000] = {0};
    while (rt_writable_write(stream, bytes, sizeof bytes, -1, NULL) == RT_OK) {
    }
    CHECK(rt_writable_finish(stream, 0) != RT_OK);
    OK(rt_writable_abort(stream, RT_STR("too late")));
    count(&served);
    return NULL;
}

static void detach(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    pthread_detach(thread);
}

static void on_upload(void *user_data, const rt_incoming *in) {
    (void)user_data;
    if (data_is(in->data, RT_TEXT, "full")) {
        OK(rt_context_reject(in->context, RT_STR("no room")));
        return;
    }
    rt_readable *stream = (rt_readable *)malloc(sizeof *stream);
    rt_writable wrong;
    EXPECT(RT_INVALID_ARGUMENT, rt_context_accept_writable(in->context, rt_null(), &wrong));
    OK(rt_context_accept_readable(in->context, txt("go ahead"), stream));
    detach(read_all, stream);
}

static void on_download(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_writable *stream = (rt_writable *)malloc(sizeof *stream);
    OK(rt_context_accept_writable(in->context, rt_null(), stream));
    detach(data_is(in->data, RT_TEXT, "endless") ? write_endlessly : write_thread, stream);
}

/* Streams by readiness: everything in callbacks. */

typedef struct {
    rt_readable stream;
    size_t total;
    counter done;
} reader;

static void can_read(void *user_data) {
    reader *r = (reader *)user_data;
    char buffer[5000];
    size_t len;
    int32_t status;
    while ((status = rt_readable_read(r->stream, buffer, sizeof buffer, 0, &len)) == RT_OK &&
           len > 0)
        r->total += len;
    if (status == RT_WOULD_BLOCK) {
        OK(rt_readable_on_ready(r->stream, HANDLER(rt_ready_handler, can_read, r)));
        return;
    }
    OK(status);
    OK(rt_readable_close(r->stream));
    count(&r->done);
}

static void on_readable(void *user_data, const rt_reply *reply, rt_readable stream) {
    reader *r = (reader *)user_data;
    OK(reply->status);
    r->stream = stream;
    OK(rt_readable_on_ready(stream, HANDLER(rt_ready_handler, can_read, r)));
}

typedef struct {
    rt_writable stream;
    size_t total;
    int finishing;
    counter done;
} writer;

static void can_write(void *user_data) {
    writer *w = (writer *)user_data;
    static char bytes[STREAM];
    for (size_t i = 0; i < STREAM; i++) bytes[i] = (char)(i % 251);
    int32_t status = RT_OK;
    while (w->total < STREAM) {
        size_t written = 0;
        status = rt_writable_write(w->stream, bytes + w->total, STREAM - w->total, 0, &written);
        w->total += written;
        if (status != RT_OK) break;
    }
    if (w->total == STREAM) status = rt_writable_finish(w->stream, 0);
    if (status == RT_WOULD_BLOCK) {
        OK(rt_writable_on_ready(w->stream, HANDLER(rt_ready_handler, can_write, w)));
        return;
    }
    OK(status);
    OK(rt_writable_close(w->stream));
    count(&w->done);
}

static void on_writable(void *user_data, const rt_reply *reply, rt_writable stream) {
    writer *w = (writer *)user_data;
    OK(reply->status);
    CHECK(data_is(reply->data, RT_TEXT, "go ahead"));
    w->stream = stream;
    OK(rt_writable_on_ready(stream, HANDLER(rt_ready_handler, can_write, w)));
}

static void refused(void *user_data, const rt_reply *reply, rt_writable stream) {
    CHECK(reply->status == RT_REJECTED && stream.id == 0);
    count((counter *)user_data);
}

static void streams(int32_t callbacks) {
    pair p = connect_pair(callbacks);
    counter_init(&served);
    handle(&p, RT_READABLE, "upload", on_upload, NULL);
    handle(&p, RT_WRITABLE, "download", on_download, NULL);

    rt_writable writable;
    rt_readable readable;
    rt_answer answer;
    rt_unit unit;
    OK(rt_destination_writable(p.to, RT_STR("upload"), rt_null(), NULL, &writable, &answer));
    OK(rt_answer_free(answer));
    OK(rt_writable_unit(writable, &unit));
    OK(rt_unit_free(unit));
    write_all(writable);
    wait_count(&served, 2);
    EXPECT(RT_REJECTED,
           rt_destination_writable(p.to, RT_STR("upload"), txt("full"), NULL, &writable, NULL));
    CHECK(is(rt_last_error(), "no room"));

    OK(rt_destination_readable(p.to, RT_STR("download"), rt_null(), NULL, &readable, NULL));
    OK(rt_readable_unit(readable, &unit));
    OK(rt_unit_free(unit));
    rt_readable *own = (rt_readable *)malloc(sizeof *own);
    *own = readable;
    read_all(own);
    wait_count(&served, 4);

    reader r;
    memset(&r, 0, sizeof r);
    counter_init(&r.done);
    OK(rt_destination_readable_async(p.to, RT_STR("download"), rt_null(), NULL,
                                     HANDLER(rt_readable_handler, on_readable, &r), NULL));
    wait_count(&r.done, 1);
    CHECK(r.total == STREAM);
    counter_destroy(&r.done);

    writer w;
    memset(&w, 0, sizeof w);
    counter_init(&w.done);
    OK(rt_destination_writable_async(p.to, RT_STR("upload"), rt_null(), NULL,
                                     HANDLER(rt_writable_handler, on_writable, &w), NULL));
    wait_count(&w.done, 1);
    OK(rt_destination_writable_async(p.to, RT_STR("upload"), txt("full"), NULL,
                                     HANDLER(rt_writable_handler, refused, &w.done), NULL));
    wait_count(&w.done, 2);
    counter_destroy(&w.done);

    /* Breaking off. */
    wait_count(&served, 6);
    OK(rt_destination_readable(p.to, RT_STR("download"), txt("endless"), NULL, &readable, NULL));
    close_pair(&p);
    wait_count(&served, 7);
    counter_destroy(&served);
    char byte;
    size_t len;
    int32_t status;
    while ((status = rt_readable_read(readable, &byte, 1, -1, &len)) == RT_OK && len > 0) {
    }
    CHECK(status != RT_OK && status != RT_TIMEOUT);
    OK(rt_readable_abort(readable, RT_STR("not needed")));
    EXPECT(RT_INVALID_HANDLE, rt_readable_abort(readable, RT_STR("again")));
}

/* Events, units, counters. */

static counter opened, unit_closed;

static void on_event(void *user_data, const rt_event *event) {
    (void)user_data;
    CHECK(event->struct_size == sizeof *event && event->kind >= RT_EVENT_UNIT_OPENED);
    if (event->kind == RT_EVENT_UNIT_OPENED) {
        CHECK(event->unit.id != 0);
        count(&opened);
    }
    if (event->kind == RT_EVENT_UNIT_CLOSED) count(&unit_closed);
}

static void see_info(void *user_data, const rt_unit_info *info) {
    CHECK(info->struct_size == sizeof *info && is(info->name, "server") && info->open == 1);
    CHECK(info->role_count == 1 && is(info->roles[0], "r"));
    CHECK(info->tag_count == 1 && is(info->tags[0].key, "zone") && is(info->tags[0].value, "eu"));
    count((counter *)user_data);
}

static void see_unit(void *user_data, rt_unit unit) {
    char id[64];
    size_t len;
    OK(rt_unit_id(unit, id, sizeof id, &len));
    CHECK(len == 32);
    EXPECT(RT_TOO_LARGE, rt_unit_id(unit, id, 31, &len));
    CHECK(len == 32);
    *(rt_unit *)user_data = unit;
}

static void keep_unit(void *user_data, rt_unit unit) {
    OK(rt_unit_clone(unit, (rt_unit *)user_data));
}

static void events(void) {
    counter drops, seen;
    counter_init(&drops), counter_init(&seen), counter_init(&opened), counter_init(&unit_closed);
    pair p;
    p.server = new_peer("server", RT_CALLBACKS_THREAD);
    p.client = new_peer("client", RT_CALLBACKS_THREAD);
    OK(rt_peer_set_tag(p.server, RT_STR("zone"), RT_STR("eu")));
    rt_operation subscription;
    OK(rt_peer_on_event(p.server, handler_rt_event_handler(on_event, &drops, count_drop), NULL));
    OK(rt_peer_on_event(p.client, handler_rt_event_handler(on_event, &drops, count_drop),
                        &subscription));
    listen_and_connect(&p);
    wait_count(&opened, 2);
    OK(rt_operation_cancel(subscription));
    wait_count(&drops, 1);
    OK(rt_operation_free(subscription));

    rt_unit lent, unit;
    lent.id = unit.id = 0;
    OK(rt_peer_each_unit(p.client, see_unit, &lent));
    EXPECT(RT_INVALID_HANDLE, rt_unit_describe(lent, see_info, &seen));
    OK(rt_destination_each_unit(p.to, keep_unit, &unit));
    OK(rt_unit_describe(unit, see_info, &seen));
    CHECK(counted(&seen) == 1);
    rt_peer_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(rt_peer_get_stats(p.client, &stats));
    CHECK(stats.units == 1);
    EXPECT(RT_REJECTED, rt_destination_request(p.to, RT_STR("x"), rt_null(), NULL, NULL));
    rt_unit_stats unit_stats;
    memset(&unit_stats, 0, sizeof unit_stats);
    unit_stats.struct_size = sizeof unit_stats;
    OK(rt_unit_get_stats(unit, &unit_stats));
    CHECK(unit_stats.requests_sent == 1 && unit_stats.connections == 1);
    rt_connection_stats connection;
    memset(&connection, 0, sizeof connection);
    connection.struct_size = sizeof connection;
    OK(rt_unit_get_connection_stats(unit, 0, &connection));
    CHECK(connection.frames_sent > 0);
    EXPECT(RT_END, rt_unit_get_connection_stats(unit, 1, &connection));

    OK(rt_unit_close(unit));
    int32_t open = 1;
    OK(rt_unit_is_open(unit, &open));
    CHECK(open == 0);
    wait_count(&unit_closed, 1);
    rt_send_options to_unit;
    memset(&to_unit, 0, sizeof to_unit);
    to_unit.struct_size = sizeof to_unit;
    to_unit.unit = unit;
    EXPECT(RT_CONNECTION_LOST, rt_destination_send(p.to, RT_STR("x"), rt_null(), &to_unit));
    OK(rt_unit_free(unit));
    EXPECT(RT_INVALID_HANDLE, rt_unit_free(unit));
    close_pair(&p);
    CHECK(counted(&drops) == 2);
    counter_destroy(&drops), counter_destroy(&seen);
    counter_destroy(&opened), counter_destroy(&unit_closed);
}

/* Keys, roles, dialing. */

static void connected(void *user_data, const rt_reply *reply) {
    CHECK(reply->status == RT_OK && reply->unit.id != 0);
    count((counter *)user_data);
}

static void connect_failed(void *user_data, const rt_reply *reply) {
    CHECK(reply->status == RT_CONNECT_FAILED && reply->unit.id == 0 && reply->error.len > 0);
    count((counter *)user_data);
}

static void keys_and_dialing(void) {
    rt_peer server = new_peer("server", RT_CALLBACKS_THREAD);
    rt_peer client = new_peer("client", RT_CALLBACKS_THREAD);
    OK(rt_peer_add_key(server, RT_STR("k"), RT_STR("secret")));
    rt_listener listener;
    OK(rt_peer_listen(server, RT_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(rt_listener_url(listener, url, sizeof url, &len));
    rt_string address = rt_string_of(url, len);
    rt_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    EXPECT(RT_AUTH_REFUSED, rt_peer_connect(client, address, &once, NULL));
    OK(rt_peer_add_key(client, RT_STR("k"), RT_STR("secret")));
    rt_unit unit;
    OK(rt_peer_connect(client, address, &once, &unit));
    OK(rt_unit_free(unit));
    OK(rt_peer_remove_key(client, RT_STR("k")));
    EXPECT(RT_INVALID_ARGUMENT, rt_peer_remove_key(client, RT_STR("k")));
    EXPECT(RT_INVALID_ARGUMENT, rt_peer_disconnect(client, RT_STR("ws://127.0.0.1:1")));

    counter calls;
    counter_init(&calls);
    OK(rt_peer_add_key(client, RT_STR("k"), RT_STR("secret")));
    rt_operation operation;
    OK(rt_peer_connect_async(client, address, NULL,
                             handler_rt_reply_handler(connected, &calls, count_drop), &operation));
    wait_count(&calls, 2);
    OK(rt_operation_free(operation));
    OK(rt_peer_disconnect(client, address));
    OK(rt_listener_close(listener));
    EXPECT(RT_INVALID_HANDLE, rt_listener_close(listener));
    OK(rt_peer_connect_async(client, RT_STR("ws://127.0.0.1:1"), &once,
                             handler_rt_reply_handler(connect_failed, &calls, count_drop), NULL));
    wait_count(&calls, 4);
    counter_destroy(&calls);

    rt_role role, same;
    int32_t active = 1;
    OK(rt_peer_role(server, RT_STR("a"), 1, &role));
    OK(rt_peer_role(server, RT_STR("a"), 1, &same));
    CHECK(role.id == same.id);
    OK(rt_role_is_active(role, &active));
    CHECK(active == 0);
    OK(rt_role_enable(role));
    OK(rt_role_is_active(role, &active));
    CHECK(active == 1);
    OK(rt_role_disable(role));
    OK(rt_peer_close(client));
    OK(rt_peer_close(server));
    EXPECT(RT_INVALID_HANDLE, rt_role_enable(role));
}

/* A program with a loop of its own: nothing runs but in rt_poll. */

static pthread_t polling;

static void on_polled_echo(void *user_data, const rt_incoming *in) {
    CHECK(pthread_equal(polling, pthread_self()));
    EXPECT(RT_INVALID_ARGUMENT, rt_poll(*(rt_peer *)user_data, 0, NULL));
    OK(rt_context_respond(in->context, in->data));
}

static void on_polled_reply(void *user_data, const rt_reply *reply) {
    CHECK(pthread_equal(polling, pthread_self()) && reply->status != RT_OK);
    count((counter *)user_data);
}

static void polled(void) {
    polling = pthread_self();
    rt_peer peer = new_peer("polled", RT_CALLBACKS_POLL), other = new_peer("other", 0);
    rt_role role;
    rt_destination to, back;
    rt_listener listener;
    char url[128];
    size_t len, done;
    counter replies;
    counter_init(&replies);
    OK(rt_peer_role(peer, RT_STR("p"), 0, &role));
    OK(rt_role_handle(role, RT_REQUEST, RT_STR("echo"),
                      HANDLER(rt_incoming_handler, on_polled_echo, &peer)));
    OK(rt_peer_listen(peer, RT_STR("127.0.0.1:0"), NULL, &listener));
    OK(rt_listener_url(listener, url, sizeof url, &len));
    OK(rt_peer_role(other, RT_STR("o"), 0, &role));
    OK(rt_peer_connect(other, rt_string_of(url, len), NULL, NULL));
    OK(rt_peer_destination(other, RT_STR("p"), &to));
    OK(rt_destination_ready(to, -1));
    OK(rt_peer_destination(peer, RT_STR("o"), &back));
    OK(rt_destination_ready(back, -1));

    EXPECT(RT_INVALID_ARGUMENT, rt_poll(other, 0, NULL));
    int fd;
    EXPECT(RT_INVALID_ARGUMENT, rt_fd(other, &fd));
    OK(rt_fd(peer, &fd));
    OK(rt_poll(peer, 0, &done));
    CHECK(done == 0);
    rt_survey survey;
    OK(rt_destination_survey(to, RT_STR("echo"), txt("x"), NULL, &survey));
    rt_answer answer;
    EXPECT(RT_WOULD_BLOCK, rt_survey_next(survey, 0, &answer));
    struct pollfd wait;
    wait.fd = fd, wait.events = POLLIN, wait.revents = 0;
    CHECK(poll(&wait, 1, LIMIT_S * 1000) == 1);
    OK(rt_poll(peer, 0, &done));
    CHECK(done == 1);
    CHECK(poll(&wait, 1, 0) == 0);
    OK(rt_survey_next(survey, LIMIT_S * 1000, &answer));
    OK(rt_answer_free(answer));
    OK(rt_survey_free(survey));
    /* What is under way when the peer closes is called back then, on the closing thread. */
    OK(rt_destination_request_async(back, RT_STR("x"), rt_null(), NULL,
                                    HANDLER(rt_reply_handler, on_polled_reply, &replies), NULL));
    OK(rt_peer_close(peer));
    CHECK(counted(&replies) == 1);
    EXPECT(RT_INVALID_HANDLE, rt_poll(peer, 0, NULL));
    OK(rt_peer_close(other));
    counter_destroy(&replies);
}

/* Peers that are closed where it is least convenient. */

static counter closings;

static void close_here(void *user_data, const rt_incoming *in) {
    (void)in;
    OK(rt_peer_close(*(rt_peer *)user_data));
    EXPECT(RT_INVALID_HANDLE, rt_peer_close(*(rt_peer *)user_data));
    count(&closings);
}

static void count_end(void *user_data, const rt_reply *reply) {
    CHECK(reply->status != RT_OK);
    count((counter *)user_data);
}

static void *close_it(void *peer) {
    int32_t status = rt_peer_close(*(rt_peer *)peer);
    CHECK(status == RT_OK || status == RT_INVALID_HANDLE);
    if (status == RT_OK) count(&closings);
    return NULL;
}

static void ends(int32_t callbacks) {
    counter_init(&closings);
    counter ended, drops;
    counter_init(&ended), counter_init(&drops);
    pair p = connect_pair(callbacks);
    OK(rt_role_handle(p.role, RT_REQUEST, RT_STR("close"),
                      handler_rt_incoming_handler(close_here, &p.server, NULL)));
    OK(rt_role_handle(p.role, RT_MESSAGE, RT_STR("x"),
                      handler_rt_incoming_handler(close_here, &drops, count_drop)));
    OK(rt_role_handle(p.role, RT_MESSAGE, RT_STR("x"),
                      handler_rt_incoming_handler(close_here, &drops, count_drop)));
    wait_count(&drops, 1);
    OK(rt_destination_request_async(p.to, RT_STR("close"), rt_null(), NULL,
                                    handler_rt_reply_handler(count_end, &ended, NULL), NULL));
    wait_count(&closings, 1);
    wait_count(&ended, 1);
    wait_count(&drops, 2);
    OK(rt_peer_close(p.client));

    /* Many close at the same time: one does. */
    p = connect_pair(callbacks);
    rt_destination self;
    OK(rt_peer_destination(p.server, RT_STR("none"), &self));
    EXPECT(RT_TIMEOUT, rt_destination_ready(self, 1));
    EXPECT(RT_WOULD_BLOCK, rt_destination_ready(self, 0));
    counter_destroy(&closings);
    counter_init(&closings);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, close_it, &p.client) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(counted(&closings) == 1);
    int32_t finished = 0;
    OK(rt_peer_drain(p.server, LIMIT_S * 1000, &finished));
    CHECK(finished == 1);
    EXPECT(RT_INVALID_HANDLE, rt_peer_drain(p.server, 0, NULL));
    counter_destroy(&ended), counter_destroy(&drops), counter_destroy(&closings);
}

/* Diagnostics. */

static counter logged;

static void on_log(void *user_data, const rt_log_record *record) {
    (void)user_data;
    CHECK(record->struct_size == sizeof *record && record->level >= RT_LOG_ERROR);
    CHECK(record->level <= RT_LOG_DEBUG && record->target.len > 0 && record->text.len > 0);
    count(&logged);
}

static void logging(void) {
    counter log_drops;
    counter_init(&logged), counter_init(&log_drops);
    rt_log_handler handler = handler_rt_log_handler(on_log, &log_drops, count_drop);
    OK(rt_log(RT_LOG_DEBUG, handler));
    pair p = connect_pair(RT_CALLBACKS_THREAD);
    wait_count(&logged, 1);
    OK(rt_log(RT_LOG_ERROR, handler));
    CHECK(counted(&log_drops) == 1);
    close_pair(&p);
    OK(rt_log(RT_LOG_OFF, handler_rt_log_handler(NULL, NULL, NULL)));
    CHECK(counted(&log_drops) == 2);
    counter_destroy(&logged), counter_destroy(&log_drops);
}

/* The child of a fork. */

static void forked(void) {
    pair p = connect_pair(RT_CALLBACKS_THREAD);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT(RT_FORKED, rt_peer_close(p.server));
        EXPECT(RT_FORKED, rt_destination_send(p.to, RT_STR("x"), rt_null(), NULL));
        EXPECT(RT_FORKED, rt_destination_ready(p.to, -1));
        pair own = connect_pair(RT_CALLBACKS_THREAD);
        EXPECT(RT_FORKED, rt_peer_close(p.server));
        EXPECT(RT_FORKED, rt_destination_send(p.to, RT_STR("x"), rt_null(), NULL));
        OK(rt_destination_send(own.to, RT_STR("x"), rt_null(), NULL));
        close_pair(&own);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(rt_destination_send(p.to, RT_STR("x"), rt_null(), NULL));
    close_pair(&p);
}

int main(int argc, char **argv) {
    (void)argv;
    streams(RT_CALLBACKS_THREAD);
    streams(RT_CALLBACKS_INLINE);
    events();
    keys_and_dialing();
    polled();
    ends(RT_CALLBACKS_THREAD);
    ends(RT_CALLBACKS_INLINE);
    logging();
    /* Sanitizers do not like a fork of a process with threads: any argument leaves it out. */
    if (argc == 1) forked();
    CHECK(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
    puts("lifecycle: ok");
    return 0;
}
