#!/bin/sh
# Any method: says in plain text what was asked. A native function is any program that can be executed.
set -eu
printf 'Content-Type: text/plain; charset=utf-8\r\n\r\n'
printf 'method %s\n' "$REQUEST_METHOD"
printf 'path %s%s\n' "$SCRIPT_NAME" "${PATH_INFO-}"
printf 'query %s\n' "${QUERY_STRING-}"
printf 'request %s\n' "${FAAS_REQUEST_ID-}"
