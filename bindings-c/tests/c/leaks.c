/* Memory after 10^5 requests is what it was after the first ones. */
#include <malloc.h>

#include "check.h"

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context_respond(in->context, in->data);
}

static void on_reply(void *user_data, const roletalk_reply *reply) {
    OK(reply->status);
    count((counter *)user_data);
}

/* As many requests, a window at a time: asynchronous ones with drop, blocking ones with an answer. */
static void ask(pair *p, int many) {
    counter calls;
    counter_init(&calls);
    for (int i = 0; i < many; i += 100) {
        roletalk_reply_handler handler =
            handler_roletalk_reply_handler(on_reply, &calls, count_drop);
        for (int n = 0; n < 99; n++)
            OK(roletalk_destination_request_async(p->to, ROLETALK_STR("echo"), txt("hello"), NULL,
                                                  handler, NULL));
        roletalk_answer answer;
        OK(roletalk_destination_request(p->to, ROLETALK_STR("echo"), txt("hello"), NULL, &answer));
        OK(roletalk_answer_free(answer));
        wait_count(&calls, (i / 100 + 1) * 99 * 2);
    }
    counter_destroy(&calls);
}

int main(int argc, char **argv) {
    int many = argc > 1 ? atoi(argv[1]) : 100000;
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    ask(&p, many / 5);
    size_t before = mallinfo2().uordblks;
    ask(&p, many);
    size_t after = mallinfo2().uordblks;
    /* Queues may have grown to what they hold at most; what is lost for each request would be more. */
    const size_t queues = 128 << 10;
    if (after > before + queues + 5 * (size_t)many)
        FAIL("%zu bytes before, %zu after", before, after);
    close_pair(&p);
    puts("leaks: ok");
    return 0;
}
