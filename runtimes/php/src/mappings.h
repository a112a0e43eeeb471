/*
 * Arranges the fork server's memory so that fork and exit have little to do.
 *
 * The time of fork and exit depends on the number of mappings and of present pages. Debian's PHP has some 290 mappings,
 * five for each of its libraries. Joining adjacent ones leaves fewer than half, which saves a quarter of an
 * invocation's processor time. The price: read-only data takes the rights of the code before it, and the table of
 * addresses that the loader protects against writing stays open. Nothing depends on this: if the kernel refuses, a
 * mapping stays as it is.
 */
#pragma once

/* Call this before the first fork. */
void mappings_join(void);

/* Makes the heap begin where a huge page can; call this before PHP fills it. */
void mappings_align_heap(void);

/* Puts memory that PHP has filled into huge pages (madvise(2), MADV_COLLAPSE), if the kernel can. A fork copies one
   entry for each instead of 512, and the end of a child removes one. A page that a child writes to is copied alone,
   as before. */
void mappings_collapse(void);


/*
 * Makes fork pass on the pages of code that `rehearse` uses, and no others.
 *
 * Fork copies no table of a mapping in which the process has no page of its own, so every child faults in the code that
 * it runs, in some seventy places. This drops all pages of code. Then `rehearse` brings back those that it uses, and
 * each such mapping gets a page of its own.
 */
void mappings_hand_down(void (*rehearse)(void));
