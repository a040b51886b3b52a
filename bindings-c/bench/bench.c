/* The C side of the comparison with Rust: compare.py starts this program as server and as client, and
 * tells the client by lines on its input what to do.
 *
 *   bench server STYLE            prints its address, serves until its input ends
 *   bench client STYLE ADDRESS    reads lines, answers each with `COUNT NANOSECONDS P50 P99`:
 *     requests SIZE WINDOW CONNECTIONS MICROSECONDS, of which CONNECTIONS is 1
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

static void must(roletalk_status status, const char *what) {
    if (status == ROLETALK_STATUS_OK) return;
    roletalk_string why = roletalk_last_error();
    fprintf(stderr, "%s: %.*s\n", what, ROLETALK_ARG(why));
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

static roletalk_peer new_peer(const char *name, const char *style) {
    calls_back = !strcmp(style, "inline");
    roletalk_peer_options options = {.struct_size = sizeof options};
    options.name = roletalk_string_of(name, strlen(name));
    options.callbacks =
        strcmp(style, "thread") ? ROLETALK_CALLBACKS_INLINE : ROLETALK_CALLBACKS_THREAD;
    roletalk_peer peer;
    MUST(roletalk_peer_new(&options, &peer));
    return peer;
}

/* The server. */

static atomic_ullong counted;

static void on_echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context_respond(in->context, in->data);
}

static void on_count(void *user_data, const roletalk_incoming *in) {
    (void)user_data, (void)in;
    atomic_fetch_add_explicit(&counted, 1, memory_order_relaxed);
}

static void on_end(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_number number;
    roletalk_number_from_uint64(atomic_exchange(&counted, 0), &number);
    roletalk_context_respond(in->context, roletalk_data_number(&number));
}

/* A thread for each stream, as a blocking program has it. */
static void *drain(void *argument) {
    roletalk_readable stream = *(roletalk_readable *)argument;
    free(argument);
    static char buffer[4 * PIECE];
    size_t len;
    while (roletalk_readable_read(stream, buffer, sizeof buffer, -1, &len) == ROLETALK_STATUS_OK &&
           len > 0) {
    }
    roletalk_readable_close(stream);
    return NULL;
}

/* Or none, where nothing waits. */
static void can_read(void *user_data) {
    roletalk_readable *stream = user_data;
    static char buffer[4 * PIECE];
    size_t len;
    roletalk_status status;
    while ((status = roletalk_readable_read(*stream, buffer, sizeof buffer, 0, &len)) ==
               ROLETALK_STATUS_OK &&
           len > 0) {
    }
    if (status == ROLETALK_STATUS_WOULD_BLOCK) {
        roletalk_ready_handler handler = {.call = can_read, .user_data = stream};
        MUST(roletalk_readable_on_ready(*stream, handler));
        return;
    }
    roletalk_readable_close(*stream);
    free(stream);
}

static void on_upload(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_readable *stream = malloc(sizeof *stream);
    MUST(roletalk_context_accept_readable(in->context, roletalk_data_null(), stream));
    if (calls_back) {
        can_read(stream);
        return;
    }
    pthread_t thread;
    pthread_create(&thread, NULL, drain, stream);
    pthread_detach(thread);
}

static void handle(roletalk_role role, int32_t kind, roletalk_string event,
                   void (*call)(void *, const roletalk_incoming *)) {
    roletalk_incoming_handler handler = {.call = call};
    MUST(roletalk_role_handle(role, kind, event, handler));
}

static int serve(const char *style) {
    roletalk_peer peer = new_peer("server", style);
    roletalk_role role;
    MUST(roletalk_peer_role(peer, ROLETALK_STR("bench"), 0, &role));
    handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("echo"), on_echo);
    handle(role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("count"), on_count);
    handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("end"), on_end);
    handle(role, ROLETALK_KIND_READABLE, ROLETALK_STR("upload"), on_upload);
    MUST(roletalk_role_enable(role));
    roletalk_listener listener;
    MUST(roletalk_peer_listen(peer, ROLETALK_STR("127.0.0.1:0"), NULL, &listener));
    char url[128];
    size_t len;
    MUST(roletalk_listener_url(listener, url, sizeof url, &len));
    printf("%.*s\n", (int)(len - strlen("ws://")), url + strlen("ws://"));
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}

/* The client. */

/* What the callbacks of a measurement share with the thread that waits for its end. */
typedef struct {
    roletalk_destination bench;
    roletalk_data data;
    uint64_t start;
    uint64_t until;
    uint64_t count;
    roletalk_writable stream;
    /* For one request in flight. */
    uint64_t *times, last;
    size_t room;
    int open;
    pthread_mutex_t mutex;
    pthread_cond_t done;
} work;

static work begin(roletalk_destination bench, size_t size, uint64_t time, int open) {
    char *bytes = malloc(size);
    memset(bytes, 1, size);
    work w = {.bench = bench, .data = roletalk_data_binary(bytes, size), .open = open};
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

static void ask(work *w, void (*on_answer)(void *, const roletalk_reply *)) {
    roletalk_reply_handler handler = {.call = on_answer, .user_data = w};
    MUST(roletalk_destination_request_async(w->bench, ROLETALK_STR("echo"), w->data, NULL, handler,
                                            NULL));
}

static void check_answer(const work *w, const roletalk_reply *reply) {
    must(reply->status, "answer");
    if (reply->data.len != w->data.len) exit(1);
}

static void on_answer(void *user_data, const roletalk_reply *reply) {
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

static void on_single_answer(void *user_data, const roletalk_reply *reply) {
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
        roletalk_answer answer;
        MUST(roletalk_destination_request(w->bench, ROLETALK_STR("echo"), w->data, NULL, &answer));
        MUST(roletalk_answer_free(answer));
        note_time(w);
    }
    qsort(w->times, w->count, sizeof *w->times, by_time);
    report(w, w->times[w->count / 2], w->times[w->count * 99 / 100]);
    free(w->times);
}

static void requests(roletalk_destination bench, size_t size, int in_flight, uint64_t time) {
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
    static const roletalk_send_options at_once = {.struct_size = sizeof at_once, .timeout_ms = -1};
    while (w->count % BATCH || now() < w->until) {
        roletalk_status status =
            roletalk_destination_send(w->bench, ROLETALK_STR("count"), w->data, &at_once);
        if (status == ROLETALK_STATUS_OVERLOADED) {
            roletalk_ready_handler handler = {.call = can_send, .user_data = w};
            MUST(roletalk_destination_on_room(w->bench, NULL, handler));
            return;
        }
        must(status, "roletalk_destination_send");
        w->count++;
    }
    one_less(w);
}

static void messages(roletalk_destination bench, size_t size, uint64_t time) {
    work w = begin(bench, size, time, 1);
    if (calls_back) {
        roletalk_ready_handler handler = {.call = can_send, .user_data = &w};
        MUST(roletalk_destination_on_room(bench, NULL, handler));
        wait_for_all(&w);
    }
    while (now() < w.until) {
        for (int i = 0; i < BATCH; i++)
            MUST(roletalk_destination_send(bench, ROLETALK_STR("count"), w.data, NULL));
        w.count += BATCH;
    }
    roletalk_answer answer;
    MUST(roletalk_destination_request(bench, ROLETALK_STR("end"), roletalk_data_null(), NULL,
                                      &answer));
    roletalk_reply reply = {.struct_size = sizeof reply};
    MUST(roletalk_answer_view(answer, &reply));
    uint64_t arrived;
    MUST(roletalk_data_as_uint64(reply.data, &arrived));
    MUST(roletalk_answer_free(answer));
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
    roletalk_status status = ROLETALK_STATUS_OK;
    while (status == ROLETALK_STATUS_OK && w->count < w->until) {
        size_t at = w->count % PIECE, written = 0;
        status = roletalk_writable_write(w->stream, piece + at, PIECE - at, 0, &written);
        w->count += written;
    }
    if (status == ROLETALK_STATUS_OK) status = roletalk_writable_finish(w->stream, 0);
    if (status == ROLETALK_STATUS_WOULD_BLOCK) {
        roletalk_ready_handler handler = {.call = can_write, .user_data = w};
        MUST(roletalk_writable_on_ready(w->stream, handler));
        return;
    }
    must(status, "writing");
    one_less(w);
}

static void stream(roletalk_destination bench, uint64_t bytes) {
    work w = begin(bench, 0, 0, 1);
    MUST(roletalk_destination_writable(bench, ROLETALK_STR("upload"), roletalk_data_null(), NULL,
                                       &w.stream, NULL));
    w.until = bytes;
    if (calls_back) {
        roletalk_ready_handler handler = {.call = can_write, .user_data = &w};
        MUST(roletalk_writable_on_ready(w.stream, handler));
        wait_for_all(&w);
    } else {
        for (; w.count < bytes; w.count += PIECE)
            MUST(roletalk_writable_write(w.stream, piece, PIECE, -1, NULL));
        MUST(roletalk_writable_finish(w.stream, -1));
    }
    MUST(roletalk_writable_close(w.stream));
    report(&w, 0, 0);
    free((void *)w.data.bytes);
}

static int obey(const char *style, const char *address) {
    roletalk_peer peer = new_peer("client", style);
    char url[160], line[160];
    int len = snprintf(url, sizeof url, "ws://%s", address);
    MUST(roletalk_peer_connect(peer, roletalk_string_of(url, (size_t)len), NULL, NULL));
    roletalk_destination bench;
    MUST(roletalk_peer_destination(peer, ROLETALK_STR("bench"), &bench));
    MUST(roletalk_destination_ready(bench, -1));
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long a, b, c;
        if (sscanf(line, "requests %llu %llu 1 %llu", &a, &b, &c) == 3)
            requests(bench, (size_t)a, (int)b, c * 1000);
        else if (sscanf(line, "messages %llu %llu", &a, &b) == 2)
            messages(bench, (size_t)a, b * 1000);
        else if (sscanf(line, "stream %llu", &a) == 1)
            stream(bench, a);
        else
            return 2;
        fflush(stdout);
    }
    MUST(roletalk_peer_close(peer));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "server")) return serve(argv[2]);
    if (argc == 4 && !strcmp(argv[1], "client")) return obey(argv[2], argv[3]);
    fprintf(stderr, "bench server STYLE | bench client STYLE ADDRESS\n");
    return 2;
}
