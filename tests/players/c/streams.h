/* Streams after a plan of the runner, each on a thread of its own. */
#ifndef STREAMS_H
#define STREAMS_H

#include "json.h"
#include "roletalk.h"

/* Asks for a stream and answers the command with its result. `unit`, which is freed, is zero for the next in
 * turn. */
void stream_upload(uint64_t id, roletalk_destination destination, roletalk_unit unit,
                   roletalk_string event, json plan);
void stream_download(uint64_t id, roletalk_destination destination, roletalk_unit unit,
                     roletalk_string event, json plan);

/* Accepts a stream, for a handler, and observes its result. */
void stream_receive(const roletalk_incoming *incoming);
void stream_send(const roletalk_incoming *incoming);

/* Lets a reader that pauses go on. False if there is none with this tag. */
bool stream_resume(roletalk_string tag);
/* How many bytes a writer has got rid of. False if there is none with this tag. */
bool stream_progress(roletalk_string tag, uint64_t *bytes);
/* Gives up the stream of a command. False if that has none. */
bool stream_cancel(uint64_t id);

#endif
