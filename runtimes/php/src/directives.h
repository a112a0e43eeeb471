/*
 * PHP's directives: php.ini, what the platform sets, what the descriptor's `ini` sets, and .user.ini.
 *
 * The platform's own come after php.ini and before the descriptor's. A process that starts anew hands both to PHP's start;
 * a forked child alters the entries as php-fpm does for a pool. A directive that PHP takes only at its start, or that no
 * extension knows, cannot be altered then: such an invocation goes by exec.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

/* The text that PHP reads at its start behind php.ini. `settings` may be NULL. NULL without memory, or for a line break. */
char *directives_text(const struct settings *settings);

/* In a forked child: alters the entries. False where one needs a new start of PHP; then nothing has been run. */
bool directives_alter(const struct settings *settings);

/* In a forked child: the descriptor's or .user.ini's directives are such that a request must begin with them. */
bool directives_shape_request(const struct settings *settings);

/* Whether code that was compiled without the directives of this invocation may differ from what it would get. */
bool directives_shape_code(const struct settings *settings);

/* Reads the .user.ini files between DOCUMENT_ROOT and the module's folder, or of that folder. */
void directives_read_user_ini(const char *module);

/* What PHP calls when a request begins: applies .user.ini and the sections of php.ini for this host and folder. */
int directives_activate(void);
