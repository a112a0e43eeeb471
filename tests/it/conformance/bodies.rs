//! Bodies of all sizes and bytes, in and out, by all the ways that PHP has to read and to write.
//!
//! PHP itself reads the body of a POST before the function runs. So the cases use PUT, where functions find it on
//! stdin.

use serde_json::json;

use super::case::{Case, php, php_main};
use super::run::conform;
use crate::instance::need;

const ECHO: &str = "stream_copy_to_stream(fopen('php://stdin', 'r'), fopen('php://output', 'w'));";

/// Bytes of all values. Their period is no buffer's size, so that a piece in the wrong place shows.
pub fn pattern(length: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..=255).cycle().take(65_521).collect();
    let mut bytes = period.repeat(length / period.len() + 1);
    bytes.truncate(length);
    bytes
}

#[test]
fn bodies_come_and_go_whole_whatever_their_size_and_bytes() {
    need(&["faas-php"]);
    // At 64 KiB bodies and responses move from memory to a file; a pipe holds as much.
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1_000_000, 50_000_000];
    let echo = |size| php(format!("a body of {size} bytes is echoed"), ECHO).echoes(pattern(size)).method("PUT");
    let ways: Vec<Case> = [
        ("STDIN in pieces", "while (!feof(STDIN)) fwrite(STDOUT, fread(STDIN, 1000));"),
        ("file_get_contents", "echo file_get_contents('php://stdin');"),
        ("lines", "while (($line = fgets(STDIN)) !== false) echo $line;"),
        ("characters", "while (($byte = fgetc(STDIN)) !== false) echo $byte;"),
        ("an array of lines", "echo implode(file('php://stdin'));"),
        ("fpassthru", "fpassthru(STDIN);"),
        ("a filter", "stream_filter_append(STDIN, 'string.rot13'); echo str_rot13(stream_get_contents(STDIN));"),
    ]
    .into_iter()
    .map(|(way, source)| php(format!("a body is read by {way}"), source).echoes(pattern(20_000)).method("PUT"))
    .collect();
    conform(sizes.map(echo).into_iter().chain(ways).collect());
}

#[test]
fn what_is_read_in_part_and_written_in_pieces_arrives_in_order() {
    need(&["faas-php"]);
    conform(vec![
        php("without a body stdin is at its end", "var_dump(fread(STDIN, 9), feof(STDIN));")
            .answers("string(0) \"\"\nbool(true)\n"),
        php("a body that nobody reads does no harm", "echo 'unread';").posts(pattern(1_000_000)).answers("unread"),
        php("nor does one that is read in part", "echo strlen(fread(STDIN, 1000)); exit(0);")
            .posts(pattern(1_000_000))
            .method("PUT")
            .answers("1000"),
        php("nor one whose stream is closed", "fclose(STDIN); echo 'closed';").posts("body").answers("closed"),
        php("a body of JSON", "echo json_decode(stream_get_contents(STDIN))->name;")
            .field("Content-Type", "application/json")
            .posts(r#"{"name":"Zoë"}"#)
            .method("PUT")
            .answers("Zoë"),
        php("no output is an empty answer", "").answers(""),
        php("what looks like JSON is said to be", "echo '[1,2]';")
            .answers("[1,2]")
            .has_field("Content-Type", "application/json"),
        php("all else is text", "echo 'text';").answers("text").has_field("Content-Type", "text/plain; charset=utf-8"),
        php(
            "all ways of writing keep their order",
            "echo 'a'; fwrite(STDOUT, 'b'); file_put_contents('php://output', 'c'); print 'd';
            file_put_contents('php://stdout', 'e'); printf('%s', 'f'); flush(); fputs(STDOUT, 'g'); echo 'h';",
        )
        .row("ini", json!({"output_buffering": "0"}))
        .answers("abcdefgh"),
        php("many small pieces", "for ($i = 0; $i < 20000; $i++) echo $i % 10;").answers("0123456789".repeat(2000)),
        php("a megabyte at once", "echo str_repeat('0123456789', 100000);").answers("0123456789".repeat(100_000)),
        php_main("text around the code", "?>before <?= 1 + 1 ?> after\n<?php echo 'end' ?>\n")
            .answers("before 2 after\nend"),
        php_main("a file that ends in the middle", "echo 'first'; __halt_compiler(); echo 'second';").answers("first"),
        php("a large field of the head", "echo strlen(getenv('HTTP_X_LARGE'));")
            .field("X-Large", "x".repeat(40_000))
            .answers("40000"),
        php("a head that the function writes itself", r#"echo "Status: 418 I am a teapot\r\nX-Own: 1\r\n\r\nbody";"#)
            .status(418)
            .has_field("X-Own", "1")
            .answers("body"),
        php("the answer to HEAD has no body", "echo 'body';").method("HEAD").answers(""),
    ]);
}
