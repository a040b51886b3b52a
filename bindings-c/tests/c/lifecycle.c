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
    roletalk_readable stream = *(roletalk_readable *)argument;
    free(argument);
    char buffer[5000];
    size_t total = 0, len;
    for (;;) {
        OK(roletalk_readable_read(stream, buffer, sizeof buffer, -1, &len));
        if (len == 0) break;
        for (size_t i = 0; i < len; i++) CHECK(buffer[i] == (char)((total + i) % 251));
        total += len;
    }
    CHECK(total == STREAM);
    OK(roletalk_readable_close(stream));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_readable_close(stream));
    count(&served);
    return NULL;
}

static void write_all(roletalk_writable stream) {
    static char bytes[STREAM];
    for (size_t i = 0; i < STREAM; i++) bytes[i] = (char)(i % 251);
    size_t written;
    OK(roletalk_writable_write(stream, bytes, STREAM / 2, -1, NULL));
    OK(roletalk_writable_write(stream, bytes + STREAM / 2, STREAM / 2, -1, &written));
    CHECK(written == STREAM / 2);
    OK(roletalk_writable_finish(stream, -1));
    EXPECT(ROLETALK_STATUS_STREAM_CLOSED, roletalk_writable_write(stream, bytes, 1, -1, &written));
    OK(roletalk_writable_close(stream));
    count(&served);
}

static void *write_thread(void *argument) {
    roletalk_writable stream = *(roletalk_writable *)argument;
    free(argument);
    write_all(stream);
    return NULL;
}

/* Writes until the other end has had enough. */
static void *write_endlessly(void *argument) {
    roletalk_writable stream = *(roletalk_writable *)argument;
    free(argument);
    static const char bytes[1000] = {0};
    while (roletalk_writable_write(stream, bytes, sizeof bytes, -1, NULL) == ROLETALK_STATUS_OK) {
    }
    CHECK(roletalk_writable_finish(stream, 0) != ROLETALK_STATUS_OK);
    OK(roletalk_writable_abort(stream, ROLETALK_STR("too late")));
    count(&served);
    return NULL;
}

static void detach(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    pthread_detach(thread);
}

static void on_upload(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    if (data_is(in->data, ROLETALK_DATA_TEXT, "full")) {
        OK(roletalk_context_reject(in->context, ROLETALK_STR("no room")));
        return;
    }
    roletalk_readable *stream = (roletalk_readable *)malloc(sizeof *stream);
    roletalk_writable wrong;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_context_accept_writable(in->context, roletalk_data_null(), &wrong));
    OK(roletalk_context_accept_readable(in->context, txt("go ahead"), stream));
    detach(read_all, stream);
}

static void on_download(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_writable *stream = (roletalk_writable *)malloc(sizeof *stream);
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), stream));
    detach(data_is(in->data, ROLETALK_DATA_TEXT, "endless") ? write_endlessly : write_thread,
           stream);
}

/* Streams by readiness: everything in callbacks. */

typedef struct {
    roletalk_readable stream;
    size_t total;
    counter done;
} reader;

static void can_read(void *user_data) {
    reader *r = (reader *)user_data;
    char buffer[5000];
    size_t len;
    roletalk_status status;
    while ((status = roletalk_readable_read(r->stream, buffer, sizeof buffer, 0, &len)) ==
               ROLETALK_STATUS_OK &&
           len > 0)
        r->total += len;
    if (status == ROLETALK_STATUS_WOULD_BLOCK) {
        OK(roletalk_readable_on_ready(r->stream, HANDLER(roletalk_ready_handler, can_read, r)));
        return;
    }
    OK(status);
    OK(roletalk_readable_close(r->stream));
    count(&r->done);
}

static void on_readable(void *user_data, const roletalk_reply *reply, roletalk_readable stream) {
    reader *r = (reader *)user_data;
    OK(reply->status);
    r->stream = stream;
    OK(roletalk_readable_on_ready(stream, HANDLER(roletalk_ready_handler, can_read, r)));
}

typedef struct {
    roletalk_writable stream;
    size_t total;
    int finishing;
    counter done;
} writer;

static void can_write(void *user_data) {
    writer *w = (writer *)user_data;
    static char bytes[STREAM];
    for (size_t i = 0; i < STREAM; i++) bytes[i] = (char)(i % 251);
    roletalk_status status = ROLETALK_STATUS_OK;
    while (w->total < STREAM) {
        size_t written = 0;
        status =
            roletalk_writable_write(w->stream, bytes + w->total, STREAM - w->total, 0, &written);
        w->total += written;
        if (status != ROLETALK_STATUS_OK) break;
    }
    if (w->total == STREAM) status = roletalk_writable_finish(w->stream, 0);
    if (status == ROLETALK_STATUS_WOULD_BLOCK) {
        OK(roletalk_writable_on_ready(w->stream, HANDLER(roletalk_ready_handler, can_write, w)));
        return;
    }
    OK(status);
    OK(roletalk_writable_close(w->stream));
    count(&w->done);
}

static void on_writable(void *user_data, const roletalk_reply *reply, roletalk_writable stream) {
    writer *w = (writer *)user_data;
    OK(reply->status);
    CHECK(data_is(reply->data, ROLETALK_DATA_TEXT, "go ahead"));
    w->stream = stream;
    OK(roletalk_writable_on_ready(stream, HANDLER(roletalk_ready_handler, can_write, w)));
}

static void refused(void *user_data, const roletalk_reply *reply, roletalk_writable stream) {
    CHECK(reply->status == ROLETALK_STATUS_REJECTED && stream.id == 0);
    count((counter *)user_data);
}

static void streams(int32_t callbacks) {
    pair p = connect_pair(callbacks);
    counter_init(&served);
    handle(&p, ROLETALK_KIND_READABLE, "upload", on_upload, NULL);
    handle(&p, ROLETALK_KIND_WRITABLE, "download", on_download, NULL);

    roletalk_writable writable;
    roletalk_readable readable;
    roletalk_answer answer;
    roletalk_unit unit;
    OK(roletalk_destination_writable(p.to, ROLETALK_STR("upload"), roletalk_data_null(), NULL,
                                     &writable, &answer));
    OK(roletalk_answer_free(answer));
    OK(roletalk_writable_unit(writable, &unit));
    OK(roletalk_unit_free(unit));
    write_all(writable);
    wait_count(&served, 2);
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_writable(p.to, ROLETALK_STR("upload"), txt("full"), NULL, &writable,
                                         NULL));
    CHECK(is(roletalk_last_error(), "no room"));

    OK(roletalk_destination_readable(p.to, ROLETALK_STR("download"), roletalk_data_null(), NULL,
                                     &readable, NULL));
    OK(roletalk_readable_unit(readable, &unit));
    OK(roletalk_unit_free(unit));
    roletalk_readable *own = (roletalk_readable *)malloc(sizeof *own);
    *own = readable;
    read_all(own);
    wait_count(&served, 4);

    reader r;
    memset(&r, 0, sizeof r);
    counter_init(&r.done);
    OK(roletalk_destination_readable_async(
        p.to, ROLETALK_STR("download"), roletalk_data_null(), NULL,
        HANDLER(roletalk_readable_handler, on_readable, &r), NULL));
    wait_count(&r.done, 1);
    CHECK(r.total == STREAM);
    counter_destroy(&r.done);

    writer w;
    memset(&w, 0, sizeof w);
    counter_init(&w.done);
    OK(roletalk_destination_writable_async(p.to, ROLETALK_STR("upload"), roletalk_data_null(), NULL,
                                           HANDLER(roletalk_writable_handler, on_writable, &w),
                                           NULL));
    wait_count(&w.done, 1);
    OK(roletalk_destination_writable_async(p.to, ROLETALK_STR("upload"), txt("full"), NULL,
                                           HANDLER(roletalk_writable_handler, refused, &w.done),
                                           NULL));
    wait_count(&w.done, 2);
    counter_destroy(&w.done);

    /* Breaking off. */
    wait_count(&served, 6);
    OK(roletalk_destination_readable(p.to, ROLETALK_STR("download"), txt("endless"), NULL,
                                     &readable, NULL));
    close_pair(&p);
    wait_count(&served, 7);
    counter_destroy(&served);
    char byte;
    size_t len;
    roletalk_status status;
    while ((status = roletalk_readable_read(readable, &byte, 1, -1, &len)) == ROLETALK_STATUS_OK &&
           len > 0) {
    }
    CHECK(status != ROLETALK_STATUS_OK && status != ROLETALK_STATUS_TIMEOUT);
    OK(roletalk_readable_abort(readable, ROLETALK_STR("not needed")));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE,
           roletalk_readable_abort(readable, ROLETALK_STR("again")));
}

/* Events, units, counters. */

static counter opened, unit_closed;

static void on_event(void *user_data, const roletalk_event *event) {
    (void)user_data;
    CHECK(event->struct_size == sizeof *event && event->kind >= ROLETALK_EVENT_UNIT_OPENED);
    if (event->kind == ROLETALK_EVENT_UNIT_OPENED) {
        CHECK(event->unit.id != 0);
        count(&opened);
    }
    if (event->kind == ROLETALK_EVENT_UNIT_CLOSED) count(&unit_closed);
}

static void see_info(void *user_data, const roletalk_unit_info *info) {
    CHECK(info->struct_size == sizeof *info && is(info->name, "server") && info->open == 1);
    CHECK(info->role_count == 1 && is(info->roles[0], "r"));
    CHECK(info->tag_count == 1 && is(info->tags[0].key, "zone") && is(info->tags[0].value, "eu"));
    count((counter *)user_data);
}

static void see_unit(void *user_data, roletalk_unit unit) {
    char id[64];
    size_t len;
    OK(roletalk_unit_id(unit, id, sizeof id, &len));
    CHECK(len == 32);
    EXPECT(ROLETALK_STATUS_TOO_LARGE, roletalk_unit_id(unit, id, 31, &len));
    CHECK(len == 32);
    *(roletalk_unit *)user_data = unit;
}

static void keep_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_clone(unit, (roletalk_unit *)user_data));
}

static void events(void) {
    counter drops, seen;
    counter_init(&drops), counter_init(&seen), counter_init(&opened), counter_init(&unit_closed);
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_set_tag(p.server, ROLETALK_STR("zone"), ROLETALK_STR("eu")));
    roletalk_operation subscription;
    OK(roletalk_peer_on_event(p.server,
                              handler_roletalk_event_handler(on_event, &drops, count_drop), NULL));
    OK(roletalk_peer_on_event(
        p.client, handler_roletalk_event_handler(on_event, &drops, count_drop), &subscription));
    listen_and_connect(&p);
    wait_count(&opened, 2);
    OK(roletalk_operation_cancel(subscription));
    wait_count(&drops, 1);
    OK(roletalk_operation_free(subscription));

    roletalk_unit lent, unit;
    lent.id = unit.id = 0;
    OK(roletalk_peer_each_unit(p.client, see_unit, &lent));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_unit_describe(lent, see_info, &seen));
    OK(roletalk_destination_each_unit(p.to, keep_unit, &unit));
    OK(roletalk_unit_describe(unit, see_info, &seen));
    CHECK(counted(&seen) == 1);
    roletalk_peer_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    OK(roletalk_peer_get_stats(p.client, &stats));
    CHECK(stats.units == 1);
    EXPECT(ROLETALK_STATUS_REJECTED,
           roletalk_destination_request(p.to, ROLETALK_STR("x"), roletalk_data_null(), NULL, NULL));
    roletalk_unit_stats unit_stats;
    memset(&unit_stats, 0, sizeof unit_stats);
    unit_stats.struct_size = sizeof unit_stats;
    OK(roletalk_unit_get_stats(unit, &unit_stats));
    CHECK(unit_stats.requests_sent == 1 && unit_stats.connections == 1);
    roletalk_connection_stats connection;
    memset(&connection, 0, sizeof connection);
    connection.struct_size = sizeof connection;
    OK(roletalk_unit_get_connection_stats(unit, 0, &connection));
    CHECK(connection.frames_sent > 0);
    EXPECT(ROLETALK_STATUS_END, roletalk_unit_get_connection_stats(unit, 1, &connection));

    OK(roletalk_unit_disconnect(unit));
    int32_t open = 1;
    OK(roletalk_unit_is_open(unit, &open));
    CHECK(open == 0);
    wait_count(&unit_closed, 1);
    roletalk_send_options to_unit;
    memset(&to_unit, 0, sizeof to_unit);
    to_unit.struct_size = sizeof to_unit;
    to_unit.unit = unit;
    EXPECT(ROLETALK_STATUS_CONNECTION_LOST,
           roletalk_destination_send(p.to, ROLETALK_STR("x"), roletalk_data_null(), &to_unit));
    OK(roletalk_unit_free(unit));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_unit_free(unit));
    close_pair(&p);
    CHECK(counted(&drops) == 2);
    counter_destroy(&drops), counter_destroy(&seen);
    counter_destroy(&opened), counter_destroy(&unit_closed);
}

/* Keys, roles, dialing. */

static void connected(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_OK && reply->unit.id != 0);
    count((counter *)user_data);
}

static void connect_failed(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_CONNECT_FAILED && reply->unit.id == 0 &&
          reply->error.len > 0);
    count((counter *)user_data);
}

static void keys_and_dialing(void) {
    roletalk_peer server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    roletalk_peer client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_add_key(server, ROLETALK_STR("k"), ROLETALK_STR("secret")));
    roletalk_listener listener;
    OK(roletalk_peer_listen(server, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    roletalk_string address = roletalk_string_of(url, len);
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    EXPECT(ROLETALK_STATUS_AUTH_REFUSED, roletalk_peer_connect(client, address, &once, NULL));
    OK(roletalk_peer_add_key(client, ROLETALK_STR("k"), ROLETALK_STR("secret")));
    roletalk_unit unit;
    OK(roletalk_peer_connect(client, address, &once, &unit));
    OK(roletalk_unit_free(unit));
    OK(roletalk_peer_remove_key(client, ROLETALK_STR("k")));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_remove_key(client, ROLETALK_STR("k")));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_disconnect(client, ROLETALK_STR("ws://127.0.0.1:1")));

    counter calls;
    counter_init(&calls);
    OK(roletalk_peer_add_key(client, ROLETALK_STR("k"), ROLETALK_STR("secret")));
    roletalk_operation operation;
    OK(roletalk_peer_connect_async(client, address, NULL,
                                   handler_roletalk_reply_handler(connected, &calls, count_drop),
                                   &operation));
    wait_count(&calls, 2);
    OK(roletalk_operation_free(operation));
    OK(roletalk_peer_disconnect(client, address));
    OK(roletalk_listener_close(listener));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_listener_close(listener));
    OK(roletalk_peer_connect_async(
        client, ROLETALK_STR("ws://127.0.0.1:1"), &once,
        handler_roletalk_reply_handler(connect_failed, &calls, count_drop), NULL));
    wait_count(&calls, 4);
    counter_destroy(&calls);

    roletalk_role role, same;
    int32_t active = 1;
    OK(roletalk_peer_role(server, ROLETALK_STR("a"), 0, &role));
    OK(roletalk_peer_role(server, ROLETALK_STR("a"), 0, &same));
    CHECK(role.id == same.id);
    OK(roletalk_role_is_active(role, &active));
    CHECK(active == 0);
    OK(roletalk_role_enable(role));
    OK(roletalk_role_is_active(role, &active));
    CHECK(active == 1);
    OK(roletalk_role_disable(role));
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(server));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_role_enable(role));
}

/* A program with a loop of its own: nothing runs but in roletalk_peer_poll. */

static pthread_t polling;

static void on_polled_echo(void *user_data, const roletalk_incoming *in) {
    CHECK(pthread_equal(polling, pthread_self()));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_poll(*(roletalk_peer *)user_data, 0, NULL));
    OK(roletalk_context_respond(in->context, in->data));
}

static void on_polled_reply(void *user_data, const roletalk_reply *reply) {
    CHECK(pthread_equal(polling, pthread_self()) && reply->status != ROLETALK_STATUS_OK);
    count((counter *)user_data);
}

static void polled(void) {
    polling = pthread_self();
    roletalk_peer peer = new_peer("polled", ROLETALK_CALLBACKS_POLL), other = new_peer("other", 0);
    roletalk_role role;
    roletalk_destination to, back;
    roletalk_listener listener;
    char url[128];
    size_t len, done;
    counter replies;
    counter_init(&replies);
    OK(roletalk_peer_role(peer, ROLETALK_STR("p"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("echo"),
                            HANDLER(roletalk_incoming_handler, on_polled_echo, &peer)));
    OK(roletalk_peer_listen(peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    OK(roletalk_peer_role(other, ROLETALK_STR("o"), 1, &role));
    OK(roletalk_peer_connect(other, roletalk_string_of(url, len), NULL, NULL));
    OK(roletalk_peer_destination(other, ROLETALK_STR("p"), &to));
    OK(roletalk_destination_ready(to, -1));
    OK(roletalk_peer_destination(peer, ROLETALK_STR("o"), &back));
    OK(roletalk_destination_ready(back, -1));

    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_poll(other, 0, NULL));
    int fd;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_fd(other, &fd));
    OK(roletalk_peer_fd(peer, &fd));
    OK(roletalk_peer_poll(peer, 0, &done));
    CHECK(done == 0);
    roletalk_survey survey;
    OK(roletalk_destination_survey(to, ROLETALK_STR("echo"), txt("x"), NULL, &survey));
    roletalk_answer answer;
    EXPECT(ROLETALK_STATUS_WOULD_BLOCK, roletalk_survey_next(survey, 0, &answer));
    struct pollfd wait;
    wait.fd = fd, wait.events = POLLIN, wait.revents = 0;
    CHECK(poll(&wait, 1, LIMIT_S * 1000) == 1);
    OK(roletalk_peer_poll(peer, 0, &done));
    CHECK(done == 1);
    CHECK(poll(&wait, 1, 0) == 0);
    OK(roletalk_survey_next(survey, LIMIT_S * 1000, &answer));
    OK(roletalk_answer_free(answer));
    OK(roletalk_survey_close(survey));
    /* What is under way when the peer closes is called back then, on the closing thread. */
    OK(roletalk_destination_request_async(
        back, ROLETALK_STR("x"), roletalk_data_null(), NULL,
        HANDLER(roletalk_reply_handler, on_polled_reply, &replies), NULL));
    OK(roletalk_peer_close(peer));
    CHECK(counted(&replies) == 1);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_poll(peer, 0, NULL));
    OK(roletalk_peer_close(other));
    counter_destroy(&replies);
}

/* Peers that are closed where it is least convenient. */

static counter closings;

static void close_here(void *user_data, const roletalk_incoming *in) {
    (void)in;
    OK(roletalk_peer_close(*(roletalk_peer *)user_data));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_close(*(roletalk_peer *)user_data));
    count(&closings);
}

static void count_end(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status != ROLETALK_STATUS_OK);
    count((counter *)user_data);
}

static void *close_it(void *peer) {
    roletalk_status status = roletalk_peer_close(*(roletalk_peer *)peer);
    CHECK(status == ROLETALK_STATUS_OK || status == ROLETALK_STATUS_INVALID_HANDLE);
    if (status == ROLETALK_STATUS_OK) count(&closings);
    return NULL;
}

static void ends(int32_t callbacks) {
    counter_init(&closings);
    counter ended, drops;
    counter_init(&ended), counter_init(&drops);
    pair p = connect_pair(callbacks);
    OK(roletalk_role_handle(p.role, ROLETALK_KIND_REQUEST, ROLETALK_STR("close"),
                            handler_roletalk_incoming_handler(close_here, &p.server, NULL)));
    OK(roletalk_role_handle(p.role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("x"),
                            handler_roletalk_incoming_handler(close_here, &drops, count_drop)));
    OK(roletalk_role_handle(p.role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("x"),
                            handler_roletalk_incoming_handler(close_here, &drops, count_drop)));
    wait_count(&drops, 1);
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("close"), roletalk_data_null(), NULL,
                                          handler_roletalk_reply_handler(count_end, &ended, NULL),
                                          NULL));
    wait_count(&closings, 1);
    wait_count(&ended, 1);
    wait_count(&drops, 2);
    OK(roletalk_peer_close(p.client));

    /* Many close at the same time: one does. */
    p = connect_pair(callbacks);
    roletalk_destination self;
    OK(roletalk_peer_destination(p.server, ROLETALK_STR("none"), &self));
    EXPECT(ROLETALK_STATUS_TIMEOUT, roletalk_destination_ready(self, 1));
    EXPECT(ROLETALK_STATUS_WOULD_BLOCK, roletalk_destination_ready(self, 0));
    counter_destroy(&closings);
    counter_init(&closings);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, close_it, &p.client) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(counted(&closings) == 1);
    int32_t finished = 0;
    OK(roletalk_peer_drain(p.server, LIMIT_S * 1000, &finished));
    CHECK(finished == 1);
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_drain(p.server, 0, NULL));
    counter_destroy(&ended), counter_destroy(&drops), counter_destroy(&closings);
}

/* Diagnostics. */

static counter logged;

static void on_log(void *user_data, const roletalk_log_record *record) {
    (void)user_data;
    CHECK(record->struct_size == sizeof *record && record->level >= ROLETALK_LOG_ERROR);
    CHECK(record->level <= ROLETALK_LOG_DEBUG && record->target.len > 0 && record->text.len > 0);
    count(&logged);
}

static void logging(void) {
    counter log_drops;
    counter_init(&logged), counter_init(&log_drops);
    roletalk_log_handler handler = handler_roletalk_log_handler(on_log, &log_drops, count_drop);
    OK(roletalk_log(ROLETALK_LOG_DEBUG, handler));
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    wait_count(&logged, 1);
    OK(roletalk_log(ROLETALK_LOG_ERROR, handler));
    CHECK(counted(&log_drops) == 1);
    close_pair(&p);
    OK(roletalk_log(ROLETALK_LOG_OFF, handler_roletalk_log_handler(NULL, NULL, NULL)));
    CHECK(counted(&log_drops) == 2);
    counter_destroy(&logged), counter_destroy(&log_drops);
}

/* The child of a fork. */

static void forked(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT(ROLETALK_STATUS_FORKED, roletalk_peer_close(p.server));
        EXPECT(ROLETALK_STATUS_FORKED,
               roletalk_destination_send(p.to, ROLETALK_STR("x"), roletalk_data_null(), NULL));
        EXPECT(ROLETALK_STATUS_FORKED, roletalk_destination_ready(p.to, -1));
        pair own = connect_pair(ROLETALK_CALLBACKS_THREAD);
        EXPECT(ROLETALK_STATUS_FORKED, roletalk_peer_close(p.server));
        EXPECT(ROLETALK_STATUS_FORKED,
               roletalk_destination_send(p.to, ROLETALK_STR("x"), roletalk_data_null(), NULL));
        OK(roletalk_destination_send(own.to, ROLETALK_STR("x"), roletalk_data_null(), NULL));
        close_pair(&own);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(roletalk_destination_send(p.to, ROLETALK_STR("x"), roletalk_data_null(), NULL));
    close_pair(&p);
}

int main(int argc, char **argv) {
    (void)argv;
    streams(ROLETALK_CALLBACKS_THREAD);
    streams(ROLETALK_CALLBACKS_INLINE);
    events();
    keys_and_dialing();
    polled();
    ends(ROLETALK_CALLBACKS_THREAD);
    ends(ROLETALK_CALLBACKS_INLINE);
    logging();
    /* Sanitizers do not like a fork of a process with threads: any argument leaves it out. */
    if (argc == 1) forked();
    CHECK(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
    puts("lifecycle: ok");
    return 0;
}
