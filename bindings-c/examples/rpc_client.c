/* Asks role "echo", first waiting for each answer, then for many at the same time.
 *
 *   rpc_client URL
 */
#include <pthread.h>

#include "example.h"

enum { MANY = 100 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int answered;

/* Called on the library's thread. */
static void on_answer(void *user_data, const roletalk_reply *reply) {
    (void)user_data;
    must(reply->status, "the answer");
    pthread_mutex_lock(&mutex);
    answered++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "rpc_client URL\n"), 2;
    roletalk_peer peer;
    roletalk_destination echo;
    MUST(roletalk_peer_new(NULL, &peer));
    MUST(roletalk_peer_connect(peer, text(argv[1]), NULL, NULL));
    MUST(roletalk_peer_destination(peer, ROLETALK_STR("echo"), &echo));
    MUST(roletalk_destination_ready(echo, 10000));

    roletalk_send_options options = {.struct_size = sizeof options, .timeout_ms = 2000};
    roletalk_answer answer;
    roletalk_reply reply = {.struct_size = sizeof reply};
    MUST(roletalk_destination_request(
        echo, ROLETALK_STR("say"), roletalk_data_text(ROLETALK_STR("hello")), &options, &answer));
    MUST(roletalk_answer_view(answer, &reply));
    printf("%.*s\n", (int)reply.data.len, (const char *)reply.data.bytes);
    MUST(roletalk_answer_free(answer));

    roletalk_reply_handler handler = {.call = on_answer};
    for (int i = 0; i < MANY; i++)
        MUST(roletalk_destination_request_async(echo, ROLETALK_STR("say"), roletalk_data_null(),
                                                &options, handler, NULL));
    pthread_mutex_lock(&mutex);
    while (answered < MANY) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("%d answers\n", answered);
    MUST(roletalk_peer_close(peer));
    return 0;
}
