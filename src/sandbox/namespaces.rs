//! User namespaces: one for each invocation, in which the kernel counts its processes by themselves
//! (sys/user_namespace.rs). So a function at its limit takes no process from another one, nor from what else its user
//! runs, and a fork bomb stays small. For functions that share the gateway's user, and for all whose worker cannot run
//! ahead of a bomb.
//!
//! A worker makes them when it starts, before it gives up the system call. Each serves again and again: what an invocation
//! has started is gone before another one gets its namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use super::User;
use crate::sys::{self, Urgency};

/// The namespaces that no invocation uses. Held for a push or a pop.
#[derive(Debug)]
pub struct Namespaces(Mutex<Vec<OwnedFd>>);

impl Namespaces {
    /// `count` of them, each a descriptor, for functions of this user or else of our own; `None` where they need none.
    ///
    /// # Errors
    /// If this machine does not allow them, or not as many.
    pub fn new(count: usize, user: Option<&User>) -> io::Result<Option<Namespaces>> {
        let are_needed = match user {
            Some(_) => !Urgency::is_allowed(),
            // Root is exempt from limits of processes.
            None => sys::own_uid() != 0,
        };
        if !are_needed {
            return Ok(None);
        }
        let user = user.map(|user| (user.uid, user.gid));
        let free = (0..count).map(|_| sys::make_user_namespace(user)).collect::<io::Result<_>>()?;
        Ok(Some(Namespaces(Mutex::new(free))))
    }

    /// # Errors
    /// If all are in use.
    pub fn take(&self) -> io::Result<Namespace<'_>> {
        let free = self.0.lock().expect("nothing panics under this lock").pop();
        let namespace = free.ok_or_else(|| io::Error::other("all are in use"))?;
        Ok(Namespace { namespace: Some(namespace), home: self })
    }
}

/// The namespace of one invocation. To be dropped once the invocation's processes are gone.
pub struct Namespace<'a> {
    /// `None` only within the drop.
    namespace: Option<OwnedFd>,
    home: &'a Namespaces,
}

impl AsFd for Namespace<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_ref().expect("it is taken by the drop alone").as_fd()
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        self.home.0.lock().expect("nothing panics under this lock").extend(self.namespace.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_serves_again_and_again() {
        let namespaces = Namespaces(Mutex::new(vec![std::fs::File::open("/dev/null").unwrap().into()]));
        for _ in 0..3 {
            let taken = namespaces.take().unwrap();
            assert!(namespaces.take().is_err());
            drop(taken);
        }
    }
}
