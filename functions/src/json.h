/* A JSON reader (RFC 8259) that works inside the request's own buffer and allocates nothing.
 *
 * Why not a tree: the one thing of size in a request is a string of megabytes. It is unescaped where it stands, which
 * only ever makes it shorter, and handed out as a piece of the buffer.
 *
 * Use: json_begin_object, then json_next_member until it says no, reading or skipping each value, then json_end. After
 * the first fault every call fails, and `fault` says what was wrong.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

struct text {
    char *start;
    size_t length;
};

struct json {
    char *at;
    char *end;
    const char *fault; /* NULL while all is well */
    bool first_member;
};

/* The buffer is changed while it is read; it need not end in a NUL. */
struct json json_open(char *buffer, size_t length);

bool json_begin_object(struct json *json);

/* The next member's name; its value must be read or skipped before the next call. False at the object's end. */
bool json_next_member(struct json *json, struct text *name);

bool json_string(struct json *json, struct text *value);

/* A number without fraction and exponent, from 0 to `max`. */
bool json_whole_number(struct json *json, long max, long *value);

/* Any value, checked as strictly as one that is read. */
bool json_skip(struct json *json);

/* Nothing but white space may follow. */
bool json_end(struct json *json);

bool text_equals(struct text text, const char *expected);

#endif
