//! Warnings that the log shows when a row arrives: the row is in service, but its calls may fail.
//!
//! None of them is a fault: the user may copy a module after its row, and create a folder later.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use super::config_loader::Function;
use crate::error::shell_word;
use crate::protocol::function_spec::Runtime;
use crate::sandbox::{User, may_read, may_write};
use crate::shebang::shebang_fault;
use crate::sys;

/// One sentence each. `user` is the user that functions run as, if it is not the gateway's own.
pub fn remarks(function: &Function, user: Option<&User>) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.extend(unknown_fields(&function.unknown_fields));
    remarks.extend(module(function, user));
    remarks.extend(function.write.iter().filter_map(|path| may_write(user, path).err()));
    for (_, path) in &function.dirs {
        if !path.exists() {
            remarks.push(format!("dirs names {}, and nothing is there", path.display()));
        }
    }
    remarks
}

fn unknown_fields(fields: &[String]) -> Option<String> {
    let (first, more) = (fields.first()?, fields.len() - 1);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("the field {first}{more} does not exist, and is ignored"))
}

fn module(function: &Function, user: Option<&User>) -> Option<String> {
    let path = &function.module;
    let word = || shell_word(path.display());
    let (needed, deed) = if function.runtime == Runtime::Native { (0o1, "execute") } else { (0o4, "read") };
    match fs::metadata(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Some(format!("no module is at {}", path.display())),
        Ok(found) if function.runtime == Runtime::Native && found.permissions().mode() & 0o111 == 0 => {
            Some(format!("{} is not executable; try: chmod +x {}", path.display(), word()))
        }
        Ok(_) if user.is_none() && !sys::may_access(path, needed) => {
            Some(format!("functions run as the gateway's own user, who cannot {deed} {}", path.display()))
        }
        Ok(_) => {
            let shebang = if function.runtime == Runtime::Native { shebang_fault(path) } else { None };
            // Functions can always read code out of the registry.
            shebang.or_else(|| may_read(user.filter(|_| function.bundle.is_none()), path).err())
        }
        Err(cause) => Some(format!("the module {} cannot be read: {cause}", path.display())),
    }
}
