<?php
/*
 * The fork server for PHP functions: the other side of runtimes/README.md, which is the contract.
 *
 * prelude.php evaluates this file where the setting faas.server names it. PHP has then started, with all its extensions,
 * and has opened the function's module, but run nothing of it. serve() forks; the server never leaves it, and in each child it
 * returns, so that PHP goes on to run the module as it does in the cold way.
 *
 * Invariants: nothing of the function's code runs in the server. One thread. Nothing here draws a random number, or asks
 * for the temporary folder, or whatever else PHP keeps from then on: children would all have the same. System calls are made
 * through FFI, which has no state of its own between two calls.
 *
 * The module is compiled once, by a child that then ends, into opcache's shared memory, where later children find it;
 * compiling here would declare its functions here. opcache looks at the time of change of each file anew in every child.
 *
 * A child's normal end, in which PHP takes itself apart piece by piece, takes longer than most functions. It can be left out
 * where nobody can tell: after shutdown functions, destructors and output buffers, in this order, which is PHP's. To be called
 * behind all of them we use the last of them: among the destructors we open an output buffer, which PHP closes when they have
 * all run. What keeps the normal end: a function that leaves output buffers or a session open, fatal errors, resources that
 * have more to do when they are closed.
 */

namespace Faas;

final class Server
{
    private const CONTROL = 3;
    /** The most that an invocation's environment takes in one read; a longer one is read in pieces. */
    private const READ_MAX = 8192;
    /** The most of an environment at all: more than the worker's frames hold. */
    private const ENVIRONMENT_MAX = 1 << 24;

    /** A server that has forked this often is worth the time that Memory::handDownUsed() takes. */
    private const OFTEN = 50;

    /** Resources that have nothing to do when they are closed. */
    private const HARMLESS = ['stream-context', 'stream factory', 'persistent stream'];

    private const SIGKILL = 9;
    private const O_RDWR = 2;
    private const MSG_CMSG_CLOEXEC = 0x40000000;
    private const CLONE_PARENT = 0x8000;
    /** How long a child may take that is to find something out, in seconds. */
    private const LOOK_MAX = 2;
    private const PR_SET_PDEATHSIG = 1;
    private const PR_SET_CHILD_SUBREAPER = 36;
    // The same on all machines.
    private const SYS_CLONE3 = 435;
    private const SYS_LANDLOCK_RESTRICT_SELF = 446;

    private const C = <<<'C'
        typedef struct { void *base; size_t length; } iovec;
        typedef struct {
            void *name; uint32_t name_length; iovec *pieces; size_t piece_count;
            void *control; size_t control_length; int flags;
        } msghdr;
        typedef struct { size_t length; int level; int type; int descriptors[8]; } cmsg;
        typedef struct {
            uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
        } clone_args;
        ssize_t recvmsg(int socket, msghdr *message, int flags);
        ssize_t read(int descriptor, void *bytes, size_t count);
        ssize_t write(int descriptor, const char *bytes, size_t count);
        int dup2(int from, int to);
        int close(int descriptor);
        int open(const char *path, int flags, ...);
        int pipe(int *descriptors);
        int fork(void);
        int waitpid(int process, int *status, int flags);
        int getpid(void);
        int setsid(void);
        unsigned alarm(unsigned seconds);
        int prctl(int option, ...);
        int kill(int process, int signal);
        long syscall(long number, ...);
        void _exit(int status);
        int *__errno_location(void);
        char *strerror(int error);
        extern char **environ;
        C;

    /** PHP's own; not every build has it, or shows it to others. */
    private const GLOBALS = 'extern uint32_t executor_globals[512];';

    private static \FFI $c;
    private static ?\FFI $php = null;
    /** An instance whose destructor is called when a child's function is through. */
    private static ?Server $end = null;
    /** Where in executor_globals the exit status stands, in words; null where that could not be found out. */
    private static ?int $statusAt = null;
    /** A child's channel; null in the server. */
    private static ?int $channel = null;
    private static int $process = 0;
    /** What a child that serves nobody does at its end, and says what that returns. */
    private static ?\Closure $atEnd = null;
    private static int $script = -1;
    /** The last resource that is PHP's own or ours: a function's come behind it. */
    private static int $lastResource = 0;
    private static string $module = '';
    private static \FFI\CData $message;
    private static \FFI\CData $control;
    private static \FFI\CData $bytes;
    private static \FFI\CData $piece;
    /** What an environment looks like. */
    private static string $rehearsal = '';
    /** The environment, which has to stay where it is. */
    private static ?\FFI\CData $environment = null;
    private static ?\FFI\CData $pointers = null;

    /** Serves until the worker hangs up. Returns in children only, with the environment of the invocation. */
    public static function serve(): array
    {
        self::prepare();
        $arguments = self::$c->new('clone_args');
        $arguments->flags = self::CLONE_PARENT;
        $address = \FFI::addr($arguments);
        $forks = 0;
        if (self::$c->write(self::CONTROL, 'R', 1) !== 1) {
            self::$c->_exit(0);
        }
        while (true) {
            $count = self::receive(self::CONTROL, 1);
            if ($count === 0) {
                self::$c->_exit(0);
            }
            $channel = self::$control->descriptors[0];
            if ($count !== 1 || \FFI::string(self::$bytes, 1) !== 'F' || self::descriptors() !== 1) {
                self::quit('the worker says something else than F with one descriptor');
            }
            if (self::$c->syscall(self::SYS_CLONE3, $address, 64) === 0) {
                return self::child($channel);
            }
            self::$c->close($channel);
            if (++$forks === self::OFTEN) {
                Memory::handDownUsed(self::inChild(...), self::tryOut(...));
            }
        }
    }

    // ---- The server ---------------------------------------------------------------------------------------------------

    private static function prepare(): void
    {
        if (!extension_loaded('FFI')) {
            self::giveUp('the FFI extension of PHP is missing');
        }
        try {
            self::$c = \FFI::cdef(self::C);
        } catch (\Throwable $fault) {
            self::giveUp($fault->getMessage());
        }
        try {
            self::$php = \FFI::cdef(self::GLOBALS);
        } catch (\Throwable) {
            // Then the exit status cannot be read, and children end the normal way.
        }
        self::$module = $_SERVER['argv'][0] ?? self::giveUp('there is no module');
        self::$message = self::$c->new('msghdr');
        self::$control = self::$c->new('cmsg');
        self::$bytes = self::$c->new('char[' . self::READ_MAX . ']');
        self::$piece = self::$c->new('iovec');
        self::$piece->base = \FFI::addr(self::$bytes[0]);
        self::$message->pieces = \FFI::addr(self::$piece);
        self::$message->piece_count = 1;
        self::$message->control = \FFI::addr(self::$control);
        self::$end = new self();
        $target = realpath(self::$module);
        foreach (scandir('/proc/self/fd') ?: [] as $name) {
            if ((int) $name > self::CONTROL && @readlink("/proc/self/fd/$name") === $target) {
                self::$script = (int) $name;
            }
        }
        foreach (range(1, 24) as $number) {
            self::$rehearsal .= "VARIABLE_$number=value\0";
        }
        self::$rehearsal .= "REQUEST_METHOD=GET\0QUERY_STRING=a=b\0HTTP_COOKIE=a=b; c=d\0CONTENT_LENGTH=0\0";
        self::compile();
        self::findStatus();
        self::$lastResource = array_key_last(get_resources()) ?? 0;
        // By eval, as this file was.
        eval('?>' . file_get_contents(dirname(get_cfg_var('faas.server')) . '/memory.php'));
        try {
            Memory::arrange(self::inChild(...));
        } catch (\FFI\Exception) {
            // An older C library. Forks take a little longer then.
        }
        // PHP keeps where paths lead, and /proc/self leads each child elsewhere.
        foreach (array_keys(realpath_cache_get()) as $path) {
            if (str_starts_with($path, '/proc/')) {
                clearstatcache(true, $path);
            }
        }
    }

    /** Has a child compile the module into opcache's shared memory. A fault in it is for the invocations to report. */
    private static function compile(): void
    {
        self::inChild(function (): string {
            self::load();
            return '';
        });
    }

    /** In a child that runs no function: loads the module, silently. */
    private static function load(): void
    {
        if (!function_exists('opcache_compile_file') || !ini_get('opcache.enable_cli')) {
            return;
        }
        ini_set('log_errors', '0');
        ini_set('display_errors', '0');
        try {
            @opcache_compile_file(self::$module);
        } catch (\Throwable) {
        }
    }

    /** Lets two children exit with statuses that stand nowhere else, and looks where they stand. */
    private static function findStatus(): void
    {
        if (self::$php === null) {
            return;
        }
        $places = [];
        foreach ([77, 133] as $status) {
            $places[] = unpack('V*', self::inChild(fn () => $status)) ?: [];
        }
        $common = array_values(array_intersect(...$places));
        self::$statusAt = count($common) === 1 ? $common[0] : null;
    }

    /**
     * Runs `$work` in a child and returns what it returns; nothing where that takes longer than LOOK_MAX. Where that is a
     * number, the child exits with it, and returned is where in PHP's globals it then stands.
     */
    private static function inChild(callable $work): string
    {
        $ends = self::$c->new('int[2]');
        if (self::$c->pipe($ends) !== 0) {
            return '';
        }
        $child = self::$c->fork();
        if ($child === 0) {
            self::$c->prctl(self::PR_SET_PDEATHSIG, self::SIGKILL);
            self::$c->alarm(self::LOOK_MAX);
            self::$c->close(self::CONTROL);
            self::$channel = $ends[1];
            self::$process = self::$c->getpid();
            $answer = $work();
            if (is_int($answer)) {
                register_shutdown_function(function () use ($answer, $ends): void {
                    $words = unpack('V*', \FFI::string(\FFI::cast('char *', \FFI::addr(self::$php->executor_globals)), 2048));
                    $places = array_map(fn (int $at) => $at - 1, array_keys($words, $answer, true));
                    $text = pack('V*', ...$places);
                    self::$c->write($ends[1], $text, strlen($text));
                    self::$c->kill(self::$c->getpid(), self::SIGKILL);
                });
                exit($answer);
            }
            self::$c->write($ends[1], $answer, strlen($answer));
            self::$c->kill(self::$c->getpid(), self::SIGKILL);
        }
        self::$c->close($ends[1]);
        $answer = '';
        while ($child > 0 && ($count = self::$c->read($ends[0], self::$bytes, self::READ_MAX)) > 0) {
            $answer .= \FFI::string(self::$bytes, $count);
        }
        self::$c->close($ends[0]);
        if ($child > 0) {
            self::$c->waitpid($child, null, 0);
        }
        return $answer;
    }

    /**
     * Does what every child does, from taking up an invocation to the end of its answer, for one that is none, and then
     * `$atEnd`, whose result is inChild()'s. Does not return.
     */
    private static function tryOut(\Closure $atEnd): never
    {
        self::$atEnd = $atEnd;
        $null = self::$c->open('/dev/null', self::O_RDWR);
        $body = '{"name":"value"}';
        $ends = self::$c->new('int[2]');
        self::$c->pipe($ends);
        self::$c->write($ends[1], $body, strlen($body));
        self::$c->close($ends[1]);
        self::$c->dup2($ends[0], 0);
        self::$c->dup2($null, 1);
        self::receive($null, 1);
        self::$c->setsid();
        self::load();
        $length = 'CONTENT_LENGTH=' . strlen($body);
        $request = str_replace(['METHOD=GET', 'CONTENT_LENGTH=0'], ['METHOD=POST', $length], self::$rehearsal);
        Request::begin(self::environment($request));
        $given = json_decode((string) file_get_contents('php://input'), true);
        header('Content-Type: application/json');
        echo json_encode(['message' => "Hello, $given[name]!", 'version' => PHP_VERSION]), "\n";
        exit;
    }

    /** Receives up to `$max` bytes, and descriptors. */
    private static function receive(int $socket, int $max): int
    {
        self::$piece->length = $max;
        self::$message->control_length = \FFI::sizeof(self::$control);
        self::$control->length = 0;
        do {
            $count = self::$c->recvmsg($socket, \FFI::addr(self::$message), self::MSG_CMSG_CLOEXEC);
        } while ($count < 0 && self::error() === 4);
        return $count;
    }

    /** How many descriptors came with the last message: each has four bytes behind a head of 16. */
    private static function descriptors(): int
    {
        return self::$message->control_length >= 20 && self::$control->level === 1 && self::$control->type === 1
            ? intdiv(self::$control->length - 16, 4) : 0;
    }

    private static function error(): int
    {
        return self::$c->__errno_location()[0];
    }

    private static function quit(string $why): never
    {
        fwrite(STDERR, "fork server: $why\n");
        self::$c->_exit(1);
        exit(1);
    }

    /** The worker then uses the cold way. */
    private static function giveUp(string $why): never
    {
        fwrite(STDERR, "fork server: $why; functions are started cold\n");
        exit(3);
    }

    // ---- A child ------------------------------------------------------------------------------------------------------

    private static function child(int $channel): array
    {
        $c = self::$c;
        self::$channel = $channel;
        self::$process = $c->getpid();
        $c->close(self::CONTROL);
        if ($c->write($channel, 'H', 1) !== 1) {
            $c->_exit(0);
        }
        // The file was opened before the fork: all children would share one offset in it.
        $script = self::$script < 0 ? -1 : $c->open(self::$module, 0);
        if ($script >= 0) {
            $c->dup2($script, self::$script);
            $c->close($script);
        }

        self::rehearse();
        $count = self::receive($channel, self::READ_MAX);
        if ($count <= 0) {
            $c->_exit(0);
        }
        $given = self::descriptors();
        $streams = [];
        for ($at = 0; $at < $given; $at++) {
            $streams[] = self::$control->descriptors[$at];
        }
        $text = \FFI::string(self::$bytes, $count);
        while (strlen($text) < 4 || strlen($text) < 4 + ($length = unpack('V', $text)[1])) {
            $more = $c->read($channel, self::$bytes, self::READ_MAX);
            if ($more <= 0 || strlen($text) > self::ENVIRONMENT_MAX) {
                $c->_exit(127);
            }
            $text .= \FFI::string(self::$bytes, $more);
        }
        if ($given < 3) {
            self::fail('receive the three streams');
        }
        foreach ([0, 1, 2] as $stream) {
            if ($c->dup2($streams[$stream], $stream) < 0) {
                self::fail('set up its streams');
            }
            $c->close($streams[$stream]);
        }
        if ($c->setsid() < 0 || $c->prctl(self::PR_SET_CHILD_SUBREAPER, 1) < 0
            || $c->prctl(self::PR_SET_PDEATHSIG, self::SIGKILL) < 0) {
            self::fail('start a session of its own');
        }
        foreach (array_slice($streams, 3) as $ruleset) {
            if ($c->syscall(self::SYS_LANDLOCK_RESTRICT_SELF, $ruleset, 0) !== 0) {
                self::fail('restrict itself');
            }
            $c->close($ruleset);
        }
        return self::environment(substr($text, 4));
    }

    /**
     * Takes up a request that is none, while nobody waits. Memory that a process writes to for the first time after a fork is
     * copied page by page; so most of that is over when the request comes.
     */
    private static function rehearse(): void
    {
        Request::begin(self::environment(self::$rehearsal));
        fclose(fopen('php://stdout', 'w'));
    }

    private static function fail(string $step): never
    {
        $text = "the function's process could not $step: " . \FFI::string(self::$c->strerror(self::error())) . "\n";
        self::$c->write(2, $text, strlen($text));
        self::$c->_exit(127);
        exit(127);
    }

    /** Makes `$block` the environment of this process and its children, all of it, and returns it as PHP's getenv() does. */
    private static function environment(string $block): array
    {
        $size = strlen($block);
        self::$environment = self::$c->new("char[$size]");
        \FFI::memcpy(self::$environment, $block, $size);
        $base = \FFI::cast('uintptr_t', \FFI::addr(self::$environment[0]))->cdata;
        $variables = $pointers = [];
        $at = 0;
        foreach (explode("\0", $block, -1) as $pair) {
            $pointers[] = $base + $at;
            $at += strlen($pair) + 1;
            $equals = strpos($pair, '=');
            if ($equals > 0) {
                $variables[substr($pair, 0, $equals)] = substr($pair, $equals + 1);
            }
        }
        $packed = pack('P*', ...$pointers, ...[0]);
        self::$pointers = self::$c->new('char *[' . count($pointers) + 1 . ']');
        \FFI::memcpy(self::$pointers, $packed, strlen($packed));
        self::$c->environ = \FFI::addr(self::$pointers[0]);
        return $variables;
    }

    // ---- A child's end ------------------------------------------------------------------------------------------------

    public function __destruct()
    {
        // A process that the function has forked has no business on our channel.
        if (self::$channel === null || self::$statusAt === null || self::$c->getpid() !== self::$process) {
            return;
        }
        $isSession = function_exists('session_status') && session_status() === PHP_SESSION_ACTIVE;
        if (ob_get_level() === 0 && !$isSession) {
            ob_start(self::finish(...), 1);
        }
    }

    /** An output buffer's handler: passes on what destructors write, and ends the process when they are through. */
    private static function finish(string $output, int $phase): string
    {
        if (($phase & PHP_OUTPUT_HANDLER_FINAL) === 0 || $output !== '' || !self::areStreamsClosed()) {
            return $output;
        }
        if (!headers_sent()) {
            Request::sendHead();
        }
        $last = self::$atEnd ? (self::$atEnd)() : 'X' . chr(self::$php->executor_globals[self::$statusAt] & 0xff);
        self::$c->write(self::$channel, $last, strlen($last));
        self::$c->kill(self::$process, self::SIGKILL);
        return $output;
    }

    /** Closes what the function has left open, as PHP would. False where that is not ours to do. */
    private static function areStreamsClosed(): bool
    {
        foreach (array_reverse(get_resources(), true) as $number => $resource) {
            $type = get_resource_type($resource);
            // One that another has closed with it is no resource any more.
            if ($number <= self::$lastResource || !is_resource($resource) || in_array($type, self::HARMLESS, true)) {
                continue;
            }
            if ($type !== 'stream') {
                return false;
            }
            $facts = stream_get_meta_data($resource);
            if (($facts['wrapper_data'] ?? null) instanceof Body) {
                continue;
            }
            if (($facts['wrapper_type'] ?? '') === 'user-space' || !@fclose($resource)) {
                return false;
            }
        }
        return true;
    }
}
