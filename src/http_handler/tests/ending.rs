//! Clients that leave, and the end of service.

use crate::cases::each;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::server::{TestServer, WAIT_MAX, wait_until};

#[test]
fn the_handler_learns_that_its_client_left() {
    let server = TestServer::open_within(|bounds| bounds.half_close_grace = Duration::from_millis(1));
    each([true, false], |leaves| {
        let mut client = server.connect();
        client.get("/gone").get("/gate");
        assert_eq!(server.next_event(), "waits for the client to leave");
        // Or stays silent beyond the grace after it has closed its sending side.
        let stays = (!leaves).then_some(client);
        stays.iter().for_each(|client| client.stream.shutdown(Shutdown::Write).unwrap());
        assert_eq!(server.next_event(), "saw the client leave");
        wait_until("the connection ends", || server.connections() == 0);
        assert_eq!((server.calls(), server.has_event()), (0, false), "what it had sent behind is not handled");
    });
    // The connection on which an answer stayed unread is not used again.
    assert_eq!(server.connect().get("/next").read_response().1, "/next");
}

#[test]
fn a_half_closed_client_gets_its_responses() {
    let server = TestServer::open_within(|bounds| bounds.half_close_grace = WAIT_MAX);
    let mut client = server.connect();
    client.get("/gate").get("/second");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.next_event(), "waits at the gate");
    server.gate.send(()).unwrap();
    assert_eq!(client.read_response().1, "through");
    assert_eq!(client.read_response().1, "/second");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn drain_finishes_requests_and_closes_idle_connections() {
    let server = TestServer::open();
    let (mut idle, mut busy, mut begun) = (server.connect(), server.connect(), server.connect());
    idle.get("/a").read_response();
    begun.get("/a").read_response();
    busy.get("/gate");
    assert_eq!(server.next_event(), "waits at the gate");
    begun.send("GET /begun HT");
    // A byte that was sent may not have arrived yet: the answer to a later connection's request shows that it has.
    server.connect().get("/a").read_response();

    assert!(!server.drain(Instant::now() + Duration::from_millis(1)), "a request is still under way");
    assert_eq!(idle.read_to_end(), "");
    wait_until("the port is closed", || TcpStream::connect(server.address()).is_err());
    begun.send("TP/1.1\r\nHost: h\r\n\r\n");
    let (head, body) = begun.read_response();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "/begun", "{head}");
    server.gate.send(()).unwrap();
    let (head, body) = busy.read_response();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "through", "{head}");
    drop((begun, busy));
    assert!(server.drain(Instant::now() + WAIT_MAX));
}
