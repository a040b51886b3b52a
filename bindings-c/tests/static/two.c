/* A program with two static libraries that were made by rustc. */
#include "check.h"

int other_sum(int count);

static void add(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    int64_t value;
    roletalk_number number;
    OK(roletalk_data_as_int64(in->data, &value));
    OK(roletalk_number_from_int64(value + other_sum((int)value), &number));
    OK(roletalk_context_respond(in->context, roletalk_data_number(&number)));
}

int main(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    handle(&p, ROLETALK_KIND_REQUEST, "add", add, NULL);
    roletalk_number number;
    roletalk_answer answer;
    roletalk_reply reply;
    int64_t value;
    reply.struct_size = sizeof reply;
    OK(roletalk_number_from_int64(4, &number));
    OK(roletalk_destination_request(p.to, ROLETALK_STR("add"), roletalk_data_number(&number), NULL,
                                    &answer));
    OK(roletalk_answer_view(answer, &reply));
    OK(roletalk_data_as_int64(reply.data, &value));
    CHECK(value == 10);
    OK(roletalk_answer_free(answer));
    CHECK(other_sum(0) == -1);
    close_pair(&p);
    puts("two: ok");
    return 0;
}
