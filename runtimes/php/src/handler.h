/*
 * Handlers: functions that get an event and a context, and return their answer.
 *
 * The setting `handler` names a function of the module, or a method as Class::method; or the module returns a callable.
 * It is called as handler($event, $context) when the module has run. The event is the decoded JSON body, or the
 * parameters ($_POST and $_GET) if the body is not JSON. The context is an array of request_id, function, deadline_ms,
 * method, path, path_info, query, cookies, headers and remote_addr. A string is sent as it is, null not at all,
 * anything else as JSON. A module with neither has done everything itself.
 */
#pragma once

#include "php.h"

/* Calls the handler, if the module has one; `returned` is the module's return value. May leave an exception. */
void handler_call(const char *name, zval *returned);
