//! User namespaces (user_namespaces(7)), of which the platform wants one thing: that processes of one user are counted
//! apart.
//!
//! Since Linux 5.14 the kernel counts the processes of a user in each user namespace by itself, and compares RLIMIT_NPROC
//! with that count. A process that enters a namespace gets all capabilities in it, which confine.rs takes from it again.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::limits::lower_limit;
use super::process::{Pid, own_gid, own_uid};
use super::spawn::{Step, try_step, vfork};

/// Memory that the first process of a namespace reads, and in which it reports.
struct Making {
    /// The user and group that it is for; `None`: our own.
    user: Option<(u32, u32)>,
    /// That user and group, mapped to themselves. Without privileges no other can be mapped.
    maps: [CString; 2],
    /// The namespace, once it is made.
    made: Option<c_int>,
    errno: c_int,
}

/// Makes a user namespace that counts its processes, without any. It belongs to this user and group, or else to ours,
/// who have their numbers there, too; all others appear as nobody.
///
/// # Errors
/// If the kernel does not count so, or if a sysctl, AppArmor, or the filter of a container around us forbids it.
pub fn make_user_namespace(user: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let map = |id: u32| CString::new(format!("{id} {id} 1")).expect("digits hold no NUL");
    let (uid, gid) = user.unwrap_or((own_uid(), own_gid()));
    let mut making = Making { user, maps: [map(uid), map(gid)], made: None, errno: 0 };
    // The child opens the namespace for both: it shares our descriptors.
    // SAFETY: `first_process` does not return, and `making` outlives it: CLONE_VFORK holds this thread until its end.
    let (pid, _) = unsafe { vfork(first_process, (&raw mut making).cast(), libc::CLONE_FILES, None) }?;
    // The child's _exit has ended vfork, so this does not wait.
    // SAFETY: waitpid takes two integers and a status pointer that may be null.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    let made = making.made.ok_or_else(|| io::Error::from_raw_os_error(making.errno))?;
    // SAFETY: the child has opened this descriptor, and left it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

extern "C" fn first_process(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the Making of the thread that waits for this process.
    let making = unsafe { &mut *argument.cast::<Making>() };
    match make(making) {
        Ok(namespace) => making.made = Some(namespace),
        // SAFETY: errno is the waiting thread's, whose thread-local memory the child borrows too.
        Err(_) => making.errno = unsafe { *libc::__errno_location() },
    }
    // SAFETY: _exit runs no code of this program.
    unsafe { libc::_exit(0) }
}

/// Runs by the rules of spawn.rs.
fn make(making: &Making) -> Step<c_int> {
    let [user, group] = &making.maps;
    if let Some(user) = making.user {
        become_owner(user)?;
    }
    try_step!("make a user namespace", libc::unshare(libc::CLONE_NEWUSER));
    // Without privileges the groups can be mapped only once none of them can be left.
    write(c"/proc/self/setgroups", c"deny")?;
    write(c"/proc/self/uid_map", user)?;
    write(c"/proc/self/gid_map", group)?;
    if let Some((user, _)) = making.user {
        // Root is exempt from the limit.
        try_step!("become the user", libc::syscall(libc::SYS_setresuid, user, user, user));
    }
    has_own_count()?;
    // SAFETY: open reads a C string.
    let namespace = unsafe { libc::open(c"/proc/self/ns/user".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if namespace < 0 { Err("open the namespace") } else { Ok(namespace) }
}

/// As root: a namespace that is made now belongs to this user. Our real user stays root, so that no other process of that
/// user can reach into our memory (ptrace(2)), and our user for files, because /proc gives the maps of such a process to
/// root.
fn become_owner((user, group): (u32, u32)) -> Step<()> {
    const SAME: i32 = -1;
    try_step!("change its group", libc::syscall(libc::SYS_setresgid, SAME, group, SAME));
    try_step!("change its user", libc::syscall(libc::SYS_setresuid, SAME, user, SAME));
    // It returns the former one, and tells no error.
    // SAFETY: setfsuid takes an integer.
    unsafe { libc::syscall(libc::SYS_setfsuid, 0) };
    Ok(())
}

/// Fails if processes of this user outside of a namespace count in it. The calling one is such a process: another one
/// enters a namespace in this one, and needs room for two there.
fn has_own_count() -> Step<()> {
    let inner = fork()?;
    if inner == 0 {
        let has_room = has_room_for_two();
        // SAFETY: errno is this thread's; _exit runs no code of this program.
        unsafe { libc::_exit(if has_room.is_ok() { 0 } else { *libc::__errno_location() }) };
    }
    let mut status = 0;
    try_step!("wait for it", libc::waitpid(inner, &raw mut status, 0));
    if status != 0 {
        // SAFETY: errno is this thread's.
        unsafe { *libc::__errno_location() = libc::WEXITSTATUS(status) };
        return Err("count processes apart");
    }
    Ok(())
}

/// In a namespace that this makes.
fn has_room_for_two() -> Step<()> {
    try_step!("make a user namespace", libc::unshare(libc::CLONE_NEWUSER));
    lower_limit(libc::RLIMIT_NPROC, 2).or(Err("limit its processes"))?;
    let second = fork()?;
    if second == 0 {
        // SAFETY: _exit runs no code of this program.
        unsafe { libc::_exit(0) };
    }
    try_step!("wait for it", libc::waitpid(second, std::ptr::null_mut(), 0));
    Ok(())
}

/// Like fork(2), which glibc forbids here. The new process has a copy of our memory.
fn fork() -> Step<Pid> {
    // SAFETY: all arguments are integers, and the new process keeps the rules of spawn.rs, too.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 { Err("start a process") } else { Ok(pid as Pid) }
}

fn write(path: &CStr, text: &CStr) -> Step<()> {
    // SAFETY: open reads a C string.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err("open a map");
    }
    // SAFETY: the kernel reads as many bytes as there are.
    let written = unsafe { libc::write(file, text.as_ptr().cast(), text.count_bytes()) };
    // SAFETY: the descriptor was opened here, and nothing else knows it. close does not change errno where it succeeds.
    unsafe { libc::close(file) };
    if written < 0 { Err("write a map") } else { Ok(()) }
}
