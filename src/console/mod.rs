//! The console process: tiny_http for the operator, on FAAS_CONSOLE.
//!
//! ```text
//! main thread       takes requests, gives each a thread, and watches over what they take
//! one per request   router → access → functions, changes, invoke, logs, calls, metrics, page → reply
//! status            live.rs: reads status.sock; the gateway's end is ours
//! tiny_http's own   accept; one per connection
//! ```
//!
//! No call depends on it. tiny_http has faults that its users cannot work around: `GET / HTTP/2.0` leaks a thread and
//! two descriptors, a huge Content-Length aborts the process, its accept thread panics silently when descriptors run
//! out, and it has no timeouts. Therefore the console ends itself when it holds too much or a thread panics, and the
//! gateway restarts it (supervisor.rs). Everything that needs privileges happens first: then it drops all of them but
//! its user, which owns the run dir.

mod access;
mod call;
mod calls;
mod changes;
mod functions;
mod invoke;
mod live;
mod logs;
mod metrics;
mod multipart;
mod page;
mod reply;
mod rings;
mod router;
mod session;

use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::Server;

use access::Access;
use call::Call;
use live::Live;

use crate::error::start::{Result, StartError};
use crate::operator::view::View;
use crate::settings::Settings;
use crate::{log, log_file, sys};

/// Threads and open files of the whole process. Each connection has one thread and two descriptors; two browsers hold a
/// dozen connections.
const THREADS_MAX: usize = 64;
const DESCRIPTORS_MAX: usize = 160;
/// Interval at which they are counted when no request comes.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// Bytes of private memory (RLIMIT_DATA): the stacks of [`THREADS_MAX`] threads take at most 128 MiB of it. It bounds
/// the requests that tiny_http would queue without end.
const DATA_BYTES_MAX: u64 = 512 << 20;

struct Console {
    settings: Settings,
    access: Access,
    live: Arc<Live>,
    view: View,
}

/// Serves until the gateway ends, which ends this process.
///
/// # Errors
/// Where it cannot serve, or holds too much to continue.
pub fn run(settings: Settings) -> Result<()> {
    let address =
        settings.console.ok_or_else(|| StartError::Usage("FAAS_CONSOLE is empty: the console is off".into()))?;
    let path = settings.operator_token_file();
    let token = std::fs::read_to_string(&path).map_err(StartError::io("read", path.display()))?;
    let subject = || format!("the console's address {address} (FAAS_CONSOLE)");
    let listener = TcpListener::bind(address).map_err(StartError::io("listen on", subject()))?;
    let address = listener.local_addr().map_err(StartError::io("ask for", subject()))?;
    // The gateway takes this connection as the sign that the console is ready.
    let (live, lines) = Live::connect(&settings.status_socket())?;
    write_address(&settings, address)?;
    sys::confine_own_program(DATA_BYTES_MAX)
        .map_err(|error| StartError::io(error.step, "in this program")(error.cause))?;

    // From here on the process may have threads.
    log::start(settings.log);
    log_file::reopen_at_hangup();
    std::panic::set_hook(Box::new(|panic| {
        log!("console: {panic}; ending, to start anew");
        log::flush();
        std::process::exit(1)
    }));
    let server = Server::from_listener(listener, None).map_err(|error| StartError::Io {
        step: "serve",
        subject: subject(),
        cause: std::io::Error::other(error),
    })?;
    // Never dropped: its drop connects to itself, and would hang once the accept thread has ended.
    let server = ManuallyDrop::new(server);
    let access = Access::new(token.trim_end(), address.ip());
    let view = View::new(&settings);
    let console = Arc::new(Console { settings, access, live: live.clone(), view });
    let reader = std::thread::Builder::new().name("status".into());
    let reading = reader.spawn(move || {
        if let Err(error) = live.follow(lines) {
            log!("console: {error}");
        }
        log::flush();
        std::process::exit(0)
    });
    reading.map_err(|cause| StartError::Thread { cause })?;
    let recalling = console.clone();
    let thread = std::thread::Builder::new().name("recall".into());
    thread.spawn(move || calls::recall_last_hour(&recalling)).map_err(|cause| StartError::Thread { cause })?;
    log!("console: listening on http://{address}");
    serve(&server, &console)
}

/// Writes the file whole or not at all, since another process may read it at this moment.
fn write_address(settings: &Settings, address: SocketAddr) -> Result<()> {
    let path = settings.console_address_file();
    let draft = path.with_extension("address.new");
    let written = std::fs::write(&draft, format!("{address}\n")).and_then(|()| std::fs::rename(&draft, &path));
    written.map_err(StartError::io("write", path.display()))
}

/// Returns only with an error: then the console must restart.
fn serve(server: &Server, console: &Arc<Console>) -> Result<()> {
    loop {
        let request =
            server.recv_timeout(WATCH_PERIOD).map_err(StartError::io("accept", "a connection to the console"))?;
        let (threads, descriptors) = (entries("/proc/self/task")?, entries("/proc/self/fd")?);
        // Must not be dropped on this thread: dropping answers it, and waits for the rest of its body.
        let request = request.map(ManuallyDrop::new);
        if threads > THREADS_MAX || descriptors > DESCRIPTORS_MAX {
            log!("console: {threads} threads and {descriptors} open files are too many; ending, to start anew");
            return Ok(());
        }
        if changes::is_upload_stuck() {
            log!("console: an upload does not end; ending, to start anew");
            return Ok(());
        }
        let Some(request) = request else { continue };
        let console = console.clone();
        let thread = std::thread::Builder::new().name("request".into());
        let started = thread.spawn(move || router::serve(&console, Call::new(ManuallyDrop::into_inner(request))));
        started.map_err(|cause| StartError::Thread { cause })?;
    }
}

fn entries(folder: &str) -> Result<usize> {
    std::fs::read_dir(folder).map(Iterator::count).map_err(StartError::io("count", folder))
}
