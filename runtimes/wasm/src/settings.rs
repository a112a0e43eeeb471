//! A function's settings, from an invocation, an order to prepare, or the command line.
//!
//! runtimes/README.md lists them. On a socket they come as `name=value` and a NUL, on the command line with hyphens as
//! `--name value`. A name that the list has for other runtimes, or does not have, is ignored.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Default of the function's memory, as in a descriptor, in MiB.
const MEMORY_MIB_DEFAULT: usize = 128;

#[derive(Debug)]
pub struct Settings {
    /// The module's path, as its registry row has it: argv[0].
    pub module: OsString,
    /// Names the module's file as it is now. Compared, never taken apart.
    pub version: Vec<u8>,
    /// The working folder; if it is empty, the process keeps its own.
    pub folder: PathBuf,
    pub route: Vec<u8>,
    pub handler: Option<String>,
    pub memory_mib: usize,
    /// RLIMIT_DATA; `None` leaves the limit as it is.
    pub data_mib_max: Option<u64>,
    /// True if a component may open sockets.
    pub net: bool,
    /// The arguments after the module in argv.
    pub arguments: Vec<OsString>,
    /// Folders opened to the module: the name in the module, and the path.
    pub folders: Vec<(OsString, PathBuf)>,
    /// The compiled module; without one, the module is compiled when it is loaded.
    pub artifact: Option<PathBuf>,
}

impl Settings {
    fn new() -> Settings {
        Settings {
            module: OsString::new(),
            version: Vec::new(),
            folder: PathBuf::new(),
            route: Vec::new(),
            handler: None,
            memory_mib: MEMORY_MIB_DEFAULT,
            data_mib_max: None,
            net: false,
            arguments: Vec::new(),
            folders: Vec::new(),
            artifact: None,
        }
    }

    /// Parses `name=value` and a NUL, repeated.
    pub fn parse(block: &[u8]) -> Result<Settings> {
        let mut settings = Settings::new();
        for pair in block.split_inclusive(|byte| *byte == 0) {
            let (name, value) = pair
                .strip_suffix(b"\0")
                .and_then(|pair| split_at_equals(pair))
                .ok_or_else(|| Error::Protocol(format!("a setting is not name=value: {}", pair.escape_ascii())))?;
            settings.set(name, value).map_err(Error::Protocol)?;
        }
        match settings.module.is_empty() {
            true => Err(Error::Protocol("the settings name no module".into())),
            false => Ok(settings),
        }
    }

    /// Parses `[--NAME VALUE]... MODULE [ARGUMENT]...`.
    pub fn of_command_line(mut words: impl Iterator<Item = OsString>) -> Result<Settings> {
        let mut settings = Settings::new();
        while let Some(word) = words.next() {
            let Some(name) = word.as_bytes().strip_prefix(b"--") else {
                settings.module = word;
                settings.arguments.extend(words);
                return Ok(settings);
            };
            let name: Vec<u8> = name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
            let value = words.next().ok_or_else(|| Error::Usage(format!("{} needs a value", word.display())))?;
            settings.set(&name, value.as_bytes()).map_err(Error::Usage)?;
        }
        Err(Error::Usage("run needs a MODULE".into()))
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> std::result::Result<(), String> {
        let text = OsStr::from_bytes(value);
        match name {
            b"module" => self.module = text.to_owned(),
            b"version" => self.version = value.to_vec(),
            b"folder" => self.folder = text.into(),
            b"route" => self.route = value.to_vec(),
            b"handler" if !value.is_empty() => self.handler = Some(text.to_string_lossy().into_owned()),
            b"memory_mib" => self.memory_mib = mebibytes(name, text)? as usize,
            b"data_mib_max" => self.data_mib_max = Some(mebibytes(name, text)?),
            b"net" => self.net = value == b"1",
            b"arg" => self.arguments.push(text.to_owned()),
            b"dir" => self.folders.push(folder(value)?),
            b"artifact" => self.artifact = Some(text.into()),
            _ => {}
        }
        Ok(())
    }

    /// argv, as the function sees it.
    pub fn argv(&self) -> impl Iterator<Item = &OsString> {
        std::iter::once(&self.module).chain(&self.arguments)
    }
}

fn mebibytes(name: &[u8], value: &OsStr) -> std::result::Result<u64, String> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0 && *number < 1 << 40);
    number.ok_or_else(|| format!("{} {} is not a number of MiB from 1 on", name.escape_ascii(), value.display()))
}

/// `name=path`; an equals sign in the path is part of it.
fn folder(value: &[u8]) -> std::result::Result<(OsString, PathBuf), String> {
    match split_at_equals(value) {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((OsString::from_vec(name.to_vec()), OsStr::from_bytes(path).into()))
        }
        _ => Err(format!("dir {} is not name=path", value.escape_ascii())),
    }
}

fn split_at_equals(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..at], &pair[at + 1..]))
}
