/* The player for the C library: commands on stdin, observations on stdout. See tests/README.md for
 * the protocol.
 *
 * This thread reads the commands and does what is done at once, in order; requests and dialing call back,
 * on the library's dispatch thread; what waits otherwise gets a thread of its own. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "flow.h"
#include "handlers.h"
#include "json.h"
#include "memory.h"
#include "output.h"
#include "streams.h"

enum { DRAIN_MS = 60000 };

typedef struct {
    uint64_t id;
    json parameters;
    /* Where its strings are decoded to: as large as the line. */
    char *memory;
} command;

static rt_peer peer;
static rt_string peer_name;

static json parameter(const command *command, const char *name) {
    return json_member(command->parameters, name);
}

static rt_string text(command *command, const char *name) {
    return json_string(parameter(command, name), &command->memory);
}

static void answer_status(uint64_t id, int32_t status) {
    if (status == RT_OK) {
        answer_null(id);
    } else {
        answer_last_error(id);
    }
}

static void answer_found(uint64_t id, bool found) {
    if (found) {
        answer_null(id);
    } else {
        answer_error(id, RT_STR("there is none"));
    }
}

static void do_start(command *command) {
    enum { KEYS = 16 };
    rt_pair keys[KEYS];
    size_t count = 0;
    json pairs = parameter(command, "keys"), pair;
    while (count < KEYS && (pair = json_take(&pairs)).at) {
        keys[count].key = json_string(json_take(&pair), &command->memory);
        keys[count++].value = json_string(json_take(&pair), &command->memory);
    }
    peer_name = copy(text(command, "name"));
    rt_limits limits = {
        .struct_size = sizeof limits,
        .stream_window = json_count(parameter(command, "highWaterMark"), 0),
        .handshake_timeout_ms = json_count(parameter(command, "handshakeTimeout"), 0),
    };
    rt_peer_options options = {
        .struct_size = sizeof options,
        .name = peer_name,
        .keys = keys,
        .key_count = count,
        .unfriendly = !json_is_true(parameter(command, "friendly")),
        .limits = &limits,
    };
    answer_status(command->id, rt_peer_new(&options, &peer));
}

/* The role of the command; one that is new is enabled. */
static bool find_role(command *command, int32_t disabled, rt_role *role) {
    return rt_peer_role(peer, text(command, "role"), disabled, role) == RT_OK;
}

static void do_role(command *command) {
    json active = parameter(command, "active");
    rt_role role;
    if (!find_role(command, active.at && !json_is_true(active), &role)) {
        answer_last_error(command->id);
        return;
    }
    serve(role, &peer_name);
    answer_null(command->id);
}

static void do_handler(command *command) {
    rt_role role;
    if (!find_role(command, 0, &role)) {
        answer_last_error(command->id);
        return;
    }
    json answers = parameter(command, "answers");
    if (answers.at) {
        handle(role, text(command, "event"), answers);
    } else {
        handle_quietly(role, text(command, "event"));
    }
    answer_null(command->id);
}

static void do_enable(command *command) {
    rt_role role;
    answer_found(command->id, find_role(command, 0, &role) && rt_role_enable(role) == RT_OK);
}

static void do_disable(command *command) {
    rt_role role;
    answer_found(command->id, find_role(command, 0, &role) && rt_role_disable(role) == RT_OK);
}

static void do_listen(command *command) {
    json tls = parameter(command, "tls");
    rt_listen_options options = {
        .struct_size = sizeof options,
        .tls_certificates = json_string(json_member(tls, "cert"), &command->memory),
        .tls_key = json_string(json_member(tls, "key"), &command->memory),
    };
    rt_listener listener;
    char address[64], url[64];
    rt_string host = parameter(command, "host").at ? text(command, "host") : RT_STR("127.0.0.1");
    size_t len = (size_t)snprintf(address, sizeof address, "%.*s:%" PRIu16, RT_ARG(host),
                                  (uint16_t)json_count(parameter(command, "port"), 0));
    if (rt_peer_listen(peer, rt_string_of(address, len), &options, &listener) != RT_OK ||
        rt_listener_url(listener, url, sizeof url - 1, &len) != RT_OK) {
        answer_last_error(command->id);
        return;
    }
    url[len] = 0;
    answer_count(command->id, strtoull(strrchr(url, ':') + 1, NULL, 10));
}

/* The end of what calls back: with a name, or with a payload. */
typedef struct {
    uint64_t id;
    bool bare_number;
} pending;

static pending *pending_of(const command *command) {
    pending *made = allocate(sizeof *made);
    made->id = command->id;
    return made;
}

static void on_connected(void *given, const rt_reply *reply) {
    pending *pending = given;
    if (reply->status != RT_OK) {
        answer_failure(pending->id, reply->status, reply->error);
        return;
    }
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":", pending->id);
    print_name_of(reply->unit);
    line_end();
}

static void do_connect(command *command) {
    rt_connect_options options = {
        .struct_size = sizeof options,
        .once = json_is_true(parameter(command, "once")),
        .tls_ca = text(command, "ca"),
    };
    rt_reply_handler handler = {on_connected, pending_of(command), free};
    if (rt_peer_connect_async(peer, text(command, "url"), &options, handler, NULL) != RT_OK) {
        answer_last_error(command->id);
    }
}

static bool find_destination(command *command, rt_destination *destination) {
    if (rt_peer_destination(peer, text(command, "role"), destination) == RT_OK) return true;
    answer_last_error(command->id);
    return false;
}

static void do_destination(command *command) {
    rt_destination destination;
    if (find_destination(command, &destination)) answer_null(command->id);
}

static void do_events(command *command) {
    answer_status(command->id, observe_events(peer));
}

static void do_totals(command *command) {
    answer_totals(command->id, peer);
}

typedef struct {
    rt_string *names;
    size_t count;
} names;

static void copy_name(void *to, const rt_unit_info *info) {
    *(rt_string *)to = copy(info->name);
}

static void add_name(void *to, rt_unit unit) {
    names *names = to;
    rt_string *grown = allocate((names->count + 1) * sizeof *grown);
    if (names->count > 0) memcpy(grown, names->names, names->count * sizeof *grown);
    free(names->names);
    names->names = grown;
    rt_unit_describe(unit, copy_name, &grown[names->count++]);
}

static int by_name(const void *one, const void *other) {
    const rt_string *a = one, *b = other;
    int order = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static void do_units(command *command) {
    names names = {NULL, 0};
    rt_destination destination;
    if (!parameter(command, "role").at) {
        rt_peer_each_unit(peer, add_name, &names);
    } else if (find_destination(command, &destination)) {
        rt_destination_each_unit(destination, add_name, &names);
    } else {
        return;
    }
    if (names.count > 0) qsort(names.names, names.count, sizeof *names.names, by_name);
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":[", command->id);
    for (size_t i = 0; i < names.count; i++) {
        if (i > 0) putchar(',');
        json_print_string(stdout, names.names[i]);
        free((char *)names.names[i].data);
    }
    putchar(']');
    line_end();
    free(names.names);
}

static void print_role(void *none, const rt_unit_info *info) {
    (void)none;
    fputs("\"unit\":", stdout);
    json_print_string(stdout, info->name);
    fputs(",\"roles\":[", stdout);
    for (size_t i = 0; i < info->role_count; i++) {
        if (i > 0) putchar(',');
        json_print_string(stdout, info->roles[i]);
    }
    putchar(']');
}

static void print_stats(void *given, rt_unit unit) {
    bool *first = given;
    rt_unit_stats stats = {.struct_size = sizeof stats};
    if (rt_unit_get_stats(unit, &stats) != RT_OK) return;
    const struct {
        const char *name;
        uint64_t count;
    } counts[] = {
        {"connections", stats.connections},
        {"messagesSent", stats.messages_sent},
        {"messagesReceived", stats.messages_received},
        {"requestsSent", stats.requests_sent},
        {"requestsReceived", stats.requests_received},
        {"streamBytesSent", stats.stream_bytes_sent},
        {"streamBytesReceived", stats.stream_bytes_received},
        {"waiting", stats.waiting},
    };
    fputs(*first ? "{" : ",{", stdout);
    *first = false;
    rt_unit_describe(unit, print_role, NULL);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        printf(",\"%s\":%" PRIu64, counts[i].name, counts[i].count);
    }
    putchar('}');
}

static void do_stats(command *command) {
    bool first = true;
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":[", command->id);
    rt_peer_each_unit(peer, print_stats, &first);
    putchar(']');
    line_end();
}

static void on_answer(void *given, const rt_reply *reply) {
    pending *pending = given;
    if (reply->status != RT_OK) {
        answer_failure(pending->id, reply->status, reply->error);
        return;
    }
    if (reply->data.kind == RT_JSON &&
        !json_is_whole(rt_string_of(reply->data.bytes, reply->data.len))) {
        answer_failure(pending->id, RT_DATA, RT_STR("the answer is no JSON"));
        return;
    }
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":", pending->id);
    if (pending->bare_number) {
        fwrite(reply->data.bytes, 1, reply->data.len, stdout);
    } else {
        print_payload(reply->data);
    }
    line_end();
}

typedef struct {
    /* NULL: the first. */
    const rt_string *name;
    rt_unit found;
    bool is_named;
} search;

static void compare_name(void *given, const rt_unit_info *info) {
    search *search = given;
    search->is_named = info->name.len == search->name->len &&
                       memcmp(info->name.data, search->name->data, info->name.len) == 0;
}

static void look_at(void *given, rt_unit unit) {
    search *search = given;
    search->is_named = true;
    if (search->name) rt_unit_describe(unit, compare_name, search);
    if (search->found.id == 0 && search->is_named) rt_unit_clone(unit, &search->found);
}

/* The unit of the name `to`, or the only one for `direct`; none, for the next in turn, otherwise. False,
 * with the answer, if there is no such unit. The caller frees it. */
static bool find_unit(command *command, rt_unit *unit) {
    rt_string name = text(command, "to");
    search search = {.name = parameter(command, "to").at ? &name : NULL};
    bool wanted = search.name || json_is_true(parameter(command, "direct"));
    if (wanted) rt_peer_each_unit(peer, look_at, &search);
    *unit = search.found;
    if (wanted && unit->id == 0) answer_error(command->id, RT_STR("there is no such unit"));
    return !wanted || unit->id != 0;
}

/* The requests that may be canceled. Only the thread that reads the commands uses it. */
typedef struct request {
    struct request *next;
    uint64_t id;
    rt_operation operation;
} request;
static request *requests;

static void do_request(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    rt_string event = text(command, "event");
    rt_data data = payload_of(parameter(command, "data"), &command->memory);
    rt_send_options options = {.struct_size = sizeof options};
    if (!find_unit(command, &options.unit)) return;
    options.timeout_ms = (int64_t)json_count(parameter(command, "timeout"), 0);
    request *made = allocate(sizeof *made);
    made->id = command->id;
    rt_reply_handler handler = {on_answer, pending_of(command), free};
    if (rt_destination_request_async(destination, event, data, &options, handler,
                                     &made->operation) != RT_OK) {
        answer_last_error(command->id);
    }
    made->next = requests;
    requests = made;
    rt_unit_free(options.unit);
}

static void do_cancel(command *command) {
    uint64_t target = json_count(parameter(command, "target"), 0);
    request *found = requests;
    while (found && found->id != target) found = found->next;
    // It may be over by now.
    if (found) rt_operation_cancel(found->operation);
    answer_found(command->id, found || stream_cancel(target));
}

static void do_large(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    size_t size = json_count(parameter(command, "size"), 0);
    void *bytes = allocate(size);
    memset(bytes, 1, size);
    pending *pending = pending_of(command);
    pending->bare_number = true;
    rt_reply_handler handler = {on_answer, pending, free};
    if (rt_destination_request_async(destination, RT_STR("length"), rt_binary(bytes, size), NULL,
                                     handler, NULL) != RT_OK) {
        answer_last_error(command->id);
    }
    free(bytes);
}

static void do_send(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    rt_string event = text(command, "event");
    rt_data data = payload_of(parameter(command, "data"), &command->memory);
    rt_send_options options = {.struct_size = sizeof options};
    if (!find_unit(command, &options.unit)) return;
    answer_status(command->id, rt_destination_send(destination, event, data, &options));
    rt_unit_free(options.unit);
}

static void do_flow(command *command) {
    flow_options options = {0};
    if (!find_destination(command, &options.destination) || !find_unit(command, &options.unit))
        return;
    options.event = parameter(command, "event").at ? text(command, "event") : RT_STR("count");
    options.from = json_count(parameter(command, "from"), 0);
    options.count = json_count(parameter(command, "count"), 0);
    options.in_flight = json_count(parameter(command, "inFlight"), options.count);
    options.size = json_count(parameter(command, "size"), 0);
    options.timeout_ms = (int64_t)json_count(parameter(command, "timeout"), 0);
    flow_start(command->id, &options);
}

static void do_broadcast(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    rt_string event = text(command, "event");
    rt_data data = payload_of(parameter(command, "data"), &command->memory);
    size_t count;
    if (rt_destination_broadcast(destination, event, data, NULL, &count) == RT_OK) {
        answer_count(command->id, count);
    } else {
        answer_last_error(command->id);
    }
}

typedef struct {
    uint64_t id;
    rt_survey survey;
    rt_answer *answers;
    size_t count;
} survey;

static void print_survey_answer(rt_answer answer) {
    rt_reply reply = {.struct_size = sizeof reply};
    rt_answer_view(answer, &reply);
    rt_unit unit = {0};
    rt_answer_unit(answer, &unit);
    fputs("{\"from\":", stdout);
    print_name_of(unit);
    rt_unit_free(unit);
    if (reply.status == RT_OK) {
        fputs(",\"data\":", stdout);
        print_payload(reply.data);
    } else {
        fputs(",\"error\":", stdout);
        json_print_string(stdout, reply.error);
    }
    putchar('}');
    rt_answer_free(answer);
}

static void *answer_survey(void *given) {
    survey *survey = given;
    rt_answer answer;
    while (rt_survey_next(survey->survey, -1, &answer) == RT_OK) {
        survey->answers = realloc(survey->answers, (survey->count + 1) * sizeof answer);
        if (!survey->answers) exit(1);
        survey->answers[survey->count++] = answer;
    }
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":[", survey->id);
    for (size_t i = 0; i < survey->count; i++) {
        if (i > 0) putchar(',');
        print_survey_answer(survey->answers[i]);
    }
    putchar(']');
    line_end();
    rt_survey_free(survey->survey);
    free(survey->answers);
    free(survey);
    return NULL;
}

static void do_survey(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    rt_string event = text(command, "event");
    rt_data data = payload_of(parameter(command, "data"), &command->memory);
    survey *made = allocate(sizeof *made);
    made->id = command->id;
    if (rt_destination_survey(destination, event, data, NULL, &made->survey) != RT_OK) {
        answer_last_error(command->id);
        free(made);
        return;
    }
    start_thread(answer_survey, made);
}

/* Requests at once, each with its number. */
typedef struct {
    uint64_t id;
    pthread_mutex_t mutex;
    uint64_t open;
    uint64_t right;
} volley;

typedef struct {
    volley *volley;
    uint64_t number;
} shot;

static void on_shot_answered(void *given, const rt_reply *reply) {
    shot *shot = given;
    uint64_t number;
    if (reply->status == RT_OK && rt_data_as_uint64(reply->data, &number) == RT_OK) {
        pthread_mutex_lock(&shot->volley->mutex);
        shot->volley->right += number == shot->number;
        pthread_mutex_unlock(&shot->volley->mutex);
    }
}

/* The last one answers the command. */
static void end_volley(volley *volley) {
    pthread_mutex_lock(&volley->mutex);
    bool last = --volley->open == 0;
    pthread_mutex_unlock(&volley->mutex);
    if (!last) return;
    answer_count(volley->id, volley->right);
    pthread_mutex_destroy(&volley->mutex);
    free(volley);
}

static void drop_shot(void *given) {
    shot *shot = given;
    end_volley(shot->volley);
    free(shot);
}

static void do_hold(command *command) {
    rt_destination destination;
    if (!find_destination(command, &destination)) return;
    uint64_t count = json_count(parameter(command, "count"), 0);
    volley *volley = allocate(sizeof *volley);
    volley->id = command->id;
    // One for this function.
    volley->open = count + 1;
    pthread_mutex_init(&volley->mutex, NULL);
    for (uint64_t i = 0; i < count; i++) {
        shot *shot = allocate(sizeof *shot);
        shot->volley = volley;
        shot->number = i;
        rt_number number;
        rt_number_from_uint64(i, &number);
        // A failure is one that is not answered.
        rt_destination_request_async(destination, RT_STR("hold"), rt_number_data(&number), NULL,
                                     (rt_reply_handler){on_shot_answered, shot, drop_shot}, NULL);
    }
    end_volley(volley);
}

static void do_release(command *command) {
    release_held();
    answer_null(command->id);
}

static void do_upload(command *command) {
    rt_destination destination;
    rt_unit unit;
    if (!find_destination(command, &destination) || !find_unit(command, &unit)) return;
    stream_upload(command->id, destination, unit, text(command, "event"),
                  parameter(command, "plan"));
}

static void do_download(command *command) {
    rt_destination destination;
    rt_unit unit;
    if (!find_destination(command, &destination) || !find_unit(command, &unit)) return;
    stream_download(command->id, destination, unit, text(command, "event"),
                    parameter(command, "plan"));
}

static void do_resume(command *command) {
    answer_found(command->id, stream_resume(text(command, "tag")));
}

static void do_progress(command *command) {
    uint64_t bytes;
    if (stream_progress(text(command, "tag"), &bytes)) {
        answer_count(command->id, bytes);
    } else {
        answer_found(command->id, false);
    }
}

static void close_unit(void *none, rt_unit unit) {
    (void)none;
    rt_unit_close(unit);
}

static void *disconnect(void *given) {
    pending *pending = given;
    rt_peer_each_unit(peer, close_unit, NULL);
    answer_null(pending->id);
    free(pending);
    return NULL;
}

static void do_disconnect(command *command) {
    start_thread(disconnect, pending_of(command));
}

static void *drain(void *given) {
    pending *pending = given;
    answer_status(pending->id, rt_peer_drain(peer, DRAIN_MS, NULL));
    free(pending);
    return NULL;
}

static void do_drain(command *command) {
    start_thread(drain, pending_of(command));
}

static void *close_peer(void *given) {
    pending *pending = given;
    answer_status(pending->id, rt_peer_close(peer));
    free(pending);
    return NULL;
}

static void do_close(command *command) {
    start_thread(close_peer, pending_of(command));
}

static const struct {
    const char *name;
    void (*run)(command *command);
} COMMANDS[] = {
    {"events", do_events},   {"totals", do_totals},
    {"start", do_start},     {"role", do_role},
    {"handler", do_handler}, {"enable", do_enable},
    {"disable", do_disable}, {"listen", do_listen},
    {"connect", do_connect}, {"destination", do_destination},
    {"units", do_units},     {"request", do_request},
    {"send", do_send},       {"hold", do_hold},
    {"release", do_release}, {"large", do_large},
    {"upload", do_upload},   {"download", do_download},
    {"resume", do_resume},   {"progress", do_progress},
    {"cancel", do_cancel},   {"disconnect", do_disconnect},
    {"drain", do_drain},     {"stats", do_stats},
    {"flow", do_flow},       {"broadcast", do_broadcast},
    {"survey", do_survey},   {"close", do_close},
};

static void run(rt_string line) {
    char *memory = allocate(line.len);
    command command = {.parameters = json_of(line), .memory = memory};
    command.id = json_count(parameter(&command, "id"), 0);
    json name = parameter(&command, "command");
    size_t i = 0, count = sizeof COMMANDS / sizeof *COMMANDS;
    while (i < count && !json_is(name, COMMANDS[i].name)) i++;
    if (i < count) {
        COMMANDS[i].run(&command);
    } else {
        answer_error(command.id, RT_STR("unknown command"));
    }
    free(memory);
}

int main(void) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t len;
    while ((len = getline(&line, &capacity, stdin)) > 0) {
        run(rt_string_of(line, (size_t)len));
    }
    free(line);
    rt_peer_close(peer);
    return 0;
}
