//! One case: a function, a request, and the expected response, whether the process was forked or executed.

use serde_json::{Value, json};

use crate::http::Answer;

/// The function of a case.
pub enum Source {
    /// A PHP file that another one includes, so that many cases share one module, and so one fork server.
    Included(String),
    /// A PHP file that is the module itself.
    Main(String),
    /// A WASM module, in binary form; the same bytes are the same module.
    Wasm(Vec<u8>),
}

/// The result of one call.
pub struct Seen {
    pub answer: Answer,
    /// The function's lines on stderr, and the platform's log lines about it.
    pub log: Vec<String>,
}

/// How far the calls of a case must agree, beyond the expectation for each.
pub enum Agreement {
    /// In everything: status, header, body, log.
    Whole,
    /// Like `Whole`, except for lines of the body that begin so: they differ by nature from call to call.
    AllBut(&'static [&'static str]),
    /// No line of the body may be the same in two calls.
    Distinct,
    /// No further condition.
    None,
}

pub type Check = Box<dyn Fn(&Seen)>;

pub struct Case {
    pub name: String,
    pub source: Source,
    /// Further fields of the descriptor.
    pub row: Value,
    /// Further files in the module's folder: name and text.
    pub beside: Vec<(&'static str, &'static str)>,
    pub method: &'static str,
    /// The part of the target that follows the route.
    pub suffix: &'static str,
    /// `{now}` stands for the time of sending, in ms.
    pub fields: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub status: u16,
    /// `{folder}` stands for the folder of the modules.
    pub expected: Option<Vec<u8>>,
    /// Texts that lines of the log hold, in this order. If empty, nothing may be logged.
    pub log: Vec<&'static str>,
    /// A check looks at the log, so `log` does not bound it.
    pub checks_log: bool,
    pub checks: Vec<Check>,
    pub agreement: Agreement,
    /// Calls beyond the first one, which is cold.
    pub warm_calls: usize,
}

/// A PHP function. `<?php` stands before the source.
pub fn php(name: impl Into<String>, source: impl AsRef<str>) -> Case {
    case(name, Source::Included(format!("<?php {}", source.as_ref())))
}

/// A PHP function that is the module itself, so that it sees its own file and not the file that includes others.
pub fn php_main(name: impl Into<String>, source: impl AsRef<str>) -> Case {
    case(name, Source::Main(format!("<?php {}", source.as_ref())))
}

pub fn wasm(name: impl Into<String>, module: impl Into<Vec<u8>>) -> Case {
    case(name, Source::Wasm(module.into()))
}

fn case(name: impl Into<String>, source: Source) -> Case {
    Case {
        name: name.into(),
        source,
        row: json!({}),
        beside: Vec::new(),
        method: "GET",
        suffix: "",
        fields: Vec::new(),
        body: Vec::new(),
        status: 200,
        expected: None,
        log: Vec::new(),
        checks_log: false,
        checks: Vec::new(),
        agreement: Agreement::Whole,
        warm_calls: 2,
    }
}

impl Case {
    // ---- The function ---------------------------------------------------------------------------------------------

    /// Sets a field of the descriptor.
    pub fn row(mut self, field: &str, value: impl Into<Value>) -> Case {
        self.row[field] = value.into();
        self
    }

    pub fn beside(mut self, name: &'static str, text: &'static str) -> Case {
        self.beside.push((name, text));
        self
    }

    // ---- The request ----------------------------------------------------------------------------------------------

    pub fn method(mut self, method: &'static str) -> Case {
        self.method = method;
        self
    }

    /// Appends to the route's path: `/further?query`.
    pub fn at(mut self, suffix: &'static str) -> Case {
        self.suffix = suffix;
        self
    }

    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Case {
        self.fields.push((name, value.into()));
        self
    }

    pub fn posts(mut self, body: impl Into<Vec<u8>>) -> Case {
        self.method = "POST";
        self.body = body.into();
        self
    }

    // ---- The response ---------------------------------------------------------------------------------------------

    pub fn answers(mut self, body: impl Into<Vec<u8>>) -> Case {
        self.expected = Some(body.into());
        self
    }

    /// The response has the body of the request, byte by byte.
    pub fn echoes(self, body: impl Into<Vec<u8>>) -> Case {
        let body = body.into();
        self.row("output", "raw").posts(body.clone()).answers(body)
    }

    pub fn status(mut self, status: u16) -> Case {
        self.status = status;
        self
    }

    /// The response is a problem of this status and kind, whose detail contains `detail`.
    pub fn fails(self, status: u16, kind: &'static str, detail: &'static str) -> Case {
        self.status(status).check(move |seen| {
            let said = seen.answer.problem(status, kind);
            assert!(said.contains(detail), "{said}");
        })
    }

    pub fn exits(self, detail: &'static str) -> Case {
        self.fails(500, "function-exited", detail)
    }

    pub fn has_field(self, name: &'static str, value: &'static str) -> Case {
        self.check(move |seen| {
            let values: Vec<_> =
                seen.answer.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).collect();
            assert!(values.iter().any(|(_, other)| other == value), "{name} is not {value}: {values:?}");
        })
    }

    pub fn logs(mut self, lines: &[&'static str]) -> Case {
        self.log.extend(lines);
        self
    }

    /// `is_right` decides whether the log is as it should be.
    pub fn logs_what(mut self, is_right: fn(&[String]) -> bool) -> Case {
        self.checks_log = true;
        self.check(move |seen| assert!(is_right(&seen.log), "{:#?}", seen.log))
    }

    /// The body has all of these lines, and none of those.
    pub fn has_lines(self, lines: &'static [&'static str], none: &'static [&'static str]) -> Case {
        self.check(move |seen| {
            let text = lines_of(&seen.answer);
            let missing: Vec<_> = lines.iter().filter(|line| !text.contains(&line.to_string())).collect();
            let present: Vec<_> =
                none.iter().filter(|start| text.iter().any(|line| line.starts_with(**start))).collect();
            assert!(missing.is_empty() && present.is_empty(), "missing {missing:?}, unwanted {present:?} in {text:#?}");
        })
    }

    pub fn check(mut self, check: impl Fn(&Seen) + 'static) -> Case {
        self.checks.push(Box::new(check));
        self
    }

    // ---- The calls ------------------------------------------------------------------------------------------------

    pub fn agreeing(mut self, agreement: Agreement) -> Case {
        self.agreement = agreement;
        self
    }

    /// For a function that cannot be forked: it stays cold, and fails as cold ones do.
    pub fn stays_cold(mut self) -> Case {
        self.warm_calls = 0;
        self
    }

    /// For a case that takes a second by its nature.
    pub fn once(mut self) -> Case {
        self.warm_calls = 1;
        self
    }
}

/// The lines of a body. C's environment block ends each variable with a NUL instead.
pub fn lines_of(answer: &Answer) -> Vec<String> {
    answer.text().split(['\n', '\0']).filter(|line| !line.is_empty()).map(str::to_string).collect()
}
