/*
 * The settings of one invocation: how it is to be served.
 *
 * A forked child receives them from the worker as `name=value` and a NUL, repeated; `run` takes them from its command
 * line. ../../README.md has the table. Strings are not copied: they live as long as the bytes they came in.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum output { OUTPUT_AUTO, OUTPUT_CGI, OUTPUT_RAW };

/* A list that grows; `items` ends with NULL. */
struct strings {
    char **items;
    size_t count;
};

struct settings {
    const char *module;
    const char *version;
    const char *folder;
    const char *route;
    const char *handler;
    const char *session_dir;
    /* In MiB; 0 if it is not set. */
    unsigned long memory_mib;
    unsigned long data_mib_max;
    /* 0 if it is not set. */
    unsigned long processes_max;
    bool has_namespace;
    bool is_network_allowed;
    bool are_errors_shown;
    enum output output;
    struct strings arguments;
    struct strings ini;
};

/* Sets the defaults. */
void settings_begin(struct settings *settings);

/* Takes one setting; ignores an unknown name. False if the value is invalid; `*why` then holds the reason. */
bool settings_take(struct settings *settings, const char *name, char *value, const char **why);

/* Takes all of `bytes`, whose last byte is a NUL. */
bool settings_read(struct settings *settings, char *bytes, size_t length, const char **why);

/* Adds to a list. False without memory. */
bool strings_add(struct strings *strings, char *item);
