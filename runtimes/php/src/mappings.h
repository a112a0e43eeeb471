/*
 * Arranges the fork server's memory so that fork and exit have little to do.
 *
 * Their time depends on the number of mappings, and on the pages that are the process's own: fork enters each of these
 * into the child's tables, and exit takes it out again. Debian's PHP with forty extensions has some 500 mappings and
 * 3,500 pages of its own, of which a child uses a tenth. Nothing depends on the steps here: where the kernel refuses
 * one, a mapping stays as it is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Joins adjacent mappings of a library, which leaves fewer than half of them: without it, an invocation takes a third
   more processor time. The price: read-only data takes the rights of the code before it, and the table of addresses
   that the loader protects against writing stays open. */
void mappings_join(void);

/* Puts the code of PHP itself into a file without a name, and maps that in its place, if the file system keeps files in
   memory in pieces of 2 MB (ext4 since Linux 6.16, XFS since 6.6). Two entries of the page tables then stand for most of
   the code, not one for each page. This saves a fifth of an invocation's processor time. The price is some 5 MB of page
   cache that this fork server shares with its children alone. */
void mappings_keep_code(void);

/* Puts all writable memory but the stack into a file without a name, and maps that in its place. Then fork passes on no
   page of it: a child takes from the file what it uses, and what it writes to becomes its own, as before. This saves a
   quarter of an invocation's processor time. Call it when PHP has started, before the first fork, and again when the
   fork server has written to much of its memory: its older children keep the file that they were forked with. */
void mappings_keep_data(void);

/* True if a page holds zeroes only. */
bool mappings_is_empty(const char *page, size_t size);
