/*
 * The compiling of PHP code, and the code that a forked child finds compiled.
 *
 * Opcache compiles main scripts, nothing else: a process that lives for one invocation uses included code once, and
 * optimising it would cost more than it saves. The fork server's children inherit the code that it has compiled
 * (opcache.h).
 *
 * Preparing compiles a module within a request cycle of its own and runs none of it: afterwards the tables of classes,
 * functions and constants are as before. A child of the fork server tries it first, without network or right to write,
 * and bounded in time and memory (prepare.c). The fork server compiles only a module that survives that.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

#include "php.h"

/* Call this while PHP starts its modules. */
void code_take_turn(void);

/* Call this after the start of PHP. */
void code_after_start(void);

/* Compiles `module`. Returns NULL on success, otherwise the reason, which is valid until the next call. */
const char *code_compile(const char *module);

/* Compiles `module`, keeps the result under `version`. Returns the same as code_compile(). */
const char *code_prepare(const char *module, const char *version);

/* True if nothing more can be prepared. */
bool code_is_full(void);

/* Forgets all prepared modules. */
void code_forget(void);

/* In a child, in a request: drops the prepared code of `path`, a real path. Keeps it if it is that of `version`, the
   file is unchanged, and `is_usable`. */
void code_check(zend_string *path, const char *version, bool is_usable);
