/*
 * A forked child: it receives one invocation through its channel, restricts itself, serves it, and ends.
 *
 * ../../README.md, "A child", lists the steps in order. The child touches nothing of a function before it has
 * restricted itself.
 */
#pragma once

#include <sys/types.h>

/* Performs all steps. `server` is the fork server. */
_Noreturn void invocation_serve(int channel, pid_t server);
