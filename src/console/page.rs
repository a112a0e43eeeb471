//! The page's files, built into the program: it needs no folder, no network and no build step.

use super::Console;
use super::call::Call;
use super::reply::Reply;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

pub const OPENAPI: &str = include_str!("openapi.json");

/// Name, type, content.
type File = (&'static str, &'static str, &'static str);

/// Files for the login form, and for the page as well.
const OPEN: &[File] = &[
    ("style.css", CSS, include_str!("page/style.css")),
    ("login.js", JAVASCRIPT, include_str!("page/login.js")),
    ("icon.svg", SVG, include_str!("page/icon.svg")),
];

const FILES: &[File] = &[
    ("main.js", JAVASCRIPT, include_str!("page/main.js")),
    ("api.js", JAVASCRIPT, include_str!("page/api.js")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("table.js", JAVASCRIPT, include_str!("page/table.js")),
    ("charts.js", JAVASCRIPT, include_str!("page/charts.js")),
    ("overview.js", JAVASCRIPT, include_str!("page/overview.js")),
    ("function.js", JAVASCRIPT, include_str!("page/function.js")),
    ("tabs.js", JAVASCRIPT, include_str!("page/tabs.js")),
    ("calls.js", JAVASCRIPT, include_str!("page/calls.js")),
    ("deploy.js", JAVASCRIPT, include_str!("page/deploy.js")),
    ("history.js", JAVASCRIPT, include_str!("page/history.js")),
    ("logs.js", JAVASCRIPT, include_str!("page/logs.js")),
    ("sandbox.js", JAVASCRIPT, include_str!("page/sandbox.js")),
];

pub fn index(_: &Console, _: &mut Call) -> Result<Reply, Reply> {
    Ok(Reply::new(200, HTML, include_str!("page/index.html").as_bytes()))
}

pub fn login(_: &Console, _: &mut Call) -> Result<Reply, Reply> {
    Ok(Reply::new(200, HTML, include_str!("page/login.html").as_bytes()))
}

/// A file for clients without a token.
pub fn open_file(_: &Console, call: &mut Call) -> Result<Reply, Reply> {
    find(OPEN, &call.params[0])
}

pub fn file(_: &Console, call: &mut Call) -> Result<Reply, Reply> {
    find(FILES, &call.params[0])
}

pub fn openapi(_: &Console, _: &mut Call) -> Result<Reply, Reply> {
    Ok(Reply::new(200, "application/json", OPENAPI.as_bytes()))
}

fn find(files: &[File], name: &str) -> Result<Reply, Reply> {
    let file = files.iter().find(|(other, ..)| *other == name);
    let (_, content_type, content) = file.ok_or_else(|| Reply::problem(404, "the page has no such file"))?;
    Ok(Reply::new(200, content_type, content.as_bytes()))
}
