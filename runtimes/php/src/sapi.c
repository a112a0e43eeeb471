/* The SAPI module; sapi.h has the interface. */

#define _GNU_SOURCE
#include "sapi.h"
#include "directives.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "php_main.h"
#include "php_output.h"
#include "php_variables.h"
#include "zend_exceptions.h"
#include "zend_smart_str.h"
#include "main/http_status_codes.h"

struct response response;

/* The head that waits for the body. */
static smart_str head;

static zend_result start(sapi_module_struct *module)
{
    return php_module_startup(module, &faas_module);
}

/* ---- Out --------------------------------------------------------------------------------------------------------- */

static size_t write_body(const char *bytes, size_t length)
{
    struct iovec pieces[2] = {
        {.iov_base = head.s ? ZSTR_VAL(head.s) : NULL, .iov_len = head.s ? ZSTR_LEN(head.s) : 0},
        {.iov_base = (char *)bytes, .iov_len = length},
    };
    size_t left = pieces[0].iov_len + length;
    if (!response.is_open)
        return length;
    while (left > 0) {
        ssize_t written = writev(STDOUT_FILENO, pieces, 2);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            smart_str_free(&head);
            php_handle_aborted_connection();
            return left < length ? length - left : 0;
        }
        left -= (size_t)written;
        for (int at = 0; at < 2; at++) {
            size_t taken = MIN((size_t)written, pieces[at].iov_len);
            pieces[at].iov_base = (char *)pieces[at].iov_base + taken;
            pieces[at].iov_len -= taken;
            written -= (ssize_t)taken;
        }
    }
    smart_str_free(&head);
    return length;
}

void sapi_flush_head(void)
{
    if (head.s)
        write_body("", 0);
}

static void flush(void *context)
{
    (void)context;
    sapi_flush_head();
}

static int end(void)
{
    sapi_flush_head();
    return SUCCESS;
}

static bool is_named(const sapi_header_struct *header, const char *name)
{
    size_t length = strlen(name);
    return header->header_len > length && strncasecmp(header->header, name, length) == 0;
}

/* PHP reports each header that is added, replaced or removed; those that it adds itself do not count. */
static int note_header(sapi_header_struct *header, sapi_header_op_enum operation, sapi_headers_struct *headers)
{
    (void)headers;
    bool is_default = SG(sapi_headers).send_default_content_type && is_named(header, "Content-type:");
    if ((operation == SAPI_HEADER_ADD || operation == SAPI_HEADER_REPLACE) && !is_default && !PG(during_request_startup))
        response.is_head_wanted = true;
    return SAPI_HEADER_ADD;
}

/* Appends the head's status: as the script set it, or by its number. False if there is none to write. */
static bool append_status(sapi_headers_struct *headers)
{
    const char *line = headers->http_status_line;
    int status = headers->http_response_code;
    if (response.is_status_of_fault && status == 500 && !response.is_status_given
        && (!line || strcmp(line, "HTTP/1.0 500 Internal Server Error") == 0))
        return false;
    if (status == 200 && !response.is_status_given && !line)
        return false;
    const char *text = line && status != 200 && strncasecmp(line, "HTTP/", 5) == 0 ? strchr(line, ' ') : NULL;
    if (text) {
        smart_str_appends(&head, "Status:");
        smart_str_appends(&head, text);
    } else {
        zend_llist_position place;
        sapi_header_struct *header = zend_llist_get_first_ex(&headers->headers, &place);
        for (; header; header = zend_llist_get_next_ex(&headers->headers, &place)) {
            if (is_named(header, "Status:"))
                return false;
        }
        smart_str_appends(&head, "Status: ");
        smart_str_append_long(&head, status);
        for (const http_response_status_code_pair *pair = http_status_map; pair->code != 0; pair++) {
            if (pair->code == status) {
                smart_str_appendc(&head, ' ');
                smart_str_appends(&head, pair->str);
            }
        }
    }
    smart_str_appends(&head, "\r\n");
    return true;
}

static int send_headers(sapi_headers_struct *headers)
{
    bool is_head_wanted = response.is_head_wanted || response.is_status_given || headers->http_status_line
        || headers->http_response_code != 200 || response.output == OUTPUT_CGI;
    if (response.is_status_of_fault && !response.is_head_wanted && !response.is_status_given
        && headers->http_response_code == 500)
        is_head_wanted = false;
    if (!response.is_open || SG(request_info).no_headers || !is_head_wanted || response.output == OUTPUT_RAW)
        return SAPI_HEADER_SENT_SUCCESSFULLY;
    bool has_status = append_status(headers);
    zend_llist_position place;
    sapi_header_struct *header = zend_llist_get_first_ex(&headers->headers, &place);
    for (; header; header = zend_llist_get_next_ex(&headers->headers, &place)) {
        bool is_status = is_named(header, "Status:");
        /* An empty header would end the head; one without a colon would make the head invalid. */
        if (header->header_len == 0 || !memchr(header->header, ':', header->header_len) || (is_status && has_status)
            || (headers->http_response_code == 304 && is_named(header, "Content-Type:")))
            continue;
        has_status = has_status || is_status;
        smart_str_appendl(&head, header->header, header->header_len);
        smart_str_appends(&head, "\r\n");
    }
    smart_str_appends(&head, "\r\n");
    smart_str_0(&head);
    return SAPI_HEADER_SENT_SUCCESSFULLY;
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

static void (*report_fault)(int type, zend_string *file, const uint32_t line, zend_string *message);

/* Fatal errors name the function in which they happened, and must not pass for a status that the script has chosen. */
static void take_fault(int type, zend_string *file, const uint32_t line, zend_string *message)
{
    int fatal = E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_PARSE | E_RECOVERABLE_ERROR;
    if ((type & fatal) && response.is_open) {
        const char *space, *class = get_active_class_name(&space), *function = get_active_function_name();
        if (function && strncmp(ZSTR_VAL(message), "Uncaught ", 9) != 0)
            fprintf(stderr, "PHP fatal error in %s%s%s():\n", class, space, function);
        if (!SG(headers_sent) && SG(sapi_headers).http_response_code == 200) {
            response.is_status_of_fault = !response.are_errors_shown;
            if (response.are_errors_shown && !response.is_status_given) {
                SG(sapi_headers).http_response_code = 500;
                response.is_head_wanted = true;
            }
        }
    }
    report_fault(type, file, line, message);
}

void sapi_take_faults(void)
{
    report_fault = zend_error_cb;
    zend_error_cb = take_fault;
}

static void log_message(const char *message, int type)
{
    (void)type;
    fprintf(stderr, "%s\n", message);
}

/* ---- In ---------------------------------------------------------------------------------------------------------- */

static size_t read_body(char *buffer, size_t length)
{
    size_t left = (size_t)(SG(request_info).content_length - SG(read_post_bytes));
    size_t count = 0;
    length = MIN(length, left);
    while (count < length) {
        ssize_t bytes = read(STDIN_FILENO, buffer + count, length - count);
        if (bytes < 0 && errno == EINTR)
            continue;
        if (bytes <= 0)
            break;
        count += (size_t)bytes;
    }
    return count;
}

static char *read_cookies(void)
{
    return getenv("HTTP_COOKIE");
}

static char *get_environment(const char *name, size_t length)
{
    (void)length;
    return getenv(name);
}

static void register_variable(const char *name, char *value, zval *variables)
{
    size_t length = strlen(value);
    if (sapi_module.input_filter(PARSE_SERVER, name, &value, length, &length))
        php_register_variable_safe(name, value, length, variables);
}

/* Registers the environment, as php-cgi does, and makes it known to filter_input(), as php-fpm does. */
static void register_variables(zval *variables)
{
    php_import_environment_variables(variables);
    for (char **at = environ; *at; at++) {
        char *equals = strchr(*at, '=');
        char name[128];
        size_t length = equals ? (size_t)(equals - *at) : 0;
        if (length == 0 || length >= sizeof name || memchr(*at, '.', length) || memchr(*at, '[', length)
            || memchr(*at, ' ', length))
            continue;
        memcpy(name, *at, length);
        name[length] = '\0';
        if (sapi_module.input_filter != php_default_input_filter)
            register_variable(name, equals + 1, variables);
    }
    if (!getenv("SCRIPT_FILENAME") && SG(request_info).path_translated)
        register_variable("SCRIPT_FILENAME", SG(request_info).path_translated, variables);
    const char *script = getenv("SCRIPT_NAME"), *path = getenv("PATH_INFO");
    char *self = NULL;
    spprintf(&self, 0, "%s%s", script ? script : "", path ? path : "");
    register_variable("PHP_SELF", self, variables);
    efree(self);
}

void sapi_read_request(const struct settings *settings)
{
    const char *length = getenv("CONTENT_LENGTH"), *type = getenv("CONTENT_TYPE");
    SG(server_context) = &response;
    SG(request_info).path_translated = estrdup(settings->module);
    SG(request_info).request_method = getenv("REQUEST_METHOD");
    SG(request_info).query_string = getenv("QUERY_STRING");
    SG(request_info).request_uri = getenv("SCRIPT_NAME");
    SG(request_info).cookie_data = NULL;
    SG(request_info).content_type = type ? type : "";
    SG(request_info).content_length = length ? atol(length) : 0;
    SG(request_info).proto_num = 1000;
    SG(sapi_headers).http_response_code = 200;
    php_handle_auth_data(getenv("HTTP_AUTHORIZATION"));
}

sapi_module_struct faas_sapi = {
    .name = "cgi-fcgi",
    .pretty_name = "CGI/FastCGI",
    .startup = start,
    .shutdown = php_module_shutdown_wrapper,
    .activate = directives_activate,
    .deactivate = end,
    .ub_write = write_body,
    .flush = flush,
    .getenv = get_environment,
    .sapi_error = php_error,
    .header_handler = note_header,
    .send_headers = send_headers,
    .read_post = read_body,
    .read_cookies = read_cookies,
    .register_server_variables = register_variables,
    .log_message = log_message,
    .php_ini_ignore_cwd = 1,
    .additional_functions = faas_additional_functions,
};
