/* The fork server's mappings; mappings.h has the interface. */

#define _GNU_SOURCE
#include "mappings.h"

#include <fcntl.h>
#include <link.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Far more than a PHP with all of its extensions has. */
#define MAPPINGS_MAX 4096

struct mapping {
    unsigned long from, to, inode;
    char rights[5];
    bool is_heap;
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
        mapping->is_heap = strstr(line, "[heap]") != NULL;
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

/* ---- Fewer pages of its own -------------------------------------------------------------------------------------- */

struct copy {
    int file;
    off_t length;
};

/* Creates a file without a name; -1 if there is no place for it. On a tmpfs it would be memory that each function is
   charged for. */
static int create_file(void)
{
    /* mkostemp(3) replaces the last six characters. */
    static char paths[][32] = {"/var/tmp/faas-php-XXXXXX", "/tmp/faas-php-XXXXXX"};
    for (size_t at = 0; at < sizeof paths / sizeof *paths; at++) {
        struct statfs system;
        int file = mkostemp(paths[at], O_CLOEXEC);
        if (file < 0)
            continue;
        unlink(paths[at]);
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

/* Keeps one range of whole pages. Nothing may write to it meanwhile, so between copying and mapping there are only
   system calls. Empty pages become holes. */
static void keep(struct copy *copy, char *from, size_t size)
{
    size_t page = (size_t)getpagesize();
    off_t start = copy->length;
    if (size == 0 || ftruncate(copy->file, start + (off_t)size) != 0)
        return;
    copy->length += (off_t)size;
    for (size_t at = 0; at < size; at += page) {
        if (!mappings_is_empty(from + at, page) && pwrite(copy->file, from + at, page, start + (off_t)at) != (ssize_t)page)
            return;
    }
    if (mmap(from, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, copy->file, start) == MAP_FAILED) {
        /* There may be a hole where the data was. */
        _exit(1);
    }
}

/* Keeps the writable segments of the program or of a library (elf(5)): initialised data and what follows it. */
static int keep_object(struct dl_phdr_info *object, size_t size, void *context)
{
    unsigned long page = (unsigned long)getpagesize();
    (void)size;
    for (int at = 0; at < object->dlpi_phnum; at++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[at];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W))
            continue;
        unsigned long from = (object->dlpi_addr + segment->p_vaddr) / page * page;
        unsigned long to = object->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        keep(context, (char *)from, (to - from + page - 1) / page * page);
    }
    return 0;
}

void mappings_keep_in_file(void *more, size_t size)
{
    struct copy copy = {.file = create_file()};
    if (copy.file < 0)
        return;
    int count = read_all();
    unsigned long from = 0, to = 0;
    for (int at = 0; at < count; at++) {
        if (all[at].is_heap) {
            from = all[at].from;
            to = all[at].to;
        }
    }
    keep(&copy, (char *)from, to - from);
    if (size > 0)
        keep(&copy, more, size);
    dl_iterate_phdr(keep_object, &copy);
    close(copy.file);
}
