/*
 * faas-php: runs PHP functions.
 *
 *   faas-php serve                                    the fork server (../../README.md)
 *   faas-php run [--NAME VALUE]... MODULE [ARG]...    one invocation, here and now
 *   faas-php --version                                the PHP that it is built for
 *
 * Both start PHP the same way, with the php.ini of the embed SAPI, and serve a request the same way (request.c).
 */

#define _GNU_SOURCE
#include "code.h"
#include "directives.h"
#include "request.h"
#include "sapi.h"
#include "serve.h"
#include "settings.h"
#include "title.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "php_main.h"
#include "zend_signal.h"

#define EXIT_USAGE 2
#define EXIT_NOT_BEGUN 127

#if defined(ZTS) || ZEND_DEBUG
#error "faas-php is for a PHP without threads and debugging"
#endif

static int fail(int status, const char *what, const char *subject)
{
    fprintf(stderr, "faas-php: %s%s%s\n", what, subject ? ": " : "", subject ? subject : "");
    return status;
}

static bool start_php(const struct settings *settings)
{
    signal(SIGPIPE, SIG_IGN);
    zend_signal_startup();
    sapi_startup(&faas_sapi);
    faas_sapi.ini_entries = directives_text(settings);
    if (!faas_sapi.ini_entries) {
        fail(0, "a directive contains a line break", NULL);
        return false;
    }
    if (faas_sapi.startup(&faas_sapi) != SUCCESS)
        return false;
    SG(options) |= SAPI_OPTION_NO_CHDIR;
    code_after_start();
    sapi_take_faults();
    zval *version = zend_get_constant_str("PHP_VERSION_ID", 14);
    return version && Z_LVAL_P(version) / 100 == PHP_VERSION_ID / 100;
}

/* Translates an option such as --memory-mib to a setting such as memory_mib. False if it is none. */
static bool take_option(struct settings *settings, char *option, char *value, const char **why)
{
    for (char *at = option + 2; *at; at++) {
        if (*at == '-')
            *at = '_';
    }
    *why = "an option without a value";
    return value && settings_take(settings, option + 2, value, why);
}

static int run(char **arguments)
{
    struct settings settings;
    const char *why = NULL;
    settings_begin(&settings);
    for (; *arguments && strncmp(*arguments, "--", 2) == 0; arguments += 2) {
        if (!take_option(&settings, arguments[0], arguments[1], &why))
            return fail(EXIT_USAGE, why, arguments[0]);
    }
    if (!*arguments)
        return fail(EXIT_USAGE, "run [--NAME VALUE]... MODULE [ARGUMENT]...", NULL);
    settings.module = *arguments;
    for (arguments++; *arguments; arguments++)
        strings_add(&settings.arguments, *arguments);
    if (settings.folder && chdir(settings.folder) != 0)
        return fail(EXIT_NOT_BEGUN, settings.folder, strerror(errno));
    if (!start_php(&settings))
        return fail(EXIT_NOT_BEGUN, "PHP does not start, or is another version than faas-php was built for", NULL);
    directives_read_user_ini(settings.module);
    if (settings.route)
        title_set(settings.route);
    int status = request_serve(&settings);
    fflush(NULL);
    _exit(status);
}

/* Starts this program anew, so that the loader finds all functions now, and not in each child again. The environment
   that it starts with is long enough for a title. */
static void start_bound(char **arguments)
{
    static char room[] = "FAAS_TITLE=................................................................................";
    if (getenv("LD_BIND_NOW"))
        return;
    putenv("LD_BIND_NOW=1");
    putenv(room);
    execv("/proc/self/exe", arguments);
}

int main(int count, char **arguments)
{
    if (count == 2 && strcmp(arguments[1], "serve") == 0)
        start_bound(arguments);
    title_begin(count, arguments);
    unsetenv("LD_BIND_NOW");
    unsetenv("FAAS_TITLE");
    if (count > 2 && strcmp(arguments[1], "run") == 0)
        return run(arguments + 2);
    if (count == 2 && strcmp(arguments[1], "serve") == 0) {
        if (!start_php(NULL))
            return fail(1, "PHP does not start, or is another version than faas-php was built for", NULL);
        title_set("fork server");
        return serve();
    }
    if (count == 2 && strcmp(arguments[1], "--version") == 0) {
        printf("faas-php for PHP %d.%d\n", PHP_MAJOR_VERSION, PHP_MINOR_VERSION);
        return 0;
    }
    return fail(EXIT_USAGE, "serve, or: run [--NAME VALUE]... MODULE [ARGUMENT]..., or: --version", NULL);
}
