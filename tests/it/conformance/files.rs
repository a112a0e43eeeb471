//! Files: the scratch folder, paths that a function may not write to, and files that change while it looks.

use super::case::{Case, php};
use super::run::conform;
use crate::instance::{Instance, need, skip};

const SCRATCH: &str = "$scratch = getenv('TMPDIR'); ";

fn scratch(name: &str, source: &str) -> Case {
    php(name, format!("{SCRATCH}{source}"))
}

#[test]
fn the_scratch_folder_is_empty_private_and_gone_afterwards() {
    need(&["faas-php"]);
    conform(vec![
        scratch("it is where PHP puts temporary files", "echo sys_get_temp_dir() === $scratch ? 'yes' : sys_get_temp_dir(),
            dirname(tempnam('', 'it')) === $scratch ? 'yes' : 'no', dirname(stream_get_meta_data(tmpfile())['uri']) === $scratch ? 'yes' : 'no';")
            .answers("yesyesyes"),
        scratch("it is empty", "echo count(scandir($scratch)) - 2; mkdir(\"$scratch/a/b\", 0755, true); touch(\"$scratch/a/b/c\"); symlink('/', \"$scratch/d\");")
            .answers("0"),
        scratch("what is written is read", "file_put_contents(\"$scratch/f\", str_repeat('x', 1 << 20)); echo filesize(\"$scratch/f\"), ' ', md5_file(\"$scratch/f\") === md5(str_repeat('x', 1 << 20)) ? 'same' : 'other';")
            .answers("1048576 same"),
        scratch("its subprocesses have it too", "echo shell_exec('echo content >\"$TMPDIR/f\"; cat \"$TMPDIR/f\"'), file_get_contents(\"$scratch/f\");")
            .answers("content\ncontent\n"),
        scratch("a folder without rights", "touch(\"$scratch/f\"); mkdir(\"$scratch/closed\", 0); echo 'done';").answers("done"),
        scratch("a file that stays open", "$file = fopen(\"$scratch/f\", 'w'); fwrite($file, 'x'); unlink(\"$scratch/f\"); echo fstat($file)['size'];").answers("1"),
        scratch("php://temp over its memory", "$file = fopen('php://temp/maxmemory:1000', 'w+'); fwrite($file, str_repeat('x', 100000)); rewind($file); echo strlen(stream_get_contents($file));")
            .answers("100000"),
        scratch("more than it may hold", "$file = fopen(\"$scratch/f\", 'w'); for (;;) { fwrite($file, str_repeat('x', 1 << 20)); usleep(10000); }")
            .row("scratch", 4)
            .fails(500, "scratch-limit", "4 MiB"),
        scratch("a changed file, and what PHP knows of it", "$f = \"$scratch/f\"; $shell = fn($command) => shell_exec(\"cd $scratch; $command\");
            $shell('echo 1 >f'); $seen[] = filesize($f); $shell('echo 22 >f'); clearstatcache(); $seen[] = filesize($f);
            $shell('rm f'); clearstatcache(); $seen[] = (int) file_exists($f); echo implode(' ', $seen);").answers("2 3 0"),
        scratch("code that it writes, runs, and writes anew", "foreach ([1, 2, 3] as $n) { file_put_contents(\"$scratch/code.php\", \"<?php return $n;\"); echo include \"$scratch/code.php\"; }")
            .answers("123"),
        scratch("code that two calls write under one name", "file_put_contents(\"$scratch/own.php\", '<?php return \"' . getenv('FAAS_REQUEST_ID') . '\";');
            $own = include \"$scratch/own.php\"; echo $own === getenv('FAAS_REQUEST_ID') ? 'its own' : 'another one';").answers("its own"),
        php("what the row opens can be written to", "$f = getenv('IT_FOLDER') . '/listed'; file_put_contents($f, 'x'); echo file_get_contents($f); unlink($f);").answers("x"),
        php("locks", "$f = fopen(getenv('IT_FOLDER') . '/lock', 'c'); echo flock($f, LOCK_EX | LOCK_NB) ? 'locked' : 'held';").answers("locked"),
    ]);
}

#[test]
fn a_function_writes_and_looks_nowhere_else() {
    need(&["faas-php"]);
    let landlock = Instance::start().status()["sandbox"]["landlock"].as_u64();
    if landlock < Some(6) {
        skip("the kernel has no Landlock, or an old one");
        return;
    }
    let refused = |name, source: &str| php(name, format!("var_dump({source});")).answers("bool(false)\n");
    conform(vec![
        refused("the folder of the module", "@file_put_contents(__DIR__ . '/x', 'x')"),
        refused("the module", "@file_put_contents(__FILE__, 'x', FILE_APPEND)"),
        refused("/tmp", "@file_put_contents('/tmp/it-' . getmypid(), 'x')"),
        refused("/dev/shm", "@file_put_contents('/dev/shm/it-' . getmypid(), 'x')"),
        refused("a folder beside its own", "@mkdir(getenv('TMPDIR') . '-2')"),
        refused("a way out by a link", "@symlink('/tmp', getenv('TMPDIR') . '/l') && @file_put_contents(getenv('TMPDIR') . '/l/it-' . getmypid(), 'x')"),
        refused("a subprocess neither", "exec('echo x 2>/dev/null >/tmp/it-$$ && echo written') === 'written'"),
        refused("the folder of all scratch folders", "@scandir(dirname(getenv('TMPDIR')))"),
        refused("memory of its parent", "@file_get_contents('/proc/' . posix_getppid() . '/mem', length: 1)"),
        refused("signals to its parent", "posix_kill(posix_getppid(), 0)"),
        php("the network", "var_dump(@stream_socket_client('tcp://127.0.0.1:9', $number, $text, 1));")
            .row("net", false)
            .answers("bool(false)\n"),
        php("sockets without the network", "echo @socket_create(AF_INET, SOCK_STREAM, SOL_TCP) ? 'made' : 'refused', socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair) ? ' unix' : '';")
            .row("net", false)
            .answers("refused unix"),
        php("sockets with it", "echo @socket_create(AF_INET, SOCK_STREAM, SOL_TCP) ? 'made' : 'refused';").answers("made"),
    ]);
}
