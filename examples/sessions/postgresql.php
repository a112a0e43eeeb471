<?php
// Counts the visits of a browser. Its sessions lie in PostgreSQL, so all nodes share them. It needs the package
// php-pgsql on each node, and this table:
//
//   CREATE TABLE sessions (id text PRIMARY KEY, data bytea NOT NULL, used timestamptz NOT NULL DEFAULT now());
//
//   faas deploy examples/sessions/postgresql.php GET:/visits \
//       --env 'DATABASE=host=10.0.0.1 dbname=postgres user=postgres'

final class DatabaseSessions implements SessionHandlerInterface
{
    private PgSql\Connection $database;

    public function open(string $path, string $name): bool
    {
        // One connection for each call. The lock below ends with it, however the call ends.
        $database = pg_connect(getenv('DATABASE'));
        if ($database === false) {
            return false;
        }
        $this->database = $database;
        return true;
    }

    public function read(string $id): string|false
    {
        // Two calls of one browser take turns, as they do with files.
        pg_query_params($this->database, 'SELECT pg_advisory_lock(hashtextextended($1, 0))', [$id]);
        $found = pg_query_params($this->database, 'SELECT data FROM sessions WHERE id = $1', [$id]);
        $row = pg_fetch_row($found);
        return $row ? pg_unescape_bytea($row[0]) : '';
    }

    public function write(string $id, string $data): bool
    {
        $sql = 'INSERT INTO sessions (id, data) VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET data = excluded.data, used = now()';
        return pg_query_params($this->database, $sql, [$id, pg_escape_bytea($this->database, $data)]) !== false;
    }

    public function destroy(string $id): bool
    {
        return pg_query_params($this->database, 'DELETE FROM sessions WHERE id = $1', [$id]) !== false;
    }

    public function close(): bool
    {
        return pg_close($this->database);
    }

    public function gc(int $lifetime_s): int|false
    {
        $sql = 'DELETE FROM sessions WHERE used < now() - make_interval(secs => $1)';
        $deleted = pg_query_params($this->database, $sql, [$lifetime_s]);
        return $deleted === false ? false : pg_affected_rows($deleted);
    }
}

session_set_save_handler(new DatabaseSessions(), true);
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
header('Content-Type: application/json');
echo json_encode(['visits' => $_SESSION['visits']]);
