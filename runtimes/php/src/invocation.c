/* A forked child; invocation.h has the interface. */

#define _GNU_SOURCE
#include "invocation.h"
#include "hangup.h"
#include "opcache.h"
#include "request.h"
#include "restrict.h"
#include "settings.h"
#include "title.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The size that Linux allows for arguments and environment of a program. */
#define INVOCATION_BYTES_MAX (8u << 20)
/* stdin, stdout, stderr, a user namespace, and up to two rulesets. */
#define DESCRIPTORS_MAX 6
#define EXIT_NOT_BEGUN 127

struct invocation {
    char *settings;
    uint32_t settings_length;
    char *environment;
    uint32_t environment_length;
    int descriptors[DESCRIPTORS_MAX];
    int descriptor_count;
};

/* ---- Receiving --------------------------------------------------------------------------------------------------- */

/* Receives up to `length` bytes, and the descriptors that come with them. */
static ssize_t receive(int channel, char *bytes, size_t length, struct invocation *invocation)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t count;
    do {
        count = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    } while (count < 0 && errno == EINTR);
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); count > 0 && part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        int number = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        if (number > DESCRIPTORS_MAX - invocation->descriptor_count)
            return -1;
        memcpy(&invocation->descriptors[invocation->descriptor_count], CMSG_DATA(part), (size_t)number * sizeof(int));
        invocation->descriptor_count += number;
    }
    return count;
}

/* False at the end of file, or if the bytes are no invocation: the child then ends silently. */
static bool receive_invocation(int channel, struct invocation *invocation)
{
    static char first[16384];
    ssize_t count = receive(channel, first, sizeof first, invocation);
    if (count < 8)
        return false;
    memcpy(&invocation->settings_length, first, 4);
    memcpy(&invocation->environment_length, first + 4, 4);
    if (invocation->settings_length > INVOCATION_BYTES_MAX || invocation->environment_length > INVOCATION_BYTES_MAX)
        return false;
    size_t length = 8 + (size_t)invocation->settings_length + invocation->environment_length, at = (size_t)count;
    char *bytes = first;
    if (length > sizeof first) {
        bytes = malloc(length);
        if (!bytes)
            return false;
        memcpy(bytes, first, at);
    }
    while (at < length) {
        count = receive(channel, bytes + at, length - at, invocation);
        if (count <= 0)
            return false;
        at += (size_t)count;
    }
    invocation->settings = bytes + 8;
    invocation->environment = bytes + 8 + invocation->settings_length;
    bool are_ended = (invocation->settings_length == 0 || invocation->environment[-1] == '\0')
        && (invocation->environment_length == 0 || bytes[length - 1] == '\0');
    return are_ended && invocation->descriptor_count >= 3;
}

/* ---- Becoming the function's process ----------------------------------------------------------------------------- */

static _Noreturn void fail(const char *step)
{
    fprintf(stderr, "the function's process could not %s: %s\n", step, strerror(errno));
    _exit(EXIT_NOT_BEGUN);
}

static bool take_streams(const struct invocation *invocation)
{
    for (int stream = 2; stream >= 0; stream--) {
        if (dup2(invocation->descriptors[stream], stream) < 0)
            return false;
    }
    return true;
}

/* The fork server's own time zone has been read already; a different one must be read anew. */
static void take_time_zone(const char *before)
{
    const char *now = getenv("TZ");
    if ((before == NULL) != (now == NULL) || (now && strcmp(before, now) != 0))
        tzset();
}

static bool take_environment(const struct invocation *invocation)
{
    size_t count = 0, next = 0;
    char *end = invocation->environment + invocation->environment_length;
    for (char *at = invocation->environment; at < end; at += strlen(at) + 1)
        count++;
    char **variables = malloc((count + 1) * sizeof *variables);
    if (!variables)
        return false;
    for (char *at = invocation->environment; at < end; at += strlen(at) + 1)
        variables[next++] = at;
    variables[next] = NULL;
    const char *zone = getenv("TZ");
    environ = variables;
    take_time_zone(zone);
    return true;
}

static void become_function(const struct invocation *invocation, const struct settings *settings, int channel)
{
    if (setsid() < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        fail("start a session of its own");
    if (!take_environment(invocation))
        fail("take its environment");
    int next = 3;
    if (settings->has_namespace && (next == invocation->descriptor_count || !restrict_to_namespace(invocation->descriptors[next++])))
        fail("enter its user namespace");
    if (settings->data_mib_max > 0 && !restrict_data(settings->data_mib_max))
        fail("lower its limit of memory");
    if (settings->processes_max > 0 && !restrict_processes(settings->processes_max))
        fail("lower its limit of processes");
    if (!settings->is_network_allowed && !restrict_network())
        fail("give up the network");
    for (; next < invocation->descriptor_count; next++) {
        if (!restrict_by_ruleset(invocation->descriptors[next]))
            fail("restrict itself");
    }
    if (!restrict_descriptors(channel, opcache_lock_descriptor()))
        fail("close what it was given");
    if (!settings->folder || chdir(settings->folder) != 0)
        fail("change to the module's folder");
}

static _Noreturn void say_and_end(int channel, const char *bytes, size_t length, int status)
{
    if (write(channel, bytes, length) == (ssize_t)length)
        kill(getpid(), SIGKILL);
    _exit(status);
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

/* Sends `X`, the exit status, and the usage of this process and the children that it has waited for. */
static _Noreturn void say_through(int channel, int status)
{
    char bytes[26] = {'X', (char)status};
    struct rusage own = {0}, waited = {0};
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &waited);
    uint64_t numbers[3] = {
        microseconds(own.ru_utime) + microseconds(waited.ru_utime),
        microseconds(own.ru_stime) + microseconds(waited.ru_stime),
        (uint64_t)(own.ru_maxrss > waited.ru_maxrss ? own.ru_maxrss : waited.ru_maxrss),
    };
    memcpy(bytes + 2, numbers, sizeof numbers);
    say_and_end(channel, bytes, sizeof bytes, (unsigned char)status);
}

_Noreturn void invocation_serve(int channel, pid_t server)
{
    struct invocation invocation = {0};
    struct settings settings;
    const char *why = NULL;
    if (!restrict_life_to(server) || !restrict_descriptors(channel, opcache_lock_descriptor()) || !opcache_replace_lock())
        _exit(EXIT_NOT_BEGUN);
    if (!receive_invocation(channel, &invocation))
        _exit(0);
    if (!take_streams(&invocation))
        fail("set up its streams");
    settings_begin(&settings);
    if (!settings_read(&settings, invocation.settings, invocation.settings_length, &why) || !settings.module) {
        errno = EINVAL;
        fail(why ? why : "find its module among the settings");
    }
    become_function(&invocation, &settings, channel);
    title_set(settings.route ? settings.route : settings.module);
    pid_t self = getpid();
    if (!request_can_serve(&settings))
        say_and_end(channel, "E", 1, EXIT_NOT_BEGUN);
    hangup_tell(channel);
    int status = request_serve(&settings);
    /* A process that the script has forked must not use the channel. */
    if (getpid() != self)
        _exit((unsigned char)status);
    say_through(channel, status);
}
