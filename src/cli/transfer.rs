//! `faas export` and `faas import`: the registry as files, for git.
//!
//! `routes.json` holds all descriptors by route, sorted; `modules/` holds the code under its own names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{Given, Opt, Verb};
use super::{CliError, Report, Result, failed};
use crate::operator::deploy::{Done, check};
use crate::operator::gateway::go_live;
use crate::operator::registry::{Registry, write_module, write_route};
use crate::settings::Settings;

pub const EXPORT: Verb = Verb {
    name: "export",
    arguments: "FOLDER",
    about: "Write all routes and modules as files: routes.json and modules/. Files there that the registry lacks are removed.",
    options: &[],
    example: "faas export functions.d && git add functions.d",
    run: export,
};

pub const IMPORT: Verb = Verb {
    name: "import",
    arguments: "FOLDER [OPTION]…",
    about: "Make the registry what an export says, in one transaction. Shows the changes first, and asks.",
    options: &[
        Opt::flag("yes", Some('y'), "do not ask"),
        Opt::flag("keep", None, "keep routes and modules that the folder lacks"),
    ],
    example: "faas import functions.d",
    run: import,
};

const ROUTES: &str = "routes.json";
const MODULES: &str = "modules";
const DEPTH_MAX: usize = 64;

/// All rows and modules, of the registry or of a folder.
struct Contents {
    routes: BTreeMap<String, Value>,
    modules: BTreeMap<String, Vec<u8>>,
}

fn export(given: &Given) -> Result<Report> {
    let [folder] = given.exactly()?;
    let registry = Registry::open_with_history(&Settings::from_env()?)?;
    let contents = contents(&registry)?;
    let folder = Path::new(folder);
    let modules = folder.join(MODULES);
    fs::create_dir_all(&modules).map_err(failed(format!("create {}", modules.display())))?;
    let mut old = Vec::new();
    files_below(&modules, DEPTH_MAX, &mut old)?;
    for (name, code) in &contents.modules {
        write_file(&modules.join(name), code)?;
    }
    for path in old {
        let name = path.strip_prefix(&modules).expect("it lies there").to_string_lossy().into_owned();
        if !contents.modules.contains_key(&name) {
            fs::remove_file(&path).map_err(failed(format!("remove {}", path.display())))?;
        }
    }
    let routes = format!("{:#}\n", json!(contents.routes));
    write_file(&folder.join(ROUTES), routes.as_bytes())?;
    let (routes, modules) = (contents.routes.len(), contents.modules.len());
    let text = format!("{routes} routes and {modules} modules are in {}\n", folder.display());
    Ok(Report::new(text, json!({"routes": routes, "modules": modules})))
}

fn import(given: &Given) -> Result<Report> {
    let [folder] = given.exactly()?;
    let settings = Settings::from_env()?;
    let mut registry = Registry::open_with_history(&settings)?;
    let wanted = read_folder(Path::new(folder))?;
    wanted.routes.iter().try_for_each(|(key, descriptor)| {
        check(key, descriptor).map_err(|cause| CliError::Failed(format!("{key}: {cause}")))
    })?;
    let present = contents(&registry)?;
    let removes = !given.has("keep");
    let plan: Vec<String> = [
        changes("route", &present.routes, &wanted.routes, removes),
        changes("module", &present.modules, &wanted.modules, removes),
    ]
    .concat();
    if !plan.is_empty() && !given.has("yes") {
        ask(&plan)?;
    }
    let before = registry.generation()?;
    let generation = registry.change(|transaction| {
        // An equal row may have another text, with other spaces for example; writing it would be a change.
        for (name, code) in wanted.modules.iter().filter(|(name, code)| present.modules.get(*name) != Some(code)) {
            write_module(transaction, name, code)?;
        }
        for (key, descriptor) in wanted.routes.iter().filter(|(key, it)| present.routes.get(*key) != Some(it)) {
            write_route(transaction, key, descriptor)?;
        }
        if removes {
            for key in present.routes.keys().filter(|key| !wanted.routes.contains_key(*key)) {
                transaction.execute("DELETE FROM functions WHERE k = ?1", [key])?;
            }
            for name in present.modules.keys().filter(|name| !wanted.modules.contains_key(*name)) {
                transaction.execute("DELETE FROM modules WHERE name = ?1", [name])?;
            }
        }
        Ok(())
    })?;
    let (live, mut json) = go_live(&settings, &Done { generation, is_changed: generation > before })?;
    json["changes"] = json!(plan);
    let lines = plan.iter().map(|line| format!("{line}\n")).collect::<String>();
    Ok(Report::new(format!("{lines}{live}"), json))
}

fn contents(registry: &Registry) -> Result<Contents> {
    let routes = registry.routes()?.into_iter().map(|route| (route.key, route.descriptor)).collect();
    let mut modules = BTreeMap::new();
    for (name, _) in registry.modules()? {
        if let Some(code) = registry.code(&name)? {
            modules.insert(name, code);
        }
    }
    Ok(Contents { routes, modules })
}

fn read_folder(folder: &Path) -> Result<Contents> {
    let path = folder.join(ROUTES);
    let text = fs::read_to_string(&path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => {
            CliError::NotFound(format!("no export is in {}: it has no {ROUTES}", folder.display()))
        }
        _ => CliError::Failed(format!("could not read {}: {cause}", path.display())),
    })?;
    let routes = serde_json::from_str(&text).map_err(failed(format!("read {}", path.display())))?;
    let root = folder.join(MODULES);
    let mut files = Vec::new();
    if root.is_dir() {
        files_below(&root, DEPTH_MAX, &mut files)?;
    }
    let mut modules = BTreeMap::new();
    for path in files {
        let name = path.strip_prefix(&root).expect("it lies there").to_str().map(str::to_string);
        let name = name.ok_or_else(|| CliError::Failed(format!("{} has no name in UTF-8", path.display())))?;
        modules.insert(name, fs::read(&path).map_err(failed(format!("read {}", path.display())))?);
    }
    Ok(Contents { routes, modules })
}

/// One line for each difference: + adds, - removes, ~ changes.
fn changes<T: PartialEq>(
    kind: &str,
    present: &BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
    removes: bool,
) -> Vec<String> {
    let come = wanted.iter().filter_map(|(name, value)| match present.get(name) {
        None => Some(format!("+ {kind} {name}")),
        Some(other) if other != value => Some(format!("~ {kind} {name}")),
        Some(_) => None,
    });
    let go = present.keys().filter(|name| removes && !wanted.contains_key(*name));
    come.chain(go.map(|name| format!("- {kind} {name}"))).collect()
}

/// Shows the changes and continues only after a yes.
fn ask(plan: &[String]) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let lines = plan.join("\n");
        return Err(CliError::Usage(format!("import would change this; say --yes to do it:\n{lines}")));
    }
    eprint!("{}\nChange that? [y/N] ", plan.join("\n"));
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed("read the answer"))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Failed("nothing was changed".into())),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    // A file with the same content keeps its time.
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = path.parent().expect("a file lies in a folder");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, bytes));
    written.map_err(failed(format!("write {}", path.display())))
}

fn files_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let step = || failed(format!("list {}", folder.display()));
    if depth == 0 {
        return Err(CliError::Failed(format!("{} lies more than {DEPTH_MAX} folders deep", folder.display())));
    }
    for entry in fs::read_dir(folder).map_err(step())? {
        let entry = entry.map_err(step())?;
        match entry.file_type().map_err(step())? {
            kind if kind.is_dir() => files_below(&entry.path(), depth - 1, files)?,
            _ => files.push(entry.path()),
        }
    }
    Ok(())
}
