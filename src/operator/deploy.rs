//! A deploy: writes code and its route into the registry, in one transaction.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::code::{Code, bundle_of};
use super::registry::{Registry, remove_modules, write_module, write_route};
use super::{OperationError, Result};
use crate::registry::config_loader::{self, FIELDS, Places};

/// Fields of the descriptor that a deploy sets, and those that it removes (null). It keeps all others.
pub(crate) type Fields = Map<String, Value>;

/// A change of the registry.
pub(crate) struct Done {
    pub generation: u64,
    /// True if the result differs from the state before.
    pub is_changed: bool,
}

/// Writes code and route. `env` adds to the variables that the route has.
pub(crate) fn deploy(
    registry: &mut Registry,
    key: &str,
    code: &Code,
    fields: &Fields,
    env: &[(String, String)],
) -> Result<Done> {
    let old = registry.route(key)?.map(|route| route.descriptor);
    let descriptor = descriptor(code, old.as_ref(), fields, env)?;
    check(key, &descriptor)?;
    refuse_foreign_code(registry, key, code)?;
    let before = registry.generation()?;
    let generation = registry.change(|transaction| {
        code.files.iter().try_for_each(|(name, code)| write_module(transaction, name, code))?;
        write_route(transaction, key, &descriptor)?;
        let names: HashSet<&str> = code.files.iter().map(|(name, _)| name.as_str()).collect();
        remove_modules(transaction, code.bundle(), |name| names.contains(name))
    })?;
    Ok(Done { generation, is_changed: generation > before })
}

/// Writes a whole descriptor.
pub(crate) fn describe(registry: &mut Registry, key: &str, descriptor: &Value) -> Result<Done> {
    check(key, descriptor)?;
    let before = registry.generation()?;
    let generation = registry.change(|transaction| write_route(transaction, key, descriptor))?;
    Ok(Done { generation, is_changed: generation > before })
}

/// Keeps the fields that are not given.
fn descriptor(code: &Code, old: Option<&Value>, fields: &Fields, env: &[(String, String)]) -> Result<Value> {
    let mut descriptor: Fields = old.and_then(Value::as_object).cloned().unwrap_or_default();
    let runtime = match (fields.get("runtime"), code.runtime) {
        (Some(runtime), _) => runtime.clone(),
        (None, Some(runtime)) => json!(runtime),
        (None, None) => {
            let text = format!("{} could be of any runtime; say which with --runtime php, wasm or native", code.entry);
            return Err(OperationError::Usage(text));
        }
    };
    descriptor.insert("runtime".into(), runtime);
    descriptor.insert("module".into(), json!(format!("db:{}", code.entry)));
    for (name, value) in env {
        let env = descriptor.entry("env").or_insert_with(|| json!({}));
        env.as_object_mut()
            .ok_or_else(|| OperationError::Failed("the route's env is no object; set it with --set env={}".into()))?
            .insert(name.clone(), json!(value));
    }
    for (field, value) in fields {
        match value {
            Value::Null => descriptor.remove(field),
            value => descriptor.insert(field.clone(), value.clone()),
        };
    }
    Ok(Value::Object(descriptor))
}

/// Rejects a row that the gateway would reject, but ignores its module.
pub(crate) fn check(key: &str, descriptor: &Value) -> Result<()> {
    let mut elsewhere = descriptor.clone();
    if let Some(fields) = elsewhere.as_object_mut()
        && fields.get("module").and_then(Value::as_str).is_some_and(|module| module.starts_with("db:"))
    {
        fields.insert("module".into(), json!("/"));
    }
    let parsed = config_loader::parse(key, &elsewhere.to_string(), &Places::default(), Arc::default());
    let function = parsed.map_err(OperationError::Refused)?;
    match function.unknown_fields.first() {
        None => Ok(()),
        Some(field) => Err(OperationError::Refused(format!(
            "the field {field} does not exist; the fields are {}; fields of your own begin with x-",
            FIELDS.join(", ")
        ))),
    }
}

/// A deploy must not change the code of another route.
fn refuse_foreign_code(registry: &Registry, key: &str, code: &Code) -> Result<()> {
    let names = |module: &str| module.strip_prefix("db:").is_some_and(|name| bundle_of(name) == code.bundle());
    let module = |descriptor: &Value| descriptor["module"].as_str().unwrap_or("").to_string();
    let routes = registry.routes()?;
    if routes.iter().any(|route| route.key == key && names(&module(&route.descriptor))) {
        return Ok(()); // The route shares the code already.
    }
    let Some(other) = routes.iter().find(|route| names(&module(&route.descriptor))) else { return Ok(()) };
    let is_same = |(name, bytes): &(String, Vec<u8>)| registry.code(name).map(|code| code.as_ref() == Some(bytes));
    for file in &code.files {
        if !is_same(file)? {
            return Err(OperationError::Refused(format!(
                "{} has other code under the name {}; choose another with --module NAME",
                other.key,
                code.bundle()
            )));
        }
    }
    Ok(())
}
