/* Base64 (RFC 4648 section 4), strict: the standard alphabet, padded, no line breaks, no stray bits. */
#ifndef BASE64_H
#define BASE64_H

#include <stddef.h>
#include <sys/types.h>

/* Decodes in place and returns the number of bytes, or -1 where `text` is not base64. */
ssize_t base64_decode(char *text, size_t length);

/* Writes 4 characters for every 3 bytes begun, without a NUL, and returns their number. */
size_t base64_encode(const unsigned char *bytes, size_t length, char *text);

#endif
