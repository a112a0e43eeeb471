//! PHP as people write it. Every snippet runs executed, forked, and by php-cgi, the reference, with the same response.
//!
//! Three differences are allowed: the default Content-Type, an exit status other than 0, which php-cgi does not have,
//! and the constants STDIN, STDOUT and STDERR.

use std::fs;

use serde_json::json;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, need, needed, wait_for};

/// A snippet and its request.
#[derive(Debug)]
struct Case {
    name: &'static str,
    code: &'static str,
    method: &'static str,
    /// Follows the path in the target.
    query: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const FORM: &[(&str, &str)] = &[("Content-Type", "application/x-www-form-urlencoded")];
const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];
const MULTIPART: &[(&str, &str)] = &[("Content-Type", "multipart/form-data; boundary=xyz")];

const fn get(name: &'static str, code: &'static str) -> Case {
    Case { name, code, method: "GET", query: "?a=1&b[]=2&b[k]=3&c.d=%20x+y", fields: &[], body: "" }
}

const fn post(name: &'static str, fields: &'static [(&str, &str)], body: &'static str, code: &'static str) -> Case {
    Case { name, code, method: "POST", query: "?q=1", fields, body }
}

const fn with_fields(name: &'static str, fields: &'static [(&str, &str)], code: &'static str) -> Case {
    Case { name, code, method: "GET", query: "", fields, body: "" }
}

const CASES: &[Case] = &[
    // ---- header() and its like
    get("a_header", "header('X-One: 1'); header('X-Two:2'); echo 'body';"),
    get(
        "headers_replace",
        "header('X-A: 1'); header('x-a: 2'); header('X-A: 3', false); echo json_encode(headers_list());",
    ),
    get("status", "http_response_code(404); echo 'gone';"),
    get("status_before", "echo json_encode([http_response_code(), http_response_code(418), http_response_code()]);"),
    get("status_line", "header('HTTP/1.1 409 Quite Busy'); echo 'x';"),
    get("status_by_header", "header('X-A: 1', true, 202); echo http_response_code();"),
    get("status_field", "header('Status: 403 No'); echo 'x';"),
    get("status_without_output", "http_response_code(204);"),
    get("header_without_output", "header('X-A: 1'); header('Content-Type: a/b');"),
    get("location", "header('Location: /there');"),
    get("location_after_created", "http_response_code(201); header('Location: /there'); echo 'made';"),
    get("location_permanent", "header('Location: /there', true, 301); exit;"),
    get("authenticate", "header('WWW-Authenticate: Basic realm=\"x\"'); echo 'who?';"),
    get("content_type", "header('Content-Type: text/plain'); echo 'x';"),
    get("content_type_json", "header('content-type: application/json'); echo '{}', json_encode(headers_list());"),
    get("content_type_charset", "header('Content-Type: text/css; charset=latin1'); echo 'x';"),
    get("remove", "header('X-A: 1'); header('X-B: 2'); header_remove('x-a'); echo json_encode(headers_list());"),
    get(
        "remove_all",
        "header('X-A: 1'); setcookie('a', 'b'); header_remove(); header('X-C: 3'); echo json_encode(headers_list());",
    ),
    get(
        "header_name_only",
        "header('X-Empty:'); header('   '); header(\"X-Trim: 1 \\t \"); echo json_encode(headers_list());",
    ),
    get(
        "header_in_buffer",
        "while (ob_get_level()) ob_end_flush(); ob_start(); echo 'early'; header('X-Late: yes'); ob_end_flush(); echo headers_sent() ? 'sent' : 'not';",
    ),
    get(
        "header_too_late",
        "while (ob_get_level()) ob_end_flush(); echo 'x'; flush(); echo json_encode([headers_sent($f, $l), basename($f) !== '', $l]); @header('X-Late: 1'); echo json_encode(preg_grep('/^X/', headers_list()));",
    ),
    get(
        "too_late_handler",
        "while (ob_get_level()) ob_end_flush(); set_error_handler(function ($n, $m, $f, $l) { echo $n, ' ', preg_replace('~/\\S*/~', '', $m), ' ', basename($f) === basename(__FILE__), ' ', $l; return true; });\necho 'x'; flush();\nheader('X-Late: 1');\nsetcookie('a', 'b');",
    ),
    get(
        "new_line",
        "set_error_handler(function ($n, $m) { echo $n, $m; return true; }); ob_start(); header(\"X-A: 1\\r\\nX-B: 2\"); header(\"X-A: 1\\0\"); header('X-C: 3');",
    ),
    get(
        "header_at_shutdown",
        "register_shutdown_function(function () { header('X-A: 1'); http_response_code(202); });",
    ),
    get(
        "callback",
        "header('X-A: 1'); header_register_callback(function () { header('X-B: ' . count(preg_grep('/^X/', headers_list()))); header_remove('X-A'); }); echo 'x';",
    ),
    get(
        "callback_without_output",
        "header_register_callback(function () { http_response_code(202); header('X-B: 1'); });",
    ),
    get(
        "types",
        "ob_start(); try { header([]); } catch (TypeError $e) { echo strtok($e->getMessage(), ','); } header(header: 'X-Named: 1', replace: false); http_response_code(response_code: 203);",
    ),
    // ---- Cookies
    get(
        "cookie",
        "setcookie('a', 'b c;d'); setcookie('e', 'f', 1000000000, '/p', 'example.org', true, true); echo 'x';",
    ),
    get(
        "cookie_options",
        "setcookie('a', 'b', ['path' => '/', 'samesite' => 'Lax', 'secure' => true, 'httponly' => true]); echo json_encode(headers_list());",
    ),
    get(
        "cookie_bad_options",
        "setcookie('a', 'b', ['EXPIRES' => '1000000000', 'Domain' => 'x.org', 'secure' => 1]); ob_start(); foreach ([['nonsense' => 1], [5 => 2]] as $o) { try { setcookie('a', 'b', $o); } catch (ValueError $e) { echo $e->getMessage(); } }",
    ),
    get("cookie_removed", "setcookie('a', ''); setcookie('b'); echo 'x';"),
    get("raw_cookie", "setrawcookie('a', 'b%20c'); echo 'x';"),
    get(
        "bad_cookies",
        "foreach ([['', ''], ['a=b', '']] as [$n, $v]) { try { setcookie($n, $v); } catch (ValueError $e) { echo $e->getMessage(); } } try { setrawcookie('a', 'b c'); } catch (ValueError $e) { echo $e->getMessage(); }",
    ),
    get(
        "bad_cookie_path",
        "try { setcookie('a', 'b', 0, ';'); } catch (ValueError $e) { echo $e->getMessage(); } try { setcookie('a', 'b', [], '/'); } catch (ArgumentCountError $e) { echo $e->getMessage(); }",
    ),
    with_fields(
        "cookies_in",
        &[("Cookie", "a=1; b=x%20y+z; a=2; c[k]=3; c[l]=4; d.e=5; f; =g")],
        "echo json_encode([$_COOKIE, $_REQUEST]);",
    ),
    // ---- The request
    get("query", "echo json_encode([$_GET, $_POST, $_REQUEST, $_FILES]);"),
    post("form", FORM, "a=1&b%5B%5D=2&b[]=3&c=%20x+y&q=2", "echo json_encode([$_GET, $_POST, $_REQUEST]);"),
    post(
        "form_and_input",
        FORM,
        "a=1",
        "echo file_get_contents('php://input'), file_get_contents('php://input'), json_encode($_POST);",
    ),
    post("json", JSON, "{\"a\":[1,2]}", "echo json_encode([json_decode(file_get_contents('php://input')), $_POST]);"),
    post(
        "input_in_pieces",
        JSON,
        "0123456789",
        "$f = fopen('php://input', 'r'); echo fread($f, 3), ftell($f), fseek($f, 1), fread($f, 2), feof($f) ? 'end' : 'more', stream_get_contents($f), feof($f) ? 'end' : 'more', rewind($f), fgets($f);",
    ),
    post(
        "input_filtered",
        JSON,
        "abc",
        "echo file_get_contents('php://filter/read=string.toupper/resource=php://input');",
    ),
    post("no_body", &[], "", "echo json_encode([file_get_contents('php://input'), $_POST]);"),
    post(
        "multipart",
        MULTIPART,
        "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\ntwo\r\n--xyz\r\ncontent-disposition: form-data; name=b[]\r\nContent-Type: text/plain\r\n\r\n\r\n--xyz--\r\n",
        "echo json_encode([$_POST, file_get_contents('php://input')]);",
    ),
    post(
        "server",
        JSON,
        "{}",
        "foreach (['REQUEST_METHOD', 'REQUEST_URI', 'SCRIPT_NAME', 'PHP_SELF', 'PATH_INFO', 'QUERY_STRING', 'CONTENT_TYPE', 'CONTENT_LENGTH', 'SCRIPT_FILENAME', 'SERVER_PROTOCOL', 'HTTP_HOST', 'GATEWAY_INTERFACE', 'HTTP_CONTENT_TYPE'] as $n) { echo $n, '=', var_export($_SERVER[$n] ?? null, true), \"\\n\"; } echo gettype($_SERVER['REQUEST_TIME']), gettype($_SERVER['REQUEST_TIME_FLOAT']), abs($_SERVER['REQUEST_TIME'] - time()) < 5;",
    ),
    with_fields(
        "credentials",
        &[("Authorization", "Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==")],
        "echo json_encode([$_SERVER['PHP_AUTH_USER'] ?? null, $_SERVER['PHP_AUTH_PW'] ?? null]);",
    ),
    get(
        "filter_input",
        "$_GET['a'] = 'changed'; echo json_encode([filter_input(INPUT_GET, 'a', FILTER_VALIDATE_INT), filter_input(INPUT_GET, 'none'), filter_input(INPUT_GET, 'b'), filter_input(INPUT_GET, 'none', FILTER_DEFAULT, FILTER_NULL_ON_FAILURE), filter_has_var(INPUT_GET, 'a'), filter_input(INPUT_GET, 'none', FILTER_VALIDATE_INT, ['options' => ['default' => 7]])]);",
    ),
    // ---- Output
    get(
        "output",
        "$f = fopen('php://output', 'w'); echo 'a'; fwrite($f, 'b'); print 'c'; printf('%s', 'd'); ?>e\n<?= 'f' ?>",
    ),
    get(
        "buffers",
        "ob_start(); echo 'gone'; ob_end_clean(); ob_start(fn ($b) => strtoupper($b)); echo 'shown'; ob_start(); echo 'left open'; header('X-A: 1');",
    ),
    get("exit_in_buffer", "ob_start(); header('X-A: 1'); echo 'kept'; exit('bye');"),
    get(
        "shutdown_order",
        "class D { function __destruct() { echo 'destructor '; } } $d = new D; register_shutdown_function(function () { echo 'first '; register_shutdown_function(function () { echo 'late '; }); }); register_shutdown_function(fn () => print 'second '); ob_start(fn ($b) => \"[$b]\"); echo 'body ';",
    ),
    get(
        "destructors",
        "class D { function __construct(public $n) {} function __destruct() { echo $this->n; } } $a = new D('a'); $b = new D('b'); class S { static $s; } S::$s = new D('s'); $c = [new D('c')]; $x = new D('x'); $x->self = $x; echo 'end ';",
    ),
    get("nothing", " "),
    get("handler_without_effect", "echo json_encode([ob_get_level() <= 1, PHP_VERSION, getcwd() === __DIR__]);"),
    get(
        "objects",
        "var_dump(new stdClass, function () {}); echo json_encode(array_diff(array_keys(get_defined_vars()), ['argv', 'argc', '_SERVER', '_REQUEST', '_ENV']));",
    ),
    get(
        "included",
        "file_put_contents(getenv('TMPDIR') . '/i.php', '<?php return __FILE__ === $_SERVER[\"TMPDIR\"] . \"/i.php\";'); echo json_encode(include getenv('TMPDIR') . '/i.php');",
    ),
];

#[test]
fn php_answers_as_php_cgi_does_by_exec_and_forked() {
    need(&["php-cgi", "faas-php"]);
    // The reference: a gateway that finds no faas-php falls back on php-cgi.
    let mut reference = Instance::prepare(&[("FAAS_WORKERS", "1"), ("PATH", "/usr/local/bin:/usr/bin:/bin")]);
    reference.init();
    reference.launch_copies();
    reference.wait_until_ready();
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let (mut rows, mut reference_rows) = (Vec::new(), Vec::new());
    let keys: Vec<[String; 3]> = CASES
        .iter()
        .map(|case| ["cgi", "cold", "warm"].map(|way| format!("{}:/{way}/{}", case.method, case.name)))
        .collect();
    for (case, [cgi, cold, warm]) in CASES.iter().zip(&keys) {
        let descriptor = reference.descriptor("php", &format!("<?php {}", case.code), json!({}));
        reference_rows.push((cgi.as_str(), descriptor.clone()));
        for (key, start) in [(cold, "cold"), (warm, "auto")] {
            let mut descriptor = descriptor.clone();
            descriptor["start"] = start.into();
            rows.push((key.as_str(), descriptor));
        }
    }
    reference.install(&reference_rows);
    instance.install(&rows);
    each(CASES, |case| {
        let target = |way: &str| format!("/{way}/{}{}", case.name, case.query);
        let ask = |instance: &Instance, way: &str| {
            instance.request(case.method, &target(way), case.fields, case.body.as_bytes())
        };
        let wanted = told(&ask(&reference, "cgi"), "cgi");
        let warm = wait_for("a forked process answers", || Some(ask(&instance, "warm")).filter(is_warm));
        each([("cold", ask(&instance, "cold")), ("warm", warm)], |(way, answer)| {
            assert_eq!(told(&answer, way), wanted);
        });
    });
    assert_eq!(reference.wait_for_log("faas-php is not built; php-cgi runs PHP functions", 1).len(), 1);
}

#[test]
fn faas_php_that_cannot_start_is_as_one_that_is_missing_until_it_can() {
    need(&["php-cgi"]);
    let faas_php = needed("faas-php");
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1"), ("PATH", "/usr/local/bin:/usr/bin:/bin")]);
    // The dynamic linker ends it, as it does where libphp lacks a function.
    let built = fs::read(faas_php).unwrap();
    let name = b"libphp";
    let at = built.windows(name.len()).position(|bytes| bytes == name).expect("it is linked with libphp");
    let unfit = [&built[..at], b"absent", &built[at + name.len()..]].concat();
    instance.program("faas-php", unfit);
    instance.init();
    instance.launch_copies();
    instance.wait_until_ready();
    let source = "<?php echo basename(readlink('/proc/self/exe'));";
    instance.function("GET:/program", "php", source, json!({}));
    for _ in 0..3 {
        let answer = instance.get("/program");
        assert!(answer.status == 200 && answer.text().starts_with("php-cgi"), "{answer:?}");
    }
    let told = instance.wait_for_log("php: faas-php cannot start; php-cgi runs PHP functions: ", 1);
    assert!(told.len() == 1 && told[0].contains("cannot open shared object file"), "{told:?}");
    assert!(instance.log_lines("fork server").is_empty(), "{:?}", instance.log_lines("fork server"));

    instance.program("faas-php.new", built);
    fs::rename(instance.path("faas-php.new"), instance.path("faas-php")).unwrap();
    assert_eq!(instance.get("/program").text(), "faas-php", "a new version of it counts at once");
}

/// True if a child of a fork server gave the response.
fn is_warm(answer: &Answer) -> bool {
    answer.field("Server-Timing").is_some_and(|timing| timing.contains("desc=\"warm\""))
}

/// Status, fields and body, without the platform's fields, values that cannot be equal, and the default Content-Type.
fn told(answer: &Answer, way: &str) -> String {
    let platform =
        ["x-request-id", "x-faas-generation", "x-faas-worker", "server-timing", "content-length", "date", "connection"];
    let defaults = ["text/html; charset=UTF-8", "text/plain; charset=utf-8", "application/json"];
    let mut fields: Vec<String> = answer
        .fields
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value))
        .filter(|(name, _)| !platform.contains(&name.as_str()))
        .filter(|(name, value)| name != "content-type" || !defaults.contains(&value.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    fields.sort();
    format!(
        "{} {fields:?} {}",
        answer.status,
        answer.text().replace(&format!("/{way}/"), "/WAY/").replace(&format!("\\/{way}\\/"), "/WAY/")
    )
}

/// Calls a function executed and forked, asserts equal responses, and returns the response.
fn both(instance: &Instance, source: &str, more: serde_json::Value, target: &str, body: &str) -> Answer {
    let mut descriptor = instance.descriptor("php", source, more);
    descriptor["start"] = "cold".into();
    let cold_row = descriptor.clone();
    descriptor["start"] = "auto".into();
    instance.install(&[("POST:/cold", cold_row), ("POST:/warm", descriptor)]);
    let cold = instance.request("POST", &format!("/cold{target}"), JSON, body.as_bytes());
    let ask = || instance.request("POST", &format!("/warm{target}"), JSON, body.as_bytes());
    // A failed call does not tell how its process started.
    let warm = wait_for("a forked process answers", || Some(ask()).filter(is_warm));
    assert_eq!(warm.status, cold.status, "{}", warm.text());
    assert_eq!(warm.field("Content-Type"), cold.field("Content-Type"));
    if cold.status < 500 {
        assert_eq!(warm.text(), cold.text());
    }
    cold
}

#[test]
fn a_handler_gets_the_decoded_body_and_a_context_and_what_it_returns_is_sent() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let with = |handler: &str| json!({"handler": handler});
    let ask = |source: &str, handler: &str| both(&instance, source, with(handler), "?q=1", r#"{"name":"Alice"}"#);

    let defined = "<?php function greet(array $event, array $context) { return ['hello' => $event['name'], 'method' => $context['method'], 'q' => $context['query']['q'], 'length' => $context['headers']['content-length'], 'id' => strlen($context['request_id'])]; }";
    let answer = ask(defined, "greet");
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(answer.json(), json!({"hello": "Alice", "method": "POST", "q": "1", "length": "16", "id": 16}));

    assert_eq!(ask("<?php return fn ($event) => 'Hello, ' . $event['name'];", "any").text(), "Hello, Alice");
    assert_eq!(
        ask("<?php class Api { static function run($event) { return [1.0, $event]; } }", "Api::run").text(),
        r#"[1.0,{"name":"Alice"}]"#
    );
    assert_eq!(ask("<?php class Api { private $n = 5; function run() { return $this->n; } }", "Api::run").text(), "5");
    // A module that prints by itself, whatever handler its row names.
    assert_eq!(ask("<?php echo 'by itself'; return 1;", "main").text(), "by itself");
    assert_eq!(ask("<?php echo 'by itself';", "strlen").text(), "by itself");
    let answer =
        ask("<?php function f() { http_response_code(201); header('Content-Type: text/csv'); return 'a,b'; }", "f");
    assert_eq!((answer.status, answer.text().as_str()), (201, "a,b"));
    assert_eq!(answer.field("Content-Type"), Some("text/csv;charset=UTF-8"));
    let all_params = "<?php function f($event, $context) { return $context['params']; }";
    each(["auto", "cold"], |start| {
        let more = json!({"handler": "f", "start": start});
        instance.function("GET:/users/{id}/posts/{postId}", "php", all_params, more);
        let params = instance.get("/users/4%202/posts/a%2Fb").json();
        assert_eq!(params, json!({"id": "4 2", "postId": "a%2Fb"}));
    });
    // If the body is not JSON, the event is the parameters.
    let parameters = both(&instance, "<?php function f($event) { return $event; }", with("f"), "?a=1&b=2", "not JSON");
    assert_eq!(parameters.json(), json!({"a": "1", "b": "2"}));

    let answer = ask("<?php function f() { return NAN; }", "f");
    let detail = answer.problem(500, "function-exited");
    assert!(detail.ends_with("code 255, PHP's code for a fatal error"), "{detail}");
    instance.wait_for_log("what the handler f returned cannot be sent as JSON", 2);
}

#[test]
fn large_bodies_are_read_piece_by_piece() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let source = "<?php $c = hash_init('crc32b'); $n = 0; $f = fopen('php://input', 'r');\n\
        while (!feof($f)) { $piece = fread($f, 8192); $n += strlen($piece); hash_update($c, $piece); }\n\
        fseek($f, -3, SEEK_END);\n\
        echo json_encode([hash_final($c), $n, stream_get_contents($f), memory_get_peak_usage() < 8000000]);";
    let body = "0123456789abcdef".repeat(1_250_000);
    let more = json!({"memory": 32, "ini": {"post_max_size": "30M"}});
    let answer = both(&instance, source, more, "", &body);
    assert_eq!(answer.json(), json!([format!("{:08x}", crc32(body.as_bytes())), 20_000_000, "def", true]));
}

/// The checksum that PHP calls crc32b.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut crc: u32, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

/// The platform closes open streams as PHP would, so the rest of a compressor's data reaches the file.
#[test]
fn open_streams_are_closed_at_the_end() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let ask =
        |source: &str| both(&instance, source, json!({"env": {"IT_FOLDER": instance.shared("")}}), "", "{}").text();
    let text = ask(
        "<?php $file = getenv('IT_FOLDER') . '/left.gz'; @unlink($file); $open = gzopen($file, 'w'); gzwrite($open, str_repeat('x', 1000)); chmod($file, 0666); echo 'left';",
    );
    assert_eq!(text, "left");
    assert_eq!(ask("<?php echo strlen(implode(gzfile(getenv('IT_FOLDER') . '/left.gz')));"), "1000");
}
