#include "json.h"

#include <stdlib.h>
#include <string.h>

static const char *skip_space(const char *at, const char *end) {
    while (at < end && memchr(" \t\r\n:,", *at, 6)) at++;
    return at;
}

/* The end of the string that begins here. */
static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end && *at != '"'; at++) {
        if (*at == '\\') at++;
    }
    return at < end ? at + 1 : end;
}

/* Sets *open to the number of brackets whose ends are missing. */
static const char *skip(const char *at, const char *end, int *open) {
    int depth = 0;
    do {
        if (*at == '"') {
            at = skip_string(at, end);
        } else if (*at == '{' || *at == '[') {
            depth++, at++;
        } else if (*at == '}' || *at == ']') {
            depth--, at++;
        } else if (depth > 0) {
            at++;
        } else {
            while (at < end && !memchr(" \t\r\n,:]}", *at, 8)) at++;
        }
    } while (depth > 0 && at < end);
    *open = depth;
    return at;
}

static const char *skip_value(const char *at, const char *end) {
    int open;
    return skip(at, end, &open);
}

/* The value that begins at *at, which is moved past it. */
static json take(const char **at, const char *end) {
    json value = {NULL, NULL};
    *at = skip_space(*at, end);
    if (*at == end || **at == '}' || **at == ']') return value;
    value.at = *at;
    value.end = *at = skip_value(*at, end);
    return value;
}

json json_of(roletalk_string text) {
    const char *at = text.data;
    return take(&at, text.data + text.len);
}

bool json_is(json value, const char *text) {
    size_t len = strlen(text);
    return value.at && (size_t)(value.end - value.at) == len + 2 &&
           memcmp(value.at + 1, text, len) == 0;
}

json json_member(json object, const char *name) {
    json key = {NULL, NULL}, value = {NULL, NULL};
    if (!object.at || *object.at != '{') return value;
    const char *at = object.at + 1;
    while ((key = take(&at, object.end)).at) {
        value = take(&at, object.end);
        if (json_is(key, name)) return value;
    }
    return key;
}

json json_take(json *array) {
    json absent = {NULL, NULL};
    if (!array->at) return absent;
    if (*array->at == '[') array->at++;
    return take(&array->at, array->end);
}

bool json_is_whole(roletalk_string text) {
    const char *end = text.data + text.len, *at = skip_space(text.data, end);
    int open = 1;
    if (at < end) skip(at, end, &open);
    return open == 0;
}

bool json_is_true(json value) {
    return value.at && *value.at == 't';
}

uint64_t json_count(json value, uint64_t other) {
    return value.at ? strtoull(value.at, NULL, 10) : other;
}

roletalk_string json_raw(json value) {
    return roletalk_string_of(value.at, (size_t)(value.end - value.at));
}

static unsigned hex4(const char *at) {
    char digits[5] = {at[0], at[1], at[2], at[3], 0};
    return (unsigned)strtoul(digits, NULL, 16);
}

static char *put_utf8(char *to, unsigned code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    *to++ = (char)(lead[more] | code >> 6 * more);
    while (more-- > 0) *to++ = (char)(0x80 | (code >> 6 * more & 0x3f));
    return to;
}

/* The character after a backslash. */
static const char *put_escaped(const char *at, const char *end, char **to) {
    static const char names[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    if (*at != 'u' || end - at < 5) {
        const char *name = strchr(names, *at);
        *(*to)++ = name && *name ? meanings[name - names] : *at;
        return at + 1;
    }
    unsigned code = hex4(at + 1);
    at += 5;
    bool high = code >= 0xd800 && code < 0xdc00;
    if (high && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
        code = 0x10000 + ((code - 0xd800) << 10) + (hex4(at + 2) - 0xdc00);
        at += 6;
    }
    *to = put_utf8(*to, code);
    return at;
}

roletalk_string json_string(json value, char **memory) {
    char *begin = *memory;
    if (value.at && *value.at == '"') {
        const char *at = value.at + 1, *end = value.end - 1;
        while (at < end) {
            if (*at == '\\') {
                at = put_escaped(at + 1, end, memory);
            } else {
                *(*memory)++ = *at++;
            }
        }
    }
    return roletalk_string_of(begin, (size_t)(*memory - begin));
}

void json_print_string(FILE *file, roletalk_string text) {
    putc('"', file);
    for (size_t i = 0; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        if (byte < 0x20) {
            fprintf(file, "\\u%04x", byte);
        } else {
            if (byte == '"' || byte == '\\') putc('\\', file);
            putc(byte, file);
        }
    }
    putc('"', file);
}
