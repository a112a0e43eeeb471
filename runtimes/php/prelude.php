<?php
/*
 * What PHP functions find: `php`, the command line program, made to behave as php-cgi does.
 *
 * The worker names this file as auto_prepend_file, so the function's module stays the main script: its arguments, __FILE__,
 * stack traces and exit status are those of `php module.php`. It serves both ways to start a function alike:
 *
 *   cold   this file takes the request from the environment that the process was started with
 *   warm   the setting faas.server names server.php, which forks here; a child goes on with the request that it was sent
 *
 * header() and its like do nothing in the command line program. The worker takes them away with disable_functions, and they
 * are defined again below. What they collect is written as a CGI head just before the first output, which PHP itself tells us
 * of (header_register_callback), so that no output buffer of ours stands between the function and its answer. A function
 * that uses none of them gets no head: then all of its output, or the head that it prints itself, is the answer. Nor does one
 * whose descriptor says `"output": "raw"`.
 *
 * Differences from php-cgi that remain: no default Content-Type; PHP_SAPI is "cli"; STDIN, STDOUT and STDERR are there;
 * $_FILES, move_uploaded_file() and sessions' cookies are not; what is written to STDOUT or php://stdout passes by the head;
 * without the FFI extension a function's own header_register_callback() takes the place of the head. All of that is what
 * "sapi": "cgi" is for.
 *
 * Handlers: where FAAS_HANDLER names a function of the module, or a method as Class::method, or where the module returns a
 * callable, that is called when the module has run, as handler($event, $context). The event is the decoded JSON body, or,
 * where the body is no JSON, the parameters ($_POST and $_GET). The context is an array of request_id, function, deadline_ms,
 * method, path, path_info, query, cookies, headers and remote_addr. What it returns is sent: a string as it is, null not at
 * all, anything else as JSON. Where there is neither, the module has done all by itself. With FAAS_HANDLER set the module is
 * run by `require` from here, since that is the only way to see what it returns: stack traces then show one line more.
 */

namespace Faas {
    /** One request: from the environment to $_SERVER and its like, and from header() to the CGI head. */
    final class Request
    {
        /** Lines of the head but the status: [name in lower case, line]. */
        private static array $headers = [];
        /** The status line as given, without the protocol: "404 Gone fishing". */
        private static ?string $statusText = null;
        private static int $status = 200;
        private static bool $isHeadWanted = false;
        private static bool $isHeadSent = false;
        /** What the function gave to header_register_callback(). */
        private static mixed $callback = null;
        /** PHP's own header_register_callback(), where the function's had to take its name. */
        private static ?\Closure $register = null;
        /** What filter_input() looks at, which is not what the function may have changed since. */
        private static array $inputs = [];

        /** Objects that keep the low numbers from ours. */
        private static array $low = [];

        // ---- At start ---------------------------------------------------------------------------------------------------

        /**
         * Keeps the first numbers of objects, which var_dump() and spl_object_id() show, for those of the function, whose
         * first is number 1 then, cold and warm. PHP gives away the number that came free last, hence they come free
         * from the last to the first.
         */
        public static function reserve(): void
        {
            for ($count = 0; $count < 64; $count++) {
                array_unshift(self::$low, new \stdClass());
            }
        }

        /**
         * Takes header_register_callback() out of PHP's table of functions, so that it can be defined again, and keeps it for
         * us. PHP remembers how many functions are its own, to know at its end which to leave; that number, of which there is
         * no other way to learn, is looked for among PHP's globals by its neighbours. False where that cannot be done.
         */
        public static function takeCallback(): bool
        {
            if (!extension_loaded('FFI') || PHP_ZTS || PHP_INT_SIZE !== 8) {
                return false;
            }
            try {
                $php = \FFI::cdef('extern uint32_t executor_globals[512]; void zend_disable_functions(const char *names);');
                $functions = count(get_defined_functions()['internal']);
                $classes = count(array_filter([...get_declared_classes(), ...get_declared_interfaces(), ...get_declared_traits()],
                    fn (string $class) => (new \ReflectionClass($class))->isInternal()));
                $words = unpack('V*', \FFI::string(\FFI::cast('char *', \FFI::addr($php->executor_globals)), 2048));
                $found = array_keys(array_filter($words, fn (int $word, int $at) => $word === $functions
                    && abs(($words[$at + 1] ?? 0) - $classes) <= 64, ARRAY_FILTER_USE_BOTH));
                if (count($found) !== 1) {
                    return false;
                }
                self::$register = \header_register_callback(...);
                $php->zend_disable_functions('header_register_callback');
                $php->executor_globals[$found[0] - 1] = $functions - 1;
                return true;
            } catch (\Throwable) {
                return false;
            }
        }

        // ---- In -------------------------------------------------------------------------------------------------------

        /** Has PHP tell us before the first output. */
        public static function listen(): void
        {
            (self::$register ?? \header_register_callback(...))(self::sendHead(...));
        }

        /** The request that this environment tells of becomes the superglobals. */
        public static function begin(array $environment): void
        {
            self::listen();
            $_SERVER = self::server($environment);
            if (isset($environment['REQUEST_METHOD'])) {
                parse_str($environment['QUERY_STRING'] ?? '', $_GET);
                $_COOKIE = self::cookies($environment['HTTP_COOKIE'] ?? '');
                if (($environment['CONTENT_LENGTH'] ?? '0') !== '0') {
                    Body::begin();
                    $_POST = self::post($environment);
                }
                $_REQUEST = self::merged($_GET, $_POST, $_COOKIE);
            }
            self::$inputs = [INPUT_GET => $_GET, INPUT_POST => $_POST, INPUT_COOKIE => $_COOKIE, INPUT_SERVER => $_SERVER,
                INPUT_ENV => $environment];
        }

        /** To be called once everything of ours is there. */
        public static function release(): void
        {
            self::$low = [];
        }

        private static function server(array $environment): array
        {
            $own = ['argv' => $_SERVER['argv'] ?? [], 'argc' => $_SERVER['argc'] ?? 0,
                'REQUEST_TIME_FLOAT' => $now = microtime(true), 'REQUEST_TIME' => (int) $now];
            if (!isset($environment['REQUEST_METHOD'])) {
                return $own + $environment + $_SERVER;
            }
            $own['PHP_SELF'] = ($environment['SCRIPT_NAME'] ?? '') . ($environment['PATH_INFO'] ?? '');
            $own['SCRIPT_FILENAME'] = $own['argv'][0] ?? '';
            $credentials = $environment['HTTP_AUTHORIZATION'] ?? '';
            if (strncasecmp($credentials, 'Basic ', 6) === 0) {
                $pair = explode(':', (string) base64_decode(substr($credentials, 6)), 2);
                if (count($pair) === 2) {
                    [$own['PHP_AUTH_USER'], $own['PHP_AUTH_PW']] = $pair;
                }
            } elseif (strncasecmp($credentials, 'Digest ', 7) === 0) {
                $own['PHP_AUTH_DIGEST'] = substr($credentials, 7);
            }
            return $own + $environment;
        }

        /** As PHP does: of two cookies of one name the first counts; names are not decoded, values are, but for +. */
        private static function cookies(string $header): array
        {
            $pairs = [];
            foreach (explode(';', $header) as $cookie) {
                [$name, $value] = explode('=', ltrim($cookie), 2) + [1 => ''];
                if ($name !== '' && (!isset($pairs[$name]) || str_contains($name, '['))) {
                    $pairs[str_contains($name, '[') ? "$name#" . count($pairs) : $name]
                        = rawurlencode($name) . '=' . urlencode(rawurldecode($value));
                }
            }
            parse_str(implode('&', $pairs), $cookies);
            return $cookies;
        }

        private static function post(array $environment): array
        {
            $type = $environment['CONTENT_TYPE'] ?? '';
            $kind = strtolower(trim(explode(';', $type, 2)[0]));
            $isForm = $kind === 'multipart/form-data';
            $isPost = $environment['REQUEST_METHOD'] === 'POST';
            if (!$isPost || !$isForm && $kind !== 'application/x-www-form-urlencoded') {
                return [];
            }
            $length = (int) $environment['CONTENT_LENGTH'];
            $max = self::bytes((string) ini_get('post_max_size'));
            if ($max > 0 && $length > $max) {
                self::warnAtStartup("POST Content-Length of $length bytes exceeds the limit of $max bytes");
                return [];
            }
            if (!$isForm) {
                parse_str(Body::contents(), $post);
                return $post;
            }
            $post = self::fields(Body::contents(), $type);
            Body::consume();
            return $post;
        }

        private static function warnAtStartup(string $message): void
        {
            error_log("PHP Warning:  PHP Request Startup: $message in Unknown on line 0");
        }

        /** "8M" in bytes. */
        private static function bytes(string $text): int
        {
            $unit = match (strtolower(substr($text, -1))) { 'g' => 1 << 30, 'm' => 1 << 20, 'k' => 1 << 10, default => 1 };
            return (int) $text * $unit;
        }

        /** The fields of multipart/form-data (RFC 7578) that are no files. */
        private static function fields(string $body, string $type): array
        {
            if (!preg_match('/;\s*boundary=(?:"([^"]+)"|([^\s;,]+))/i', $type, $found)) {
                self::warnAtStartup('Missing boundary in multipart/form-data POST data');
                return [];
            }
            $boundary = $found[2] ?? $found[1];
            $pairs = [];
            foreach (array_slice(explode("\r\n--$boundary", "\r\n$body"), 1) as $part) {
                if (!str_starts_with($part, "\r\n") || ($end = strpos($part, "\r\n\r\n")) === false) {
                    continue;
                }
                $head = substr($part, 0, $end);
                $name = '/^content-disposition:[^\r\n]*?;\s*name=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\s;]+))/im';
                $file = '/^content-disposition:[^\r\n]*;\s*filename=/im';
                if (preg_match($name, $head, $found) && !preg_match($file, $head)) {
                    $name = $found[2] ?? preg_replace('/\\\\(["\\\\])/', '$1', $found[1]);
                    $pairs[] = urlencode($name) . '=' . urlencode(substr($part, $end + 4));
                }
            }
            parse_str(implode('&', $pairs), $fields);
            return $fields;
        }

        private static function merged(array $get, array $post, array $cookies): array
        {
            $order = ini_get('request_order') ?: ini_get('variables_order');
            $merged = [];
            foreach (str_split(strtolower((string) $order)) as $source) {
                $more = match ($source) { 'g' => $get, 'p' => $post, 'c' => $cookies, default => [] };
                $merged = $merged === [] ? $more : array_replace_recursive($merged, $more);
            }
            return $merged;
        }

        public static function input(int $type): array
        {
            return self::$inputs[$type]
                ?? throw new \ValueError('filter_input(): Argument #1 ($type) must be an INPUT_* constant');
        }

        // ---- Out: main/SAPI.c of PHP, sapi_header_op() ------------------------------------------------------------------

        public static function header(string $line, bool $replace, int $status): void
        {
            if (self::isTooLate()) {
                return;
            }
            if ($line === '') {
                return;
            }
            $line = rtrim($line, " \t\n\r\v\f");
            if (strcspn($line, "\r\n") < strlen($line)) {
                self::warn('Header may not contain more than a single header, new line detected');
                return;
            }
            if (str_contains($line, "\0")) {
                self::warn('Header may not contain NUL bytes');
                return;
            }
            self::$isHeadWanted = true;
            if (strncasecmp($line, 'HTTP/', 5) === 0) {
                $text = ltrim((string) strstr($line, ' '));
                self::setStatus((int) $text ?: 200);
                self::$statusText = $text;
                return;
            }
            $colon = strpos($line, ':');
            $name = rtrim($colon === false ? $line : substr($line, 0, $colon));
            $key = strtolower($name);
            $value = $colon === false ? '' : ltrim(substr($line, $colon + 1));
            if ($key === 'content-type') {
                $line = self::withCharset($value) ?? $line;
            } elseif ($key === 'location' && (self::$status < 300 || self::$status > 399) && self::$status !== 201) {
                self::setStatus(302);
            } elseif ($key === 'www-authenticate') {
                self::setStatus(401);
            }
            if ($status !== 0) {
                self::setStatus($status);
            }
            if ($replace) {
                self::drop($key);
            }
            self::$headers[] = [$key, $line];
        }

        /** The field with default_charset, where PHP adds that. */
        private static function withCharset(string $type): ?string
        {
            $charset = (string) ini_get('default_charset');
            $isText = strncasecmp($type, 'text/', 5) === 0 && !str_contains($type, 'charset=');
            return $isText && $charset !== '' ? "Content-type: $type;charset=$charset" : null;
        }

        public static function status(int $status): int|bool
        {
            $before = self::$status;
            if ($status === 0) {
                return $before;
            }
            if (PHP_VERSION_ID >= 80300 && self::isTooLate('Cannot set response code - headers already sent')) {
                return false;
            }
            self::$isHeadWanted = true;
            self::setStatus($status);
            return $before;
        }

        private static function setStatus(int $status): void
        {
            if (self::$status !== $status) {
                self::$statusText = null;
                self::$status = $status;
            }
        }

        public static function remove(?string $name): void
        {
            if (self::isTooLate()) {
                return;
            }
            if ($name === null) {
                self::$headers = [];
            } else {
                self::drop(strtolower($name));
            }
        }

        private static function drop(string $key): void
        {
            self::$headers = array_values(array_filter(self::$headers, fn (array $header) => $header[0] !== $key));
        }

        public static function lines(): array
        {
            return array_column(self::$headers, 1);
        }

        /** In the order of setcookie()'s arguments, and SameSite. */
        private static function cookieOptions(string $function, array $given): array
        {
            $options = ['expires' => 0, 'path' => '', 'domain' => '', 'secure' => false, 'httponly' => false, 'samesite' => ''];
            foreach ($given as $name => $option) {
                $key = strtolower((string) $name);
                if (!isset($options[$key])) {
                    throw new \ValueError(is_int($name)
                        ? "$function(): option array cannot have numeric keys"
                        : "$function(): option \"$name\" is invalid");
                }
                settype($option, gettype($options[$key]));
                $options[$key] = $option;
            }
            return array_values($options);
        }

        /** ext/standard/head.c of PHP, php_setcookie(). */
        public static function cookie(string $function, string $name, string $value, mixed $expires, string $path,
            string $domain, bool $secure, bool $httpOnly, bool $isRaw, int $arguments): bool
        {
            $sameSite = '';
            if (is_array($expires)) {
                if ($arguments > 3) {
                    throw new \ArgumentCountError("$function(): Expects exactly 3 arguments when argument #3 "
                        . '($expires_or_options) is an array');
                }
                [$expires, $path, $domain, $secure, $httpOnly, $sameSite] = self::cookieOptions($function, $expires);
            }
            $bytes = ",; \t\r\n\013\014";
            $word = '",", ";", " ", "\t", "\r", "\n", "\013", or "\014"';
            if ($name === '') {
                throw new \ValueError("$function(): Argument #1 (\$name) cannot be empty");
            }
            if (strpbrk($name, "=$bytes\0") !== false) {
                throw new \ValueError("$function(): Argument #1 (\$name) cannot contain \"=\", $word");
            }
            if ($isRaw && strpbrk($value, "$bytes\0") !== false) {
                throw new \ValueError("$function(): Argument #2 (\$value) cannot contain $word");
            }
            foreach (['path' => $path, 'domain' => $domain] as $option => $text) {
                if (strpbrk($text, "$bytes\0") !== false) {
                    throw new \ValueError("$function(): \"$option\" option cannot contain $word");
                }
            }
            $date = fn (int $time): string => gmdate('D, d M Y H:i:s \G\M\T', $time);
            if ($value === '') {
                $line = "Set-Cookie: $name=deleted; expires=" . $date(1) . '; Max-Age=0';
            } else {
                $line = "Set-Cookie: $name=" . ($isRaw ? $value : rawurlencode($value));
                if ($expires > 0) {
                    $line .= '; expires=' . $date($expires) . '; Max-Age=' . max(0, $expires - time());
                }
            }
            $line .= ($path === '' ? '' : "; path=$path") . ($domain === '' ? '' : "; domain=$domain")
                . ($secure ? '; secure' : '') . ($httpOnly ? '; HttpOnly' : '')
                . ($sameSite === '' ? '' : "; SameSite=$sameSite");
            if (self::isTooLate()) {
                return false;
            }
            self::$isHeadWanted = true;
            self::$headers[] = ['set-cookie', $line];
            return true;
        }

        public static function setCallback(callable $callback): bool
        {
            self::$callback = $callback;
            return true;
        }

        /** Writes the head, where one is wanted; PHP calls it before the first output, or at the end where there is none. */
        public static function sendHead(): void
        {
            if (self::$isHeadSent) {
                return;
            }
            if (self::$callback !== null) {
                [$callback, self::$callback] = [self::$callback, null];
                $callback();
            }
            self::$isHeadSent = true;
            // All that a function prints is its answer's body where the descriptor says so.
            if (self::$isHeadWanted && (self::$inputs[INPUT_ENV]['FAAS_OUTPUT'] ?? '') !== 'raw') {
                // Past the output buffers: one of the function's may be open.
                $stdout = fopen('php://stdout', 'w');
                fwrite($stdout, self::head());
            }
        }

        private static function head(): string
        {
            $hasStatus = in_array('status', array_column(self::$headers, 0), true);
            $head = $hasStatus ? '' : 'Status: ' . (self::$statusText ?? self::$status) . "\r\n";
            foreach (self::$headers as [, $line]) {
                // What has no colon would make all of it no head.
                $head .= str_contains($line, ':') ? "$line\r\n" : '';
            }
            return "$head\r\n";
        }

        private static function isTooLate(string $what = 'Cannot modify header information - headers already sent'): bool
        {
            if (!headers_sent($file, $line)) {
                return false;
            }
            self::warn($file ? "$what by (output started at $file:$line)" : $what);
            return true;
        }

        /** A warning as PHP itself gives it: in the line of the function that called into this file. */
        private static function warn(string $message): void
        {
            $frame = [];
            foreach (debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS) as $frame) {
                if (isset($frame['file']) && $frame['file'] !== __FILE__) {
                    break;
                }
            }
            [$file, $line] = [$frame['file'] ?? 'Unknown', $frame['line'] ?? 0];
            $handler = set_error_handler(null);
            restore_error_handler();
            if ($handler !== null && $handler(E_WARNING, $message, $file, $line) !== false) {
                return;
            }
            if (error_reporting() & E_WARNING) {
                error_log("PHP Warning:  $message in $file on line $line");
            }
        }

        // ---- Handlers ---------------------------------------------------------------------------------------------------

        public static function hasHandler(): bool
        {
            return ($_SERVER['FAAS_HANDLER'] ?? '') !== '' && isset($_SERVER['argv'][0]);
        }

        /** Calls the handler, which the module has defined or returned, if it has; sends what that returns. */
        public static function handle(mixed $returned): void
        {
            $handler = self::handler($returned);
            if ($handler === null) {
                return;
            }
            $body = ($_SERVER['CONTENT_LENGTH'] ?? '0') === '0' ? '' : Body::contents();
            $event = $body === '' ? null : json_decode($body, true);
            if ($body === '' || json_last_error() !== JSON_ERROR_NONE) {
                $event = $_POST + $_GET;
            }
            $answer = $handler($event, self::context());
            if ($answer === null) {
                return;
            }
            if (!is_string($answer)) {
                $json = json_encode($answer, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION);
                if ($json === false) {
                    $what = 'what the handler ' . $_SERVER['FAAS_HANDLER'] . ' returned';
                    error_log("PHP Fatal error:  $what cannot be sent as JSON: " . json_last_error_msg());
                    exit(255);
                }
                $answer = $json;
                if (!headers_sent() && !in_array('content-type', array_column(self::$headers, 0), true)) {
                    self::header('Content-Type: application/json', true, 0);
                }
            }
            echo $answer;
        }

        private static function handler(mixed $returned): ?callable
        {
            $name = $_SERVER['FAAS_HANDLER'];
            if (function_exists($name) && (new \ReflectionFunction($name))->isUserDefined()) {
                return $name;
            }
            if (str_contains($name, '::') && is_callable($name)) {
                return $name;
            }
            if (str_contains($name, '::') && class_exists(strstr($name, '::', true))) {
                [$class, $method] = explode('::', $name, 2);
                return method_exists($class, $method) && (new \ReflectionMethod($class, $method))->isPublic()
                    ? [new $class(), $method] : null;
            }
            return $returned instanceof \Closure || is_object($returned) && is_callable($returned)
                || is_array($returned) && is_callable($returned) ? $returned : null;
        }

        private static function context(): array
        {
            $headers = [];
            foreach ($_SERVER as $name => $value) {
                if (str_starts_with((string) $name, 'HTTP_')) {
                    $headers[strtolower(strtr(substr($name, 5), '_', '-'))] = $value;
                }
            }
            foreach (['CONTENT_TYPE' => 'content-type', 'CONTENT_LENGTH' => 'content-length'] as $name => $header) {
                if (isset($_SERVER[$name])) {
                    $headers[$header] = $_SERVER[$name];
                }
            }
            return [
                'request_id' => $_SERVER['FAAS_REQUEST_ID'] ?? '',
                'function' => $_SERVER['FAAS_FUNCTION'] ?? '',
                'deadline_ms' => (int) ($_SERVER['FAAS_DEADLINE_MS'] ?? 0),
                'method' => $_SERVER['REQUEST_METHOD'] ?? '',
                'path' => ($_SERVER['SCRIPT_NAME'] ?? '') . ($_SERVER['PATH_INFO'] ?? ''),
                'path_info' => $_SERVER['PATH_INFO'] ?? '',
                'query' => $_GET,
                'cookies' => $_COOKIE,
                'headers' => $headers,
                'remote_addr' => $_SERVER['REMOTE_ADDR'] ?? '',
            ];
        }
    }

    /**
     * The request body, behind php://input and php://stdin, which can both be read, in whatever order.
     *
     * Where stdin is a file, it is read in place, at an offset that is given back to php://stdin afterwards. Where it is a
     * pipe, which the worker only uses for what fits into memory, all of it is read at the first use.
     */
    final class Body
    {
        private const PIECE = 262144;
        public mixed $context = null;
        private static ?string $bytes = null;
        private static bool $isConsumed = false;
        /** How far php://stdin has been read, where the body is in memory. */
        private static int $stdin = 0;
        /** What this stream really is, where it is neither. */
        private mixed $inner = null;
        private bool $isStdin = false;
        private int $at = 0;
        private string $piece = '';
        private int $pieceAt = 0;

        public static function begin(): void
        {
            stream_wrapper_unregister('php');
            stream_wrapper_register('php', self::class);
        }

        /** After this, php://input is empty, as php-cgi leaves it behind multipart/form-data. */
        public static function consume(): void
        {
            self::$isConsumed = true;
        }

        public static function contents(): string
        {
            self::look();
            return self::$bytes ?? (string) self::atOffset(0, fn ($file) => stream_get_contents($file));
        }

        /** Finds out what stdin is; reads it where it is a pipe. */
        private static function look(): void
        {
            if (self::$bytes !== null) {
                return;
            }
            $stdin = self::native('php://stdin', 'r');
            $isFile = ((fstat($stdin)['mode'] ?? 0) & 0170000) === 0100000;
            if (!$isFile) {
                self::$bytes = (string) stream_get_contents($stdin);
            }
        }

        /** Has `$read` read stdin, which is a file, from `$offset` on, and puts its offset back. */
        private static function atOffset(int $offset, callable $read): mixed
        {
            // The kernel's offset, which whoever else reads stdin goes by.
            preg_match('/pos:\s*(\d+)/', (string) file_get_contents('/proc/self/fdinfo/0'), $found);
            $file = self::native('php://stdin', 'r');
            stream_set_read_buffer($file, 0);
            fseek($file, $offset);
            $result = $read($file);
            fseek($file, (int) ($found[1] ?? 0));
            return $result;
        }

        private static function native(string $path, string $mode): mixed
        {
            stream_wrapper_restore('php');
            try {
                return fopen($path, $mode);
            } finally {
                self::begin();
            }
        }

        // ---- The stream wrapper ----------------------------------------------------------------------------------------

        public function stream_open(string $path, string $mode, int $options, ?string &$opened): bool
        {
            $name = strtolower(substr($path, strpos($path, '://') + 3));
            if ($name === 'input') {
                self::look();
                return true;
            }
            if ($name === 'stdin') {
                self::look();
                if (self::$bytes !== null) {
                    return $this->isStdin = true;
                }
            }
            $this->inner = str_starts_with($name, 'filter/') ? self::filter($path, $mode) : self::native($path, $mode);
            return $this->inner !== false;
        }

        /** What php://filter opens in its turn must be ours as well: it gets another name for the moment. */
        private static function filter(string $path, string $mode): mixed
        {
            stream_wrapper_register('faas', self::class);
            try {
                $path = preg_replace('~/resource=php://(input|stdin)$~i', '/resource=faas://$1', $path);
                return self::native((string) $path, $mode);
            } finally {
                stream_wrapper_unregister('faas');
            }
        }

        private function end(): int
        {
            return match (true) {
                self::$isConsumed && !$this->isStdin => 0,
                self::$bytes !== null => strlen(self::$bytes),
                default => (int) (fstat(self::native('php://stdin', 'r'))['size'] ?? 0),
            };
        }

        public function stream_read(int $count): string|false
        {
            if ($this->inner) {
                return fread($this->inner, $count);
            }
            if (self::$isConsumed && !$this->isStdin) {
                return '';
            }
            if (self::$bytes !== null) {
                $at = $this->isStdin ? self::$stdin : $this->at;
                $read = substr(self::$bytes, $at, $count);
                $this->isStdin ? self::$stdin += strlen($read) : $this->at += strlen($read);
                return $read;
            }
            $offset = $this->at - $this->pieceAt;
            if ($offset < 0 || $offset >= strlen($this->piece)) {
                $this->pieceAt = $this->at;
                $this->piece = (string) self::atOffset($this->at, fn ($file) => stream_get_contents($file, self::PIECE));
                $offset = 0;
            }
            $read = substr($this->piece, $offset, $count);
            $this->at += strlen($read);
            return $read;
        }

        public function stream_eof(): bool
        {
            return $this->inner ? feof($this->inner) : ($this->isStdin ? self::$stdin : $this->at) >= $this->end();
        }

        public function stream_tell(): int
        {
            return $this->inner ? (int) ftell($this->inner) : ($this->isStdin ? self::$stdin : $this->at);
        }

        public function stream_seek(int $offset, int $whence): bool
        {
            if ($this->inner) {
                return fseek($this->inner, $offset, $whence) === 0;
            }
            $at = match ($whence) { SEEK_CUR => $this->at + $offset, SEEK_END => $this->end() + $offset, default => $offset };
            if ($this->isStdin || $at < 0 || $at > $this->end()) {
                return false;
            }
            $this->at = $at;
            return true;
        }

        public function stream_stat(): array|false
        {
            return $this->inner ? fstat($this->inner) : ['size' => $this->end(), 'mode' => 0100400];
        }

        public function stream_write(string $bytes): int|false
        {
            return $this->inner ? fwrite($this->inner, $bytes) : 0;
        }

        public function stream_flush(): bool
        {
            return !$this->inner || fflush($this->inner);
        }

        public function stream_truncate(int $size): bool
        {
            return $this->inner && ftruncate($this->inner, $size);
        }

        public function stream_lock(int $operation): bool
        {
            return $this->inner && flock($this->inner, $operation);
        }

        public function stream_set_option(int $option, int $first, ?int $second): bool
        {
            return match (true) {
                !$this->inner => false,
                $option === STREAM_OPTION_BLOCKING => stream_set_blocking($this->inner, (bool) $first),
                $option === STREAM_OPTION_READ_TIMEOUT => stream_set_timeout($this->inner, $first, (int) $second),
                $option === STREAM_OPTION_WRITE_BUFFER => stream_set_write_buffer($this->inner, (int) $second) === 0,
                default => false,
            };
        }

        public function stream_cast(int $as): mixed
        {
            return $this->inner ?: false;
        }

        public function stream_close(): void
        {
            if ($this->inner) {
                fclose($this->inner);
            }
        }
    }
}

namespace {
    // The signatures are PHP's own.

    function header(string $header, bool $replace = true, int $response_code = 0): void
    {
        Faas\Request::header($header, $replace, $response_code);
    }

    function header_remove(?string $name = null): void
    {
        Faas\Request::remove($name);
    }

    function headers_list(): array
    {
        return Faas\Request::lines();
    }

    function http_response_code(int $response_code = 0): int|bool
    {
        return Faas\Request::status($response_code);
    }

    function setcookie(string $name, string $value = '', array|int $expires_or_options = 0, string $path = '',
        string $domain = '', bool $secure = false, bool $httponly = false): bool
    {
        $arguments = func_num_args();
        return Faas\Request::cookie('setcookie', $name, $value, $expires_or_options, $path, $domain, $secure, $httponly,
            false, $arguments);
    }

    function setrawcookie(string $name, string $value = '', array|int $expires_or_options = 0, string $path = '',
        string $domain = '', bool $secure = false, bool $httponly = false): bool
    {
        $arguments = func_num_args();
        return Faas\Request::cookie('setrawcookie', $name, $value, $expires_or_options, $path, $domain, $secure, $httponly,
            true, $arguments);
    }

    function filter_has_var(int $input_type, string $var_name): bool
    {
        return array_key_exists($var_name, Faas\Request::input($input_type));
    }

    function filter_input(int $type, string $var_name, int $filter = FILTER_DEFAULT, array|int $options = 0): mixed
    {
        $input = Faas\Request::input($type);
        if (array_key_exists($var_name, $input)) {
            return filter_var($input[$var_name], $filter, $options);
        }
        if (is_array($options) && isset($options['options']['default'])) {
            return $options['options']['default'];
        }
        $flags = is_array($options) ? (int) ($options['flags'] ?? 0) : $options;
        return $flags & FILTER_NULL_ON_FAILURE ? false : null;
    }

    function filter_input_array(int $type, array|int $options = FILTER_DEFAULT, bool $add_empty = true): array|false|null
    {
        $input = Faas\Request::input($type);
        return $input === [] ? null : filter_var_array($input, $options, $add_empty);
    }

    Faas\Request::reserve();

    if (Faas\Request::takeCallback()) {
        function header_register_callback(callable $callback): bool
        {
            return Faas\Request::setCallback($callback);
        }
    }

    if (get_cfg_var('faas.server')) {
        // By eval, so that a function finds the same list of included files cold and warm.
        eval('?>' . file_get_contents(get_cfg_var('faas.server')));
        Faas\Request::begin(Faas\Server::serve());
    } else {
        Faas\Request::begin(getenv());
    }
    Faas\Request::release();

    // What has failed here on trial is none of the function's business.
    error_clear_last();

    // What php.ini names as auto_prepend_file, whose place this file has taken.
    if (get_cfg_var('faas.prepend')) {
        require get_cfg_var('faas.prepend');
    }

    if (Faas\Request::hasHandler()) {
        Faas\Request::handle(require $_SERVER['argv'][0]);
        exit;
    }
}
