<?php
// Counts the visits of a browser. Its sessions lie in Redis, so all nodes share them. PHP's own functions do that, so
// any program that uses sessions works unchanged. It needs the package php-redis on each node.
//
//   faas deploy examples/sessions/redis.php GET:/visits --set 'ini={
//       "session.save_handler": "redis",
//       "session.save_path": "tcp://10.0.0.1:6379?prefix=visits:",
//       "redis.session.locking_enabled": "1",
//       "redis.session.lock_retries": "-1",
//       "redis.session.lock_expire": "60"}'
//
// With locking, two calls of one browser take turns, as they do with files. Without the last two lines a call would wait
// for its turn for 20 ms, and then lose its changes; and the lock of a call that was killed would stay for ever.

session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
header('Content-Type: application/json');
echo json_encode(['visits' => $_SESSION['visits']]);
