/* The process's title, as ps and top show it. */
#pragma once

/* To be called first, with main()'s own: notes where the kernel looks for the title. The environment moves elsewhere. */
void title_begin(int count, char **arguments);

/* "faas-php: WHAT". */
void title_set(const char *what);
