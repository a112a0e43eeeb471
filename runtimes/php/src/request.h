/*
 * One request: PHP's request cycle around one module.
 *
 * A forked child begins the cycle before it knows what it is to serve, and takes up the request later. Where a directive of
 * the invocation decides how a request begins, it begins anew.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

/* Begins a request that is not known yet. False where PHP is configured such that it must be known. */
bool request_begin_ahead(void);

/* Whether this PHP can serve the invocation: its directives can be had without a new start. In a forked child. */
bool request_can_serve(const struct settings *settings, bool is_begun);

/* Serves the request that stdin and the environment describe. Returns the exit status. */
int request_serve(const struct settings *settings, bool is_begun);
