/*
 * Functions that php-cgi and php-fpm have and libphp lacks, and two of PHP's own that the platform observes.
 *
 *   getallheaders, apache_request_headers, apache_response_headers   as sapi/cgi/cgi_main.c
 *   fastcgi_finish_request                                           as sapi/fpm: ends the response, not the script
 *   http_response_code                                               notes that the script has set a status itself
 */

#define _GNU_SOURCE
#include "code.h"
#include "hangup.h"
#include "standard_streams.h"
#include "sapi.h"

#include <fcntl.h>
#include <unistd.h>

#include "php_output.h"
#include "ext/standard/info.h"
#include "ext/standard/basic_functions.h"
#include "ext/standard/dl.h"
#include "ext/standard/dl_arginfo.h"
#include "zend_smart_str.h"

/* "HTTP_X_ONE" as "X-One", without "HTTP_". */
static void add_request_header(zval *headers, const char *name, size_t length, const char *value)
{
    char *text = estrndup(name, length);
    bool is_first = true;
    for (size_t at = 0; at < length; at++) {
        char byte = text[at];
        text[at] = byte == '_' ? '-' : is_first ? byte : (char)zend_tolower_ascii(byte);
        is_first = byte == '_';
    }
    add_assoc_string_ex(headers, text, length, value);
    efree(text);
}

ZEND_FUNCTION(faas_request_headers)
{
    ZEND_PARSE_PARAMETERS_NONE();
    array_init(return_value);
    for (char **at = environ; *at; at++) {
        const char *equals = strchr(*at, '=');
        size_t length = equals ? (size_t)(equals - *at) : 0;
        if (length > 5 && strncmp(*at, "HTTP_", 5) == 0)
            add_request_header(return_value, *at + 5, length - 5, equals + 1);
        else if (length == 12 && strncmp(*at, "CONTENT_TYPE", 12) == 0)
            add_assoc_string(return_value, "Content-Type", equals + 1);
        else if (length == 14 && strncmp(*at, "CONTENT_LENGTH", 14) == 0)
            add_assoc_string(return_value, "Content-Length", equals + 1);
    }
}

static void add_response_header(void *given, void *headers)
{
    const sapi_header_struct *header = given;
    const char *colon = memchr(header->header, ':', header->header_len);
    size_t length = colon ? (size_t)(colon - header->header) : 0;
    while (length > 0 && (header->header[length - 1] == ' ' || header->header[length - 1] == '\t'))
        length--;
    if (length == 0)
        return;
    do {
        colon++;
    } while (*colon == ' ' || *colon == '\t');
    add_assoc_stringl_ex(headers, header->header, length, colon, header->header_len - (size_t)(colon - header->header));
}

ZEND_FUNCTION(faas_response_headers)
{
    ZEND_PARSE_PARAMETERS_NONE();
    array_init(return_value);
    zend_llist_apply_with_argument(&SG(sapi_headers).headers, add_response_header, return_value);
}

/* All output has been written, and nothing can be written to stdout any more. The worker sends the response at once;
 * that of an executed process goes out when it ends. */
ZEND_FUNCTION(fastcgi_finish_request)
{
    ZEND_PARSE_PARAMETERS_NONE();
    if (!response.is_open)
        RETURN_FALSE;
    php_output_end_all();
    sapi_send_headers();
    sapi_flush_head();
    response.is_open = false;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0)
        RETURN_FALSE;
    dup2(null, STDOUT_FILENO);
    close(null);
    hangup_tell_whole();
    RETURN_TRUE;
}

static zif_handler set_response_code;

static ZEND_FUNCTION(faas_response_code)
{
    if (ZEND_NUM_ARGS() > 0 && !SG(headers_sent))
        response.is_status_given = true;
    set_response_code(INTERNAL_FUNCTION_PARAM_PASSTHRU);
}

static PHP_MINIT_FUNCTION(faas)
{
    (void)type, (void)module_number;
    code_take_turn();
    hangup_watch();
    standard_streams_open_by_name();
    zend_function *function = zend_hash_str_find_ptr(CG(function_table), "http_response_code", 18);
    if (function) {
        set_response_code = function->internal_function.handler;
        function->internal_function.handler = zif_faas_response_code;
    }
    return SUCCESS;
}

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_headers, 0, 0, IS_ARRAY, 0)
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_finish, 0, 0, _IS_BOOL, 0)
ZEND_END_ARG_INFO()

static const zend_function_entry functions[] = {
    ZEND_NAMED_FE(apache_request_headers, zif_faas_request_headers, arginfo_headers)
    ZEND_NAMED_FE(getallheaders, zif_faas_request_headers, arginfo_headers)
    ZEND_NAMED_FE(apache_response_headers, zif_faas_response_headers, arginfo_headers)
    ZEND_FE(fastcgi_finish_request, arginfo_finish)
    ZEND_FE_END
};

const zend_function_entry faas_additional_functions[] = {
    PHP_FE(dl, arginfo_dl)
    ZEND_FE_END
};

static PHP_MINFO_FUNCTION(faas)
{
    (void)zend_module;
    php_info_print_table_start();
    php_info_print_table_row(2, "php.ini is that of", "the embed SAPI");
    php_info_print_table_end();
}

zend_module_entry faas_module = {
    STANDARD_MODULE_HEADER,
    "cgi-fcgi",
    functions,
    PHP_MINIT(faas),
    NULL,
    NULL,
    NULL,
    PHP_MINFO(faas),
    PHP_VERSION,
    STANDARD_MODULE_PROPERTIES,
};
