//! The memory limit: one sum for all linear memories and tables of a function.
//!
//! A module that gets no more memory is told so (`memory.grow` gives -1) and decides itself. Most end in a trap or with
//! an error status, which does not show the cause. So the limit remembers a refusal, and the program reports it on
//! stderr if the function then fails.

use wasmtime::ResourceLimiter;

use crate::limits::TABLE_ELEMENT_BYTES;

/// The memory that a function may have, and its present memory.
pub struct MemoryLimit {
    pub limit_mib: usize,
    /// Size of all memories and tables, as last admitted.
    pub bytes: usize,
    /// True if more was requested than allowed.
    pub refused: bool,
}

impl MemoryLimit {
    pub fn new(limit_mib: usize) -> MemoryLimit {
        MemoryLimit { limit_mib, bytes: 0, refused: false }
    }

    /// Changes the limit; returns true if the admitted memory is within it.
    pub fn set(&mut self, limit_mib: usize) -> bool {
        self.limit_mib = limit_mib;
        self.admit(0)
    }

    fn admit(&mut self, more: usize) -> bool {
        let bytes = self.bytes.saturating_add(more);
        let is_admitted = bytes <= self.limit_mib.saturating_mul(1 << 20);
        if is_admitted {
            self.bytes = bytes;
        } else {
            self.refused = true;
        }
        is_admitted
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The request exceeds the module's own bound, not the limit.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.admit(desired - current))
    }

    /// The kernel had no more memory (RLIMIT_DATA).
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.admit((desired - current).saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}
