#include "handlers.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "output.h"
#include "streams.h"

/* Requests that are answered when the runner says so. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static rt_context *held;
static size_t held_count;

static unsigned char hex_digit(char digit) {
    return (unsigned char)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

/* In the place of its hexadecimal digits. */
static rt_data binary_of(rt_string hex) {
    char *bytes = (char *)hex.data;
    for (size_t i = 0; i < hex.len / 2; i++) {
        bytes[i] = (char)(hex_digit(hex.data[2 * i]) << 4 | hex_digit(hex.data[2 * i + 1]));
    }
    return rt_binary(bytes, hex.len / 2);
}

rt_data payload_of(json payload, char **memory) {
    json type = json_member(payload, "type"), value = json_member(payload, "value");
    if (json_is(type, "boolean")) return rt_boolean(json_is_true(value));
    if (json_is(type, "object")) return rt_json(json_raw(value));
    if (json_is(type, "null")) return rt_null();
    rt_string text = json_string(value, memory);
    if (json_is(type, "binary")) return binary_of(text);
    int32_t kind = json_is(type, "number") ? RT_NUMBER : RT_TEXT;
    return rt_data_of(kind, text.data, text.len);
}

static void on_message(void *none, const rt_incoming *incoming) {
    (void)none;
    observe_incoming("message", incoming);
}

static void on_echo(void *none, const rt_incoming *incoming) {
    (void)none;
    observe_incoming("request", incoming);
    rt_context_respond(incoming->context, incoming->data);
}

static void on_name(void *peer_name, const rt_incoming *incoming) {
    rt_context_respond(incoming->context, rt_text(*(const rt_string *)peer_name));
}

/* Observes the number with which the payload begins. */
static void on_count(void *peer_name, const rt_incoming *incoming) {
    const char *text = incoming->data.bytes;
    uint64_t number = 0;
    for (size_t i = 0; i < incoming->data.len && text[i] != ' '; i++) {
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    line_begin();
    printf("\"event\":\"counted\",\"number\":%" PRIu64, number);
    line_end();
    const rt_string *name = peer_name;
    char *answer = allocate(name->len + 32);
    int len = snprintf(answer, name->len + 32, "%" PRIu64 " %.*s", number, RT_ARG(*name));
    rt_context_respond(incoming->context, rt_text(rt_string_of(answer, (size_t)len)));
    free(answer);
}

static void on_length(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_number length;
    rt_number_from_uint64(incoming->data.len, &length);
    rt_context_respond(incoming->context, rt_number_data(&length));
}

static void on_fail(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_data data = incoming->data;
    bool given = data.kind == RT_TEXT;
    rt_context_reject(incoming->context,
                      given ? rt_string_of(data.bytes, data.len) : RT_STR("no such luck"));
}

static void on_never(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_context never;
    rt_context_defer(incoming->context, &never);
    line_begin();
    fputs("\"event\":\"ignored\"", stdout);
    line_end();
}

static void on_hold(void *none, const rt_incoming *incoming) {
    (void)none;
    pthread_mutex_lock(&mutex);
    held = realloc(held, (held_count + 1) * sizeof *held);
    rt_context_defer(incoming->context, &held[held_count++]);
    observe_count("held", held_count);
    pthread_mutex_unlock(&mutex);
}

void release_held(void) {
    pthread_mutex_lock(&mutex);
    // The last first, so that an answer that finds its request by position is seen.
    while (held_count > 0) {
        rt_context context = held[--held_count];
        rt_incoming incoming = {.struct_size = sizeof incoming};
        rt_context_view(context, &incoming);
        rt_context_respond(context, incoming.data);
    }
    pthread_mutex_unlock(&mutex);
}

/* The nearest that C has to an exception. */
static void on_throw(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_context_reject(incoming->context, RT_STR("thrown"));
}

static void on_upload(void *none, const rt_incoming *incoming) {
    (void)none;
    stream_receive(incoming);
}

static void on_download(void *none, const rt_incoming *incoming) {
    (void)none;
    stream_send(incoming);
}

static void on_refuse(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_string plan = rt_string_of(incoming->data.bytes, incoming->data.len);
    char *memory = allocate(plan.len), *end = memory;
    rt_string reason = json_string(json_member(json_of(plan), "reason"), &end);
    rt_context_reject(incoming->context, reason);
    free(memory);
}

void serve(rt_role role, const rt_string *peer_name) {
    const struct {
        int32_t kind;
        rt_string event;
        void (*call)(void *, const rt_incoming *);
    } handlers[] = {
        {RT_MESSAGE, RT_STR("throw"), on_throw},    {RT_REQUEST, RT_STR("throw"), on_throw},
        {RT_MESSAGE, RT_STR("note"), on_message},   {RT_REQUEST, RT_STR("echo"), on_echo},
        {RT_REQUEST, RT_STR("name"), on_name},      {RT_REQUEST, RT_STR("length"), on_length},
        {RT_REQUEST, RT_STR("fail"), on_fail},      {RT_REQUEST, RT_STR("never"), on_never},
        {RT_REQUEST, RT_STR("hold"), on_hold},      {RT_READABLE, RT_STR("up"), on_upload},
        {RT_WRITABLE, RT_STR("down"), on_download}, {RT_READABLE, RT_STR("refuse"), on_refuse},
        {RT_WRITABLE, RT_STR("refuse"), on_refuse}, {RT_REQUEST, RT_STR("count"), on_count},
    };
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++) {
        rt_incoming_handler handler = {handlers[i].call, (void *)peer_name, NULL};
        rt_role_handle(role, handlers[i].kind, handlers[i].event, handler);
    }
}

static void on_message_quietly(void *none, const rt_incoming *incoming) {
    (void)none;
    (void)incoming;
}

static void on_request_quietly(void *none, const rt_incoming *incoming) {
    (void)none;
    rt_context_respond(incoming->context, incoming->data);
}

void handle_quietly(rt_role role, rt_string event) {
    rt_role_handle(role, RT_MESSAGE, event, (rt_incoming_handler){on_message_quietly, NULL, NULL});
    rt_role_handle(role, RT_REQUEST, event, (rt_incoming_handler){on_request_quietly, NULL, NULL});
}

typedef struct {
    rt_string text;
    json rest;
} script;

static void on_script(void *given, const rt_incoming *incoming) {
    script *script = given;
    observe_incoming("request", incoming);
    json answer = json_take(&script->rest);
    json result = json_member(answer, "result");
    char *memory = allocate(json_raw(answer).len), *end = memory;
    if (result.at) {
        rt_context_respond(incoming->context, payload_of(result, &end));
    } else {
        rt_context_reject(incoming->context, json_string(json_member(answer, "error"), &end));
    }
    free(memory);
}

static void drop_script(void *given) {
    script *script = given;
    free((char *)script->text.data);
    free(script);
}

void handle(rt_role role, rt_string event, json answers) {
    script *script = allocate(sizeof *script);
    script->text = copy(json_raw(answers));
    script->rest = json_of(script->text);
    rt_role_handle(role, RT_MESSAGE, event, (rt_incoming_handler){on_message, NULL, NULL});
    rt_role_handle(role, RT_REQUEST, event, (rt_incoming_handler){on_script, script, drop_script});
}
