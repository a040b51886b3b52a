#include "scopes.h"

#include <inttypes.h>

#include "json.h"
#include "memory.h"
#include "output.h"

static const char *reason_name(int32_t reason) {
    switch (reason) {
        case ROLETALK_CANCEL_REQUESTER:
            return "requester";
        case ROLETALK_CANCEL_DEADLINE:
            return "deadline";
        case ROLETALK_CANCEL_UNIT_LOST:
            return "unitLost";
        default:
            return "unknown";
    }
}

static void on_canceled(void *given, int32_t reason) {
    line_begin();
    printf("\"event\":\"cancelled\",\"reason\":\"%s\"", reason_name(reason));
    line_end();
    roletalk_context_reject(*(roletalk_context *)given, ROLETALK_STR("cancelled"));
}

void on_wait(void *none, const roletalk_incoming *incoming) {
    (void)none;
    int64_t remaining;
    must(roletalk_context_remaining_ms(incoming->context, &remaining));
    roletalk_trace trace = {.struct_size = sizeof trace};
    must(roletalk_context_trace(incoming->context, &trace));
    line_begin();
    fputs("\"event\":\"waiting\",\"remaining\":", stdout);
    if (remaining < 0) {
        fputs("null", stdout);
    } else {
        printf("%" PRId64, remaining);
    }
    fputs(",\"traceparent\":", stdout);
    if (trace.traceparent[0]) {
        printf("\"%s\"", trace.traceparent);
    } else {
        fputs("null", stdout);
    }
    line_end();
    roletalk_context *deferred = allocate(sizeof *deferred);
    must(roletalk_context_defer(incoming->context, deferred));
    must(roletalk_context_on_cancel(*deferred,
                                    (roletalk_cancel_handler){on_canceled, deferred, free}));
}

static void on_relayed(void *given, const roletalk_reply *reply) {
    roletalk_context *context = given;
    if (reply->status == ROLETALK_STATUS_OK) {
        roletalk_context_respond(*context, reply->data);
    } else {
        roletalk_context_reject(*context, reply->error);
    }
}

void on_relay(void *peer, const roletalk_incoming *incoming) {
    json ask = json_of(roletalk_string_of(incoming->data.bytes, incoming->data.len));
    char *memory = allocate(incoming->data.len), *end = memory;
    roletalk_string role = json_string(json_member(ask, "role"), &end);
    roletalk_string event = json_string(json_member(ask, "event"), &end);
    roletalk_string data = json_string(json_member(ask, "data"), &end);
    roletalk_destination destination;
    must(roletalk_peer_destination(*(roletalk_peer *)peer, role, &destination));
    roletalk_context *deferred = allocate(sizeof *deferred);
    must(roletalk_context_defer(incoming->context, deferred));
    roletalk_send_options options = {.struct_size = sizeof options, .parent = *deferred};
    roletalk_context context = *deferred;
    if (roletalk_destination_request_async(destination, event, roletalk_data_text(data), &options,
                                           (roletalk_reply_handler){on_relayed, deferred, free},
                                           NULL) != ROLETALK_STATUS_OK) {
        roletalk_context_reject(context, roletalk_last_error());
    }
    free(memory);
}

void on_headers(void *none, const roletalk_incoming *incoming) {
    (void)none;
    roletalk_header header;
    for (size_t i = 0;
         roletalk_context_header_at(incoming->context, i, &header) == ROLETALK_STATUS_OK; i++) {
        must(roletalk_context_set_header(incoming->context, header.name, header.value));
    }
    roletalk_context_respond(incoming->context, roletalk_data_null());
}

void on_failure(void *none, const roletalk_incoming *incoming) {
    (void)none;
    json told = json_of(roletalk_string_of(incoming->data.bytes, incoming->data.len));
    char *memory = allocate(incoming->data.len), *end = memory;
    roletalk_failure failure = {
        .struct_size = sizeof failure,
        .reason = json_string(json_member(told, "text"), &end),
        .code = json_string(json_member(told, "code"), &end),
        .data = json_raw(json_member(told, "data")),
        .retry_after_ms = (int64_t)json_count(json_member(told, "retry"), 0),
    };
    must(roletalk_context_reject_with(incoming->context, &failure));
    free(memory);
}
