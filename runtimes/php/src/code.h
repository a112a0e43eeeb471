/*
 * How PHP code is compiled, and what of it a forked child finds compiled.
 *
 * Opcache compiles main scripts, nothing else: code that is included is used once in a process that lives for one
 * invocation, and optimising it would cost more than it saves. The fork server's children inherit what it has compiled
 * (opcache.h).
 *
 * Preparing compiles a module within a request cycle of its own and runs none of it: afterwards the tables of classes,
 * functions and constants are as they were. A child of the fork server tries it first, without network or right to write
 * and bounded in time and memory (prepare.c); only what survives that is compiled in the fork server.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

#include "php.h"

/* While PHP starts its modules. */
void code_take_turn(void);

/* After the start of PHP. */
void code_after_start(void);

/* Compiles `module`. NULL if that went well, else the reason, which holds until the next call. */
const char *code_compile(const char *module);

/* Compiles `module`, keeps the result under `version`. As code_compile(). */
const char *code_prepare(const char *module, const char *version);

/* Whether nothing more can be prepared. */
bool code_is_full(void);

/* Forgets all that is prepared. */
void code_forget(void);

/* In a child, in a request: drops the prepared code of `path`, a real path, unless it is that of `version`, the file is what
   it was, and `is_usable`. */
void code_check(zend_string *path, const char *version, bool is_usable);
