//! WASI preview 1, all of its functions, on the kernel's blocking calls.
//!
//! Why not wasmtime-wasi: it is made for servers that run many modules in one process. It brings tokio, reads stdin on
//! a thread of its own and takes a worker thread for files. A process that serves a single invocation and is forked
//! from another has neither use nor room for threads, and pays for each at its start. Here a function of WASI is a
//! system call or two.
//!
//! | file | functions |
//! |---|---|
//! | mod.rs | args, environ, clocks, random, proc, sched; the table that links them all |
//! | descriptors.rs | fd_*, sock_*, and the table of open files |
//! | paths.rs | path_*, fd_readdir |
//! | poll.rs | poll_oneoff |
//! | guest.rs | reading and writing the module's memory |
//! | errno.rs | error numbers |
//!
//! Invariants: no address from the module is used unchecked. Only the kernel resolves a path from the module, with
//! RESOLVE_BENEATH, starting from a folder that was opened to the module. Nothing is buffered here, so that the
//! module's output is in the pipe when the call returns. Nothing is seeded before the fork.

#![allow(clippy::too_many_arguments, reason = "the functions have WASI's own signatures")]

mod descriptors;
mod errno;
mod guest;
mod paths;
mod poll;

use std::os::fd::OwnedFd;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use wasmtime::{Caller, Engine, Linker, Memory};

use self::descriptors::Files;
use self::errno::Errno;
use self::guest::Guest;
use crate::error::Error;
use crate::memory::MemoryLimit;
use crate::program::end;

const MODULE: &str = "wasi_snapshot_preview1";

/// The state of one invocation, on which the module's functions work.
pub struct Host {
    pub memory_limit: MemoryLimit,
    /// The memory that the module exports for the host.
    pub memory: Option<Memory>,
    /// argv: the module's path, and the arguments after it.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value` and a NUL, repeated.
    pub environment: Vec<u8>,
    pub files: Files,
    /// The channel that gets the exit status; `None` if it is the process's alone.
    pub channel: Option<OwnedFd>,
}

impl Host {
    pub fn new(memory_limit_mib: usize) -> Host {
        Host {
            memory_limit: MemoryLimit::new(memory_limit_mib),
            memory: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            files: Files::new(),
            channel: None,
        }
    }

    fn args_sizes_get(&mut self, mut guest: Guest, count: u32, bytes: u32) -> Result<(), Errno> {
        guest.put_u32(count, self.arguments.len() as u32)?;
        guest.put_u32(bytes, self.arguments.iter().map(|argument| argument.len() as u32 + 1).sum())
    }

    fn args_get(&mut self, mut guest: Guest, pointers: u32, bytes: u32) -> Result<(), Errno> {
        let mut at = bytes;
        for (index, argument) in self.arguments.iter().enumerate() {
            guest.put_u32(offset(pointers, 4 * index)?, at)?;
            guest.put(at, argument)?;
            at = offset(at, argument.len())?;
            guest.put(at, &[0])?;
            at = offset(at, 1)?;
        }
        Ok(())
    }

    fn environ_sizes_get(&mut self, mut guest: Guest, count: u32, bytes: u32) -> Result<(), Errno> {
        guest.put_u32(count, self.environment.iter().filter(|byte| **byte == 0).count() as u32)?;
        guest.put_u32(bytes, self.environment.len() as u32)
    }

    fn environ_get(&mut self, mut guest: Guest, pointers: u32, bytes: u32) -> Result<(), Errno> {
        let mut at = 0;
        for (index, variable) in self.environment.split_inclusive(|byte| *byte == 0).enumerate() {
            guest.put_u32(offset(pointers, 4 * index)?, offset(bytes, at)?)?;
            at += variable.len();
        }
        guest.put(bytes, &self.environment)
    }

    fn clock_res_get(&mut self, mut guest: Guest, clock: u32, resolution: u32) -> Result<(), Errno> {
        guest.put_u64(resolution, nanoseconds(clock_getres(clock_id(clock)?)))
    }

    fn clock_time_get(&mut self, mut guest: Guest, clock: u32, _precision: u64, time: u32) -> Result<(), Errno> {
        guest.put_u64(time, nanoseconds(clock_gettime(clock_id(clock)?)))
    }

    fn random_get(&mut self, mut guest: Guest, at: u32, len: u32) -> Result<(), Errno> {
        let mut rest = guest.bytes_mut(at, len)?;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(count) => rest = &mut rest[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sched_yield(&mut self, _guest: Guest) -> Result<(), Errno> {
        std::thread::yield_now();
        Ok(())
    }

    /// A module cannot catch a signal, and has better ways to end itself.
    fn proc_raise(&mut self, _guest: Guest, _signal: u32) -> Result<(), Errno> {
        Err(errno::NOSYS)
    }
}

/// The address `by` bytes further on; one beyond 4 GiB is a fault.
fn offset(at: u32, by: usize) -> Result<u32, Errno> {
    u32::try_from(by).ok().and_then(|by| at.checked_add(by)).ok_or(errno::FAULT)
}

fn clock_id(clock: u32) -> Result<ClockId, Errno> {
    match clock {
        0 => Ok(ClockId::Realtime),
        1 => Ok(ClockId::Monotonic),
        2 => Ok(ClockId::ProcessCPUTime),
        3 => Ok(ClockId::ThreadCPUTime),
        _ => Err(errno::INVAL),
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Defines each function as the method of `Host` of the same name.
macro_rules! link {
    ($linker:ident: $($name:ident($($argument:ident: $type:ty),*);)*) => {
        $($linker.func_wrap(MODULE, stringify!($name), |mut caller: Caller<'_, Host>, $($argument: $type),*| -> i32 {
            let Some(memory) = caller.data().memory else { return errno::FAULT.0 };
            let (bytes, host) = memory.data_and_store_mut(&mut caller);
            host.$name(Guest(bytes), $($argument),*).map_or_else(|errno| errno.0, |()| 0)
        })?;)*
    };
}

/// A linker that knows all functions.
pub fn linker(engine: &Engine) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(engine);
    link(&mut linker).map_err(Error::engine("link the system's functions"))?;
    Ok(linker)
}

fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "proc_exit", |caller: Caller<'_, Host>, status: u32| -> () {
        // The low byte, as wait(2) gives it for any process.
        let host = caller.data();
        end(status as u8, &host.memory_limit, host.channel.as_ref());
    })?;
    link! { linker:
        args_get(pointers: u32, bytes: u32);
        args_sizes_get(count: u32, bytes: u32);
        environ_get(pointers: u32, bytes: u32);
        environ_sizes_get(count: u32, bytes: u32);
        clock_res_get(clock: u32, resolution: u32);
        clock_time_get(clock: u32, precision: u64, time: u32);
        random_get(at: u32, len: u32);
        sched_yield();
        proc_raise(signal: u32);
        poll_oneoff(subscriptions: u32, events: u32, count: u32, happened: u32);
        fd_advise(fd: u32, at: u64, len: u64, advice: u32);
        fd_allocate(fd: u32, at: u64, len: u64);
        fd_close(fd: u32);
        fd_datasync(fd: u32);
        fd_sync(fd: u32);
        fd_fdstat_get(fd: u32, result: u32);
        fd_fdstat_set_flags(fd: u32, flags: u32);
        fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
        fd_filestat_get(fd: u32, result: u32);
        fd_filestat_set_size(fd: u32, size: u64);
        fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, which: u32);
        fd_pread(fd: u32, buffers: u32, count: u32, at: u64, result: u32);
        fd_pwrite(fd: u32, buffers: u32, count: u32, at: u64, result: u32);
        fd_read(fd: u32, buffers: u32, count: u32, result: u32);
        fd_write(fd: u32, buffers: u32, count: u32, result: u32);
        fd_prestat_get(fd: u32, result: u32);
        fd_prestat_dir_name(fd: u32, name: u32, len: u32);
        fd_readdir(fd: u32, buffer: u32, len: u32, cookie: u64, result: u32);
        fd_renumber(from: u32, to: u32);
        fd_seek(fd: u32, by: i64, whence: u32, result: u32);
        fd_tell(fd: u32, result: u32);
        path_create_directory(fd: u32, path: u32, len: u32);
        path_filestat_get(fd: u32, follow: u32, path: u32, len: u32, result: u32);
        path_filestat_set_times(fd: u32, follow: u32, path: u32, len: u32, accessed: u64, modified: u64, which: u32);
        path_link(fd: u32, follow: u32, path: u32, len: u32, new_fd: u32, new_path: u32, new_len: u32);
        path_open(
            fd: u32, follow: u32, path: u32, len: u32, how: u32, base: u64, inheriting: u64, flags: u32, result: u32
        );
        path_readlink(fd: u32, path: u32, len: u32, buffer: u32, buffer_len: u32, result: u32);
        path_remove_directory(fd: u32, path: u32, len: u32);
        path_rename(fd: u32, path: u32, len: u32, new_fd: u32, new_path: u32, new_len: u32);
        path_symlink(target: u32, target_len: u32, fd: u32, path: u32, len: u32);
        path_unlink_file(fd: u32, path: u32, len: u32);
        sock_accept(fd: u32, flags: u32, result: u32);
        sock_recv(fd: u32, buffers: u32, count: u32, flags: u32, len: u32, result: u32);
        sock_send(fd: u32, buffers: u32, count: u32, flags: u32, result: u32);
        sock_shutdown(fd: u32, how: u32);
    }
    Ok(())
}
