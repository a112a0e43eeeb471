//! The routes in service: what the C original called its key-value store, here one map behind one lock.
//!
//! A route is looked up by method and path, as they are sent and without the query:
//!
//! 1. The exact path, then prefixes, the longest first. `GET:/api/*` takes `/api/x/y` with PATH_INFO `/x/y`, `/api/`
//!    with PATH_INFO `/`, and, where there is no `GET:/api`, also `/api` with an empty one. It does not take `/apix`.
//! 2. At each of these, a method's own route; for HEAD, else that of GET. So a path serves HEAD wherever it serves GET.
//! 3. A path that only has routes of other methods is answered with what these are. OPTIONS is no exception.
//!
//! Invariants: all rows of a transaction come into force in one [`Kv::swap`]; whoever has found a function keeps it,
//! whatever is swapped in later. The lock is held for a look-up (less than a microsecond) or for the exchange of two
//! maps: new ones are built before, and old ones are dropped after, both in the thread that swaps.
//!
//! The maps have the path alone as their key, and what is found under it is a short list of methods. So a look-up
//! allocates nothing and joins no strings, and the methods of rule 3 are all in one place. A look-up probes each length
//! that a registered prefix has at most once, and only where the path has a slash, so a path of a thousand slashes
//! costs no more than any other. The hasher is std's, keyed at random: paths come from clients.
//!
//! The C original handed out a pointer to a value after it had released the lock; a sync could free it in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::registry::config_loader::{Function, Pattern};

/// What there is for a method and a path.
#[derive(Debug)]
pub enum Found {
    /// `path[..path_info_start]` is SCRIPT_NAME, the rest PATH_INFO, which is empty for an exact route.
    Function {
        function: Arc<Function>,
        path_info_start: usize,
    },
    /// The row is there, but it has a fault and never had a version without one.
    Unusable {
        route: String,
        fault: String,
    },
    /// `allow` lists the methods for the path, for the field Allow: `GET, HEAD, OPTIONS`.
    MethodNotAllowed {
        allow: String,
    },
    NotFound,
}

/// One row as it is served.
#[derive(Debug)]
pub struct Route {
    key: String,
    /// Where method and path end in `key`: `key[..method_end]` and `key[method_end + 1..path_end]`. The key is taken
    /// apart once, when the row changes; maps are built from 100,000 of these at each change.
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
    /// By what stands before the `/*`.
    prefixes: HashMap<Box<str>, Methods>,
    /// The lengths that the keys of `prefixes` have, each once, the longest first.
    prefix_lengths: Vec<usize>,
    count: usize,
}

/// The routes of one path, each with another method.
type Methods = Vec<Arc<Route>>;

impl Routes {
    /// Each key must come once.
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Routes {
        let routes = routes.into_iter();
        let mut all = Routes::default();
        all.exact.reserve(routes.size_hint().1.unwrap_or(0)); // growing on the way would move all again and again
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

    /// What is registered for a path, the most specific first, with where PATH_INFO starts.
    fn matches<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a Methods, usize)> {
        let exact = self.exact.get(path).map(|methods| (methods, path.len()));
        let is_boundary = |length: usize| length == path.len() || path.as_bytes().get(length) == Some(&b'/');
        let prefixes = self.prefix_lengths.iter().copied().filter(move |length| is_boundary(*length));
        exact.into_iter().chain(prefixes.filter_map(|length| Some((self.prefixes.get(&path[..length])?, length))))
    }
}

/// The field Allow: the usual methods in their usual order, then others by name. HEAD comes with GET, and OPTIONS is
/// always answered. `None` where there are no methods.
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

/// What the lock guards.
#[derive(Debug, Default)]
struct Service {
    routes: Routes,
    /// How many times routes were swapped in; 0 is "the registry was never read".
    generation: u64,
}

impl Kv {
    pub fn new() -> Kv {
        Kv::default()
    }

    pub fn find(&self, method: &str, path: &str) -> Found {
        self.lock().routes.find(method, path)
    }

    /// Brings `routes` into force, all at once.
    pub fn swap(&self, routes: Routes) {
        let old = {
            let mut service = self.lock();
            service.generation += 1;
            std::mem::replace(&mut service.routes, routes)
        };
        drop(old); // Here, without the lock: to free 100,000 routes takes milliseconds.
    }

    /// Routes in service, unusable ones included.
    pub fn len(&self) -> usize {
        self.lock().routes.count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows by one with each change of the registry that came into force.
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Whether the registry was ever read.
    pub fn is_loaded(&self) -> bool {
        self.generation() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Service> {
        self.service.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::registry::config_loader::{Places, parse};

    fn route(key: &str) -> Arc<Route> {
        let descriptor = r#"{"runtime":"php","module":"x.php"}"#;
        let function = parse(key, descriptor, &Places::default(), Arc::default()).unwrap();
        Arc::new(Route::new(key, Ok(Arc::new(function))).unwrap())
    }

    fn kv(keys: &[&str]) -> Kv {
        let kv = Kv::new();
        kv.swap(Routes::new(keys.iter().map(|key| route(key))));
        kv
    }

    /// `route SCRIPT_NAME|PATH_INFO`, or what else was found.
    fn find(kv: &Kv, method: &str, path: &str) -> String {
        match kv.find(method, path) {
            Found::Function { function, path_info_start } => {
                format!("{} {}|{}", function.route, &path[..path_info_start], &path[path_info_start..])
            }
            Found::Unusable { route, fault } => format!("{route} is unusable: {fault}"),
            Found::MethodNotAllowed { allow } => format!("allow {allow}"),
            Found::NotFound => "not found".to_string(),
        }
    }

    #[test]
    fn an_exact_path_wins_then_the_longest_prefix() {
        let kv = kv(&["GET:/*", "GET:/api/*", "GET:/api/v1/*", "GET:/api/v1/me", "GET:/"]);
        assert_eq!(find(&kv, "GET", "/api/v1/me"), "GET:/api/v1/me /api/v1/me|");
        assert_eq!(find(&kv, "GET", "/api/v1/me/x"), "GET:/api/v1/* /api/v1|/me/x");
        assert_eq!(find(&kv, "GET", "/api/v2/me"), "GET:/api/* /api|/v2/me");
        assert_eq!(find(&kv, "GET", "/apis"), "GET:/* |/apis");
        assert_eq!(find(&kv, "GET", "/"), "GET:/ /|");
        assert_eq!(find(&kv, "GET", "//"), "GET:/* |//");
    }

    #[test]
    fn a_prefix_takes_its_own_folder_with_and_without_the_slash() {
        let prefix = kv(&["GET:/api/*"]);
        assert_eq!(find(&prefix, "GET", "/api/"), "GET:/api/* /api|/");
        assert_eq!(find(&prefix, "GET", "/api"), "GET:/api/* /api|");
        assert_eq!(find(&prefix, "GET", "/ap"), "not found");
        let both = kv(&["GET:/api/*", "GET:/api", "GET:/api/"]);
        assert_eq!(find(&both, "GET", "/api"), "GET:/api /api|");
        assert_eq!(find(&both, "GET", "/api/"), "GET:/api/ /api/|");
    }

    #[test]
    fn paths_are_compared_as_sent() {
        let kv = kv(&["GET:/a%20b", "GET:/A"]);
        assert_eq!(find(&kv, "GET", "/a%20b"), "GET:/a%20b /a%20b|");
        for other in ["/a b", "/a", "/A/", "//A", "/./A", "", "*", "A", "/é/ü"] {
            assert_eq!(find(&kv, "GET", other), "not found", "{other}");
        }
    }

    #[test]
    fn head_falls_back_to_get_of_the_most_specific_path() {
        let kv = kv(&["HEAD:/*", "GET:/info", "HEAD:/own", "GET:/own", "POST:/post"]);
        assert_eq!(find(&kv, "HEAD", "/info"), "GET:/info /info|");
        assert_eq!(find(&kv, "HEAD", "/own"), "HEAD:/own /own|");
        assert_eq!(find(&kv, "HEAD", "/post"), "HEAD:/* |/post");
    }

    #[test]
    fn a_method_without_a_route_of_its_own_falls_through_to_a_prefix_that_has_one() {
        let kv = kv(&["POST:/api/x", "GET:/api/*"]);
        assert_eq!(find(&kv, "GET", "/api/x"), "GET:/api/* /api|/x");
        assert_eq!(find(&kv, "POST", "/api/x"), "POST:/api/x /api/x|");
    }

    #[test]
    fn other_methods_are_listed_in_the_usual_order() {
        let kv = kv(&["PURGE:/x", "DELETE:/x", "POST:/x", "GET:/*", "POST:/p", "OPTIONS:/o", "LOCK:/x"]);
        assert_eq!(find(&kv, "PUT", "/x"), "allow GET, HEAD, POST, DELETE, OPTIONS, LOCK, PURGE");
        assert_eq!(find(&kv, "OPTIONS", "/x"), "allow GET, HEAD, POST, DELETE, OPTIONS, LOCK, PURGE");
        assert_eq!(find(&kv, "OPTIONS", "/o"), "OPTIONS:/o /o|");
        assert_eq!(find(&kv, "get", "/p"), "allow GET, HEAD, POST, OPTIONS");
        assert_eq!(find(&super::tests::kv(&["POST:/p"]), "GET", "/p"), "allow POST, OPTIONS");
    }

    #[test]
    fn an_unusable_row_holds_its_path_and_names_its_fault() {
        let kv = Kv::new();
        let bad = Route::new("GET:/api/bad", Err("timeout is 0".into())).unwrap();
        kv.swap(Routes::new([Arc::new(bad), route("GET:/api/*")]));
        assert_eq!(find(&kv, "GET", "/api/bad"), "GET:/api/bad is unusable: timeout is 0");
        assert_eq!(find(&kv, "GET", "/api/good"), "GET:/api/* /api|/good");
        assert_eq!(find(&kv, "POST", "/api/bad"), "allow GET, HEAD, OPTIONS");
        assert!(Route::new("get:/x", Err("k is lower case".into())).is_none());
    }

    #[test]
    fn a_swap_changes_everything_at_once_and_leaves_what_was_found() {
        let kv = kv(&["GET:/a", "GET:/b"]);
        let Found::Function { function, .. } = kv.find("GET", "/a") else { panic!("/a is registered") };
        assert_eq!((kv.len(), kv.generation()), (2, 1));
        kv.swap(Routes::new([route("GET:/c")]));
        assert_eq!((kv.len(), kv.generation()), (1, 2));
        assert_eq!(find(&kv, "GET", "/a"), "not found");
        assert_eq!(function.route, "GET:/a");
    }

    #[test]
    fn nothing_is_loaded_before_the_first_swap_even_of_no_routes() {
        let kv = Kv::new();
        assert!(!kv.is_loaded());
        assert_eq!(find(&kv, "GET", "/"), "not found");
        kv.swap(Routes::default());
        assert!(kv.is_loaded() && kv.is_empty());
    }
}
