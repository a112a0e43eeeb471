//! The first line of a script, which names its interpreter.

use std::io::Read;
use std::path::Path;

use crate::error::shell_word;
use crate::sys;

/// Bytes of the line that are read: the kernel reads as many (BINPRM_BUF_SIZE, execve(2)).
const LINE_BYTES: usize = 256;

/// The fault of a line with a Windows line end: the interpreter's name then ends with a carriage return, and no such
/// program exists. One sentence, with the remedy; `None` for another file.
pub fn shebang_fault(path: &Path) -> Option<String> {
    let mut line = [0; LINE_BYTES];
    let count = sys::open_regular(path).and_then(|mut file| file.read(&mut line)).unwrap_or(0);
    let end = line[..count].iter().position(|byte| *byte == b'\n')?;
    let is_faulty = line.starts_with(b"#!") && line[..end].ends_with(b"\r");
    let (shown, word) = (path.display(), shell_word(path.display()));
    is_faulty.then(|| {
        format!(r"the first line of {shown} ends with CR LF, and so does its interpreter's name; try: sed -i 's/\r$//' {word}")
    })
}
