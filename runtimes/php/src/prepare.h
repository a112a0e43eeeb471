/*
 * Modules to prepare, one after the other: a child tries each first, then the fork server compiles it.
 *
 * A trial has no network, may not write, and is bounded in processor time, time and memory: a module that ends it ends
 * no fork server. If opcache's memory is full, the fork server forgets all modules and prepares the younger half again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Takes the settings of a P packet. False if they are malformed. */
bool prepare_take(char *settings, size_t length);

/* Makes prepare_take() accept no more modules. */
void prepare_stop(void);

/* True if prepare_work() has something to do. */
bool prepare_has_work(void);

/* Does one step. */
void prepare_work(pid_t server);

/* True while a trial runs. */
bool prepare_is_trying(void);

/* Takes the result of a reaped child, if that was the trial. */
void prepare_take_trial(pid_t process, int status);
