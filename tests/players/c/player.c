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

static roletalk_peer peer;
static roletalk_string peer_name;

static json parameter(const command *command, const char *name) {
    return json_member(command->parameters, name);
}

static roletalk_string text(command *command, const char *name) {
    return json_string(parameter(command, name), &command->memory);
}

static void answer_status(uint64_t id, roletalk_status status) {
    if (status == ROLETALK_STATUS_OK) {
        answer_null(id);
    } else {
        answer_last_error(id);
    }
}

static void answer_found(uint64_t id, bool found) {
    if (found) {
        answer_null(id);
    } else {
        answer_error(id, ROLETALK_STR("there is none"));
    }
}

static void do_start(command *command) {
    enum { KEYS = 16 };
    roletalk_pair keys[KEYS];
    size_t count = 0;
    json pairs = parameter(command, "keys"), pair;
    while (count < KEYS && (pair = json_take(&pairs)).at) {
        keys[count].key = json_string(json_take(&pair), &command->memory);
        keys[count++].value = json_string(json_take(&pair), &command->memory);
    }
    peer_name = copy(text(command, "name"));
    roletalk_limits limits = {
        .struct_size = sizeof limits,
        .stream_window = json_count(parameter(command, "highWaterMark"), 0),
        .handshake_timeout_ms = json_count(parameter(command, "handshakeTimeout"), 0),
        .connection_age_ms = json_count(parameter(command, "connectionAge"), 0),
    };
    /* As the originals do: scenarios count whose turn it is. */
    roletalk_balance balance = {.struct_size = sizeof balance, .by = ROLETALK_BALANCE_ROUND_ROBIN};
    if (json_is(parameter(command, "balance"), "least_loaded")) {
        balance.by = ROLETALK_BALANCE_LEAST_LOADED;
    }
    enum { ORIGINS = 4 };
    roletalk_string allowed[ORIGINS];
    size_t origin_count = 0;
    json origins = parameter(command, "origins"), origin;
    while (origin_count < ORIGINS && (origin = json_take(&origins)).at) {
        allowed[origin_count++] = json_string(origin, &command->memory);
    }
    json policy = parameter(command, "policy"), binding = parameter(command, "channelBinding");
    int32_t channel_binding = ROLETALK_CHANNEL_BINDING_PREFER;
    if (json_is(binding, "disable")) channel_binding = ROLETALK_CHANNEL_BINDING_DISABLE;
    roletalk_peer_options options = {
        .struct_size = sizeof options,
        .policy = policy.at ? json_raw(policy) : roletalk_string_of(NULL, 0),
        .origins = allowed,
        .origin_count = origin_count,
        .channel_binding = channel_binding,
        .name = peer_name,
        .keys = keys,
        .key_count = count,
        .unfriendly = !json_is_true(parameter(command, "friendly")),
        .limits = &limits,
        .balance = &balance,
    };
    answer_status(command->id, roletalk_peer_new(&options, &peer));
}

/* The role of the command; one that is new is enabled. */
static bool find_role(command *command, int32_t active, roletalk_role *role) {
    return roletalk_peer_role(peer, text(command, "role"), active, role) == ROLETALK_STATUS_OK;
}

static void do_role(command *command) {
    json active = parameter(command, "active");
    roletalk_role role;
    if (!find_role(command, !active.at || json_is_true(active), &role)) {
        answer_last_error(command->id);
        return;
    }
    serve(&peer, role, &peer_name);
    answer_null(command->id);
}

static void do_handler(command *command) {
    roletalk_role role;
    if (!find_role(command, 1, &role)) {
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
    roletalk_role role;
    answer_found(command->id,
                 find_role(command, 1, &role) && roletalk_role_enable(role) == ROLETALK_STATUS_OK);
}

static void do_disable(command *command) {
    roletalk_role role;
    answer_found(command->id,
                 find_role(command, 1, &role) && roletalk_role_disable(role) == ROLETALK_STATUS_OK);
}

static roletalk_listener listener;

static void do_listen(command *command) {
    json tls = parameter(command, "tls");
    roletalk_listen_options options = {
        .struct_size = sizeof options,
        .tls_certificates = json_string(json_member(tls, "cert"), &command->memory),
        .tls_key = json_string(json_member(tls, "key"), &command->memory),
    };
    char address[64], url[64];
    roletalk_string host =
        parameter(command, "host").at ? text(command, "host") : ROLETALK_STR("127.0.0.1");
    size_t len = (size_t)snprintf(address, sizeof address, "%.*s:%" PRIu16, ROLETALK_ARG(host),
                                  (uint16_t)json_count(parameter(command, "port"), 0));
    if (roletalk_peer_listen(peer, roletalk_string_of(address, len), &options, &listener) !=
            ROLETALK_STATUS_OK ||
        roletalk_listener_url(listener, url, sizeof url - 1, &len) != ROLETALK_STATUS_OK) {
        answer_last_error(command->id);
        return;
    }
    url[len] = 0;
    answer_count(command->id, strtoull(strrchr(url, ':') + 1, NULL, 10));
}

static void do_renew(command *command) {
    json tls = parameter(command, "tls");
    roletalk_string cert = json_string(json_member(tls, "cert"), &command->memory);
    roletalk_string key = json_string(json_member(tls, "key"), &command->memory);
    if (roletalk_listener_replace_tls(listener, cert, key, ROLETALK_STR("")) == ROLETALK_STATUS_OK)
        answer_null(command->id);
    else
        answer_last_error(command->id);
}

/* The end of what calls back: with a name, or with a payload. */
typedef struct {
    uint64_t id;
    bool bare_number;
    bool with_headers;
} pending;

static pending *pending_of(const command *command) {
    pending *made = allocate(sizeof *made);
    made->id = command->id;
    return made;
}

static void on_connected(void *given, const roletalk_reply *reply) {
    pending *pending = given;
    if (reply->status != ROLETALK_STATUS_OK) {
        answer_failure(pending->id, reply->status, reply->error);
        return;
    }
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":", pending->id);
    print_name_of(reply->unit);
    line_end();
}

static void do_connect(command *command) {
    roletalk_connect_options options = {
        .struct_size = sizeof options,
        .once = json_is_true(parameter(command, "once")),
        .tls_ca = text(command, "ca"),
    };
    roletalk_reply_handler handler = {on_connected, pending_of(command), free};
    if (roletalk_peer_connect_async(peer, text(command, "url"), &options, handler, NULL) !=
        ROLETALK_STATUS_OK) {
        answer_last_error(command->id);
    }
}

static bool find_destination(command *command, roletalk_destination *destination) {
    if (roletalk_peer_destination(peer, text(command, "role"), destination) == ROLETALK_STATUS_OK)
        return true;
    answer_last_error(command->id);
    return false;
}

static void do_destination(command *command) {
    roletalk_destination destination;
    if (find_destination(command, &destination)) answer_null(command->id);
}

static void do_events(command *command) {
    answer_status(command->id, observe_events(peer));
}

static void do_totals(command *command) {
    answer_totals(command->id, peer);
}

typedef struct {
    roletalk_string *names;
    size_t count;
} names;

static void copy_name(void *to, const roletalk_unit_info *info) {
    *(roletalk_string *)to = copy(info->name);
}

static void add_name(void *to, roletalk_unit unit) {
    names *names = to;
    roletalk_string *grown = allocate((names->count + 1) * sizeof *grown);
    if (names->count > 0) memcpy(grown, names->names, names->count * sizeof *grown);
    free(names->names);
    names->names = grown;
    roletalk_unit_describe(unit, copy_name, &grown[names->count++]);
}

static int by_name(const void *one, const void *other) {
    const roletalk_string *a = one, *b = other;
    int order = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static void do_units(command *command) {
    names names = {NULL, 0};
    roletalk_destination destination;
    if (!parameter(command, "role").at) {
        roletalk_peer_each_unit(peer, add_name, &names);
    } else if (find_destination(command, &destination)) {
        roletalk_destination_each_unit(destination, add_name, &names);
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

static void print_role(void *none, const roletalk_unit_info *info) {
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

static void print_stats(void *given, roletalk_unit unit) {
    bool *first = given;
    roletalk_unit_stats stats = {.struct_size = sizeof stats};
    if (roletalk_unit_get_stats(unit, &stats) != ROLETALK_STATUS_OK) return;
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
    roletalk_unit_describe(unit, print_role, NULL);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        printf(",\"%s\":%" PRIu64, counts[i].name, counts[i].count);
    }
    putchar('}');
}

static void do_stats(command *command) {
    bool first = true;
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":[", command->id);
    roletalk_peer_each_unit(peer, print_stats, &first);
    putchar(']');
    line_end();
}

static void on_answer(void *given, const roletalk_reply *reply) {
    pending *pending = given;
    if (reply->status != ROLETALK_STATUS_OK) {
        answer_reply(pending->id, reply);
        return;
    }
    if (reply->data.kind == ROLETALK_DATA_JSON &&
        !json_is_whole(roletalk_string_of(reply->data.bytes, reply->data.len))) {
        answer_failure(pending->id, ROLETALK_STATUS_DATA, ROLETALK_STR("the answer is no JSON"));
        return;
    }
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":", pending->id);
    if (pending->bare_number) {
        fwrite(reply->data.bytes, 1, reply->data.len, stdout);
    } else if (pending->with_headers) {
        fputs("{\"data\":", stdout);
        print_payload(reply->data);
        fputs(",\"headers\":[", stdout);
        for (size_t i = 0; i < reply->header_count; i++) {
            fputs(i > 0 ? ",[" : "[", stdout);
            json_print_string(stdout, reply->headers[i].name);
            putchar(',');
            print_payload(reply->headers[i].value);
            putchar(']');
        }
        fputs("]}", stdout);
    } else {
        print_payload(reply->data);
    }
    line_end();
}

typedef struct {
    /* NULL: the first. */
    const roletalk_string *name;
    roletalk_unit found;
    bool is_named;
} search;

static void compare_name(void *given, const roletalk_unit_info *info) {
    search *search = given;
    search->is_named = info->name.len == search->name->len &&
                       memcmp(info->name.data, search->name->data, info->name.len) == 0;
}

static void look_at(void *given, roletalk_unit unit) {
    search *search = given;
    search->is_named = true;
    if (search->name) roletalk_unit_describe(unit, compare_name, search);
    if (search->found.id == 0 && search->is_named) must(roletalk_unit_clone(unit, &search->found));
}

/* The unit of the name `to`, or the only one for `direct`; none, for the next in turn, otherwise. False,
 * with the answer, if there is no such unit. The caller frees it. */
static bool find_unit(command *command, roletalk_unit *unit) {
    roletalk_string name = text(command, "to");
    search search = {.name = parameter(command, "to").at ? &name : NULL};
    bool wanted = search.name || json_is_true(parameter(command, "direct"));
    if (wanted) roletalk_peer_each_unit(peer, look_at, &search);
    *unit = search.found;
    if (wanted && unit->id == 0) answer_error(command->id, ROLETALK_STR("there is no such unit"));
    return !wanted || unit->id != 0;
}

/* The requests that may be canceled. Only the thread that reads the commands uses it. */
typedef struct request {
    struct request *next;
    uint64_t id;
    roletalk_operation operation;
} request;
static request *requests;

/* The most that a command may have. */
#define HEADERS 16

/* Asks, with what goes with it. */
static void ask(command *command, bool with_headers) {
    roletalk_destination destination;
    if (!find_destination(command, &destination)) return;
    roletalk_string event = text(command, "event");
    roletalk_data data = payload_of(parameter(command, "data"), &command->memory);
    roletalk_header headers[HEADERS];
    roletalk_send_options options = {.struct_size = sizeof options, .headers = headers};
    if (!find_unit(command, &options.unit)) return;
    options.timeout_ms = (int64_t)json_count(parameter(command, "timeout"), 0);
    options.headers_required = json_is_true(parameter(command, "required"));
    options.traceparent = text(command, "traceparent");
    json given = parameter(command, "headers");
    for (json pair = json_take(&given); pair.at && options.header_count < HEADERS;
         pair = json_take(&given)) {
        json name = json_take(&pair), value = json_take(&pair);
        headers[options.header_count].name = json_string(name, &command->memory);
        headers[options.header_count++].value = payload_of(value, &command->memory);
    }
    request *made = allocate(sizeof *made);
    made->id = command->id;
    pending *pending = pending_of(command);
    pending->with_headers = with_headers;
    roletalk_reply_handler handler = {on_answer, pending, free};
    roletalk_status asked = roletalk_destination_request_async(destination, event, data, &options,
                                                               handler, &made->operation);
    if (asked != ROLETALK_STATUS_OK) answer_failure(command->id, asked, roletalk_last_error());
    made->next = requests;
    requests = made;
    roletalk_unit_free(options.unit);
}

static void do_request(command *command) {
    ask(command, false);
}

static void do_ask(command *command) {
    ask(command, true);
}

static void do_cancel(command *command) {
    uint64_t target = json_count(parameter(command, "target"), 0);
    request *found = requests;
    while (found && found->id != target) found = found->next;
    // It may be over by now.
    if (found) roletalk_operation_cancel(found->operation);
    answer_found(command->id, found || stream_cancel(target));
}

static void do_large(command *command) {
    roletalk_destination destination;
    if (!find_destination(command, &destination)) return;
    size_t size = json_count(parameter(command, "size"), 0);
    void *bytes = allocate(size);
    memset(bytes, 1, size);
    pending *pending = pending_of(command);
    pending->bare_number = true;
    roletalk_reply_handler handler = {on_answer, pending, free};
    if (roletalk_destination_request_async(destination, ROLETALK_STR("length"),
                                           roletalk_data_binary(bytes, size), NULL, handler,
                                           NULL) != ROLETALK_STATUS_OK) {
        answer_last_error(command->id);
    }
    free(bytes);
}

static void do_send(command *command) {
    roletalk_destination destination;
    if (!find_destination(command, &destination)) return;
    roletalk_string event = text(command, "event");
    roletalk_data data = payload_of(parameter(command, "data"), &command->memory);
    roletalk_send_options options = {.struct_size = sizeof options};
    if (!find_unit(command, &options.unit)) return;
    answer_status(command->id, roletalk_destination_send(destination, event, data, &options));
    roletalk_unit_free(options.unit);
}

static void do_flow(command *command) {
    flow_options options = {0};
    if (!find_destination(command, &options.destination) || !find_unit(command, &options.unit))
        return;
    options.event = parameter(command, "event").at ? text(command, "event") : ROLETALK_STR("count");
    options.from = json_count(parameter(command, "from"), 0);
    options.count = json_count(parameter(command, "count"), 0);
    options.in_flight = json_count(parameter(command, "inFlight"), options.count);
    options.size = json_count(parameter(command, "size"), 0);
    options.timeout_ms = (int64_t)json_count(parameter(command, "timeout"), 0);
    flow_start(command->id, &options);
}

static void do_broadcast(command *command) {
    roletalk_destination destination;
    if (!find_destination(command, &destination)) return;
    roletalk_string event = text(command, "event");
    roletalk_data data = payload_of(parameter(command, "data"), &command->memory);
    size_t count;
    if (roletalk_destination_broadcast(destination, event, data, NULL, &count) ==
        ROLETALK_STATUS_OK) {
        answer_count(command->id, count);
    } else {
        answer_last_error(command->id);
    }
}

typedef struct {
    uint64_t id;
    roletalk_survey survey;
    roletalk_answer *answers;
    size_t count;
} survey;

static void print_survey_answer(roletalk_answer answer) {
    roletalk_reply reply = {.struct_size = sizeof reply};
    must(roletalk_answer_view(answer, &reply));
    roletalk_unit unit;
    must(roletalk_answer_unit(answer, &unit));
    fputs("{\"from\":", stdout);
    print_name_of(unit);
    roletalk_unit_free(unit);
    if (reply.status == ROLETALK_STATUS_OK) {
        fputs(",\"data\":", stdout);
        print_payload(reply.data);
    } else {
        fputs(",\"error\":", stdout);
        json_print_string(stdout, reply.error);
    }
    putchar('}');
    roletalk_answer_free(answer);
}

static void *answer_survey(void *given) {
    survey *survey = given;
    roletalk_answer answer;
    while (roletalk_survey_next(survey->survey, -1, &answer) == ROLETALK_STATUS_OK) {
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
    roletalk_survey_close(survey->survey);
    free(survey->answers);
    free(survey);
    return NULL;
}

static void do_survey(command *command) {
    roletalk_destination destination;
    if (!find_destination(command, &destination)) return;
    roletalk_string event = text(command, "event");
    roletalk_data data = payload_of(parameter(command, "data"), &command->memory);
    survey *made = allocate(sizeof *made);
    made->id = command->id;
    if (roletalk_destination_survey(destination, event, data, NULL, &made->survey) !=
        ROLETALK_STATUS_OK) {
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

static void on_shot_answered(void *given, const roletalk_reply *reply) {
    shot *shot = given;
    uint64_t number;
    if (reply->status == ROLETALK_STATUS_OK &&
        roletalk_data_as_uint64(reply->data, &number) == ROLETALK_STATUS_OK) {
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
    roletalk_destination destination;
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
        roletalk_number number;
        roletalk_number_from_uint64(i, &number);
        // A failure is one that is not answered: its shot is dropped.
        roletalk_status asked = roletalk_destination_request_async(
            destination, ROLETALK_STR("hold"), roletalk_data_number(&number), NULL,
            (roletalk_reply_handler){on_shot_answered, shot, drop_shot}, NULL);
        (void)asked;
    }
    end_volley(volley);
}

static void do_release(command *command) {
    release_held();
    answer_null(command->id);
}

static void do_upload(command *command) {
    roletalk_destination destination;
    roletalk_unit unit;
    if (!find_destination(command, &destination) || !find_unit(command, &unit)) return;
    stream_upload(command->id, destination, unit, text(command, "event"),
                  parameter(command, "plan"));
}

static void do_download(command *command) {
    roletalk_destination destination;
    roletalk_unit unit;
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

static void close_unit(void *none, roletalk_unit unit) {
    (void)none;
    roletalk_unit_disconnect(unit);
}

static void *disconnect(void *given) {
    pending *pending = given;
    roletalk_peer_each_unit(peer, close_unit, NULL);
    answer_null(pending->id);
    free(pending);
    return NULL;
}

static void do_disconnect(command *command) {
    start_thread(disconnect, pending_of(command));
}

static void *drain(void *given) {
    pending *pending = given;
    answer_status(pending->id, roletalk_peer_drain(peer, DRAIN_MS, NULL));
    free(pending);
    return NULL;
}

static void do_drain(command *command) {
    start_thread(drain, pending_of(command));
}

static void *close_peer(void *given) {
    pending *pending = given;
    answer_status(pending->id, roletalk_peer_close(peer));
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
    {"ask", do_ask},         {"renew", do_renew},
};

static void run(roletalk_string line) {
    char *memory = allocate(line.len);
    command command = {.parameters = json_of(line), .memory = memory};
    command.id = json_count(parameter(&command, "id"), 0);
    json name = parameter(&command, "command");
    size_t i = 0, count = sizeof COMMANDS / sizeof *COMMANDS;
    while (i < count && !json_is(name, COMMANDS[i].name)) i++;
    if (i < count) {
        COMMANDS[i].run(&command);
    } else {
        answer_error(command.id, ROLETALK_STR("unknown command"));
    }
    free(memory);
}

int main(void) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t len;
    while ((len = getline(&line, &capacity, stdin)) > 0) {
        run(roletalk_string_of(line, (size_t)len));
    }
    free(line);
    roletalk_peer_close(peer);
    return 0;
}
