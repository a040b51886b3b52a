/* What every role of a player does. */
#ifndef HANDLERS_H
#define HANDLERS_H

#include "json.h"
#include "roletalk.h"

/* `peer` and `peer_name` outlive the role. */
void serve(const roletalk_peer *peer, roletalk_role role, const roletalk_string *peer_name);
/* Handles an event for messages, and for requests with these answers, one after the other. */
void handle(roletalk_role role, roletalk_string event, json answers);
/* Takes messages of an event, and answers requests with their own payload. */
void handle_quietly(roletalk_role role, roletalk_string event);
/* Answers the requests that are held. */
void release_held(void);

/* A payload of the runner's; decodes to *memory as json_string. */
roletalk_data payload_of(json payload, char **memory);

#endif
