//! A view of the machine's files that is this process's own (mount_namespaces(7)).

use std::ffi::CStr;
use std::io;

use super::check;

/// Gives the calling thread, and all threads and processes that it starts from now on, a /proc of its own. There a
/// process sees only the processes that it could trace (hidepid=ptraceable, proc(5)). It makes no terminals either. Later
/// mounts of the machine's owner appear here as well.
pub fn hide_processes() -> io::Result<()> {
    // SAFETY: unshare takes an integer.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (none, nothing) = (c"none".as_ptr(), std::ptr::null());
    let flags = libc::MS_REC | libc::MS_SLAVE;
    // SAFETY: mount reads C strings; for these flags it looks at no other pointer.
    let separate = |place: &CStr| check(unsafe { libc::mount(none, place.as_ptr(), nothing, flags, nothing.cast()) });
    // In a chroot the root may be a plain folder. Then it is enough that the mount over /proc does not spread.
    separate(c"/").or_else(|_| separate(c"/proc"))?;
    let (kind, options) = (c"proc".as_ptr(), c"hidepid=4".as_ptr());
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: mount reads C strings.
    check(unsafe { libc::mount(kind, c"/proc".as_ptr(), kind, flags, options.cast()) })?;
    hide_terminals();
    Ok(())
}

/// Puts /dev/null in the place of the file that makes terminals. The machine has one number of them for all users
/// (kernel.pty.max), and 16 processes of a function could take them all, so that nobody logs in any more.
fn hide_terminals() {
    let (null, terminals, nothing) = (c"/dev/null".as_ptr(), c"/dev/ptmx".as_ptr(), std::ptr::null());
    // SAFETY: mount reads C strings; for this flag it looks at no other pointer.
    let _ = unsafe { libc::mount(null, terminals, nothing, libc::MS_BIND, nothing.cast()) };
}
