/* Pictures: PNG and JPEG in, scaled, PNG out. */
#ifndef IMAGE_H
#define IMAGE_H

#include <stddef.h>

enum {
    SOURCE_PIXELS_MAX = 16 * 1000 * 1000, /* decoding takes up to 24 bytes a pixel (16-bit interlaced PNG) */
    RESULT_PIXELS_MAX = 9 * 1000 * 1000,  /* a 4096 x 2160 frame has 8.8 million */
    WIDTH_MAX = 4096,
};

enum image_fault {
    IMAGE_FINE,
    IMAGE_UNKNOWN,   /* neither PNG nor JPEG */
    IMAGE_DAMAGED,   /* begins as one, but cannot be decoded */
    IMAGE_TOO_LARGE, /* more than SOURCE_PIXELS_MAX, found out before a pixel is decoded, or than memory holds */
    RESULT_TOO_LARGE,
};

struct picture {
    int width, height;
    unsigned char *png; /* malloc'd */
    int png_length;
};

/* Scales to `width` (1 to WIDTH_MAX); the height keeps the proportions, at least 1. */
enum image_fault image_resize(const unsigned char *file, size_t length, int width, struct picture *result);

#endif
