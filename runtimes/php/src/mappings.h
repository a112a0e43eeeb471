/*
 * The fork server's memory, arranged so that fork and exit have little to do.
 *
 * Fork and exit take their time by the number of mappings and of pages in place. Debian's PHP has some 290 mappings, five for
 * each of its libraries. Joined where they lie side by side they are fewer than half, which saves a quarter of an invocation's processor time. The price: what may only be read
 * takes the rights of the code before it, and the table of addresses that the loader closes against writing stays open.
 * Nothing depends on it: where the kernel refuses, a mapping stays as it is.
 */
#pragma once

/* Before the first fork. */
void mappings_join(void);

/* Has the heap begin where a huge page can; to be called before PHP fills it. */
void mappings_align_heap(void);

/* Puts memory that PHP has filled into huge pages (madvise(2), MADV_COLLAPSE), where the kernel can. A fork copies one entry for
   each instead of 512, and the end of a child takes one away. A page that a child writes to is copied alone, as before. */
void mappings_collapse(void);


/*
 * Has fork hand down the pages of code that `rehearse` uses, and no others.
 *
 * Fork copies no table of a mapping in which the process has no page of its own, so every child faults in the code that it
 * runs, in some seventy places. Here all pages of code are dropped, `rehearse` brings back those that it uses, and each such
 * mapping gets a page of its own.
 */
void mappings_hand_down(void (*rehearse)(void));
