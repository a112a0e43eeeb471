//! The removal of a route.

use super::Result;
use super::code::bundle_of;
use super::deploy::Done;
use super::registry::{Registry, remove_modules};

/// Removes a route, and its code if no other route runs it.
pub(crate) fn remove_route(registry: &mut Registry, key: &str) -> Result<Done> {
    let route = registry.existing_route(key)?;
    let has_history = registry.has_history()?;
    let name = route.descriptor["module"].as_str().and_then(|module| module.strip_prefix("db:"));
    let bundle = name.map(bundle_of).filter(|_| has_history);
    let generation = registry.change(|transaction| {
        transaction.execute("DELETE FROM functions WHERE k = ?1", [key])?;
        let Some(bundle) = bundle else { return Ok(()) };
        let shared = "SELECT EXISTS (SELECT 1 FROM functions WHERE json_extract(v, '$.module') GLOB 'db:*'
            AND substr(json_extract(v, '$.module'), 4, instr(substr(json_extract(v, '$.module'), 4) || '/', '/')) = ?1)";
        match transaction.query_row(shared, [bundle], |row| row.get(0))? {
            true => Ok(()),
            false => remove_modules(transaction, bundle, |_| false),
        }
    })?;
    Ok(Done { generation, is_changed: true })
}
