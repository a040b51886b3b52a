/* dlopen, use, dlclose: unload LIBRARY. The library stays, with the peer that was not closed. */
#include <dlfcn.h>

#include "check.h"

static void *find(void *library, const char *name) {
    void *function = dlsym(library, name);
    if (!function) FAIL("%s", dlerror());
    return function;
}

/* ISO C has no conversion from a pointer to data to one to a function. */
#define FIND(library, function)                                                                    \
    do {                                                                                           \
        void *found_ = find(library, #function);                                                   \
        memcpy(&function##_, &found_, sizeof found_);                                              \
    } while (0)

int main(int argc, char **argv) {
    CHECK(argc == 2);
    roletalk_status (*roletalk_peer_new_)(const roletalk_peer_options *, roletalk_peer *);
    roletalk_status (*roletalk_peer_close_)(roletalk_peer);
    roletalk_status (*roletalk_peer_listen_)(roletalk_peer, roletalk_string,
                                             const roletalk_listen_options *, roletalk_listener *);
    roletalk_peer closed, open;
    for (int i = 0; i < 3; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) FAIL("%s", dlerror());
        FIND(library, roletalk_peer_new);
        FIND(library, roletalk_peer_close);
        FIND(library, roletalk_peer_listen);
        CHECK(roletalk_peer_new_(NULL, &closed) == ROLETALK_STATUS_OK);
        CHECK(roletalk_peer_new_(NULL, &open) == ROLETALK_STATUS_OK);
        CHECK(roletalk_peer_listen_(open, ROLETALK_STR("127.0.0.1:0"), NULL, NULL) ==
              ROLETALK_STATUS_OK);
        CHECK(roletalk_peer_close_(closed) == ROLETALK_STATUS_OK);
        CHECK(dlclose(library) == 0);
        /* Its threads run on. */
        CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL);
        CHECK(roletalk_peer_close_(open) == ROLETALK_STATUS_OK);
    }
    puts("unload: ok");
    return 0;
}
