#include "handlers.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "output.h"
#include "scopes.h"
#include "streams.h"

/* Requests that are answered when the runner says so. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static roletalk_context *held;
static size_t held_count;

static unsigned char hex_digit(char digit) {
    return (unsigned char)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/* In the place of its hexadecimal digits. */
static roletalk_data binary_of(roletalk_string hex) {
    char *bytes = (char *)hex.data;
    for (size_t i = 0; i < hex.len / 2; i++) {
        bytes[i] = (char)(hex_digit(hex.data[2 * i]) << 4 | hex_digit(hex.data[2 * i + 1]));
    }
    return roletalk_data_binary(bytes, hex.len / 2);
}

roletalk_data payload_of(json payload, char **memory) {
    json type = json_member(payload, "type"), value = json_member(payload, "value");
    if (json_is(type, "boolean")) return roletalk_data_boolean(json_is_true(value));
    if (json_is(type, "object")) return roletalk_data_json(json_raw(value));
    if (json_is(type, "null")) return roletalk_data_null();
    roletalk_string text = json_string(value, memory);
    if (json_is(type, "binary")) return binary_of(text);
    int32_t kind = json_is(type, "number") ? ROLETALK_DATA_NUMBER : ROLETALK_DATA_TEXT;
    return roletalk_data_of(kind, text.data, text.len);
}

static void on_message(void *none, const roletalk_incoming *incoming) {
    (void)none;
    observe_incoming("message", incoming);
}

static void on_echo(void *none, const roletalk_incoming *incoming) {
    (void)none;
    observe_incoming("request", incoming);
    roletalk_context_respond(incoming->context, incoming->data);
}

static void on_name(void *peer_name, const roletalk_incoming *incoming) {
    roletalk_context_respond(incoming->context,
                             roletalk_data_text(*(const roletalk_string *)peer_name));
}

/* Observes the number with which the payload begins. */
static void on_count(void *peer_name, const roletalk_incoming *incoming) {
    const char *text = incoming->data.bytes;
    uint64_t number = 0;
    for (size_t i = 0; i < incoming->data.len && text[i] != ' '; i++) {
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    line_begin();
    printf("\"event\":\"counted\",\"number\":%" PRIu64, number);
    line_end();
    const roletalk_string *name = peer_name;
    char *answer = allocate(name->len + 32);
    int len = snprintf(answer, name->len + 32, "%" PRIu64 " %.*s", number, ROLETALK_ARG(*name));
    roletalk_context_respond(incoming->context,
                             roletalk_data_text(roletalk_string_of(answer, (size_t)len)));
    free(answer);
}

static void on_length(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_number length;
    roletalk_number_from_uint64(incoming->data.len, &length);
    roletalk_context_respond(incoming->context, roletalk_data_number(&length));
}

static void on_fail(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_data data = incoming->data;
    bool given = data.kind == ROLETALK_DATA_TEXT;
    roletalk_context_reject(incoming->context, given ? roletalk_string_of(data.bytes, data.len)
                                                     : ROLETALK_STR("no such luck"));
}

static void on_never(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_context never;
    must(roletalk_context_defer(incoming->context, &never));
    line_begin();
    fputs("\"event\":\"ignored\"", stdout);
    line_end();
}

static void on_hold(void *none, const roletalk_incoming *incoming) {
    (void)none;
    pthread_mutex_lock(&mutex);
    held = realloc(held, (held_count + 1) * sizeof *held);
    must(roletalk_context_defer(incoming->context, &held[held_count++]));
    observe_count("held", held_count);
    pthread_mutex_unlock(&mutex);
}

void release_held(void) {
    pthread_mutex_lock(&mutex);
    // The last first, so that an answer that finds its request by position is seen.
    while (held_count > 0) {
        roletalk_context context = held[--held_count];
        roletalk_incoming incoming = {.struct_size = sizeof incoming};
        must(roletalk_context_view(context, &incoming));
        roletalk_context_respond(context, incoming.data);
    }
    pthread_mutex_unlock(&mutex);
}

/* The nearest that C has to an exception. */
static void on_throw(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_context_reject(incoming->context, ROLETALK_STR("thrown"));
}

static void on_upload(void *none, const roletalk_incoming *incoming) {
    (void)none;
    stream_receive(incoming);
}

static void on_download(void *none, const roletalk_incoming *incoming) {
    (void)none;
    stream_send(incoming);
}

static void on_refuse(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_string plan = roletalk_string_of(incoming->data.bytes, incoming->data.len);
    char *memory = allocate(plan.len), *end = memory;
    roletalk_string reason = json_string(json_member(json_of(plan), "reason"), &end);
    roletalk_context_reject(incoming->context, reason);
    free(memory);
}

void serve(const roletalk_peer *peer, roletalk_role role, const roletalk_string *peer_name) {
    const struct {
        int32_t kind;
        roletalk_string event;
        void (*call)(void *, const roletalk_incoming *);
    } handlers[] = {
        {ROLETALK_KIND_MESSAGE, ROLETALK_STR("throw"), on_throw},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("throw"), on_throw},
        {ROLETALK_KIND_MESSAGE, ROLETALK_STR("note"), on_message},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("echo"), on_echo},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("name"), on_name},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("length"), on_length},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("fail"), on_fail},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("never"), on_never},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("hold"), on_hold},
        {ROLETALK_KIND_READABLE, ROLETALK_STR("up"), on_upload},
        {ROLETALK_KIND_WRITABLE, ROLETALK_STR("down"), on_download},
        {ROLETALK_KIND_READABLE, ROLETALK_STR("refuse"), on_refuse},
        {ROLETALK_KIND_WRITABLE, ROLETALK_STR("refuse"), on_refuse},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("count"), on_count},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("wait"), on_wait},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("headers"), on_headers},
        {ROLETALK_KIND_REQUEST, ROLETALK_STR("failure"), on_failure},
    };
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++) {
        roletalk_incoming_handler handler = {handlers[i].call, (void *)peer_name, NULL};
        roletalk_role_handle(role, handlers[i].kind, handlers[i].event, handler);
    }
    roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("relay"),
                         (roletalk_incoming_handler){on_relay, (void *)peer, NULL});
}

static void on_message_quietly(void *none, const roletalk_incoming *incoming) {
    (void)none;
    (void)incoming;
}

static void on_request_quietly(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_context_respond(incoming->context, incoming->data);
}

void handle_quietly(roletalk_role role, roletalk_string event) {
    roletalk_role_handle(role, ROLETALK_KIND_MESSAGE, event,
                         (roletalk_incoming_handler){on_message_quietly, NULL, NULL});
    roletalk_role_handle(role, ROLETALK_KIND_REQUEST, event,
                         (roletalk_incoming_handler){on_request_quietly, NULL, NULL});
}

typedef struct {
    roletalk_string text;
    json rest;
} script;

static void on_script(void *given, const roletalk_incoming *incoming) {
    script *script = given;
    observe_incoming("request", incoming);
    json answer = json_take(&script->rest);
    json result = json_member(answer, "result");
    char *memory = allocate(json_raw(answer).len), *end = memory;
    if (result.at) {
        roletalk_context_respond(incoming->context, payload_of(result, &end));
    } else {
        roletalk_context_reject(incoming->context, json_string(json_member(answer, "error"), &end));
    }
    free(memory);
}

static void drop_script(void *given) {
    script *script = given;
    free((char *)script->text.data);
    free(script);
}

void handle(roletalk_role role, roletalk_string event, json answers) {
    script *script = allocate(sizeof *script);
    script->text = copy(json_raw(answers));
    script->rest = json_of(script->text);
    roletalk_role_handle(role, ROLETALK_KIND_MESSAGE, event,
                         (roletalk_incoming_handler){on_message, NULL, NULL});
    roletalk_role_handle(role, ROLETALK_KIND_REQUEST, event,
                         (roletalk_incoming_handler){on_script, script, drop_script});
}
