//! No call finds what another one did to its process, and values that must differ from call to call do.
//!
//! Each of these functions reports the state that it finds, and then changes it. It is called several times and must
//! always report the same, so any leftover shows.

use super::case::{Agreement, Case, php, php_main};
use super::run::conform;
use crate::instance::need;

/// Name, source, response body.
const FRESH: &[(&str, &str, &str)] = &[
    (
        "globals",
        "echo isset($GLOBALS['seen']) ? 'old' : 'fresh'; $GLOBALS['seen'] = $_GET['seen'] = $_SERVER['seen'] = 1;",
        "fresh",
    ),
    (
        "superglobals",
        "echo isset($_GET['seen']) || isset($_SERVER['seen']) ? 'old' : 'fresh'; $_GET['seen'] = $_SERVER['seen'] = 1;",
        "fresh",
    ),
    (
        "statics of a function",
        "function counted() { static $count = 0; return ++$count; } counted(); echo counted();",
        "2",
    ),
    (
        "statics of a class",
        "class Counted { static $count = 0; public static array $all = []; } Counted::$all[] = 1;
        echo ++Counted::$count, count(Counted::$all);",
        "11",
    ),
    (
        "definitions",
        "echo defined('MINE') || function_exists('mine') || class_exists('Mine', false) ? 'old' : 'fresh';
        define('MINE', 1); eval('function mine() {} class Mine {}');",
        "fresh",
    ),
    (
        "a definition by an included file",
        "echo function_exists('sibling2') ? 'old' : 'fresh'; require_once 'sibling2.inc'; echo sibling2();",
        "fresh2",
    ),
    (
        "settings",
        "echo ini_get('precision'), ini_get('memory_limit'), ini_get('user_agent');
        ini_set('precision', 5); ini_set('memory_limit', '64M'); ini_set('user_agent', 'it');",
        "14128M",
    ),
    ("the locale", "echo setlocale(LC_NUMERIC, 0); setlocale(LC_ALL, 'C.UTF-8', 'C.utf8');", "C"),
    (
        "the time zone",
        "echo date_default_timezone_get() === 'Asia/Tokyo' ? 'old' : 'fresh'; date_default_timezone_set('Asia/Tokyo');",
        "fresh",
    ),
    (
        "the environment",
        "var_dump(getenv('IT_PUT')); putenv('IT_PUT=1'); putenv('PATH'); putenv('IT_ANSWER=43');",
        "bool(false)\n",
    ),
    ("the environment that was there", "echo getenv('IT_ANSWER'); putenv('IT_ANSWER=43');", "42"),
    ("the working folder", "echo basename(getcwd()); chdir('/');", "modules"),
    ("the file mode mask", "printf('%o', umask()); umask(0);", "22"),
    ("handlers", "var_dump(set_error_handler(fn() => true), set_exception_handler(fn() => 0));", "NULL\nNULL\n"),
    ("error reporting", "echo error_reporting(); error_reporting(0);", ""),
    ("the last error", "var_dump(error_get_last()); echo @$undefined;", "NULL\n"),
    ("autoloaders", "echo count(spl_autoload_functions()); spl_autoload_register(fn() => 0);", "0"),
    (
        "stream wrappers",
        "echo in_array('glob', stream_get_wrappers()) ? 'there' : 'gone'; stream_wrapper_unregister('glob');",
        "there",
    ),
    (
        "stream contexts",
        "echo count(stream_context_get_options(stream_context_get_default())); stream_context_set_default(['http' => ['timeout' => 1]]);",
        "0",
    ),
    ("the collector", "echo gc_enabled() ? 'on' : 'off'; gc_disable();", "on"),
    (
        "signal handlers",
        "echo pcntl_signal_get_handler(SIGUSR1), (int) pcntl_async_signals(); pcntl_async_signals(true); pcntl_signal(SIGUSR1, SIG_IGN);",
        "00",
    ),
    ("the signal mask", "pcntl_sigprocmask(SIG_BLOCK, [SIGUSR2], $old); echo count($old);", "0"),
    ("an alarm", "echo pcntl_alarm(1000);", "0"),
    ("the priority", "echo pcntl_getpriority(); @pcntl_setpriority(19);", ""),
    ("a limit", "echo posix_getrlimit()['soft openfiles']; posix_setrlimit(POSIX_RLIMIT_NOFILE, 64, 64);", "256"),
    ("output buffers and ticks", "echo ob_get_level(); ob_start(); ob_start(); output_add_rewrite_var('a', 'b');", "1"),
    (
        "the include path",
        "echo str_contains(get_include_path(), '/it') ? 'old' : 'fresh'; set_include_path('/it');",
        "fresh",
    ),
    ("a seeded generator", "mt_srand(42); echo mt_rand(), ' ', mt_rand(1, 6);", ""),
    ("a seeded order", "mt_srand(7); $all = range(1, 9); shuffle($all); echo implode($all);", ""),
    ("objects are counted from one", "echo spl_object_id(new stdClass);", ""),
    ("libxml", "echo (int) libxml_use_internal_errors(true);", "0"),
    ("aborts", "echo ignore_user_abort(), connection_aborted(); ignore_user_abort(true);", "00"),
    (
        "the file cache",
        "echo file_exists(getenv('TMPDIR') . '/f') ? 'old' : 'fresh'; touch(getenv('TMPDIR') . '/f');",
        "fresh",
    ),
    (
        "shared memory of opcache is no store",
        "echo class_exists('Stored', false) ? 'old' : 'fresh'; if (function_exists('opcache_compile_file')) @opcache_compile_file(__DIR__ . '/stored.inc');",
        "fresh",
    ),
];

#[test]
fn what_a_call_does_to_its_process_is_gone_in_the_next() {
    need(&["faas-php"]);
    let fresh = |(name, source, answer): &(&str, &str, &str)| {
        let case = php(*name, source)
            .beside("sibling2.inc", "<?php function sibling2() { static $n = 1; return ++$n; }")
            .beside("stored.inc", "<?php class Stored {}");
        if answer.is_empty() { case } else { case.answers(*answer) }
    };
    let main = [
        php_main("globals of a module", "echo isset($count) ? 'old' : 'fresh'; $count = 1;").answers("fresh"),
        php_main("functions of a module", "echo f(); function f() { static $n = 0; return ++$n; }").answers("1"),
        php_main("classes of a module", "class C { const A = [1, 2]; static $n = [0]; } echo ++C::$n[0], count(C::A);")
            .answers("12"),
    ];
    conform(FRESH.iter().map(fresh).chain(main).collect());
}

#[test]
fn what_is_random_differs_from_call_to_call() {
    need(&["faas-php"]);
    let random = |name: &str, source: &str| {
        let mut case: Case = php(name, source).agreeing(Agreement::Distinct);
        // Some children were forked one after the other, and some waited at the same time.
        case.warm_calls = 8;
        case
    };
    conform(vec![
        random("mt_rand", "echo mt_rand(), ' ', mt_rand(), ' ', mt_rand();"),
        random("rand", "echo rand(), ' ', rand();"),
        random("lcg_value", "echo lcg_value();"),
        random("uniqid", "echo uniqid(), \"\\n\", uniqid('', true);"),
        random("random_int and random_bytes", "echo random_int(0, PHP_INT_MAX), \"\\n\", bin2hex(random_bytes(16));"),
        random("shuffle", "$all = range(1, 60); shuffle($all); echo implode(' ', $all);"),
        random("str_shuffle", "echo str_shuffle('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ');"),
        random("array_rand", "echo implode(' ', array_rand(range(0, 200), 60));"),
        random("a Randomizer", "echo (new Random\\Randomizer)->nextInt(), \"\\n\", bin2hex((new Random\\Randomizer)->getBytes(16));"),
        random("openssl", "echo bin2hex(openssl_random_pseudo_bytes(16)), \"\\n\", openssl_pkey_get_details(openssl_pkey_new(
            ['private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1']))['key'] === '' ? 'none' : uniqid();"),
        random("password hashes and session ids", "echo password_hash('x', PASSWORD_BCRYPT, ['cost' => 4]), \"\\n\", session_create_id();"),
        random("names of temporary files", "echo basename(tempnam(getenv('TMPDIR'), 'it')), \"\\n\", basename(stream_get_meta_data(tmpfile())['uri']);"),
        random("its process id", "echo getmypid();"),
    ]);
}
