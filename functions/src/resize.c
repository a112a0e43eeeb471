/* POST /resize: scales a picture.
 *
 *   in   {"image": "<base64 of a PNG or JPEG, or a data: URL of one>", "width": 800}
 *   out  {"image": "<base64 of a PNG>", "width": 800, "height": 533}
 *
 * A request that cannot be served gets a 4xx answer {"error": "..."} that says why. Memory is bounded three times: the
 * body by BODY_BYTES_MAX, the picture by its pixels (image.h), which are known before one of them is decoded, and the
 * module as a whole by the linear memory it is linked with (build.sh), which no malloc gets past.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base64.h"
#include "image.h"
#include "json.h"

enum {
    BODY_BYTES_MAX = 32 << 20,
    BODY_BYTES_FIRST = 64 << 10, /* where CONTENT_LENGTH does not say how many to expect */
};

/* Ends the program with an answer; a refused request is no failure of the function. */
static _Noreturn void refuse(const char *status, const char *reason) {
    printf("Status: %s\r\nContent-Type: application/json\r\n\r\n{\"error\":\"", status);
    for (; *reason; reason++) {
        if (*reason == '"' || *reason == '\\') putchar('\\');
        putchar(*reason);
    }
    puts("\"}");
    exit(0);
}

static struct text read_body(void) {
    const char *announced = getenv("CONTENT_LENGTH");
    size_t capacity = announced ? strtoul(announced, NULL, 10) + 1 : BODY_BYTES_FIRST; /* + 1 to see the end */
    if (capacity > BODY_BYTES_MAX + 1) capacity = BODY_BYTES_MAX + 1;
    struct text body = {malloc(capacity), 0};
    for (;;) {
        if (body.start == NULL) refuse("413 Content Too Large", "the body does not fit into memory");
        ssize_t count = read(STDIN_FILENO, body.start + body.length, capacity - body.length);
        if (count < 0 && errno != EINTR) exit(1);
        if (count == 0) return body;
        if (count > 0) body.length += (size_t)count;
        if (body.length > BODY_BYTES_MAX) refuse("413 Content Too Large", "the body is larger than 32 MiB");
        if (body.length < capacity) continue;
        capacity = capacity < BODY_BYTES_MAX / 2 ? capacity * 2 : BODY_BYTES_MAX + 1;
        body.start = realloc(body.start, capacity);
    }
}

static _Noreturn void refuse_json(const char *fault) {
    char reason[160];
    snprintf(reason, sizeof reason, "the body must be JSON like {\"image\": \"<base64>\", \"width\": 800}: %s", fault);
    refuse("400 Bad Request", reason);
}

/* Reads {"image": ..., "width": ...}; other members are checked and ignored. Of a repeated member the last one counts. */
static struct text parse(struct text body, long *width) {
    struct json json = json_open(body.start, body.length);
    struct text name, image = {NULL, 0};
    *width = 0;
    json_begin_object(&json);
    while (json_next_member(&json, &name)) {
        bool understood = text_equals(name, "image")   ? json_string(&json, &image)
                          : text_equals(name, "width") ? json_whole_number(&json, WIDTH_MAX, width) && *width > 0
                                                       : json_skip(&json);
        if (understood) continue;
        if (text_equals(name, "width")) refuse("400 Bad Request", "\"width\" must be a whole number from 1 to 4096");
        break;
    }
    if (!json_end(&json)) refuse_json(json.fault);
    if (image.start == NULL) refuse_json("\"image\" is missing");
    if (*width == 0) refuse_json("\"width\" is missing");
    return image;
}

/* Takes "data:image/png;base64," off the front. Which of the two formats it really is, the bytes say. */
static struct text without_data_url(struct text image) {
    static const char *const prefixes[] = {"data:image/png;base64,", "data:image/jpeg;base64,"};
    if (image.length < 5 || memcmp(image.start, "data:", 5) != 0) return image;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t length = strlen(prefixes[i]);
        if (image.length >= length && memcmp(image.start, prefixes[i], length) == 0)
            return (struct text){image.start + length, image.length - length};
    }
    refuse("415 Unsupported Media Type",
           "a data: URL must begin with data:image/png;base64, or data:image/jpeg;base64,");
}

static void check(enum image_fault fault) {
    switch (fault) {
    case IMAGE_FINE: return;
    case IMAGE_UNKNOWN: refuse("415 Unsupported Media Type", "\"image\" is neither a PNG nor a JPEG");
    case IMAGE_DAMAGED: refuse("422 Unprocessable Content", "\"image\" is damaged and cannot be decoded");
    case IMAGE_TOO_LARGE:
        refuse("413 Content Too Large",
               "\"image\" is too large: it may have 16 million pixels, and take 384 MiB while it is decoded");
    case RESULT_TOO_LARGE:
        refuse("400 Bad Request", "the result would have too many pixels; 9 million is the most");
    }
}

static void answer(const struct picture *picture) {
    enum { PIECE = 48 * 1024 }; /* a multiple of 3, so that only the last piece is padded */
    static char text[PIECE / 3 * 4];
    printf("Content-Type: application/json\r\n\r\n{\"image\":\"");
    for (int done = 0; done < picture->png_length; done += PIECE) {
        int count = picture->png_length - done < PIECE ? picture->png_length - done : PIECE;
        fwrite(text, 1, base64_encode(picture->png + done, (size_t)count, text), stdout);
    }
    printf("\",\"width\":%d,\"height\":%d}\n", picture->width, picture->height);
}

int main(void) {
    struct picture picture;
    long width;
    struct text image = without_data_url(parse(read_body(), &width));
    ssize_t length = base64_decode(image.start, image.length);
    if (length < 0) refuse("400 Bad Request", "\"image\" is not base64");
    check(image_resize((unsigned char *)image.start, (size_t)length, (int)width, &picture));
    answer(&picture);
    return fflush(stdout) == 0 ? 0 : 1;
}
