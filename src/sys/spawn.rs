//! Starting a process, in a session and process group of its own, with stdin, stdout, stderr and no other descriptor.
//!
//! Like posix_spawn this is a vfork: the child borrows the parent's memory until its exec, so nothing is copied. The
//! calling thread waits that long, about half a millisecond, nearly all of it the kernel's exec. posix_spawn itself
//! cannot set resource limits, the death signal or no_new_privs; fork would copy the page tables each time.
//!
//! Between clone and exec the child therefore runs by the rules of vfork(2):
//!
//! 1. No allocation, no lock, no panic. The parent prepares every string and array before the clone.
//! 2. System calls only. glibc's setuid and its like are forbidden too: they change all threads of the process, which
//!    are the parent's.
//! 3. No signal handler runs, because the parent blocks all signals before the clone.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use super::clone3::{self, ChildMain};
use super::confine::{Confinement, restrict_limits, restrict_user_files_and_system_calls};
use super::process::Pid;
use super::signal;

/// A process to be started.
pub struct Spawn<'a> {
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    /// `NAME=value` and a NUL, repeated. Bytes after the last NUL are left out.
    pub environment: &'a [u8],
    pub folder: Option<&'a CStr>,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Becomes descriptor 3; without it the process has no descriptor 3.
    pub control: Option<BorrowedFd<'a>>,
    /// The confinement of a function; `None` for a program of the platform.
    pub confinement: Option<Confinement<'a>>,
    /// The folder of the control group in which it is born; `None`: ours.
    pub group: Option<BorrowedFd<'a>>,
}

/// A new child process.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// A failed spawn: the step, and the system's error.
#[derive(Debug)]
pub struct SpawnError {
    pub step: &'static str,
    pub cause: io::Error,
}

/// Result of a step in the child. The error is the step's name, and errno tells the cause.
pub(super) type Step<T> = Result<T, &'static str>;

/// Bytes of the child's stack until its exec; glibc's posix_spawn takes 32 KiB.
const SPAWN_STACK_BYTES: usize = 64 * 1024;

/// Number at which a fork server expects its control socket (runtimes/README.md).
const CONTROL_FD: c_int = 3;
/// Number of the program's descriptor until its exec.
const PROGRAM_FD: c_int = 4;

/// Signals that a shell or nohup may have set to ignored, or that Rust ignores (SIGPIPE). An exec keeps that, so the
/// child resets them to the system's default. An exec resets handlers itself.
const SIGNALS_TO_DEFAULT: [c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Memory that the child reads, and in which it reports a failure. It lies in the parent's frame.
struct Birth<'a> {
    plan: &'a Spawn<'a>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    ignored_signals: &'static [c_int],
    parent: Pid,
    failed_step: Option<&'static str>,
    errno: c_int,
}

/// An environment for [`Spawn::environment`].
pub fn environment_of(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<u8> {
    variables.flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()).collect()
}

/// Starts a process. Returns once its exec has succeeded.
pub fn spawn(plan: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    spawn_with(plan, 0)
}

/// Starts a process as the first of a PID namespace (pid_namespaces(7)): it and its descendants cannot name a process
/// outside, and when it ends, the kernel kills them all. Takes CAP_SYS_ADMIN.
pub fn spawn_in_namespace(plan: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    spawn_with(plan, libc::CLONE_NEWPID)
}

fn spawn_with(plan: &Spawn<'_>, more_flags: c_int) -> Result<Spawned, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let arguments = pointers(plan.arguments);
    let variables = plan.environment.split_inclusive(|byte| *byte == 0).filter(|pair| pair.ends_with(&[0]));
    let environment: Vec<*const c_char> =
        variables.map(|pair| pair.as_ptr().cast()).chain([std::ptr::null()]).collect();
    let mut birth = Birth {
        plan,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        ignored_signals: ignored_signals(),
        // SAFETY: getpid takes nothing and cannot fail.
        parent: unsafe { libc::getpid() },
        failed_step: None,
        errno: 0,
    };
    let argument = std::ptr::from_mut(&mut birth).cast();
    // SAFETY: `child_main` does not return, and this frame outlives the child's use of `birth`.
    let made = unsafe { vfork(child_main, argument, more_flags, plan.group) };
    let (pid, pidfd) = made.map_err(|cause| SpawnError { step: "make a process", cause })?;
    let Some(step) = birth.failed_step else { return Ok(Spawned { pid, pidfd }) };
    // The child's _exit has ended vfork, so this does not wait.
    // SAFETY: waitpid takes two integers and a status pointer that may be null.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    Err(SpawnError { step, cause: io::Error::from_raw_os_error(birth.errno) })
}

/// Makes a child that runs `main` with `argument`, in the control group whose folder is `group`, and waits until it has
/// exec'd or ended.
///
/// # Safety
/// `main` does not return, and keeps the rules of this file.
pub(super) unsafe fn vfork(
    main: ChildMain,
    argument: *mut c_void,
    more_flags: c_int,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<(Pid, OwnedFd)> {
    let mut stack: Vec<u8> = Vec::with_capacity(SPAWN_STACK_BYTES);
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | more_flags;
    // SAFETY: one past the end of an allocation of that size.
    let top = unsafe { stack.as_mut_ptr().add(SPAWN_STACK_BYTES) };
    // SAFETY: at most 15 bytes down, within the same allocation; the ABI wants the stack aligned to 16.
    let top = unsafe { top.sub(top as usize % 16) };
    let previous = signal::set_mask(&signal::all_signals());
    if let Some(group) = group {
        let bottom = stack.as_mut_ptr();
        let bottom = bottom.wrapping_add(bottom.align_offset(16));
        let stack = (bottom, top as usize - bottom as usize);
        // SAFETY: as below; the stack is aligned at both ends, and `main` does not return.
        let made = unsafe { clone3::vfork_into(group, flags & !libc::SIGCHLD, stack, main, argument) };
        signal::set_mask(&previous);
        return made;
    }
    // SAFETY: CLONE_VFORK holds this thread until the child has exec'd or ended, so the stack outlives the child's use of
    // it, and only the child touches it meanwhile.
    let pid = unsafe { libc::clone(main, top.cast(), flags, argument, &raw mut pidfd) };
    let made = super::check(pid);
    signal::set_mask(&previous);
    let pid = made?;
    // SAFETY: the clone succeeded, so the kernel has opened this descriptor for us, close-on-exec.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Makes one system call of the child; a failure returns the step's name.
macro_rules! try_step {
    ($step:literal, $call:expr) => {
        // SAFETY: every call in this macro takes integers, or pointers to memory that the parent keeps alive, and may
        // be made between vfork and exec (see the top of spawn.rs).
        if unsafe { $call } < 0 {
            return Err($step);
        }
    };
}
pub(super) use try_step;

/// The child's life until its exec.
extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the Birth in spawn's frame; the only other thread that knows it waits in clone.
    let birth = unsafe { &mut *argument.cast::<Birth>() };
    let Err(step) = child_steps(birth);
    birth.failed_step = Some(step);
    // SAFETY: errno is the waiting thread's, whose thread-local memory the child borrows too.
    birth.errno = unsafe { *libc::__errno_location() };
    // SAFETY: _exit runs no code of this program.
    unsafe { libc::_exit(127) }
}

/// Returns only if a step failed.
fn child_steps(birth: &Birth<'_>) -> Step<Infallible> {
    let plan = birth.plan;
    try_step!("start a session", libc::setsid());
    // Before the other descriptors are closed, since the Landlock rulesets are among them.
    if let Some(confinement) = &plan.confinement {
        restrict_user_files_and_system_calls(confinement)?;
    }
    let program_fd = arrange_descriptors(plan)?;
    if let Some(confinement) = &plan.confinement {
        restrict_limits(confinement, birth.parent)?;
    }
    // As the function's user, so that the process does not start in a folder that it cannot enter.
    if let Some(folder) = plan.folder {
        try_step!("enter the working folder", libc::chdir(folder.as_ptr()));
    }
    reset_signals(birth.ignored_signals);
    let (arguments, environment) = (birth.arguments, birth.environment);
    match program_fd {
        Some(fd) => {
            let (call, empty, flag) = (libc::SYS_execveat, c"".as_ptr(), libc::AT_EMPTY_PATH);
            try_step!("execute", libc::syscall(call, fd, empty, arguments, environment, flag));
        }
        None => try_step!("execute", libc::execve(plan.program.as_ptr(), arguments, environment)),
    }
    Err("execute")
}

/// Gives each descriptor its number and closes all others. Returns the number of the program to execute, if it is open.
fn arrange_descriptors(plan: &Spawn<'_>) -> Step<Option<c_int>> {
    try_step!("set stdin", libc::dup2(plan.stdin.as_raw_fd(), 0));
    try_step!("set stdout", libc::dup2(plan.stdout.as_raw_fd(), 1));
    try_step!("set stderr", libc::dup2(plan.stderr.as_raw_fd(), 2));
    // Both move out of the way first: one may have the number that the other is to get.
    let control = move_away(plan.control)?;
    let program = move_away(plan.confinement.as_ref().and_then(|confinement| confinement.program_file))?;
    let mut first_to_close = CONTROL_FD;
    if let Some(control) = control {
        try_step!("set the control socket", libc::dup2(control, CONTROL_FD));
        first_to_close = PROGRAM_FD;
    }
    let close = libc::SYS_close_range;
    if let Some(program) = program {
        // Closes what lies below PROGRAM_FD; that one closes itself on exec.
        try_step!("close other descriptors", libc::syscall(close, first_to_close, PROGRAM_FD, 0u32));
        try_step!("open the program", libc::dup3(program, PROGRAM_FD, libc::O_CLOEXEC));
        first_to_close = PROGRAM_FD + 1;
    }
    try_step!("close other descriptors", libc::syscall(close, first_to_close, u32::MAX, 0u32));
    Ok(program.map(|_| PROGRAM_FD))
}

/// Duplicates a descriptor to a number above [`PROGRAM_FD`].
fn move_away(fd: Option<BorrowedFd<'_>>) -> Step<Option<c_int>> {
    let Some(fd) = fd else { return Ok(None) };
    // SAFETY: F_DUPFD takes an integer.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, PROGRAM_FD + 1) } {
        moved if moved >= 0 => Ok(Some(moved)),
        _ => Err("set its descriptors"),
    }
}

/// Those of [`SIGNALS_TO_DEFAULT`] that this process ignores. It never begins to ignore another one.
fn ignored_signals() -> &'static [c_int] {
    static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| SIGNALS_TO_DEFAULT.into_iter().filter(|signal| is_ignored(*signal)).collect())
}

fn is_ignored(signal: c_int) -> bool {
    // SAFETY: a sigaction is integers and an optional pointer, for which all-zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action sigaction only writes the present one.
    let found = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    found == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Restores default actions and blocks no signal, as a program expects.
fn reset_signals(ignored: &[c_int]) {
    // SAFETY: a sigaction is integers and an optional pointer, for which all-zero is valid; it means SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in ignored.iter().copied() {
        // SAFETY: sigaction reads one sigaction; the child's table of actions is its own, as CLONE_SIGHAND is not set.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    signal::set_mask(&signal::no_signals());
}

#[cfg(test)]
mod tests;
