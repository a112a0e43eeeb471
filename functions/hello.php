<?php
// POST /api/hello: greets whom the JSON body names.
//
//   in   {"name": "Alice"}
//   out  {"message": "Hello, Alice!"}
//
// Written as for any web server: the platform speaks CGI, and PHP does the rest.

declare(strict_types=1);

function answer(int $status, array $body): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($body, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR), "\n";
    exit;
}

// The plain php program, which runs functions where neither faas-php nor php-cgi is there, has the body on stdin only.
$body = file_get_contents(PHP_SAPI === 'cli' ? 'php://stdin' : 'php://input');
try {
    $request = json_decode($body, flags: JSON_THROW_ON_ERROR);
} catch (JsonException $fault) {
    answer(400, ['error' => 'the body is not JSON: ' . $fault->getMessage()]);
}
if (!is_object($request)) {
    answer(400, ['error' => 'the body must be a JSON object such as {"name":"Alice"}']);
}
$name = $request->name ?? 'World';
if (!is_string($name)) {
    answer(400, ['error' => '"name" must be a string']);
}
answer(200, ['message' => "Hello, $name!", 'runtime' => 'php ' . PHP_VERSION]);
