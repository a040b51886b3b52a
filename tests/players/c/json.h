/* JSON as text in place: a value is the piece of a line that it stands in. What does not parse reads as
 * absent. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stdio.h>

#include "roletalk.h"

typedef struct {
    /* NULL: absent. */
    const char *at;
    const char *end;
} json;

json json_of(roletalk_string text);

/* The value of this name in an object. */
json json_member(json object, const char *name);

/* Takes the next element off an array, which is changed. */
json json_take(json *array);

/* Whether the brackets and strings of a text all have their ends. */
bool json_is_whole(roletalk_string text);

bool json_is_true(json value);

/* Whether it is this string, which has nothing that is escaped. */
bool json_is(json value, const char *text);

/* A number that is no fraction and not negative; `other` if the value is absent. */
uint64_t json_count(json value, uint64_t other);

/* The value's own text. */
roletalk_string json_raw(json value);

/* Decodes a string to *memory, which is set behind it; it takes no more than the value's own text does. */
roletalk_string json_string(json value, char **memory);

void json_print_string(FILE *file, roletalk_string text);

#endif
