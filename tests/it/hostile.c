/* A function that tries to break the sandbox. Each line of its body is one attempt, `NAME ARGUMENT`. For each it prints
   the line `NAME ARGUMENT: ok`, or the name of the error in place of `ok`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)

static int open_and_close(const char *path, int flags) {
    int fd = open(path, flags, 0644);
    return fd < 0 ? fd : close(fd);
}

/* Opens a file of /proc/PID and reads a byte of it, since the kernel refuses some only then. */
static int read_proc(const char *pid, const char *file) {
    char path[64], byte;
    snprintf(path, sizeof path, "/proc/%s/%s", pid, file);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return fd;
    /* mem has no page at 0, so opening it is enough. */
    return strcmp(file, "mem") == 0 ? 0 : read(fd, &byte, 1) < 0 ? -1 : 0;
}

static int unix_address(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    /* @ stands for the abstract name space. */
    strncpy(address->sun_path, path, sizeof address->sun_path - 1);
    if (path[0] == '@')
        address->sun_path[0] = 0;
    return offsetof(struct sockaddr_un, sun_path) + strlen(path) + (path[0] != '@');
}

/* Connects, says hello, and waits for a word: the peer keeps a client that it accepts, and cuts off others. */
static int talk(const char *path, const char *word) {
    struct sockaddr_un address;
    int length = unix_address(&address, path), fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct timeval patience = {1, 0};
    char byte;
    if (fd < 0 || connect(fd, (void *)&address, length) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(fd, word, strlen(word), MSG_NOSIGNAL) < 0)
        return -1;
    ssize_t count = recv(fd, &byte, 1, 0);
    if (count == 0)
        errno = EPIPE;
    /* No answer, but not cut off either. */
    if (count < 0 && errno == EAGAIN)
        count = 1;
    return count > 0 ? 0 : -1;
}

static int listen_and_connect(const char *path) {
    struct sockaddr_un address;
    int length = unix_address(&address, path), fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (void *)&address, length) < 0 || listen(fd, 1) < 0)
        return -1;
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, length);
}

static int inet(int family, int type, const char *port) {
    int fd = socket(family, type, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port)), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int result = family == AF_INET ? connect(fd, (void *)&four, sizeof four) : connect(fd, (void *)&six, sizeof six);
    close(fd);
    return result;
}

/* getpid, or whatever the number stands for, by the calling convention of 32-bit programs. */
static int by_interrupt(int number) {
#ifdef __x86_64__
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
    errno = result < 0 ? -result : 0;
    return result < 0 ? -1 : 0;
#else
    errno = EACCES;
    return -1;
#endif
}

/* A Unix socket by socketcall(2), whose arguments are out of a filter's sight: AF_INET. */
static int socketcall(void) {
#ifdef __x86_64__
    int *arguments = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    arguments[0] = AF_INET, arguments[1] = SOCK_STREAM, arguments[2] = 0;
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"(arguments) : "memory", "r8", "r9", "r10", "r11");
    errno = result < 0 ? -result : 0;
    return result < 0 ? -1 : 0;
#else
    errno = EACCES;
    return -1;
#endif
}

/* Each process starts others without end, or starts two and ends, so that none lives for long; in sessions of their own
   if asked. It ignores all signals that it can. They end by themselves after a while, so that a failed test does not
   leave them on the machine. */
static void bomb(int with_sessions, int lives_on) {
    time_t end = time(NULL) + 15;
    for (int signal = 1; signal < 32; signal++)
        sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    if (!lives_on && fork() != 0) {
        sleep(15);
        _exit(0);
    }
    for (int left = 2; time(NULL) < end;) {
        pid_t child = fork();
        if (child == 0) {
            left = 2;
            if (with_sessions)
                setsid();
        } else if (child > 0 && --left == 0 && !lives_on) {
            _exit(0);
        }
    }
    _exit(0);
}

static int hold_memory(int mib, int flags) {
    for (int i = 0; i < mib; i++) {
        char *piece = mmap(NULL, MIB, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
        if (piece == MAP_FAILED)
            return -1;
        memset(piece, 1, MIB);
    }
    pause();
    return 0;
}

static int hold_in_children(int count, int mib) {
    while (count-- > 0) {
        if (fork() == 0)
            hold_memory(mib, MAP_PRIVATE);
    }
    pause();
    return 0;
}

static void *sleep_on(void *unused) {
    pause();
    return unused;
}

/* Starts threads, and waits. */
static int threads(int count) {
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 32 * 1024);
    while (count-- > 0) {
        if ((errno = pthread_create(&thread, &small, sleep_on, NULL)))
            return -1;
    }
    sleep(2);
    return 0;
}

/* Has the kernel make page tables: touches one page of every 2 MiB, and lets it go. */
static int page_tables(int mib) {
    for (int i = 0; i < mib * 256; i++) {
        char *piece = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (piece == MAP_FAILED)
            return -1;
        *piece = 1;
        madvise(piece, 2 * MIB, MADV_REMOVE);
    }
    pause();
    return 0;
}

/* Writes a MiB. A quota or a full disk first cuts a write, and refuses the next one. */
static int write_piece(int fd) {
    static char piece[MIB];
    for (size_t written = 0; written < sizeof piece;) {
        ssize_t count = write(fd, piece + written, sizeof piece - written);
        if (count < 0)
            return -1;
        written += count;
    }
    return 0;
}

/* Writes to a file that lies in memory, and does not map it. */
static int fill_memory_file(int mib) {
    int fd = syscall(SYS_memfd_create, "x", 0);
    if (fd < 0)
        return -1;
    for (int i = 0; i < mib; i++) {
        if (write_piece(fd) < 0)
            return -1;
    }
    pause();
    return 0;
}

/* Fills a file to which no path leads: deleted, beneath more names than a path can hold, both, or in a closed folder. */
static int fill_unseen(const char *how, const char *mib) {
    int fd;
    if (chdir(getenv("TMPDIR")) < 0)
        return -1;
    int is_buried = strcmp(how, "buried") == 0;
    char name[201] = {0};
    memset(name, 'd', 200);
    for (int i = 0; i < 40 && (is_buried || strcmp(how, "deep") == 0); i++) {
        if (mkdir(name, 0700) < 0 || chdir(name) < 0)
            return -1;
    }
    if (strcmp(how, "closed") == 0 && (mkdir("closed", 0700) < 0 || chdir("closed") < 0))
        return -1;
    if ((fd = open("file", O_RDWR | O_CREAT, 0600)) < 0)
        return -1;
    if (strcmp(how, "deleted") == 0 || is_buried)
        unlink("file");
    /* Its path stays as long, and no folder is left in which it could be looked for. */
    for (int i = 0; i < 40 && is_buried; i++) {
        if (chdir("..") < 0 || rmdir(name) < 0)
            return -1;
    }
    if (strcmp(how, "mapped") == 0) {
        if (posix_fallocate(fd, 0, (off_t)atoi(mib) * MIB) != 0 || unlink("file") < 0)
            return -1;
        if (mmap(NULL, (size_t)atoi(mib) * MIB, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
            return -1;
        close(fd);
        sleep(2);
        return 0;
    }
    if (strcmp(how, "closed") == 0)
        chmod(".", 0);
    for (int i = 0; i < atoi(mib); i++) {
        if (write_piece(fd) < 0)
            return -1;
        usleep(2000);
    }
    return 0;
}

/* The path of a new file, 3,900 characters from the root, in which each line of /proc/PID/maps is as long. */
static int open_at_length(char *path) {
    strcpy(path, getenv("TMPDIR"));
    while (strlen(path) < 3700) {
        strcat(path, "/");
        memset(path + strlen(path), 'd', 200);
        if (mkdir(path, 0700) < 0)
            return -1;
    }
    strcat(path, "/file");
    return open(path, O_RDWR | O_CREAT, 0600);
}

/* Maps a deleted file where the list of mappings has its end, after so many others that the list has this many MiB. */
static int map_behind(int list_mib, int mib) {
    static char path[8192];
    int fd = open_at_length(path);
    if (fd < 0 || ftruncate(fd, 2 * 4096) < 0)
        return -1;
    size_t count = (size_t)list_mib * MIB / strlen(path) + 1;
    char *area = mmap(NULL, count * 4096 + (size_t)mib * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return -1;
    for (size_t i = 0; i < count; i++) {
        /* Always the first page, so that the kernel does not join two neighbours. */
        if (mmap(area + i * 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            return -1;
    }
    close(fd);
    *strrchr(path, '/') = 0;
    strcat(path, "/hidden");
    fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || unlink(path) < 0 || ftruncate(fd, (off_t)mib * MIB) < 0)
        return -1;
    char *hidden = mmap(area + count * 4096, (size_t)mib * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (hidden == MAP_FAILED)
        return -1;
    close(fd);
    memset(hidden, 1, (size_t)mib * MIB);
    sleep(3);
    return 0;
}

/* Has the kernel keep descriptions of mappings, of pages that nothing has touched. */
static int many_mappings(int count) {
    char *area = mmap(NULL, (size_t)count * 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return -1;
    for (int i = 0; i < count; i++) {
        if (mprotect(area + (size_t)i * 8192, 4096, PROT_READ) < 0)
            return -1;
    }
    return 0;
}

/* The same in this many processes. */
static int many_mappings_in_children(int processes, int count) {
    while (processes-- > 0) {
        if (fork() == 0) {
            many_mappings(count);
            pause();
        }
    }
    pause();
    return 0;
}

/* Reserves blocks of a file without writing to it. */
static int reserve(const char *how, int mib) {
    char path[4096];
    snprintf(path, sizeof path, "%s/reserved", getenv("TMPDIR"));
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return -1;
    /* FS_IOC_RESVSP64 and FS_IOC_ZERO_RANGE, which linux/falloc.h leaves to the kernel; its argument is a struct space_resv. */
    struct {
        short type, whence;
        long long start, length;
        int system, pid, pad[4];
    } range = {.length = (long long)mib * MIB};
    if (!strcmp(how, "resvsp"))
        return ioctl(fd, _IOW('X', 40, range), &range);
    if (!strcmp(how, "resvsp64"))
        return ioctl(fd, _IOW('X', 42, range), &range);
    if (!strcmp(how, "zero-range"))
        return ioctl(fd, _IOW('X', 57, range), &range);
    return syscall(SYS_fallocate, fd, !strcmp(how, "keep-size") ? FALLOC_FL_KEEP_SIZE : 0, 0L, (long)mib * MIB);
}

/* Takes the scratch folder out of the project whose quota bounds it. */
static int leave_project(const char *how) {
    struct fsxattr attributes = {0};
    int fd = open(getenv("TMPDIR"), O_RDONLY);
    if (!strcmp(how, "flags"))
        return ioctl(fd, FS_IOC_SETFLAGS, &(long){0});
    if (!strcmp(how, "file_setattr"))
        return syscall(469, AT_FDCWD, getenv("TMPDIR"), (char[24]){0}, 24, 0);
    return ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

/* Fills files of 15 MiB, and leaves each in a message of a socket, where no process has it open. */
static int fill_in_flight(int count) {
    int pair[2] = {-1, -1};
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/in-flight", getenv("TMPDIR"));
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd < 0 || unlink(path) < 0)
            return -1;
        for (int written = 0; written < 15; written++)
            if (write_piece(fd) < 0)
                return -1;
        /* A datagram socket takes ten messages that wait. */
        if (i % 8 == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
            return -1;
        union { char bytes[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
        struct msghdr message = {.msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
                                 .msg_iov = &(struct iovec){"x", 1}, .msg_iovlen = 1};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        if (sendmsg(pair[0], &message, 0) < 0) {
            printf("%d files in flight, then ", i);
            return -1;
        }
        close(fd);
    }
    sleep(2);
    return 0;
}

/* Has a process run only where nothing else wants to, or on one processor; 0 is its own. */
static int schedule(int pid, int only_one_processor) {
    cpu_set_t all, one;
    if (!only_one_processor)
        return sched_setscheduler(pid, SCHED_IDLE, &(struct sched_param){0});
    /* One that it may have. */
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    for (int at = 0; at < CPU_SETSIZE && CPU_COUNT(&one) == 0; at++) {
        if (CPU_ISSET(at, &all))
            CPU_SET(at, &one);
    }
    return sched_setaffinity(pid, sizeof one, &one);
}

/* Makes a process with these flags. It ends at once. */
static int clone_with(unsigned long flags)
{
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid < 0 ? -1 : 0;
}

static void attempt_all(void);

static void *go_on(void *unused) {
    printf("lose-first-thread: ok\n");
    attempt_all();
    exit(0);
    return unused;
}

/* Ends the first thread, by which /proc shows a process, and goes on in another one. */
static int lose_first_thread(void) {
    pthread_t thread;
    if ((errno = pthread_create(&thread, NULL, go_on, NULL)))
        return -1;
    return syscall(SYS_exit, 0);
}

static int attempt(const char *name, char *argument) {
    char *second = strchr(argument, ' ');
    struct stat stat_buffer;
    if (second)
        *second++ = 0;
    if (!strcmp(name, "read")) return open_and_close(argument, O_RDONLY);
    if (!strcmp(name, "write")) return open_and_close(argument, O_WRONLY);
    if (!strcmp(name, "create")) return open_and_close(argument, O_WRONLY | O_CREAT);
    if (!strcmp(name, "truncate")) return truncate(argument, 0);
    if (!strcmp(name, "mkdir")) return mkdir(argument, 0755);
    if (!strcmp(name, "unlink")) return unlink(argument);
    if (!strcmp(name, "rename")) return rename(argument, second);
    if (!strcmp(name, "link")) return link(argument, second);
    if (!strcmp(name, "symlink")) return symlink(argument, second);
    if (!strcmp(name, "chmod")) return chmod(argument, 0);
    if (!strcmp(name, "chmod-again")) return stat(argument, &stat_buffer) < 0 ? -1 : chmod(argument, stat_buffer.st_mode);
    if (!strcmp(name, "proc")) return read_proc(argument, second);
    if (!strcmp(name, "signal")) return kill(atoi(argument), 0);
    if (!strcmp(name, "prlimit")) return prlimit(atoi(argument), RLIMIT_NOFILE, &(struct rlimit){64, 64}, NULL);
    if (!strcmp(name, "idle")) return schedule(atoi(argument), 0);
    if (!strcmp(name, "pin")) return schedule(atoi(argument), 1);
    /* ioprio_set(2): 1 is a process, 3 a user, and the value the least class. */
    if (!strcmp(name, "nice")) return setpriority(PRIO_PROCESS, atoi(argument), 19);
    if (!strcmp(name, "nice-user")) return setpriority(PRIO_USER, 0, 19);
    if (!strcmp(name, "ionice")) return syscall(SYS_ioprio_set, 1, atoi(argument), 3 << 13);
    if (!strcmp(name, "ionice-user")) return syscall(SYS_ioprio_set, 3, getuid(), 3 << 13);
    if (!strcmp(name, "ptrace")) return ptrace(PTRACE_SEIZE, atoi(argument), NULL, NULL);
    if (!strcmp(name, "talk")) return talk(argument, second ? second : "GET / HTTP/1.1\r\n\r\n");
    if (!strcmp(name, "unix")) return listen_and_connect(argument);
    if (!strcmp(name, "socketpair")) return socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0});
    if (!strcmp(name, "tcp")) return inet(AF_INET, SOCK_STREAM, argument);
    if (!strcmp(name, "tcp6")) return inet(AF_INET6, SOCK_STREAM, argument);
    if (!strcmp(name, "udp")) return inet(AF_INET, SOCK_DGRAM, argument);
    if (!strcmp(name, "netlink")) return socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (!strcmp(name, "packet")) return socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL));
    if (!strcmp(name, "vsock")) return socket(AF_VSOCK, SOCK_STREAM, 0);
    if (!strcmp(name, "inet-pair")) return socketpair(AF_INET, SOCK_STREAM, 0, (int[2]){0});
    if (!strcmp(name, "io_uring")) return syscall(SYS_io_uring_setup, 1, (char[128]){0});
    if (!strcmp(name, "terminal")) return ioctl(open("/dev/ptmx", O_RDONLY | O_NOCTTY), TIOCGPTN, &(int){0});
    if (!strcmp(name, "io_setup")) return syscall(SYS_io_setup, 1, (unsigned long[1]){0});
    if (!strcmp(name, "int80")) return by_interrupt(atoi(argument));
    if (!strcmp(name, "socketcall")) return socketcall();
    if (!strcmp(name, "shmget")) return shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
    if (!strcmp(name, "msgget")) return msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    if (!strcmp(name, "semget")) return semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    if (!strcmp(name, "mq_open")) return syscall(SYS_mq_open, argument, O_CREAT | O_RDWR, 0600, NULL);
    if (!strcmp(name, "add_key")) return syscall(SYS_add_key, "user", argument, "x", 1, -4 /* of the user */);
    if (!strcmp(name, "clone")) return clone_with(strtoul(argument, NULL, 16));
    if (!strcmp(name, "clone3")) return syscall(SYS_clone3, (char[88]){0}, 88) < 0 && errno == ENOSYS ? -1 : 0;
    if (!strcmp(name, "hold")) return hold_memory(atoi(argument), MAP_PRIVATE);
    if (!strcmp(name, "hold-shared")) return hold_memory(atoi(argument), MAP_SHARED);
    if (!strcmp(name, "threads")) return threads(atoi(argument));
    if (!strcmp(name, "page-tables")) return page_tables(atoi(argument));
    if (!strcmp(name, "memfd")) return syscall(SYS_memfd_create, "x", 0);
    if (!strcmp(name, "memfd_secret")) return syscall(SYS_memfd_secret, 0);
    if (!strcmp(name, "fill-memfd")) return fill_memory_file(atoi(argument));
    if (!strcmp(name, "fill")) return fill_unseen(argument, second);
    if (!strcmp(name, "map-behind")) return map_behind(atoi(argument), atoi(second));
    if (!strcmp(name, "mappings")) return many_mappings_in_children(atoi(argument), atoi(second));
    if (!strcmp(name, "reserve")) return reserve(argument, atoi(second));
    if (!strcmp(name, "leave-project")) return leave_project(argument);
    if (!strcmp(name, "quotactl_fd")) return syscall(443, open(getenv("TMPDIR"), O_RDONLY), 0x80000702, 0, (char[72]){0});
    if (!strcmp(name, "in-flight")) return fill_in_flight(atoi(argument));
    if (!strcmp(name, "lose-first-thread")) return lose_first_thread();
    if (!strcmp(name, "forbid-looks")) return prctl(PR_SET_DUMPABLE, 0);
    if (!strcmp(name, "stay-on")) return prctl(PR_SET_PDEATHSIG, 0);
    if (!strcmp(name, "children")) return hold_in_children(atoi(argument), atoi(second));
    if (!strcmp(name, "bomb")) bomb(strstr(argument, "sessions") != NULL, strstr(argument, "churn") == NULL);
    if (!strcmp(name, "stop")) return raise(SIGSTOP);
    errno = ENOSYS;
    return -1;
}

static void attempt_all(void) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        char said[4096];
        line[strcspn(line, "\n")] = 0;
        strcpy(said, line);
        char *argument = strchr(line, ' ');
        if (argument)
            *argument++ = 0;
        fflush(stdout);
        errno = 0;
        int result = attempt(line, argument ? argument : "");
        printf("%s: %s\n", said, result < 0 ? strerrorname_np(errno) : "ok");
    }
}

int main(void) {
    printf("Content-Type: text/plain\n\n");
    attempt_all();
    return 0;
}
