#include "flow.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "memory.h"
#include "output.h"

/* A number and the space after it. */
enum { NUMBER = 24 };

typedef struct {
    roletalk_string name;
    uint64_t count;
} tally;

typedef struct {
    tally *tallies;
    size_t count;
} tallies;

typedef struct {
    uint64_t *numbers;
    size_t count;
} numbers;

typedef struct {
    uint64_t id;
    flow_options options;
    /* What follows is guarded by it. */
    pthread_mutex_t mutex;
    uint64_t next;
    /* Those that ask, each with one request at a time. */
    uint64_t lanes;
    uint64_t answered;
    numbers failed;
    numbers wrong;
    tallies by;
    tallies errors;
} flow;

typedef struct {
    flow *flow;
    uint64_t number;
    unsigned outcomes;
} question;

static void add_number(numbers *to, uint64_t number) {
    to->numbers = realloc(to->numbers, (to->count + 1) * sizeof *to->numbers);
    if (!to->numbers) exit(1);
    to->numbers[to->count++] = number;
}

static void count_name(tallies *in, roletalk_string name) {
    size_t i = 0;
    while (i < in->count && (in->tallies[i].name.len != name.len ||
                             memcmp(in->tallies[i].name.data, name.data, name.len) != 0)) {
        i++;
    }
    if (i == in->count) {
        in->tallies = realloc(in->tallies, (in->count + 1) * sizeof *in->tallies);
        if (!in->tallies) exit(1);
        in->tallies[in->count++] = (tally){copy(name), 0};
    }
    in->tallies[i].count++;
}

/* The number, then the name of the peer that counted it. */
static void account_answer(flow *flow, uint64_t number, roletalk_data answer) {
    char begin[NUMBER];
    size_t len = (size_t)snprintf(begin, sizeof begin, "%" PRIu64 " ", number);
    bool right = answer.len > len && memcmp(answer.bytes, begin, len) == 0;
    if (right) {
        flow->answered++;
        count_name(&flow->by,
                   roletalk_string_of((const char *)answer.bytes + len, answer.len - len));
    } else {
        add_number(&flow->wrong, number);
    }
}

static void account_failure(flow *flow, uint64_t number, roletalk_status status) {
    pthread_mutex_lock(&flow->mutex);
    add_number(&flow->failed, number);
    count_name(&flow->errors, roletalk_status_name(status));
    pthread_mutex_unlock(&flow->mutex);
}

static void on_answer(void *given, const roletalk_reply *reply) {
    question *question = given;
    flow *flow = question->flow;
    if (question->outcomes++ == 0 && reply->status != ROLETALK_STATUS_OK) {
        account_failure(flow, question->number, reply->status);
        return;
    }
    pthread_mutex_lock(&flow->mutex);
    if (question->outcomes == 1) {
        account_answer(flow, question->number, reply->data);
    } else {
        // A second outcome.
        add_number(&flow->wrong, question->number);
    }
    pthread_mutex_unlock(&flow->mutex);
}

static void ask(flow *flow);

static void drop_question(void *given) {
    question *question = given;
    flow *flow = question->flow;
    // Without an outcome it was not asked; `ask` accounts for it then.
    bool asked = question->outcomes > 0;
    free(question);
    if (asked) ask(flow);
}

static roletalk_status ask_number(flow *flow, uint64_t number) {
    question *made = allocate(sizeof *made);
    made->flow = flow;
    made->number = number;
    const flow_options *given = &flow->options;
    size_t size = given->size < NUMBER ? NUMBER : given->size;
    char *payload = allocate(size);
    size_t len = (size_t)snprintf(payload, size, "%" PRIu64 " ", number);
    if (len < given->size) memset(payload + len, ' ', given->size - len);
    roletalk_send_options options = {
        .struct_size = sizeof options,
        .unit = given->unit,
        .timeout_ms = given->timeout_ms,
    };
    roletalk_data data =
        roletalk_data_text(roletalk_string_of(payload, len < given->size ? given->size : len));
    roletalk_reply_handler handler = {on_answer, made, drop_question};
    roletalk_status status = roletalk_destination_request_async(given->destination, given->event,
                                                                data, &options, handler, NULL);
    free(payload);
    return status;
}

static void print_numbers(const char *name, const numbers *numbers) {
    printf(",\"%s\":[", name);
    for (size_t i = 0; i < numbers->count; i++) {
        printf("%s%" PRIu64, i > 0 ? "," : "", numbers->numbers[i]);
    }
    putchar(']');
    free(numbers->numbers);
}

static void print_tallies(const char *name, const tallies *tallies) {
    printf(",\"%s\":{", name);
    for (size_t i = 0; i < tallies->count; i++) {
        if (i > 0) putchar(',');
        json_print_string(stdout, tallies->tallies[i].name);
        printf(":%" PRIu64, tallies->tallies[i].count);
        free((char *)tallies->tallies[i].name.data);
    }
    putchar('}');
    free(tallies->tallies);
}

static void end_flow(flow *flow) {
    line_begin();
    printf("\"id\":%" PRIu64 ",\"result\":{\"answered\":%" PRIu64, flow->id, flow->answered);
    print_numbers("failed", &flow->failed);
    print_numbers("wrong", &flow->wrong);
    print_tallies("by", &flow->by);
    print_tallies("errors", &flow->errors);
    putchar('}');
    line_end();
    roletalk_unit_free(flow->options.unit);
    free((char *)flow->options.event.data);
    pthread_mutex_destroy(&flow->mutex);
    free(flow);
}

/* Asks with the next number; the end of the last lane is that of the flow. */
static void ask(flow *flow) {
    for (;;) {
        pthread_mutex_lock(&flow->mutex);
        bool more = flow->next < flow->options.from + flow->options.count;
        uint64_t number = more ? flow->next++ : 0;
        bool last = !more && --flow->lanes == 0;
        pthread_mutex_unlock(&flow->mutex);
        if (last) end_flow(flow);
        if (!more) return;
        roletalk_status status = ask_number(flow, number);
        if (status == ROLETALK_STATUS_OK) return;
        account_failure(flow, number, status);
    }
}

void flow_start(uint64_t id, const flow_options *options) {
    flow *made = allocate(sizeof *made);
    made->id = id;
    made->options = *options;
    made->options.event = copy(options->event);
    made->next = options->from;
    pthread_mutex_init(&made->mutex, NULL);
    // One for this function, which ends without a question.
    made->lanes = options->in_flight + 1;
    for (uint64_t i = 0; i <= options->in_flight; i++) ask(made);
}
