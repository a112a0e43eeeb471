//! Defaults, values that cannot be used, and `--help`.

use super::*;
use crate::cases::{check, each};

fn with(pairs: &[(&str, &str)]) -> Result<Settings> {
    Settings::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
}

#[test]
fn defaults_are_those_of_the_table() {
    let settings = with(&[]).unwrap();
    assert_eq!(settings.address.to_string(), "0.0.0.0:8080");
    assert_eq!((settings.workers, settings.worker_slots), (4, 8));
    assert_eq!(settings.weights, Weights::default());
    assert_eq!(settings.console.unwrap().to_string(), "127.0.0.1:8081");
    assert!(settings.db.is_absolute() && settings.db.ends_with("faas_meta.db"));
    assert_eq!(settings.module_root, settings.db.parent().unwrap());
}

#[test]
fn a_misspelt_setting_is_refused_with_the_nearest_name() {
    let refused = |name: &str| refuse_unknown([name.to_string()].into_iter()).err().map(|error| error.to_string());
    let cases = [("FAAS_PRT", "FAAS_PORT"), ("FAAS_WORKER", "FAAS_WORKERS"), ("FAAS_DRAIN", "FAAS_DRAIN_MS")];
    each(cases, |(name, meant)| {
        let text = refused(name).unwrap();
        assert!(text.starts_with(&format!("{name} is no setting; is {meant} meant?")), "{text}");
    });
    check(["FAAS_PORT", "FAAS_INSTALL", "FAAS_TEST_SOAK", "PATH", "faas_port"].map(|name| (name, None)), |name| {
        refused(name)
    });
}

#[test]
fn faas_port_wins_over_port() {
    assert_eq!(with(&[("PORT", "81")]).unwrap().address.port(), 81);
    assert_eq!(with(&[("PORT", "81"), ("FAAS_PORT", "82")]).unwrap().address.port(), 82);
    assert_eq!(with(&[("PORT", "81"), ("FAAS_PORT", "")]).unwrap().address.port(), 81);
}

#[test]
fn an_empty_console_address_is_off() {
    assert_eq!(with(&[("FAAS_CONSOLE", "")]).unwrap().console, None);
    assert_eq!(with(&[("FAAS_CONSOLE", "[::1]:0")]).unwrap().console.unwrap().to_string(), "[::1]:0");
}

#[test]
fn a_value_that_cannot_be_used_is_named() {
    let bad = [
        ("FAAS_PORT", "http"),
        ("FAAS_PORT", "65536"),
        ("PORT", "-1"),
        ("FAAS_HOST", "localhost"),
        ("FAAS_WORKERS", "0"),
        ("FAAS_WORKERS", "4 "),
        ("FAAS_WORKER_SLOTS", "many"),
        ("FAAS_BODY_MAX", "-1"),
        ("FAAS_ANSWER_MAX", "0"),
        ("FAAS_DRAIN_MS", "1.5"),
        ("FAAS_QUEUE_MAX", "100000"),
        ("FAAS_FORK_SERVERS", "2"),
        ("FAAS_REQUIRE_SANDBOX", "1"),
        ("FAAS_EMA", "1"),
        ("FAAS_EMA", "NaN"),
        ("FAAS_ALPHA", "-0.1"),
        ("FAAS_QUEUE_MAX", "1e3"),
        ("FAAS_CONSOLE", "8081"),
        ("FAAS_CONSOLE", "localhost:8081"),
        ("FAAS_TRUSTED_PROXIES", "localhost"),
    ];
    each(bad, |(name, value)| {
        let error = with(&[(name, value)]).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with(&format!("{name}={value:?} cannot be used")), "{error}");
    });
}

#[test]
fn help_names_every_setting_that_is_read() {
    let asked = std::cell::RefCell::new(Vec::new());
    let _ = Settings::from_lookup(|name| {
        asked.borrow_mut().push(name.to_string());
        None
    });
    each(asked.into_inner(), |name| {
        // The gateway sets it for its programs; users do not set it.
        assert!(name == INSTANCE_VARIABLE || help().contains(&name), "{name} is missing in --help");
    });
}
