/*
 * The SAPI module: what PHP asks its surroundings for, and what becomes of its output.
 *
 * It behaves as php-cgi (sapi/cgi/cgi_main.c) does, whose name it bears. Differences, all in the head:
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

/* Functions that php-cgi and php-fpm have and libphp has not, see functions.c. */
extern zend_module_entry faas_module;
extern const zend_function_entry faas_additional_functions[];

/* What the current request has asked of its response so far. */
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

/* To be called once, after the start of PHP. */
void sapi_take_faults(void);

/* Writes what is held back. */
void sapi_flush_head(void);

/* Fills SG(request_info) from the environment, which is this process's own by now. */
void sapi_read_request(const struct settings *settings);
