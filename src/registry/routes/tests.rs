//! Look-ups, by route keys and paths.

use super::*;
use crate::cases::check;
use crate::registry::config_loader::{Places, parse};
use crate::registry::kv::{Kv, Version};

fn route(key: &str) -> Arc<Route> {
    let descriptor = r#"{"runtime":"php","module":"x.php"}"#;
    let function = parse(key, descriptor, &Places::default(), Arc::default()).unwrap();
    Arc::new(Route::new(key, Ok(Arc::new(function))).unwrap())
}

fn kv(keys: &[&str]) -> Kv {
    let kv = Kv::new();
    kv.swap(Routes::new(keys.iter().map(|key| route(key))), None);
    kv
}

/// `route SCRIPT_NAME|PATH_INFO`, or the other result.
fn find(kv: &Kv, method: &str, path: &str) -> String {
    find_at(kv, method, "", path)
}

fn find_at(kv: &Kv, method: &str, host: &str, path: &str) -> String {
    match kv.find(method, host, path).0 {
        Found::Route { route, path_info_start } => match route.serves() {
            Ok(function) => format!("{} {}|{}", function.route, &path[..path_info_start], &path[path_info_start..]),
            Err(fault) => format!("{} is unusable: {fault}", route.key()),
        },
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
fn routes_of_the_host_come_first() {
    let kv = kv(&[
        "GET:/cart",
        "POST:/cart",
        "GET:/only",
        "GET://shop.example/cart",
        "GET://Shop.example/*",
        "PUT://shop.example/cart/{id}",
        "GET://[::1]/cart",
    ]);
    let table = [
        ("GET", "shop.example", "/cart", "GET://shop.example/cart /cart|"),
        ("GET", "SHOP.Example.", "/cart", "GET://shop.example/cart /cart|"),
        ("HEAD", "shop.example", "/cart", "GET://shop.example/cart /cart|"),
        ("GET", "www.shop.example", "/cart", "GET:/cart /cart|"),
        ("GET", "", "/cart", "GET:/cart /cart|"),
        ("GET", "[::1]", "/cart", "GET://[::1]/cart /cart|"),
        // The host decides before the path does; then the look-up tries a method that the host lacks without the host.
        ("GET", "shop.example", "/only", "GET://Shop.example/* |/only"),
        ("POST", "shop.example", "/cart", "POST:/cart /cart|"),
        ("PUT", "shop.example", "/cart/7", "PUT://shop.example/cart/{id} /cart/7|"),
        ("PUT", "shop.example", "/cart", "allow GET, HEAD, POST, OPTIONS"),
        ("PUT", "other.example", "/cart/7", "not found"),
        ("GET", "shop.example", "//shop.example/cart", "GET://Shop.example/* |//shop.example/cart"),
    ];
    let cases = table.map(|(method, host, path, found)| ((method, host, path), found.to_string()));
    check(cases, |(method, host, path)| find_at(&kv, method, host, path));
    assert_eq!(kv.len(), 7);
}

#[test]
fn a_literal_beats_a_param_and_a_param_beats_a_prefix() {
    let kv = kv(&[
        "GET:/users/{id}",
        "GET:/users/me",
        "GET:/users/*",
        "GET:/users/{id}/posts/{post}",
        "GET:/users/{id}/posts/new",
        "GET:/users/me/*",
        "GET:/{any}/x",
        "GET:/{any}/{more}/*",
    ]);
    let table = [
        ("/users/me", "GET:/users/me /users/me|"),
        ("/users/7", "GET:/users/{id} /users/7|"),
        ("/users/7/posts/8", "GET:/users/{id}/posts/{post} /users/7/posts/8|"),
        ("/users/7/posts/new", "GET:/users/{id}/posts/new /users/7/posts/new|"),
        ("/users/me/posts/new", "GET:/users/me/* /users/me|/posts/new"),
        ("/users/7/posts", "GET:/users/* /users|/7/posts"),
        ("/users/", "GET:/users/* /users|/"),
        ("/users//posts/8", "GET:/users/* /users|//posts/8"),
        ("/users/{id}", "GET:/users/{id} /users/{id}|"),
        ("/a/x", "GET:/{any}/x /a/x|"),
        ("/a/b", "GET:/{any}/{more}/* /a/b|"),
        ("/a/b/c/d", "GET:/{any}/{more}/* /a/b|/c/d"),
        ("/a//c", "not found"),
        ("/a", "not found"),
        ("a/b", "not found"),
    ];
    check(table.map(|(path, found)| (path, found.to_string())), |path| find(&kv, "GET", path));
    assert_eq!(find(&kv, "POST", "/users/7"), "allow GET, HEAD, OPTIONS");
}

#[test]
fn any_method_comes_after_a_methods_own_route() {
    let kv = kv(&["*:/x", "POST:/x", "GET:/g", "*:/*"]);
    assert_eq!(find(&kv, "POST", "/x"), "POST:/x /x|");
    let others = ["GET", "HEAD", "OPTIONS", "BREW"].map(|method| (method, "*:/x /x|".to_string()));
    check(others, |method| find(&kv, method, "/x"));
    assert_eq!(find(&kv, "HEAD", "/g"), "GET:/g /g|");
    assert_eq!(find(&kv, "PUT", "/g"), "*:/* |/g");
}

#[test]
fn of_two_routes_for_the_same_requests_the_first_key_counts() {
    let orders = [["GET:/{a}", "GET:/{b}"], ["GET:/{b}", "GET:/{a}"]];
    check(orders.map(|keys| (keys, "GET:/{a} /x|".to_string())), |keys| find(&kv(keys), "GET", "/x"));
}

#[test]
fn paths_are_compared_as_sent() {
    let kv = kv(&["GET:/a%20b", "GET:/A"]);
    assert_eq!(find(&kv, "GET", "/a%20b"), "GET:/a%20b /a%20b|");
    let others = ["/a b", "/a", "/A/", "//A", "/./A", "/%41", "", "*", "A", "/é/ü"];
    check(others.map(|path| (path, "not found".to_string())), |path| find(&kv, "GET", path));
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
    kv.swap(Routes::new([Arc::new(bad), route("GET:/api/*")]), None);
    assert_eq!(find(&kv, "GET", "/api/bad"), "GET:/api/bad is unusable: timeout is 0");
    assert_eq!(find(&kv, "GET", "/api/good"), "GET:/api/* /api|/good");
    assert_eq!(find(&kv, "POST", "/api/bad"), "allow GET, HEAD, OPTIONS");
    assert!(Route::new("get:/x", Err("k is lower case".into())).is_none());
}

#[test]
fn a_swap_changes_everything_at_once_and_leaves_what_was_found() {
    let kv = kv(&["GET:/a", "GET:/b"]);
    let Found::Route { route: found, .. } = kv.find("GET", "", "/a").0 else { panic!("/a is registered") };
    assert_eq!((kv.len(), kv.generation()), (2, None));
    kv.swap(Routes::new([route("GET:/c")]), Some(Version { generation: 7, changed_at: 0.0, alive_at: 0.0 }));
    assert_eq!((kv.len(), kv.generation()), (1, Some(7)));
    assert_eq!(find(&kv, "GET", "/a"), "not found");
    assert_eq!(found.serves().unwrap().route, "GET:/a");
}

#[test]
fn nothing_is_loaded_before_the_first_swap_even_of_no_routes() {
    let kv = Kv::new();
    assert!(!kv.is_loaded());
    assert_eq!(find(&kv, "GET", "/"), "not found");
    kv.swap(Routes::default(), None);
    assert!(kv.is_loaded() && kv.is_empty());
}

#[test]
fn routes_of_many_segments_are_found() {
    let path = "/x".repeat(40);
    let (deep, open) = (format!("GET:{path}/*"), format!("GET:{path}/{{id}}/end"));
    let kv = kv(&[&deep, &open]);
    assert_eq!(find(&kv, "GET", &format!("{path}/y/z")), format!("{deep} {path}|/y/z"));
    assert_eq!(find(&kv, "GET", &format!("{path}/y/end")), format!("{open} {path}/y/end|"));
    assert_eq!(find(&kv, "GET", &"/x".repeat(39)), "not found");
}

#[test]
fn a_key_is_contained_whatever_else_takes_its_requests() {
    let keys = ["GET:/a", "GET:/a/*", "GET:/a/{x}", "*:/a/{y}", "POST:/{x}/b/*", "GET://host/a"];
    let kv = kv(&keys);
    let others = ["GET:/b", "POST:/a", "GET:/a/{z}", "*:/a/*", "GET://other/a", "a"].map(|key| (key, false));
    check(keys.map(|key| (key, true)).into_iter().chain(others), |key| kv.contains(key));
}
