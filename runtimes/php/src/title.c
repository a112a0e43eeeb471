/*
 * The process's title; title.h has the interface.
 *
 * Linux shows the bytes from the first argument to the end of the last one. It continues into the environment if the
 * last argument's NUL is overwritten.
 */

#define _GNU_SOURCE
#include "title.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <stdlib.h>

static char *area;
static size_t area_size;

void title_begin(int count, char **arguments)
{
    if (count == 0)
        return;
    char *end = arguments[count - 1] + strlen(arguments[count - 1]) + 1;
    size_t variables = 0;
    for (; environ[variables]; variables++) {
        if (environ[variables] == end)
            end += strlen(end) + 1;
    }
    char **copy = calloc(variables + 1, sizeof *copy);
    if (!copy)
        return;
    for (size_t at = 0; at < variables; at++)
        copy[at] = strdup(environ[at]);
    environ = copy;
    area = arguments[0];
    area_size = (size_t)(end - area);
    /* The command line's strings are still needed after the title has replaced them. */
    for (int at = 0; at < count; at++)
        arguments[at] = strdup(arguments[at]);
}

void title_set(const char *what)
{
    char text[4096];
    int length = snprintf(text, sizeof text, "faas-php: %s", what);
    if (length < 0)
        return;
    prctl(PR_SET_NAME, text);
    if (area_size < 2)
        return;
    size_t count = (size_t)length < area_size - 1 ? (size_t)length : area_size - 1;
    memcpy(area, text, count);
    memset(area + count, 0, area_size - count);
}
