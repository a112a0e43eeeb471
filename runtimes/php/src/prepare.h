/*
 * Modules that are to be prepared, one after the other: each is tried by a child first, then compiled in the fork server.
 *
 * A trial has no network, may not write, and is bounded in processor time, time and memory: what ends it ends no fork server.
 * Where opcache's memory is full, all is forgotten, and the younger half of what was prepared is prepared again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Takes the settings of a P packet. False where they are none. */
bool prepare_take(char *settings, size_t length);

/* Takes up no module any more. */
void prepare_stop(void);

/* Whether prepare_work() has something to do. */
bool prepare_has_work(void);

/* Does one step. */
void prepare_work(pid_t server);

/* Whether a trial runs. */
bool prepare_is_trying(void);

/* A child that has been reaped, if it was the trial. */
void prepare_take_trial(pid_t process, int status);
