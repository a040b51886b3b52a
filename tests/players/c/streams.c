#include "streams.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "output.h"
#include "sha256.h"

enum { BUFFER = 64 << 10 };

/* The bytes of all streams are their position modulo this. */
enum { PERIOD = 251 };

typedef struct stream {
    struct stream *next;
    /* Of the command that asks for it; 0 for one of a handler. */
    uint64_t id;
    bool writes;
    roletalk_destination destination;
    roletalk_unit unit;
    roletalk_string event;
    /* One of them is open, or none yet. */
    roletalk_readable readable;
    roletalk_writable writable;

    /* The plan, and as it came. */
    roletalk_string text;
    roletalk_string tag;
    uint64_t size;
    uint64_t piece;
    bool reader_breaks;
    bool writer_breaks;
    roletalk_string reason;
    bool pauses;

    bool resumed;
    bool canceled;
    uint64_t bytes;
    char sha256[65];
} stream;

/* Of the list, and of what changes in its streams. They stay: the runner may ask for each of them at any
 * time, and a player does not live long. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static stream *streams;

static bool is_equal(roletalk_string one, roletalk_string other) {
    return one.len == other.len && memcmp(one.data, other.data, one.len) == 0;
}

static stream *add_stream(uint64_t id, bool writes, roletalk_string plan_text) {
    stream *made = allocate(sizeof *made);
    made->id = id;
    made->writes = writes;
    made->text = copy(plan_text);
    json plan = json_of(made->text);
    char *memory = allocate(plan_text.len);
    made->tag = json_string(json_member(plan, "tag"), &memory);
    made->reason = json_string(json_member(plan, "reason"), &memory);
    json breaks = json_member(plan, "breaks");
    made->reader_breaks = json_is(breaks, "reader");
    made->writer_breaks = json_is(breaks, "writer");
    // That of a payload that is no plan.
    made->size = json_count(json_member(plan, "size"), 1 << 22);
    made->piece = json_count(json_member(plan, "piece"), 1 << 16);
    made->pauses = json_is_true(json_member(plan, "pauses"));
    pthread_mutex_lock(&mutex);
    made->next = streams;
    streams = made;
    pthread_mutex_unlock(&mutex);
    return made;
}

static void pause_reading(stream *stream) {
    line_begin();
    fputs("\"event\":\"paused\",\"tag\":", stdout);
    json_print_string(stdout, stream->tag);
    line_end();
    pthread_mutex_lock(&mutex);
    while (!stream->resumed && !stream->canceled) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

/* Reads to the end, or breaks off or pauses after the first piece when the plan says so. */
static roletalk_status read_all(stream *stream, sha256 *hash) {
    unsigned char buffer[BUFFER];
    for (;;) {
        size_t len = 0;
        roletalk_status status =
            roletalk_readable_read(stream->readable, buffer, sizeof buffer, -1, &len);
        if (status != ROLETALK_STATUS_OK || len == 0) return status;
        bool first = stream->bytes == 0;
        stream->bytes += len;
        sha256_add(hash, buffer, len);
        if (stream->reader_breaks) return roletalk_readable_abort(stream->readable, stream->reason);
        if (stream->pauses && first) pause_reading(stream);
    }
}

/* Writes what the plan says, or breaks off after it. */
static roletalk_status write_all(stream *stream, sha256 *hash) {
    unsigned char *piece = allocate(stream->piece);
    roletalk_status status = ROLETALK_STATUS_OK;
    uint64_t at = 0;
    while (status == ROLETALK_STATUS_OK && at < stream->size) {
        size_t len = stream->size - at < stream->piece ? stream->size - at : stream->piece;
        for (size_t i = 0; i < len; i++) piece[i] = (unsigned char)((at + i) % PERIOD);
        sha256_add(hash, piece, len);
        status = roletalk_writable_write(stream->writable, piece, len, -1, NULL);
        at += status == ROLETALK_STATUS_OK ? len : 0;
        pthread_mutex_lock(&mutex);
        stream->bytes = at;
        pthread_mutex_unlock(&mutex);
    }
    free(piece);
    if (status != ROLETALK_STATUS_OK) return status;
    if (stream->writer_breaks) return roletalk_writable_abort(stream->writable, stream->reason);
    return roletalk_writable_finish(stream->writable, -1);
}

/* Follows the plan to the end. False, with the error, when it breaks off. */
static bool follow(stream *stream, roletalk_string *error) {
    sha256 hash;
    sha256_begin(&hash);
    roletalk_status status = stream->writes ? write_all(stream, &hash) : read_all(stream, &hash);
    *error = roletalk_last_error();
    if (status == ROLETALK_STATUS_OK &&
        (stream->writes ? stream->writer_breaks : stream->reader_breaks)) {
        *error = stream->reason;
        status = ROLETALK_STATUS_STREAM_CLOSED;
    }
    sha256_end(&hash, stream->sha256);
    return status == ROLETALK_STATUS_OK;
}

/* A handle that was closed before, when the stream was broken off or given up, is no error. */
static void close_stream(const stream *stream) {
    if (stream->writes) {
        roletalk_writable_close(stream->writable);
    } else {
        roletalk_readable_close(stream->readable);
    }
}

static void print_result(const stream *stream) {
    printf("\"result\":{\"bytes\":%" PRIu64 ",\"sha256\":\"%s\"}", stream->bytes, stream->sha256);
}

/* The body of a handler's thread. */
static void *observe_stream(void *of) {
    stream *stream = of;
    roletalk_string error;
    bool done = follow(stream, &error);
    line_begin();
    printf("\"event\":\"%s\",\"tag\":", stream->writes ? "sent" : "received");
    json_print_string(stdout, stream->tag);
    putchar(',');
    if (done) {
        print_result(stream);
    } else {
        fputs("\"error\":", stdout);
        json_print_string(stdout, error);
    }
    line_end();
    close_stream(stream);
    return NULL;
}

static roletalk_status open_stream(stream *stream) {
    roletalk_data plan = roletalk_data_text(stream->text);
    roletalk_send_options options = {.struct_size = sizeof options, .unit = stream->unit};
    roletalk_readable readable = {0};
    roletalk_writable writable = {0};
    roletalk_status status = stream->writes
                                 ? roletalk_destination_writable(stream->destination, stream->event,
                                                                 plan, &options, &writable, NULL)
                                 : roletalk_destination_readable(stream->destination, stream->event,
                                                                 plan, &options, &readable, NULL);
    // A call that fails would take the place of the error.
    if (stream->unit.id != 0) roletalk_unit_free(stream->unit);
    pthread_mutex_lock(&mutex);
    stream->readable = readable;
    stream->writable = writable;
    if (status == ROLETALK_STATUS_OK && stream->canceled) close_stream(stream);
    pthread_mutex_unlock(&mutex);
    return status;
}

/* The body of a command's thread. */
static void *answer_stream(void *of) {
    stream *stream = of;
    roletalk_string error;
    roletalk_status status = open_stream(stream);
    if (status != ROLETALK_STATUS_OK) {
        answer_failure(stream->id, status, roletalk_last_error());
        return NULL;
    }
    if (follow(stream, &error)) {
        line_begin();
        printf("\"id\":%" PRIu64 ",", stream->id);
        print_result(stream);
        line_end();
    } else {
        answer_error(stream->id, error);
    }
    close_stream(stream);
    return NULL;
}

static void request_stream(uint64_t id, bool writes, roletalk_destination to, roletalk_unit unit,
                           roletalk_string event, json plan) {
    stream *stream = add_stream(id, writes, json_raw(plan));
    stream->destination = to;
    stream->unit = unit;
    stream->event = copy(event);
    start_thread(answer_stream, stream);
}

void stream_upload(uint64_t id, roletalk_destination destination, roletalk_unit unit,
                   roletalk_string event, json plan) {
    request_stream(id, true, destination, unit, event, plan);
}

void stream_download(uint64_t id, roletalk_destination destination, roletalk_unit unit,
                     roletalk_string event, json plan) {
    request_stream(id, false, destination, unit, event, plan);
}

static stream *add_of(const roletalk_incoming *incoming, bool writes) {
    return add_stream(0, writes, roletalk_string_of(incoming->data.bytes, incoming->data.len));
}

void stream_receive(const roletalk_incoming *incoming) {
    stream *stream = add_of(incoming, false);
    roletalk_data answer = roletalk_data_text(ROLETALK_STR("go on"));
    // Otherwise the requester is gone.
    if (roletalk_context_accept_readable(incoming->context, answer, &stream->readable) ==
        ROLETALK_STATUS_OK) {
        start_thread(observe_stream, stream);
    }
}

void stream_send(const roletalk_incoming *incoming) {
    stream *stream = add_of(incoming, true);
    roletalk_data answer = roletalk_data_text(ROLETALK_STR("go on"));
    if (roletalk_context_accept_writable(incoming->context, answer, &stream->writable) ==
        ROLETALK_STATUS_OK) {
        start_thread(observe_stream, stream);
    }
}

/* While the mutex is held. */
static stream *find(bool writes, roletalk_string tag) {
    stream *found = streams;
    while (found && (found->writes != writes || !is_equal(found->tag, tag))) found = found->next;
    return found;
}

bool stream_resume(roletalk_string tag) {
    pthread_mutex_lock(&mutex);
    stream *found = find(false, tag);
    if (found) found->resumed = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return found != NULL;
}

bool stream_progress(roletalk_string tag, uint64_t *bytes) {
    pthread_mutex_lock(&mutex);
    stream *found = find(true, tag);
    if (found) *bytes = found->bytes;
    pthread_mutex_unlock(&mutex);
    return found != NULL;
}

bool stream_cancel(uint64_t id) {
    pthread_mutex_lock(&mutex);
    stream *found = streams;
    while (found && found->id != id) found = found->next;
    if (found) {
        found->canceled = true;
        close_stream(found);
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return found != NULL;
}
