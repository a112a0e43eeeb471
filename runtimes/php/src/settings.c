/* The settings of one invocation; settings.h has the interface. */

#include "settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void settings_begin(struct settings *settings)
{
    memset(settings, 0, sizeof *settings);
    settings->is_network_allowed = true;
    settings->output = OUTPUT_AUTO;
}

bool strings_add(struct strings *strings, char *item)
{
    /* The room doubles at each power of two; one place more holds the NULL. */
    if ((strings->count & (strings->count + 1)) == 0) {
        char **items = realloc(strings->items, (2 * (strings->count + 1) + 1) * sizeof *items);
        if (!items)
            return false;
        strings->items = items;
    }
    strings->items[strings->count++] = item;
    strings->items[strings->count] = NULL;
    return true;
}

static bool take_number(unsigned long *number, const char *value)
{
    char *end;
    errno = 0;
    *number = strtoul(value, &end, 10);
    return errno == 0 && *value >= '0' && *value <= '9' && *end == '\0';
}

static bool take_bool(bool *flag, const char *value)
{
    *flag = value[0] == '1';
    return (value[0] == '0' || value[0] == '1') && value[1] == '\0';
}

static bool take_output(enum output *output, const char *value)
{
    static const char *const names[] = {"auto", "cgi", "raw"};
    for (int at = 0; at < 3; at++) {
        if (strcmp(value, names[at]) == 0) {
            *output = (enum output)at;
            return true;
        }
    }
    return false;
}

bool settings_take(struct settings *settings, const char *name, char *value, const char **why)
{
    const struct {
        const char *name;
        const char **place;
    } texts[] = {
        {"module", &settings->module},   {"version", &settings->version}, {"folder", &settings->folder},
        {"route", &settings->route},     {"handler", &settings->handler}, {"session_dir", &settings->session_dir},
    };
    for (size_t at = 0; at < sizeof texts / sizeof *texts; at++) {
        if (strcmp(name, texts[at].name) == 0) {
            *texts[at].place = value;
            return true;
        }
    }
    bool is_good = true;
    *why = "a setting has a value that is none";
    if (strcmp(name, "memory_mib") == 0)
        is_good = take_number(&settings->memory_mib, value);
    else if (strcmp(name, "data_mib_max") == 0)
        is_good = take_number(&settings->data_mib_max, value);
    else if (strcmp(name, "processes_max") == 0)
        is_good = take_number(&settings->processes_max, value);
    else if (strcmp(name, "namespace") == 0)
        is_good = take_bool(&settings->has_namespace, value);
    else if (strcmp(name, "net") == 0)
        is_good = take_bool(&settings->is_network_allowed, value);
    else if (strcmp(name, "dev") == 0)
        is_good = take_bool(&settings->are_errors_shown, value);
    else if (strcmp(name, "output") == 0)
        is_good = take_output(&settings->output, value);
    else if (strcmp(name, "arg") == 0)
        is_good = strings_add(&settings->arguments, value);
    else if (strcmp(name, "ini") == 0)
        is_good = strings_add(&settings->ini, value);
    return is_good;
}

bool settings_read(struct settings *settings, char *bytes, size_t length, const char **why)
{
    for (char *at = bytes; at < bytes + length; at += strlen(at) + 1) {
        char *equals = strchr(at, '=');
        if (!equals) {
            *why = "a setting has no value";
            return false;
        }
        *equals = '\0';
        char *value = equals + 1;
        if (!settings_take(settings, at, value, why))
            return false;
        at = value;
    }
    return true;
}
