//! Receives one request: its head within a deadline, its body at the least rate and within its bound.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::cannot_poll;
use super::sender::send_all;
use crate::error::request::{RequestError, Result};
use crate::http_handler::Service;
use crate::http_handler::buffer::Buffer;
use crate::http_handler::chunked::{ChunkDecoder, Step};
use crate::http_handler::parser::{BodyFraming, Head, HeadScan, has_begun, parse_complete};
use crate::http_handler::spool::Spool;
use crate::http_handler::time_allowance::TimeAllowance;
use crate::limits::{HEAD_BYTES_MAX, LINGER_BYTES_MAX};
use crate::sys::Watched;

pub struct Receiver<'service> {
    service: &'service Service,
    client: &'service TcpStream,
    /// Bytes received and not used yet.
    buffer: Buffer,
}

impl<'service> Receiver<'service> {
    pub fn new(service: &'service Service, client: &'service TcpStream) -> Receiver<'service> {
        Receiver { service, client, buffer: Buffer::default() }
    }

    /// True once bytes of the next request are in the buffer.
    pub fn has_request(&self) -> bool {
        has_begun(self.buffer.bytes())
    }

    /// True if the next request begins with these bytes.
    pub fn begins_with(&self, bytes: &[u8]) -> bool {
        self.buffer.bytes().starts_with(bytes)
    }

    /// Reads once without waiting; 0 means the end of the connection.
    pub fn read_once(&mut self) -> io::Result<usize> {
        self.buffer.fill(self.client, HEAD_BYTES_MAX)
    }

    /// Frees the memory of an empty buffer.
    pub fn release(&mut self) {
        self.buffer.release();
    }

    pub fn receive_head(&mut self) -> Result<Head> {
        let mut scan = HeadScan::default();
        let mut allowance = TimeAllowance::deadline(self.service.bounds.head_deadline);
        loop {
            if let Some(end) = scan.end(self.buffer.bytes())? {
                let head = parse_complete(&self.buffer.bytes()[..end])?;
                self.buffer.consume(end);
                return Ok(head);
            }
            if self.receive(&mut allowance, "its head did not arrive in time")? == 0 {
                return Err(RequestError::RequestMalformed("the connection ended before the head did"));
            }
        }
    }

    pub fn receive_body(&mut self, head: &Head) -> Result<Spool> {
        let mut body = Spool::new(&self.service.area);
        let max = self.service.body_bytes_max;
        match head.framing {
            BodyFraming::None | BodyFraming::Length(0) => {}
            BodyFraming::Length(length) if length > max => return Err(RequestError::BodyTooLarge { max }),
            BodyFraming::Length(length) => {
                self.send_continue(head)?;
                self.receive_length(length, &mut body)?;
            }
            BodyFraming::Chunked => {
                self.send_continue(head)?;
                self.receive_chunks(max, &mut body)?;
            }
        }
        Ok(body)
    }

    /// Reads and discards the client's remaining bytes, within bounds.
    pub fn discard(&mut self) {
        let mut allowance = TimeAllowance::deadline(self.service.bounds.linger_max);
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX {
            self.buffer.clear();
            match self.receive(&mut allowance, "") {
                Ok(0) | Err(_) => return,
                Ok(count) => discarded += count,
            }
        }
    }

    /// Sends `100 Continue` to a client that waits for it. A client that has begun to send its body does not wait.
    fn send_continue(&mut self, head: &Head) -> Result<()> {
        if head.expect_continue && self.buffer.is_empty() {
            send_all(self.client, b"HTTP/1.1 100 Continue\r\n\r\n", &mut self.service.least_rate())?;
        }
        Ok(())
    }

    fn receive_length(&mut self, length: u64, body: &mut Spool) -> Result<()> {
        let mut allowance = self.service.least_rate();
        let mut left = length;
        loop {
            let count = self.buffer.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body.write(&self.buffer.bytes()[..count])?;
            self.buffer.consume(count);
            left -= count as u64;
            if left == 0 {
                return Ok(());
            }
            self.receive_body_bytes(&mut allowance)?;
        }
    }

    fn receive_chunks(&mut self, max: u64, body: &mut Spool) -> Result<()> {
        let mut allowance = self.service.least_rate();
        let mut decoder = ChunkDecoder::new();
        loop {
            let (used, step) = decoder.step(self.buffer.bytes())?;
            let (ended, starved) = (step == Step::End, step == Step::More);
            if let Step::Data(data) = step {
                if body.len() + data.len() as u64 > max {
                    return Err(RequestError::BodyTooLarge { max });
                }
                body.write(data)?;
            }
            self.buffer.consume(used);
            if ended {
                return Ok(());
            }
            if starved {
                self.receive_body_bytes(&mut allowance)?;
            }
        }
    }

    fn receive_body_bytes(&mut self, allowance: &mut TimeAllowance) -> Result<()> {
        match self.receive(allowance, "its body did not arrive at the least rate")? {
            0 => Err(RequestError::RequestMalformed("the connection ended before the body did")),
            _ => Ok(()),
        }
    }

    /// Waits for bytes from the client and reads once; returns 0 when it sends no more.
    fn receive(&mut self, allowance: &mut TimeAllowance, too_slow: &'static str) -> Result<usize> {
        loop {
            match self.read_once() {
                Ok(count) => {
                    allowance.earn(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !allowance.wait(Watched::read(self.client.as_fd())).map_err(cannot_poll)? {
                        return Err(RequestError::RequestTooSlow(too_slow));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(RequestError::ClientGone),
            }
        }
    }
}
