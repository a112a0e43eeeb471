-- The registry: which function answers which route. `sqlite3 faas_meta.db < init.sql` makes it, and so does
-- `gateway --init`. Run on a registry that exists, it adds the sample rows that are missing and changes no other row.
--
--   k        METHOD:/path, or METHOD:/prefix/* for all that lies under it
--   v        the descriptor, a JSON object: runtime and module, and where wanted name, handler, memory (MiB), timeout
--            (seconds), env, max_inflight, output, stream, scratch (MiB), write, net, start, engine, dirs, args,
--            ini;
--            further fields are for others
--   updated  when, in seconds since 1970; the gateway reads the row itself, so this is for people
--
-- The CHECK constraints refuse what could never work, and their names are what sqlite3 then says. What they can only
-- say in part (the strings in env, write, args, ini and dirs) is said in the gateway's log. Their numbers are those of src/limits.rs.

-- In this mode the file is never half-written, and readers and writers do not lock each other out.
PRAGMA journal_mode = WAL;

BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS functions (
  k TEXT PRIMARY KEY,
  v TEXT NOT NULL,
  updated INTEGER,

  CONSTRAINT "k must be METHOD:/path or METHOD:/prefix/*, with the method in capital letters" CHECK (
    typeof(k) = 'text' AND instr(k, ':') > 1 AND substr(k, instr(k, ':') + 1, 1) = '/'
    AND substr(k, 1, instr(k, ':') - 1) NOT GLOB '*[^-A-Z]*'),
  CONSTRAINT "k must be written as browsers send it: no query, no fragment, %20 for a space and the like" CHECK (
    k NOT GLOB '*[^!-~]*' AND instr(k, '?') = 0 AND instr(k, '#') = 0),
  CONSTRAINT "k must have a * only as its last character, after a /" CHECK (
    instr(k, '*') = 0 OR (instr(k, '*') = length(k) AND substr(k, -2) = '/*')),
  CONSTRAINT "k must be another path: the gateway itself answers /healthz" CHECK (
    substr(k, instr(k, ':')) <> ':/healthz'),
  CONSTRAINT "k must have at most 2048 bytes" CHECK (length(k) <= 2048),

  CONSTRAINT "v must be a JSON object" CHECK (
    typeof(v) = 'text' AND CASE WHEN json_valid(v) THEN json_type(v) = 'object' ELSE 0 END),
  CONSTRAINT "v must have at most 65536 bytes" CHECK (length(CAST(v AS BLOB)) <= 65536),

  -- Below, json_extract(v, ...) is NULL where the field is missing or null; coalesce then takes what may be missing.
  CONSTRAINT "runtime must be php, wasm or native" CHECK (
    coalesce(json_extract(v, '$.runtime') IN ('php', 'wasm', 'native'), 0)),
  CONSTRAINT "module must be the path of a file" CHECK (
    coalesce(json_type(v, '$.module') = 'text' AND json_extract(v, '$.module') <> '', 0)),
  CONSTRAINT "name must be a string" CHECK (coalesce(json_type(v, '$.name'), 'null') IN ('text', 'null')),
  CONSTRAINT "handler must be a string" CHECK (coalesce(json_type(v, '$.handler'), 'null') IN ('text', 'null')),
  CONSTRAINT "memory must be a whole number of MiB from 16 to 65536" CHECK (
    coalesce(json_type(v, '$.memory'), 'null') IN ('integer', 'null')
    AND coalesce(json_extract(v, '$.memory') BETWEEN 16 AND 65536, 1)),
  CONSTRAINT "timeout must be a whole number of seconds from 1 to 3600" CHECK (
    coalesce(json_type(v, '$.timeout'), 'null') IN ('integer', 'null')
    AND coalesce(json_extract(v, '$.timeout') BETWEEN 1 AND 3600, 1)),
  CONSTRAINT "scratch must be a whole number of MiB from 0 to 65536" CHECK (
    coalesce(json_type(v, '$.scratch'), 'null') IN ('integer', 'null')
    AND coalesce(json_extract(v, '$.scratch') BETWEEN 0 AND 65536, 1)),
  CONSTRAINT "max_inflight must be a whole number of invocations from 1 to 65536" CHECK (
    coalesce(json_type(v, '$.max_inflight'), 'null') IN ('integer', 'null')
    AND coalesce(json_extract(v, '$.max_inflight') BETWEEN 1 AND 65536, 1)),
  CONSTRAINT "env must be an object of strings" CHECK (coalesce(json_type(v, '$.env'), 'null') IN ('object', 'null')),
  CONSTRAINT "write must be an array of strings" CHECK (coalesce(json_type(v, '$.write'), 'null') IN ('array', 'null')),
  CONSTRAINT "net must be true or false" CHECK (coalesce(json_type(v, '$.net'), 'null') IN ('true', 'false', 'null')),
  CONSTRAINT "output must be auto, cgi or raw" CHECK (
    coalesce(json_extract(v, '$.output') IN ('auto', 'cgi', 'raw'), 1)),
  CONSTRAINT "stream must be true or false" CHECK (
    coalesce(json_type(v, '$.stream'), 'null') IN ('true', 'false', 'null')),
  CONSTRAINT "start must be auto or cold" CHECK (coalesce(json_extract(v, '$.start') IN ('auto', 'cold'), 1)),
  CONSTRAINT "engine must be auto or wasmer" CHECK (coalesce(json_extract(v, '$.engine') IN ('auto', 'wasmer'), 1)),
  CONSTRAINT "args must be an array of strings" CHECK (coalesce(json_type(v, '$.args'), 'null') IN ('array', 'null')),
  CONSTRAINT "ini must be an object of strings" CHECK (coalesce(json_type(v, '$.ini'), 'null') IN ('object', 'null')),
  CONSTRAINT "dirs must be an object of strings" CHECK (coalesce(json_type(v, '$.dirs'), 'null') IN ('object', 'null'))
);

-- Relative modules are taken from the folder of this file's database, or from FAAS_MODULE_ROOT.
INSERT INTO functions (k, v, updated) VALUES
  ('POST:/api/hello', '{"name":"hello","runtime":"php","module":"functions/hello.php"}', strftime('%s', 'now')),
  ('GET:/api/info', '{"name":"info","runtime":"php","module":"functions/info.php"}', strftime('%s', 'now')),
  ('POST:/resize',
   '{"name":"resize","runtime":"wasm","module":"functions/resize.wasm","memory":512,"timeout":30}',
   strftime('%s', 'now')),
  ('GET:/ping', '{"name":"ping","runtime":"wasm","module":"functions/ping.wasm"}', strftime('%s', 'now')),
  ('GET:/api/env',
   '{"name":"env","runtime":"native","module":"functions/env.sh","memory":64,"timeout":5}',
   strftime('%s', 'now'))
ON CONFLICT (k) DO NOTHING;

COMMIT;
