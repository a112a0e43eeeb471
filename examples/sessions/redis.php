<?php
// Counts the visits of a browser, with sessions that all nodes share: they lie in Redis. PHP's own functions do it, so any
// program that uses sessions works the same way, unchanged. It takes the package php-redis on each node.
//
//   faas deploy examples/sessions/redis.php GET:/visits --set 'ini={
//       "session.save_handler": "redis",
//       "session.save_path": "tcp://10.0.0.1:6379?prefix=visits:",
//       "redis.session.locking_enabled": "1"}'
//
// With locking, two calls of one browser take turns, as they do with files.

session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
header('Content-Type: application/json');
echo json_encode(['visits' => $_SESSION['visits']]);
