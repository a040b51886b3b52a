/* What a careless or hostile program does: waiting and closing where that cannot be, racing with the end
   of a peer, giving away what it does not have. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void never_called(void *user_data, const roletalk_incoming *in) {
    (void)user_data, (void)in;
    FAIL("called");
}

/* Everything that would wait, on the thread that it would wait for: an error before anything is done. */

static counter tried;
static roletalk_peer other;

static void wait_inline(void *user_data, const roletalk_incoming *in) {
    pair *p = (pair *)user_data;
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    roletalk_readable readable;
    roletalk_writable writable;
    roletalk_destination back, nobody;
    OK(roletalk_peer_destination(p->server, ROLETALK_STR("back"), &back));
    OK(roletalk_peer_destination(p->server, ROLETALK_STR("nobody"), &nobody));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_peer_connect(p->server, ROLETALK_STR("ws://127.0.0.1:1"), &once, NULL));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_disconnect(p->server, ROLETALK_STR("ws://127.0.0.1:1")));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK, roletalk_destination_ready(nobody, -1));
    EXPECT(ROLETALK_STATUS_WOULD_BLOCK, roletalk_destination_ready(nobody, 0));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_destination_request(back, ROLETALK_STR("x"), roletalk_data_null(), NULL, NULL));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_destination_readable(back, ROLETALK_STR("x"), roletalk_data_null(), NULL,
                                         &readable, NULL));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_destination_writable(back, ROLETALK_STR("x"), roletalk_data_null(), NULL,
                                         &writable, NULL));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK, roletalk_peer_poll(other, 1, NULL));
    OK(roletalk_peer_poll(other, 0, NULL));
    /* Making a peer in vain does not wait either. */
    roletalk_pair key;
    key.key = key.value = ROLETALK_STR("");
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.keys = &key, options.key_count = 1;
    roletalk_peer peer;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_new(&options, &peer));
    OK(roletalk_context_respond(in->context, roletalk_data_null()));
    count(&tried);
}

static void write_inline(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    static const char bytes[100] = {0};
    roletalk_writable stream;
    size_t written = 0;
    OK(roletalk_context_accept_writable(in->context, roletalk_data_null(), &stream));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_writable_write(stream, bytes, sizeof bytes, -1, &written));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_writable_write(stream, bytes, sizeof bytes, 10, &written));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK, roletalk_writable_finish(stream, -1));
    CHECK(written == 0);
    OK(roletalk_writable_write(stream, bytes, sizeof bytes, 0, &written));
    CHECK(written == sizeof bytes);
    EXPECT(ROLETALK_STATUS_WOULD_BLOCK, roletalk_writable_finish(stream, 0));
    OK(roletalk_writable_close(stream));
    count(&tried);
}

static void waiting_inline(void) {
    counter_init(&tried);
    other = new_peer("other", ROLETALK_CALLBACKS_POLL);
    pair p = connect_pair(ROLETALK_CALLBACKS_INLINE);
    roletalk_role back;
    OK(roletalk_peer_role(p.client, ROLETALK_STR("back"), 1, &back));
    const int32_t kinds[] = {ROLETALK_KIND_REQUEST, ROLETALK_KIND_READABLE, ROLETALK_KIND_WRITABLE};
    for (int i = 0; i < 3; i++)
        OK(roletalk_role_handle(back, kinds[i], ROLETALK_STR("x"),
                                HANDLER(roletalk_incoming_handler, never_called, NULL)));
    roletalk_destination to_back;
    OK(roletalk_peer_destination(p.server, ROLETALK_STR("back"), &to_back));
    OK(roletalk_destination_ready(to_back, LIMIT_S * 1000));
    handle(&p, ROLETALK_KIND_REQUEST, "wait", wait_inline, &p);
    handle(&p, ROLETALK_KIND_WRITABLE, "write", write_inline, &p);
    OK(roletalk_destination_request(p.to, ROLETALK_STR("wait"), roletalk_data_null(), NULL, NULL));
    roletalk_readable stream;
    OK(roletalk_destination_readable(p.to, ROLETALK_STR("write"), roletalk_data_null(), NULL,
                                     &stream, NULL));
    wait_count(&tried, 2);
    OK(roletalk_readable_close(stream));
    close_pair(&p);
    OK(roletalk_peer_close(other));
    counter_destroy(&tried);
}

/* A callback that the callback of another peer runs must not wait for that one's thread either. */

static pair polled_pair;

static void nested(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status != ROLETALK_STATUS_OK);
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_destination_ready(*(roletalk_destination *)user_data, -1));
    count(&tried);
}

static void poll_inside(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_peer_poll(other, 0, NULL));
    OK(roletalk_context_respond(in->context, roletalk_data_null()));
}

static void nesting(void) {
    counter_init(&tried);
    other = new_peer("other", ROLETALK_CALLBACKS_POLL);
    polled_pair = connect_pair(ROLETALK_CALLBACKS_INLINE);
    roletalk_destination nobody;
    OK(roletalk_peer_destination(polled_pair.server, ROLETALK_STR("nobody"), &nobody));
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    OK(roletalk_peer_connect_async(other, ROLETALK_STR("ws://127.0.0.1:1"), &once,
                                   HANDLER(roletalk_reply_handler, nested, &nobody), NULL));
    handle(&polled_pair, ROLETALK_KIND_REQUEST, "poll", poll_inside, NULL);
    while (counted(&tried) == 0)
        OK(roletalk_destination_request(polled_pair.to, ROLETALK_STR("poll"), roletalk_data_null(),
                                        NULL, NULL));
    close_pair(&polled_pair);
    OK(roletalk_peer_close(other));
    counter_destroy(&tried);
}

/* drop comes with the end of the peer, whatever the program still holds. */

static roletalk_context kept;

static void keep(void *user_data, const roletalk_incoming *in) {
    OK(roletalk_context_defer(in->context, &kept));
    (void)user_data;
    count(&tried);
}

static void drops_at_the_end(int32_t callbacks) {
    counter drops;
    counter_init(&drops), counter_init(&tried);
    pair p = connect_pair(callbacks);
    OK(roletalk_role_handle(p.role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("keep"),
                            handler_roletalk_incoming_handler(keep, &drops, count_drop)));
    OK(roletalk_role_handle(p.role, ROLETALK_KIND_READABLE, ROLETALK_STR("keep"),
                            handler_roletalk_incoming_handler(keep, &drops, count_drop)));
    OK(roletalk_destination_send(p.to, ROLETALK_STR("keep"), roletalk_data_null(), NULL));
    wait_count(&tried, 1);
    roletalk_context message = kept;
    roletalk_unit unit;
    OK(roletalk_context_unit(message, &unit));
    CHECK(counted(&drops) == 0);
    OK(roletalk_peer_close(p.server));
    CHECK(counted(&drops) == 2);
    OK(roletalk_context_respond(message, roletalk_data_null()));
    OK(roletalk_unit_free(unit));
    OK(roletalk_peer_close(p.client));
    CHECK(counted(&drops) == 2);
    counter_destroy(&drops), counter_destroy(&tried);
}

/* A stream outlives its peer: who waits for it hears of the end, who asks later is dropped at once. */

static roletalk_readable accepted;

static void never_ready(void *user_data) {
    (void)user_data;
    FAIL("called");
}

static void see_end(void *user_data) {
    char byte;
    size_t len;
    CHECK(roletalk_readable_read(accepted, &byte, 1, 0, &len) == ROLETALK_STATUS_STREAM_CLOSED ||
          roletalk_readable_read(accepted, &byte, 1, 0, &len) == ROLETALK_STATUS_CONNECTION_LOST);
    count((counter *)user_data);
}

static void accept_one(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_accept_readable(in->context, roletalk_data_null(), &accepted));
    count(&tried);
}

static void streams_after_the_end(void) {
    counter drops;
    counter_init(&drops), counter_init(&tried);
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_READABLE, "take", accept_one, NULL);
    roletalk_writable stream;
    OK(roletalk_destination_writable(p.to, ROLETALK_STR("take"), roletalk_data_null(), NULL,
                                     &stream, NULL));
    wait_count(&tried, 1);
    OK(roletalk_readable_on_ready(accepted,
                                  handler_roletalk_ready_handler(see_end, &drops, count_drop)));
    OK(roletalk_peer_drain(p.server, 0, NULL));
    CHECK(counted(&drops) == 2);
    OK(roletalk_readable_on_ready(accepted,
                                  handler_roletalk_ready_handler(never_ready, &drops, count_drop)));
    CHECK(counted(&drops) == 3);
    OK(roletalk_readable_close(accepted));
    OK(roletalk_writable_close(stream));
    OK(roletalk_peer_close(p.client));
    CHECK(counted(&drops) == 3);
    counter_destroy(&drops), counter_destroy(&tried);
}

/* Canceling inside the callback of the operation itself is too late. */

static roletalk_operation own;
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

static void cancel_itself(void *user_data, const roletalk_reply *reply) {
    OK(reply->status);
    /* Until the handle is there. */
    pthread_mutex_lock(&starting);
    EXPECT(ROLETALK_STATUS_END, roletalk_operation_cancel(own));
    OK(roletalk_operation_free(own));
    pthread_mutex_unlock(&starting);
    count((counter *)user_data);
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, in->data));
}

static void connect_canceled(void *user_data, const roletalk_reply *reply) {
    CHECK(reply->status == ROLETALK_STATUS_CANCELED && reply->unit.id == 0);
    count((counter *)user_data);
}

static void *connect_for_ever(void *argument) {
    pair *p = (pair *)argument;
    char url[64];
    snprintf(url, sizeof url, "ws://127.0.0.1:%d", (int)p->role.id);
    EXPECT(ROLETALK_STATUS_CLOSED, roletalk_peer_connect(p->client, str(url), NULL, NULL));
    return NULL;
}

/* A port that accepts and says nothing. */
static int silent_port(int *port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof address;
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, 8) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void canceling(int32_t callbacks) {
    counter calls;
    counter_init(&calls);
    pair p = connect_pair(callbacks);
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    pthread_mutex_lock(&starting);
    OK(roletalk_destination_request_async(
        p.to, ROLETALK_STR("echo"), roletalk_data_null(), NULL,
        handler_roletalk_reply_handler(cancel_itself, &calls, count_drop), &own));
    pthread_mutex_unlock(&starting);
    wait_count(&calls, 2);

    int port, silent = silent_port(&port);
    char url[64];
    snprintf(url, sizeof url, "ws://127.0.0.1:%d", port);
    roletalk_operation operation;
    OK(roletalk_peer_connect_async(
        p.client, str(url), NULL,
        handler_roletalk_reply_handler(connect_canceled, &calls, count_drop), &operation));
    OK(roletalk_operation_cancel(operation));
    wait_count(&calls, 4);
    EXPECT(ROLETALK_STATUS_END, roletalk_operation_cancel(operation));
    OK(roletalk_operation_free(operation));
    /* It is dialed on. */
    int dialed = accept(silent, NULL, NULL);
    CHECK(dialed >= 0);
    OK(roletalk_peer_disconnect(p.client, str(url)));
    close(dialed);

    /* Closing the peer ends a blocking call on another thread. */
    pthread_t thread;
    p.role.id = (uint64_t)port;
    CHECK(pthread_create(&thread, NULL, connect_for_ever, &p) == 0);
    dialed = accept(silent, NULL, NULL);
    CHECK(dialed >= 0);
    OK(roletalk_peer_close(p.client));
    CHECK(pthread_join(thread, NULL) == 0);
    OK(roletalk_peer_close(p.server));
    close(dialed), close(silent);
    counter_destroy(&calls);
}

/* Descriptors that are no connection stay the program's. */

static void foreign_descriptors(void) {
    roletalk_peer peer = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    int port, pipes[2], listening = silent_port(&port), datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(pipe(pipes) == 0 && datagrams >= 0);
    const int wrong[] = {pipes[0], pipes[1], listening, datagrams};
    for (int i = 0; i < 4; i++) {
        EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_accept_fd(peer, wrong[i], 0));
        CHECK(fcntl(wrong[i], F_GETFD) >= 0);
        close(wrong[i]);
        EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_accept_fd(peer, wrong[i], 0));
    }
    OK(roletalk_peer_close(peer));
}

/* A server of the program's own accepts, the library serves. */

static void connected(void *user_data, const roletalk_reply *reply) {
    OK(reply->status);
    CHECK(reply->unit.id != 0);
    count((counter *)user_data);
}

static void own_server(void) {
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    counter calls;
    counter_init(&calls);
    int port, listening = silent_port(&port);
    char url[64];
    snprintf(url, sizeof url, "ws://127.0.0.1:%d", port);
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    roletalk_operation operation;
    roletalk_reply_handler handler;
    memset(&handler, 0, sizeof handler);
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_connect_async(p.client, str(url), NULL, handler, &operation));
    handler = handler_roletalk_reply_handler(connected, &calls, count_drop);
    OK(roletalk_peer_connect_async(p.client, str(url), NULL, handler, NULL));
    int fd = accept(listening, NULL, NULL);
    CHECK(fd >= 0);
    OK(roletalk_peer_accept_fd(p.server, fd, 0));
    wait_count(&calls, 2);
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), roletalk_data_null(), NULL, NULL));
    close_pair(&p);
    close(listening);
    counter_destroy(&calls);
}

/* Times as long as can be said are not too long. */

static void longest_times(void) {
    roletalk_limits limits;
    memset(&limits, 0, sizeof limits);
    limits.struct_size = sizeof limits;
    limits.handshake_timeout_ms = limits.request_timeout_ms = UINT64_MAX;
    limits.acquaintance_patience_ms = UINT64_MAX;
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.limits = &limits;
    options.reconnect_cap_ms = UINT64_MAX;
    pair p;
    OK(roletalk_peer_new(&options, &p.server));
    OK(roletalk_peer_new(&options, &p.client));
    roletalk_connect_options patient;
    memset(&patient, 0, sizeof patient);
    patient.struct_size = sizeof patient;
    patient.timeout_ms = UINT64_MAX;
    roletalk_listener listener;
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    OK(roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    OK(roletalk_peer_connect(p.client, roletalk_string_of(url, len), &patient, NULL));
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    OK(roletalk_destination_ready(p.to, INT64_MAX));
    roletalk_send_options forever;
    memset(&forever, 0, sizeof forever);
    forever.struct_size = sizeof forever;
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), roletalk_data_null(), &forever,
                                    NULL));
    forever.timeout_ms = INT64_MAX;
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), roletalk_data_null(), &forever,
                                    NULL));
    OK(roletalk_destination_send(p.to, ROLETALK_STR("none"), roletalk_data_null(), &forever));
    int32_t finished;
    OK(roletalk_peer_drain(p.server, UINT64_MAX, &finished));
    CHECK(finished == 1);
    OK(roletalk_peer_close(p.client));
}

/* A thread that ends still may call: its last error is gone, nothing else. */

static void at_thread_end(void *key) {
    (void)key;
    roletalk_peer none = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_close(none));
    CHECK(roletalk_last_error().len == 0);
    count(&tried);
}

static void *end_thread(void *key) {
    CHECK(pthread_setspecific(*(pthread_key_t *)key, key) == 0);
    /* Something that the library keeps for this thread, and destroys before it calls the above. */
    roletalk_peer none = {0};
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_close(none));
    CHECK(roletalk_last_error().len > 0);
    return NULL;
}

static void ending_threads(void) {
    counter_init(&tried);
    pthread_key_t key;
    pthread_t thread;
    CHECK(pthread_key_create(&key, at_thread_end) == 0);
    CHECK(pthread_create(&thread, NULL, end_thread, &key) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(counted(&tried) == 1);
    CHECK(pthread_key_delete(key) == 0);
    counter_destroy(&tried);
}

/* A unit that is killed while it is written to: an error, and no signal. */

static void killed_unit(const char *program) {
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    int to[2], from[2];
    CHECK(pipe(to) == 0 && pipe(from) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(to[0], 0), dup2(from[1], 1);
        execl(program, program, "serve", (char *)NULL);
        _exit(127);
    }
    close(to[0]), close(from[1]);
    char url[128];
    ssize_t len = read(from[0], url, sizeof url);
    CHECK(len > 0);
    roletalk_peer peer = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    roletalk_connect_options once;
    memset(&once, 0, sizeof once);
    once.struct_size = sizeof once;
    once.once = 1;
    OK(roletalk_peer_connect(peer, roletalk_string_of(url, (size_t)len), &once, NULL));
    roletalk_destination sink;
    OK(roletalk_peer_destination(peer, ROLETALK_STR("sink"), &sink));
    OK(roletalk_destination_ready(sink, LIMIT_S * 1000));
    static char bytes[64 << 10];
    roletalk_status status;
    int ended;
    for (int i = 0; (status = roletalk_destination_send(sink, ROLETALK_STR("x"),
                                                        roletalk_data_binary(bytes, sizeof bytes),
                                                        NULL)) == ROLETALK_STATUS_OK;
         i++)
        if (i == 100) CHECK(kill(child, SIGKILL) == 0);
    CHECK(status == ROLETALK_STATUS_CONNECTION_LOST || status == ROLETALK_STATUS_NO_UNIT);
    CHECK(waitpid(child, &ended, 0) == child && WIFSIGNALED(ended));
    OK(roletalk_peer_close(peer));
    close(to[1]), close(from[0]);
}

static int serve(void) {
    roletalk_peer peer = new_peer("sink", ROLETALK_CALLBACKS_THREAD);
    roletalk_role role;
    OK(roletalk_peer_role(peer, ROLETALK_STR("sink"), 1, &role));
    roletalk_listener listener;
    OK(roletalk_peer_listen(peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    CHECK(write(1, url, len) == (ssize_t)len);
    /* Until it is killed, or its parent ends. */
    CHECK(read(0, url, 1) == 0);
    OK(roletalk_peer_close(peer));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "serve")) return serve();
    canceling(ROLETALK_CALLBACKS_THREAD);
    canceling(ROLETALK_CALLBACKS_INLINE);
    foreign_descriptors();
    own_server();
    longest_times();
    ending_threads();
    killed_unit(argv[0]);
    waiting_inline();
    nesting();
    drops_at_the_end(ROLETALK_CALLBACKS_THREAD);
    drops_at_the_end(ROLETALK_CALLBACKS_INLINE);
    streams_after_the_end();
    puts("hostile: ok");
    return 0;
}
