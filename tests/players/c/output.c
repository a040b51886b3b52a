#include "output.h"

#include <inttypes.h>
#include <stdio.h>

#include "json.h"

void line_begin(void) {
    flockfile(stdout);
    putchar('{');
}

void line_end(void) {
    fputs("}\n", stdout);
    fflush(stdout);
    funlockfile(stdout);
}

static void print_type(const char *type) {
    printf("{\"type\":\"%s\",\"value\":", type);
}

void print_payload(roletalk_data data) {
    const char *bytes = data.bytes;
    int32_t value;
    switch (data.kind) {
        case ROLETALK_DATA_BINARY:
            print_type("binary");
            putchar('"');
            for (size_t i = 0; i < data.len; i++) printf("%02x", (unsigned char)bytes[i]);
            putchar('"');
            break;
        case ROLETALK_DATA_BOOLEAN:
            print_type("boolean");
            fputs(roletalk_data_as_bool(data, &value) == ROLETALK_STATUS_OK && value ? "true"
                                                                                     : "false",
                  stdout);
            break;
        case ROLETALK_DATA_TEXT:
        case ROLETALK_DATA_NUMBER:
            print_type(data.kind == ROLETALK_DATA_TEXT ? "string" : "number");
            json_print_string(stdout, roletalk_string_of(bytes, data.len));
            break;
        case ROLETALK_DATA_JSON:
            print_type("object");
            // Between the parts of JSON there may be ends of lines; inside of its strings there is none.
            for (size_t i = 0; i < data.len; i++) {
                putchar(bytes[i] == '\n' || bytes[i] == '\r' ? ' ' : bytes[i]);
            }
            break;
        default:
            print_type("null");
            fputs("null", stdout);
    }
    putchar('}');
}

static void print_name(void *file, const roletalk_unit_info *info) {
    json_print_string(file, info->name);
}

void print_name_of(roletalk_unit unit) {
    roletalk_unit_describe(unit, print_name, stdout);
}

static void begin_answer(uint64_t id, const char *what) {
    line_begin();
    printf("\"id\":%" PRIu64 ",\"%s\":", id, what);
}

void answer_null(uint64_t id) {
    begin_answer(id, "result");
    fputs("null", stdout);
    line_end();
}

void answer_count(uint64_t id, uint64_t count) {
    begin_answer(id, "result");
    printf("%" PRIu64, count);
    line_end();
}

void answer_error(uint64_t id, roletalk_string error) {
    begin_answer(id, "error");
    json_print_string(stdout, error);
    line_end();
}

void print_kind(roletalk_status status) {
    if (status == ROLETALK_STATUS_OK) return;
    fputs(",\"kind\":", stdout);
    json_print_string(stdout, roletalk_status_name(status));
}

void answer_failure(uint64_t id, roletalk_status status, roletalk_string error) {
    begin_answer(id, "error");
    json_print_string(stdout, error);
    print_kind(status);
    line_end();
}

void answer_reply(uint64_t id, const roletalk_reply *reply) {
    begin_answer(id, "error");
    json_print_string(stdout, reply->error);
    print_kind(reply->status);
    if (reply->error_code.len > 0) {
        fputs(",\"code\":", stdout);
        json_print_string(stdout, reply->error_code);
    }
    if (reply->error_data.len > 0) printf(",\"data\":%.*s", ROLETALK_ARG(reply->error_data));
    if (reply->retry_after_ms >= 0) printf(",\"retry\":%" PRId64, reply->retry_after_ms);
    printf(",\"unhandled\":%s", reply->unhandled ? "true" : "false");
    line_end();
}

void answer_last_error(uint64_t id) {
    answer_error(id, roletalk_last_error());
}

void observe_incoming(const char *event, const roletalk_incoming *incoming) {
    line_begin();
    printf("\"event\":\"%s\",\"role\":", event);
    json_print_string(stdout, incoming->role);
    fputs(",\"from\":", stdout);
    print_name_of(incoming->unit);
    fputs(",\"data\":", stdout);
    print_payload(incoming->data);
    line_end();
}

void observe_count(const char *event, size_t count) {
    line_begin();
    printf("\"event\":\"%s\",\"count\":%zu", event, count);
    line_end();
}
