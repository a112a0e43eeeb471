/*
 * /dev/stdin, /dev/stdout and /dev/stderr opened by name, as scripts and logging libraries do.
 *
 * PHP resolves a path before it opens it, and these lead to a pipe, which has no path. So in php-cgi, too, they cannot be
 * opened where a server has put pipes there. The kernel opens the last two by the name as it stands. The first stands for
 * php://input here: PHP itself has read the body from stdin before the script runs.
 */
#pragma once

/* At PHP's start: has the three names opened so. Every other path, and include, is PHP's own business. */
void standard_streams_open_by_name(void);
