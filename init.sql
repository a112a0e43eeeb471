-- The registry: the routes, the code of their functions, and what both were before. `sqlite3 faas_meta.db < init.sql`
-- makes it, and so does `gateway --init`. Run on a registry that exists, it adds what is missing, the sample rows
-- included, and changes no other row.
--
--   functions    k        METHOD:/path, or METHOD:/prefix/* for all that lies under it; *: is any method, {name} any
--                         segment, METHOD://host/path a path of one host
--                v        the descriptor, a JSON object: runtime and module, and where wanted name, handler, memory (MiB),
--                         timeout (seconds), env, max_inflight, queue, output, stream, on_hangup, scratch (MiB), write, net,
--                         memfd, start, engine, args, ini, dirs; x-... is yours; sapi is known and has no effect
--                updated  when, in seconds since 1970; the gateway reads the row itself, so this is for people
--   modules      name     what "module":"db:NAME" in a descriptor names; all names under one first folder are a bundle
--                code     the file: a blob, or text, which is taken as its UTF-8 bytes
--   history      each change of the two: `after` is what the change left, NULL where it removed something
--   rollback     INSERT INTO rollback VALUES ('POST:/api/convert') sets a row and its code back by one step
--   rollback_to  INSERT INTO rollback_to VALUES (417) sets everything back to generation 417
--   settings     the bounds of history and modules; change them with UPDATE
--
-- The newest id in history is the registry's generation. Triggers write the history; nothing else should.
--
-- CHECK constraints and triggers refuse at the statement what could never work; what sqlite3 then prints is the name of
-- the constraint or the text of the trigger. The numbers are those of src/limits.rs. A sqlite3 of version 3.37 or later
-- will do. Nothing here depends on recursive_triggers, which is off unless somebody turns it on.

-- In this mode the file is never half-written, and readers and writers do not lock each other out.
PRAGMA journal_mode = WAL;

BEGIN IMMEDIATE;

-- ---- Routes ----------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS functions (
  k TEXT PRIMARY KEY,
  v TEXT NOT NULL,
  updated INTEGER,

  CONSTRAINT "k must be METHOD:/path or METHOD:/prefix/*, with the method in capital letters, or * for any" CHECK (
    typeof(k) = 'text' AND instr(k, ':') > 1 AND substr(k, instr(k, ':') + 1, 1) = '/'
    AND (k GLOB '[*]:*' OR substr(k, 1, instr(k, ':') - 1) NOT GLOB '*[^-A-Z]*')),
  CONSTRAINT "k must be written as browsers send it: no query, no fragment, %20 for a space and the like" CHECK (
    k NOT GLOB '*[^!-~]*' AND instr(k, '?') = 0 AND instr(k, '#') = 0),
  CONSTRAINT "k must have a * only as its last character, after a /" CHECK (
    instr(substr(k, instr(k, ':')), '*') = 0
    OR (instr(substr(k, instr(k, ':')), '*') = length(k) - instr(k, ':') + 1 AND substr(k, -2) = '/*')),
  CONSTRAINT "k must be another path: the gateway itself answers /healthz" CHECK (
    substr(k, instr(k, ':')) <> ':/healthz'),
  CONSTRAINT "k must have at most 2048 bytes" CHECK (length(k) <= 2048),

  CONSTRAINT "v must be a JSON object" CHECK (
    typeof(v) = 'text' AND CASE WHEN json_valid(v) THEN json_type(v) = 'object' ELSE 0 END),
  CONSTRAINT "v must have at most 65536 bytes" CHECK (length(CAST(v AS BLOB)) <= 65536),

  -- Below, json_extract(v, ...) is NULL where the field is missing or null; coalesce then takes what may be missing.
  CONSTRAINT "runtime must be php, wasm or native" CHECK (
    coalesce(json_extract(v, '$.runtime') IN ('php', 'wasm', 'native'), 0)),
  CONSTRAINT "module must be the path of a file, or db:NAME" CHECK (
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
  CONSTRAINT "queue must be a whole number of calls from 0 to 512" CHECK (
    coalesce(json_type(v, '$.queue'), 'null') IN ('integer', 'null')
    AND coalesce(json_extract(v, '$.queue') BETWEEN 0 AND 512, 1)),
  CONSTRAINT "env must be an object of strings" CHECK (coalesce(json_type(v, '$.env'), 'null') IN ('object', 'null')),
  CONSTRAINT "write must be an array of strings" CHECK (coalesce(json_type(v, '$.write'), 'null') IN ('array', 'null')),
  CONSTRAINT "net must be true or false" CHECK (coalesce(json_type(v, '$.net'), 'null') IN ('true', 'false', 'null')),
  CONSTRAINT "memfd must be true or false" CHECK (
    coalesce(json_type(v, '$.memfd'), 'null') IN ('true', 'false', 'null')),
  CONSTRAINT "output must be auto, cgi or raw" CHECK (
    coalesce(json_extract(v, '$.output') IN ('auto', 'cgi', 'raw'), 1)),
  CONSTRAINT "stream must be true or false" CHECK (
    coalesce(json_type(v, '$.stream'), 'null') IN ('true', 'false', 'null')),
  CONSTRAINT "on_hangup must be auto, kill or finish" CHECK (
    coalesce(json_extract(v, '$.on_hangup') IN ('auto', 'kill', 'finish'), 1)),
  CONSTRAINT "start must be auto or cold" CHECK (coalesce(json_extract(v, '$.start') IN ('auto', 'cold'), 1)),
  CONSTRAINT "engine must be auto or wasmer" CHECK (coalesce(json_extract(v, '$.engine') IN ('auto', 'wasmer'), 1)),
  CONSTRAINT "args must be an array of strings" CHECK (coalesce(json_type(v, '$.args'), 'null') IN ('array', 'null')),
  CONSTRAINT "ini must be an object of strings" CHECK (coalesce(json_type(v, '$.ini'), 'null') IN ('object', 'null')),
  CONSTRAINT "dirs must be an object of strings" CHECK (coalesce(json_type(v, '$.dirs'), 'null') IN ('object', 'null'))
);

-- An index of the rows' modules, for the triggers that ask which rows name a module.
CREATE INDEX IF NOT EXISTS functions_by_module ON functions (json_extract(v, '$.module'));

-- ---- Code ------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS modules (
  name TEXT PRIMARY KEY,
  code BLOB NOT NULL,
  updated INTEGER,

  CONSTRAINT "name must be text of at most 1024 bytes without control characters" CHECK (
    typeof(name) = 'text' AND length(CAST(name AS BLOB)) BETWEEN 1 AND 1024 AND instr(name, char(0)) = 0
    AND name NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || ']*'),
  CONSTRAINT "name must be a relative path such as convert.php or shop/index.php, without empty, . and .. parts" CHECK (
    '/' || name || '/' NOT GLOB '*//*' AND '/' || name || '/' NOT GLOB '*/./*' AND '/' || name || '/' NOT GLOB '*/../*')
);

-- The bundles and their numbers of files, kept by the triggers of history. `changed` and `at` belong to the newest
-- change of one of a bundle's files: while they stay the same, no reader needs to read the code.
CREATE TABLE IF NOT EXISTS bundles (
  name TEXT PRIMARY KEY,
  files INTEGER NOT NULL,
  changed INTEGER NOT NULL,
  at REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS settings (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL,

  CONSTRAINT "value must be a whole number, and not negative" CHECK (typeof(value) = 'integer' AND value >= 0)
);

INSERT INTO settings (name, value) VALUES
  ('history_entries_max', 10000),
  ('history_bytes_max', 268435456),
  ('module_bytes_max', 67108864),
  ('bundle_files_max', 10000)
ON CONFLICT (name) DO NOTHING;

-- ---- History ---------------------------------------------------------------------------------------------------------

-- `until` is the id of the entry that replaced an entry; NULL for entries that match the tables now. So the state at
-- generation N consists of the entries with id <= N and (until IS NULL OR until > N). An entry for a removal is in no
-- state: its `until` is its own id.
CREATE TABLE IF NOT EXISTS history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  -- Seconds since 1970, to the millisecond.
  at REAL NOT NULL DEFAULT (round((julianday('now') - 2440587.5) * 86400, 3)),
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  after,
  until INTEGER
);

CREATE INDEX IF NOT EXISTS history_by_name ON history (kind, name, until);
CREATE INDEX IF NOT EXISTS history_past ON history (until) WHERE until IS NOT NULL;

-- One row: the number of replaced entries that are kept, their bytes (a descriptor's characters count as bytes), and
-- the oldest generation that the history still holds in full. While a rollback reads the history, it is held: not
-- trimmed.
CREATE TABLE IF NOT EXISTS history_state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  entries INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  oldest INTEGER NOT NULL,
  is_held INTEGER NOT NULL DEFAULT 0
);

INSERT INTO history_state (id, entries, bytes, oldest) VALUES (1, 0, 0, 0) ON CONFLICT (id) DO NOTHING;

-- The generation to which a route was set back, and the newest entry at that moment. The row is valid until the route
-- or its bundle changes in another way.
CREATE TABLE IF NOT EXISTS rolled_back (
  k TEXT PRIMARY KEY,
  generation INTEGER,
  newest INTEGER,
  bundle TEXT,
  -- The newest change that the next step reverts, and the first one of that step.
  last INTEGER,
  first INTEGER
);

-- Everything below is dropped and created again, so that an older registry gets the present version.

-- Contents of the tables that the history does not have yet.
DROP VIEW IF EXISTS unrecorded;
CREATE VIEW unrecorded (kind, name, after) AS
  SELECT 'route', k, v FROM functions
  WHERE v IS NOT (SELECT after FROM history WHERE kind = 'route' AND name = k AND until IS NULL)
  UNION ALL
  SELECT 'module', name, CAST(code AS BLOB) FROM modules
  WHERE CAST(code AS BLOB) IS NOT
    (SELECT after FROM history WHERE kind = 'module' AND history.name = modules.name AND until IS NULL)
  UNION ALL
  SELECT kind, name, NULL FROM history
  WHERE until IS NULL
    AND NOT (kind = 'route' AND EXISTS (SELECT 1 FROM functions WHERE k = history.name))
    AND NOT (kind = 'module' AND EXISTS (SELECT 1 FROM modules WHERE modules.name = history.name));

DROP TRIGGER IF EXISTS history_inserted;
CREATE TRIGGER history_inserted AFTER INSERT ON history BEGIN
  -- Updates the bundle: its count, and its newest change.
  INSERT INTO bundles (name, files, changed, at)
    SELECT substr(NEW.name, 1, instr(NEW.name || '/', '/')), 0, 0, 0
    WHERE NEW.kind = 'module'
      AND NOT EXISTS (SELECT 1 FROM bundles WHERE name = substr(NEW.name, 1, instr(NEW.name || '/', '/')));
  UPDATE bundles SET
      files = files + (NEW.after IS NOT NULL)
        - EXISTS (SELECT 1 FROM history
            WHERE kind = 'module' AND history.name = NEW.name AND until IS NULL AND id < NEW.id),
      changed = NEW.id,
      at = NEW.at
    WHERE NEW.kind = 'module' AND name = substr(NEW.name, 1, instr(NEW.name || '/', '/'));
  DELETE FROM bundles WHERE NEW.kind = 'module' AND name = substr(NEW.name, 1, instr(NEW.name || '/', '/')) AND files = 0;
  SELECT RAISE(ABORT, 'a folder of modules has at most as many files as bundle_files_max in the table settings says')
    FROM bundles
    WHERE NEW.kind = 'module' AND name = substr(NEW.name, 1, instr(NEW.name || '/', '/')) AND NEW.after IS NOT NULL
      AND files > (SELECT value FROM settings WHERE settings.name = 'bundle_files_max');

  UPDATE history_state SET (entries, bytes) = (
    SELECT entries + count(*), bytes + coalesce(sum(length(after)), 0) FROM history
    WHERE kind = NEW.kind AND name = NEW.name AND until IS NULL AND (id < NEW.id OR NEW.after IS NULL));
  UPDATE history SET until = NEW.id
    WHERE kind = NEW.kind AND name = NEW.name AND until IS NULL AND (id < NEW.id OR NEW.after IS NULL);

  -- Trims in small steps: the entries that were replaced first, at most eight, and no more than necessary. Entries that
  -- match the tables now are never trimmed, and do not count.
  DELETE FROM history WHERE id IN (
    SELECT oldest.id FROM history_state, (
      SELECT id, row_number() OVER place - 1 AS entries_before,
        coalesce(sum(coalesce(length(after), 0)) OVER (place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
          AS bytes_before
      FROM (SELECT id, until, after FROM history WHERE until IS NOT NULL AND id < NEW.id ORDER BY until, id LIMIT 8)
      WINDOW place AS (ORDER BY until, id)) AS oldest
    WHERE is_held = 0 AND (
      entries - entries_before > (SELECT value FROM settings WHERE name = 'history_entries_max')
      OR bytes - bytes_before > (SELECT value FROM settings WHERE name = 'history_bytes_max')));
END;

DROP TRIGGER IF EXISTS history_deleted;
CREATE TRIGGER history_deleted AFTER DELETE ON history BEGIN
  UPDATE history_state SET
    entries = entries - (OLD.until IS NOT NULL),
    bytes = bytes - CASE WHEN OLD.until IS NULL THEN 0 ELSE coalesce(length(OLD.after), 0) END,
    oldest = max(oldest, coalesce(OLD.until, (SELECT max(id) FROM history), 0));
END;

-- ---- Checks, and records -------------------------------------------------------------------------------------------

-- Rules for both INSERT and UPDATE: a trigger hands the row to one of these views, whose trigger rejects it. The views
-- hold no rows of their own.
DROP VIEW IF EXISTS functions_check;
CREATE VIEW functions_check (k, v) AS SELECT k, v FROM functions;
CREATE TRIGGER functions_checked INSTEAD OF INSERT ON functions_check BEGIN
  SELECT RAISE(ABORT, 'v has a field that does not exist; the fields are name, runtime, module, handler, memory, timeout, env, max_inflight, queue, output, stream, on_hangup, scratch, write, net, memfd, start, engine, sapi, args, ini, dirs; fields of your own begin with x-')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.v) WHERE key NOT GLOB 'x-*' AND key NOT IN (
      'name', 'runtime', 'module', 'handler', 'memory', 'timeout', 'env', 'max_inflight', 'queue',
      'output', 'stream', 'on_hangup', 'scratch', 'write', 'net', 'memfd', 'start', 'engine', 'sapi', 'args', 'ini', 'dirs'));
  SELECT RAISE(ABORT, 'v has a field twice')
    WHERE (SELECT count(*) > count(DISTINCT key) FROM json_each(NEW.v));
  SELECT RAISE(ABORT, 'env, ini and dirs must be objects of strings: write "8", not 8')
    WHERE EXISTS (SELECT 1 FROM json_each(coalesce(json_extract(NEW.v, '$.env'), '{}')) WHERE type <> 'text')
      OR EXISTS (SELECT 1 FROM json_each(coalesce(json_extract(NEW.v, '$.ini'), '{}')) WHERE type <> 'text')
      OR EXISTS (SELECT 1 FROM json_each(coalesce(json_extract(NEW.v, '$.dirs'), '{}')) WHERE type <> 'text');
  SELECT RAISE(ABORT, 'write and args must be arrays of strings')
    WHERE EXISTS (SELECT 1 FROM json_each(coalesce(json_extract(NEW.v, '$.write'), '[]')) WHERE type <> 'text')
      OR EXISTS (SELECT 1 FROM json_each(coalesce(json_extract(NEW.v, '$.args'), '[]')) WHERE type <> 'text');
  SELECT RAISE(ABORT, 'k must have each {name} as a whole segment, of letters, digits and _, and no name twice')
    WHERE instr(NEW.k, '{') + instr(NEW.k, '}') > 0 AND EXISTS (
      SELECT 1 FROM json_each('[' || replace(json_quote(substr(NEW.k, instr(NEW.k, '/') + 1)), '/', '","') || ']')
      GROUP BY upper(value)
      HAVING value GLOB '*[{}]*' AND (count(*) > 1
        OR NOT (value GLOB '{[A-Za-z_]*}' AND substr(value, 2, length(value) - 2) NOT GLOB '*[^A-Za-z0-9_]*')));
  SELECT RAISE(ABORT, 'k must have * for any method: *:/path')
    WHERE NEW.k GLOB 'ANY:*' OR NEW.k GLOB 'ALL:*';
  SELECT RAISE(ABORT, 'k must name a host without a port, of letters, digits, dots and hyphens, and then a path: GET://shop.example/cart')
    FROM (SELECT substr(NEW.k, instr(NEW.k, ':') + 3) AS rest)
    WHERE substr(NEW.k, instr(NEW.k, ':'), 3) = '://' AND (
      instr(rest, '/') < 2
      OR (substr(rest, 1, instr(rest, '/') - 1) GLOB '*[^-._A-Za-z0-9]*'
        AND NOT (substr(rest, 1, instr(rest, '/') - 1) GLOB '[[]?*]'
          AND substr(rest, 2, instr(rest, '/') - 3) NOT GLOB '*[^0-9A-Fa-f:.]*')));
  SELECT RAISE(ABORT, 'k must be another path: the gateway itself answers /healthz')
    FROM (SELECT substr(NEW.k, instr(NEW.k, ':') + 3) AS rest)
    WHERE substr(NEW.k, instr(NEW.k, ':'), 3) = '://' AND substr(rest, instr(rest, '/')) = '/healthz';
  SELECT RAISE(ABORT, 'module names a db: module that is not there; insert into modules first, then into functions')
    WHERE json_extract(NEW.v, '$.module') GLOB 'db:*'
      AND NOT EXISTS (SELECT 1 FROM modules WHERE name = substr(json_extract(NEW.v, '$.module'), 4));
END;

DROP VIEW IF EXISTS code_check;
CREATE VIEW code_check (code) AS SELECT code FROM modules;
CREATE TRIGGER code_checked INSTEAD OF INSERT ON code_check BEGIN
  SELECT RAISE(ABORT, 'code is missing: readfile() found no file?') WHERE NEW.code IS NULL;
  SELECT RAISE(ABORT, 'code is empty') WHERE length(NEW.code) = 0;
  SELECT RAISE(ABORT, 'code must be a blob, as readfile() gives it, or text')
    WHERE typeof(NEW.code) NOT IN ('blob', 'text');
  SELECT RAISE(ABORT, 'code is larger than module_bytes_max in the table settings')
    WHERE length(NEW.code) > (SELECT value FROM settings WHERE name = 'module_bytes_max');
END;

DROP VIEW IF EXISTS name_check;
CREATE VIEW name_check (name) AS SELECT name FROM modules;
CREATE TRIGGER name_checked INSTEAD OF INSERT ON name_check BEGIN
  SELECT RAISE(ABORT, 'name is both a file and a folder: another module lies under it, or it lies under another module')
    WHERE EXISTS (SELECT 1 FROM modules WHERE name >= NEW.name || '/' AND name < NEW.name || '0')
      OR EXISTS (
        SELECT 1 FROM json_each('[' || replace(json_quote(NEW.name), '/', '","') || ']') AS part
        JOIN modules ON modules.name = substr(NEW.name, 1, (
          SELECT sum(length(value) + 1) - 1 FROM json_each('[' || replace(json_quote(NEW.name), '/', '","') || ']') AS above
          WHERE above.key <= part.key))
        WHERE modules.name <> NEW.name);
END;

DROP TRIGGER IF EXISTS functions_inserted;
CREATE TRIGGER functions_inserted AFTER INSERT ON functions BEGIN
  INSERT INTO functions_check VALUES (NEW.k, NEW.v);
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'route' AND name = NEW.k;
END;

DROP TRIGGER IF EXISTS functions_updated;
CREATE TRIGGER functions_updated AFTER UPDATE ON functions WHEN NEW.k IS NOT OLD.k OR NEW.v IS NOT OLD.v BEGIN
  INSERT INTO functions_check VALUES (NEW.k, NEW.v);
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'route' AND name = NEW.k;
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'route' AND name = OLD.k;
END;

DROP TRIGGER IF EXISTS functions_deleted;
CREATE TRIGGER functions_deleted AFTER DELETE ON functions BEGIN
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'route' AND name = OLD.k;
END;

DROP TRIGGER IF EXISTS modules_inserting;
CREATE TRIGGER modules_inserting BEFORE INSERT ON modules BEGIN
  INSERT INTO code_check VALUES (NEW.code);
END;

DROP TRIGGER IF EXISTS modules_updating;
CREATE TRIGGER modules_updating BEFORE UPDATE ON modules BEGIN
  INSERT INTO code_check VALUES (NEW.code);
END;

DROP TRIGGER IF EXISTS modules_inserted;
CREATE TRIGGER modules_inserted AFTER INSERT ON modules BEGIN
  INSERT INTO name_check VALUES (NEW.name);
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'module' AND name = NEW.name;
END;

DROP TRIGGER IF EXISTS modules_updated;
CREATE TRIGGER modules_updated AFTER UPDATE ON modules BEGIN
  INSERT INTO name_check VALUES (NEW.name);
  SELECT RAISE(ABORT, 'rows of functions name this module (db:...): change or delete them first')
    WHERE NOT EXISTS (SELECT 1 FROM modules WHERE name = OLD.name)
      AND EXISTS (SELECT 1 FROM functions WHERE json_extract(v, '$.module') = 'db:' || OLD.name);
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'module' AND name = NEW.name;
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'module' AND name = OLD.name;
END;

DROP TRIGGER IF EXISTS modules_deleted;
CREATE TRIGGER modules_deleted AFTER DELETE ON modules BEGIN
  SELECT RAISE(ABORT, 'rows of functions name this module (db:...): change or delete them first')
    WHERE EXISTS (SELECT 1 FROM functions WHERE json_extract(v, '$.module') = 'db:' || OLD.name);
  INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded WHERE kind = 'module' AND name = OLD.name;
END;

-- ---- Rollback --------------------------------------------------------------------------------------------------------

-- A step is the newest change of the row, with the changes of its bundle right before it (the module first, then the
-- row, within two seconds: one deploy); or the newest changes of its bundle alone.
DROP VIEW IF EXISTS rollback;
CREATE VIEW rollback (k) AS SELECT k FROM functions;

DROP TRIGGER IF EXISTS rollback_inserted;
CREATE TRIGGER rollback_inserted INSTEAD OF INSERT ON rollback BEGIN
  SELECT RAISE(ABORT, 'no such route: rollback takes a key such as POST:/api/convert that functions has or had')
    WHERE NOT EXISTS (SELECT 1 FROM history WHERE kind = 'route' AND name = NEW.k);

  -- The target of the last rollback, unless the route or its bundle changed since; else the present.
  DELETE FROM rolled_back WHERE k = NEW.k AND EXISTS (
    SELECT 1 FROM history WHERE id > newest AND (
        (kind = 'route' AND name = k)
        OR (kind = 'module' AND substr(name, 1, instr(name || '/', '/')) = bundle)));
  INSERT INTO rolled_back (k, generation)
    SELECT NEW.k, (SELECT max(id) FROM history) WHERE NOT EXISTS (SELECT 1 FROM rolled_back WHERE k = NEW.k);
  UPDATE rolled_back SET bundle =
    (SELECT substr(name, 1, instr(name || '/', '/'))
      FROM (SELECT CASE WHEN module GLOB 'db:*' THEN substr(module, 4) END AS name FROM (
        SELECT json_extract(after, '$.module') AS module FROM history
        WHERE kind = 'route' AND history.name = k AND id <= generation AND (until IS NULL OR until > generation))))
    WHERE k = NEW.k;

  -- The step: its newest change, then its first. Going back, the step ends at a change of another entry, at an older
  -- change of an entry that it already holds, or after two seconds.
  UPDATE rolled_back SET last = (
      SELECT id FROM history WHERE id <= generation AND (
        (kind = 'route' AND name = k)
        OR (kind = 'module' AND substr(name, 1, instr(name || '/', '/')) = bundle))
      ORDER BY id DESC LIMIT 1)
    WHERE k = NEW.k;
  UPDATE rolled_back SET first = 1 + coalesce((
      SELECT id FROM history AS older
      WHERE older.id < last AND NOT (
        older.kind = 'module' AND substr(older.name, 1, instr(older.name || '/', '/')) IS bundle
        AND older.at >= (SELECT at - 2 FROM history WHERE id = last)
        AND NOT EXISTS (SELECT 1 FROM history AS newer
          WHERE newer.kind = 'module' AND newer.name = older.name AND newer.id > older.id AND newer.id <= last))
      ORDER BY older.id DESC LIMIT 1), 0)
    WHERE k = NEW.k;
  UPDATE rolled_back SET generation = first - 1 WHERE k = NEW.k;
  UPDATE rolled_back SET bundle =
    (SELECT substr(name, 1, instr(name || '/', '/'))
      FROM (SELECT CASE WHEN module GLOB 'db:*' THEN substr(module, 4) END AS name FROM (
        SELECT json_extract(after, '$.module') AS module FROM history
        WHERE kind = 'route' AND history.name = k AND id <= generation AND (until IS NULL OR until > generation))))
    WHERE k = NEW.k;

  SELECT RAISE(ABORT, 'there is no older version: the history has been trimmed that far')
    FROM rolled_back WHERE k = NEW.k AND generation < (SELECT oldest FROM history_state);
  SELECT RAISE(ABORT, 'there is no older version: this is the first one')
    FROM rolled_back WHERE k = NEW.k AND NOT EXISTS (
      SELECT 1 FROM history
      WHERE kind = 'route' AND name = k AND id <= generation AND (until IS NULL OR until > generation));
  SELECT RAISE(ABORT, 'other routes use this code, too; to set all back: INSERT INTO rollback_to VALUES (generation)')
    FROM rolled_back WHERE k = NEW.k
      AND EXISTS (SELECT 1 FROM history
        WHERE kind = 'module' AND substr(name, 1, instr(name || '/', '/')) = bundle AND id > generation)
      AND EXISTS (SELECT 1 FROM functions WHERE functions.k <> NEW.k
        AND json_extract(v, '$.module') GLOB 'db:*'
        AND substr(json_extract(v, '$.module'), 4, instr(substr(json_extract(v, '$.module'), 4) || '/', '/')) = bundle);

  UPDATE history_state SET is_held = 1;
  INSERT INTO modules (name, code, updated)
    SELECT name, after, strftime('%s', 'now') FROM history, rolled_back
    WHERE k = NEW.k AND kind = 'module' AND substr(name, 1, instr(name || '/', '/')) = bundle
      AND id <= generation AND until > generation
    ON CONFLICT (name) DO UPDATE SET code = excluded.code, updated = excluded.updated WHERE code IS NOT excluded.code;
  INSERT INTO functions (k, v, updated)
    SELECT name, after, strftime('%s', 'now') FROM history, rolled_back
    WHERE k = NEW.k AND kind = 'route' AND name = k AND id <= generation AND until > generation
    ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated = excluded.updated WHERE v IS NOT excluded.v;
  DELETE FROM modules WHERE substr(name, 1, instr(name || '/', '/')) = (SELECT bundle FROM rolled_back WHERE k = NEW.k)
    AND NOT EXISTS (SELECT 1 FROM history, rolled_back WHERE k = NEW.k AND kind = 'module' AND history.name = modules.name
      AND id <= generation AND (until IS NULL OR until > generation));
  UPDATE history_state SET is_held = 0;
  UPDATE rolled_back SET newest = (SELECT max(id) FROM history) WHERE k = NEW.k;
END;

DROP VIEW IF EXISTS rollback_to;
CREATE VIEW rollback_to (generation) AS SELECT max(id) FROM history;

DROP TRIGGER IF EXISTS rollback_to_inserted;
CREATE TRIGGER rollback_to_inserted INSTEAD OF INSERT ON rollback_to BEGIN
  SELECT RAISE(ABORT, 'no such generation: SELECT max(id) FROM history is the newest')
    WHERE typeof(NEW.generation) <> 'integer' OR NEW.generation < 0
      OR NEW.generation > (SELECT coalesce(max(id), 0) FROM history);
  SELECT RAISE(ABORT, 'that generation has been trimmed: SELECT oldest FROM history_state is the oldest that is left')
    WHERE NEW.generation < (SELECT oldest FROM history_state);
  UPDATE history_state SET is_held = 1;
  INSERT INTO modules (name, code, updated)
    SELECT name, after, strftime('%s', 'now') FROM history
    WHERE kind = 'module' AND id <= NEW.generation AND until > NEW.generation
    ON CONFLICT (name) DO UPDATE SET code = excluded.code, updated = excluded.updated WHERE code IS NOT excluded.code;
  INSERT INTO functions (k, v, updated)
    SELECT name, after, strftime('%s', 'now') FROM history
    WHERE kind = 'route' AND id <= NEW.generation AND until > NEW.generation
    ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated = excluded.updated WHERE v IS NOT excluded.v;
  DELETE FROM functions WHERE NOT EXISTS (SELECT 1 FROM history WHERE kind = 'route' AND name = k
    AND id <= NEW.generation AND (until IS NULL OR until > NEW.generation));
  DELETE FROM modules WHERE NOT EXISTS (SELECT 1 FROM history WHERE kind = 'module' AND history.name = modules.name
    AND id <= NEW.generation AND (until IS NULL OR until > NEW.generation));
  UPDATE history_state SET is_held = 0;
END;

-- A registry that predates the history starts one with its present contents.
INSERT INTO history (kind, name, after)
    SELECT * FROM unrecorded;
UPDATE history_state SET oldest = (SELECT max(id) FROM history) WHERE changes() > 0;

-- ---- Samples ---------------------------------------------------------------------------------------------------------

-- The functions that ship: from the folder functions/ if readfile() finds them, else by their paths, which start at the
-- folder of this file's database or at FAAS_MODULE_ROOT.
INSERT INTO modules (name, code, updated)
  SELECT name, code, strftime('%s', 'now') FROM (
    SELECT 'hello.php' AS name, readfile('functions/hello.php') AS code
    UNION ALL SELECT 'info.php', readfile('functions/info.php')
    UNION ALL SELECT 'resize.wasm', readfile('functions/resize.wasm')
    UNION ALL SELECT 'ping.wasm', readfile('functions/ping.wasm')
    UNION ALL SELECT 'env.sh', readfile('functions/env.sh'))
  WHERE length(code) > 0
  ON CONFLICT (name) DO NOTHING;

INSERT INTO functions (k, v, updated)
  SELECT k, json_set(v, '$.module', iif(EXISTS (SELECT 1 FROM modules WHERE name = file), 'db:', 'functions/') || file),
    strftime('%s', 'now')
  FROM (
    SELECT 'POST:/api/hello' AS k, 'hello.php' AS file, '{"name":"hello","runtime":"php"}' AS v
    UNION ALL SELECT 'GET:/api/info', 'info.php', '{"name":"info","runtime":"php"}'
    UNION ALL SELECT 'POST:/resize', 'resize.wasm', '{"name":"resize","runtime":"wasm","memory":512,"timeout":30}'
    UNION ALL SELECT 'GET:/ping', 'ping.wasm', '{"name":"ping","runtime":"wasm"}'
    UNION ALL SELECT 'GET:/api/env', 'env.sh', '{"name":"env","runtime":"native","memory":64,"timeout":5}')
  WHERE true
  ON CONFLICT (k) DO NOTHING;

COMMIT;
