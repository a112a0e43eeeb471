/* One request; request.h has the interface. */

#define _GNU_SOURCE
#include "request.h"
#include "code.h"
#include "directives.h"
#include "handler.h"
#include "sapi.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "php_main.h"
#include "php_output.h"
#include "php_streams.h"
#include "php_variables.h"
#include "fopen_wrappers.h"
#include "rfc1867.h"
#include "ext/standard/basic_functions.h"
#include "zend_observer.h"
#include "zend_exceptions.h"

/* Exit status for a module that is missing, or may not be read. */
#define EXIT_NO_MODULE 127

/* ---- Beginning --------------------------------------------------------------------------------------------------- */

static bool is_begun;

void request_begin_ahead(void)
{
    /* Both examine the request as soon as one begins. */
    if (zend_ini_long("session.auto_start", 18, 0) || zend_ini_long("zlib.output_compression", 23, 0))
        return;
    is_begun = php_request_startup() == SUCCESS;
}

void request_end_ahead(void)
{
    if (is_begun)
        php_request_shutdown(NULL);
    is_begun = false;
}

bool request_can_serve(const struct settings *settings)
{
    directives_read_user_ini(settings->module);
    if (directives_shape_request(settings))
        request_end_ahead();
    return directives_alter(settings);
}

/* Sets $argv as in the command line program, unless `ini` sets register_argc_argv: then it is PHP's own, of the
   query. */
static void set_arguments(const struct settings *settings)
{
    static struct strings arguments;
    bool is_phps_own = false;
    for (size_t at = 0; at < settings->ini.count; at++)
        is_phps_own = is_phps_own || strncmp(settings->ini.items[at], "register_argc_argv=", 19) == 0;
    if (is_phps_own && settings->arguments.count == 0)
        return;
    strings_add(&arguments, (char *)settings->module);
    for (size_t at = 0; at < settings->arguments.count; at++)
        strings_add(&arguments, settings->arguments.items[at]);
    SG(request_info).argc = (int)arguments.count;
    SG(request_info).argv = arguments.items;
}

/* Reads the request into one that has begun. PHP would leave the arrays of the unknown request to its garbage
   collector. */
static bool take_up(void)
{
    volatile bool is_good = false;
    for (int at = 0; at < NUM_TRACK_VARS; at++) {
        zval_ptr_dtor_nogc(&PG(http_globals)[at]);
        ZVAL_UNDEF(&PG(http_globals)[at]);
    }
    zend_try {
        sapi_activate();
        php_hash_environment();
        is_good = true;
    } zend_end_try();
    return is_good;
}

static bool begin(const struct settings *settings)
{
    if (is_begun)
        sapi_deactivate();
    sapi_read_request(settings);
    set_arguments(settings);
    if (!is_begun)
        return php_request_startup() == SUCCESS;
    return take_up();
}

/* The constants of the command line program. The descriptors stay open when PHP frees the streams. */
static void define_stream(const char *name, int descriptor, const char *mode)
{
    zval value;
    php_stream *stream = php_stream_fopen_from_fd(descriptor, mode, NULL);
    if (!stream)
        return;
    stream->flags |= PHP_STREAM_FLAG_NO_RSCR_DTOR_CLOSE;
    php_stream_to_zval(stream, &value);
    zend_constant constant = {.value = value, .name = zend_string_init_interned(name, strlen(name), 0)};
    ZEND_CONSTANT_SET_FLAGS(&constant, CONST_CS, 0);
    zend_register_constant(&constant);
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

static bool open_module(zend_file_handle *handle, const struct settings *settings)
{
    zend_string *name = zend_string_init(settings->module, strlen(settings->module), 0);
    zend_string *path = zend_resolve_path(name);
    zend_stream_init_filename_ex(handle, name);
    handle->primary_script = 1;
    zend_string_release(name);
    if (!path)
        return false;
    code_check(path, settings->version, !directives_shape_code(settings));
    zend_string_release(path);
    if (zend_stream_open(handle) != SUCCESS)
        return false;
    /* Opening a file resets this. */
    handle->primary_script = 1;
    if (handle->type == ZEND_HANDLE_FILENAME) {
        /* Nothing was opened, since the code is present. Resources are numbered as if it had been opened. */
        zend_resource *place = zend_register_resource(NULL, -1);
        zend_hash_index_del(&EG(regular_list), place->handle);
    }
    return true;
}

/* Runs a file that php.ini names to run before or after the module. False if nothing more is to be run. */
static bool run_file(const char *path)
{
    zend_file_handle handle;
    if (!path || !*path)
        return true;
    zend_stream_init_filename(&handle, path);
    bool is_good = zend_execute_scripts(ZEND_REQUIRE, NULL, 1, &handle) == SUCCESS;
    zend_destroy_file_handle(&handle);
    return is_good;
}

/* Passes an exception that the module has not caught to its handler of exceptions, or to the log; exit() is one,
   too. False if nothing more is to be run. */
static bool end_exception(void)
{
    zend_exception_restore();
    if (EG(exception) && Z_TYPE(EG(user_exception_handler)) != IS_UNDEF)
        zend_user_exception_handler();
    return !EG(exception) || zend_exception_error(EG(exception), E_ERROR) == SUCCESS;
}

/* Compiles the module and closes it: PHP itself would keep it open while the script runs. */
static zend_op_array *compile_module(zend_file_handle *handle)
{
    zend_op_array *code = zend_compile_file(handle, ZEND_REQUIRE);
    if (handle->opened_path)
        zend_hash_add_empty_element(&EG(included_files), handle->opened_path);
    zend_destroy_file_handle(handle);
    return code;
}

/* Like php_execute_script(), which does not return the module's return value. */
static void run_module(zend_file_handle *handle, const struct settings *settings)
{
    zval returned;
    ZVAL_UNDEF(&returned);
    zend_op_array *code = run_file(PG(auto_prepend_file)) ? compile_module(handle) : NULL;
    if (!code)
        return;
    zend_execute(code, &returned);
    bool is_through = !EG(exception), goes_on = end_exception();
    zend_destroy_static_vars(code);
    destroy_op_array(code);
    efree_size(code, sizeof *code);
    if (is_through && settings->handler && *settings->handler) {
        handler_call(settings->handler, &returned);
        goes_on = end_exception();
    }
    zval_ptr_dtor(&returned);
    if (goes_on)
        run_file(PG(auto_append_file));
}

/* ---- Ending ------------------------------------------------------------------------------------------------------ */

/* The part of php_request_shutdown() with visible effects: remaining PHP code, output, sessions, writes on closing a
   stream or freeing an object, and files of uploads. Memory is freed with the process. */
static void end_request(void)
{
    EG(flags) |= EG_FLAGS_IN_SHUTDOWN;
    EG(current_execute_data) = NULL;
    if (PG(modules_activated))
        php_call_shutdown_functions();
    zend_try {
        zend_call_destructors();
    } zend_end_try();
    zend_try {
        php_output_end_all();
    } zend_end_try();
    zend_try {
        zend_unset_timeout();
    } zend_end_try();
    if (PG(modules_activated))
        zend_deactivate_modules();
    zend_try {
        php_output_deactivate();
    } zend_end_try();
    sapi_flush_head();
    /* PHP writes there once its output layer is down, for example after a fault in an output handler. */
    fflush(stdout);
    zend_try {
        zend_shutdown_executor_values(true);
    } zend_end_try();
    if (SG(rfc1867_uploaded_files))
        destroy_uploaded_files_hash();
}

int request_serve(const struct settings *settings)
{
    zend_file_handle handle;
    response = (struct response){.is_open = true, .output = settings->output, .are_errors_shown = settings->are_errors_shown};
    if (!begin(settings))
        return 255;
    zend_try {
        PG(during_request_startup) = 0;
        CG(skip_shebang) = 1;
        errno = 0;
        if (!open_module(&handle, settings)) {
            fprintf(stderr, "the module %s cannot be opened: %s\n", settings->module, strerror(errno));
            EG(exit_status) = EXIT_NO_MODULE;
        } else {
            define_stream("STDIN", STDIN_FILENO, "rb");
            define_stream("STDOUT", STDOUT_FILENO, "wb");
            define_stream("STDERR", STDERR_FILENO, "wb");
            run_module(&handle, settings);
        }
    } zend_end_try();
    if (EG(exception)) {
        zend_try {
            zend_exception_error(EG(exception), E_ERROR);
        } zend_end_try();
    }
    if (ZEND_OBSERVER_ENABLED)
        php_request_shutdown(NULL);
    else
        end_request();
    return EG(exit_status) & 0xff;
}
