/*
 * Opcache's memory and lock file, which processes that fork from one another would share.
 *
 * The memory becomes private pages right after the start: the fork server fills it, children inherit it, and none can change
 * what another executes. The lock file stays open in each child, since opcache locks it whenever it compiles.
 */
#pragma once

#include <stdbool.h>

/* In the fork server, before its first fork: makes opcache's memory private, and notes which descriptor its lock file has.
   Without opcache this does nothing. */
bool opcache_make_private(const char **why);

/* The descriptor that opcache locks; -1 without opcache. */
int opcache_lock_descriptor(void);

/* In a child: puts an empty file of its own in the place of opcache's lock file, through which children could block each
   other. */
bool opcache_replace_lock(void);
