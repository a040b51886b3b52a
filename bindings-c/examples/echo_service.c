/* Serves role "echo": answers what it is asked with. Prints its address; ends with SIGTERM or Ctrl-C.
 *
 *   echo_service [ADDRESS]
 */
#include "example.h"

static void say(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    roletalk_context_respond(in->context, in->data);
}

int main(int argc, char **argv) {
    roletalk_peer_options options = {.struct_size = sizeof options};
    options.name = ROLETALK_STR("echo service");
    roletalk_peer peer;
    roletalk_role role;
    roletalk_listener listener;
    MUST(roletalk_peer_new(&options, &peer));
    /* Not offered before its handlers are there. */
    MUST(roletalk_peer_role(peer, ROLETALK_STR("echo"), 0, &role));
    MUST(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("say"),
                              (roletalk_incoming_handler){.call = say}));
    MUST(roletalk_role_enable(role));
    MUST(roletalk_peer_listen(peer, argc > 1 ? text(argv[1]) : ROLETALK_STR("127.0.0.1:0"), NULL,
                              &listener));
    print_address(listener);
    /* Until a signal; what is under way then may finish. */
    MUST(roletalk_peer_serve(peer, ROLETALK_DRAIN_LIMIT_MS, NULL));
    return 0;
}
