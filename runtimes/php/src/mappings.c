/* The mappings of libraries; mappings.h has the interface. */

#define _GNU_SOURCE
#include "mappings.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Far more than a PHP with all of its extensions has. */
#define MAPPINGS_MAX 4096

struct mapping {
    unsigned long from, to, inode;
    char rights[5];
};

static int read_all(struct mapping *all)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    int count = 0;
    while (maps && count < MAPPINGS_MAX && fgets(line, sizeof line, maps)) {
        struct mapping *mapping = &all[count];
        if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &mapping->from, &mapping->to, mapping->rights, &mapping->inode) == 4)
            count++;
    }
    if (maps)
        fclose(maps);
    return count;
}

/* Bits of pagemap (the kernel's Documentation/admin-guide/mm/pagemap.rst): the page is present; it belongs to a
   file. */
#define PAGE_IS_PRESENT (1ULL << 63)
#define PAGE_IS_FILES (1ULL << 61)

static struct mapping all[MAPPINGS_MAX];

static bool are_neighbours(const struct mapping *one, const struct mapping *next)
{
    return next->from == one->to && next->inode == one->inode;
}

void mappings_join(void)
{
    int count = read_all(all);
    for (int at = 0; at < count; at++) {
        const struct mapping *mapping = &all[at];
        if (mapping->inode == 0 || strcmp(mapping->rights, "r--p") != 0)
            continue;
        bool has_next = at + 1 < count && are_neighbours(mapping, mapping + 1);
        bool has_previous = at > 0 && are_neighbours(mapping - 1, mapping);
        int rights = has_next && strcmp(mapping[1].rights, "rw-p") == 0 ? PROT_READ | PROT_WRITE
            : has_next || has_previous                                 ? PROT_READ | PROT_EXEC
                                                                       : PROT_READ;
        (void)mprotect((void *)mapping->from, mapping->to - mapping->from, rights);
    }
}

/* Size of a huge page on x86_64, and on aarch64 with pages of 4 KiB. Elsewhere the kernel refuses. */
#define HUGE_BYTES (2ul << 20)
/* Minimum number of present pages for a huge page. With fewer it would waste memory, as in the chunk of requests,
   which children write to. */
#define COLLAPSE_PAGES_MIN 128

/* From linux/mman.h, since 6.1; Debian's C library lacks it. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static unsigned long round_up(unsigned long address)
{
    return (address + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

void mappings_align_heap(void)
{
    unsigned long end = (unsigned long)sbrk(0);
    (void)!sbrk((intptr_t)(round_up(end) - end));
}

static int count_present(unsigned long from, int pagemap)
{
    unsigned long size = (unsigned long)getpagesize();
    int count = 0;
    for (unsigned long at = from; at < from + HUGE_BYTES; at += size) {
        uint64_t page;
        if (pread(pagemap, &page, sizeof page, (off_t)(at / size * sizeof page)) == sizeof page && (page & PAGE_IS_PRESENT))
            count++;
    }
    return count;
}

void mappings_collapse(void)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    /* The last huge page of the heap must lie in it as a whole. */
    mappings_align_heap();
    int count = read_all(all);
    for (int at = 0; at < count; at++) {
        if (all[at].inode != 0 || strcmp(all[at].rights, "rw-p") != 0)
            continue;
        for (unsigned long from = round_up(all[at].from); from + HUGE_BYTES <= all[at].to; from += HUGE_BYTES) {
            if (count_present(from, pagemap) >= COLLAPSE_PAGES_MIN)
                (void)madvise((void *)from, HUGE_BYTES, MADV_COLLAPSE);
        }
    }
    if (pagemap >= 0)
        close(pagemap);
}

/* Drops a mapping's pages that belong to the file if `is_to_be_dropped`. Returns the number that were present. */
static int count_pages(const struct mapping *mapping, int pagemap, bool is_to_be_dropped)
{
    unsigned long size = (unsigned long)getpagesize();
    int count = 0;
    for (unsigned long at = mapping->from; at < mapping->to; at += size) {
        uint64_t page;
        if (pread(pagemap, &page, sizeof page, (off_t)(at / size * sizeof page)) != sizeof page)
            return 0;
        if ((page & (PAGE_IS_PRESENT | PAGE_IS_FILES)) != (PAGE_IS_PRESENT | PAGE_IS_FILES))
            continue;
        count++;
        if (is_to_be_dropped)
            (void)madvise((void *)at, size, MADV_DONTNEED);
    }
    return count;
}

/* Writes the bytes that are there already. */
static void own_a_page(const struct mapping *mapping)
{
    void *start = (void *)mapping->from;
    unsigned long length = mapping->to - mapping->from;
    volatile char *byte = start;
    if (mprotect(start, length, PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
        *byte = *byte;
    (void)mprotect(start, length, PROT_READ | PROT_EXEC);
}

void mappings_hand_down(void (*rehearse)(void))
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int count = read_all(all);
    for (int at = 0; at < count; at++) {
        if (all[at].inode != 0 && strcmp(all[at].rights, "r-xp") == 0)
            count_pages(&all[at], pagemap, true);
    }
    rehearse();
    for (int at = 0; at < count; at++) {
        if (all[at].inode != 0 && strcmp(all[at].rights, "r-xp") == 0 && count_pages(&all[at], pagemap, false) > 0)
            own_a_page(&all[at]);
    }
    if (pagemap >= 0)
        close(pagemap);
}
