/* The fork server's mappings; mappings.h has the interface. */

#define _GNU_SOURCE
#include "mappings.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "php.h"
#include "php_main.h"

/* Far more than a PHP with all of its extensions has. */
#define MAPPINGS_MAX 4096
/* Memory that one entry of the page tables can stand for, if a file holds it in one piece at the same place of such a
   unit. The size is that of x86_64, and of aarch64 with small pages. */
#define HUGE_PAGE (2ul << 20)
/* As many bytes as the kernel enters into the tables at the first touch of one page. */
#define FAULT_AROUND (64ul << 10)

struct mapping {
    unsigned long from, to, inode;
    char rights[5];
    bool is_stack;
};

static struct mapping all[MAPPINGS_MAX];

static int read_all(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    int count = 0;
    while (maps && count < MAPPINGS_MAX && fgets(line, sizeof line, maps)) {
        struct mapping *mapping = &all[count];
        if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &mapping->from, &mapping->to, mapping->rights, &mapping->inode) != 4)
            continue;
        mapping->is_stack = strstr(line, "[stack]") != NULL;
        count++;
    }
    if (maps)
        fclose(maps);
    return count;
}

/* ---- Fewer mappings ---------------------------------------------------------------------------------------------- */

static bool are_neighbours(const struct mapping *one, const struct mapping *next)
{
    return next->from == one->to && next->inode == one->inode;
}

void mappings_join(void)
{
    int count = read_all();
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

/* ---- Fewer pages ------------------------------------------------------------------------------------------------- */

struct copy {
    int file;
    off_t length;
};

/* Creates a file without a name; -1 if there is no place for it. On a tmpfs it would be memory that each function is
   charged for. */
static int create_file(void)
{
    /* mkostemp(3) replaces the last six characters, at each call. */
    static const char *const paths[] = {"/var/tmp/faas-php-XXXXXX", "/tmp/faas-php-XXXXXX"};
    for (size_t at = 0; at < sizeof paths / sizeof *paths; at++) {
        char path[32];
        struct statfs system;
        strcpy(path, paths[at]);
        int file = mkostemp(path, O_CLOEXEC);
        if (file < 0)
            continue;
        unlink(path);
        if (fstatfs(file, &system) == 0 && system.f_type != TMPFS_MAGIC)
            return file;
        close(file);
    }
    return -1;
}

bool mappings_is_empty(const char *page, size_t size)
{
    for (size_t at = 0; at < size; at += sizeof(long)) {
        if (*(const long *)(page + at))
            return false;
    }
    return true;
}

/* Writes the bytes to the file, from `start` on, in pieces that end where an address is a multiple of `unit`. Empty
   pieces become holes. */
static bool write_pieces(int file, off_t start, const char *from, size_t size, size_t unit)
{
    for (size_t at = 0, piece; at < size; at += piece) {
        piece = unit - (uintptr_t)(from + at) % unit;
        if (piece > size - at)
            piece = size - at;
        if (!mappings_is_empty(from + at, piece) && pwrite(file, from + at, piece, start + (off_t)at) != (ssize_t)piece)
            return false;
    }
    return true;
}

/* Copies a range of whole pages to the file, and maps the copy elsewhere, where an address is the same part of a unit.
   MAP_FAILED if it cannot. A file system that can holds each piece as one (a large folio). */
static void *map_copy(struct copy *copy, char *from, size_t size, size_t unit, int rights)
{
    size_t offset = (uintptr_t)from % unit;
    off_t start = (copy->length + (off_t)unit - 1) / (off_t)unit * (off_t)unit + (off_t)offset;
    if (ftruncate(copy->file, start + (off_t)size) != 0 || !write_pieces(copy->file, start, from, size, unit))
        return MAP_FAILED;
    copy->length = start + (off_t)size;
    char *room = mmap(NULL, unit + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    char *place = room + (offset + unit - (uintptr_t)room % unit) % unit;
    munmap(room, unit + size);
    return mmap(place, size, rights, MAP_PRIVATE, copy->file, start);
}

/* Puts the copy in place of the original. Nothing may have written to that since it was copied, so between the two
   there are only system calls. */
static void replace(char *from, size_t size, void *place)
{
    if (mremap(place, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, from) != from) {
        /* There may be a hole where the memory was. */
        _exit(1);
    }
}

/* True if the process has files in memory of which one entry of the page tables stands for a huge page. */
static bool has_huge_pages(void)
{
    FILE *rollup = fopen("/proc/self/smaps_rollup", "re");
    char line[128];
    unsigned long kib = 0;
    while (rollup && kib == 0 && fgets(line, sizeof line, rollup))
        sscanf(line, "FilePmdMapped: %lu", &kib);
    if (rollup)
        fclose(rollup);
    return kib > 0;
}

void mappings_keep_code(void)
{
    unsigned long address = (unsigned long)php_request_startup;
    struct copy copy = {.file = create_file()};
    int count = copy.file < 0 ? 0 : read_all();
    for (int at = 0; at < count; at++) {
        char *from = (char *)all[at].from;
        size_t size = all[at].to - all[at].from;
        if (address < all[at].from || address >= all[at].to || strcmp(all[at].rights, "r-xp") != 0 || size < 2 * HUGE_PAGE)
            continue;
        char *place = map_copy(&copy, from, size, HUGE_PAGE, PROT_READ | PROT_EXEC);
        if (place == MAP_FAILED)
            break;
        /* The middle lies in a whole huge page. */
        *(volatile char *)(place + size / 2);
        if (has_huge_pages())
            replace(from, size, place);
        else
            munmap(place, size);
    }
    if (copy.file >= 0)
        close(copy.file);
}

static bool is_data(const struct mapping *mapping)
{
    return strcmp(mapping->rights, "rw-p") == 0 && !mapping->is_stack;
}

void mappings_keep_data(void)
{
    struct copy copy = {.file = create_file()};
    int count = copy.file < 0 ? 0 : read_all();
    for (int at = 0; at < count; at++) {
        unsigned long from = all[at].from;
        if (!is_data(&all[at]))
            continue;
        while (at + 1 < count && is_data(&all[at + 1]) && all[at + 1].from == all[at].to)
            at++;
        void *place = map_copy(&copy, (char *)from, all[at].to - from, FAULT_AROUND, PROT_READ | PROT_WRITE);
        if (place != MAP_FAILED)
            replace((char *)from, all[at].to - from, place);
    }
    if (copy.file >= 0)
        close(copy.file);
}
