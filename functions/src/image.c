/* See image.h. The work is done by the stb libraries (public domain; Debian: libstb-dev).
 *
 * Colours are averaged as stored (sRGB values), as browsers do, and weighted by their opacity, so that the colour of
 * what is transparent does not bleed into edges. A camera's orientation mark (Exif) is not looked at.
 *
 * stb_image 2.27 writes past a table of its own when a JPEG announces more than 256 Huffman codes (seen when damaged
 * files were tried). It stays inside this module's memory, which lives for one request and holds nothing of anyone
 * else's: the reason why decoding is done in WebAssembly. Do not lift this file into a long-lived native program.
 */
#include "image.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "deflate.h"

#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_ASSERT(condition) ((void)0)
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

#define STBIR_ASSERT(condition) ((void)0)
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb_image_resize.h>

#define STBI_WRITE_NO_STDIO
#define STBIW_ASSERT(condition) ((void)0)
#define STBIW_ZLIB_COMPRESS(data, length, out_length, quality) zlib_compress(data, length, out_length)
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

enum { PAETH = 4 }; /* the PNG filter that suits photographs; to try all five on every row takes longer and gains little */

static bool begins_with(const unsigned char *file, size_t length, const char *bytes, size_t count) {
    return length >= count && memcmp(file, bytes, count) == 0;
}

static enum image_fault encode(const unsigned char *pixels, int channels, struct picture *result) {
    stbi_write_force_png_filter = PAETH;
    result->png = stbi_write_png_to_mem(pixels, 0, result->width, result->height, channels, &result->png_length);
    return result->png ? IMAGE_FINE : RESULT_TOO_LARGE;
}

/* Frees `pixels`, as soon as they are not needed any more. */
static enum image_fault scale(unsigned char *pixels, int width, int height, int channels, struct picture *result) {
    if (result->width == width && result->height == height) {
        enum image_fault fault = encode(pixels, channels, result);
        free(pixels);
        return fault;
    }
    unsigned char *scaled = malloc((size_t)result->width * (size_t)result->height * (size_t)channels);
    int alpha = channels == 2 || channels == 4 ? channels - 1 : STBIR_ALPHA_CHANNEL_NONE;
    bool done = scaled && stbir_resize_uint8_generic(pixels, width, height, 0, scaled, result->width, result->height, 0,
                                                     channels, alpha, 0, STBIR_EDGE_CLAMP, STBIR_FILTER_DEFAULT,
                                                     STBIR_COLORSPACE_LINEAR, NULL);
    free(pixels);
    enum image_fault fault = done ? encode(scaled, channels, result) : RESULT_TOO_LARGE;
    free(scaled);
    return fault;
}

enum image_fault image_resize(const unsigned char *file, size_t length, int wanted_width, struct picture *result) {
    if (!begins_with(file, length, "\x89PNG\r\n\x1a\n", 8) && !begins_with(file, length, "\xff\xd8\xff", 3))
        return IMAGE_UNKNOWN;
    int width, height, channels;
    if (!stbi_info_from_memory(file, (int)length, &width, &height, &channels)) return IMAGE_DAMAGED;
    if (width < 1 || height < 1) return IMAGE_DAMAGED;
    if ((int64_t)width * height > SOURCE_PIXELS_MAX) return IMAGE_TOO_LARGE;

    int64_t exact_height = ((int64_t)height * wanted_width + width / 2) / width;
    if (exact_height < 1) exact_height = 1;
    if (exact_height * wanted_width > RESULT_PIXELS_MAX) return RESULT_TOO_LARGE;
    result->width = wanted_width;
    result->height = (int)exact_height;

    unsigned char *pixels = stbi_load_from_memory(file, (int)length, &width, &height, &channels, 0);
    if (pixels == NULL) return strcmp(stbi_failure_reason(), "outofmem") == 0 ? IMAGE_TOO_LARGE : IMAGE_DAMAGED;
    return scale(pixels, width, height, channels, result);
}
