/* Handlers; handler.h has the interface. */

#define _GNU_SOURCE
#include "handler.h"
#include "sapi.h"

#include <ctype.h>
#include <stdlib.h>

#include "php_output.h"
#include "php_streams.h"
#include "zend_exceptions.h"
#include "zend_interfaces.h"
#include "zend_smart_str.h"
#include "ext/json/php_json.h"
#include "ext/standard/basic_functions.h"

/* Writes the JSON of an answer as people write it. */
#define JSON_OPTIONS (PHP_JSON_UNESCAPED_UNICODE | PHP_JSON_UNESCAPED_SLASHES | PHP_JSON_PRESERVE_ZERO_FRACTION)

/* ---- Event and context ------------------------------------------------------------------------------------------- */

static void add_all(zval *to, int source)
{
    zval *from = &PG(http_globals)[source];
    if (Z_TYPE_P(from) == IS_ARRAY)
        zend_hash_merge(Z_ARRVAL_P(to), Z_ARRVAL_P(from), zval_add_ref, false);
}

static void make_event(zval *event)
{
    const char *length = getenv("CONTENT_LENGTH");
    zend_string *body = NULL;
    if (length && strcmp(length, "0") != 0) {
        php_stream *input = php_stream_open_wrapper("php://input", "rb", REPORT_ERRORS, NULL);
        if (input) {
            body = php_stream_copy_to_mem(input, PHP_STREAM_COPY_ALL, 0);
            php_stream_close(input);
        }
    }
    bool is_json = body && ZSTR_LEN(body) > 0
        && php_json_decode_ex(event, ZSTR_VAL(body), ZSTR_LEN(body), PHP_JSON_OBJECT_AS_ARRAY, PHP_JSON_PARSER_DEFAULT_DEPTH)
            == SUCCESS;
    if (!is_json) {
        array_init(event);
        add_all(event, TRACK_VARS_POST);
        add_all(event, TRACK_VARS_GET);
    }
    if (body)
        zend_string_release(body);
}

static void add_text(zval *context, const char *key, const char *variable)
{
    const char *value = getenv(variable);
    add_assoc_string(context, key, value ? value : "");
}

static void add_copy(zval *context, const char *key, int source)
{
    zval copy;
    if (Z_TYPE(PG(http_globals)[source]) == IS_ARRAY)
        ZVAL_ARR(&copy, zend_array_dup(Z_ARR(PG(http_globals)[source])));
    else
        array_init(&copy);
    add_assoc_zval(context, key, &copy);
}

/* "HTTP_X_ONE" as "x-one". */
static void add_headers(zval *context)
{
    zval headers;
    array_init(&headers);
    for (char **at = environ; *at; at++) {
        const char *equals = strchr(*at, '=');
        bool is_field = strncmp(*at, "HTTP_", 5) == 0;
        if (!equals || !(is_field || strncmp(*at, "CONTENT_TYPE=", 13) == 0 || strncmp(*at, "CONTENT_LENGTH=", 15) == 0))
            continue;
        const char *from = is_field ? *at + 5 : *at;
        char *name = zend_str_tolower_dup(from, (size_t)(equals - from));
        for (char *byte = name; *byte; byte++) {
            if (*byte == '_')
                *byte = '-';
        }
        add_assoc_string(&headers, name, equals + 1);
        efree(name);
    }
    add_assoc_zval(context, "headers", &headers);
}

/* The values of the route's {name} segments, by name: the route holds the names as written, and one variable per
   name holds its value. */
static void add_params(zval *context)
{
    zval params;
    array_init(&params);
    const char *route = getenv("FAAS_ROUTE");
    for (const char *open = route ? strchr(route, '{') : NULL; open; open = strchr(open + 1, '{')) {
        size_t length = strcspn(open + 1, "}");
        char *variable;
        spprintf(&variable, 0, "FAAS_PARAM_%.*s", (int)length, open + 1);
        for (char *byte = variable; *byte; byte++)
            *byte = (char)toupper((unsigned char)*byte);
        const char *value = getenv(variable);
        if (value)
            add_assoc_string_ex(&params, open + 1, length, value);
        efree(variable);
    }
    add_assoc_zval(context, "params", &params);
}

static void make_context(zval *context)
{
    const char *deadline = getenv("FAAS_DEADLINE_MS"), *script = getenv("SCRIPT_NAME"), *info = getenv("PATH_INFO");
    char *path;
    array_init(context);
    add_text(context, "request_id", "FAAS_REQUEST_ID");
    add_text(context, "function", "FAAS_FUNCTION");
    add_assoc_long(context, "deadline_ms", deadline ? atoll(deadline) : 0);
    add_text(context, "method", "REQUEST_METHOD");
    spprintf(&path, 0, "%s%s", script ? script : "", info ? info : "");
    add_assoc_string(context, "path", path);
    efree(path);
    add_text(context, "path_info", "PATH_INFO");
    add_params(context);
    add_copy(context, "query", TRACK_VARS_GET);
    add_copy(context, "cookies", TRACK_VARS_COOKIE);
    add_headers(context);
    add_text(context, "remote_addr", "REMOTE_ADDR");
}

/* ---- The handler ------------------------------------------------------------------------------------------------- */

/* A public method that is not static needs an object of its class, made without arguments. */
static bool find_method(zval *callable, const char *name, const char *colons)
{
    zend_string *class_name = zend_string_init(name, (size_t)(colons - name), 0);
    zend_class_entry *class = zend_lookup_class(class_name);
    zend_string_release(class_name);
    if (!class || EG(exception))
        return false;
    char *key = zend_str_tolower_dup(colons + 2, strlen(colons + 2));
    zend_function *method = zend_hash_str_find_ptr(&class->function_table, key, strlen(key));
    efree(key);
    zval object;
    if (!method || !(method->common.fn_flags & ZEND_ACC_PUBLIC) || object_init_ex(&object, class) != SUCCESS)
        return false;
    if (class->constructor)
        zend_call_known_instance_method_with_0_params(class->constructor, Z_OBJ(object), NULL);
    if (EG(exception)) {
        zval_ptr_dtor(&object);
        return false;
    }
    array_init(callable);
    add_next_index_zval(callable, &object);
    add_next_index_string(callable, colons + 2);
    return true;
}

static bool find(zval *callable, const char *name, zval *returned)
{
    char *key = zend_str_tolower_dup(name[0] == '\\' ? name + 1 : name, strlen(name[0] == '\\' ? name + 1 : name));
    zend_function *function = zend_hash_str_find_ptr(EG(function_table), key, strlen(key));
    const char *colons = strstr(name, "::");
    efree(key);
    ZVAL_UNDEF(callable);
    if (function && function->type == ZEND_USER_FUNCTION) {
        ZVAL_STRING(callable, name);
        return true;
    }
    if (colons) {
        ZVAL_STRING(callable, name);
        if (zend_is_callable(callable, 0, NULL))
            return true;
        zval_ptr_dtor(callable);
        ZVAL_UNDEF(callable);
        if (EG(exception))
            return false;
        if (find_method(callable, name, colons))
            return true;
    }
    if ((Z_TYPE_P(returned) == IS_OBJECT || Z_TYPE_P(returned) == IS_ARRAY) && zend_is_callable(returned, 0, NULL)) {
        ZVAL_COPY(callable, returned);
        return true;
    }
    return false;
}

/* ---- The answer -------------------------------------------------------------------------------------------------- */

static bool has_content_type(void)
{
    return !SG(sapi_headers).send_default_content_type || SG(headers_sent);
}

static void send_json(const char *name, zval *answer)
{
    smart_str text = {0};
    /* Some faults are not in the returned value, such as that of NAN. */
    if (php_json_encode(&text, answer, JSON_OPTIONS) != SUCCESS || JSON_G(error_code) != PHP_JSON_ERROR_NONE) {
        if (!EG(exception))
            zend_throw_error(NULL, "what the handler %s returned cannot be sent as JSON", name);
        return;
    }
    smart_str_0(&text);
    if (!has_content_type()) {
        sapi_header_line line = {.line = "Content-Type: application/json", .line_len = 30};
        sapi_header_op(SAPI_HEADER_REPLACE, &line);
    }
    PHPWRITE(text.s ? ZSTR_VAL(text.s) : "", text.s ? ZSTR_LEN(text.s) : 0);
    smart_str_free(&text);
}

void handler_call(const char *name, zval *returned)
{
    zval callable, arguments[2], answer;
    /* A frame to which the handler returns. Without it an exception would end PHP here, past a handler of
       exceptions. */
    zend_execute_data frame = {.func = (zend_function *)&zend_pass_function};
    EG(current_execute_data) = &frame;
    ZVAL_UNDEF(&answer);
    if (find(&callable, name, returned)) {
        make_event(&arguments[0]);
        make_context(&arguments[1]);
        if (!EG(exception))
            call_user_function(NULL, NULL, &callable, &answer, 2, arguments);
        zval_ptr_dtor(&arguments[0]);
        zval_ptr_dtor(&arguments[1]);
    }
    if (!EG(exception)) {
        if (Z_TYPE(answer) == IS_STRING)
            PHPWRITE(Z_STRVAL(answer), Z_STRLEN(answer));
        else if (Z_TYPE(answer) > IS_NULL)
            send_json(name, &answer);
    }
    zval_ptr_dtor(&answer);
    zval_ptr_dtor(&callable);
    EG(current_execute_data) = NULL;
}
