/* See json.h. Where RFC 8259 gives a rule, it is kept to: no comments, no trailing commas, no leading zeros, no control
 * characters inside strings, no lone halves of surrogate pairs, and strings that are UTF-8. */
#include "json.h"

#include <stdint.h>
#include <string.h>

enum { DEPTH_MAX = 64 }; /* nested values in what is skipped; each level takes a stack frame */

struct json json_open(char *buffer, size_t length) {
    return (struct json){.at = buffer, .end = buffer + length, .fault = NULL, .first_member = true};
}

bool text_equals(struct text text, const char *expected) {
    return text.length == strlen(expected) && memcmp(text.start, expected, text.length) == 0;
}

static bool fail(struct json *json, const char *fault) {
    if (json->fault == NULL) json->fault = fault;
    return false;
}

static void skip_space(struct json *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r'))
        json->at++;
}

/* The next character that is not white space, 0 at the end; it is not taken. */
static char peek(struct json *json) {
    skip_space(json);
    return json->fault == NULL && json->at < json->end ? *json->at : 0;
}

static bool take(struct json *json, char expected) {
    if (peek(json) != expected) return false;
    json->at++;
    return true;
}

/* Bytes of the UTF-8 character at `at` (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF), or 0. */
static size_t utf8_length(const unsigned char *at, const unsigned char *end) {
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
    if (length == 0 || (size_t)(end - at) < length) return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    bool overlong = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xf0 && at[1] < 0x90);
    bool no_character = (at[0] == 0xed && at[1] >= 0xa0) || (at[0] == 0xf4 && at[1] >= 0x90);
    return overlong || no_character ? 0 : length;
}

static char *utf8_write(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    int following = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
    *out++ = (char)(first[following] | code >> (6 * following));
    while (following-- > 0) *out++ = (char)(0x80 | (code >> (6 * following) & 0x3f));
    return out;
}

/* The four hexadecimal digits after \u. */
static bool hex4(struct json *json, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, json->at++) {
        char digit = json->at < json->end ? *json->at : 0;
        uint32_t value;
        if (digit >= '0' && digit <= '9') value = (uint32_t)(digit - '0');
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f') value = (uint32_t)((digit | 0x20) - 'a' + 10);
        else return fail(json, "\\u in a string must be followed by four hexadecimal digits");
        *code = *code << 4 | value;
    }
    return true;
}

/* What stands after a backslash. Every escape is longer than the character it stands for, so `out` cannot overtake. */
static bool escape(struct json *json, char **out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char letter = json->at < json->end ? *json->at : 0;
    const char *name = letter ? strchr(names, letter) : NULL;
    if (name != NULL) {
        json->at++;
        *(*out)++ = values[name - names];
        return true;
    }
    if (letter != 'u') return fail(json, "a string has an unknown escape");
    json->at++;
    uint32_t code, low;
    if (!hex4(json, &code)) return false;
    if (code >= 0xdc00 && code < 0xe000) return fail(json, "a string has half of a surrogate pair");
    if (code >= 0xd800 && code < 0xdc00) {
        if (json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u')
            return fail(json, "a string has half of a surrogate pair");
        json->at += 2;
        if (!hex4(json, &low)) return false;
        if (low < 0xdc00 || low >= 0xe000) return fail(json, "a string has half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    *out = utf8_write(*out, code);
    return true;
}

bool json_string(struct json *json, struct text *value) {
    if (!take(json, '"')) return fail(json, "a string was expected");
    char *out = value->start = json->at;
    for (;;) {
        if (json->at == json->end) return fail(json, "a string does not end");
        unsigned char byte = (unsigned char)*json->at;
        if (byte == '"') break;
        if (byte < 0x20) return fail(json, "a string has a control character");
        if (byte == '\\') {
            json->at++;
            if (!escape(json, &out)) return false;
            continue;
        }
        size_t length = utf8_length((unsigned char *)json->at, (unsigned char *)json->end);
        if (length == 0) return fail(json, "a string is not UTF-8");
        while (length-- > 0) *out++ = *json->at++;
    }
    json->at++;
    value->length = (size_t)(out - value->start);
    return true;
}

bool json_begin_object(struct json *json) {
    json->first_member = true;
    return take(json, '{') || fail(json, "an object was expected");
}

bool json_next_member(struct json *json, struct text *name) {
    if (take(json, '}')) return false;
    if (!json->first_member && !take(json, ',')) return fail(json, "a comma or the end of the object was expected");
    json->first_member = false;
    if (!json_string(json, name)) return false;
    return take(json, ':') || fail(json, "a colon was expected");
}

static size_t digits(struct json *json) {
    char *start = json->at;
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') json->at++;
    return (size_t)(json->at - start);
}

/* Takes a number; `*whole` says whether it has neither sign nor fraction nor exponent. */
static bool number(struct json *json, struct text *text, bool *whole) {
    peek(json);
    text->start = json->at;
    *whole = true;
    if (json->at < json->end && *json->at == '-') {
        json->at++;
        *whole = false;
    }
    bool zero = json->at < json->end && *json->at == '0';
    size_t count = digits(json);
    if (count == 0) return fail(json, "a value was expected");
    if (zero && count > 1) return fail(json, "a number starts with 0");
    if (json->at < json->end && *json->at == '.') {
        json->at++;
        *whole = false;
        if (digits(json) == 0) return fail(json, "a number has no digit after its point");
    }
    if (json->at < json->end && (*json->at | 0x20) == 'e') {
        json->at++;
        *whole = false;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-')) json->at++;
        if (digits(json) == 0) return fail(json, "a number has no digit in its exponent");
    }
    text->length = (size_t)(json->at - text->start);
    return true;
}

bool json_whole_number(struct json *json, long max, long *value) {
    struct text text;
    bool whole;
    if (!number(json, &text, &whole)) return false;
    if (!whole) return fail(json, "a number must be whole and not negative");
    *value = 0;
    for (size_t i = 0; i < text.length; i++) {
        long digit = text.start[i] - '0';
        if (*value > (max - digit) / 10) return fail(json, "a number is too large");
        *value = *value * 10 + digit;
    }
    return true;
}

static bool word(struct json *json, const char *expected) {
    size_t length = strlen(expected);
    if ((size_t)(json->end - json->at) < length || memcmp(json->at, expected, length) != 0)
        return fail(json, "a value was expected");
    json->at += length;
    return true;
}

static bool skip(struct json *json, int depth);

static bool skip_array(struct json *json, int depth) {
    take(json, '[');
    if (take(json, ']')) return true;
    do {
        if (!skip(json, depth)) return false;
    } while (take(json, ','));
    return take(json, ']') || fail(json, "a comma or the end of the array was expected");
}

static bool skip_object(struct json *json, int depth) {
    struct text name;
    json_begin_object(json);
    while (json_next_member(json, &name))
        if (!skip(json, depth)) return false;
    json->first_member = false; /* the object around this one has had a member: this one */
    return json->fault == NULL;
}

static bool skip(struct json *json, int depth) {
    struct text text;
    bool whole;
    if (depth == DEPTH_MAX) return fail(json, "values are nested too deeply");
    switch (peek(json)) {
    case '{': return skip_object(json, depth + 1);
    case '[': return skip_array(json, depth + 1);
    case '"': return json_string(json, &text);
    case 't': return word(json, "true");
    case 'f': return word(json, "false");
    case 'n': return word(json, "null");
    default: return number(json, &text, &whole);
    }
}

bool json_skip(struct json *json) {
    return skip(json, 0);
}

bool json_end(struct json *json) {
    skip_space(json);
    if (json->fault != NULL) return false;
    return json->at == json->end || fail(json, "something follows the end of the object");
}
