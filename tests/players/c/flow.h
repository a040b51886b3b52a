/* Numbered requests, each of which is accounted for. */
#ifndef FLOW_H
#define FLOW_H

#include "roletalk.h"

typedef struct {
    roletalk_destination destination;
    /* The unit that is meant, which the flow frees; zero for the next in turn. */
    roletalk_unit unit;
    roletalk_string event;
    uint64_t from;
    uint64_t count;
    /* How many at a time. */
    uint64_t in_flight;
    /* The least that a payload is long, in bytes. */
    size_t size;
    /* Milliseconds for each answer; 0 for the default. */
    int64_t timeout_ms;
} flow_options;

/* Asks with all of the numbers, then answers the command with the account. */
void flow_start(uint64_t id, const flow_options *options);

#endif
