/*
 * A forked child: it receives one invocation through its channel, restricts itself, serves it, and ends.
 *
 * ../../README.md, "A child", is the order of the steps. Nothing of a function is touched before the child has restricted
 * itself.
 */
#pragma once

#include <sys/types.h>

/* Does all of it. `server` is the fork server. */
_Noreturn void invocation_serve(int channel, pid_t server);
