<?php
// POST /api/hello: greets whom the JSON body names.
//
//   in   {"name": "Alice"}
//   out  {"message": "Hello, Alice!"}
//
// A function is a program that speaks CGI: the body on stdin, what else there is to know in the environment, and an
// answer on stdout that opens with its header lines. php-cli drops what is given to header(), so they are printed.

declare(strict_types=1);

function answer(string $status, array $body): never
{
    echo "Status: $status\r\nContent-Type: application/json\r\n\r\n";
    echo json_encode($body, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR), "\n";
    exit;
}

try {
    $request = json_decode(file_get_contents('php://stdin'), flags: JSON_THROW_ON_ERROR);
} catch (JsonException $fault) {
    answer('400 Bad Request', ['error' => 'the body is not JSON: ' . $fault->getMessage()]);
}
if (!is_object($request)) {
    answer('400 Bad Request', ['error' => 'the body must be a JSON object such as {"name":"Alice"}']);
}
$name = $request->name ?? 'World';
if (!is_string($name)) {
    answer('400 Bad Request', ['error' => '"name" must be a string']);
}
answer('200 OK', ['message' => "Hello, $name!", 'runtime' => 'php ' . PHP_VERSION]);
