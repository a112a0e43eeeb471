/*
 * The SAPI module: PHP's interface to its surroundings, and the handling of its output.
 *
 * It behaves like php-cgi (sapi/cgi/cgi_main.c), whose name it bears. All differences are in the head:
 *
 *   a script that sets neither a header nor a status gets no head, unless the function's output is `cgi`
 *   one whose output is `raw` never gets one
 *   a fatal error gives no status to the head: the exit status says it, and the worker makes the answer
 *   a status that the script sets to 200 itself is written as well: it is the script's own
 *
 * The head is held back until the first byte of the body, or a flush, and is written with it in one call.
 */
#pragma once

#include "settings.h"

#include <stdbool.h>

#include "php.h"
#include "SAPI.h"

extern sapi_module_struct faas_sapi;

/* Functions that php-cgi and php-fpm have and libphp lacks, see functions.c. */
extern zend_module_entry faas_module;
extern const zend_function_entry faas_additional_functions[];

/* The state of the current request's response. */
struct response {
    /* Nothing is written while this is false: no request is being served. */
    bool is_open;
    enum output output;
    bool are_errors_shown;
    bool is_head_wanted;
    /* The script has set a status, be it 200. */
    bool is_status_given;
    /* PHP has set status 500, for a fatal error. */
    bool is_status_of_fault;
};

extern struct response response;

/* Call this once, after the start of PHP. */
void sapi_take_faults(void);

/* Writes the head that is held back. */
void sapi_flush_head(void);

/* Fills SG(request_info) from the environment, which by now is this process's own. */
void sapi_read_request(const struct settings *settings);
