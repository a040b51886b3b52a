/* The C side of the comparison with Rust: compare.py starts this program as server and as client, and
 * tells the client by lines on its input what to do.
 *
 *   bench server STYLE            prints its address, serves until its input ends
 *   bench client STYLE ADDRESS    reads lines, answers each with `COUNT NANOSECONDS P50 P99`:
 *     requests SIZE WINDOW MICROSECONDS
 *     messages SIZE MICROSECONDS
 *     stream BYTES
 *
 * Each style is a way to write a program:
 *   inline    everything is done in callbacks on the library's thread, and nothing waits
 *   blocking  a thread of the program's own makes blocking calls; callbacks as above
 *   thread    the same, with callbacks on the library's dispatch thread
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

/* Whether this program does nothing but in callbacks. */
static int calls_back;

static rt_peer new_peer(const char *name, const char *style) {
    calls_back = !strcmp(style, "inline");
    rt_peer_options options = {.struct_size = sizeof options};
    options.name = rt_string_of(name, strlen(name));
    options.callbacks = strcmp(style, "thread") ? RT_CALLBACKS_INLINE : RT_CALLBACKS_THREAD;
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

/* Or none, where nothing waits. */
static void can_read(void *user_data) {
    rt_readable *stream = user_data;
    static char buffer[4 * PIECE];
    size_t len;
    int32_t status;
    while ((status = rt_readable_read(*stream, buffer, sizeof buffer, 0, &len)) == RT_OK &&
           len > 0) {
    }
    if (status == RT_WOULD_BLOCK) {
        rt_ready_handler handler = {.call = can_read, .user_data = stream};
        MUST(rt_readable_on_ready(*stream, handler));
        return;
    }
    rt_readable_close(*stream);
    free(stream);
}

static void on_upload(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_readable *stream = malloc(sizeof *stream);
    MUST(rt_context_accept_readable(in->context, rt_null(), stream));
    if (calls_back) {
        can_read(stream);
        return;
    }
    pthread_t thread;
    pthread_create(&thread, NULL, drain, stream);
    pthread_detach(thread);
}

static void handle(rt_role role, int32_t kind, rt_string event,
                   void (*call)(void *, const rt_incoming *)) {
    rt_incoming_handler handler = {.call = call};
    MUST(rt_role_handle(role, kind, event, handler));
}

static int serve(const char *style) {
    rt_peer peer = new_peer("server", style);
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

/* What the callbacks of a measurement share with the thread that waits for its end. */
typedef struct {
    rt_destination bench;
    rt_data data;
    uint64_t start;
    uint64_t until;
    uint64_t count;
    rt_writable stream;
    /* For one request in flight. */
    uint64_t *times, last;
    size_t room;
    int open;
    pthread_mutex_t mutex;
    pthread_cond_t done;
} work;

static work begin(rt_destination bench, size_t size, uint64_t time, int open) {
    char *bytes = malloc(size);
    memset(bytes, 1, size);
    work w = {.bench = bench, .data = rt_binary(bytes, size), .open = open};
    pthread_mutex_init(&w.mutex, NULL);
    pthread_cond_init(&w.done, NULL);
    w.start = w.last = now();
    w.until = w.start + time;
    return w;
}

static void one_less(work *w) {
    pthread_mutex_lock(&w->mutex);
    w->open--;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->mutex);
}

static void wait_for_all(work *w) {
    pthread_mutex_lock(&w->mutex);
    while (w->open > 0) pthread_cond_wait(&w->done, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

static void report(const work *w, uint64_t p50, uint64_t p99) {
    printf("%llu %llu %llu %llu\n", (unsigned long long)w->count,
           (unsigned long long)(now() - w->start), (unsigned long long)p50,
           (unsigned long long)p99);
}

static void ask(work *w, void (*on_answer)(void *, const rt_reply *)) {
    rt_reply_handler handler = {.call = on_answer, .user_data = w};
    MUST(rt_destination_request_async(w->bench, RT_STR("echo"), w->data, NULL, handler, NULL));
}

static void check_answer(const work *w, const rt_reply *reply) {
    must(reply->status, "answer");
    if (reply->data.len != w->data.len) exit(1);
}

static void on_answer(void *user_data, const rt_reply *reply) {
    work *w = user_data;
    check_answer(w, reply);
    w->count++;
    /* As often as the Rust side looks at its flag, which a timer sets: the clock is not free. */
    if (w->until == 0 || (!(w->count & 15) && now() >= w->until)) {
        w->until = 0;
        one_less(w);
        return;
    }
    ask(w, on_answer);
}

static int by_time(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void note_time(work *w) {
    if (w->count == w->room) {
        w->room = w->room ? 2 * w->room : 1 << 16;
        w->times = realloc(w->times, w->room * sizeof *w->times);
    }
    uint64_t is = now();
    w->times[w->count++] = is - w->last;
    w->last = is;
}

static void on_single_answer(void *user_data, const rt_reply *reply) {
    work *w = user_data;
    check_answer(w, reply);
    note_time(w);
    if (w->last < w->until)
        ask(w, on_single_answer);
    else
        one_less(w);
}

static void latencies(work *w) {
    if (calls_back) {
        ask(w, on_single_answer);
        wait_for_all(w);
    }
    while (w->last < w->until) {
        rt_answer answer;
        MUST(rt_destination_request(w->bench, RT_STR("echo"), w->data, NULL, &answer));
        MUST(rt_answer_free(answer));
        note_time(w);
    }
    qsort(w->times, w->count, sizeof *w->times, by_time);
    report(w, w->times[w->count / 2], w->times[w->count * 99 / 100]);
    free(w->times);
}

static void requests(rt_destination bench, size_t size, int in_flight, uint64_t time) {
    work w = begin(bench, size, time, in_flight);
    if (in_flight == 1) {
        latencies(&w);
    } else {
        for (int i = 0; i < in_flight; i++) ask(&w, on_answer);
        wait_for_all(&w);
        report(&w, 0, 0);
    }
    free((void *)w.data.bytes);
}

/* Sends as long as there is room. */
static void can_send(void *user_data) {
    work *w = user_data;
    static const rt_send_options at_once = {.struct_size = sizeof at_once, .timeout_ms = -1};
    while (w->count % BATCH || now() < w->until) {
        int32_t status = rt_destination_send(w->bench, RT_STR("count"), w->data, &at_once);
        if (status == RT_OVERLOADED) {
            rt_ready_handler handler = {.call = can_send, .user_data = w};
            MUST(rt_destination_on_room(w->bench, NULL, handler));
            return;
        }
        must(status, "rt_destination_send");
        w->count++;
    }
    one_less(w);
}

static void messages(rt_destination bench, size_t size, uint64_t time) {
    work w = begin(bench, size, time, 1);
    if (calls_back) {
        rt_ready_handler handler = {.call = can_send, .user_data = &w};
        MUST(rt_destination_on_room(bench, NULL, handler));
        wait_for_all(&w);
    }
    while (now() < w.until) {
        for (int i = 0; i < BATCH; i++)
            MUST(rt_destination_send(bench, RT_STR("count"), w.data, NULL));
        w.count += BATCH;
    }
    rt_answer answer;
    MUST(rt_destination_request(bench, RT_STR("end"), rt_null(), NULL, &answer));
    rt_reply reply = {.struct_size = sizeof reply};
    MUST(rt_answer_view(answer, &reply));
    uint64_t arrived;
    MUST(rt_data_as_uint64(reply.data, &arrived));
    MUST(rt_answer_free(answer));
    if (arrived != w.count) {
        fprintf(stderr, "%llu were sent, %llu arrived\n", (unsigned long long)w.count,
                (unsigned long long)arrived);
        exit(1);
    }
    report(&w, 0, 0);
    free((void *)w.data.bytes);
}

static char piece[PIECE];

/* Writes as long as there is room; `until` is the number of bytes here. */
static void can_write(void *user_data) {
    work *w = user_data;
    int32_t status = RT_OK;
    while (status == RT_OK && w->count < w->until) {
        size_t at = w->count % PIECE, written = 0;
        status = rt_writable_write(w->stream, piece + at, PIECE - at, 0, &written);
        w->count += written;
    }
    if (status == RT_OK) status = rt_writable_finish(w->stream, 0);
    if (status == RT_WOULD_BLOCK) {
        rt_ready_handler handler = {.call = can_write, .user_data = w};
        MUST(rt_writable_on_ready(w->stream, handler));
        return;
    }
    must(status, "writing");
    one_less(w);
}

static void stream(rt_destination bench, uint64_t bytes) {
    work w = begin(bench, 0, 0, 1);
    MUST(rt_destination_writable(bench, RT_STR("upload"), rt_null(), NULL, &w.stream, NULL));
    w.until = bytes;
    if (calls_back) {
        rt_ready_handler handler = {.call = can_write, .user_data = &w};
        MUST(rt_writable_on_ready(w.stream, handler));
        wait_for_all(&w);
    } else {
        for (; w.count < bytes; w.count += PIECE)
            MUST(rt_writable_write(w.stream, piece, PIECE, -1, NULL));
        MUST(rt_writable_finish(w.stream, -1));
    }
    MUST(rt_writable_close(w.stream));
    report(&w, 0, 0);
    free((void *)w.data.bytes);
}

static int obey(const char *style, const char *address) {
    rt_peer peer = new_peer("client", style);
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
    fprintf(stderr, "bench server STYLE | bench client STYLE ADDRESS\n");
    return 2;
}
