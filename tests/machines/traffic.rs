//! Clients of the balancer, while nodes come and go.

use std::io::BufReader;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::balancer;

const GET_CLIENTS: usize = 6;
const POST_CLIENTS: usize = 3;
/// Pause between two requests of one client, so that the requests last as long as the restarts of the nodes.
const PAUSE: Duration = Duration::from_millis(20);

/// One POST: its id, and the times of its start and its end.
pub struct Post {
    pub id: String,
    pub began: Instant,
    pub ended: Instant,
    /// The reason of its failure.
    pub failure: Option<String>,
}

pub struct Traffic {
    pub gets: usize,
    /// Each GET that was not answered 200, with the reason.
    pub failed_gets: Vec<String>,
    pub posts: Vec<Post>,
}

/// A client that keeps its connection as browsers do, and opens another one if the gateway has closed it.
#[derive(Default)]
struct Client {
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Returns the reason of a failure; `None` after a response of status 200.
    fn send(&mut self, method: &str, target: &str, body: &str) -> Option<String> {
        let mut stream = match self.stream.take().map_or_else(balancer::connect, Ok) {
            Ok(stream) => stream,
            Err(error) => return Some(error.to_string()),
        };
        let answer = match balancer::request(&mut stream, method, target, body) {
            Ok(answer) => answer,
            Err(error) => return Some(error.to_string()),
        };
        if answer.field("Connection") != Some("close") {
            self.stream = Some(stream);
        }
        (answer.status != 200).then(|| format!("{}: {}", answer.status, answer.text()))
    }
}

/// Sends at least as many requests as asked for, and goes on until `disrupt` has returned.
pub fn during(gets_min: usize, posts_min: usize, disrupt: impl FnOnce()) -> Traffic {
    let (gets, failed_gets, posts) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let is_over = AtomicBool::new(false);
    let get_client = || {
        let mut client = Client::default();
        while !is_over.load(Ordering::SeqCst) || gets.load(Ordering::SeqCst) < gets_min {
            let number = gets.fetch_add(1, Ordering::SeqCst);
            if let Some(failure) = client.send("GET", "/where", "") {
                failed_gets.lock().unwrap().push(failure);
            }
            // Every other request comes on a new connection.
            if number % 2 == 0 {
                client = Client::default();
            }
            std::thread::sleep(PAUSE);
        }
    };
    let post_client = || {
        let mut client = Client::default();
        while !is_over.load(Ordering::SeqCst) || posts.lock().unwrap().len() < posts_min {
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let id = NUMBER.fetch_add(1, Ordering::SeqCst).to_string();
            let began = Instant::now();
            let failure = client.send("POST", "/once", &id);
            posts.lock().unwrap().push(Post { id, began, ended: Instant::now(), failure });
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::scope(|scope| {
        (0..GET_CLIENTS).for_each(|_| drop(scope.spawn(get_client)));
        (0..POST_CLIENTS).for_each(|_| drop(scope.spawn(post_client)));
        // Also after a panic: otherwise the clients would never stop.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(disrupt));
        is_over.store(true, Ordering::SeqCst);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    Traffic {
        gets: gets.into_inner(),
        failed_gets: failed_gets.into_inner().unwrap(),
        posts: posts.into_inner().unwrap(),
    }
}
