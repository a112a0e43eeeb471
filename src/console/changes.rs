//! The API's changes: deploys, descriptors, removals, rollbacks. Each is one transaction, and its answer comes when the
//! gateway has it in service.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Console;
use super::call::Call;
use super::multipart::{self, Part};
use super::reply::Reply;
use crate::log;
use crate::operator::code::{Bounds, Code};
use crate::operator::deploy::{self, Done, Fields};
use crate::operator::gateway::go_live;
use crate::operator::history::{roll_back, roll_back_to};
use crate::operator::registry::Registry;
use crate::operator::routes::remove_route;
use crate::operator::{OperationError, Result};

/// Bytes of an upload: one module of the largest usual size. The console holds an upload twice in memory.
pub const UPLOAD_BYTES_MAX: usize = 96 << 20;

/// Time limit of an upload: a slower client does not send, and tiny_http has no timeouts.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(600);

/// Start of the upload in memory; only one fits.
static UPLOADING_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

fn uploading_since() -> MutexGuard<'static, Option<Instant>> {
    UPLOADING_SINCE.lock().expect("nothing panics under this lock")
}

/// True if an upload has blocked others for so long that the console should restart.
pub fn is_upload_stuck() -> bool {
    uploading_since().is_some_and(|since| since.elapsed() > UPLOAD_TIME_MAX)
}

struct Uploading;

impl Uploading {
    fn begin() -> Option<Uploading> {
        let mut since = uploading_since();
        let is_free = since.is_none();
        since.get_or_insert_with(Instant::now);
        is_free.then_some(Uploading)
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        *uploading_since() = None;
    }
}

/// Deploys the files of a form (multipart/form-data): each part `file` is one. The part `options`, if present, is JSON
/// with `fields` of the descriptor, `env` and the name of the `module`.
pub fn deploy(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let key = call.params[0].clone();
    let Some(_uploading) = Uploading::begin() else {
        return Err(Reply::problem(503, "another upload is under way").with("Retry-After", "1"));
    };
    let content_type = call.field("Content-Type").unwrap_or("").to_string();
    let body = call.body(UPLOAD_BYTES_MAX)?;
    let parts = multipart::parts(&content_type, &body).map_err(|fault| Reply::problem(400, fault))?;
    let options = options(&parts)?;
    let (code, done) = change(console, |registry| {
        let bounds = Bounds {
            files_max: registry.setting("bundle_files_max")?,
            file_bytes_max: registry.setting("module_bytes_max")?,
        };
        let code = code(&parts, options.module.as_deref(), &bounds)?;
        let done = deploy::deploy(registry, &key, &code, &options.fields, &options.env)?;
        Ok((code, done))
    })?;
    log!("console: deployed {key} with {} files, {} bytes", code.files.len(), code.bytes());
    let mut json = live(console, &done)?;
    json["module"] = json!(format!("db:{}", code.entry));
    json["route"] = json!(key);
    Ok(Reply::json(200, &json))
}

#[derive(Default)]
struct Options {
    fields: Fields,
    env: Vec<(String, String)>,
    module: Option<String>,
}

fn options(parts: &[Part<'_>]) -> Result<Options, Reply> {
    let wrong = |what: &str| Reply::problem(400, &format!("options: {what}"));
    let Some(part) = parts.iter().find(|part| part.name == "options") else { return Ok(Options::default()) };
    let value: Value = serde_json::from_slice(part.bytes).map_err(|_| wrong("must be JSON"))?;
    let text = |value: &Value| value.as_str().map(str::to_string);
    let env = match &value["env"] {
        Value::Null => Vec::new(),
        Value::Object(env) => {
            let pairs = env.iter().map(|(name, value)| Some((name.clone(), text(value)?)));
            pairs.collect::<Option<_>>().ok_or_else(|| wrong("env must be an object of strings"))?
        }
        _ => return Err(wrong("env must be an object of strings")),
    };
    let fields = match &value["fields"] {
        Value::Null => Fields::new(),
        Value::Object(fields) => fields.clone(),
        _ => return Err(wrong("fields must be an object")),
    };
    Ok(Options { fields, env, module: text(&value["module"]) })
}

/// The code of an upload. Files whose names have a folder form a bundle; `module` renames its first folder.
fn code(parts: &[Part<'_>], module: Option<&str>, bounds: &Bounds) -> Result<Code> {
    let files: Vec<&Part<'_>> = parts.iter().filter(|part| part.name == "file").collect();
    let refuse = |text: String| Err(OperationError::Usage(text));
    bounds.check_count("the upload", files.len())?;
    for file in &files {
        check_name(file.file_name)?;
        bounds.check_file(file.file_name, file.bytes.len() as u64)?;
    }
    if let Some(module) = module {
        check_name(module)?;
    }
    let folder = |name: &str| name.split_once('/').map(|(folder, _)| folder.to_string());
    match files.as_slice() {
        [] => refuse("the upload has no file".into()),
        [file] if folder(file.file_name).is_none() => {
            Ok(Code::file(module.unwrap_or(file.file_name), file.bytes.to_vec(), false))
        }
        [first, rest @ ..] => {
            let Some(top) = folder(first.file_name) else {
                return refuse("several files must lie in one folder".into());
            };
            if rest.iter().any(|file| folder(file.file_name).as_ref() != Some(&top)) {
                return refuse("several files must lie in one folder".into());
            }
            let name = module.unwrap_or(&top).trim_end_matches('/');
            let renamed =
                files.iter().map(|file| (format!("{name}{}", &file.file_name[top.len()..]), file.bytes.to_vec()));
            Code::folder("the upload", name, renamed.collect())
        }
    }
}

/// A name must not lead out of its folder. The registry's own constraints enforce the same.
fn check_name(name: &str) -> Result<()> {
    let is_sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    match name.split('/').all(is_sound) && !name.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(OperationError::Usage(format!("{name:?} must be a relative name without empty, . and .. parts"))),
    }
}

/// Replaces a descriptor.
pub fn describe(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let descriptor = call.json()?;
    let key = &call.params[0];
    let done = change(console, |registry| {
        registry.existing_route(key)?;
        deploy::describe(registry, key, &descriptor)
    })?;
    log!("console: changed the descriptor of {key}");
    Ok(Reply::json(200, &live(console, &done)?))
}

pub fn remove(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let key = &call.params[0];
    let done = change(console, |registry| remove_route(registry, key))?;
    log!("console: removed {key}");
    Ok(Reply::json(200, &live(console, &done)?))
}

/// Sets a function back by one step.
pub fn roll_back_one(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let key = &call.params[0];
    let done = change(console, |registry| roll_back(registry, key))?;
    log!("console: rolled back {key}");
    Ok(Reply::json(200, &live(console, &done)?))
}

/// Sets all functions back to a generation.
pub fn roll_back_all(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let to = call.json()?["to"].as_u64().ok_or_else(|| Reply::problem(400, "to must be a generation"))?;
    let done = change(console, |registry| roll_back_to(registry, to))?;
    log!("console: rolled back all to generation {to}");
    Ok(Reply::json(200, &live(console, &done)?))
}

fn change<T>(console: &Console, change: impl FnOnce(&mut Registry) -> Result<T>) -> Result<T, Reply> {
    let _claim = console.view.claim()?;
    let mut registry = Registry::open_with_history(&console.settings)?;
    Ok(change(&mut registry)?)
}

fn live(console: &Console, done: &Done) -> Result<Value, Reply> {
    Ok(go_live(&console.settings, done)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{check, each};

    fn part<'a>(file_name: &'a str, bytes: &'a [u8]) -> Part<'a> {
        Part { name: "file", file_name, bytes }
    }

    const BOUNDS: Bounds = Bounds { files_max: 3, file_bytes_max: 10 };

    #[test]
    fn upload_is_a_file_or_one_folder() {
        let read = |parts: &[Part<'_>], module| code(parts, module, &BOUNDS).map(|code| (code.entry, code.runtime));
        assert_eq!(read(&[part("a.php", b"x")], None).unwrap(), ("a.php".into(), Some("php")));
        assert_eq!(read(&[part("a.php", b"x")], Some("b.php")).unwrap(), ("b.php".into(), Some("php")));
        let folder = [part("shop/lib/a", b"x"), part("shop/run", b"#!")];
        assert_eq!(read(&folder, None).unwrap(), ("shop/run".into(), Some("native")));
        assert_eq!(read(&folder, Some("mall")).unwrap(), ("mall/run".into(), Some("native")));
        let many = ["a/1", "a/2", "a/3", "a/run"].map(|name| part(name, b"x"));
        let cases = [&[][..], &[part("a", b"x"), part("b", b"x")], &[part("a/run", b"x"), part("b/run", b"x")], &many];
        each(cases, |parts| assert!(read(parts, None).is_err()));
        assert!(read(&[part("a.php", b"")], None).is_err() && read(&[part("a.php", &[1; 11])], None).is_err());
    }

    #[test]
    fn name_cannot_climb_out() {
        let bad = ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\\..\\b", "a\nb", "a\0b"];
        check(bad.map(|name| (name, (true, true))), |name| {
            (check_name(name).is_err(), code(&[part(name, b"<?php")], None, &BOUNDS).is_err())
        });
        assert!(check_name("a/b..c/.d").is_ok());
    }
}
