//! Turns a row of the registry into a [`Function`]: it parses and validates, nothing else.
//!
//! A row is a key, `METHOD:/path` or `METHOD:/prefix/*`, and a descriptor, a JSON object. This file finds every fault
//! once, when the row arrives, so that a request meets only functions that are fit to run. A fault is one sentence that
//! names the field, its value and the rule. It appears in the log and in the answer 500 of the row's route. The CHECK
//! constraints in init.sql enforce the same rules at the sqlite3 prompt, as far as SQL can.
//!
//! Rules: a field that is missing or null has its default. A number is a whole number, never a string. Unknown fields
//! are ignored with a warning, so that old rows, and rows of a newer writer, stay in service.
//!
//! The C original looked for `"module":"` with strstr and took the text after it; it read `memory` and `timeout` but
//! never used them. Here both bind, and a descriptor that is not JSON is rejected.

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
use crate::protocol::function_spec::{Engine, FunctionSpec, OnHangup, Output, Runtime, Start};
use crate::sandbox::protected::ProtectedPaths;

use super::modules::{Bundles, CodeFolder, bundle_of};
use super::pattern::{Param, Pattern};

/// One parsed row. It never changes: an edit of the row makes a new one, and a request keeps the one it started with.
#[derive(Debug)]
pub struct Function {
    pub spec: FunctionSpec,
    /// The settings, encoded for INVOKE frames.
    pub settings: Vec<u8>,
    /// Added to the environment of each invocation.
    pub env: Vec<(String, String)>,
    /// Invocations at once over all workers; `None` means no limit but the number of slots.
    pub max_inflight: Option<u64>,
    /// Calls over `max_inflight` that may wait for their turn.
    pub queue: u64,
    /// Running invocations and waiting calls. The count belongs to the key and survives an edit of the row, so that an
    /// edit does not let twice `max_inflight` run.
    pub inflight: Arc<AtomicU64>,
    /// The `{name}` segments of the route.
    pub params: Vec<Param>,
    /// Unknown fields of the descriptor, for a warning.
    pub unknown_fields: Vec<String>,
    /// The bundle of a `db:` module.
    pub bundle: Option<String>,
    /// The folder of a module from the registry, which stays while a call has this function.
    pub code: Option<Arc<CodeFolder>>,
}

/// A function consists of its settings and of the fields that only the gateway needs.
impl Deref for Function {
    type Target = FunctionSpec;

    fn deref(&self) -> &FunctionSpec {
        &self.spec
    }
}

impl Function {
    /// True if a call by this method goes on when its client hangs up.
    pub fn outlives_client(&self, method: &str) -> bool {
        match self.on_hangup {
            OnHangup::Auto => !matches!(method, "GET" | "HEAD" | "OPTIONS"),
            OnHangup::Kill => false,
            OnHangup::Finish => true,
        }
    }
}

/// Prefixes of variables that decide which code a runtime loads at its start, or how. A fork server has started without
/// them, so a function whose `env` has one is started by exec.
const CHANGE_THE_START: [&str; 3] = ["LD_", "GLIBC_", "PHP"];

/// The places that a descriptor's paths are checked against.
#[derive(Debug, Default)]
pub struct Places {
    /// The start of relative paths.
    pub module_root: PathBuf,
    pub protected: ProtectedPaths,
    /// The `db:` modules.
    pub code: Bundles,
}

/// The prefix by which a descriptor names a module of the registry.
pub const DB_PREFIX: &str = "db:";

/// The rule for writable paths.
const OFF_LIMITS: &str = "paths that neither hold nor lie in the registry, the run dir, FAAS_CODE_DIR or the scratch folders in FAAS_SPOOL_DIR";

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
    let (module, code) = module(&fields, runtime, places)?;
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
        memfd: fields.truth("memfd")?.unwrap_or(false),
        stream: fields.truth("stream")?.unwrap_or(false),
        on_hangup: fields.one_of("on_hangup", OnHangup::WORDS)?.unwrap_or(OnHangup::Auto),
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
        queue: fields.whole("queue", limits::FUNCTION_QUEUE, "calls")?.unwrap_or(0),
        inflight,
        params,
        unknown_fields: fields.unknown(),
        bundle: code.as_ref().map(|(bundle, _)| bundle.clone()),
        code: code.map(|(_, folder)| folder),
    })
}

/// The module's path, and for a `db:` module its bundle with the folder that must stay.
type Module = (PathBuf, Option<(String, Arc<CodeFolder>)>);

fn module(fields: &Fields, runtime: Runtime, places: &Places) -> Result<Module, String> {
    let name = match fields.text("module")? {
        None => return Err("module is missing; it must be the path of a file, or db:NAME".into()),
        Some("") => return Err("module is empty; it must be the path of a file, or db:NAME".into()),
        Some(module) => match module.strip_prefix(DB_PREFIX) {
            None => return Ok((places.module_root.join(module), None)),
            Some(name) => name,
        },
    };
    let (path, folder) = places.code.module(name)?;
    if runtime == Runtime::Native && !folder.can_execute {
        return Err("runtime is native, but FAAS_CODE_DIR is on a file system mounted noexec; set another".into());
    }
    Ok((path, Some((bundle_of(name).to_string(), folder))))
}

/// The fields of a descriptor. init.sql has the same list; `x-…` are the user's, and `sapi` has no effect.
pub const FIELDS: [&str; 22] = [
    "name",
    "runtime",
    "module",
    "handler",
    "memory",
    "timeout",
    "env",
    "max_inflight",
    "queue",
    "output",
    "stream",
    "on_hangup",
    "scratch",
    "write",
    "net",
    "memfd",
    "start",
    "engine",
    "sapi",
    "args",
    "ini",
    "dirs",
];

/// The bundle that a descriptor names, even if the descriptor has faults.
pub fn named_bundle(descriptor: &str) -> Option<String> {
    let fields: Value = serde_json::from_str(descriptor).ok()?;
    fields.get("module")?.as_str()?.strip_prefix(DB_PREFIX).map(|name| bundle_of(name).to_string())
}

/// True once the log has noted that `sapi`, which chose between two programs for PHP, no longer has any effect.
static SAPI_IS_TOLD: AtomicBool = AtomicBool::new(false);

/// A descriptor's fields, each read by name and type. `None` is missing or null.
struct Fields(Map<String, Value>);

impl Fields {
    fn unknown(&self) -> Vec<String> {
        let is_known = |name: &str| name.starts_with("x-") || FIELDS.contains(&name);
        self.0.keys().filter(|name| !is_known(name)).map(|name| shown(name)).collect()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Text for a file name or an environment variable, which both end at a NUL.
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

    /// An array of paths that functions may write to. A path that does not exist yet is taken as written.
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

    /// PHP reads directives line by line.
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
                return Err(fault_without_value(
                    field,
                    other,
                    format_args!("an object of at most {count_max} strings"),
                ));
            }
        };
        let pair = |(name, value): (&String, &Value)| {
            if name.is_empty() || name.contains(['=', '\0']) {
                let name = shown(name);
                return Err(format!("{field} has a name {name}; a name must not be empty nor contain = or NUL"));
            }
            match value {
                Value::String(text) if !text.contains('\0') => Ok((name.clone(), text.clone())),
                other => Err(fault_without_value(&format!("{field}.{name}"), other, "a string without NUL")),
            }
        };
        pairs.iter().map(pair).collect()
    }
}

fn fault(name: &str, value: &Value, want: impl Display) -> String {
    format!("{name} is {}; it must be {want}", shown(&value.to_string()))
}

/// A fault without the value, which may be a secret, such as a value of env: clients and readers of the log see the
/// fault.
fn fault_without_value(name: &str, value: &Value, want: impl Display) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if text.contains('\0') => "a string with NUL",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("{name} is {kind}; it must be {want}")
}

/// The beginning of a value, for a fault. A descriptor may have 64 KiB, too much for a line in the log.
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
mod tests;
