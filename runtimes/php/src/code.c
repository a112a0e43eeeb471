/* The compiling of PHP code; code.h has the interface. */

#define _GNU_SOURCE
#include "code.h"
#include "sapi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "php_main.h"
#include "zend_exceptions.h"
#include "zend_extensions.h"
#include "zend_interfaces.h"
#include "zend_virtual_cwd.h"
#include "ext/standard/basic_functions.h"
#include "ext/standard/file.h"

/* The file that a prepared module was compiled from. */
struct prepared {
    char *version;
    struct stat file;
    /* PHP numbers code without a name of its own, and continues from here. */
    uint32_t next_key;
};

/* Maximum number of prepared modules: each costs every fork a little. */
#define PREPARED_MAX 256
/* Memory of opcache below which nothing more is prepared. One module takes some ten times the size of its file. */
#define BYTES_FREE_MIN (2 << 20)

static HashTable prepared;
static zend_long bytes_free = BYTES_FREE_MIN;

/* ---- The compiler ------------------------------------------------------------------------------------------------ */

static zend_op_array *(*compile_cached)(zend_file_handle *handle, int type);
static zend_op_array *(*compile_plainly)(zend_file_handle *handle, int type);
static zend_result (*start_opcache)(void);

static zend_op_array *compile(zend_file_handle *handle, int type)
{
    if (handle->primary_script)
        return compile_cached(handle, type);
    /* Opcache's way to open a file opens nothing if it has the code. */
    if (handle->type == ZEND_HANDLE_FILENAME
        && php_stream_open_for_zend_ex(handle, USE_PATH | REPORT_ERRORS | STREAM_OPEN_FOR_INCLUDE) != SUCCESS) {
        if (!EG(exception)) {
            zend_message_dispatcher(type == ZEND_REQUIRE ? ZMSG_FAILED_REQUIRE_FOPEN : ZMSG_FAILED_INCLUDE_FOPEN,
                ZSTR_VAL(handle->filename));
        }
        return NULL;
    }
    return compile_plainly(handle, type);
}

/* PHP calls this right before opcache joins the compilers. */
static zend_result note_compiler(void)
{
    compile_plainly = zend_compile_file;
    return start_opcache ? start_opcache() : SUCCESS;
}

static int take_turn(zend_extension *extension)
{
    (void)extension;
    start_opcache = zend_post_startup_cb;
    zend_post_startup_cb = note_compiler;
    /* PHP then forgets this extension silently. */
    return FAILURE;
}

/* Only an extension is called between opcache's start and the moment when opcache takes the compiler. */
void code_take_turn(void)
{
    static zend_extension turn = {.name = "faas-php", .startup = take_turn};
    zend_register_extension(&turn, NULL);
}

void code_after_start(void)
{
    zend_hash_init(&prepared, 64, NULL, NULL, 1);
    compile_cached = zend_compile_file;
    zend_compile_file = compile;
}

static bool has_opcache(void)
{
    return zend_hash_str_exists(CG(function_table), "opcache_invalidate", 18);
}

/* ---- Preparing --------------------------------------------------------------------------------------------------- */

/* Calls a function of opcache by its name. The caller frees `result`. */
static void ask_opcache(const char *name, zval *arguments, uint32_t count, zval *result)
{
    zend_function *function = zend_hash_str_find_ptr(CG(function_table), name, strlen(name));
    ZVAL_NULL(result);
    if (function)
        zend_call_known_function(function, NULL, NULL, result, count, arguments, NULL);
}

static void drop(zend_string *path)
{
    zval arguments[2], result;
    ZVAL_STR(&arguments[0], path);
    ZVAL_TRUE(&arguments[1]);
    ask_opcache("opcache_invalidate", arguments, 2, &result);
}

static bool is_cached(zend_string *path)
{
    zval argument, result;
    ZVAL_STR(&argument, path);
    ask_opcache("opcache_is_script_cached", &argument, 1, &result);
    return Z_TYPE(result) == IS_TRUE;
}

static void look_for_room(void)
{
    zval argument, status;
    ZVAL_FALSE(&argument);
    ask_opcache("opcache_get_status", &argument, 1, &status);
    zval *memory = Z_TYPE(status) == IS_ARRAY ? zend_hash_str_find(Z_ARRVAL(status), "memory_usage", 12) : NULL;
    zval *bytes = memory && Z_TYPE_P(memory) == IS_ARRAY ? zend_hash_str_find(Z_ARRVAL_P(memory), "free_memory", 11) : NULL;
    bytes_free = bytes ? zval_get_long(bytes) : 0;
    zval_ptr_dtor(&status);
}

static char reason[512];

static void note_exception(void)
{
    zval space, *message = zend_read_property(EG(exception)->ce, EG(exception), "message", 7, true, &space);
    snprintf(reason, sizeof reason, "%s", Z_TYPE_P(message) == IS_STRING ? Z_STRVAL_P(message) : "an exception");
    zend_clear_exception();
}

static void compile_module(const char *module)
{
    zend_string *name = zend_string_init(module, strlen(module), 0);
    zend_string *path = zend_resolve_path(name);
    if (!path) {
        snprintf(reason, sizeof reason, "the module cannot be found");
        return;
    }
    drop(path);
    zend_file_handle handle;
    zend_stream_init_filename_ex(&handle, name);
    handle.primary_script = 1;
    zend_op_array *code = zend_compile_file(&handle, ZEND_INCLUDE);
    zend_destroy_file_handle(&handle);
    if (code) {
        destroy_op_array(code);
        efree_size(code, sizeof *code);
    }
    if (EG(exception))
        note_exception();
    else if (!code)
        snprintf(reason, sizeof reason, "the module cannot be read");
    else if (!is_cached(path))
        snprintf(reason, sizeof reason, "opcache does not keep it");
    look_for_room();
}

const char *code_compile(const char *module)
{
    reason[0] = '\0';
    if (!has_opcache())
        return "opcache is not loaded";
    memset(&SG(request_info), 0, sizeof SG(request_info));
    SG(server_context) = NULL;
    if (php_request_startup() != SUCCESS)
        return "PHP does not start a request";
    EG(error_reporting) = 0;
    CG(skip_shebang) = 1;
    CG(rtd_key_counter) = 0;
    bool is_through = false;
    zend_try {
        compile_module(module);
        is_through = true;
    } zend_end_try();
    if (!is_through)
        snprintf(reason, sizeof reason, "%s", PG(last_error_message) ? ZSTR_VAL(PG(last_error_message)) : "a fatal error");
    /* Of all this, children find only the code. */
    php_clear_stat_cache(1, NULL, 0);
    php_request_shutdown(NULL);
    realpath_cache_clean();
    return reason[0] ? reason : NULL;
}

static bool is_same_file(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino && one->st_size == other->st_size
        && one->st_mtim.tv_sec == other->st_mtim.tv_sec && one->st_mtim.tv_nsec == other->st_mtim.tv_nsec
        && one->st_ctim.tv_sec == other->st_ctim.tv_sec && one->st_ctim.tv_nsec == other->st_ctim.tv_nsec;
}

static void forget(const char *path)
{
    struct prepared *entry = zend_hash_str_find_ptr(&prepared, path, strlen(path));
    if (!entry)
        return;
    zend_hash_str_del(&prepared, path, strlen(path));
    free(entry->version);
    free(entry);
}

const char *code_prepare(const char *module, const char *version)
{
    struct stat before, after;
    char path[PATH_MAX];
    struct prepared *entry = calloc(1, sizeof *entry);
    if (!entry || !(entry->version = strdup(version)))
        return "there is no memory";
    const char *why = NULL;
    if (!realpath(module, path) || stat(path, &before) != 0)
        why = strerror(errno);
    else if (!(why = code_compile(path)) && (stat(path, &after) != 0 || !is_same_file(&before, &after)))
        why = "the file has changed meanwhile";
    if (why) {
        free(entry->version);
        free(entry);
        return why;
    }
    forget(path);
    entry->file = after;
    entry->next_key = CG(rtd_key_counter);
    zend_hash_str_update_ptr(&prepared, path, strlen(path), entry);
    return NULL;
}

bool code_is_full(void)
{
    return zend_hash_num_elements(&prepared) >= PREPARED_MAX || bytes_free < BYTES_FREE_MIN;
}

void code_forget(void)
{
    struct prepared *entry;
    if (php_request_startup() == SUCCESS) {
        zval result;
        ask_opcache("opcache_reset", NULL, 0, &result);
        php_request_shutdown(NULL);
    }
    bytes_free = BYTES_FREE_MIN;
    ZEND_HASH_FOREACH_PTR(&prepared, entry) {
        free(entry->version);
        free(entry);
    } ZEND_HASH_FOREACH_END();
    zend_hash_clean(&prepared);
}

void code_check(zend_string *path, const char *version, bool is_usable)
{
    struct prepared *entry = zend_hash_find_ptr(&prepared, path);
    struct stat file;
    CG(rtd_key_counter) = 0;
    if (!entry)
        return;
    if (is_usable && version && strcmp(version, entry->version) == 0 && stat(ZSTR_VAL(path), &file) == 0
        && is_same_file(&file, &entry->file)) {
        CG(rtd_key_counter) = entry->next_key;
        return;
    }
    drop(path);
    /* Opcache noted the code that it found when the path was looked up; a second look-up makes it forget. */
    zend_string_release(zend_resolve_path(path));
}
