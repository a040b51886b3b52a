/* A player of `make demo`, in C: its lines are described in core/examples/demo/player.rs. It shows a
 * service of several roles, files as streams, balanced requests, surveys and events in one program.
 *
 * This thread carries out the commands, in order, and may wait; handlers and events run on the library's
 * dispatch thread, and files are copied by threads of their own. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>

#include "example.h"

enum { ANSWER_MS = 10000, PIECE = 64 << 10, UNITS = 16, NAME = 64, PATH = 1024 };

static rt_peer peer;
static const char *own_name;
static const char *directory;

/* Answers. What a command was to do failed with `status`, or with none of the library's. */

static void answer_ok(rt_string words) {
    printf("ok%s%.*s\n", words.len > 0 ? " " : "", RT_ARG(words));
}

static void answer_count(uint64_t count) {
    printf("ok %" PRIu64 "\n", count);
}

static void answer_status(int32_t status) {
    if (status == RT_OK) {
        answer_ok(rt_string_of(NULL, 0));
    } else {
        printf("error %.*s %.*s\n", RT_ARG(rt_status_name(status)), RT_ARG(rt_last_error()));
    }
}

static void answer_other(const char *what) {
    printf("error OTHER %s\n", what);
}

/* A file of the directory. Its name may come from another peer. */
static FILE *open_file(rt_string name, const char *mode) {
    char path[PATH];
    for (size_t i = 0; i < name.len; i++) {
        if (strchr("/\\: ", name.data[i])) return NULL;
    }
    if (name.len == 0 || name.data[0] == '.') return NULL;
    int len = snprintf(path, sizeof path, "%s/%.*s", directory, RT_ARG(name));
    return len > 0 && len < PATH ? fopen(path, mode) : NULL;
}

/* The two directions of a file. */

static int32_t send_file(rt_writable stream, FILE *file, uint64_t *bytes) {
    static _Thread_local char piece[PIECE];
    size_t len;
    *bytes = 0;
    while ((len = fread(piece, 1, sizeof piece, file)) > 0) {
        int32_t status = rt_writable_write(stream, piece, len, -1, NULL);
        if (status != RT_OK) return status;
        *bytes += len;
    }
    return ferror(file) ? RT_IO : rt_writable_finish(stream, -1);
}

static int32_t receive_file(rt_readable stream, FILE *file, uint64_t *bytes) {
    static _Thread_local char piece[PIECE];
    size_t len;
    int32_t status;
    *bytes = 0;
    while ((status = rt_readable_read(stream, piece, sizeof piece, -1, &len)) == RT_OK && len > 0) {
        if (fwrite(piece, 1, len, file) != len) return RT_IO;
        *bytes += len;
    }
    return status == RT_OK && fflush(file) != 0 ? RT_IO : status;
}

/* Handlers. */

static void on_square(void *none, const rt_incoming *incoming) {
    (void)none;
    int64_t number;
    if (rt_data_as_int64(incoming->data, &number) != RT_OK || number > INT32_MAX || number < INT32_MIN) {
        rt_context_reject(incoming->context, RT_STR("not a number, or too large"));
        return;
    }
    rt_number square;
    rt_number_from_int64(number * number, &square);
    rt_context_respond(incoming->context, rt_number_data(&square));
}

static void on_name(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_context_respond(incoming->context, rt_text(text(own_name)));
}

static rt_string name_of(rt_unit unit, char buffer[NAME]) {
    size_t len = 0;
    if (rt_unit_name(unit, buffer, NAME, &len) != RT_OK) len = 0;
    return rt_string_of(buffer, len);
}

static void on_note(void *none, const rt_incoming *incoming) {
    (void)none;
    char name[NAME];
    rt_string note = rt_string_of(incoming->data.bytes, incoming->data.len);
    printf("event note %.*s %.*s\n", RT_ARG(name_of(incoming->unit, name)), RT_ARG(note));
}

/* A file on its way, for its thread. */
typedef struct {
    FILE *file;
    rt_readable readable;
    rt_writable writable;
    char sender[NAME];
    char file_name[PATH];
} transfer;

static void *store(void *argument) {
    transfer *transfer = argument;
    uint64_t bytes;
    int32_t status = receive_file(transfer->readable, transfer->file, &bytes);
    if (fclose(transfer->file) == 0 && status == RT_OK) {
        printf("event stored %s %s %" PRIu64 "\n", transfer->sender, transfer->file_name, bytes);
    }
    rt_readable_close(transfer->readable);
    free(transfer);
    return NULL;
}

static void *deliver(void *argument) {
    transfer *transfer = argument;
    uint64_t bytes;
    // Closing a stream that was not finished breaks it off.
    send_file(transfer->writable, transfer->file, &bytes);
    rt_writable_close(transfer->writable);
    fclose(transfer->file);
    free(transfer);
    return NULL;
}

static void on_file(const rt_incoming *incoming, const char *mode, void *(*body)(void *)) {
    rt_string name = rt_string_of(incoming->data.bytes, incoming->data.len);
    FILE *file = open_file(name, mode);
    transfer *made = calloc(1, sizeof *made);
    if (!file || !made) {
        rt_context_reject(incoming->context, RT_STR("there is no such file here"));
        if (file) fclose(file);
        free(made);
        return;
    }
    made->file = file;
    snprintf(made->file_name, sizeof made->file_name, "%.*s", RT_ARG(name));
    char sender[NAME];
    snprintf(made->sender, sizeof made->sender, "%.*s", RT_ARG(name_of(incoming->unit, sender)));
    int32_t status =
        incoming->kind == RT_READABLE
            ? rt_context_accept_readable(incoming->context, rt_null(), &made->readable)
            : rt_context_accept_writable(incoming->context, rt_null(), &made->writable);
    pthread_t thread;
    if (status != RT_OK || pthread_create(&thread, NULL, body, made) != 0) {
        // One of them is none.
        rt_readable_close(made->readable);
        rt_writable_close(made->writable);
        fclose(file);
        free(made);
        return;
    }
    pthread_detach(thread);
}

static void on_upload(void *none, const rt_incoming *incoming) {
    (void)none;
    on_file(incoming, "wb", store);
}

static void on_download(void *none, const rt_incoming *incoming) {
    (void)none;
    on_file(incoming, "rb", deliver);
}

static void on_event(void *none, const rt_event *event) {
    (void)none;
    char buffer[NAME];
    rt_string name = name_of(event->unit, buffer);
    switch (event->kind) {
    case RT_EVENT_UNIT_OPENED:
        printf("event met %.*s\n", RT_ARG(name));
        break;
    case RT_EVENT_UNIT_CLOSED:
        printf("event parted %.*s\n", RT_ARG(name));
        break;
    case RT_EVENT_DESTINATION_GAINED:
        printf("event gained %.*s %.*s\n", RT_ARG(event->role), RT_ARG(name));
        break;
    case RT_EVENT_DESTINATION_LOST:
        printf("event lost %.*s %.*s\n", RT_ARG(event->role), RT_ARG(name));
        break;
    case RT_EVENT_RECONNECT_SUCCEEDED:
        printf("event reconnected %.*s\n", RT_ARG(name));
        break;
    }
}

/* Commands. */

static void do_listen(char **words) {
    char address[32], url[NAME];
    size_t len;
    rt_listener listener;
    snprintf(address, sizeof address, "127.0.0.1:%s", words[0]);
    int32_t status = rt_peer_listen(peer, text(address), NULL, &listener);
    if (status == RT_OK) status = rt_listener_url(listener, url, sizeof url, &len);
    if (status == RT_OK) {
        answer_ok(rt_string_of(url, len));
    } else {
        answer_status(status);
    }
}

static void do_connect(char **words) {
    rt_unit unit;
    char name[NAME];
    int32_t status = rt_peer_connect(peer, text(words[0]), NULL, &unit);
    if (status != RT_OK) {
        answer_status(status);
        return;
    }
    answer_ok(name_of(unit, name));
    rt_unit_free(unit);
}

static void do_offer(char **words) {
    rt_role role;
    int32_t status = rt_peer_role(peer, text(words[0]), 1, &role);
    const struct {
        int32_t kind;
        const char *event;
        void (*call)(void *, const rt_incoming *);
    } handlers[] = {
        {RT_REQUEST, "square", on_square},   {RT_REQUEST, "name", on_name},
        {RT_MESSAGE, "note", on_note},       {RT_READABLE, "upload", on_upload},
        {RT_WRITABLE, "download", on_download},
    };
    for (size_t i = 0; status == RT_OK && i < sizeof handlers / sizeof *handlers; i++) {
        rt_incoming_handler handler = {handlers[i].call, NULL, NULL};
        status = rt_role_handle(role, handlers[i].kind, text(handlers[i].event), handler);
    }
    answer_status(status == RT_OK ? rt_role_enable(role) : status);
}

static void do_enable(char **words) {
    rt_role role;
    int32_t status = rt_peer_role(peer, text(words[0]), 1, &role);
    answer_status(status == RT_OK ? rt_role_enable(role) : status);
}

static void do_disable(char **words) {
    rt_role role;
    int32_t status = rt_peer_role(peer, text(words[0]), 1, &role);
    answer_status(status == RT_OK ? rt_role_disable(role) : status);
}

static rt_destination destination_of(const char *role) {
    rt_destination destination;
    MUST(rt_peer_destination(peer, text(role), &destination));
    return destination;
}

static void do_use(char **words) {
    destination_of(words[0]);
    answer_status(RT_OK);
}

/* Who has answered how many of the requests that are under way. */
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    size_t open;
    int32_t status;
    char error[128];
    size_t units;
    struct {
        char name[NAME];
        unsigned count;
    } tally[UNITS];
} volley;

typedef struct {
    volley *volley;
    int64_t number;
} question;

static void count_answer(volley *volley, const char *name) {
    size_t i = 0;
    while (i < volley->units && strcmp(volley->tally[i].name, name) != 0) i++;
    if (i == UNITS) return;
    if (i == volley->units) snprintf(volley->tally[volley->units++].name, NAME, "%s", name);
    volley->tally[i].count++;
}

static void on_squared(void *argument, const rt_reply *reply) {
    question *question = argument;
    volley *volley = question->volley;
    char buffer[NAME], name[NAME];
    int64_t square = 0;
    snprintf(name, sizeof name, "%.*s", RT_ARG(name_of(reply->unit, buffer)));
    int32_t status = reply->status;
    if (status == RT_OK) status = rt_data_as_int64(reply->data, &square);
    if (status == RT_OK && square != question->number * question->number) status = RT_DATA;
    pthread_mutex_lock(&volley->mutex);
    if (status == RT_OK) {
        count_answer(volley, name);
    } else {
        volley->status = status;
        snprintf(volley->error, sizeof volley->error, "%.*s", RT_ARG(reply->error));
    }
    pthread_mutex_unlock(&volley->mutex);
}

static void end_question(void *argument) {
    question *question = argument;
    volley *volley = question->volley;
    pthread_mutex_lock(&volley->mutex);
    volley->open--;
    pthread_cond_signal(&volley->ended);
    pthread_mutex_unlock(&volley->mutex);
    free(question);
}

static int by_name(const void *one, const void *other) {
    return strcmp(one, other);
}

static void do_square(char **words) {
    rt_destination destination = destination_of(words[0]);
    rt_send_options options = {.struct_size = sizeof options, .timeout_ms = ANSWER_MS};
    volley volley = {.mutex = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
    int32_t failed = RT_OK;
    int64_t count = strtoll(words[1], NULL, 10);
    for (int64_t i = 1; i <= count && failed == RT_OK; i++) {
        question *asked = calloc(1, sizeof *asked);
        if (!asked) exit(1);
        asked->volley = &volley;
        asked->number = i;
        pthread_mutex_lock(&volley.mutex);
        volley.open++;
        pthread_mutex_unlock(&volley.mutex);
        rt_number number;
        MUST(rt_number_from_int64(i, &number));
        failed = rt_destination_request_async(destination, RT_STR("square"), rt_number_data(&number),
                                              &options,
                                              (rt_reply_handler){on_squared, asked, end_question}, NULL);
        if (failed != RT_OK) answer_status(failed);
    }
    pthread_mutex_lock(&volley.mutex);
    while (volley.open > 0) pthread_cond_wait(&volley.ended, &volley.mutex);
    pthread_mutex_unlock(&volley.mutex);
    if (failed != RT_OK) return;
    if (volley.status != RT_OK) {
        printf("error %.*s %s\n", RT_ARG(rt_status_name(volley.status)), volley.error);
        return;
    }
    qsort(volley.tally, volley.units, sizeof *volley.tally, by_name);
    flockfile(stdout);
    printf("ok");
    for (size_t i = 0; i < volley.units; i++) {
        printf(" %s=%u", volley.tally[i].name, volley.tally[i].count);
    }
    putchar('\n');
    funlockfile(stdout);
}

static void do_broadcast(char **words) {
    size_t count;
    int32_t status = rt_destination_broadcast(destination_of(words[0]), RT_STR("note"),
                                              rt_text(text(words[1])), NULL, &count);
    if (status == RT_OK) {
        answer_count(count);
    } else {
        answer_status(status);
    }
}

static void do_survey(char **words) {
    rt_send_options options = {.struct_size = sizeof options, .timeout_ms = ANSWER_MS};
    rt_survey survey;
    rt_answer answer;
    char names[UNITS][NAME];
    size_t count = 0;
    int32_t status = rt_destination_survey(destination_of(words[0]), RT_STR("name"), rt_null(),
                                           &options, &survey);
    if (status != RT_OK) {
        answer_status(status);
        return;
    }
    while ((status = rt_survey_next(survey, -1, &answer)) == RT_OK) {
        rt_reply reply = {.struct_size = sizeof reply};
        MUST(rt_answer_view(answer, &reply));
        if (count < UNITS && reply.status == RT_OK) {
            rt_string name = rt_string_of(reply.data.bytes, reply.data.len);
            snprintf(names[count++], NAME, "%.*s", RT_ARG(name));
        }
        rt_answer_free(answer);
    }
    rt_survey_free(survey);
    if (status != RT_END) {
        answer_status(status);
        return;
    }
    qsort(names, count, sizeof *names, by_name);
    flockfile(stdout);
    printf("ok");
    for (size_t i = 0; i < count; i++) printf(" %s", names[i]);
    putchar('\n');
    funlockfile(stdout);
}

/* The unit of a name. */
typedef struct {
    const char *name;
    rt_unit found;
} search;

static void look_at(void *argument, rt_unit unit) {
    search *search = argument;
    char buffer[NAME];
    rt_string name = name_of(unit, buffer);
    if (!search->found.id && name.len == strlen(search->name) &&
        memcmp(name.data, search->name, name.len) == 0) {
        rt_unit_clone(unit, &search->found);
    }
}

static void do_upload(char **words) {
    rt_destination destination = destination_of(words[0]);
    search search = {.name = words[1]};
    rt_destination_each_unit(destination, look_at, &search);
    FILE *file = open_file(text(words[2]), "rb");
    if (!search.found.id || !file) {
        answer_other("there is no such player or file");
    } else {
        rt_send_options options = {.struct_size = sizeof options, .unit = search.found};
        rt_writable stream;
        uint64_t bytes;
        int32_t status = rt_destination_writable(destination, RT_STR("upload"), rt_text(text(words[2])),
                                                 &options, &stream, NULL);
        if (status == RT_OK) {
            status = send_file(stream, file, &bytes);
            if (status == RT_OK) answer_count(bytes);
            rt_writable_close(stream);
        }
        if (status != RT_OK) answer_status(status);
    }
    if (file) fclose(file);
    rt_unit_free(search.found);
}

static void do_download(char **words) {
    rt_destination destination = destination_of(words[0]);
    search search = {.name = words[1]};
    rt_destination_each_unit(destination, look_at, &search);
    FILE *file = open_file(text(words[2]), "wb");
    if (!search.found.id || !file) {
        answer_other("there is no such player, or the file cannot be written");
    } else {
        rt_send_options options = {.struct_size = sizeof options, .unit = search.found};
        rt_readable stream;
        uint64_t bytes;
        int32_t status = rt_destination_readable(destination, RT_STR("download"),
                                                 rt_text(text(words[2])), &options, &stream, NULL);
        if (status == RT_OK) {
            status = receive_file(stream, file, &bytes);
            if (status == RT_OK) answer_count(bytes);
            rt_readable_close(stream);
        }
        if (status != RT_OK) answer_status(status);
    }
    if (file) fclose(file);
    rt_unit_free(search.found);
}

static void do_close(char **words) {
    (void)words;
    answer_status(rt_peer_close(peer));
}

enum { WORDS = 4 };

static const struct {
    const char *name;
    int words;
    void (*run)(char **words);
} COMMANDS[] = {
    {"listen", 1, do_listen},     {"connect", 1, do_connect}, {"offer", 1, do_offer},
    {"enable", 1, do_enable},     {"disable", 1, do_disable}, {"use", 1, do_use},
    {"square", 2, do_square},     {"broadcast", 2, do_broadcast}, {"survey", 1, do_survey},
    {"upload", 3, do_upload},     {"download", 3, do_download},   {"close", 0, do_close},
};

/* False when it was the last one. */
static int carry_out(char *line) {
    char *words[WORDS];
    int count = 0;
    for (char *word = strtok(line, " \n"); word && count < WORDS; word = strtok(NULL, " \n")) {
        words[count++] = word;
    }
    for (size_t i = 0; count > 0 && i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        if (strcmp(COMMANDS[i].name, words[0]) == 0 && COMMANDS[i].words == count - 1) {
            COMMANDS[i].run(words + 1);
            return COMMANDS[i].run != do_close;
        }
    }
    answer_other("unknown command");
    return 1;
}

int main(int argc, char **argv) {
    const char *key = getenv("ROLETALK_DEMO_KEY");
    if (argc != 4 || strcmp(argv[1], "--player") != 0 || !key) {
        fputs("usage: ROLETALK_DEMO_KEY=KEY demo_player --player NAME DIRECTORY\n", stderr);
        return 2;
    }
    own_name = argv[2];
    directory = argv[3];
    setvbuf(stdout, NULL, _IOLBF, 0);
    rt_pair pair = {.key = RT_STR("demo"), .value = text(key)};
    rt_peer_options options = {.struct_size = sizeof options};
    options.name = text(own_name);
    options.keys = &pair;
    options.key_count = 1;
    MUST(rt_peer_new(&options, &peer));
    rt_event_handler handler = {on_event, NULL, NULL};
    MUST(rt_peer_on_event(peer, handler, NULL));
    char line[PATH];
    while (fgets(line, sizeof line, stdin) && carry_out(line)) {
    }
    return 0;
}
