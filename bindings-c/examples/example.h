/* What the examples share: nothing that a program needs. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "roletalk.h"

/* Ends the program when a call fails. */
static inline void must(roletalk_status status, const char *what) {
    if (status == ROLETALK_STATUS_OK) return;
    roletalk_string why = roletalk_last_error();
    fprintf(stderr, "%s: %.*s\n", what, ROLETALK_ARG(why));
    exit(1);
}
#define MUST(call) must((call), #call)

static inline roletalk_string text(const char *string) {
    return roletalk_string_of(string, strlen(string));
}

static inline void print_address(roletalk_listener listener) {
    char url[256];
    size_t len;
    MUST(roletalk_listener_url(listener, url, sizeof url, &len));
    printf("%.*s\n", (int)len, url);
    fflush(stdout);
}

#endif
