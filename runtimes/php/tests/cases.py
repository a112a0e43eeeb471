"""What scripts see: each case runs by `run`, in a forked child, and in one that was prepared, and must answer the same.

A case is a name, the code, and what is expected: the exact output, or a function of the Outcome. `request` goes to
environment_of(), `settings` to settings_of(). FOLDER in code and expectations stands for the module's folder.
"""

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"
UPLOAD = (b'--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n'
          b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\nContent-Type: text/plain\r\n\r\nbytes\r\n--xyz--\r\n')
HTML = "Content-type: text/html; charset=UTF-8\r\n\r\n"


def case(name, code, expected, request=None, status=0, log="", **settings):
    return {"name": name, "code": code, "expected": expected, "request": request or {}, "status": status, "log": log,
            "settings": settings}


CASES = [
    # ---- The head
    case("no_head_without_header", "<?php echo '[1]';", "[1]"),
    case("default_type_with_header", "<?php header('X-A: 1'); echo 'x';", "X-A: 1\r\n" + HTML + "x"),
    case("own_type", "<?php header('Content-Type: text/plain'); echo 'x';", "Content-type: text/plain;charset=UTF-8\r\n\r\nx"),
    case("status", "<?php http_response_code(404);", "Status: 404 Not Found\r\n" + HTML),
    case("status_200_is_the_scripts_own", "<?php http_response_code(200); exit(3);", "Status: 200 OK\r\n" + HTML, status=3),
    case("status_line", "<?php header('HTTP/1.1 409 Quite Busy');", "Status: 409 Quite Busy\r\n" + HTML),
    case("status_field", "<?php header('Status: 403 No'); echo 1;", "Status: 403 No\r\n" + HTML + "1"),
    case("location", "<?php header('Location: /x');", "Status: 302 Found\r\nLocation: /x\r\n" + HTML),
    case("raw_has_no_head", "<?php header('X-A: 1'); http_response_code(404); echo 'x';", "x", output="raw"),
    case("cgi_has_a_head", "<?php echo 'x';", HTML + "x", output="cgi"),
    case("no_colon_is_dropped", "<?php header('Invalid'); header('X-A: 1'); echo 'x';", "X-A: 1\r\n" + HTML + "x"),
    case("callback", "<?php header_register_callback(function () { header('X-B: 1'); }); echo 'x';", HTML[:-2] + "X-B: 1\r\n\r\nx"),
    case("buffer_callback", "<?php ob_start(fn ($b) => strtoupper($b)); echo 'x'; header('X-A: 1');", "X-A: 1\r\n" + HTML + "X"),
    case("response_headers", "<?php header('X-A: 1'); echo json_encode(apache_response_headers());",
         "X-A: 1\r\n" + HTML + '{"X-A":"1"}'),
    case("gzip", "<?php ob_start('ob_gzhandler'); echo 'x';",
         lambda o: b"Content-Encoding: gzip\r\n" in o.out and b"\r\n\r\n\x1f\x8b" in o.out,
         {"fields": {"Accept-Encoding": "gzip"}}),
    case("bom_leaves_headers", "\ufeff<?php header('X-A: 1');", "X-A: 1\r\n" + HTML + "\ufeff"),
    case("output_buffering", "<?php echo 'x'; header('X-A: 1');", lambda o: o.text == "x" and "headers already sent" in o.log,
         log=None, ini=["output_buffering=0"]),
    case("finish_request", "<?php echo 'sent'; header('X-A: 1'); $a = fastcgi_finish_request(); echo 'lost';"
         "fwrite(STDERR, var_export($a, true));", "X-A: 1\r\n" + HTML + "sent", log="true"),
    # ---- The request
    case("query", "<?php echo json_encode([$_GET, $_REQUEST, $_SERVER['QUERY_STRING']]);",
         '[{"a":"1","b":["2"]},{"a":"1","b":["2"]},"a=1&b[]=2"]', {"query": "a=1&b[]=2"}),
    case("form", "<?php echo json_encode($_POST), file_get_contents('php://input');", '{"a":"1","b":"x y"}a=1&b=x+y',
         {"method": "POST", "kind": FORM, "body": b"a=1&b=x+y"}),
    case("upload", "<?php $f = $_FILES['f']; echo json_encode([$_POST, $f['name'], $f['size'], $f['error'],"
         "dirname($f['tmp_name']) === getenv('TMPDIR'), move_uploaded_file($f['tmp_name'], getenv('TMPDIR') . '/moved'),"
         "file_get_contents(getenv('TMPDIR') . '/moved'), file_get_contents('php://input')]);",
         '[{"a":"one"},"f.txt",5,0,true,true,"bytes",""]',
         {"method": "POST", "kind": MULTIPART, "body": UPLOAD, "TMPDIR": "FOLDER"}),
    case("upload_size", "<?php echo $_FILES['f']['error'];", "1", {"method": "POST", "kind": MULTIPART, "body": UPLOAD},
         ini=["upload_max_filesize=4"]),
    case("input_in_pieces", "<?php $f = fopen('php://input', 'r'); echo fread($f, 3), fseek($f, 1), fread($f, 2), rewind($f),"
         "stream_get_contents($f);", "012012" + "1" + "0123456789", {"method": "PUT", "body": b"0123456789"}),
    case("stdin", "<?php echo stream_get_contents(STDIN);", "body", {"method": "PUT", "body": b"body"}),
    case("body_is_no_code", "<?php echo (@include 'php://input') ? 'ran' : 'refused';", "refused",
         {"method": "POST", "body": b"<?php echo 'ran'; return true;"}),
    case("dom_of_body", "<?php $d = new DOMDocument; $d->load('php://input'); echo $d->documentElement->nodeName;", "a",
         {"method": "POST", "kind": "text/xml", "body": b"<a/>"}),
    case("cookies", "<?php echo json_encode($_COOKIE);", '{"a":"1","b":"x y"}', {"fields": {"Cookie": "a=1; b=x%20y; a=2"}}),
    case("credentials", "<?php echo $_SERVER['PHP_AUTH_USER'], $_SERVER['PHP_AUTH_PW'];", "ab",
         {"fields": {"Authorization": "Basic YTpi"}}),
    case("all_headers", "<?php $h = getallheaders(); echo json_encode($h), getallheaders() === apache_request_headers();",
         lambda o: '"X-One":"1"' in o.text and '"Content-Length":"0"' in o.text and o.text.endswith("1"),
         {"fields": {"X-One": "1"}}, log=None),
    case("filter_input", "<?php $_GET['a'] = 'changed'; echo filter_input(INPUT_GET, 'a'), filter_input(INPUT_SERVER,"
         "'REQUEST_METHOD'), filter_has_var(INPUT_COOKIE, 'c') ? 'c' : '';", "1GETc", {"query": "a=1", "fields": {"Cookie": "c=1"}}),
    case("server", "<?php echo $_SERVER['PHP_SELF'], $_SERVER['SCRIPT_FILENAME'] === __FILE__, "
         "abs($_SERVER['REQUEST_TIME_FLOAT'] - microtime(true)) < 0.9, isset($_SERVER['HOME']) ? 'HOME' : '';", "/test/more11",
         {"PATH_INFO": "/more"}),
    case("head_has_no_body", "<?php header('X-A: 1'); echo 'body'; file_put_contents('php://stderr', 'on');", "X-A: 1\r\n" + HTML,
         {"method": "HEAD"}, log=None),
    case("body_too_large", "<?php echo json_encode($_POST);", "[]", {"method": "POST", "kind": FORM, "body": b"a=" + b"b" * 2000},
         log="exceeds the limit", ini=["post_max_size=1K"]),
    # ---- The process
    case("streams", "<?php fwrite(STDOUT, 'a'); fwrite(STDERR, 'logged'); file_put_contents('php://stdout', 'b'); echo 'c';",
         "abc", log="logged"),
    case("arguments", "<?php echo json_encode([$argc, array_slice($argv, 1), $argv[0] === __FILE__]);", '[3,["-x","y z"],true]',
         args=["-x", "y z"]),
    case("arguments_without", "<?php echo json_encode($_SERVER['argv'] === [__FILE__]);", "true", {"query": "a+b"}),
    case("environment", "<?php echo getenv('A'), $_SERVER['A'], trim(`echo \\$A`), getenv('FAAS_X') ? 'x' : '';", "111", {"A": "1"}),
    case("folder_and_names", "<?php echo getcwd() === __DIR__, PHP_SAPI, ' ', __FILE__ === get_included_files()[0];", "1cgi-fcgi 1"),
    case("exit_status", "<?php echo 'x'; exit(3);", "x", status=3),
    case("exit_text", "<?php exit('bye');", "bye"),
    case("session_of_its_own", "<?php echo posix_getsid(0) === getmypid() ? 'own' : 'not';", lambda o: True),
    case("memory_limit", "<?php echo ini_get('memory_limit'), ini_get('max_execution_time');", "64M0", memory_mib=64),
    case("memory_exhausted", "<?php function eat() { return str_repeat('x', 100 << 20); } eat();", "", status=255, memory_mib=32,
         log="in eat():|Allowed memory size of 33554432 bytes exhausted|FOLDER/module.php on line 1"),
    case("fatal_error", "<?php header('X-A: 1'); function f() { throw new Exception('why'); } f();", "X-A: 1\r\n" + HTML, status=255,
         log="PHP Fatal error:  Uncaught Exception: why in FOLDER/module.php:1|#0 FOLDER/module.php(1): f()"),
    case("fatal_error_shown", "<?php nothing();", lambda o: o.text.startswith("Status: 500") and "undefined function" in o.text,
         status=255, log="Uncaught Error", dev=1),
    case("parse_error", "<?php echo (;", "", status=255, log="PHP Parse error"),
    case("error_page", "<?php register_shutdown_function(function () { header('HTTP/1.1 503 Busy'); echo 'sorry'; }); nothing();",
         "Status: 503 Busy\r\n" + HTML + "sorry", status=255, log="Uncaught Error"),
    case("handled_exception", "<?php set_exception_handler(function ($e) { http_response_code(418); echo $e->getMessage(); });"
         "throw new Exception('tea');", "Status: 418\r\n" + HTML + "tea"),
    case("order_at_end", "<?php class D { function __destruct() { echo 'd'; } } $d = new D; ob_start(fn ($b) => \"[$b]\");"
         "register_shutdown_function(function () { echo 's'; }); echo 'b';", "[bsd]"),
    case("open_at_end", "<?php $t = fopen('php://temp', 'w+'); fwrite($t, str_repeat('x', 3 << 20)); $s = new SplTempFileObject;"
         "$s->fwrite('x'); $z = gzopen(getenv('TMPDIR') . '/z', 'w'); gzwrite($z, 'x'); $GLOBALS['u'] = tmpfile(); echo 'x';", "x",
         {"TMPDIR": "FOLDER"}),
    case("class_used_above", "<?php echo (new B)->x(); class B extends A {} class A { function x() { return 'x'; } }", "x"),
    case("last_error", "<?php @file_get_contents('/nowhere'); echo error_get_last()['line'];", "1"),
    case("umask_and_locale", "<?php echo umask() === 0022 ? 'u' : umask(), setlocale(LC_ALL, 0), date_default_timezone_get();",
         lambda o: o.text.startswith("u") and o.text.endswith("UTC")),
    case("opcache", "<?php echo opcache_get_status(false)['opcache_enabled'], opcache_is_script_cached(__FILE__);", "11"),
    case("user_ini", "<?php echo ini_get('precision'), ini_get('output_buffering'), ob_get_level();", "50" + "0",
         {"DOCUMENT_ROOT": "FOLDER"}, files={".user.ini": "precision=5\noutput_buffering=0\n"}),
    case("files_around", "<?php echo 'm'; if ($_GET) exit;", "pma", ini=["auto_prepend_file=FOLDER/p.php",
         "auto_append_file=FOLDER/a.php"], files={"p.php": "<?php echo 'p';", "a.php": "<?php echo 'a';"}),
    case("files_around_exit", "<?php echo 'm'; exit;", "pm", ini=["auto_prepend_file=FOLDER/p.php",
         "auto_append_file=FOLDER/a.php"], files={"p.php": "<?php echo 'p';", "a.php": "<?php echo 'a';"}),
    case("shebang", "#!/usr/bin/php\n<?php echo __LINE__;", "2"),
    case("halt", "<?php echo file_get_contents(__FILE__, false, null, __COMPILER_HALT_OFFSET__); __halt_compiler();data", "data"),
    case("session", "<?php session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;",
         lambda o: "Set-Cookie: PHPSESSID=" in o.text and o.text.endswith("1"), session_dir="FOLDER"),
    # ---- Directives
    case("ini", "<?php echo ini_get('precision'), ' ', 1 / 3, ' ', ini_get('upload_max_filesize');", "3 0.333 30M",
         ini=["precision=3", "upload_max_filesize=30M"]),
    case("ini_words", "<?php echo error_reporting() === E_ALL, ini_get('html_errors');", "11",
         ini=["error_reporting=E_ALL", "html_errors=On"]),
    case("ini_before_memory", "<?php echo ini_get('memory_limit');", "20M", ini=["memory_limit=20M"]),
    case("ini_of_the_start", "<?php echo function_exists('exec') ? 'there' : 'gone', ini_get('file_uploads');", "gone0",
         ini=["disable_functions=exec", "file_uploads=0"]),
    case("ffi_is_off", "<?php try { FFI::cdef('int getpid(void);'); echo 'on'; } catch (Throwable) { echo 'off'; }", "off"),
    case("ffi_asked_for", "<?php echo FFI::cdef('int getpid(void);')->getpid() === getmypid();", "1", ini=["ffi.enable=1"]),
    case("time_limit", "<?php set_time_limit(1); for (;;);", "", status=255, log="Maximum execution time of 1 second"),
    # ---- Handlers
    case("handler", "<?php function main($event, $context) { return [$event, $context['method'], $context['path'],"
         "$context['headers']['x-one'], $context['deadline_ms']]; }",
         'Content-Type: application/json\r\n\r\n[{"a":[1]},"POST","/test","1",7]', handler="main",
         request={"method": "POST", "body": b'{"a":[1]}', "fields": {"X-One": "1"}, "FAAS_DEADLINE_MS": "7"}),
    case("handler_of_form", "<?php function main($e) { return json_encode($e); }", '{"a":"1","q":"2"}', handler="main",
         request={"method": "POST", "kind": FORM, "body": b"a=1", "query": "q=2"}),
    case("handler_method", "<?php class A { function b($e) { return 'b' . count($e); } }", "b0", handler="A::b"),
    case("handler_static", "<?php class A { static function b() { echo 'printed'; } }", "printed", handler="A::b"),
    case("handler_returned", "<?php return fn ($e, $c) => $e;", 'Content-Type: application/json\r\n\r\n{"a":"1"}', handler="any",
         request={"query": "a=1"}),
    case("handler_without", "<?php echo 'itself';", "itself", handler="nothing"),
    case("handler_throws", "<?php function main() { throw new Exception('why'); }", "", status=255, handler="main",
         log="Uncaught Exception: why|main()"),
    case("handler_throws_to", "<?php set_exception_handler(fn ($e) => print $e->getMessage()); function main() { throw new Exception"
         "('why'); }", "why", handler="main"),
    case("exit_before_handler", "<?php function main() { echo 'x'; } exit(4);", "", status=4, handler="main"),
    case("handler_exits", "<?php function main() { echo 'x'; exit(4); }", "x", status=4, handler="main"),
    case("network", "<?php echo @fsockopen('udp://127.0.0.1', 9) ? 'open' : 'closed';", "closed", net=0, ways=["forked", "prepared"]),
    case("network_allowed", "<?php echo @fsockopen('udp://127.0.0.1', 9) ? 'open' : 'closed';", "open"),
]
