//! The routes in service: the key-value store of the C original, here one map behind one lock.
//!
//! A look-up takes method and path, as they are sent and without the query:
//!
//! 1. The exact path, then prefixes, the longest first. `GET:/api/*` takes `/api/x/y` with PATH_INFO `/x/y`, `/api/`
//!    with PATH_INFO `/`, and, where there is no `GET:/api`, also `/api` with an empty one. It does not take `/apix`.
//! 2. At each of these, a method's own route; for HEAD, else that of GET. So a path serves HEAD wherever it serves GET.
//! 3. A path that only has routes of other methods yields the list of these methods. OPTIONS is no exception.
//!
//! Invariants:
//!
//! - All rows of a transaction come into service in one [`Kv::swap`].
//! - A request keeps the function that it has found, whatever is swapped in later.
//! - The lock is held for a look-up (less than a microsecond) or for the exchange of two maps. The thread that swaps
//!   builds the new map before, and drops the old one after.
//!
//! The maps have the path alone as their key, and a short list of methods as their value. So a look-up allocates nothing
//! and joins no strings, and the methods of rule 3 are all in one place. It probes each length of a registered prefix at
//! most once, and only where the path has a slash: a path of a thousand slashes costs no more than any other. The hasher
//! is std's, keyed at random, because paths come from clients.
//!
//! The C original handed out a pointer to a value after it had released the lock; a sync could free it in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::registry::config_loader::{Function, Pattern};

/// Result of a look-up.
#[derive(Debug)]
pub enum Found {
    /// `path[..path_info_start]` is SCRIPT_NAME, the rest PATH_INFO, which is empty for an exact route.
    Function {
        function: Arc<Function>,
        path_info_start: usize,
    },
    /// The row exists, but has a fault and never had a version without one.
    Unusable {
        route: String,
        fault: String,
    },
    /// `allow` is the value of the field Allow: `GET, HEAD, OPTIONS`.
    MethodNotAllowed {
        allow: String,
    },
    NotFound,
}

/// One row of the registry in service.
#[derive(Debug)]
pub struct Route {
    key: String,
    /// Ends of method and path in `key`: `key[..method_end]` and `key[method_end + 1..path_end]`. The key is parsed once,
    /// when the row changes, because each change of a row builds a map of up to 100,000 routes.
    method_end: usize,
    path_end: usize,
    is_prefix: bool,
    serves: Result<Arc<Function>, String>,
}

impl Route {
    /// `serves` is the function, or the fault of a row that never had one. A key that is no pattern is no route.
    pub fn new(key: &str, serves: Result<Arc<Function>, String>) -> Option<Route> {
        let Pattern { method, path, is_prefix } = Pattern::parse(key).ok()?;
        let (method_end, path_end) = (method.len(), method.len() + 1 + path.len());
        Some(Route { key: key.to_string(), method_end, path_end, is_prefix, serves })
    }

    pub fn function(&self) -> Option<&Arc<Function>> {
        self.serves.as_ref().ok()
    }

    fn method(&self) -> &str {
        &self.key[..self.method_end]
    }

    fn path(&self) -> &str {
        &self.key[self.method_end + 1..self.path_end]
    }

    fn found(&self, path_info_start: usize) -> Found {
        match &self.serves {
            Ok(function) => Found::Function { function: function.clone(), path_info_start },
            Err(fault) => Found::Unusable { route: self.key.clone(), fault: fault.clone() },
        }
    }
}

/// All routes of one reading of the registry.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Methods>,
    /// Their key is the part before the `/*`.
    prefixes: HashMap<Box<str>, Methods>,
    /// Lengths of the keys of `prefixes`, each once, the longest first.
    prefix_lengths: Vec<usize>,
    count: usize,
}

/// The routes of one path, each with another method.
type Methods = Vec<Arc<Route>>;

impl Routes {
    /// Each key must occur once.
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Routes {
        let routes = routes.into_iter();
        let mut all = Routes::default();
        // Growing on the way would move all entries again and again.
        all.exact.reserve(routes.size_hint().1.unwrap_or(0));
        for route in routes {
            let map = if route.is_prefix { &mut all.prefixes } else { &mut all.exact };
            match map.get_mut(route.path()) {
                Some(methods) => methods.push(route),
                None => {
                    map.insert(route.path().into(), vec![route]);
                }
            }
            all.count += 1;
        }
        all.prefix_lengths = all.prefixes.keys().map(|prefix| prefix.len()).collect();
        all.prefix_lengths.sort_unstable_by(|a, b| b.cmp(a));
        all.prefix_lengths.dedup();
        all
    }

    fn find(&self, method: &str, path: &str) -> Found {
        for (methods, path_info_start) in self.matches(path) {
            let own = |method: &str| methods.iter().find(|route| route.method() == method);
            let route = own(method).or_else(|| if method == "HEAD" { own("GET") } else { None });
            if let Some(route) = route {
                return route.found(path_info_start);
            }
        }
        let others = self.matches(path).flat_map(|(methods, _)| methods).map(|route| route.method());
        allow(others).map_or(Found::NotFound, |allow| Found::MethodNotAllowed { allow })
    }

    /// The routes of a path, the most specific first, each with the start of PATH_INFO.
    fn matches<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a Methods, usize)> {
        let exact = self.exact.get(path).map(|methods| (methods, path.len()));
        let is_boundary = |length: usize| length == path.len() || path.as_bytes().get(length) == Some(&b'/');
        let prefixes = self.prefix_lengths.iter().copied().filter(move |length| is_boundary(*length));
        exact.into_iter().chain(prefixes.filter_map(|length| Some((self.prefixes.get(&path[..length])?, length))))
    }
}

/// The field Allow: the usual methods in their usual order, then others by name. GET brings HEAD, and every path has
/// OPTIONS. `None` where `methods` is empty.
fn allow<'a>(methods: impl Iterator<Item = &'a str>) -> Option<String> {
    const USUAL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let mut all: Vec<&str> = methods.collect();
    if all.is_empty() {
        return None;
    }
    if all.contains(&"GET") {
        all.push("HEAD");
    }
    all.push("OPTIONS");
    all.sort_unstable_by_key(|method| (USUAL.iter().position(|usual| usual == method).unwrap_or(USUAL.len()), *method));
    all.dedup();
    Some(all.join(", "))
}

/// The routes in service.
#[derive(Debug, Default)]
pub struct Kv {
    service: Mutex<Service>,
}

/// Guarded by the lock.
#[derive(Debug, Default)]
struct Service {
    routes: Routes,
    /// Number of swaps; 0 until the registry was read.
    generation: u64,
}

impl Kv {
    pub fn new() -> Kv {
        Kv::default()
    }

    pub fn find(&self, method: &str, path: &str) -> Found {
        self.lock().routes.find(method, path)
    }

    /// Brings `routes` into service, all at once.
    pub fn swap(&self, routes: Routes) {
        let old = {
            let mut service = self.lock();
            service.generation += 1;
            std::mem::replace(&mut service.routes, routes)
        };
        // Without the lock: to free 100,000 routes takes milliseconds.
        drop(old);
    }

    /// Routes in service, unusable ones included.
    pub fn len(&self) -> usize {
        self.lock().routes.count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows by one with each change of the registry that came into service.
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// True once the registry was read.
    pub fn is_loaded(&self) -> bool {
        self.generation() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Service> {
        self.service.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests;
