/* What happens to the peer and what is open in it, for the runner. */
#ifndef EVENTS_H
#define EVENTS_H

#include "roletalk.h"

/* Observes from now on. */
roletalk_status observe_events(roletalk_peer peer);
/* What is open, and what waits, with all units together. */
void answer_totals(uint64_t id, roletalk_peer peer);

#endif
