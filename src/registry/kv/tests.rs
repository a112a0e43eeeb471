//! The look-up rules of kv.rs, and what a swap changes.

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

/// `route SCRIPT_NAME|PATH_INFO`, or another result in words.
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
fn a_prefix_takes_its_own_folder() {
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
fn a_method_falls_through_to_a_prefix_with_it() {
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
    assert_eq!(find(&self::kv(&["POST:/p"]), "GET", "/p"), "allow POST, OPTIONS");
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
fn a_swap_leaves_functions_that_were_found() {
    let kv = kv(&["GET:/a", "GET:/b"]);
    let Found::Function { function, .. } = kv.find("GET", "/a") else { panic!("/a is registered") };
    assert_eq!((kv.len(), kv.generation()), (2, 1));
    kv.swap(Routes::new([route("GET:/c")]));
    assert_eq!((kv.len(), kv.generation()), (1, 2));
    assert_eq!(find(&kv, "GET", "/a"), "not found");
    assert_eq!(function.route, "GET:/a");
}

#[test]
fn a_swap_of_no_routes_counts_as_loaded() {
    let kv = Kv::new();
    assert!(!kv.is_loaded());
    assert_eq!(find(&kv, "GET", "/"), "not found");
    kv.swap(Routes::default());
    assert!(kv.is_loaded() && kv.is_empty());
}
