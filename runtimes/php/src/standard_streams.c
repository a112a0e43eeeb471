/* The standard streams by name; standard_streams.h has the interface. */

#define _GNU_SOURCE
#include "standard_streams.h"

#include <fcntl.h>
#include <string.h>

#include "php.h"
#include "php_streams.h"

static const php_stream_wrapper_ops *plain;

static bool is_output(const char *path)
{
    return strcmp(path, "/dev/stdout") == 0 || strcmp(path, "/dev/stderr") == 0;
}

static php_stream *open_plain(php_stream_wrapper *wrapper, const char *path, const char *mode, int options,
    zend_string **opened_path, php_stream_context *context STREAMS_DC)
{
    bool is_confined = PG(open_basedir) && *PG(open_basedir);
    int flags;
    bool is_ours = !(options & STREAM_OPEN_FOR_INCLUDE) && !is_confined;
    if (is_ours && strcmp(path, "/dev/stdin") == 0)
        return php_stream_open_wrapper_ex("php://input", mode, options, opened_path, context);
    if (is_ours && is_output(path) && php_stream_parse_fopen_modes(mode, &flags) == SUCCESS) {
        int file = open(path, flags | O_CLOEXEC, 0666);
        if (file >= 0)
            return php_stream_fopen_from_fd(file, mode, NULL);
    }
    return plain->stream_opener(wrapper, path, mode, options, opened_path, context STREAMS_REL_CC);
}

void standard_streams_open_by_name(void)
{
    static php_stream_wrapper_ops ops;
    plain = php_plain_files_wrapper.wops;
    ops = *plain;
    ops.stream_opener = open_plain;
    php_plain_files_wrapper.wops = &ops;
}
