//! The routes of one reading of the registry, and the look-up of a request among them.
//!
//! A look-up compares host, method and path as the client sent them, without the query:
//!
//! 0. Routes of the request's host come first, then those without a host. So `GET://shop.example/*` beats `GET:/cart`
//!    for that host. Go's ServeMux has the same order. Hosts are compared without the port and whatever their case.
//! 1. The most specific path first. Of two that match, compare segment by segment from the left: a literal beats `{name}`,
//!    `{name}` beats the `*` of a prefix. So the exact path comes first, and of prefixes the longest. `GET:/api/*` takes
//!    `/api/x/y` with PATH_INFO `/x/y`, `/api/` with PATH_INFO `/`, and, where `GET:/api` is no route, also `/api` with an
//!    empty one. It does not take `/apix`. A `{name}` takes one segment that is not empty.
//! 2. At each of these, a method's own route; for HEAD, else that of GET; else that of `*`.
//! 3. A path that only has routes of other methods is answered with a list of those methods. OPTIONS is no exception.
//!
//! The map of exact paths has the path alone as its key, and under it a short list of methods. All other routes are
//! sorted by shape: the positions of their `{name}` segments, and if they are prefixes. Shapes have one order of
//! precedence for all paths, and each has a map of its own. So a look-up probes each shape at most once, a path of a
//! thousand slashes costs no more than any other, and without `{name}` nothing is allocated. The hasher is std's, keyed
//! at random, since clients choose the paths.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::config_loader::Function;
use super::pattern::{ANY_METHOD, Pattern, comparable_host, param_name};

/// The result of a look-up by method and path.
#[derive(Debug)]
pub enum Found {
    /// `path[..path_info_start]` is SCRIPT_NAME, the rest PATH_INFO, which is empty for an exact route.
    ///
    /// The route, and not its function: a look-up has read the route's memory, and counts one more user there. To count
    /// the function's users it would wait for other memory, with the lock held.
    Route {
        route: Arc<Route>,
        path_info_start: usize,
    },
    /// `allow` lists the methods for the path, for the field Allow: `GET, HEAD, OPTIONS`.
    MethodNotAllowed {
        allow: String,
    },
    NotFound,
}

/// One row in the form that serves requests.
#[derive(Debug)]
pub struct Route {
    key: Box<str>,
    /// Positions of method, host and path in `key`: `key[..method_end]`, `key[host]` and `key[host.end..path_end]`. The
    /// key is parsed once, when the row changes; each change builds maps from up to 100,000 of these.
    method_end: usize,
    host: Range<usize>,
    path_end: usize,
    is_prefix: bool,
    serves: Result<Arc<Function>, String>,
}

impl Route {
    /// `serves` is the function, or the fault of a row that never had one. A key that is no pattern gives no route.
    pub fn new(key: &str, serves: Result<Arc<Function>, String>) -> Option<Route> {
        let Pattern { method, host, path, is_prefix } = Pattern::parse(key).ok()?;
        let method_end = method.len();
        let host_start = method_end + if host.is_empty() { ":".len() } else { "://".len() };
        let host = host_start..host_start + host.len();
        let path_end = host.end + path.len();
        Some(Route { key: key.into(), method_end, host, path_end, is_prefix, serves })
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The function, or the fault of a row that never had a version without one.
    pub fn serves(&self) -> Result<&Arc<Function>, &str> {
        self.serves.as_ref().map_err(String::as_str)
    }

    fn is_exact(&self) -> bool {
        !self.is_prefix && !self.path().contains('{')
    }

    fn method(&self) -> &str {
        &self.key[..self.method_end]
    }

    fn host(&self) -> &str {
        &self.key[self.host.clone()]
    }

    fn path(&self) -> &str {
        &self.key[self.host.end..self.path_end]
    }
}

/// All routes of one reading of the registry.
#[derive(Debug, Default)]
pub struct Routes {
    any_host: HostRoutes,
    /// The routes of each host, by [`comparable_host`].
    hosts: HashMap<Box<str>, HostRoutes>,
    count: usize,
}

/// The routes of one host, or of every host.
#[derive(Debug, Default)]
struct HostRoutes {
    exact: HashMap<ExactPath, Methods>,
    /// Routes with a `{name}` or a `*`, the most specific shape first.
    shapes: Vec<ShapeRoutes>,
}

/// The routes of one path, each with another method. Most paths have one, which then costs no memory of its own: maps of
/// 100,000 paths are built at each change.
#[derive(Debug)]
enum Methods {
    One(Arc<Route>),
    Several(Vec<Arc<Route>>),
}

impl Methods {
    fn as_slice(&self) -> &[Arc<Route>] {
        match self {
            Methods::One(route) => std::slice::from_ref(route),
            Methods::Several(routes) => routes,
        }
    }

    /// Of two routes that match the same requests, such as `/{a}` and `/{b}`, the one whose key sorts first stays.
    fn add(&mut self, route: Arc<Route>) {
        if let Methods::One(first) = self {
            *self = Methods::Several(vec![first.clone()]);
        }
        let Methods::Several(routes) = self else { return };
        match routes.iter_mut().find(|other| other.method() == route.method()) {
            Some(other) if other.key <= route.key => {}
            Some(other) => *other = route,
            None => routes.push(route),
        }
    }
}

/// A route as a key of a map: its path, which is not copied.
#[derive(Debug)]
struct ExactPath(Arc<Route>);

impl Borrow<str> for ExactPath {
    fn borrow(&self) -> &str {
        self.0.path()
    }
}

impl Hash for ExactPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.path().hash(state);
    }
}

impl PartialEq for ExactPath {
    fn eq(&self, other: &ExactPath) -> bool {
        self.0.path() == other.0.path()
    }
}

impl Eq for ExactPath {}

/// Adds a route under its path.
fn add_to<K: Eq + Hash>(map: &mut HashMap<K, Methods>, key: K, route: Arc<Route>) {
    match map.entry(key) {
        Entry::Vacant(vacant) => drop(vacant.insert(Methods::One(route))),
        Entry::Occupied(mut methods) => methods.get_mut().add(route),
    }
}

/// The routes of one shape, by their path with `{}` for each `{name}`.
#[derive(Debug)]
struct ShapeRoutes {
    shape: Shape,
    /// The lengths of its paths, sorted: the length alone rules out most paths that match none. Empty where the shape
    /// has a `{name}`, which can have any length.
    lengths: Vec<usize>,
    routes: HashMap<Box<str>, Methods>,
}

/// The order is the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The end of an exact path.
    End,
    Literal,
    Param,
    /// The `*` of a prefix, which ends it.
    Rest,
}

impl Shape {
    fn of(route: &Route) -> Shape {
        let part = |segment| if param_name(segment).is_some() { Part::Param } else { Part::Literal };
        let segments = route.path().split('/').skip(1).map(part);
        Shape(segments.chain([if route.is_prefix { Part::Rest } else { Part::End }]).collect())
    }

    /// Segments, the end not counted.
    fn len(&self) -> usize {
        self.0.len() - 1
    }

    fn is_prefix(&self) -> bool {
        self.0.last() == Some(&Part::Rest)
    }

    fn has_params(&self) -> bool {
        self.0.contains(&Part::Param)
    }
}

impl Routes {
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Routes {
        let (mut any_host, mut of_hosts) = (Vec::new(), HashMap::<Box<str>, Vec<Arc<Route>>>::new());
        for route in routes {
            match route.host() {
                "" => any_host.push(route),
                host => of_hosts.entry(comparable_host(host).into()).or_default().push(route),
            }
        }
        let count = any_host.len() + of_hosts.values().map(Vec::len).sum::<usize>();
        let hosts = of_hosts.into_iter().map(|(host, routes)| (host, HostRoutes::new(routes)));
        Routes { any_host: HostRoutes::new(any_host), hosts: hosts.collect(), count }
    }

    /// Number of routes, unusable ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// True if a row of this key is among them.
    pub fn contains(&self, key: &str) -> bool {
        let Some(route) = Route::new(key, Err(String::new())) else { return false };
        let routes = match route.host() {
            "" => Some(&self.any_host),
            host => self.hosts.get(comparable_host(host).as_ref()),
        };
        routes.is_some_and(|routes| routes.contains(&route))
    }

    /// `host` has no port.
    pub fn find(&self, method: &str, host: &str, path: &str) -> Found {
        // Most registries have no host; they skip the look-up by host.
        let of_host = if self.hosts.is_empty() { None } else { self.hosts.get(comparable_host(host).as_ref()) };
        let all = || of_host.into_iter().chain([&self.any_host]);
        if let Some((route, path_info_start)) = all().find_map(|routes| routes.find(method, path)) {
            return Found::Route { route: route.clone(), path_info_start };
        }
        let others = all().flat_map(|routes| routes.matches(path)).flat_map(|(methods, _)| methods.as_slice());
        allow(others.map(|route| route.method())).map_or(Found::NotFound, |allow| Found::MethodNotAllowed { allow })
    }
}

impl HostRoutes {
    fn new(routes: Vec<Arc<Route>>) -> HostRoutes {
        let mut all = HostRoutes::default();
        all.exact.reserve(routes.len()); // growing on the way would move all again and again
        let mut shapes: BTreeMap<Shape, HashMap<Box<str>, Methods>> = BTreeMap::new();
        for route in routes {
            match route.is_exact() {
                true => add_to(&mut all.exact, ExactPath(route.clone()), route),
                false => add_to(shapes.entry(Shape::of(&route)).or_default(), open_path(route.path()), route),
            }
        }
        all.shapes = shapes.into_iter().map(|(shape, routes)| ShapeRoutes::new(shape, routes)).collect();
        all
    }

    fn contains(&self, route: &Route) -> bool {
        let methods = match route.is_exact() {
            true => self.exact.get(route.path()),
            false => {
                let shape = Shape::of(route);
                let of_shape = self.shapes.iter().find(|other| other.shape == shape);
                of_shape.and_then(|of_shape| of_shape.routes.get(&open_path(route.path())))
            }
        };
        methods.is_some_and(|methods| methods.as_slice().iter().any(|other| other.key == route.key))
    }

    /// The route that matches the request, and the start of PATH_INFO.
    fn find<'a>(&'a self, method: &str, path: &'a str) -> Option<(&'a Arc<Route>, usize)> {
        self.matches(path).find_map(|(methods, path_info_start)| {
            let own = |method: &str| methods.as_slice().iter().find(|route| route.method() == method);
            let route = own(method).or_else(|| if method == "HEAD" { own("GET") } else { None });
            Some((route.or_else(|| own(ANY_METHOD))?, path_info_start))
        })
    }

    /// The routes for a path, the most specific first, each with the start of PATH_INFO.
    fn matches<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a Methods, usize)> {
        let exact = self.exact.get(path).map(|methods| (methods, path.len()));
        // Computed lazily: most paths are exact ones.
        let mut ends = None;
        let by_shape = move |of_shape: &'a ShapeRoutes| of_shape.get(path, ends.get_or_insert_with(|| Ends::of(path)));
        exact.into_iter().chain(self.shapes.iter().filter_map(by_shape))
    }
}

impl ShapeRoutes {
    fn new(shape: Shape, routes: HashMap<Box<str>, Methods>) -> ShapeRoutes {
        let mut lengths = Vec::new();
        if !shape.has_params() {
            lengths.extend(routes.keys().map(|path| path.len()));
            lengths.sort_unstable();
            lengths.dedup();
        }
        ShapeRoutes { shape, lengths, routes }
    }

    fn get(&self, path: &str, ends: &Ends) -> Option<(&Methods, usize)> {
        let end = ends.after(path, self.shape.len())?;
        if !self.shape.is_prefix() && end < path.len() {
            return None;
        }
        let methods = match self.shape.has_params() {
            false if self.lengths.binary_search(&end).is_err() => None,
            false => self.routes.get(&path[..end]),
            true => self.routes.get(self.generic(&path[..end])?.as_str()),
        };
        Some((methods?, end))
    }

    /// The path with `{}` for the open segments of this shape; `None` where one of them is empty.
    fn generic(&self, path: &str) -> Option<String> {
        let mut generic = String::with_capacity(path.len() + 2);
        for (segment, part) in path.split('/').skip(1).zip(&self.shape.0) {
            generic.push('/');
            match part {
                Part::Param if segment.is_empty() => return None,
                Part::Param => generic.push_str("{}"),
                _ => generic.push_str(segment),
            }
        }
        Some(generic)
    }
}

/// The ends of a path's segments.
struct Ends {
    /// The ends of the first segments; a path has at most [`crate::limits::TARGET_BYTES_MAX`] bytes.
    kept: [u16; ENDS_KEPT],
    /// The number of all segments.
    count: usize,
}

/// Segments of a path whose ends are kept: more than routes have.
const ENDS_KEPT: usize = 16;

impl Ends {
    fn of(path: &str) -> Ends {
        let mut ends = Ends { kept: [0; ENDS_KEPT], count: 0 };
        for (at, byte) in path.bytes().enumerate() {
            if byte == b'/' {
                if let Some(end) = ends.count.checked_sub(1).and_then(|segment| ends.kept.get_mut(segment)) {
                    *end = at as u16;
                }
                ends.count += 1;
            }
        }
        ends
    }

    /// The end of the first `segments` of the path; `None` where it has fewer.
    fn after(&self, path: &str, segments: usize) -> Option<usize> {
        match segments {
            0 => (path.is_empty() || path.starts_with('/')).then_some(0),
            _ if segments > self.count => None,
            _ if segments == self.count => Some(path.len()),
            _ if segments <= ENDS_KEPT => Some(usize::from(self.kept[segments - 1])),
            _ => path.match_indices('/').nth(segments).map(|(at, _)| at),
        }
    }
}

fn open_path(path: &str) -> Box<str> {
    if !path.contains('{') {
        return path.into();
    }
    let segments = path.split('/').map(|segment| if param_name(segment).is_some() { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/").into()
}

/// The field Allow: the usual methods in their usual order, then others by name. GET implies HEAD, and the gateway
/// always answers OPTIONS. `None` without any method.
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

#[cfg(test)]
mod tests;
