/* Serves role "store": writes one uploaded file to its standard output, then ends. Prints its address to
 * standard error.
 *
 *   receive_file [ADDRESS]
 */
#include <pthread.h>

#include "example.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static roletalk_readable stream;

/* Accepts, and leaves the reading to the main thread: callbacks of other requests must not wait for a
   file. */
static void on_upload(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    pthread_mutex_lock(&mutex);
    if (stream.id != 0)
        roletalk_context_reject(in->context, ROLETALK_STR("one file is enough"));
    else
        must(roletalk_context_accept_readable(in->context, roletalk_data_null(), &stream),
             "accept");
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv) {
    roletalk_peer peer;
    roletalk_role role;
    roletalk_listener listener;
    roletalk_incoming_handler upload = {.call = on_upload};
    MUST(roletalk_peer_new(NULL, &peer));
    MUST(roletalk_peer_role(peer, ROLETALK_STR("store"), 0, &role));
    MUST(roletalk_role_handle(role, ROLETALK_KIND_READABLE, ROLETALK_STR("upload"), upload));
    MUST(roletalk_role_enable(role));
    MUST(roletalk_peer_listen(peer, argc > 1 ? text(argv[1]) : ROLETALK_STR("127.0.0.1:0"), NULL,
                              &listener));
    char url[256];
    size_t len;
    MUST(roletalk_listener_url(listener, url, sizeof url, &len));
    fprintf(stderr, "%.*s\n", (int)len, url);
    pthread_mutex_lock(&mutex);
    while (stream.id == 0) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    static char piece[64 << 10];
    for (;;) {
        MUST(roletalk_readable_read(stream, piece, sizeof piece, -1, &len));
        if (len == 0) break;
        fwrite(piece, 1, len, stdout);
    }
    MUST(roletalk_readable_close(stream));
    MUST(roletalk_peer_drain(peer, 10000, NULL));
    return 0;
}
