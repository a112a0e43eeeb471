/*
 * PHP's directives: those of php.ini, the platform's, those of the descriptor's `ini`, and those of .user.ini.
 *
 * The platform's own come after php.ini and before the descriptor's. A process that starts anew hands both to PHP's
 * start; a forked child alters the entries as php-fpm does for a pool. It cannot alter a directive that PHP takes only
 * at its start, or that no extension knows. Such an invocation goes by exec.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

/* The text that PHP reads at its start after php.ini. `settings` may be NULL. NULL without memory, or for a line
   break. */
char *directives_text(const struct settings *settings);

/* In a forked child: alters the entries. False if one needs a new start of PHP; then nothing has been run. */
bool directives_alter(const struct settings *settings);

/* In a forked child: true if a request must begin with the directives of the descriptor or of .user.ini. */
bool directives_shape_request(const struct settings *settings);

/* True if code compiled without the directives of this invocation may differ from code compiled with them. */
bool directives_shape_code(const struct settings *settings);

/* Reads the .user.ini files between DOCUMENT_ROOT and the module's folder, or the one of that folder. */
void directives_read_user_ini(const char *module);

/* PHP calls this when a request begins: applies .user.ini and the sections of php.ini for this host and folder. */
int directives_activate(void);
