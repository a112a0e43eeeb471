/* The mappings of libraries; mappings.h has the interface. */

#define _GNU_SOURCE
#include "mappings.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
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

/* Of pagemap (the kernel's Documentation/admin-guide/mm/pagemap.rst): the page is in place; it is a file's. */
#define PAGE_IS_PRESENT (1ULL << 63)
#define PAGE_IS_FILES (1ULL << 61)
#define PAGE_IS_EXCLUSIVE (1ULL << 56)

/* Ranges of pages that every child writes to; a simple request has some thirty. */
#define WRITTEN_MAX 256
struct range {
    unsigned long from, to;
};
static struct range written[WRITTEN_MAX];
static int written_count;

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

/* Drops a mapping's pages that are the file's, where `is_to_be_dropped`. Returns how many were in place. */
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

/* What is written is what stands there. */
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

static int find_exclusive(const struct mapping *mapping, int pagemap, struct range *ranges, int count)
{
    unsigned long size = (unsigned long)getpagesize();
    for (unsigned long at = mapping->from; at < mapping->to; at += size) {
        uint64_t page, wanted = PAGE_IS_PRESENT | PAGE_IS_EXCLUSIVE;
        if (pread(pagemap, &page, sizeof page, (off_t)(at / size * sizeof page)) != sizeof page)
            break;
        if ((page & (wanted | PAGE_IS_FILES)) != wanted)
            continue;
        if (count > 0 && ranges[count - 1].to == at)
            ranges[count - 1].to += size;
        else if (count < WRITTEN_MAX)
            ranges[count++] = (struct range){at, at + size};
    }
    return count;
}

static _Noreturn void tell_written(void (*rehearse)(void), int pipe)
{
    static struct range found[WRITTEN_MAX];
    int count = read_all(all), ranges = 0;
    rehearse();
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (int at = 0; at < count; at++) {
        if (strcmp(all[at].rights, "rw-p") == 0)
            ranges = find_exclusive(&all[at], pagemap, found, ranges);
    }
    size_t length = (size_t)ranges * sizeof *found;
    _exit(write(pipe, found, length) != (ssize_t)length);
}

void mappings_find_written(void (*rehearse)(void))
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    pid_t process = fork();
    if (process == 0)
        tell_written(rehearse, ends[1]);
    close(ends[1]);
    /* What fits into a pipe comes in one piece. */
    ssize_t length = read(ends[0], written, sizeof written);
    written_count = length > 0 ? (int)((size_t)length / sizeof *written) : 0;
    close(ends[0]);
    if (process > 0)
        waitpid(process, NULL, 0);
}

void mappings_copy_written(void)
{
    /* Where a range is no more, the kernel says so, which is no matter. */
    for (int at = 0; at < written_count; at++)
        (void)madvise((void *)written[at].from, written[at].to - written[at].from, MADV_POPULATE_WRITE);
}
