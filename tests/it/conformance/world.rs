//! The surroundings of a function: environment, arguments, folder, settings, limits, and no leftover of a fork server.

use super::case::{Agreement, php, php_main};
use super::run::conform;
use crate::instance::need;

/// Variables that belong to one call.
const OWN: &[&str] = &["TMPDIR=", "HOME=", "FAAS_SESSION_DIR=", "FAAS_DEADLINE_MS=", "REMOTE_PORT="];
/// Variables that every function must have, and variables of the gateway that no function may have.
const FOUND: &[&str] = &[
    "IT_ANSWER=42",
    "REQUEST_METHOD=POST",
    "PATH_INFO=/further",
    "QUERY_STRING=a=1&b",
    "CONTENT_LENGTH=4",
    "HTTP_X_ASKED=yes",
    "GATEWAY_INTERFACE=CGI/1.1",
];
const NOT_FOUND: &[&str] = &["FAAS_DB=", "FAAS_PORT=", "FAAS_RUN_DIR=", "FAAS_WORKERS=", "IT_NOT="];

#[test]
fn environment_arguments_and_folder_are_those_of_the_call() {
    need(&["faas-php"]);
    let asking = |case: super::case::Case| {
        case.at("/further?a=1&b").field("X-Asked", "yes").posts("body").agreeing(Agreement::AllBut(OWN))
    };
    conform(vec![
        asking(php("getenv()", "foreach (getenv() as $name => $value) echo \"$name=$value\\n\";")).has_lines(FOUND, NOT_FOUND),
        asking(php("the environment of a subprocess", "proc_close(proc_open(['env'], [], $pipes));"))
            .has_lines(FOUND, NOT_FOUND),
        asking(php("the same by name, and by the shell", "echo 'IT_ANSWER=', getenv('IT_ANSWER'), \"\\n\",
            shell_exec('echo PATH_INFO=$PATH_INFO'); var_dump(getenv('IT_NOT'), getenv('IT_NOT', true));"))
            .has_lines(&["IT_ANSWER=42", "PATH_INFO=/further", "bool(false)"], &[]),
        asking(php_main("$_SERVER", "foreach ($_SERVER as $name => $value) {
            if (!str_starts_with($name, 'REQUEST_TIME')) echo $name, '=', is_array($value) ? implode(' ', $value) : $value, \"\\n\"; }"))
            .has_lines(FOUND, NOT_FOUND),
        asking(php_main("$_ENV", "foreach ($_ENV as $name => $value) echo \"$name=$value\\n\";")).has_lines(&[], NOT_FOUND),
        php("an empty and an odd variable", "var_dump(getenv('EMPTY'), getenv('ODD'));")
            .row("env", serde_json::json!({"EMPTY": "", "ODD": "a=b\nc"}))
            .answers("string(0) \"\"\nstring(5) \"a=b\nc\"\n"),
        php_main("arguments", "echo $argc, ' ', count($argv), ' ', $argv[0] === __FILE__ ? 'itself' : $argv[0], ' ',
            $_SERVER['argc'], ' ', $_SERVER['argv'] === $argv ? 'same' : 'other';").answers("1 1 itself 1 same"),
        php_main("its file", "echo dirname(__FILE__), ' ', __DIR__, ' ', __LINE__, ' ', basename(__FILE__, '.php') === basename(getenv('SCRIPT_NAME')) ? 'case' : __FILE__;")
            .answers("{folder} {folder} 1 case"),
        php_main("included files", "echo implode(\"\\n\", get_included_files()), \"\\n\", in_array(__FILE__, get_included_files()) ? 'itself' : 'not';")
            .has_lines(&["itself"], &[]),
        php_main("no frame is above it", "echo count(debug_backtrace()), ' ', (new Exception)->getTraceAsString();")
            .answers("0 #0 {main}"),
        php("its folder is the module's", "echo getcwd(), ' ', realpath('.'), ' ', file_exists('main.php') ? 'there' : 'not';")
            .answers("{folder} {folder} there"),
        php("a sibling is included by its name", "include 'sibling.inc'; echo sibling();")
            .beside("sibling.inc", "<?php function sibling() { return 'from the sibling'; }")
            .answers("from the sibling"),
        php("classes are loaded when they are needed", "spl_autoload_register(function ($class) { require __DIR__ . \"/$class.inc\"; });
            echo (new Autoloaded)->name(), ' ', class_exists('Missing', false) ? 'wrong' : 'right';")
            .beside("Autoloaded.inc", "<?php class Autoloaded { function name() { return static::class; } }")
            .answers("Autoloaded right"),
        php("the time of the request is after it was sent", "$since = $_SERVER['REQUEST_TIME_FLOAT'] * 1000 - (float) getenv('HTTP_X_NOW');
            echo $_SERVER['REQUEST_TIME'] === (int) $_SERVER['REQUEST_TIME_FLOAT'] ? '' : 'not whole ', $since;")
            .field("X-Now", "{now}")
            .check(|seen| {
                let since: f64 = seen.answer.text().parse().unwrap();
                assert!((0.0..20_000.0).contains(&since), "{since} ms");
            })
            .agreeing(Agreement::None),
    ]);
}

#[test]
fn a_function_finds_the_same_interpreter_process_and_limits() {
    need(&["faas-php"]);
    conform(vec![
        php("the interface", "echo PHP_SAPI, ' ', php_sapi_name(), ' ', PHP_BINARY, ' ', php_ini_loaded_file(), ' ', PHP_VERSION;")
            .check(|seen| assert!(seen.answer.text().starts_with("cgi-fcgi cgi-fcgi "))),
        php_main("variables at its beginning", "$names = array_keys(get_defined_vars()); sort($names); echo implode(' ', $names);")
            .check(|seen| {
                let text = seen.answer.text();
                assert!(text.split(' ').all(|name| name.starts_with('_') || ["argc", "argv"].contains(&name)), "{text}");
            }),
        php_main("functions and constants of its own at its beginning", "$constants = get_defined_constants(true)['user'] ?? [];
            echo implode(\"\\n\", [...get_defined_functions()['user'], '', ...array_keys($constants)]);"),
        php_main("classes at its beginning", "echo implode(\"\\n\", [...get_declared_classes(), ...get_declared_interfaces(), ...get_declared_traits()]);")
        // The fork server must exist. It is in a namespace that functions do not touch.
        .agreeing(Agreement::AllBut(&["Faas\\"])),
        php("extensions", "echo implode(\"\\n\", get_loaded_extensions()), implode(get_loaded_extensions(true));"),
        // A folder for each function, and so for each route.
        php("settings", "foreach (ini_get_all(null, false) as $name => $value) echo $name, '=', var_export($value, true), \"\\n\";")
            .has_lines(&["memory_limit='128M'", "max_execution_time='0'", "display_errors='0'"], &[])
            .agreeing(Agreement::AllBut(&["opcache.", "session.save_path="])),
        php("the state of the interpreter", "echo json_encode([ob_get_level(), ob_get_status(true),
            spl_autoload_functions(), stream_get_wrappers(), stream_get_filters(), stream_get_transports(),
            error_reporting(), date_default_timezone_get(), setlocale(LC_ALL, 0), get_include_path(), session_status(),
            connection_status(), ignore_user_abort(), gc_enabled(), libxml_use_internal_errors(),
            pcntl_async_signals(), spl_object_id(new stdClass), headers_sent(), get_debug_type(STDIN),
            stream_context_get_options(stream_context_get_default()), set_error_handler(null), set_exception_handler(null),
            getmypid() === posix_getpid(), assert_options(ASSERT_ACTIVE), umask()]);")
            .check(|seen| assert!(seen.answer.text().starts_with("[1,["))),
        php("what streams it has", "foreach ([STDIN, STDOUT, STDERR] as $stream) { $about = stream_get_meta_data($stream);
            unset($about['timed_out']); echo json_encode($about), decoct(fstat($stream)['mode'] & 0770000), ' ', (int) posix_isatty($stream), \"\\n\"; }"),
        php("memory in use", "echo memory_get_usage();").agreeing(Agreement::None).check(|seen| {
            let bytes: u64 = seen.answer.text().parse().unwrap();
            assert!((200_000..1_500_000).contains(&bytes), "{bytes} bytes");
        }),
        php("it leads a session and a group, and has one thread", "echo
            posix_getsid(0) === getmypid() ? 'session' : 'none', ' ', posix_getpgrp() === getmypid() ? 'group' : 'none', ' ',
            readlink('/proc/self') == getmypid() ? 'itself' : 'not', ' ', count(scandir('/proc/self/task')) - 2;")
            .check(|seen| assert!(seen.answer.text().ends_with("session group itself 1"))),
        php("limits", "foreach (posix_getrlimit() as $name => $value) echo \"$name=$value\\n\";"),
        php("rights and signals", "$of_interest = '/^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|SigBlk|SigIgn|SigCgt|SigPnd|ShdPnd)/';
            echo implode(preg_grep($of_interest, file('/proc/self/status'))), pcntl_getpriority();"),
        php("descriptors that a subprocess gets", "$files = explode(\"\\n\", shell_exec('exec find /proc/self/fd -type l -printf \"%l\\n\"'));
            $files = preg_replace('/:.*/', '', preg_grep('/^.proc/', $files, PREG_GREP_INVERT)); sort($files); echo implode(' ', $files);"),
        php("environment block and memory of others", "$read = fn($path) => strlen((string) @file_get_contents($path));
            echo $read('/proc/' . posix_getppid() . '/environ'), ' ', $read('/proc/1/environ');").answers("0 0"),
        php("open files are bounded", "for ($n = 0; $file = @fopen('/dev/null', 'r'); $n++) $all[] = $file; echo $n >= 240 && $n < 256 ? 'bounded' : $n;")
            .answers("bounded"),
        php("dates, expressions, JSON, hashes", "echo date('Y-m-d', 86400), ' ', preg_replace('/\\p{Lu}/u', '_', 'aÄb'), ' ',
            json_encode(['ä' => 1.5], JSON_UNESCAPED_UNICODE), ' ', hash('crc32b', 'x'), ' ', iconv('UTF-8', 'ISO-8859-1//TRANSLIT', 'x'), ' ',
            gzuncompress(gzcompress('z')), ' ', unserialize(serialize('s')), ' ', number_format(1234.5, 1);"),
    ]);
}
