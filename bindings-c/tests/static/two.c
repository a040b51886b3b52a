/* A program with two static libraries that were made by rustc. */
#include "check.h"

int other_sum(int count);

static void add(void *user_data, const rt_incoming *in) {
    (void)user_data;
    int64_t value;
    rt_number number;
    OK(rt_data_as_int64(in->data, &value));
    OK(rt_number_from_int64(value + other_sum((int)value), &number));
    OK(rt_context_respond(in->context, rt_number_data(&number)));
}

int main(void) {
    pair p = connect_pair(RT_CALLBACKS_THREAD);
    handle(&p, RT_REQUEST, "add", add, NULL);
    rt_number number;
    rt_answer answer;
    rt_reply reply;
    int64_t value;
    reply.struct_size = sizeof reply;
    OK(rt_number_from_int64(4, &number));
    OK(rt_destination_request(p.to, RT_STR("add"), rt_number_data(&number), NULL, &answer));
    OK(rt_answer_view(answer, &reply));
    OK(rt_data_as_int64(reply.data, &value));
    CHECK(value == 10);
    OK(rt_answer_free(answer));
    CHECK(other_sum(0) == -1);
    close_pair(&p);
    puts("two: ok");
    return 0;
}
