//! The operator's token: the secret for every request to the console, and for calls that ask for X-Faas-Explain.
//!
//! It is 32 bytes from the system's random numbers, as 64 hexadecimal digits in run/operator.token. The gateway makes it
//! when it first starts, and keeps it over restarts; to change it, remove the file and restart.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::start::{Result, StartError};
use crate::log;

const TOKEN_BYTES: usize = 32;

pub struct OperatorToken(String);

impl OperatorToken {
    /// True if `other` is the token. The comparison takes the same time wherever the first difference lies.
    pub fn is(&self, other: &[u8]) -> bool {
        let pairs = self.0.bytes().zip(other);
        let difference = pairs.fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
        self.0.len() == other.len() && difference == 0
    }
}

/// Reads the file, or creates it if it does not exist. Replaces content that is no token, since somebody has emptied or
/// edited the file.
pub fn provide(path: &Path) -> Result<OperatorToken> {
    match fs::read_to_string(path) {
        Ok(text) if is_token(text.trim_end()) => {
            let private = fs::set_permissions(path, Permissions::from_mode(0o600));
            private.map_err(StartError::io("make private", path.display()))?;
            return Ok(OperatorToken(text.trim_end().to_string()));
        }
        Ok(_) => log!("gateway: {} holds no token; making a new one", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log!("gateway: could not read {}: {error}; making a new one", path.display()),
    }
    create(path).map_err(StartError::io("write the operator's token to", path.display()))
}

/// Writes the file whole or not at all, by renaming it into its place.
fn create(path: &Path) -> io::Result<OperatorToken> {
    let mut bytes = [0; TOKEN_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = path.with_extension("token.new");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(format!("{digits}\n").as_bytes())?;
    fs::rename(&draft, path)?;
    Ok(OperatorToken(digits))
}

fn is_token(text: &str) -> bool {
    text.len() == 2 * TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
