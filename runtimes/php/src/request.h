/*
 * One request: PHP's request cycle around one module.
 *
 * The fork server begins one before it is known, so that its children find it begun. A child takes up the request. If a
 * directive of the invocation decides how a request begins, the child begins it anew. The state after a beginning does
 * not depend on time, chance or process: PHP seeds random numbers on first use.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

/* Begins a request that is not known yet, unless PHP's configuration requires that it is known. */
void request_begin_ahead(void);

/* Ends it, so that other work can be done. */
void request_end_ahead(void);

/* In a forked child: true if the invocation's directives need no new start of PHP. */
bool request_can_serve(const struct settings *settings);

/* Serves the request that stdin and the environment describe. Returns the exit status. */
int request_serve(const struct settings *settings);
