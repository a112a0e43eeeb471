"""Tests of faas-php: run.py PROGRAM [NAME]...

cases.py is what scripts see. Here is the protocol, and what a child must not find of others.
"""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib

from cases import CASES
from worker import (BASE_ENVIRONMENT, WAIT_S_MAX, ForkServer, environment_of, packed, run, settings_of, version_of)

PROGRAM = sys.argv[1]
TESTS = []


def test(function):
    TESTS.append((function.__name__, function))
    return function


class Folder:
    """A folder with modules, gone afterwards."""

    def __enter__(self):
        self.path = os.path.realpath(tempfile.mkdtemp())
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def write(self, name, text):
        path = os.path.join(self.path, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


class Served:
    """A folder and a fork server."""

    def __enter__(self):
        self.folder = Folder().__enter__()
        self.server = ForkServer(PROGRAM)
        return self.server, self.folder

    def __exit__(self, *_):
        self.server.close()
        self.folder.__exit__()


def wait_for(what, condition):
    until = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"not seen: {what}")


# ---- What scripts see ---------------------------------------------------------------------------------------------------


def placed(value, folder):
    if isinstance(value, list):
        return [placed(item, folder) for item in value]
    return value.replace("FOLDER", folder) if isinstance(value, str) else value


def fault_of(case, outcome, folder):
    expected = case["expected"]
    if isinstance(expected, str):
        if outcome.text != expected.replace("FOLDER", folder):
            return f"wrote {outcome.text!r}, expected {expected!r}"
    elif not expected(outcome):
        return f"wrote {outcome.text!r}"
    if outcome.status != case["status"]:
        return f"status {outcome.status}, expected {case['status']}"
    if case["log"] is None:
        return None
    wanted = [piece.replace("FOLDER", folder) for piece in case["log"].split("|") if piece]
    missing = [piece for piece in wanted if piece not in outcome.log]
    if missing or (not wanted and outcome.log):
        return f"logged {outcome.log!r}, missing {missing}"
    return None


def serve_case(way, server, module, environment, body, settings):
    if way == "run":
        return run(PROGRAM, module, environment, body, **settings)
    outcome = server.call(module, environment, body, **settings)
    if outcome.said == b"E":
        assert not outcome.out and not outcome.err, outcome
        return run(PROGRAM, module, environment, body, **settings)
    return outcome


@test
def scripts_see_what_php_cgi_shows():
    with Served() as (server, outer):
        faults = []
        for number, case in enumerate(CASES):
            folder = os.path.join(outer.path, str(number))
            os.mkdir(folder)
            settings = {k: placed(v, folder) for k, v in case["settings"].items()}
            for name, text in settings.pop("files", {}).items():
                outer.write(os.path.join(str(number), name), text)
            module = outer.write(os.path.join(str(number), "module.php"), case["code"])
            request = {k: placed(v, folder) for k, v in case["request"].items()}
            body = request.get("body", b"")
            for way in settings.pop("ways", ["run", "forked", "prepared"]):
                if way == "prepared" and case["name"] != "parse_error":
                    why = server.prepare(module)
                    assert why is None, (case["name"], why)
                outcome = serve_case(way, server, module, environment_of(**request), body, settings)
                fault = fault_of(case, outcome, folder)
                if fault:
                    faults.append(f"{case['name']} {way}: {fault}")
        assert not faults, "\n".join(faults)


# ---- The protocol -------------------------------------------------------------------------------------------------------


@test
def one_thread_at_every_fork():
    with Served() as (server, folder):
        assert len(server.tasks()) == 1
        assert server.prepare(folder.write("a.php", "<?php echo 1;")) is None
        assert len(server.tasks()) == 1


@test
def version_is_that_of_the_php_it_is_built_for():
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    with Folder() as folder:
        module = folder.write("v.php", "<?php echo PHP_MAJOR_VERSION, '.', PHP_MINOR_VERSION;")
        version = subprocess.run([PROGRAM, "run", module], capture_output=True, text=True, check=True).stdout
    assert told == f"faas-php for PHP {version}\n", (told, version)


@test
def a_report_has_the_wait_status_and_usage():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php for ($i = 0; $i < 3000000; $i++); exit(5);")
        outcome = server.call(module)
        assert outcome.said[:2] == b"X\x05" and outcome.wait_status == signal.SIGKILL, outcome
        assert outcome.user_us > 1000 and outcome.peak_kib > 1000, outcome
        said_us, _, said_kib = struct.unpack("<QQQ", outcome.said[2:])
        assert 1000 < said_us <= outcome.user_us and 1000 < said_kib <= outcome.peak_kib, outcome


@test
def a_child_without_an_invocation_exits():
    with Served() as (server, _):
        child = server.fork()
        child.channel.shutdown(socket.SHUT_WR)
        outcome = child.wait()
        assert outcome.wait_status == 0 and outcome.said == b"", outcome


@test
def an_invocation_may_come_in_pieces():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo strlen(getenv('LONG'));")
        child = server.fork()
        environment = environment_of(LONG="x" * 120000)
        child.send(settings_of(module), environment)
        assert child.wait().text == "120000"


@test
def a_child_that_cannot_begin_says_why():
    with Served() as (server, folder):
        for settings in (["version=1"], ["module=/x", "net=7", "folder=/"],
                         settings_of(folder.write("a.php", ""), folder="/nowhere")):
            child = server.fork()
            child.send(settings, environment_of())
            outcome = child.wait()
            assert outcome.status == 127 and "could not" in outcome.log, (settings, outcome)


@test
def the_end_of_children_is_awaited_after_q():
    with Served() as (server, folder):
        marker = folder.path + "/go"
        module = folder.write("a.php", f"<?php while (!file_exists('{marker}')) usleep(1000); echo 'through';")
        child = server.fork()
        child.send(settings_of(module), environment_of())
        server.control.send(b"Q")
        channel, given = socket.socketpair()
        report, given_report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(server.control, [b"F"], [given.fileno(), given_report.fileno()])
        given.close(), given_report.close()
        assert channel.recv(1) == b"" and report.recv(1) == b"", "a child was forked after Q"
        folder.write("go", "")
        assert child.wait().text == "through"
        assert os.waitstatus_to_exitcode(os.waitpid(server.pid, 0)[1]) == 0
        server.close = lambda: None


@test
def an_unknown_packet_is_a_fault():
    for packet in (b"Z", b"F", b"Pmodule", b"P" + packed(["module=/x"]), b"QQ"):
        server = ForkServer(PROGRAM)
        server.control.send(packet)
        assert os.waitstatus_to_exitcode(os.waitpid(server.pid, 0)[1]) == 1
        assert "protocol" in server.logged()


@test
def children_die_with_the_fork_server():
    with Folder() as folder:
        module = folder.write("a.php", "<?php echo getmypid(); flush(); sleep(1000);")
        for end in (lambda server: server.control.close(), lambda server: os.kill(server.pid, signal.SIGKILL)):
            server = ForkServer(PROGRAM)
            child = server.fork()
            child.send(settings_of(module, ini=["output_buffering=0"]), environment_of())
            assert os.read(child.outs[0][0], 20).decode() == str(child.pid)
            end(server)
            os.waitpid(server.pid, 0)
            assert child.report.recv(64) == b"", "a report after the death of the fork server"
            wait_for("the child's end", lambda: signal_pidfd(child.pidfd))
            child.close()


def signal_pidfd(pidfd):
    """True once the process has ended."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
        return False
    except ProcessLookupError:
        return True


# ---- What a child must not find -----------------------------------------------------------------------------------------


@test
def only_the_streams_the_channel_and_a_socket_for_locks_are_open():
    code = """<?php include __DIR__ . '/other.php';
        foreach (scandir('/proc/self/fd') as $n) { $t = @readlink("/proc/self/fd/$n"); if ($t && !str_contains($t, '/proc/'))
            echo $n, ' ', $t, ';'; }"""
    with Served() as (server, folder):
        folder.write("other.php", "<?php function other() {}")
        module = folder.write("a.php", code)
        others = [server.fork() for _ in range(3)]
        sockets = []
        for is_prepared in (False, True):
            if is_prepared:
                assert server.prepare(module) is None
            found = dict(line.split(" ", 1) for line in server.call(module).text.split(";") if line)
            streams = {name: found.pop(name) for name in "012"}
            assert all(streams[name].startswith("pipe:[") for name in "12"), streams
            assert all(target.startswith("socket:[") for target in found.values()) and len(found) == 2, found
            sockets += found.values()
        assert len(set(sockets)) == 4, sockets
        for child in others:
            child.channel.close()


@test
def two_functions_see_nothing_of_each_other():
    noisy = """<?php define('LEFT', 1); function left() {} class Left {} mt_srand(1); setlocale(LC_ALL, 'C'); umask(0);
        putenv('LEFT=1'); ini_set('precision', 3); date_default_timezone_set('Asia/Tokyo'); is_file(__FILE__); chdir('/');
        $GLOBALS['left'] = 1; setlocale(LC_CTYPE, 'C'); opcache_reset();"""
    quiet = """<?php echo json_encode([defined('LEFT'), function_exists('left'), class_exists('Left'), getenv('LEFT'),
        ini_get('precision'), date_default_timezone_get(), umask(), count(realpath_cache_get()) < 6, isset($left),
        getcwd() === __DIR__]), "\\n", json_encode([mt_rand(), lcg_value(), random_int(0, PHP_INT_MAX), str_shuffle(implode(range(0, 99))),
        substr(uniqid('', true), -8)]);"""
    with Served() as (server, folder):
        one, other = folder.write("one.php", noisy), folder.write("other.php", quiet)
        for is_prepared in (False, True):
            if is_prepared:
                assert server.prepare(one) is None and server.prepare(other) is None
            seen = []
            for _ in range(3):
                assert server.call(one).status == 0
                state, numbers = server.call(other).text.split("\n")
                assert state == '[false,false,false,false,"14","UTC",18,true,false,true]', state
                seen.append(json.loads(numbers))
            for same in zip(*seen):
                assert len(set(same)) == 3, f"random numbers repeat: {same}"


@test
def a_child_cannot_change_what_another_executes():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo opcache_is_script_cached(__FILE__); opcache_invalidate(__FILE__, true); echo"
                              " opcache_reset(), opcache_is_script_cached(__FILE__) ? 'still' : 'gone';")
        assert server.prepare(module) is None
        for _ in range(2):
            assert server.call(module).text == "11gone"


@test
def the_request_time_is_that_of_the_request():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo $_SERVER['REQUEST_TIME_FLOAT'];")
        child = server.fork()
        time.sleep(0.3)
        before = time.time()
        child.send(settings_of(module), environment_of())
        assert before <= float(child.wait().text) <= time.time()


# ---- Preparing ----------------------------------------------------------------------------------------------------------


@test
def modules_that_declare_the_same_names_are_prepared():
    with Served() as (server, folder):
        modules = [folder.write(f"{n}.php", f"<?php const C = {n}; function f() {{ return {n}; }} class A {{ const V = {n}; }}"
                                " echo C, f(), A::V;") for n in range(3)]
        for module in modules * 2:
            assert server.prepare(module) is None
        for n, module in enumerate(modules):
            assert server.call(module).text == str(n) * 3
        counts = folder.write("counts.php", "<?php echo count(get_declared_classes()), ' ', count(get_defined_functions()"
                              "['internal']), ' ', count(get_defined_constants());")
        prepared = server.call(counts).text
        with Served() as (fresh, _):
            assert fresh.call(counts).text == prepared


@test
def code_that_cannot_be_compiled_is_told_and_leaves_the_server():
    sources = {"<?php echo (;": "syntax error", "<?php function f() { $this = 1; }": "Cannot re-assign $this"}
    with Served() as (server, folder):
        for source, wanted in sources.items():
            why = server.prepare(folder.write("a.php", source))
            assert why and wanted in why, why
        assert server.prepare(folder.path + "/nowhere.php", "1")
        assert server.call(folder.write("b.php", "<?php echo 1;")).text == "1"


@test
def a_compiler_that_does_not_end_is_ended():
    with Served() as (server, folder):
        # A pipe, which nobody writes to, stands for a file that takes for ever.
        os.mkfifo(folder.path + "/pipe.php")
        heavy = folder.write("heavy.php", "<?php $a = [" + "1 + 2 * 3 . 'x'," * 3000000 + "];")
        why = server.prepare(heavy)
        assert why, "it was compiled"
        assert server.prepare(folder.path + "/pipe.php", "1"), "a pipe was compiled"
        assert server.call(folder.write("b.php", "<?php echo 1;")).text == "1"


@test
def another_version_is_never_run():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo 'old';")
        first = version_of(module)
        assert server.prepare(module) is None
        stat = os.stat(module)
        other = folder.write("b.php", "<?php echo 'new';")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert server.call(module, version=first + "x").text == "old"
        # A hard link, as releases made by `cp -al` are; the mtime is the same.
        os.unlink(module)
        os.link(other, module)
        assert server.call(module).text == "new"
        assert server.call(module, version=first).text == "new", "the prepared code ran for another file"


@test
def a_swapped_link_leads_to_the_new_release():
    with Served() as (server, folder):
        for name in ("r1", "r2"):
            os.mkdir(f"{folder.path}/{name}")
            folder.write(f"{name}/index.php", "<?php echo basename(__DIR__), include __DIR__ . '/part.php';")
            folder.write(f"{name}/part.php", f"<?php return '{name}';")
        link, module = folder.path + "/current", folder.path + "/current/index.php"
        os.symlink("r1", link)
        assert server.prepare(module) is None
        assert server.call(module).text == "r1r1"
        os.symlink("r2", link + ".new")
        os.rename(link + ".new", link)
        assert server.call(module).text == "r2r2"


@test
def a_file_changed_within_the_second_is_seen():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo include __DIR__ . '/part.php';")
        part = folder.write("part.php", "<?php return 1;")
        assert server.prepare(module) is None and server.prepare(part) is None
        assert server.call(module).text == "1"
        folder.write("part.php", "<?php return 2;")
        assert server.call(module).text == "2"


@test
def the_number_of_prepared_modules_is_bounded():
    with Served() as (server, folder):
        body = "".join(f"function f{n}() {{ return {n} + strlen('text {n}'); }}\n" for n in range(40))
        modules = [folder.write(f"{n}.php", f"<?php {body} echo {n};") for n in range(600)]
        for module in modules:
            assert server.prepare(module) is None
        for n in (0, 300, 599):
            assert server.call(modules[n]).text == str(n)
        with open(f"/proc/{server.pid}/statm") as file:
            assert int(file.read().split()[1]) * 4096 < 100 << 20


# ---- Titles, limits -----------------------------------------------------------------------------------------------------


@test
def the_title_names_the_route():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php echo strtr(file_get_contents('/proc/self/cmdline'), \"\\0\", ' '), '|',"
                              "file_get_contents('/proc/self/comm');")
        title, comm = server.call(module, route="GET:/api/info").text.split("|")
        assert title.strip() == "faas-php: GET:/api/info", title
        assert comm.startswith("faas-php: GET:"), comm


@test
def data_is_limited():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php preg_match('/Max data size +(\\d+) +(\\d+)/', file_get_contents('/proc/self/limits'), $m);"
                              " echo $m[1] >> 20, ' ', $m[2] >> 20;")
        assert server.call(module, data_mib_max=77).text == "77 77"


@test
def a_session_lasts():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;")
        store = folder.path + "/sessions"
        os.mkdir(store)
        first = server.call(module, session_dir=store).text
        cookie = first.split("Set-Cookie: ")[1].split(";")[0]
        again = server.call(module, environment_of(fields={"Cookie": cookie}), session_dir=store).text
        assert again.endswith("2") and len(os.listdir(store)) == 1, again


@test
def a_reader_that_has_gone_is_noticed():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php ignore_user_abort(true); while (ob_get_level()) ob_end_clean(); fgetc(STDIN);"
                              " echo 'x'; flush(); echo 'y'; fwrite(STDERR, connection_status());")
        child = server.fork()
        stdin, feed = os.pipe()
        child.send(settings_of(module), environment_of(), stdin=stdin)
        os.close(child.outs[0][0])
        child.outs[0] = (os.open("/dev/null", os.O_RDONLY), None)
        os.write(feed, b"go")
        os.close(feed)
        outcome = child.wait()
        assert outcome.log == "1" and outcome.status == 0, outcome


@test
def a_process_that_the_script_forks_leaves_the_end_to_it():
    with Served() as (server, folder):
        module = folder.write("a.php", "<?php if (($p = pcntl_fork()) === 0) exit(9); pcntl_waitpid($p, $s);"
                              " echo pcntl_wexitstatus($s); exit(4);")
        for is_prepared in (False, True):
            if is_prepared:
                assert server.prepare(module) is None
            outcome = server.call(module)
            assert outcome.text == "9" and outcome.said[:2] == b"X\x04", outcome


@test
def requests_that_php_begins_with_a_look_at_them_are_not_begun_ahead():
    with Folder() as folder:
        folder.write("x.ini", "session.auto_start=1\nzlib.output_compression=1\n")
        server = ForkServer(PROGRAM, dict(BASE_ENVIRONMENT, PHP_INI_SCAN_DIR=":" + folder.path))
        module = folder.write("a.php", "<?php echo session_id();")
        asked = environment_of(fields={"Cookie": "PHPSESSID=abc", "Accept-Encoding": "gzip"})
        out = server.call(module, asked, session_dir=folder.path).out
        server.close()
        head, body = out.split(b"\r\n\r\n", 1)
        assert b"Content-Encoding: gzip" in head and zlib.decompress(body, 47) == b"abc", out


@test
def output_of_programs_passes():
    with Served() as (server, folder):
        assert server.call(folder.write("a.php", "<?php echo 'a'; passthru('echo b'); echo `echo c`; system('echo e >&2');")).text \
            == "ab\nc\n"


def main():
    names = sys.argv[2:]
    failed = 0
    for name, function in TESTS:
        if names and not any(part in name for part in names):
            continue
        try:
            function()
            print(f"ok      {name}", flush=True)
        except AssertionError as fault:
            failed += 1
            print(f"FAILED  {name}\n        " + str(fault).replace("\n", "\n        "), flush=True)
    print(f"{failed} failed" if failed else "all passed")
    sys.exit(failed > 0)


main()
