//! PHP's functions that make the head of a response, and its arrays that hold a request.

use super::case::{Case, php};
use super::run::conform;
use crate::instance::has;

#[test]
fn status_head_and_cookies_are_what_the_function_sets() {
    if !has(&["faas-php"]) {
        return;
    }
    conform(vec![
        php("a status and a field", "header('X-Own: 1'); http_response_code(201); echo 'made';")
            .status(201).has_field("X-Own", "1").answers("made"),
        php("a content type", "header('Content-Type: text/csv'); echo 'a,b';").has_field("Content-Type", "text/csv;charset=UTF-8").answers("a,b"),
        php("a status line", "header('HTTP/1.1 404 Not Found'); echo 'nothing';").status(404).answers("nothing"),
        php("a redirection", "header('Location: /elsewhere');").status(302).has_field("Location", "/elsewhere"),
        php("a redirection of another kind", "header('Location: /elsewhere', true, 308);").status(308).has_field("Location", "/elsewhere"),
        php("fields that are replaced, added, removed", "header('X-A: 1'); header('X-A: 2'); header('X-B: 1'); header('X-B: 2', false);
            header('X-C: 1'); header_remove('X-C'); echo implode('|', preg_grep('/^X-[ABC]/', headers_list()));")
            .has_field("X-A", "2").has_field("X-B", "1").has_field("X-B", "2").answers("X-A: 2|X-B: 1|X-B: 2"),
        php("cookies", "setcookie('a', 'ä b'); setrawcookie('b', 'raw', ['path' => '/', 'httponly' => true, 'samesite' => 'Lax']); echo 'ok';")
            .has_field("Set-Cookie", "a=%C3%A4%20b").has_field("Set-Cookie", "b=raw; path=/; HttpOnly; SameSite=Lax"),
        php("binary after a head", "header('Content-Type: application/octet-stream'); for ($i = 0; $i < 256; $i++) echo chr($i);")
            .answers((0..=255).collect::<Vec<u8>>()).has_field("Content-Type", "application/octet-stream"),
        php("a head in an output buffer", "ob_start(); echo 'first '; header('X-Late: 1'); echo 'second';")
            .has_field("X-Late", "1").answers("first second"),
        php("a head in a shutdown function", "register_shutdown_function(function () { header('X-Late: 1'); echo 'end'; });")
            .has_field("X-Late", "1").answers("end"),
        php("a head without a body", "header('X-Only: 1'); http_response_code(204);").status(204).has_field("X-Only", "1").answers(""),
        php("a head after the first output", "echo 'out'; header('X-Late: 1'); echo headers_sent() ? ' sent' : ' not';")
            .row("ini", serde_json::json!({"output_buffering": "0"})).answers("out sent").logs(&["Cannot modify header information - headers already sent"]),
        php("a head that the descriptor forbids", "header('Content-Type: image/png'); http_response_code(201); echo 'bytes';")
            .row("output", "raw").answers("bytes").check(|seen| assert_ne!(seen.answer.field("Content-Type"), Some("image/png"))),
        php("a status and exit", "http_response_code(418); exit('teapot');").status(418).answers("teapot"),
        php("a head and a failure", "header('X-Own: 1'); echo 'x'; exit(3);").exits("code 3"),
        php("a head and an exception", "header('X-Own: 1'); throw new Exception('it-boom');").exits("code 255").logs(&["it-boom"]),
        php("a line break in a field", "header(\"X-A: 1\\r\\nX-Evil: 2\"); echo 'on';").answers("on").logs(&["PHP Warning"])
            .check(|seen| assert_eq!(seen.answer.field("X-Evil"), None)),
        php("the head of another call", "$before = count(preg_grep('/^X-/', headers_list())); header('X-A: 1', true, 202); echo $before;")
            .status(202).answers("0"),
    ]);
}

#[test]
fn the_request_is_in_phps_arrays() {
    if !has(&["faas-php"]) {
        return;
    }
    let form =
        |case: Case| case.field("Content-Type", "application/x-www-form-urlencoded").posts("c=3&d[]=4&d[]=%C3%A4");
    conform(vec![
        php("$_GET", "echo json_encode($_GET);").at("?a=1&b[x]=2&c=%20").answers(r#"{"a":"1","b":{"x":"2"},"c":" "}"#),
        form(php("$_POST", "echo json_encode($_POST), json_encode($_GET);").at("?a=1"))
            .answers(r#"{"c":"3","d":["4","\u00e4"]}{"a":"1"}"#),
        form(php("php://input beside $_POST, twice", "echo file_get_contents('php://input') === file_get_contents('php://input') ? file_get_contents('php://input') : 'other';"))
            .answers("c=3&d[]=4&d[]=%C3%A4"),
        php("php://input of JSON", "echo json_decode(file_get_contents('php://input'))->a;").posts(r#"{"a":"b"}"#).answers("b"),
        php("php://input of a megabyte", "echo strlen(file_get_contents('php://input'));").posts(super::bodies::pattern(1_000_000)).answers("1000000"),
        php("$_COOKIE", "echo json_encode($_COOKIE);").field("Cookie", "a=1; b=%C3%A4").answers(r#"{"a":"1","b":"\u00e4"}"#),
        form(php("$_REQUEST", "ksort($_REQUEST); echo json_encode($_REQUEST);").at("?a=1")).answers(r#"{"a":"1","c":"3","d":["4","\u00e4"]}"#),
        php("$_SERVER", "foreach (['REQUEST_METHOD', 'QUERY_STRING', 'PATH_INFO', 'HTTP_X_A', 'SERVER_PROTOCOL', 'SCRIPT_NAME'] as $name) echo $_SERVER[$name] ?? '-', ' ';")
            .at("/x/y?q=1").field("X-A", "1").answers("GET q=1 /x/y 1 HTTP/1.1 /ROUTE "),
        php("credentials", "echo $_SERVER['PHP_AUTH_USER'] ?? '-', ':', $_SERVER['PHP_AUTH_PW'] ?? '-';")
            .field("Authorization", "Basic YTpi").answers("a:b"),
    ]);
}
