//! The signals of a running gateway, on a thread of their own.
//!
//! | signal | does |
//! |---|---|
//! | SIGTERM, SIGINT | ends the service; a second one ends the lame duck's while, or where none is left the drain |
//! | SIGHUP, its terminal has closed | the same as SIGTERM |
//! | SIGHUP otherwise | reopens the log (log_file.rs), here and in the gateway's programs; nothing where stdout is no file |

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Ending;
use super::supervisor::Supervisor;
use crate::http_handler::HttpServer;
use crate::sys::{self, Signal};
use crate::{log, log_file};

/// A session loses its terminal shortly after SIGHUP.
const TERMINAL_WAIT_MAX: Duration = Duration::from_millis(500);
const TERMINAL_LOOK: Duration = Duration::from_millis(20);

pub struct Signals {
    pub server: Arc<HttpServer>,
    pub supervisor: Arc<Supervisor>,
    /// Receives each signal that ends the service or its lame-duck time.
    pub ending: Sender<Ending>,
    /// True where the gateway was started at a terminal, and still belongs to it.
    pub had_terminal: bool,
    /// True where the service goes on for a while after the first signal: then a second signal cuts that time short.
    pub has_lame_duck: bool,
}

impl Signals {
    /// Takes signals on the calling thread, without end.
    pub fn take(&self) {
        let mut is_ending = false;
        loop {
            let signal = sys::wait_for_signal(&Signal::ALL);
            if signal == Signal::Hangup && !self.terminal_has_closed() {
                if log_file::reopen() {
                    self.supervisor.reopen_logs();
                }
            } else if !std::mem::replace(&mut is_ending, true) || (self.has_lame_duck && !self.server.is_draining()) {
                // If the channel has no receiver or no room, the service is ending already.
                let _ = self.ending.try_send(Ending::Signal(signal));
            } else {
                log!("gateway: {signal} again; ending what runs");
                self.server.cut_off();
            }
        }
    }

    fn terminal_has_closed(&self) -> bool {
        let deadline = Instant::now() + TERMINAL_WAIT_MAX;
        while self.had_terminal && Instant::now() < deadline {
            if !sys::has_terminal() {
                return true;
            }
            std::thread::sleep(TERMINAL_LOOK);
        }
        false
    }
}
