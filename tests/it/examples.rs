//! The example functions that `gateway --init` registers: PHP, WASM and native, with good and with bad input.

use std::os::unix::fs::symlink;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, find, need};

#[test]
fn the_php_function_hello_greets_whom_the_body_names() {
    need(&["faas-php"]);
    let instance = Instance::start();
    let answer = instance.post("/api/hello", r#"{"name":"Alice"}"#);
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(answer.json()["message"], "Hello, Alice!");
    assert_eq!(instance.post("/api/hello", "{}").json()["message"], "Hello, World!");

    each(["", "{", "[1]", r#"{"name":5}"#], |bad| {
        let answer = instance.post("/api/hello", bad);
        assert_eq!((answer.status, answer.json()["error"].is_string()), (400, true), "{}", answer.text());
    });
}

#[test]
fn the_php_function_info_and_the_native_one_env_tell_of_their_request() {
    need(&["faas-php"]);
    let instance = Instance::start();
    let info = instance.request("GET", "/api/info?a=1&b=%20", &[("X-Request-Id", "it-1")], b"").json();
    assert_eq!([&info["method"], &info["path"]], ["GET", "/api/info"]);
    assert_eq!([&info["query"], &info["request_id"]], ["a=1&b=%20", "it-1"]);

    let env = instance.request("GET", "/api/env?x", &[("X-Request-Id", "it-2")], b"");
    assert_eq!(env.field("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(env.text(), "method GET\npath /api/env\nquery x\nrequest it-2\n");
}

#[test]
fn the_wasm_function_ping_answers() {
    need(&["faas-wasm"]);
    let answer = Instance::start().get("/ping");
    assert_eq!((answer.status, answer.json()), (200, json!({"pong": true})));
}

#[test]
fn the_wasm_function_resize_scales_png_and_jpeg() {
    need(&["faas-wasm"]);
    let instance = Instance::start();
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        each([(32, 24), (160, 120)], |(width, height)| {
            let answer = resize(&instance, &BASE64.encode(picture(format)), json!(width));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = answer.json();
            assert_eq!([&answer["width"], &answer["height"]], [&json!(width), &json!(height)]);
            let bytes = BASE64.decode(answer["image"].as_str().unwrap()).unwrap();
            let scaled = image::load_from_memory_with_format(&bytes, ImageFormat::Png).unwrap().to_rgb8();
            assert_eq!(scaled.dimensions(), (width, height));
            assert_near(scaled.get_pixel(width / 8, height / 2), LEFT);
            assert_near(scaled.get_pixel(width * 7 / 8, height / 2), RIGHT);
        });
    }
}

#[test]
#[ignore = "needs wasmer"]
fn with_its_engine_named_a_module_is_run_by_wasmer() {
    need(&["wasmer"]);
    let instance = Instance::start();
    let row = |module: &str| json!({"runtime": "wasm", "module": module, "engine": "wasmer", "memory": 512});
    instance.install(&[("GET:/ping", row("functions/ping.wasm")), ("POST:/resize", row("functions/resize.wasm"))]);
    for _ in 0..3 {
        let answer = instance.get("/ping");
        assert!(!answer.is_warm());
        assert_eq!(answer.json(), json!({"pong": true}));
    }
    assert_eq!(resize(&instance, &BASE64.encode(picture(ImageFormat::Png)), json!(32)).json()["height"], 24);
    assert!(instance.fork_servers().is_empty());
}

/// As the C original's workers do. No other program for PHP and WASM can be found.
#[test]
#[ignore = "needs wasmer"]
fn the_plain_programs_php_and_wasmer_run_the_examples() {
    need(&["php", "wasmer"]);
    let programs = tempfile::tempdir().unwrap();
    for program in ["php", "wasmer"] {
        symlink(find(program).unwrap(), programs.path().join(program)).unwrap();
    }
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1"), ("PATH", programs.path().to_str().unwrap())]);
    instance.init();
    instance.launch_copies();
    instance.wait_until_ready();
    let answer = instance.post("/api/hello", r#"{"name":"Alice"}"#);
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")), "{}", answer.text());
    assert_eq!(answer.json()["message"], "Hello, Alice!");
    let info = instance.get("/api/info?a=1").json();
    assert_eq!([&info["path"], &info["query"]], ["/api/info", "a=1"]);
    assert_eq!(instance.get("/ping").json(), json!({"pong": true}));
    assert_eq!(resize(&instance, &BASE64.encode(picture(ImageFormat::Png)), json!(32)).json()["height"], 24);
    // A program with the CGI contract on stdin and stdout.
    let script = "<?php echo \"Status: 201\\r\\nX-A: 1\\r\\n\\r\\n\", stream_get_contents(STDIN);";
    instance.function("POST:/cgi", "php", script, json!({}));
    let answer = instance.post("/cgi", "the body");
    assert_eq!((answer.status, answer.field("X-A"), answer.text()), (201, Some("1"), "the body".into()));
    assert_eq!(instance.wait_for_log("faas-php is not built; php runs PHP functions", 1).len(), 1);
}

#[test]
fn the_wasm_function_resize_refuses_what_it_cannot_scale() {
    need(&["faas-wasm"]);
    let instance = Instance::start();
    let good = BASE64.encode(picture(ImageFormat::Png));
    let damaged = BASE64.encode(&picture(ImageFormat::Png)[..60]);
    let cases = [
        // The README of the C original sends this.
        ("base64data...", json!(800), 400),
        (&good, json!(0), 400),
        (&good, json!("800"), 400),
        (&BASE64.encode("a text"), json!(800), 415),
        (&damaged, json!(800), 422),
    ];
    each(cases, |(image, width, status)| {
        let answer = resize(&instance, image, width.clone());
        let text = answer.text();
        assert_eq!((answer.status, answer.json()["error"].is_string()), (status, true), "{text}");
    });
    assert_eq!(instance.post("/resize", "not JSON").status, 400);
}

const LEFT: [u8; 3] = [200, 30, 40];
const RIGHT: [u8; 3] = [20, 60, 220];

/// 64 x 48 pixels, the left half in one colour, the right half in another.
fn picture(format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_fn(64, 48, |x, _| Rgb(if x < 32 { LEFT } else { RIGHT }));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn resize(instance: &Instance, image: &str, width: Value) -> Answer {
    instance.post("/resize", json!({"image": image, "width": width}).to_string())
}

/// Allows for the loss of JPEG.
fn assert_near(pixel: &Rgb<u8>, colour: [u8; 3]) {
    let is_near = pixel.0.iter().zip(colour).all(|(is, wanted)| is.abs_diff(wanted) <= 12);
    assert!(is_near, "{pixel:?} is not {colour:?}");
}
