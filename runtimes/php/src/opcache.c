/* Opcache's memory and lock file; opcache.h has the interface. */

#define _GNU_SOURCE
#include "opcache.h"
#include "mappings.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int lock_descriptor = -1;

static bool copy_to_private(char *from, size_t size)
{
    size_t page = (size_t)getpagesize();
    char *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *is_used = malloc(size / page);
    if (copy == MAP_FAILED || !is_used || mincore(from, size, is_used) != 0)
        return false;
    for (size_t at = 0; at < size; at += page) {
        if ((is_used[at / page] & 1) && !mappings_is_empty(from + at, page))
            memcpy(copy + at, from + at, page);
    }
    free(is_used);
    return mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, from) == from;
}

/* The name that Linux shows for shared anonymous memory. */
static const char SHARED[] = "/dev/zero";

static bool make_private(const char **why)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    bool is_good = maps != NULL;
    *why = "opcache's memory cannot be made private";
    while (is_good && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char rights[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3 && rights[1] == 'w' && rights[3] == 's')
            is_good = strstr(line, SHARED) && copy_to_private((char *)from, to - from);
    }
    if (maps)
        fclose(maps);
    return is_good;
}

/* Looks for an empty file that has been removed: the lock file. */
static int find_lock(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int found = -1;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char target[256];
        ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        if (strstr(target, "/.ZendSem."))
            found = atoi(entry->d_name);
    }
    if (folder)
        closedir(folder);
    return found;
}

bool opcache_make_private(const char **why)
{
    lock_descriptor = find_lock();
    return lock_descriptor < 0 || make_private(why);
}

int opcache_lock_descriptor(void)
{
    return lock_descriptor;
}

bool opcache_replace_lock(void)
{
    if (lock_descriptor < 0)
        return true;
    /* A socket takes locks as a file does, is shared with no other process, and holds nothing. */
    int file = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_good = file >= 0 && dup3(file, lock_descriptor, O_CLOEXEC) >= 0;
    if (file >= 0)
        close(file);
    return is_good;
}
