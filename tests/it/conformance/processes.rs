//! Processes that a function starts: their output and exit status arrive, and none of them stays. `traces.rs` looks for
//! processes that stay, after each call of each case.

use super::case::php;
use super::run::conform;
use crate::instance::need;

#[test]
fn subprocesses_say_and_end_as_they_do_elsewhere() {
    need(&["faas-php"]);
    conform(vec![
        php("exec", "exec('echo a; echo b; exit 7', $lines, $code); echo implode(',', $lines), \" $code\";").answers("a,b 7"),
        php("shell_exec, system, passthru, backticks", "echo shell_exec('echo 1'); system('echo 2', $code); passthru('echo 3; exit 4', $code); echo `echo 5`, $code;")
            .answers("1\n2\n3\n5\n4"),
        php("popen", "$pipe = popen('tr a-z A-Z; exit 3', 'w'); fwrite($pipe, 'abc'); echo pclose($pipe);").answers("ABC3"),
        php("proc_open", "$process = proc_open(['sh', '-c', 'tr a-z A-Z; echo said >&2; exit 9'], [['pipe', 'r'], ['pipe', 'w'], ['pipe', 'w']], $pipes);
            fwrite($pipes[0], 'abc'); fclose($pipes[0]); echo stream_get_contents($pipes[1]), ' ', trim(stream_get_contents($pipes[2])), ' ', proc_close($process);")
            .answers("ABC said 9"),
        php("a subprocess that is killed", "$process = proc_open(['sleep', '1000'], [], $pipes); proc_terminate($process, 9);
            do { $status = proc_get_status($process); } while ($status['running']); echo $status['termsig'];").answers("9"),
        php("a program that is not there", "exec('it-missing 2>&1', $lines, $code); echo $code;").answers("127"),
        php("a subprocess reads the body and writes the answer", "passthru('cat');").posts("the body").method("PUT").answers("the body"),
        php("and says on stderr what is logged", "exec('echo it-said >&2'); echo 'done';").answers("done").logs(&["it-said"]),
        php("it begins in the module's folder", "chdir(getenv('TMPDIR')); chdir(__DIR__); passthru('pwd');").answers("{folder}\n"),
        php("a fork", "if (($pid = pcntl_fork()) === 0) { echo 'child '; exit(9); }
            pcntl_waitpid($pid, $status); echo 'saw ', pcntl_wexitstatus($status);").answers("child saw 9"),
        php("a fork that comes to its end first", "register_shutdown_function(fn() => print '.'); if (pcntl_fork() === 0) { echo 'child'; return; }
            pcntl_wait($status); usleep(20000); echo 'parent';").answers("child.parent."),
        php("a fork that fails", "if (($pid = pcntl_fork()) === 0) { throw new Exception('it-child'); } pcntl_waitpid($pid, $status);
            echo pcntl_wexitstatus($status);").answers("255").logs(&["Uncaught Exception: it-child"]),
        php("a fork that is killed", "if (($pid = pcntl_fork()) === 0) { posix_kill(posix_getpid(), SIGKILL); } pcntl_waitpid($pid, $status);
            echo pcntl_wtermsig($status);").answers("9"),
        php("another program in its place", "echo 'before '; pcntl_exec('/bin/sh', ['-c', 'echo replaced; exit 0']);")
            .row("ini", serde_json::json!({"output_buffering": "0"})).answers("before replaced\n"),
        php("which fails", "pcntl_exec('/bin/sh', ['-c', 'exit 12']);").exits("code 12"),
        php("which is killed", "pcntl_exec('/bin/sh', ['-c', 'kill -9 $$']);").fails(500, "function-signaled", "signal 9"),
        php("a pair of sockets", "[$a, $b] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0); fwrite($a, 'x');
            $read = [$b]; $write = $except = null; echo stream_select($read, $write, $except, 1), fread($b, 1);").answers("1x"),
    ]);
}

#[test]
fn processes_that_would_stay_do_not() {
    need(&["faas-php"]);
    let answering = |name, source: &str| php(name, format!("{source} echo 'answered';")).answers("answered");
    conform(vec![
        answering("in the background", "exec('sleep 1000 >/dev/null 2>&1 &');"),
        answering("holding stdout and stderr", "proc_close(proc_open('sleep 1000 &', [], $pipes));"),
        answering("in a session of its own", "exec('setsid sleep 1000 >/dev/null 2>&1 &');"),
        answering("a daemon", "if (pcntl_fork() === 0) { posix_setsid(); if (pcntl_fork() === 0) { fclose(STDIN); fclose(STDOUT); fclose(STDERR); sleep(1000); }
            posix_kill(getmypid(), SIGKILL); } pcntl_wait($status);"),
        answering("a child that nobody waits for", "if (pcntl_fork() === 0) { sleep(1000); exit; }"),
        answering("deaf to signals", "exec(\"(trap '' TERM HUP INT; exec sleep 1000) >/dev/null 2>&1 &\");"),
        answering("without an environment", "exec('env -i setsid sleep 1000 >/dev/null 2>&1 &');"),
        answering("stopped", "exec('sh -c \\'kill -STOP $$\\' >/dev/null 2>&1 &');"),
        answering("in the scratch folder", "exec('cd \"$TMPDIR\"; exec 9>held; setsid sleep 1000 >/dev/null 2>&1 &');"),
        php("beside a function that fails", "exec('setsid sleep 1000 >/dev/null 2>&1 &'); exit(3);").exits("code 3"),
        php("beside one that is killed", "exec('setsid sleep 1000 >/dev/null 2>&1 &'); posix_kill(getmypid(), 9);")
            .fails(500, "function-signaled", "signal 9"),
        php("a closed stderr", "fclose(STDERR); echo 'on';").answers("on"),
        php("a closed stdout ends the answer", "echo 'before'; flush(); ob_flush(); flush(); fclose(STDOUT);").answers("before"),
        php("and exit codes stay", "fclose(STDOUT); fclose(STDERR); exit(3);").exits("code 3"),
    ]);
}
