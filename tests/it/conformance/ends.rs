//! Ends of a function: exit codes, errors, shutdown functions, output buffers, destructors, signals, limits.

use super::case::{Agreement, Case, php, php_main};
use super::run::conform;
use crate::instance::need;

#[test]
fn exit_codes_arrive_with_what_was_to_happen_before() {
    need(&["faas-php"]);
    let mut cases: Vec<Case> = [(1, "code 1 "), (3, "code 3 "), (127, "code 127 "), (255, "code 255 ")]
        .map(|(code, detail)| php(format!("exit({code})"), format!("echo 'x'; exit({code});")).exits(detail.trim_end()))
        .into();
    cases.extend([
        php("exit(0)", "echo 'x'; exit(0); echo 'y';").answers("x"),
        php("exit(256) is exit(0), as in a process", "echo 'x'; exit(256);").answers("x"),
        php("exit(-1) is exit(255)", "exit(-1);").exits("code 255"),
        php("exit with a text", "echo 'x'; exit('y');").answers("xy"),
        php("exit in a function", "function f() { echo 'f'; exit(7); } f();").exits("code 7"),
        php("return ends a file", "echo 'x'; return 5; echo 'y';").answers("x"),
        php("exit inside output buffers", "ob_start(); echo 'a'; ob_start(); echo 'b'; exit(0);").answers("ab"),
        php("exit(3) inside an output buffer", "ob_start(); echo 'a'; exit(3);").exits("code 3"),
        php("a buffer with a callback", "ob_start(fn($text) => strtoupper($text)); echo 'abc';").answers("ABC"),
        php(
            "nested buffers, closed at the end, from within",
            "ob_start(fn($text) => \"1($text)\"); ob_start(fn($text) => \"2($text)\"); echo 'x'; ob_start(); echo 'y';",
        )
        .answers("1(2(xy))"),
        php("a buffer thrown away", "ob_start(); echo 'a'; ob_end_clean(); echo 'b';").answers("b"),
        php("a chunked buffer", "ob_start(fn($t) => \"[$t]\", 2); echo 'ab'; echo 'cd';").answers("[ab][cd][]"),
        php(
            "shutdown functions, in order, also those that register further ones",
            "register_shutdown_function(function () { echo 1; register_shutdown_function(fn() => print 3); });
            register_shutdown_function(fn() => print 2); echo 0;",
        )
        .answers("0123"),
        php("a shutdown function with arguments", "register_shutdown_function('printf', '%s-%s', 'a', 'b');")
            .answers("a-b"),
        php("a shutdown function after exit(4)", "register_shutdown_function(fn() => fwrite(STDERR, \"late\\n\")); exit(4);")
            .exits("code 4")
            .logs(&["late"]),
        php("exit in a shutdown function", "register_shutdown_function(fn() => exit(6)); echo 'x';").exits("code 6"),
        php("which ends the further ones", "register_shutdown_function(fn() => exit(0));
            register_shutdown_function(fn() => print 'never'); echo 'x';").answers("x"),
        php("an output buffer begun in a shutdown function", "register_shutdown_function(function () {
            ob_start(fn($text) => strrev($text)); echo 'ab'; });").answers("ba"),
        php(
            "destructors, after the shutdown functions and before the buffers' end",
            "class D { function __construct(public $n, public $other = null) {} function __destruct() { echo $this->n; } }
            class S { static $kept; } S::$kept = new D('s'); $a = new D('a'); $b = new D('b'); $c = new D('c');
            $c->other = $c; register_shutdown_function(fn() => print '|'); ob_start(fn($t) => \"<$t>\"); echo '.';
            unset($b);",
        )
        .answers("<.b|asc>"),
        php("a destructor in a function", "class D { function __destruct() { echo 'gone '; } }
            function f() { $d = new D; echo 'in '; } f(); echo 'out';").answers("in gone out"),
        php("destructors after exit(5)", "class D { function __destruct() { fwrite(STDERR, \"gone\\n\"); } }
            $d = new D; exit(5);").exits("code 5").logs(&["gone"]),
        php("exit in a destructor", "class D { function __destruct() { exit(8); } } $d = new D; echo 'x';")
            .exits("code 8"),
        php("a generator's finally", "function g() { try { yield 1; } finally { echo 'finally'; } }
            $g = g(); $g->current();").answers("finally"),
    ]);
    conform(cases);
}

#[test]
fn errors_end_a_function_or_not_as_php_has_it_and_are_in_the_log() {
    need(&["faas-php"]);
    let failing = |case: Case| case.exits("code 255");
    conform(vec![
        failing(php("an uncaught exception", "echo 'x'; throw new DomainException('it-boom');"))
            .logs(&["PHP Fatal error:  Uncaught DomainException: it-boom in {folder}/", "Stack trace:", "thrown in"]),
        failing(php_main("an uncaught exception in the module", "throw new Exception('it-boom');"))
            .logs(&["PHP Fatal error:  Uncaught Exception: it-boom in {folder}/", "#0 {main}", "on line 1"]),
        failing(php("an undefined function", "undefined();")).logs(&["Call to undefined function undefined()"]),
        failing(php("a type error", "strlen([]);")).logs(&["Uncaught TypeError: strlen()"]),
        failing(php("a missing file that is required", "require __DIR__ . '/missing.php';"))
            .logs(&["missing.php", "Failed opening required"]),
        failing(php("a parse error in an included file", "if (")).logs(&["PHP Parse error:"]),
        failing(php_main("a parse error in the module", "if (")).logs(&["PHP Parse error:  Unclosed '(' in {folder}/"]),
        failing(php_main("a fatal error of the compiler", "class A {} class A {}")).logs(&["Cannot declare class A"]),
        failing(php("E_USER_ERROR", "trigger_error('it-fatal', E_USER_ERROR);")).logs(&["PHP Fatal error:  it-fatal"]),
        failing(php("an exception in a shutdown function", "register_shutdown_function(fn() => throw new Exception('late'));"))
            .logs(&["Uncaught Exception: late"]),
        failing(php("an exception in a destructor", "class D { function __destruct() { throw new Exception('late'); } }
            $d = new D;")).logs(&["Uncaught Exception: late"]),
        failing(php("shutdown functions and destructors after an exception", "class D { function __destruct() {
            fwrite(STDERR, \"destructor\\n\"); } } $d = new D;
            register_shutdown_function(fn() => fwrite(STDERR, error_get_last()['message'] . \" seen\\n\")); undefined();"))
            .logs(&["Call to undefined function undefined()", " seen", "destructor"]),
        failing(php("shutdown functions and no destructors after a fatal error", "class D { function __destruct() {
            fwrite(STDERR, \"destructor\\n\"); } } $d = new D;
            register_shutdown_function(fn() => fwrite(STDERR, \"shutdown\\n\")); trigger_error('it-fatal', E_USER_ERROR);"))
            .logs(&["it-fatal", "shutdown"])
            .logs_what(|lines| !lines.contains(&"destructor".to_string())),
        php("an exception handler", "set_exception_handler(fn($e) => fwrite(STDERR, \"handled\\n\"));
            throw new Exception('x');").answers("").logs(&["handled"]),
        php("an exception handler that exits", "set_exception_handler(function ($e) { echo 'handled'; exit(0); });
            throw new Exception('x');").answers("handled"),
        php("a parse error that is caught", "try { eval('if ('); } catch (ParseError) { echo 'caught'; }").answers("caught"),
        php("a warning and a notice", "echo $undefined; echo [][5]; echo 'on';")
            .answers("on")
            .logs(&["PHP Warning:  Undefined variable $undefined in {folder}/", "PHP Warning:  Undefined array key 5"]),
        php("a deprecation", "error_reporting(E_ALL); strlen(null); echo 'on';").answers("on").logs(&["PHP Deprecated:  strlen()"]),
        php("a warning that is silenced", "echo @$undefined, error_get_last()['message'];")
            .answers("Undefined variable $undefined"),
        php("an error handler", "set_error_handler(fn($n, $text) => print \"<$text>\"); echo $x;")
            .answers("<Undefined variable $x>"),
        php("error_log and writes to stderr", "error_log('first'); fwrite(STDERR, \"second\\n\");
            file_put_contents('php://stderr', 'third, without an end');").answers("")
            .logs(&["first", "second", "third, without an end"]),
        php("a flood on stderr", "for ($i = 0; $i < 2000; $i++) fwrite(STDERR, str_repeat('x', 999) . \"\\n\"); echo 'done';")
            .answers("done")
            .logs(&["xxx", "more bytes were dropped"])
            .agreeing(Agreement::None),
        php("an error that is caught", "try { undefined(); } catch (Error $e) { echo get_class($e); } finally { echo ' finally'; }")
            .answers("Error finally"),
    ]);
}

/// PHP's own message, if PHP reaches its limit before the platform's next sample ends the process.
fn is_about_memory(lines: &[String]) -> bool {
    let is_right = |line: &String| {
        line.contains("Allowed memory size of 33554432 bytes") || line.starts_with("PHP fatal error in")
    };
    lines.iter().all(is_right)
}

#[test]
fn limits_and_signals_end_a_function() {
    need(&["faas-php"]);
    let signaled =
        |signal: &str, detail| {
            php(format!("{signal} to itself"), format!("echo 'x'; posix_kill(getmypid(), {signal}); sleep(1000);"))
                .fails(500, "function-signaled", detail)
        };
    conform(vec![
        php("its memory limit", "$all = []; for (;;) $all[] = str_repeat('x', 1 << 20);")
            .row("memory", 32)
            .fails(500, "memory-limit", "limit of 32 MiB")
            .logs_what(is_about_memory)
            .agreeing(Agreement::None),
        php("one large piece over the memory limit", "echo strlen(str_repeat('x', 40 << 20));")
            .row("memory", 32)
            .fails(500, "memory-limit", "limit of 32 MiB")
            .logs(&["Allowed memory size of 33554432 bytes exhausted"]),
        php("memory within the limit", "echo strlen(str_repeat('x', 20 << 20));").row("memory", 32).answers("20971520"),
        php("its timeout, asleep", "echo 'x'; sleep(1000);").row("timeout", 1).once().fails(504, "timed-out", "of 1 s"),
        php(
            "its timeout, busy, deaf to SIGTERM",
            "pcntl_async_signals(true); pcntl_signal(SIGTERM, SIG_IGN); for (;;);",
        )
        .row("timeout", 1)
        .once()
        .fails(504, "timed-out", "of 1 s"),
        php("PHP's own time limit", "set_time_limit(1); for (;;);")
            .once()
            .exits("code 255")
            .logs(&["Maximum execution time of 1 second exceeded"]),
        signaled("SIGTERM", "signal 15"),
        signaled("SIGKILL", "signal 9"),
        signaled("SIGSEGV", "signal 11"),
        signaled("SIGINT", "signal 2"),
        signaled("SIGALRM", "signal 14"),
        php(
            "signals that it handles",
            "pcntl_async_signals(true);
            pcntl_signal(SIGUSR1, function () { echo 'caught '; }); posix_kill(getmypid(), SIGUSR1); echo 'on';",
        )
        .answers("caught on"),
        php("signals to its group", "pcntl_signal(SIGTERM, SIG_IGN); posix_kill(0, SIGTERM); echo 'on';").answers("on"),
        php("SIGKILL to its group", "posix_kill(0, SIGKILL);").fails(500, "function-signaled", "signal 9"),
        php(
            "what it had written when it was killed is no answer",
            "echo str_repeat('x', 100000); posix_kill(getmypid(), 9);",
        )
        .fails(500, "function-signaled", "signal 9"),
        php("endless recursion", "function f() { f(); } f();")
            .row("memory", 32)
            .fails(500, "memory-limit", "limit of 32 MiB")
            .logs_what(is_about_memory)
            .agreeing(Agreement::None),
        php(
            "sleeping",
            "$then = hrtime(true); usleep(20000); time_nanosleep(0, 1000000);
            echo hrtime(true) - $then >= 21e6 ? 'slept' : 'not';",
        )
        .answers("slept"),
    ]);
}
