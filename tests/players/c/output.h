/* The lines that a player prints, each at once. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "roletalk.h"

/* Between these two, the thread prints the inside of one object to stdout. */
void line_begin(void);
void line_end(void);

void print_payload(roletalk_data data);
void print_name_of(roletalk_unit unit);

void answer_null(uint64_t id);
void answer_count(uint64_t id, uint64_t count);
void answer_error(uint64_t id, roletalk_string error);
/* With the name of the status. */
void answer_failure(uint64_t id, roletalk_status status, roletalk_string error);
/* With the name of the status, and what the handler has said. */
void answer_reply(uint64_t id, const roletalk_reply *reply);
/* The name of a status other than ROLETALK_STATUS_OK, as a further field. */
void print_kind(roletalk_status status);
/* With the error of the last call that failed. */
void answer_last_error(uint64_t id);

/* A message or a request. */
void observe_incoming(const char *event, const roletalk_incoming *incoming);
void observe_count(const char *event, size_t count);

#endif
