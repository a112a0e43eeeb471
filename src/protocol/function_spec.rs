//! A function's settings: the part of its descriptor that a worker needs, and its form on the wire.
//!
//! The list of fields stands once, in the table below. A row of the registry is parsed into a [`FunctionSpec`] when it
//! arrives (config_loader.rs) and encoded at once. Each INVOKE frame carries those bytes unchanged, and the worker
//! passes them unchanged to a child of a fork server (runtimes/README.md, "A child"). So a new field touches one line
//! here, one line in config_loader.rs, and the code that uses it.
//!
//! A setting is `name=value` and a NUL. Texts and paths stand as they are, numbers in decimal, yes and no as 1 and 0. A
//! list repeats its setting for each entry; a list of pairs has `name=value` for values. An empty text is left out. A
//! reader ignores names that it does not know.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::ProtocolError;

/// A word in a descriptor, out of a fixed list.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Each variant with its word.
            pub const WORDS: &[(&str, $name)] = &[$(($word, $name::$variant)),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl Setting for $name {
            fn encode(&self, name: &str, settings: &mut Vec<u8>) {
                push(settings, name, self.as_str().as_bytes());
            }

            fn decode(given: &Given<'_>, name: &str) -> Option<$name> {
                let word = given.text(name)?;
                $name::WORDS.iter().find(|(other, _)| *other == word).map(|(_, value)| *value)
            }
        }
    };
}

words! {
    /// The runtime of a function.
    Runtime {
        /// A PHP script.
        Php = "php",
        /// A WebAssembly module.
        Wasm = "wasm",
        /// A program, or a script that names its interpreter in its first line.
        Native = "native",
    }
}

words! {
    /// The way in which a function's process starts.
    Start {
        /// Forked from a fork server where one is ready (runtimes/README.md), else by exec.
        Auto = "auto",
        /// By exec, always.
        Cold = "cold",
    }
}

words! {
    /// The program that runs a WASM function.
    Engine {
        /// faas-wasm of runtimes/wasm, where it is built, else wasmer.
        Auto = "auto",
        /// `wasmer run`.
        Wasmer = "wasmer",
    }
}

words! {
    /// The way in which a function's stdout is read.
    Output {
        /// A CGI response if it begins with a CGI header block; otherwise all of it is the body.
        Auto = "auto",
        /// It must begin with a CGI header block.
        Cgi = "cgi",
        /// All of it is the body.
        Raw = "raw",
    }
}

words! {
    /// The rule that ends a call, or lets it finish, when its client hangs up.
    OnHangup {
        /// A GET, HEAD or OPTIONS ends; any other method finishes.
        Auto = "auto",
        /// The call ends, whatever its method.
        Kill = "kill",
        /// The call finishes.
        Finish = "finish",
    }
}

/// Makes the struct out of the table of its fields: `field "name of the setting": type`.
macro_rules! function_spec {
    ($($(#[$doc:meta])* $field:ident $name:literal: $type:ty),+ $(,)?) => {
        /// One function's settings.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct FunctionSpec {
            $($(#[$doc])* pub $field: $type),+
        }

        impl FunctionSpec {
            /// The settings, in the order of the table.
            pub fn encode(&self) -> Vec<u8> {
                let mut settings = Vec::with_capacity(512);
                $(Setting::encode(&self.$field, $name, &mut settings);)+
                settings.shrink_to_fit(); // kept for each of up to 100,000 routes
                settings
            }

            /// # Errors
            /// [`ProtocolError`] if a setting is missing, has an unknown value, or lacks its NUL.
            pub fn decode(settings: &[u8]) -> Result<FunctionSpec, ProtocolError> {
                let given = Given::split(settings).ok_or_else(|| malformed("a setting has no name, or no end"))?;
                Ok(FunctionSpec {
                    $($field: Setting::decode(&given, $name)
                        .ok_or_else(|| malformed(concat!($name, " is missing, or has no value that we know")))?),+
                })
            }
        }
    };
}

function_spec! {
    /// The row's key, such as `GET:/api/*`.
    route "route": String,
    /// The descriptor's `name`, for the log; the key if it has none.
    name "name": String,
    runtime "runtime": Runtime,
    /// Absolute path.
    module "module": PathBuf,
    /// Empty if the descriptor has none.
    handler "handler": String,
    start "start": Start,
    engine "engine": Engine,
    output "output": Output,
    memory_mib "memory_mib": u64,
    /// Bound of its scratch folder.
    scratch_mib "scratch_mib": u64,
    /// Counts from the spawn on.
    timeout "timeout_ms": Duration,
    /// True if it may use the network.
    net "net": bool,
    /// True if it may make files that lie in memory only (memfd_create(2)).
    memfd "memfd": bool,
    /// True if output is passed on as soon as it comes.
    stream "stream": bool,
    on_hangup "on_hangup": OnHangup,
    /// Absolute paths that it may write to, or beneath, besides its scratch folder.
    write "write": Vec<PathBuf>,
    /// Arguments of the function after the module.
    args "arg": Vec<String>,
    /// Folders that a WASM function can open: the name in the module, and the absolute path.
    dirs "dir": Vec<(String, PathBuf)>,
    /// Directives of a PHP function, and their values.
    ini "ini": Vec<(String, String)>,
}

/// A type that a field can have.
trait Setting: Sized {
    fn encode(&self, name: &str, settings: &mut Vec<u8>);
    /// `None` if it is missing or malformed.
    fn decode(given: &Given<'_>, name: &str) -> Option<Self>;
}

impl Setting for String {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        if !self.is_empty() {
            push(settings, name, self.as_bytes());
        }
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<String> {
        text(given.all(name).next().unwrap_or_default())
    }
}

impl Setting for PathBuf {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        push(settings, name, self.as_os_str().as_bytes());
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<PathBuf> {
        given.all(name).next().map(path)
    }
}

impl Setting for u64 {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        push(settings, name, self.to_string().as_bytes());
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<u64> {
        given.text(name)?.parse().ok()
    }
}

impl Setting for Duration {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        (self.as_millis() as u64).encode(name, settings);
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<Duration> {
        u64::decode(given, name).map(Duration::from_millis)
    }
}

impl Setting for bool {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        u64::from(*self).encode(name, settings);
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<bool> {
        u64::decode(given, name).map(|number| number != 0)
    }
}

impl Setting for Vec<String> {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        self.iter().for_each(|item| push(settings, name, item.as_bytes()));
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<Vec<String>> {
        given.all(name).map(text).collect()
    }
}

impl Setting for Vec<PathBuf> {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        self.iter().for_each(|item| item.encode(name, settings));
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<Vec<PathBuf>> {
        Some(given.all(name).map(path).collect())
    }
}

impl Setting for Vec<(String, PathBuf)> {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        self.iter().for_each(|(key, value)| push_pair(settings, name, key, value.as_os_str().as_bytes()));
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<Vec<(String, PathBuf)>> {
        given.pairs(name, |value| Some(path(value)))
    }
}

impl Setting for Vec<(String, String)> {
    fn encode(&self, name: &str, settings: &mut Vec<u8>) {
        self.iter().for_each(|(key, value)| push_pair(settings, name, key, value.as_bytes()));
    }

    fn decode(given: &Given<'_>, name: &str) -> Option<Vec<(String, String)>> {
        given.pairs(name, text)
    }
}

/// Appends one setting.
pub fn push(settings: &mut Vec<u8>, name: &str, value: &[u8]) {
    settings.extend_from_slice(name.as_bytes());
    settings.push(b'=');
    settings.extend_from_slice(value);
    settings.push(0);
}

fn push_pair(settings: &mut Vec<u8>, name: &str, key: &str, value: &[u8]) {
    push(settings, name, &[key.as_bytes(), b"=", value].concat());
}

/// Received settings, which are looked up by name.
struct Given<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Given<'a> {
    fn split(settings: &'a [u8]) -> Option<Given<'a>> {
        strings(settings)?.map(split_pair).collect::<Option<Vec<_>>>().map(Given)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(other, _)| *other == name.as_bytes()).map(|(_, value)| *value)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    fn pairs<T>(&self, name: &str, value_of: impl Fn(&[u8]) -> Option<T>) -> Option<Vec<(String, T)>> {
        let pair = |value| split_pair(value).and_then(|(key, value)| Some((text(key)?, value_of(value)?)));
        self.all(name).map(pair).collect()
    }
}

/// The strings of a block, each without the NUL that ends it; `None` if the last one lacks its NUL.
pub fn strings(block: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let is_whole = block.last().is_none_or(|last| *last == 0);
    is_whole.then(|| block.split_inclusive(|byte| *byte == 0).map(|string| &string[..string.len() - 1]))
}

/// `name=value`, taken apart at the first `=`.
fn split_pair(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..at], &pair[at + 1..]))
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn malformed(fault: &str) -> ProtocolError {
    ProtocolError::malformed("a block of settings", fault)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A function with a value in every field.
    pub fn full() -> FunctionSpec {
        FunctionSpec {
            route: "GET:/api/*".into(),
            name: "hello".into(),
            runtime: Runtime::Php,
            module: "/srv/hello.php".into(),
            handler: "main".into(),
            start: Start::Cold,
            engine: Engine::Wasmer,
            output: Output::Raw,
            memory_mib: 128,
            scratch_mib: 64,
            timeout: Duration::from_millis(30_000),
            net: false,
            memfd: true,
            stream: true,
            on_hangup: OnHangup::Kill,
            write: vec!["/var/a".into(), PathBuf::from(OsStr::from_bytes(b"/var/\xff"))],
            args: vec!["-x".into(), String::new(), "a=b".into()],
            dirs: vec![("/data".into(), "/srv/data=1".into())],
            ini: vec![("precision".into(), "3".into()), ("a.b".into(), "x=\ny".into())],
        }
    }

    #[test]
    fn a_spec_comes_back_as_it_was_sent() {
        let sent = full();
        assert_eq!(FunctionSpec::decode(&sent.encode()).unwrap(), sent);
        let empty = FunctionSpec { handler: String::new(), args: Vec::new(), ini: Vec::new(), ..full() };
        assert_eq!(FunctionSpec::decode(&empty.encode()).unwrap(), empty);
    }

    #[test]
    fn unknown_settings_are_ignored_and_missing_or_senseless_ones_refused() {
        let settings = full().encode();
        let more = [settings.as_slice(), b"newer=1\0"].concat();
        assert_eq!(FunctionSpec::decode(&more).unwrap(), full());
        let text = String::from_utf8_lossy(&settings).into_owned();
        let changes = [
            ("runtime=php\0", ""),
            ("runtime=php\0", "runtime=lua\0"),
            ("memory_mib=128\0", "memory_mib=-1\0"),
            ("net=0\0", "net\0"),
            ("dir=/data=/srv/data=1\0", "dir=/data\0"),
        ];
        crate::cases::check(changes.map(|change| (change, true)), |(from, to)| {
            text.contains(from) && FunctionSpec::decode(text.replace(from, to).as_bytes()).is_err()
        });
        assert!(FunctionSpec::decode(&settings[..settings.len() - 1]).is_err(), "the last NUL is missing");
    }
}
