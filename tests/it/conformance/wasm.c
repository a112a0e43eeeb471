/* A WASI function, for wasm.rs. The query names one of the tasks in `deeds`. Each call is a process of its own, so
 * no call may find what another one left behind. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static int calls;
static char kept[64] = "fresh";
/* Keeps the compiler from leaving out stores. */
static char *volatile latest;

static char *in_scratch(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("TMPDIR"), name);
    return path;
}

static void echo(void) {
    static char piece[65536];
    for (ssize_t count; (count = read(0, piece, sizeof piece)) > 0;)
        for (ssize_t done = 0, part; done < count; done += part)
            if ((part = write(1, piece + done, count - done)) < 0) exit(99);
}

static void count(void) {
    static char piece[1000];
    size_t sum = 0, count;
    while ((count = fread(piece, 1, sizeof piece, stdin)) > 0) sum += count;
    printf("%zu\n", sum);
}

static void nothing(void) {}
static void ignore_body(void) { puts("unread"); }
static void exit_0(void) { fputs("x", stdout); exit(0); }
static void exit_1(void) { fputs("x", stdout); exit(1); }
static void exit_3(void) { exit(3); }
static void exit_127(void) { exit(127); }
static void exit_255(void) { _Exit(255); }
static void aborts(void) { abort(); }
static void divides(void) { volatile int one = 7, zero = 0; printf("%d", one / zero); }
static void strays(void) { *(volatile char *)0xfffffff0u = 1; }
static int deeper(volatile int n) { volatile char room[1000]; room[n % 1000] = 1; return deeper(n + 1) + room[0]; }
static void recurses(void) { printf("%d", deeper(0)); }

static void said(void) { puts("said at the end"); }
static void at_exit(void) { atexit(said); puts("first"); }

static void environment(void) {
    for (char **pair = environ; *pair; pair++) puts(*pair);
}

static void arguments(int argc, char **argv) {
    const char *name = strrchr(argv[0], '/');
    printf("%d %s\n", argc, name ? "path" : argv[0]);
}

static void randoms(void) {
    unsigned char bytes[16];
    if (getentropy(bytes, sizeof bytes)) exit(99);
    for (size_t at = 0; at < sizeof bytes; at++) printf("%02x", bytes[at]);
}

static void clocks(void) {
    struct timespec real, first, second, pause = {0, 20000000};
    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_MONOTONIC, &first);
    if (nanosleep(&pause, NULL)) exit(99);
    clock_gettime(CLOCK_MONOTONIC, &second);
    long long passed = (second.tv_sec - first.tv_sec) * 1000000000LL + second.tv_nsec - first.tv_nsec;
    long long since = real.tv_sec * 1000LL + real.tv_nsec / 1000000 - atoll(getenv("HTTP_X_NOW"));
    printf("%s %s\n", passed >= 20000000 ? "slept" : "not", since >= 0 && since < 20000 ? "now" : "not now");
}

static void globals(void) {
    printf("%d %s\n", ++calls, kept);
    strcpy(kept, "old");
}

static void memory(void) {
    size_t sum = 0, length = 20 << 20;
    char *room = (char *)(__builtin_wasm_memory_grow(0, length >> 16) << 16);
    for (size_t at = 0; at < length; at++) sum += room[at] != 0;
    memset(room, 1, length);
    printf("%s\n", sum ? "used before" : "zeroes");
}

static void much_memory(void) {
    for (;;) {
        char *room = malloc(1 << 20);
        if (!room) { fputs("no more\n", stderr); exit(5); }
        memset(room, 1, 1 << 20);
        latest = room;
    }
}

static void errors(void) { fputs("first\nsecond, without an end", stderr); puts("done"); }

static void flood(void) {
    for (int n = 0; n < 20000; n++) fputs("a line of many, each as long as the others are, which is long enough\n", stderr);
    puts("done");
}

static void pieces(void) {
    for (int n = 0; n < 5000; n++) { printf("%d", n % 10); fflush(stdout); }
}

static void scratch(void) {
    char text[16] = "";
    printf("%s ", access(in_scratch("file"), F_OK) ? "fresh" : "old");
    FILE *file = fopen(in_scratch("file"), "w+");
    if (!file) { printf("%s\n", strerror(errno)); return; }
    fputs("content", file);
    rewind(file);
    fgets(text, sizeof text, file);
    fclose(file);
    mkdir(in_scratch("folder"), 0700);
    printf("%s %s\n", text, access(in_scratch("folder"), F_OK) ? "missing" : "there");
}

static void elsewhere(void) {
    const char *paths[] = {"/etc/passwd", "/proc/self/environ", "../x"};
    for (size_t n = 0; n < sizeof paths / sizeof *paths; n++)
        printf("%s", open(paths[n], O_RDONLY) < 0 ? "refused " : paths[n]);
    snprintf(kept, sizeof kept, "../../../etc/passwd");
    puts(open(in_scratch(kept), O_RDONLY) < 0 ? "refused" : kept);
}

static void folders(void) {
    char text[16] = "";
    FILE *file = fopen("/data/given", "r");
    if (!file || !fgets(text, sizeof text, file)) { printf("%s\n", strerror(errno)); return; }
    printf("%s %s\n", text, open("/data/../modules/main.php", O_RDONLY) < 0 ? "refused" : "reached");
}

static void spins(void) { for (volatile int on = 1; on;) {} }
static void sleeps(void) { sleep(1000); }

static void head(void) { fputs("Status: 201 Created\r\nContent-Type: text/csv\r\nX-Own: 1\r\n\r\na,b\n", stdout); }

int main(int argc, char **argv) {
    const char *query = getenv("QUERY_STRING");
    struct { const char *name; void (*run)(void); } deeds[] = {
        {"echo", echo}, {"count", count}, {"nothing", nothing}, {"ignore", ignore_body}, {"exit-0", exit_0},
        {"exit-1", exit_1}, {"exit-3", exit_3}, {"exit-127", exit_127}, {"exit-255", exit_255}, {"abort", aborts},
        {"divide", divides}, {"stray", strays}, {"recurse", recurses}, {"at-exit", at_exit}, {"environment", environment},
        {"randoms", randoms}, {"clocks", clocks}, {"globals", globals}, {"memory", memory}, {"much-memory", much_memory},
        {"errors", errors}, {"flood", flood}, {"pieces", pieces}, {"scratch", scratch}, {"elsewhere", elsewhere},
        {"folders", folders}, {"spin", spins}, {"sleep", sleeps}, {"head", head},
    };
    if (getenv("HTTP_X_WARM_UP")) return 0;
    if (!strcmp(query, "arguments")) { arguments(argc, argv); return 0; }
    for (size_t n = 0; n < sizeof deeds / sizeof *deeds; n++)
        if (!strcmp(query, deeds[n].name)) { deeds[n].run(); return 0; }
    fprintf(stderr, "there is no %s\n", query);
    return 98;
}
