//! What the front door and the request handler share about one request that is under way.
//!
//! The front door has read and checked the request's head and has its body; what it passes to tiny_http over the
//! private socket is the request line and the number of a conversation. Everything else lies here, so that nothing is
//! parsed twice (tiny_http's parser is lax, and loses header bytes outside of ASCII) and a body of 50 MB is not copied
//! through a socket:
//!
//! - the head as the front door checked it, and the body;
//! - back: an answer too long for memory, which the front door then sends from its file;
//! - and, while the function runs: the word that the client has gone away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::head::Head;
use super::request_id::request_id;
use super::spool::Spool;
use crate::sys::EventFd;

/// The field of the private request that carries the conversation's number.
pub const CONVERSATION_FIELD: &str = "X-Faas-Conversation";
/// The field of the private answer that says: the body is not here but in [`Conversation::put_answer`].
pub const SPOOLED_FIELD: &str = "X-Faas-Spooled";

pub struct Conversation {
    pub head: Head,
    pub peer: SocketAddr,
    /// The client's X-Request-Id where it is sane, else one of ours.
    pub request_id: String,
    /// Becomes readable, and stays so, when the client has gone away.
    gone: Arc<EventFd>,
    /// Guards the two hand-overs; held for a move only.
    spools: Mutex<Spools>,
}

#[derive(Default)]
struct Spools {
    body: Option<Spool>,
    answer: Option<Spool>,
}

impl Conversation {
    /// The request's body; the first caller gets it.
    pub fn take_body(&self) -> Option<Spool> {
        self.spools.lock().expect("nothing panics under this lock").body.take()
    }

    /// Leaves an answer's body for the front door to send.
    pub fn put_answer(&self, answer: Spool) {
        self.spools.lock().expect("nothing panics under this lock").answer = Some(answer);
    }

    pub fn take_answer(&self) -> Option<Spool> {
        self.spools.lock().expect("nothing panics under this lock").answer.take()
    }

    /// Says that the client has gone away; whoever waits on [`Conversation::gone`] wakes up.
    pub fn set_gone(&self) {
        self.gone.signal();
    }

    /// To poll for reading: ready when the client has gone away.
    pub fn gone(&self) -> BorrowedFd<'_> {
        self.gone.as_fd()
    }
}

/// All conversations that are under way.
#[derive(Default)]
pub struct Conversations {
    next: AtomicU64,
    /// Guards the table; held for one look-up.
    open: Mutex<HashMap<u64, Arc<Conversation>>>,
}

impl Conversations {
    /// Opens a conversation. It ends when the guard is dropped.
    ///
    /// `gone` may serve one conversation after the other as long as it has not been signalled: a connection makes it once,
    /// not for each of its requests.
    pub fn open(self: &Arc<Self>, head: Head, peer: SocketAddr, body: Spool, gone: Arc<EventFd>) -> OpenConversation {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let conversation = Arc::new(Conversation {
            request_id: request_id(Some(&head)),
            head,
            peer,
            gone,
            spools: Mutex::new(Spools { body: Some(body), answer: None }),
        });
        self.open.lock().expect("nothing panics under this lock").insert(number, conversation.clone());
        OpenConversation { all: self.clone(), number, conversation }
    }

    pub fn find(&self, number: u64) -> Option<Arc<Conversation>> {
        self.open.lock().expect("nothing panics under this lock").get(&number).cloned()
    }

    /// How many requests are under way.
    pub fn count(&self) -> usize {
        self.open.lock().expect("nothing panics under this lock").len()
    }
}

/// The front door's end of a conversation.
pub struct OpenConversation {
    all: Arc<Conversations>,
    pub number: u64,
    pub conversation: Arc<Conversation>,
}

impl Drop for OpenConversation {
    fn drop(&mut self) {
        self.all.open.lock().expect("nothing panics under this lock").remove(&self.number);
    }
}
