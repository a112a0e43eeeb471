//! Received bytes that are not used yet. An idle connection costs no buffer.

use std::io::{self, Read};

use crate::limits::RELAY_BYTES;

/// Holds no memory before the first [`Buffer::fill`], and none after [`Buffer::release`].
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// True if the last read filled all the room.
    is_narrow: bool,
}

impl Buffer {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Frees the memory, if it holds no bytes.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Buffer::default();
        }
    }

    /// Reads once, behind the present bytes, and returns the number of bytes read: 0 at the end of the stream. Grows up
    /// to `bytes_max` when it is full, or when the last read took all the room. It must hold fewer than `bytes_max`
    /// bytes.
    pub fn fill(&mut self, mut source: impl Read, bytes_max: usize) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.is_narrow || self.end == self.bytes.len() {
            let size = (self.bytes.len() * 2).max(RELAY_BYTES).min(bytes_max);
            self.bytes.resize(size.max(self.bytes.len()), 0);
        }
        debug_assert!(self.end < self.bytes.len(), "a full buffer reads as the end of the stream");
        let count = source.read(&mut self.bytes[self.end..])?;
        self.end += count;
        self.is_narrow = self.end == self.bytes.len();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_while_it_grows() {
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut source = content.as_slice();
        let mut buffer = Buffer::default();
        let mut back = Vec::new();
        while buffer.fill(&mut source, 10_000).unwrap() > 0 {
            let count = buffer.bytes().len() - 7;
            back.extend_from_slice(&buffer.bytes()[..count]);
            buffer.consume(count);
        }
        back.extend_from_slice(buffer.bytes());
        assert_eq!(back, content);
        assert_eq!(buffer.bytes.len(), 10_000);
        buffer.clear();
        buffer.release();
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
