//! The terminal that stdout may be, and the controlling terminal of this process.

use std::fs::File;
use std::io::IsTerminal;

/// The width of the terminal on stdout; `None` if stdout is no terminal, or its width is unknown.
pub fn terminal_columns() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// True while this process has a controlling terminal, from which its session was not cut off.
pub fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
