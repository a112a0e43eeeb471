//! Sends a response, whole or as a stream, to a client that may read slowly.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::cannot_poll;
use crate::error::request::{RequestError, Result};
use crate::http_handler::Service;
use crate::http_handler::parser::{Head, Version};
use crate::http_handler::request::Request;
use crate::http_handler::response::{Body, Form, Framing, Response};
use crate::http_handler::spool::Spool;
use crate::http_handler::time_allowance::TimeAllowance;
use crate::log;
use crate::sys::{Watched, send_file};

pub struct Sender<'service> {
    service: &'service Service,
    client: &'service TcpStream,
    /// Head and short body of a response, kept for the next one.
    outbound: Vec<u8>,
}

/// Facts of the request that shape its response.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub version: Version,
    pub is_head: bool,
}

impl Asker {
    pub fn of(head: &Head) -> Asker {
        Asker { version: head.version, is_head: head.method == "HEAD" }
    }
}

/// A response that is sent while its body is still being produced.
pub struct Stream {
    framing: Framing,
    has_body: bool,
    keep_alive: bool,
    allowance: TimeAllowance,
}

impl<'service> Sender<'service> {
    pub fn new(service: &'service Service, client: &'service TcpStream) -> Sender<'service> {
        Sender { service, client, outbound: Vec::new() }
    }

    /// Frees the memory.
    pub fn release(&mut self) {
        self.outbound = Vec::new();
    }

    /// Sends a whole response.
    ///
    /// # Errors
    /// [`RequestError::ClientGone`], also where the client reads slower than the least rate.
    pub fn send(&mut self, response: &Response, asker: Asker, request_id: &str, keep_alive: bool) -> Result<()> {
        let Asker { version, is_head } = asker;
        let framing = response.framing(is_head);
        self.outbound.clear();
        response.write_head(&mut self.outbound, Form { version, request_id, framing, keep_alive });
        let has_body = response.has_body() && !is_head;
        let mut allowance = self.service.least_rate();
        let memory = match &response.body {
            Body::Bytes(bytes) => Some(bytes.as_slice()),
            Body::Spool(spool) => spool.memory(),
        };
        self.outbound.extend_from_slice(memory.filter(|_| has_body).unwrap_or_default());
        send_all(self.client, &self.outbound, &mut allowance)?;
        match &response.body {
            Body::Spool(spool) if has_body && memory.is_none() => send_spool(self.client, spool, &mut allowance),
            _ => Ok(()),
        }
    }

    /// Sends the head of a response whose body follows in pieces.
    pub fn begin_stream(&self, response: &Response, request: &Request, keep_alive: bool) -> Result<Stream> {
        let head = &request.head;
        let has_body = response.has_body() && head.method != "HEAD";
        // An HTTP/1.0 client knows no chunks: for it the end of the connection is the end of the body.
        let framing = match (has_body, head.version) {
            (false, _) => response.framing(head.method == "HEAD"),
            (true, Version::Http10) => Framing::Close,
            (true, Version::Http11) => Framing::Chunked,
        };
        let keep_alive = keep_alive && framing != Framing::Close;
        let mut bytes = Vec::with_capacity(1024);
        let form = Form { version: head.version, request_id: &request.id, framing, keep_alive };
        response.write_head(&mut bytes, form);
        let mut allowance = self.service.least_rate();
        send_all(self.client, &bytes, &mut allowance)?;
        Ok(Stream { framing, has_body, keep_alive, allowance })
    }
}

impl Stream {
    /// True if the connection persists after this response.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Sends a piece of the body; false if the piece was empty or the response has no body.
    pub fn send(&mut self, client: &TcpStream, piece: &[u8]) -> Result<bool> {
        if !self.has_body || piece.is_empty() {
            return Ok(false);
        }
        if self.framing != Framing::Chunked {
            return send_all(client, piece, &mut self.allowance).map(|()| true);
        }
        let mut chunk = Vec::with_capacity(piece.len() + 16);
        // Writing to a Vec cannot fail.
        let _ = write!(chunk, "{:x}\r\n", piece.len());
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        send_all(client, &chunk, &mut self.allowance).map(|()| true)
    }

    /// Sends the last chunk, if the body has chunks.
    pub fn end(mut self, client: &TcpStream) -> Result<()> {
        match self.has_body && self.framing == Framing::Chunked {
            true => send_all(client, b"0\r\n\r\n", &mut self.allowance),
            false => Ok(()),
        }
    }
}

/// # Errors
/// [`RequestError::ClientGone`], also where the client reads slower than the least rate.
pub fn send_all(mut client: &TcpStream, bytes: &[u8], allowance: &mut TimeAllowance) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match client.write(rest) {
            Ok(count) => {
                rest = &rest[count..];
                allowance.earn(count);
            }
            Err(error) => wait_to_send(client, &error, allowance)?,
        }
    }
    Ok(())
}

fn send_spool(client: &TcpStream, spool: &Spool, allowance: &mut TimeAllowance) -> Result<()> {
    let Some(file) = spool.file() else {
        return send_all(client, spool.memory().unwrap_or_default(), allowance);
    };
    let mut offset = 0;
    while offset < spool.len() {
        let left = usize::try_from(spool.len() - offset).unwrap_or(usize::MAX);
        match send_file(client.as_fd(), file.as_fd(), offset, left) {
            Ok(0) => return Err(RequestError::ClientGone),
            Ok(count) => {
                offset += count as u64;
                allowance.earn(count);
            }
            Err(error) => wait_to_send(client, &error, allowance)?,
        }
    }
    Ok(())
}

/// After a write that failed with `error`: waits until the client can take bytes, if it still may.
fn wait_to_send(client: &TcpStream, error: &std::io::Error, allowance: &mut TimeAllowance) -> Result<()> {
    if error.kind() == ErrorKind::Interrupted {
        return Ok(());
    }
    if error.kind() != ErrorKind::WouldBlock {
        return Err(RequestError::ClientGone);
    }
    match allowance.wait(Watched::write(client.as_fd())).map_err(cannot_poll)? {
        true => Ok(()),
        false => {
            log!("connection of {:?} cut off: it took its answer too slowly", client.peer_addr().ok());
            Err(RequestError::ClientGone)
        }
    }
}
