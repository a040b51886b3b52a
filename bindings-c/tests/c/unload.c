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
    int32_t (*rt_peer_new_)(const rt_peer_options *, rt_peer *);
    int32_t (*rt_peer_close_)(rt_peer);
    int32_t (*rt_peer_listen_)(rt_peer, rt_string, const rt_listen_options *, rt_listener *);
    rt_peer closed, open;
    for (int i = 0; i < 3; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) FAIL("%s", dlerror());
        FIND(library, rt_peer_new);
        FIND(library, rt_peer_close);
        FIND(library, rt_peer_listen);
        CHECK(rt_peer_new_(NULL, &closed) == RT_OK);
        CHECK(rt_peer_new_(NULL, &open) == RT_OK);
        CHECK(rt_peer_listen_(open, RT_STR("127.0.0.1:0"), NULL, NULL) == RT_OK);
        CHECK(rt_peer_close_(closed) == RT_OK);
        CHECK(dlclose(library) == 0);
        /* Its threads run on. */
        CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL);
        CHECK(rt_peer_close_(open) == RT_OK);
    }
    puts("unload: ok");
    return 0;
}
