/* PHP's directives; directives.h has the interface. */

#define _GNU_SOURCE
#include "directives.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "php.h"
#include "SAPI.h"
#include "php_ini.h"
#include "zend_ini_scanner.h"
#include "zend_smart_str.h"

/* Override php.ini. Opcache holds main scripts only, for one invocation or as prepared, so little memory suffices.
   It resolves its paths anew and compares files each time, however young they are. */
static const char PLATFORM[] =
    "html_errors=0\ndisplay_errors=0\ndisplay_startup_errors=0\nlog_errors=1\nerror_log=\nexpose_php=0\n"
    "max_execution_time=0\nmax_input_time=-1\nregister_argc_argv=1\nupload_tmp_dir=\nffi.enable=0\nffi.preload=\n"
    "opcache.enable=1\nopcache.jit=disable\nopcache.jit_buffer_size=0\nopcache.memory_consumption=16\n"
    "opcache.interned_strings_buffer=4\nopcache.file_update_protection=0\nopcache.validate_timestamps=1\n"
    "opcache.revalidate_freq=0\nopcache.revalidate_path=1\nopcache.use_cwd=1\nopcache.record_warnings=1\n"
    "opcache.protect_memory=0\nopcache.preload=\nopcache.file_cache=\nopcache.restrict_api=\n"
    "opcache.max_accelerated_files=1000\nopcache.huge_code_pages=0\nopcache.error_log=\nopcache.log_verbosity_level=0\n";

/* Directives that the compiler reads, by the beginnings of their names. */
static const char *const COMPILER[] = {"zend.", "opcache.", "short_open_tag", "precision", "auto_globals_jit", "mbstring.",
    "internal_encoding", "input_encoding", "output_encoding", "default_charset", "open_basedir"};

static HashTable user_ini;
static bool has_user_ini;

/* Reads -d as php-cgi does: quotes a value that does not begin with a letter or digit, and uses "1" if there is no
   value. Beyond php-cgi it quotes what would be an error in php.ini, or the begin of a comment: = and ; as in the paths
   of session.save_path. */
static void append_line(smart_str *text, const char *directive)
{
    const char *equals = strchr(directive, '=');
    char first = equals ? equals[1] : '\0';
    bool is_quoted = first == '"' || first == '\'';
    bool needs_quotes = first && (!isalnum((unsigned char)first) || (strpbrk(equals + 1, "=;") && !strchr(equals + 1, '"')));
    if (needs_quotes && !is_quoted) {
        smart_str_appendl_ex(text, directive, (size_t)(equals + 1 - directive), true);
        smart_str_appendc_ex(text, '"', true);
        smart_str_appendl_ex(text, equals + 1, strlen(equals + 1), true);
        smart_str_appendc_ex(text, '"', true);
    } else {
        smart_str_appendl_ex(text, directive, strlen(directive), true);
        if (!equals)
            smart_str_appendl_ex(text, "=1", 2, true);
    }
    smart_str_appendc_ex(text, '\n', true);
}

static void append_own(smart_str *text, const struct settings *settings)
{
    if (settings->memory_mib) {
        smart_str_appendl_ex(text, "memory_limit=", 13, true);
        smart_str_append_unsigned_ex(text, settings->memory_mib, true);
        smart_str_appendl_ex(text, "M\n", 2, true);
    }
    if (settings->are_errors_shown)
        smart_str_appendl_ex(text, "display_errors=1\n", 17, true);
    if (settings->session_dir) {
        smart_str_appendl_ex(text, "session.save_path=\"", 19, true);
        smart_str_appendl_ex(text, settings->session_dir, strlen(settings->session_dir), true);
        smart_str_appendl_ex(text, "\"\n", 2, true);
    }
}

static bool append_all(smart_str *text, const struct settings *settings)
{
    append_own(text, settings);
    for (size_t at = 0; at < settings->ini.count; at++) {
        if (strpbrk(settings->ini.items[at], "\r\n"))
            return false;
        append_line(text, settings->ini.items[at]);
    }
    return true;
}

char *directives_text(const struct settings *settings)
{
    smart_str text = {0};
    const char *folder = getenv("TMPDIR");
    smart_str_appendl_ex(&text, PLATFORM, sizeof PLATFORM - 1, true);
    smart_str_appendl_ex(&text, "opcache.lockfile_path=\"", 23, true);
    smart_str_appendl_ex(&text, folder ? folder : "/tmp", strlen(folder ? folder : "/tmp"), true);
    smart_str_appendl_ex(&text, "\"\n", 2, true);
    if (settings && !append_all(&text, settings))
        return NULL;
    smart_str_0(&text);
    return strdup(ZSTR_VAL(text.s));
}

/* ---- In a forked child ------------------------------------------------------------------------------------------- */

static bool alter(zend_string *name, zend_string *value)
{
    zend_ini_entry *entry = zend_hash_find_ptr(EG(ini_directives), name);
    if (!entry)
        return false;
    bool is_same = entry->value ? zend_string_equals(entry->value, value) : ZSTR_LEN(value) == 0;
    if (is_same)
        return true;
    /* Opcache fixes all of its own for good when it starts, whatever they declare. */
    if (!(entry->modifiable & (ZEND_INI_USER | ZEND_INI_PERDIR)) || strncmp(ZSTR_VAL(name), "opcache.", 8) == 0)
        return false;
    zend_string *copy = zend_string_init(ZSTR_VAL(value), ZSTR_LEN(value), 1);
    if (entry->on_modify
        && entry->on_modify(entry, copy, entry->mh_arg1, entry->mh_arg2, entry->mh_arg3, ZEND_INI_STAGE_ACTIVATE) != SUCCESS)
        return false;
    entry->value = copy;
    /* get_cfg_var() looks here. */
    zval text;
    zend_string *key = zend_string_init(ZSTR_VAL(name), ZSTR_LEN(name), 1);
    ZVAL_STR(&text, zend_string_init(ZSTR_VAL(value), ZSTR_LEN(value), 1));
    zend_hash_update(php_ini_get_configuration_hash(), key, &text);
    zend_string_release_ex(key, 1);
    return true;
}

static void take_entry(zval *name, zval *value, zval *index, int kind, void *is_altered)
{
    (void)index;
    if (kind != ZEND_INI_PARSER_ENTRY || !value || !alter(Z_STR_P(name), Z_STR_P(value)))
        *(bool *)is_altered = false;
}

bool directives_alter(const struct settings *settings)
{
    smart_str text = {0};
    bool is_altered = append_all(&text, settings);
    int reporting = EG(error_reporting);
    /* A directive that cannot be altered is tried again by exec, so nothing is reported. */
    EG(error_reporting) = 0;
    if (is_altered && text.s) {
        smart_str_0(&text);
        if (zend_parse_ini_string(ZSTR_VAL(text.s), 0, ZEND_INI_SCANNER_NORMAL, take_entry, &is_altered) != SUCCESS)
            is_altered = false;
    }
    zend_ini_entry *entry = zend_hash_str_find_ptr(EG(ini_directives), "error_reporting", 15);
    EG(error_reporting) = entry && entry->value ? atoi(ZSTR_VAL(entry->value)) : reporting;
    return is_altered;
}

bool directives_shape_request(const struct settings *settings)
{
    return settings->ini.count > 0 || (has_user_ini && zend_hash_num_elements(&user_ini) > 0)
        || php_ini_has_per_dir_config() || php_ini_has_per_host_config();
}

static bool shapes_code(const char *name)
{
    for (size_t at = 0; at < sizeof COMPILER / sizeof *COMPILER; at++) {
        if (strncmp(name, COMPILER[at], strlen(COMPILER[at])) == 0)
            return true;
    }
    return false;
}

bool directives_shape_code(const struct settings *settings)
{
    for (size_t at = 0; at < settings->ini.count; at++) {
        if (shapes_code(settings->ini.items[at]))
            return true;
    }
    zend_string *name;
    if (has_user_ini) {
        ZEND_HASH_FOREACH_STR_KEY(&user_ini, name) {
            if (name && shapes_code(ZSTR_VAL(name)))
                return true;
        } ZEND_HASH_FOREACH_END();
    }
    return php_ini_has_per_dir_config() || php_ini_has_per_host_config();
}

/* ---- .user.ini, as php-cgi does: php_cgi_ini_activate_user_config() ---------------------------------------------- */

void directives_read_user_ini(const char *module)
{
    const char *name = PG(user_ini_filename), *root = getenv("DOCUMENT_ROOT");
    const char *slash = strrchr(module, '/');
    if (!name || !*name || !root || !slash || slash - module >= MAXPATHLEN)
        return;
    if (!has_user_ini)
        zend_hash_init(&user_ini, 8, NULL, NULL, 1);
    has_user_ini = true;
    char folder[MAXPATHLEN + 1];
    size_t length = (size_t)(slash + 1 - module), root_length = strlen(root);
    memcpy(folder, module, length);
    folder[length] = '\0';
    if (root_length > 0 && root[root_length - 1] == '/')
        root_length--;
    if (length <= root_length || strncmp(folder, root, root_length) != 0) {
        php_parse_user_ini_file(folder, name, &user_ini);
        return;
    }
    for (char *at = folder + root_length; (at = strchr(at, '/')); at++) {
        *at = '\0';
        php_parse_user_ini_file(folder, name, &user_ini);
        *at = '/';
    }
}

int directives_activate(void)
{
    const char *path = SG(request_info).path_translated;
    if (!path)
        return FAILURE;
    const char *server = getenv("SERVER_NAME");
    if (php_ini_has_per_host_config() && server) {
        char *name = zend_str_tolower_dup(server, strlen(server));
        php_ini_activate_per_host_config(name, strlen(name));
        efree(name);
    }
    if (php_ini_has_per_dir_config()) {
        char *folder = estrdup(path);
        size_t length = zend_dirname(folder, strlen(folder));
        folder[length++] = '/';
        folder[length] = '\0';
        php_ini_activate_per_dir_config(folder, length);
        efree(folder);
    }
    if (has_user_ini)
        php_ini_activate_config(&user_ini, PHP_INI_PERDIR, PHP_INI_STAGE_HTACCESS);
    return SUCCESS;
}
