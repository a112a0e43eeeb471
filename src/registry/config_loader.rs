//! From a row of the registry to a [`Function`]: parse and validate, nothing else.
//!
//! A row is a key, `METHOD:/path` or `METHOD:/prefix/*`, and a descriptor, a JSON object. Everything that can be wrong
//! with them is found here, once, when the row arrives, so that a request meets only functions that are fit to run. A
//! fault is one sentence that names the field, its value and what it must be: it is read in the log and in the answer
//! 500 of the row's route. The CHECK constraints in init.sql say the same at the sqlite3 prompt, as far as SQL can.
//!
//! Rules: a field that is missing or null has its default; a number is a whole number, never a string; unknown fields
//! are ignored with a warning, so that old rows, and rows of a newer writer, stay in service.
//!
//! The C original looked for `"module":"` with strstr and took what followed; its `memory` and `timeout` were read and
//! then used nowhere. Here both bind, and a descriptor that is not JSON is refused.

use std::fmt::Display;
use std::fs;
use std::ops::{Deref, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::limits;
use crate::log;
use crate::protocol::function_spec::{Engine, FunctionSpec, Output, Runtime, Start};
use crate::sandbox::protected::ProtectedPaths;

use super::modules::{Bundles, CodeFolder, bundle_of};
use super::pattern::{Param, Pattern};

/// One parsed row. It never changes: an edit of the row makes a new one, and a request keeps the one it began with.
#[derive(Debug)]
pub struct Function {
    pub spec: FunctionSpec,
    /// The same, encoded: what every INVOKE frame carries.
    pub settings: Vec<u8>,
    /// Added to the environment of each invocation.
    pub env: Vec<(String, String)>,
    /// Invocations at once over all workers; `None` is no limit but the slots.
    pub max_inflight: Option<u64>,
    /// Invocations under way. It belongs to the key and lives on when the row is edited, so that an edit does not let
    /// twice `max_inflight` run.
    pub inflight: Arc<AtomicU64>,
    /// The `{name}` segments of the route.
    pub params: Vec<Param>,
    /// Fields of the descriptor that nobody knows, for a warning.
    pub unknown_fields: Vec<String>,
    /// The bundle of a `db:` module.
    pub bundle: Option<String>,
    /// Where the module is out of the registry: its folder, which stays as long as a call has this function.
    pub code: Option<Arc<CodeFolder>>,
}

/// A function is its settings, and what only the gateway needs.
impl Deref for Function {
    type Target = FunctionSpec;

    fn deref(&self) -> &FunctionSpec {
        &self.spec
    }
}

/// Beginnings of variables that decide what code a runtime loads when it starts, or how. A fork server has started without
/// them, so a function whose `env` has one is started by exec.
const CHANGE_THE_START: [&str; 3] = ["LD_", "GLIBC_", "PHP"];

/// What the paths of a descriptor are measured by.
#[derive(Debug, Default)]
pub struct Places {
    /// Where relative paths begin.
    pub module_root: PathBuf,
    pub protected: ProtectedPaths,
    /// Where `db:` modules are.
    pub code: Bundles,
}

/// How a descriptor names a module of the registry.
pub const DB_PREFIX: &str = "db:";

/// What a path to write to must be.
const OFF_LIMITS: &str =
    "paths that neither hold nor lie in the registry, the run dir or the scratch folders in FAAS_SPOOL_DIR";

/// Parses and validates one row. `Err` is the fault, one sentence without its final stop.
pub fn parse(key: &str, descriptor: &str, places: &Places, inflight: Arc<AtomicU64>) -> Result<Function, String> {
    let module_root = &places.module_root;
    let params = Pattern::parse(key)?.params();
    let bytes_max = limits::DESCRIPTOR_BYTES_MAX;
    if descriptor.len() > bytes_max {
        return Err(format!("v is longer than {bytes_max} bytes; it must be shorter"));
    }
    let fields = match serde_json::from_str(descriptor) {
        Ok(Value::Object(fields)) => Fields(fields),
        Ok(_) => return Err(format!("v is {}; it must be a JSON object", shown(descriptor))),
        Err(cause) => return Err(format!("v is not JSON ({cause}); it must be a JSON object")),
    };
    let env = fields.pairs("env", limits::ENV_VARIABLES_MAX)?;
    let changes_the_start =
        env.iter().any(|(name, _)| CHANGE_THE_START.iter().any(|beginning| name.starts_with(beginning)));
    let start = fields.one_of("start", Start::WORDS)?.unwrap_or(Start::Auto);
    if fields.get("sapi").is_some() && !SAPI_IS_TOLD.swap(true, Ordering::Relaxed) {
        log!("registry: {key}: sapi has no effect any more; this is said once");
    }
    let dirs = fields.pairs("dirs", limits::DIRS_MAX)?;
    let runtime =
        fields.one_of("runtime", Runtime::WORDS)?.ok_or("runtime is missing; it must be php, wasm or native")?;
    let (module, code, bundle) = match fields.text("module")? {
        None => return Err("module is missing; it must be the path of a file, or db:NAME".into()),
        Some("") => return Err("module is empty; it must be the path of a file, or db:NAME".into()),
        Some(module) => match module.strip_prefix(DB_PREFIX) {
            None => (module_root.join(module), None, None),
            Some(name) => {
                let (path, folder) = places.code.module(name)?;
                (path, Some(folder), Some(bundle_of(name).to_string()))
            }
        },
    };
    if runtime == Runtime::Native && code.as_ref().is_some_and(|folder| !folder.can_execute) {
        return Err(
            "runtime is native, but FAAS_CODE_DIR is on a file system that is mounted noexec; set another".into()
        );
    }
    let spec = FunctionSpec {
        route: key.to_string(),
        name: fields.text("name")?.unwrap_or(key).to_string(),
        runtime,
        module,
        handler: fields.text("handler")?.unwrap_or("").to_string(),
        start: if changes_the_start { Start::Cold } else { start },
        engine: fields.one_of("engine", Engine::WORDS)?.unwrap_or(Engine::Auto),
        output: fields.one_of("output", Output::WORDS)?.unwrap_or(Output::Auto),
        memory_mib: fields.whole("memory", limits::MEMORY_MIB, "MiB")?.unwrap_or(limits::MEMORY_MIB_DEFAULT),
        scratch_mib: fields.whole("scratch", limits::SCRATCH_MIB, "MiB")?.unwrap_or(limits::SCRATCH_MIB_DEFAULT),
        timeout: Duration::from_secs(
            fields.whole("timeout", limits::TIMEOUT_S, "seconds")?.unwrap_or(limits::TIMEOUT_S_DEFAULT),
        ),
        net: fields.truth("net")?.unwrap_or(true),
        stream: fields.truth("stream")?.unwrap_or(false),
        write: fields.writable("write", places)?,
        args: fields.texts("args", limits::ARGS_MAX)?.into_iter().map(str::to_string).collect(),
        dirs: dirs.into_iter().map(|(name, path)| (name, module_root.join(path))).collect(),
        ini: fields.directives("ini")?,
    };
    Ok(Function {
        settings: spec.encode(),
        spec,
        env,
        max_inflight: fields.whole("max_inflight", limits::MAX_INFLIGHT, "invocations")?,
        inflight,
        params,
        unknown_fields: fields.unknown(),
        bundle,
        code,
    })
}

/// The fields of a descriptor. init.sql has the same list; `x-…` are the user's, and `sapi` has no effect.
pub const FIELDS: [&str; 19] = [
    "name",
    "runtime",
    "module",
    "handler",
    "memory",
    "timeout",
    "env",
    "max_inflight",
    "output",
    "stream",
    "scratch",
    "write",
    "net",
    "start",
    "engine",
    "sapi",
    "args",
    "ini",
    "dirs",
];

/// The bundle that a descriptor names, whatever else is wrong with it.
pub fn named_bundle(descriptor: &str) -> Option<String> {
    let fields: Value = serde_json::from_str(descriptor).ok()?;
    fields.get("module")?.as_str()?.strip_prefix(DB_PREFIX).map(|name| bundle_of(name).to_string())
}

/// Whether the log has said that `sapi`, which chose between two programs for PHP, has no effect any more.
static SAPI_IS_TOLD: AtomicBool = AtomicBool::new(false);

/// A descriptor's fields, each asked for by name and type. `None` is missing or null.
struct Fields(Map<String, Value>);

impl Fields {
    fn unknown(&self) -> Vec<String> {
        let is_known = |name: &str| name.starts_with("x-") || FIELDS.contains(&name);
        self.0.keys().filter(|name| !is_known(name)).map(|name| shown(name)).collect()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Text that can stand in a file name and in an environment variable, which both end at a NUL.
    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
            Some(other) => Err(fault(name, other, "a string without NUL")),
        }
    }

    fn whole(&self, name: &str, range: RangeInclusive<u64>, unit: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let want = format!("a whole number of {unit} from {} to {}", range.start(), range.end());
                Err(fault(name, value, want))
            }
        }
    }

    fn truth(&self, name: &str) -> Result<Option<bool>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(fault(name, other, "true or false")),
        }
    }

    fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| value.as_str() == Some(word)) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(fault(name, value, format_args!("one of {}", words.join(", "))))
            }
        }
    }

    fn texts(&self, name: &str, count_max: usize) -> Result<Vec<&str>, String> {
        let want = format_args!("an array of at most {count_max} strings without NUL");
        let values = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() <= count_max => values,
            Some(other) => return Err(fault(name, other, want)),
        };
        let text = |value: &'_ Value| match value.as_str() {
            Some(text) if !text.contains('\0') => Ok(()),
            _ => Err(fault(name, value, want)),
        };
        values.iter().try_for_each(text)?;
        Ok(values.iter().filter_map(Value::as_str).collect())
    }

    /// An array of paths that functions may write to. One that is not there yet is taken as it is written.
    fn writable(&self, name: &str, places: &Places) -> Result<Vec<PathBuf>, String> {
        let path = |text: &str| {
            let path = places.module_root.join(text);
            let real = fs::canonicalize(&path);
            match places.protected.overlaps(real.as_ref().unwrap_or(&path)) {
                true => Err(fault(name, &text.into(), OFF_LIMITS)),
                false => Ok(path),
            }
        };
        self.texts(name, limits::WRITE_PATHS_MAX)?.into_iter().map(path).collect()
    }

    /// PHP takes directives line by line.
    fn directives(&self, field: &str) -> Result<Vec<(String, String)>, String> {
        let directives = self.pairs(field, limits::INI_DIRECTIVES_MAX)?;
        let has_line_break = |text: &String| text.contains(['\n', '\r']);
        match directives.iter().find(|(name, value)| has_line_break(name) || has_line_break(value)) {
            Some((name, value)) => Err(fault(&format!("{field}.{name}"), &value.as_str().into(), "one line")),
            None => Ok(directives),
        }
    }

    /// An object of strings, as names and values.
    fn pairs(&self, field: &str, count_max: usize) -> Result<Vec<(String, String)>, String> {
        let pairs = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Object(pairs)) if pairs.len() <= count_max => pairs,
            Some(other) => {
                return Err(fault(field, other, format_args!("an object of at most {count_max} strings")));
            }
        };
        let pair = |(name, value): (&String, &Value)| {
            if name.is_empty() || name.contains(['=', '\0']) {
                let name = shown(name);
                return Err(format!("{field} has a name {name}; a name must not be empty nor contain = or NUL"));
            }
            match value {
                Value::String(text) if !text.contains('\0') => Ok((name.clone(), text.clone())),
                other => Err(fault(&format!("{field}.{name}"), other, "a string without NUL")),
            }
        };
        pairs.iter().map(pair).collect()
    }
}

fn fault(name: &str, value: &Value, want: impl Display) -> String {
    format!("{name} is {}; it must be {want}", shown(&value.to_string()))
}

/// The opening of a value, for a fault. A descriptor may have 64 KiB, a line in the log should not.
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARACTERS_MAX).collect();
    if short.is_empty() {
        short.push_str("empty");
    }
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    fn parsed(key: &str, descriptor: &str) -> Result<Function, String> {
        let places = Places { module_root: "/srv/faas".into(), ..Places::default() };
        parse(key, descriptor, &places, Arc::default())
    }

    /// The fault of a descriptor that has a runtime and a module besides `field`.
    fn fault_of(field: &str) -> String {
        parsed("GET:/x", &format!(r#"{{"runtime":"php","module":"x.php",{field}}}"#)).unwrap_err()
    }

    #[test]
    fn a_full_descriptor_is_taken_as_it_stands() {
        let text = r#"{"name":"conv","runtime":"wasm","module":"/opt/c.wasm","handler":"convert","memory":512,
            "timeout":7,"env":{"A":"1","B":"zwei"},"max_inflight":3,"output":"raw","stream":true,"owner":"not ours"}"#;
        let inflight = Arc::new(AtomicU64::new(2));
        let function = parse("POST:/api/convert", text, &Places::default(), inflight.clone()).unwrap();
        assert_eq!(function.route, "POST:/api/convert");
        assert_eq!((function.name.as_str(), function.handler.as_str()), ("conv", "convert"));
        assert_eq!((function.runtime, function.runtime.as_str()), (Runtime::Wasm, "wasm"));
        assert_eq!(function.module, Path::new("/opt/c.wasm"));
        assert_eq!((function.memory_mib, function.timeout), (512, Duration::from_secs(7)));
        assert_eq!(function.env, [("A".to_string(), "1".to_string()), ("B".to_string(), "zwei".to_string())]);
        assert_eq!((function.max_inflight, function.output, function.stream), (Some(3), Output::Raw, true));
        assert!(Arc::ptr_eq(&function.inflight, &inflight));
    }

    #[test]
    fn what_is_missing_or_null_has_its_default() {
        for rest in ["", r#","name":null,"memory":null,"timeout":null,"env":null,"output":null,"stream":null"#] {
            let text = format!(r#"{{"runtime":"native","module":"functions/env.sh"{rest}}}"#);
            let function = parsed("GET:/api/env", &text).unwrap();
            assert_eq!((function.name.as_str(), function.handler.as_str()), ("GET:/api/env", ""));
            assert_eq!(function.module, Path::new("/srv/faas/functions/env.sh"));
            assert_eq!((function.memory_mib, function.timeout), (128, Duration::from_secs(30)));
            assert_eq!((function.max_inflight, function.output, function.stream), (None, Output::Auto, false));
            assert!(function.env.is_empty());
        }
    }

    #[test]
    fn a_fault_names_the_field_the_value_and_what_it_must_be() {
        assert_eq!(fault_of(r#""timeout":0"#), "timeout is 0; it must be a whole number of seconds from 1 to 3600");
        assert_eq!(
            fault_of(r#""memory":"64""#),
            r#"memory is "64"; it must be a whole number of MiB from 16 to 65536"#
        );
        assert_eq!(fault_of(r#""output":"html""#), r#"output is "html"; it must be one of auto, cgi, raw"#);
        assert_eq!(fault_of(r#""stream":1"#), "stream is 1; it must be true or false");
        assert_eq!(fault_of(r#""name":["a"]"#), r#"name is ["a"]; it must be a string without NUL"#);
        assert_eq!(fault_of(r#""env":{"A":1}"#), "env.A is 1; it must be a string without NUL");
        assert!(fault_of(r#""env":{"A=B":"1"}"#).starts_with("env has a name A=B;"));
        assert!(fault_of(r#""env":[]"#).starts_with("env is []; it must be an object"));
        assert!(fault_of(r#""handler":"a\u0000b""#).starts_with("handler is"));
    }

    #[test]
    fn arguments_and_directives_are_taken_and_what_changes_the_start_is_started_anew() {
        let with = |field: &str| parsed("GET:/x", &format!(r#"{{"runtime":"php","module":"x.php",{field}}}"#)).unwrap();
        let function = with(r#""args":["-x","a b",""],"ini":{"precision":"3"},"sapi":"cgi""#);
        assert_eq!(function.args, ["-x", "a b", ""]);
        assert_eq!(function.ini, [("precision".to_string(), "3".to_string())]);
        assert_eq!(FunctionSpec::decode(&function.settings).unwrap(), function.spec);
        assert_eq!(function.start, Start::Auto);
        for name in ["LD_PRELOAD", "GLIBC_TUNABLES", "PHPRC", "PHP_INI_SCAN_DIR"] {
            assert_eq!(with(&format!(r#""env":{{"A":"1","{name}":"x"}}"#)).start, Start::Cold, "{name}");
        }
        assert!(fault_of(r#""args":"-x""#).starts_with(r#"args is "-x"; it must be an array of at most"#));
        assert_eq!(fault_of(r#""ini":{"precision":3}"#), "ini.precision is 3; it must be a string without NUL");
    }

    #[test]
    fn what_is_off_limits_is_not_for_functions_to_write() {
        let folder = std::env::temp_dir().join(format!("faas-places-{}", std::process::id()));
        fs::create_dir_all(folder.join("run/spool")).unwrap();
        fs::create_dir_all(folder.join("spool/else")).unwrap();
        fs::create_dir_all(folder.join("data")).unwrap();
        std::os::unix::fs::symlink(".", folder.join("link")).unwrap();
        let text = |name| Some(folder.join(name).display().to_string());
        let settings = Settings::from_lookup(|name| match name {
            "FAAS_DB" => text("faas_meta.db"),
            "FAAS_RUN_DIR" => text("run"),
            "FAAS_SPOOL_DIR" => text("spool"),
            _ => None,
        });
        let protected = ProtectedPaths::new(&settings.unwrap());
        let places = Places { module_root: folder.clone(), protected, ..Places::default() };
        let parsed = |path: &str| {
            let descriptor = format!(r#"{{"runtime":"php","module":"x.php","write":["data",{path:?}]}}"#);
            parse("GET:/x", &descriptor, &places, Arc::default())
        };
        assert_eq!(parsed("data/../data/new").unwrap().write, [folder.join("data"), folder.join("data/../data/new")]);
        assert!(["faas_meta.db.old", "running", "spool/else"].iter().all(|path| parsed(path).is_ok()));
        for wrong in
            [".", "/", "..", "run", "run/spool", "spool", "faas_meta.db", "faas_meta.db-wal", "link", "data/.."]
        {
            let fault = parsed(wrong).unwrap_err();
            assert_eq!(fault, format!("write is {wrong:?}; it must be {OFF_LIMITS}"));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn runtime_and_module_are_needed() {
        let fault = |descriptor| parsed("GET:/x", descriptor).unwrap_err();
        assert_eq!(fault(r#"{"module":"x"}"#), "runtime is missing; it must be php, wasm or native");
        assert_eq!(
            fault(r#"{"runtime":"lua","module":"x"}"#),
            r#"runtime is "lua"; it must be one of php, wasm, native"#
        );
        assert_eq!(fault(r#"{"runtime":"php"}"#), "module is missing; it must be the path of a file, or db:NAME");
        assert_eq!(
            fault(r#"{"runtime":"php","module":""}"#),
            "module is empty; it must be the path of a file, or db:NAME"
        );
    }

    #[test]
    fn a_descriptor_that_is_no_json_object_is_a_fault() {
        assert_eq!(parsed("GET:/x", "[1]").unwrap_err(), "v is [1]; it must be a JSON object");
        assert!(parsed("GET:/x", r#"{"module":"/new/path.wasm",...}"#).unwrap_err().starts_with("v is not JSON ("));
        let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        assert!(parsed("GET:/x", &deep).unwrap_err().starts_with("v is not JSON (recursion limit"));
        let long = format!(r#"{{"runtime":"php","module":"{}"}}"#, "x".repeat(limits::DESCRIPTOR_BYTES_MAX));
        assert_eq!(parsed("GET:/x", &long).unwrap_err(), "v is longer than 65536 bytes; it must be shorter");
    }

    #[test]
    fn a_long_value_is_cut_in_its_fault() {
        let fault = fault_of(&format!(r#""memory":"{}""#, "é".repeat(5000)));
        assert!(fault.starts_with("memory is \"ééé") && fault.contains("é…; it must") && fault.len() < 250, "{fault}");
    }
}
