#include "events.h"

#include <inttypes.h>
#include <stdio.h>

#include "json.h"
#include "output.h"

static const char *what_of(int32_t kind) {
    switch (kind) {
        case ROLETALK_EVENT_UNIT_OPENED:
            return "unit-opened";
        case ROLETALK_EVENT_UNIT_CLOSED:
            return "unit-closed";
        case ROLETALK_EVENT_RECONNECT_SUCCEEDED:
            return "reconnected";
        case ROLETALK_EVENT_AUTH_REFUSED:
            return "auth-refused";
        case ROLETALK_EVENT_CONNECTION_CLOSED:
            return "connection-closed";
        case ROLETALK_EVENT_BAD_INPUT:
            return "bad-input";
        case ROLETALK_EVENT_HANDLER_FAILED:
            return "handler-failed";
        case ROLETALK_EVENT_ACCEPT_FAILED:
            return "accept-failed";
        case ROLETALK_EVENT_DENIED:
            return "denied";
        default:
            return NULL;
    }
}

static void print_unit(void *none, const roletalk_unit_info *info) {
    (void)none;
    fputs(",\"unit\":", stdout);
    json_print_string(stdout, info->name);
    fputs(",\"unitId\":", stdout);
    json_print_string(stdout, info->id);
}

static void on_event(void *none, const roletalk_event *event) {
    (void)none;
    const char *what = what_of(event->kind);
    if (!what) return;
    line_begin();
    printf("\"event\":\"peer\",\"what\":\"%s\",\"text\":", what);
    json_print_string(stdout, event->text);
    fputs(",\"address\":", stdout);
    json_print_string(stdout, event->address);
    if (event->unit.id != 0) roletalk_unit_describe(event->unit, print_unit, NULL);
    if (event->kind == ROLETALK_EVENT_DENIED) {
        fputs(",\"role\":", stdout);
        json_print_string(stdout, event->role);
        fputs(",\"kind\":", stdout);
        json_print_string(stdout, event->what);
    } else {
        print_kind(event->status);
    }
    line_end();
}

roletalk_status observe_events(roletalk_peer peer) {
    return roletalk_peer_on_event(peer, (roletalk_event_handler){on_event, NULL, NULL}, NULL);
}

static void add_unit(void *to, roletalk_unit unit) {
    roletalk_unit_stats *sum = to, stats = {.struct_size = sizeof stats};
    if (roletalk_unit_get_stats(unit, &stats) != ROLETALK_STATUS_OK) return;
    sum->connections += stats.connections;
    sum->waiting += stats.waiting;
    sum->running += stats.running;
    sum->streams += stats.streams;
}

void answer_totals(uint64_t id, roletalk_peer peer) {
    roletalk_peer_stats stats = {.struct_size = sizeof stats};
    roletalk_unit_stats sum = {.struct_size = sizeof sum};
    if (roletalk_peer_get_stats(peer, &stats) != ROLETALK_STATUS_OK) {
        answer_last_error(id);
        return;
    }
    roletalk_peer_each_unit(peer, add_unit, &sum);
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":{\"units\":%" PRIu64 ",\"connections\":%" PRIu64, id,
           stats.units, sum.connections);
    printf(",\"waiting\":%" PRIu64 ",\"running\":%" PRIu64, sum.waiting, sum.running);
    printf(",\"streams\":%" PRIu64 ",\"queued\":%" PRIu64 ",\"handshakes\":%" PRIu64 "}",
           sum.streams, stats.queued, stats.handshakes);
    line_end();
}
