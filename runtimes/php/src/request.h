/*
 * One request: PHP's request cycle around one module.
 *
 * The fork server begins one before it is known, so that its children find it begun. A child takes up the request. Where a
 * directive of the invocation decides how a request begins, it begins anew. Nothing that a request's beginning leaves depends
 * on time, chance or process: random numbers are seeded when they are first asked for.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

/* Begins a request that is not known yet, unless PHP is configured such that it must be known. */
void request_begin_ahead(void);

/* Ends it, so that something else can be done. */
void request_end_ahead(void);

/* In a forked child: whether the directives of the invocation can be had without a new start of PHP. */
bool request_can_serve(const struct settings *settings);

/* Serves the request that stdin and the environment describe. Returns the exit status. */
int request_serve(const struct settings *settings);

/* Goes through a request that is none, without output: what the code touches is what every request touches. */
void request_rehearse(void);
