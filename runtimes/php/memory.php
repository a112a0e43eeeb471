<?php
/*
 * What a fork server's memory looks like before it forks: arranged so that a fork, what a child then uses, and its end cost
 * less. server.php evaluates this file. It makes calls faster and is not needed otherwise: wherever the system forbids a
 * step, that step is left out.
 *
 * Fork and exit go by the mappings, of which Debian's PHP has some 225, five for each of forty libraries, and by the pages in
 * them: fork enters each page of the process's own memory into the child's tables, and exit takes it out again. Pages of
 * files are not entered: there each place that the child uses first costs a fault, in which the kernel enters the fifteen
 * pages around it as well. Of a PHP of 5 MB a simple function needs 1 MB, in 80 places. So
 *
 *   mappings that lie side by side are joined,
 *   data that children do not use is kept in a file, where it is no page of the process's own, and
 *   pages of code and data that every child uses are handed down by fork, and no others.
 *
 * Which those are is found out by a child that does what every child does (Server::tryOut) and then looks which pages are in
 * place (/proc/PID/pagemap).
 */

namespace Faas;

final class Memory
{
    private const PROT_READ = 1;
    private const PROT_WRITE = 2;
    private const PROT_EXEC = 4;
    private const MAP_SHARED = 1;
    private const MAP_PRIVATE = 2;
    private const MAP_FIXED = 16;
    private const MADV_DONTNEED = 4;
    private const MFD_CLOEXEC = 1;
    private const O_CLOEXEC = 02000000;
    /** Data of this size is worth the look at which of its pages are used. In bytes. */
    private const LARGE = 1 << 18;

    private const C = <<<'C'
        int getpagesize(void);
        int memfd_create(const char *name, unsigned flags);
        ssize_t pwrite(int descriptor, const void *bytes, size_t count, long offset);
        long mmap(void *at, size_t length, int protection, int flags, int descriptor, long offset);
        int munmap(void *at, size_t length);
        int mprotect(void *at, size_t length, int protection);
        int madvise(void *at, size_t length, int advice);
        int open(const char *path, int flags, ...);
        ssize_t pread(int descriptor, void *bytes, size_t count, long offset);
        int close(int descriptor);
        void _exit(int status);
        C;

    private static \FFI $c;
    /** The size of a page. */
    private static int $page;
    /** The mappings of code and of large data that are used. */
    private static array $code = [];
    private static array $data = [];

    /** Before the first fork. `$inChild` runs a function in a child and returns what that returns. */
    public static function arrange(\Closure $inChild): void
    {
        self::$c = \FFI::cdef(self::C);
        self::$page = self::$c->getpagesize();
        self::joinMappings();
        // Linux notes what is used from here on.
        if (@file_put_contents(self::proc('clear_refs'), '1') === false) {
            return;
        }
        $inChild(fn () => '');
        foreach (self::mappings() as $mapping) {
            if ($mapping->path === '') {
                continue;
            }
            if ($mapping->permissions === 'r-xp' && $mapping->isUsed) {
                self::$code[] = $mapping;
            } elseif ($mapping->permissions === 'rw-p' && !$mapping->isUsed) {
                self::moveData($mapping);
            } elseif ($mapping->permissions === 'rw-p' && $mapping->to - $mapping->from >= self::LARGE) {
                self::$data[] = $mapping;
            }
        }
    }

    /**
     * Has fork hand down the pages that every child uses, and no others. That takes as long as twenty calls. `$tryOut` does what
     * every child does, then what it is given, and ends.
     */
    public static function handDownUsed(\Closure $inChild, \Closure $tryOut): void
    {
        if (self::$code === []) {
            return;
        }
        $pages = unpack('P*', $inChild(fn () => self::usedPages($tryOut)));
        // Without an answer all stays as it is, which works as well.
        if ($pages === []) {
            return;
        }
        foreach (self::$code as $mapping) {
            self::handDownCode($mapping, self::within($mapping, $pages));
        }
        foreach (self::$data as $mapping) {
            self::moveData($mapping);
            array_map(self::write(...), self::within($mapping, $pages));
        }
        // What else is in place would be handed down as well.
        foreach ([...self::$data, ...self::$code] as $mapping) {
            self::dropFilePages($mapping, $pages);
        }
    }

    /**
     * Neighbours that differ in what may be done with them become one: what may only be read takes the code's permissions, and
     * the table of addresses that the loader has filled in takes those of the data behind it. (The latter is closed against
     * writing elsewhere, to make attacks harder. Code with FFI, which PHP's command line gives to all, could open it anyway.)
     */
    private static function joinMappings(): void
    {
        $mappings = self::mappings();
        foreach ($mappings as $number => $mapping) {
            if ($mapping->path === '' || $mapping->permissions !== 'r--p') {
                continue;
            }
            $isOfSame = fn (int $other) => ($mappings[$other]->path ?? '') === $mapping->path;
            $next = $mappings[$number + 1] ?? null;
            if ($isOfSame($number + 1) && $next->permissions === 'rw-p' && $next->from === $mapping->to) {
                self::protect($mapping, self::PROT_READ | self::PROT_WRITE);
            } elseif ($isOfSame($number + 1) || $isOfSame($number - 1)) {
                self::protect($mapping, self::PROT_READ | self::PROT_EXEC);
            }
        }
    }

    /** Keeps data in a file from now on. A process that writes to it gets a page of its own, as after any fork. */
    private static function moveData(object $mapping): void
    {
        $length = $mapping->to - $mapping->from;
        $data = \FFI::cast('char *', $mapping->from);
        $file = self::$c->memfd_create('data', self::MFD_CLOEXEC);
        $isCopied = $file >= 0 && self::$c->pwrite($file, $data, $length, 0) === $length;
        $at = $isCopied ? self::$c->mmap(null, $length, self::PROT_READ, self::MAP_SHARED, $file, 0) : -1;
        if ($at !== -1) {
            $copy = \FFI::cast('char *', $at);
            // Nothing may write to it between the copy and the move. What PHP's own steps write would show here already.
            $isSame = \FFI::memcmp($data, $copy, $length) === 0;
            $access = self::PROT_READ | self::PROT_WRITE;
            if ($isSame && self::$c->mmap($data, $length, $access, self::MAP_PRIVATE | self::MAP_FIXED, $file, 0) === -1) {
                // There may be a hole now where the data was.
                self::$c->_exit(1);
            }
            self::$c->munmap($copy, $length);
        }
        self::$c->close($file);
    }

    /** In a child: the addresses of the pages that it uses. */
    private static function usedPages(\Closure $tryOut): string
    {
        $mappings = [...self::$code, ...self::$data];
        array_walk(self::$data, self::moveData(...));
        foreach ($mappings as $mapping) {
            for ($page = $mapping->from; $page < $mapping->to; $page += 2 * self::$page) {
                self::separate($page);
            }
            self::dropFilePages($mapping, []);
        }
        $tryOut(fn () => pack('P*', ...array_keys(array_replace([], ...array_map(self::pages(...), $mappings)))));
    }

    private static function handDownCode(object $mapping, array $pages): void
    {
        array_map(self::separate(...), $pages);
        self::dropFilePages($mapping, []);
        foreach ($pages as $page) {
            // Reading puts it in place.
            $byte = \FFI::cast('char *', $page)[0];
        }
        // Fork looks into the tables of a mapping only where the process has a page of its own in it.
        if (self::protect($mapping, self::PROT_READ | self::PROT_WRITE | self::PROT_EXEC)) {
            self::write($mapping->from);
        }
        self::protect($mapping, self::PROT_READ | self::PROT_EXEC);
    }

    /** Makes a mapping of a page, by a protection that its neighbours do not have: then the kernel enters nothing around it. */
    private static function separate(int $page): void
    {
        self::$c->mprotect(\FFI::cast('void *', $page), self::$page, self::PROT_READ | self::PROT_WRITE | self::PROT_EXEC);
    }

    /** Makes a page the process's own. What is written is what stands there. */
    private static function write(int $page): void
    {
        $bytes = \FFI::cast('char *', $page);
        $bytes[0] = $bytes[0];
    }

    private static function within(object $mapping, array $pages): array
    {
        return array_filter($pages, fn (int $page) => $page >= $mapping->from && $page < $mapping->to);
    }

    private static function protect(object $mapping, int $protection): bool
    {
        return self::$c->mprotect(\FFI::cast('void *', $mapping->from), $mapping->to - $mapping->from, $protection) === 0;
    }

    /**
     * Takes pages of files but these out of the tables: they come back when they are used. What is written to one between the
     * look at the table and this is lost: so nothing is done in between that takes or frees memory of the C library's.
     */
    private static function dropFilePages(object $mapping, array $but): void
    {
        $kept = array_flip($but);
        foreach (self::pages($mapping) as $page => $isFile) {
            if ($isFile && !isset($kept[$page])) {
                self::$c->madvise(\FFI::cast('void *', $page), self::$page, self::MADV_DONTNEED);
            }
        }
    }

    /** The pages of a mapping that are in place: whether they are a file's, by their addresses. */
    private static function pages(object $mapping): array
    {
        $pages = [];
        $count = intdiv($mapping->to - $mapping->from, self::$page);
        $table = self::$c->new("uint64_t[$count]");
        $file = self::$c->open(self::proc('pagemap'), self::O_CLOEXEC);
        $length = self::$c->pread($file, $table, 8 * $count, 8 * intdiv($mapping->from, self::$page));
        self::$c->close($file);
        for ($number = 0; 8 * $number < $length; $number++) {
            // Documentation/admin-guide/mm/pagemap.rst: bit 63 is whether it is in place, and 61 whether it is a file's.
            if ($table[$number] < 0) {
                $pages[$mapping->from + $number * self::$page] = ($table[$number] >> 61 & 1) === 1;
            }
        }
        return $pages;
    }

    /** This process's memory. The path is empty where a mapping is neither a file's nor the heap. */
    private static function mappings(): array
    {
        $mappings = [];
        $file = @fopen(self::proc('smaps'), 'r');
        // Line by line: what PHP has once taken for a whole file would be handed down for ever.
        while ($file && ($line = fgets($file)) !== false) {
            if (preg_match('~^([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ \d+ *(/.*|\[heap])?~', $line, $found)) {
                $mappings[] = (object) ['from' => hexdec($found[1]), 'to' => hexdec($found[2]), 'permissions' => $found[3],
                    'path' => rtrim($found[4] ?? ''), 'isUsed' => false];
            } elseif (sscanf($line, 'Referenced: %d', $referenced) === 1) {
                end($mappings)->isUsed = $referenced > 0;
            }
        }
        return $mappings;
    }

    /** Not by /proc/self: PHP keeps where paths lead, and that leads each process elsewhere. */
    private static function proc(string $name): string
    {
        return '/proc/' . getmypid() . "/$name";
    }
}
