//! The module's memory, as the host's functions see it: every address is checked, none is trusted.

use super::errno::{self, Errno};
use crate::limits::{BUFFERS_MAX, PATH_BYTES_MAX};

pub struct Guest<'a>(pub &'a mut [u8]);

/// A piece of the module's memory.
#[derive(Clone, Copy)]
pub struct Piece {
    pub at: u32,
    pub len: u32,
}

impl Guest<'_> {
    pub fn bytes(&self, at: u32, len: u32) -> Result<&[u8], Errno> {
        let at = at as usize;
        self.0.get(at..at + len as usize).ok_or(errno::FAULT)
    }

    pub fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        let at = at as usize;
        self.0.get_mut(at..at + len as usize).ok_or(errno::FAULT)
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N], Errno> {
        Ok(self.bytes(at, N as u32)?.try_into().expect("it is N long"))
    }

    pub fn u8(&self, at: u32) -> Result<u8, Errno> {
        Ok(self.array::<1>(at)?[0])
    }

    pub fn u16(&self, at: u32) -> Result<u16, Errno> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub fn u32(&self, at: u32) -> Result<u32, Errno> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub fn u64(&self, at: u32) -> Result<u64, Errno> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        self.bytes_mut(at, bytes.len() as u32)?.copy_from_slice(bytes);
        Ok(())
    }

    pub fn put_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn put_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn path(&self, at: u32, len: u32) -> Result<&[u8], Errno> {
        if len > PATH_BYTES_MAX {
            return Err(errno::NAMETOOLONG);
        }
        self.bytes(at, len)
    }

    /// The buffers of an array of (address, length), without those of length 0.
    pub fn pieces(&self, at: u32, count: u32) -> impl Iterator<Item = Result<Piece, Errno>> {
        let entry = move |index: u32| {
            // An address beyond 4 GiB is as wrong as one beyond the memory.
            let entry = at.checked_add(index * 8).ok_or(errno::FAULT)?;
            let piece = Piece { at: self.u32(entry)?, len: self.u32(entry.checked_add(4).ok_or(errno::FAULT)?)? };
            self.bytes(piece.at, piece.len)?;
            Ok(piece)
        };
        (0..count.min(BUFFERS_MAX)).map(entry).filter(|piece| !matches!(piece, Ok(Piece { len: 0, .. })))
    }
}
