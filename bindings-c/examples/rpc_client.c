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
static void on_answer(void *user_data, const rt_reply *reply) {
    (void)user_data;
    must(reply->status, "the answer");
    pthread_mutex_lock(&mutex);
    answered++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "rpc_client URL\n"), 2;
    rt_peer peer;
    rt_destination echo;
    MUST(rt_peer_new(NULL, &peer));
    MUST(rt_peer_connect(peer, text(argv[1]), NULL, NULL));
    MUST(rt_peer_destination(peer, RT_STR("echo"), &echo));
    MUST(rt_destination_ready(echo, 10000));

    rt_send_options options = {.struct_size = sizeof options, .timeout_ms = 2000};
    rt_answer answer;
    rt_reply reply = {.struct_size = sizeof reply};
    MUST(rt_destination_request(echo, RT_STR("say"), rt_text(RT_STR("hello")), &options, &answer));
    MUST(rt_answer_view(answer, &reply));
    printf("%.*s\n", (int)reply.data.len, (const char *)reply.data.bytes);
    MUST(rt_answer_free(answer));

    rt_reply_handler handler = {.call = on_answer};
    for (int i = 0; i < MANY; i++)
        MUST(rt_destination_request_async(echo, RT_STR("say"), rt_null(), &options, handler, NULL));
    pthread_mutex_lock(&mutex);
    while (answered < MANY) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("%d answers\n", answered);
    MUST(rt_peer_close(peer));
    return 0;
}
