<?php
// GET /api/info: says what the function sees of its request and of the process it runs in.

declare(strict_types=1);

$info = [
    'php' => PHP_VERSION,
    'method' => $_SERVER['REQUEST_METHOD'],
    // The plain php program has the module's path in $_SERVER['SCRIPT_NAME'].
    'path' => getenv('SCRIPT_NAME') . getenv('PATH_INFO'),
    'query' => $_SERVER['QUERY_STRING'],
    'request_id' => $_SERVER['FAAS_REQUEST_ID'],
    'time' => date(DATE_ATOM),
    'process' => getmypid(),
    // The posix extension is part of Debian's php-cli, not of every php.
    'worker_process' => function_exists('posix_getppid') ? posix_getppid() : null,
    'memory_peak_bytes' => memory_get_peak_usage(true),
];

header('Content-Type: application/json');
// A query may be any bytes: what is not UTF-8 is replaced, as JSON cannot hold it.
echo json_encode($info, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR), "\n";
