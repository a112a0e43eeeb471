/* See base64.h. */
#include "base64.h"

#include <stdint.h>

static const char alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

ssize_t base64_decode(char *text, size_t length) {
    enum { INVALID = 0x80 };
    uint8_t value_of[256];
    for (int i = 0; i < 256; i++) value_of[i] = INVALID;
    for (uint8_t i = 0; i < 64; i++) value_of[(unsigned char)alphabet[i]] = i;

    if (length % 4 != 0) return -1;
    size_t padding = 0;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=') padding++;

    /* Faults are gathered instead of tested, so that the loop has no branches; the last group is looked at below. */
    const unsigned char *in = (const unsigned char *)text;
    unsigned char *out = (unsigned char *)text;
    uint8_t seen = 0;
    size_t plain = padding ? length - 4 : length;
    for (size_t i = 0; i < plain; i += 4, in += 4, out += 3) {
        uint8_t a = value_of[in[0]], b = value_of[in[1]], c = value_of[in[2]], d = value_of[in[3]];
        seen |= a | b | c | d;
        out[0] = (unsigned char)(a << 2 | b >> 4);
        out[1] = (unsigned char)(b << 4 | c >> 2);
        out[2] = (unsigned char)(c << 6 | d);
    }
    if (padding) {
        uint8_t a = value_of[in[0]], b = value_of[in[1]], c = padding == 1 ? value_of[in[2]] : 0;
        seen |= a | b | c;
        uint8_t stray = padding == 1 ? c & 0x03 : b & 0x0f; /* bits that no byte takes must be 0 */
        if (stray) return -1;
        *out++ = (unsigned char)(a << 2 | b >> 4);
        if (padding == 1) *out++ = (unsigned char)(b << 4 | c >> 2);
    }
    return seen & INVALID ? -1 : (ssize_t)(out - (unsigned char *)text);
}

size_t base64_encode(const unsigned char *bytes, size_t length, char *text) {
    char *out = text;
    size_t i = 0;
    for (; i + 3 <= length; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = alphabet[group >> 6 & 63];
        *out++ = alphabet[group & 63];
    }
    if (i < length) {
        uint32_t group = (uint32_t)bytes[i] << 16 | (i + 1 < length ? (uint32_t)bytes[i + 1] << 8 : 0);
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = i + 1 < length ? alphabet[group >> 6 & 63] : '=';
        *out++ = '=';
    }
    return (size_t)(out - text);
}
