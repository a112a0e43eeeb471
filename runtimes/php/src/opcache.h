/*
 * Opcache's memory and lock file, which processes that fork from one another would share.
 *
 * Right after the start, the memory becomes private pages: the fork server fills it, children inherit it, and no
 * process can change the code that another executes. The lock file stays open in each child, since opcache locks it
 * whenever it compiles.
 */
#pragma once

#include <stdbool.h>

/* In the fork server, before its first fork: makes opcache's memory private, and notes the descriptor of its lock
   file. Does nothing without opcache. */
bool opcache_make_private(const char **why);

/* The descriptor that opcache locks; -1 without opcache. */
int opcache_lock_descriptor(void);

/* In a child: replaces opcache's lock file, through which children could block each other, by an empty file of its
   own. */
bool opcache_replace_lock(void);
