/* Restrictions of a process; restrict.h has the interface. */

#define _GNU_SOURCE
#include "restrict.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

bool restrict_life_to(int parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

static bool lower_limit(int resource, rlim_t max)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0)
        return false;
    if (limit.rlim_max != RLIM_INFINITY && max > limit.rlim_max)
        max = limit.rlim_max;
    limit.rlim_cur = limit.rlim_max = max;
    return setrlimit(resource, &limit) == 0;
}

bool restrict_data(unsigned long mib_max)
{
    return lower_limit(RLIMIT_DATA, (rlim_t)mib_max << 20);
}

bool restrict_to_namespace(int namespace)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    return setns(namespace, CLONE_NEWUSER) == 0 && syscall(SYS_capset, &header, none) == 0;
}

bool restrict_processes(unsigned long max)
{
    return lower_limit(RLIMIT_NPROC, max);
}

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#else
#error "the filter against networks knows x86_64 and aarch64"
#endif

/* The second calling convention of x86_64 sets this bit in its numbers. */
#define X32_BIT 0x40000000

bool restrict_network(void)
{
    /* io_uring could open sockets past the filter. The filter checks the lower half of arguments: both machines are
       little-endian, and the kernel takes an int. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

bool restrict_by_ruleset(int ruleset)
{
    return syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
}

bool restrict_writes(void)
{
    struct landlock_ruleset_attr rights = {
        .handled_access_fs = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE
            | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG
            | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK
            | LANDLOCK_ACCESS_FS_MAKE_SYM,
    };
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rights, sizeof rights.handled_access_fs, 0);
    if (ruleset < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP;
    bool is_restricted = restrict_by_ruleset(ruleset);
    close(ruleset);
    return is_restricted;
}

bool restrict_descriptors(int kept, int kept_too)
{
    int low = kept < kept_too ? kept : kept_too;
    int high = kept < kept_too ? kept_too : kept;
    unsigned from = 3;
    for (int at = 0; at < 2; at++) {
        int next = at == 0 ? low : high;
        if (next < (int)from)
            continue;
        if (next > (int)from && close_range(from, (unsigned)next - 1, 0) != 0)
            return false;
        from = (unsigned)next + 1;
    }
    return close_range(from, ~0U, 0) == 0;
}
