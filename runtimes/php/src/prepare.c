/* Modules to prepare; prepare.h has the interface. */

#define _GNU_SOURCE
#include "prepare.h"
#include "code.h"
#include "mappings.h"
#include "opcache.h"
#include "request.h"
#include "restrict.h"
#include "settings.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL 3
/* Equals the number that is kept; further ones are reported as unpreparable. */
#define WAITING_MAX 256
/* The largest PHP file of a big application, 500 KB of Adminer, takes 0.1 s. */
#define TRIAL_CPU_S_MAX 1
#define TRIAL_S_MAX 10
/* In addition to the fork server's own. */
#define TRIAL_MIB_MAX 256

struct module {
    char *path;
    char *version;
    /* The worker knows already that it is prepared. */
    bool is_known;
};

/* Waiting modules, the first first. */
static struct module waiting[WAITING_MAX];
static int waiting_count;
/* Prepared modules, the oldest first. */
static struct module done[WAITING_MAX];
static int done_count;

static pid_t trial;
static int trial_pipe = -1;
static bool is_tried;
static bool is_stopped;

static void free_module(struct module *module)
{
    free(module->path);
    free(module->version);
}

static void remove_from(struct module *list, int *count, int at)
{
    memmove(list + at, list + at + 1, (size_t)(*count - at - 1) * sizeof *list);
    (*count)--;
}

static void tell(const struct module *module, const char *reason)
{
    char packet[4096];
    int length = reason ? snprintf(packet, sizeof packet, "u%s%c%s", module->version, '\0', reason)
                        : snprintf(packet, sizeof packet, "p%s", module->version);
    if (length < 0 || module->is_known)
        return;
    size_t size = (size_t)length < sizeof packet ? (size_t)length : sizeof packet - 1;
    (void)!send(CONTROL, packet, size, MSG_NOSIGNAL);
}

bool prepare_take(char *settings, size_t length)
{
    struct settings given;
    const char *why;
    settings_begin(&given);
    if (!settings_read(&given, settings, length, &why) || !given.module || !given.version)
        return false;
    struct module module = {.path = strdup(given.module), .version = strdup(given.version)};
    if (!module.path || !module.version)
        return false;
    if (is_stopped || waiting_count == WAITING_MAX) {
        tell(&module, "too many modules wait to be prepared");
        free_module(&module);
        return true;
    }
    waiting[waiting_count++] = module;
    return true;
}

void prepare_stop(void)
{
    is_stopped = true;
}

bool prepare_is_trying(void)
{
    return trial > 0;
}

bool prepare_has_work(void)
{
    return !is_stopped && trial == 0 && waiting_count > 0;
}

/* ---- The trial --------------------------------------------------------------------------------------------------- */

static unsigned long data_mib(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%*u %*u %*u %*u %*u %lu", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (unsigned long)getpagesize() >> 20;
}

static _Noreturn void try_module(const char *path, int pipe, pid_t server)
{
    struct rlimit cpu = {TRIAL_CPU_S_MAX, TRIAL_CPU_S_MAX};
    sigset_t none;
    const char *why = "it cannot be confined";
    sigemptyset(&none);
    if (restrict_life_to(server) && signal(SIGCHLD, SIG_DFL) != SIG_ERR && sigprocmask(SIG_SETMASK, &none, NULL) == 0
        && restrict_descriptors(pipe, opcache_lock_descriptor()) && opcache_replace_lock() && restrict_network()
        && setrlimit(RLIMIT_CPU, &cpu) == 0 && restrict_data(data_mib() + TRIAL_MIB_MAX) && restrict_writes()) {
        alarm(TRIAL_S_MAX);
        request_end_ahead();
        why = code_compile(path);
    }
    if (why)
        (void)!write(pipe, why, strlen(why));
    _exit(why != NULL);
}

static void start_trial(const struct module *module, pid_t server)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    trial = fork();
    if (trial == 0)
        try_module(module->path, ends[1], server);
    close(ends[1]);
    if (trial < 0) {
        close(ends[0]);
        trial = 0;
        return;
    }
    trial_pipe = ends[0];
}

static void finish_first(const char *reason)
{
    tell(&waiting[0], reason);
    if (reason || done_count == WAITING_MAX) {
        free_module(&waiting[0]);
    } else {
        for (int at = 0; at < done_count; at++) {
            if (strcmp(done[at].path, waiting[0].path) == 0) {
                free_module(&done[at]);
                remove_from(done, &done_count, at--);
            }
        }
        waiting[0].is_known = true;
        done[done_count++] = waiting[0];
    }
    remove_from(waiting, &waiting_count, 0);
    is_tried = false;
}

void prepare_take_trial(pid_t process, int status)
{
    char reason[512];
    if (process != trial)
        return;
    ssize_t count = read(trial_pipe, reason, sizeof reason - 1);
    close(trial_pipe);
    trial = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        is_tried = true;
        return;
    }
    reason[count > 0 ? count : 0] = '\0';
    if (WIFSIGNALED(status))
        snprintf(reason, sizeof reason, "to compile it ended by signal %d", WTERMSIG(status));
    finish_first(reason[0] ? reason : "it cannot be compiled");
}

/* ---- The work ---------------------------------------------------------------------------------------------------- */

/* Forgets all, and queues the younger half to be prepared again, before the waiting modules. */
static void make_room(void)
{
    int kept = done_count / 2 < WAITING_MAX - waiting_count ? done_count / 2 : WAITING_MAX - waiting_count;
    code_forget();
    for (int at = 0; at < done_count - kept; at++)
        free_module(&done[at]);
    memmove(waiting + kept, waiting, (size_t)waiting_count * sizeof *waiting);
    memcpy(waiting, done + done_count - kept, (size_t)kept * sizeof *waiting);
    waiting_count += kept;
    done_count = 0;
}

void prepare_work(pid_t server)
{
    if (!prepare_has_work())
        return;
    if (!is_tried && !waiting[0].is_known) {
        start_trial(&waiting[0], server);
        if (trial == 0)
            finish_first("a process to try it cannot be started");
        return;
    }
    request_end_ahead();
    /* The trial was of what lay there then. Something else may lie there now, such as a pipe without a writer. If it
       ends the fork server, the worker starts another one, which does not prepare this module. */
    alarm(TRIAL_S_MAX);
    finish_first(code_prepare(waiting[0].path, waiting[0].version));
    alarm(0);
    if (code_is_full())
        make_room();
    request_begin_ahead();
    /* Compiling has left pages that are the fork server's own. */
    if (waiting_count == 0)
        mappings_keep_data();
}
