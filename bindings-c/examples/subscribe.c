/* Prints what is published to role "news", until the publisher is gone.
 *
 *   subscribe URL
 */
#include <pthread.h>

#include "example.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int gone;

static void on_line(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    printf("%.*s\n", (int)in->data.len, (const char *)in->data.bytes);
    fflush(stdout);
}

static void on_event(void *user_data, const roletalk_event *event) {
    (void)user_data;
    if (event->kind != ROLETALK_EVENT_UNIT_CLOSED) return;
    pthread_mutex_lock(&mutex);
    gone = 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "subscribe URL\n"), 2;
    roletalk_peer peer;
    roletalk_role role;
    roletalk_incoming_handler line = {.call = on_line};
    roletalk_event_handler events = {.call = on_event};
    MUST(roletalk_peer_new(NULL, &peer));
    MUST(roletalk_peer_role(peer, ROLETALK_STR("news"), 1, &role));
    MUST(roletalk_role_handle(role, ROLETALK_KIND_MESSAGE, ROLETALK_STR("line"), line));
    MUST(roletalk_peer_on_event(peer, events, NULL));
    MUST(roletalk_peer_connect(peer, text(argv[1]), NULL, NULL));
    pthread_mutex_lock(&mutex);
    while (!gone) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    MUST(roletalk_peer_close(peer));
    return 0;
}
