/* The process's title, as ps and top show it. */
#pragma once

/* Call this first, with main()'s own arguments: notes where the kernel looks for the title, and moves the
   environment elsewhere. */
void title_begin(int count, char **arguments);

/* "faas-php: WHAT". */
void title_set(const char *what);
