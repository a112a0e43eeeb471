/*
 * Opens /dev/stdin, /dev/stdout and /dev/stderr by name, as scripts and logging libraries do.
 *
 * PHP resolves a path before it opens it, and these lead to a pipe, which has no path. So php-cgi cannot open them
 * either if a server has put pipes there. The kernel opens the last two by the name as it stands. The first stands for
 * php://input here: PHP itself has read the body from stdin before the script runs.
 */
#pragma once

/* At PHP's start: makes the three names open this way. PHP itself handles every other path, and include. */
void standard_streams_open_by_name(void);
