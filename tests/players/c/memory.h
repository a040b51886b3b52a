/* What cannot fail here: a player that has no memory or no thread left, or misuses the library, ends. */
#ifndef MEMORY_H
#define MEMORY_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "roletalk.h"

/* Zeroed; freed by free(). */
static inline void *allocate(size_t size) {
    void *memory = calloc(1, size + 1);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* Its data is freed by free(). */
static inline roletalk_string copy(roletalk_string text) {
    char *memory = allocate(text.len);
    if (text.len > 0) memcpy(memory, text.data, text.len);
    return roletalk_string_of(memory, text.len);
}

static inline void start_thread(void *(*body)(void *), void *of) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, of) != 0) {
        fputs("cannot start a thread\n", stderr);
        exit(1);
    }
    pthread_detach(thread);
}

static inline void must(roletalk_status status) {
    if (status != ROLETALK_STATUS_OK) {
        roletalk_string error = roletalk_last_error();
        fprintf(stderr, "%.*s\n", ROLETALK_ARG(error));
        exit(1);
    }
}

#endif
