/* The C side of the comparison with Rust: compare.py starts this program as server and as client, and
 * tells the client by lines on its input what to do.
 *
 *   bench server CALLBACKS            prints its address, serves until its input ends
 *   bench client CALLBACKS ADDRESS    reads lines, answers each with `COUNT NANOSECONDS P50 P99`:
 *     requests SIZE WINDOW MICROSECONDS
 *     messages SIZE MICROSECONDS
 *     stream BYTES
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "roletalk.h"

#define PIECE (64 << 10)
#define BATCH 1024

static void must(int32_t status, const char *what) {
    if (status == RT_OK) return;
    rt_string why = rt_last_error();
    fprintf(stderr, "%s: %.*s\n", what, RT_ARG(why));
    exit(1);
}
#define MUST(call) must((call), #call)

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static rt_peer new_peer(const char *name, const char *callbacks) {
    rt_peer_options options = {.struct_size = sizeof options};
    options.name = rt_string_of(name, strlen(name));
    options.callbacks = strcmp(callbacks, "inline") ? RT_CALLBACKS_THREAD : RT_CALLBACKS_INLINE;
    rt_peer peer;
    MUST(rt_peer_new(&options, &peer));
    return peer;
}

/* The server. */

static atomic_ullong counted;

static void on_echo(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_context_respond(in->context, in->data);
}

static void on_count(void *user_data, const rt_incoming *in) {
    (void)user_data, (void)in;
    atomic_fetch_add_explicit(&counted, 1, memory_order_relaxed);
}

static void on_end(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_number number;
    rt_number_from_uint64(atomic_exchange(&counted, 0), &number);
    rt_context_respond(in->context, rt_number_data(&number));
}

/* A thread for each stream, as a blocking program has it. */
static void *drain(void *argument) {
    rt_readable stream = *(rt_readable *)argument;
    free(argument);
    static char buffer[4 * PIECE];
    size_t len;
    while (rt_readable_read(stream, buffer, sizeof buffer, -1, &len) == RT_OK && len > 0) {
    }
    rt_readable_close(stream);
    return NULL;
}

static void on_upload(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_readable *stream = malloc(sizeof *stream);
    MUST(rt_context_accept_readable(in->context, rt_null(), stream));
    pthread_t thread;
    pthread_create(&thread, NULL, drain, stream);
    pthread_detach(thread);
}

static void handle(rt_role role, int32_t kind, rt_string event,
                   void (*call)(void *, const rt_incoming *)) {
    rt_incoming_handler handler = {.call = call};
    MUST(rt_role_handle(role, kind, event, handler));
}

static int serve(const char *callbacks) {
    rt_peer peer = new_peer("server", callbacks);
    rt_role role;
    MUST(rt_peer_role(peer, RT_STR("bench"), 1, &role));
    handle(role, RT_REQUEST, RT_STR("echo"), on_echo);
    handle(role, RT_MESSAGE, RT_STR("count"), on_count);
    handle(role, RT_REQUEST, RT_STR("end"), on_end);
    handle(role, RT_READABLE, RT_STR("upload"), on_upload);
    MUST(rt_role_enable(role));
    rt_listener listener;
    MUST(rt_peer_listen(peer, RT_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    MUST(rt_listener_url(listener, url, sizeof url, &len));
    printf("%.*s\n", (int)(len - strlen("ws://")), url + strlen("ws://"));
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}

/* The client. */

typedef struct {
    rt_destination bench;
    rt_data data;
    uint64_t until;
    uint64_t count;
    int open;
    pthread_mutex_t mutex;
    pthread_cond_t done;
} window;

static void ask(window *w);

static void on_answer(void *user_data, const rt_reply *reply) {
    window *w = user_data;
    must(reply->status, "answer");
    if (reply->data.len != w->data.len) exit(1);
    w->count++;
    /* As often as the Rust side looks at its flag, which a timer sets: the clock is not free. */
    if ((w->count & 15) || now() < w->until) {
        ask(w);
        return;
    }
    w->until = 0;
    pthread_mutex_lock(&w->mutex);
    w->open--;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->mutex);
}

static void ask(window *w) {
    if (w->until == 0) {
        pthread_mutex_lock(&w->mutex);
        w->open--;
        pthread_cond_signal(&w->done);
        pthread_mutex_unlock(&w->mutex);
        return;
    }
    rt_reply_handler handler = {.call = on_answer, .user_data = w};
    MUST(rt_destination_request_async(w->bench, RT_STR("echo"), w->data, NULL, handler, NULL));
}

static int by_time(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void latencies(rt_destination bench, rt_data data, uint64_t time) {
    size_t room = 1 << 16, count = 0;
    uint64_t *times = malloc(room * sizeof *times);
    uint64_t start = now(), last = start;
    while (last - start < time) {
        rt_answer answer;
        MUST(rt_destination_request(bench, RT_STR("echo"), data, NULL, &answer));
        MUST(rt_answer_free(answer));
        if (count == room) times = realloc(times, (room *= 2) * sizeof *times);
        uint64_t is = now();
        times[count++] = is - last;
        last = is;
    }
    qsort(times, count, sizeof *times, by_time);
    printf("%zu %llu %llu %llu\n", count, (unsigned long long)(now() - start),
           (unsigned long long)times[count / 2], (unsigned long long)times[count * 99 / 100]);
    free(times);
}

static void requests(rt_destination bench, size_t size, int in_flight, uint64_t time) {
    char *bytes = malloc(size);
    memset(bytes, 1, size);
    rt_data data = rt_binary(bytes, size);
    if (in_flight == 1) {
        latencies(bench, data, time);
        free(bytes);
        return;
    }
    window w = {.bench = bench, .data = data, .open = in_flight};
    pthread_mutex_init(&w.mutex, NULL);
    pthread_cond_init(&w.done, NULL);
    uint64_t start = now();
    w.until = start + time;
    rt_reply_handler handler = {.call = on_answer, .user_data = &w};
    for (int i = 0; i < in_flight; i++)
        MUST(rt_destination_request_async(bench, RT_STR("echo"), data, NULL, handler, NULL));
    pthread_mutex_lock(&w.mutex);
    while (w.open > 0) pthread_cond_wait(&w.done, &w.mutex);
    pthread_mutex_unlock(&w.mutex);
    printf("%llu %llu 0 0\n", (unsigned long long)w.count, (unsigned long long)(now() - start));
    free(bytes);
}

static void messages(rt_destination bench, size_t size, uint64_t time) {
    char *bytes = malloc(size);
    memset(bytes, 1, size);
    uint64_t start = now(), count = 0;
    while (now() - start < time) {
        for (int i = 0; i < BATCH; i++)
            MUST(rt_destination_send(bench, RT_STR("count"), rt_binary(bytes, size), NULL));
        count += BATCH;
    }
    rt_answer answer;
    MUST(rt_destination_request(bench, RT_STR("end"), rt_null(), NULL, &answer));
    rt_reply reply = {.struct_size = sizeof reply};
    MUST(rt_answer_view(answer, &reply));
    uint64_t arrived;
    MUST(rt_data_as_uint64(reply.data, &arrived));
    MUST(rt_answer_free(answer));
    if (arrived != count) {
        fprintf(stderr, "%llu were sent, %llu arrived\n", (unsigned long long)count,
                (unsigned long long)arrived);
        exit(1);
    }
    printf("%llu %llu 0 0\n", (unsigned long long)count, (unsigned long long)(now() - start));
    free(bytes);
}

static void stream(rt_destination bench, uint64_t bytes) {
    static char piece[PIECE];
    uint64_t start = now(), count = 0;
    rt_writable writable;
    MUST(rt_destination_writable(bench, RT_STR("upload"), rt_null(), NULL, &writable, NULL));
    for (; count < bytes; count += PIECE)
        MUST(rt_writable_write(writable, piece, PIECE, -1, NULL));
    MUST(rt_writable_finish(writable, -1));
    MUST(rt_writable_close(writable));
    printf("%llu %llu 0 0\n", (unsigned long long)count, (unsigned long long)(now() - start));
}

static int obey(const char *callbacks, const char *address) {
    rt_peer peer = new_peer("client", callbacks);
    char url[160], line[160];
    int len = snprintf(url, sizeof url, "ws://%s", address);
    MUST(rt_peer_connect(peer, rt_string_of(url, (size_t)len), NULL, NULL));
    rt_destination bench;
    MUST(rt_peer_destination(peer, RT_STR("bench"), &bench));
    MUST(rt_destination_ready(bench, -1));
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long a, b, c;
        if (sscanf(line, "requests %llu %llu %llu", &a, &b, &c) == 3)
            requests(bench, (size_t)a, (int)b, c * 1000);
        else if (sscanf(line, "messages %llu %llu", &a, &b) == 2)
            messages(bench, (size_t)a, b * 1000);
        else if (sscanf(line, "stream %llu", &a) == 1)
            stream(bench, a);
        else
            return 2;
        fflush(stdout);
    }
    MUST(rt_peer_close(peer));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "server")) return serve(argv[2]);
    if (argc == 4 && !strcmp(argv[1], "client")) return obey(argv[2], argv[3]);
    fprintf(stderr, "bench server CALLBACKS | bench client CALLBACKS ADDRESS\n");
    return 2;
}
