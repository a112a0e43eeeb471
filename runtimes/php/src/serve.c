/* The fork server; serve.h has the interface. */

#define _GNU_SOURCE
#include "serve.h"
#include "invocation.h"
#include "mappings.h"
#include "opcache.h"
#include "prepare.h"
#include "request.h"
#include "restrict.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL 3
/* Room for paths and versions; a longer packet is a fault. */
#define PACKET_BYTES_MAX 65536
/* A worker has hundreds of slots at most. */
#define CHILDREN_MAX 4096

/* Children that have not been reaped. */
static struct {
    pid_t process;
    int report;
} children[CHILDREN_MAX];
static int child_count;
static bool is_ending;
static pid_t self;

static volatile sig_atomic_t has_child_ended;

static void note_child(int signal)
{
    (void)signal;
    has_child_ended = 1;
}

static int fault(const char *what)
{
    fprintf(stderr, "faas-php: %s\n", what);
    return 1;
}

/* ---- Children ---------------------------------------------------------------------------------------------------- */

static bool send_birth(int report, pid_t process)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char bytes[5] = {'B'};
    uint32_t number = (uint32_t)process;
    memcpy(bytes + 1, &number, 4);
    struct iovec piece = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int pidfd = (int)syscall(SYS_pidfd_open, process, 0);
    if (pidfd < 0)
        return false;
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof pidfd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &pidfd, sizeof pidfd);
    bool is_sent = sendmsg(report, &message, MSG_NOSIGNAL) == sizeof bytes;
    close(pidfd);
    return is_sent;
}

static void send_death(int report, int status, const struct rusage *usage)
{
    char bytes[29] = {'D'};
    uint32_t wait_status = (uint32_t)status;
    uint64_t numbers[3] = {
        (uint64_t)usage->ru_utime.tv_sec * 1000000 + (uint64_t)usage->ru_utime.tv_usec,
        (uint64_t)usage->ru_stime.tv_sec * 1000000 + (uint64_t)usage->ru_stime.tv_usec,
        (uint64_t)usage->ru_maxrss,
    };
    memcpy(bytes + 1, &wait_status, 4);
    memcpy(bytes + 5, numbers, sizeof numbers);
    /* A worker that no longer listens does not matter. */
    (void)!send(report, bytes, sizeof bytes, MSG_NOSIGNAL);
}

/* Resets the signals before a child does anything: the fork server's handling must not apply to it. */
static void forget_signals(void)
{
    sigset_t none;
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void fork_child(int channel, int report)
{
    pid_t process = child_count < CHILDREN_MAX && !is_ending ? fork() : -1;
    if (process == 0) {
        forget_signals();
        invocation_serve(channel, self);
    }
    close(channel);
    if (process < 0) {
        close(report);
        return;
    }
    if (!send_birth(report, process)) {
        /* No process could end such a child. */
        kill(process, SIGKILL);
    }
    children[child_count].process = process;
    children[child_count].report = report;
    child_count++;
}

static void reap(void)
{
    int status;
    struct rusage usage;
    has_child_ended = 0;
    for (pid_t process; (process = wait4(-1, &status, WNOHANG, &usage)) > 0;) {
        int at = 0;
        while (at < child_count && children[at].process != process)
            at++;
        if (at == child_count) {
            prepare_take_trial(process, status);
            continue;
        }
        send_death(children[at].report, status, &usage);
        close(children[at].report);
        children[at] = children[--child_count];
    }
}

/* ---- Packets ----------------------------------------------------------------------------------------------------- */

/* Receives one packet. Returns its length, 0 at the end of file. */
static ssize_t receive(char *bytes, size_t length, int descriptors[2], int *count)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec piece = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size;
    do {
        size = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    struct cmsghdr *part = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    *count = 0;
    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
        *count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(descriptors, CMSG_DATA(part), (size_t)*count * sizeof(int));
    }
    if (size > 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return -1;
    return size;
}

/* True if the loop goes on; `*exit_status` holds otherwise. */
static bool take_packet(int *exit_status)
{
    static char bytes[PACKET_BYTES_MAX];
    int descriptors[2], count;
    ssize_t size = receive(bytes, sizeof bytes, descriptors, &count);
    *exit_status = 0;
    if (size == 0)
        return false;
    bool is_known = false;
    if (size > 0 && bytes[0] == 'F' && size == 1 && count == 2) {
        fork_child(descriptors[0], descriptors[1]);
        is_known = true;
    } else if (size > 1 && bytes[0] == 'P' && count == 0 && bytes[size - 1] == '\0') {
        is_known = prepare_take(bytes + 1, (size_t)size - 1);
    } else if (size == 1 && bytes[0] == 'Q' && count == 0) {
        is_ending = true;
        prepare_stop();
        is_known = true;
    }
    if (!is_known)
        *exit_status = fault("the worker says something that is not in the protocol");
    return is_known;
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static bool begin(sigset_t *while_waiting)
{
    pid_t parent = getppid();
    struct sigaction action = {.sa_handler = note_child, .sa_flags = SA_NOCLDSTOP};
    sigset_t blocked;
    self = getpid();
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    return parent > 0 && restrict_life_to(parent) && sigprocmask(SIG_BLOCK, &blocked, while_waiting) == 0
        && sigdelset(while_waiting, SIGCHLD) == 0 && sigaction(SIGCHLD, &action, NULL) == 0;
}

int serve(void)
{
    const char *why = NULL;
    sigset_t while_waiting;
    int exit_status = 0;
    if (!begin(&while_waiting))
        return fault("it cannot tie its life to the worker's");
    if (!opcache_make_private(&why))
        return fault(why);
    mappings_join();
    request_begin_ahead();
    mappings_keep_code();
    mappings_keep_data();
    if (send(CONTROL, "R", 1, MSG_NOSIGNAL) != 1)
        return fault("descriptor 3 is no control socket");
    while (!is_ending || child_count > 0 || prepare_is_trying()) {
        static const struct timespec now = {0};
        struct pollfd watched = {.fd = CONTROL, .events = POLLIN};
        int ready = ppoll(&watched, 1, prepare_has_work() ? &now : NULL, &while_waiting);
        if (ready < 0 && errno != EINTR)
            return fault("it cannot wait");
        if (has_child_ended)
            reap();
        if (ready > 0 && !take_packet(&exit_status))
            return exit_status;
        if (ready == 0)
            prepare_work(self);
    }
    return 0;
}
