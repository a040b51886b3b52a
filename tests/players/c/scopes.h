/* Handlers whose requesters may give up, and what goes with requests besides payloads. */
#ifndef SCOPES_H
#define SCOPES_H

#include "roletalk.h"

void on_wait(void *none, const roletalk_incoming *incoming);
void on_relay(void *peer, const roletalk_incoming *incoming);
void on_headers(void *none, const roletalk_incoming *incoming);
void on_failure(void *none, const roletalk_incoming *incoming);

#endif
