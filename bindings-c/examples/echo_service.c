/* Serves role "echo": answers what it is asked with. Prints its address; ends with its input.
 *
 *   echo_service [ADDRESS]
 */
#include "example.h"

static void say(void *user_data, const rt_incoming *in) {
    (void)user_data;
    rt_context_respond(in->context, in->data);
}

int main(int argc, char **argv) {
    rt_peer_options options = {.struct_size = sizeof options};
    options.name = RT_STR("echo service");
    rt_peer peer;
    rt_role role;
    rt_listener listener;
    MUST(rt_peer_new(&options, &peer));
    /* Not offered before its handlers are there. */
    MUST(rt_peer_role(peer, RT_STR("echo"), 1, &role));
    MUST(rt_role_handle(role, RT_REQUEST, RT_STR("say"), (rt_incoming_handler){.call = say}));
    MUST(rt_role_enable(role));
    MUST(rt_peer_listen(peer, argc > 1 ? text(argv[1]) : RT_STR("127.0.0.1:0"), NULL, &listener));
    print_address(listener);
    wait_for_end_of_input();
    /* Ten seconds for what is under way. */
    MUST(rt_peer_drain(peer, 10000, NULL));
    return 0;
}
