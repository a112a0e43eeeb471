<?php
// GET /api/info: says what the function sees of its request and of the process it runs in.

declare(strict_types=1);

// getenv, because php-cli puts the module's own path over $_SERVER['SCRIPT_NAME'].
$variable = fn (string $name): string => (string) getenv($name);

$info = [
    'php' => PHP_VERSION,
    'method' => $variable('REQUEST_METHOD'),
    'path' => $variable('SCRIPT_NAME') . $variable('PATH_INFO'),
    'query' => $variable('QUERY_STRING'),
    'request_id' => $variable('FAAS_REQUEST_ID'),
    'time' => date(DATE_ATOM),
    'process' => getmypid(),
    // The posix extension is part of Debian's php-cli, not of every php.
    'worker_process' => function_exists('posix_getppid') ? posix_getppid() : null,
    'memory_peak_bytes' => memory_get_peak_usage(true),
];

echo "Content-Type: application/json\r\n\r\n";
// A query may be any bytes: what is not UTF-8 is replaced, as JSON cannot hold it.
echo json_encode($info, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR), "\n";
