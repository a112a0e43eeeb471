/*
 * The mappings of libraries, joined where they lie side by side.
 *
 * Fork and exit take their time by the number of mappings, and Debian's PHP has some 290, five for each of its libraries.
 * Joined they are fewer than half, which saves a quarter of an invocation's processor time. The price: what may only be read
 * takes the rights of the code before it, and the table of addresses that the loader closes against writing stays open.
 * Nothing depends on it: where the kernel refuses, a mapping stays as it is.
 */
#pragma once

/* Before the first fork. */
void mappings_join(void);

/*
 * Has fork hand down the pages of code that `rehearse` uses, and no others.
 *
 * Fork copies no table of a mapping in which the process has no page of its own, so every child faults in the code that it
 * runs, in some seventy places. Here all pages of code are dropped, `rehearse` brings back those that it uses, and each such
 * mapping gets a page of its own.
 */
void mappings_hand_down(void (*rehearse)(void));

/* What every child writes to is found out by a child that goes through `rehearse` and looks which pages have become its own. */
void mappings_find_written(void (*rehearse)(void));

/* In a child, while nobody waits: takes copies of those pages ahead. */
void mappings_copy_written(void);
