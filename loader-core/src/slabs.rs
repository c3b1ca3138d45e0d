//! Memory of ours for reads that cannot go straight to their destination.

use std::io;
use std::ptr::NonNull;

use crate::{HostBuffer, HostMemory};

/// Bytes of a slab; reads through one are at most this long.
pub(crate) const SLAB_BYTES: usize = 1 << 20;

/// Slabs of one worker, taken from the system when the first one is needed.
#[derive(Debug)]
pub(crate) struct Slabs<'m> {
    source: &'m dyn HostMemory,
    memory: Option<HostBuffer>,
    free: Vec<usize>,
}

impl<'m> Slabs<'m> {
    pub(crate) fn new(count: usize, source: &'m dyn HostMemory) -> Self {
        Self {
            source,
            memory: None,
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a free slab, if there is one, which begins at a multiple of `alignment`.
    pub(crate) fn take(&mut self, alignment: usize) -> io::Result<Option<usize>> {
        if self.memory.is_none() {
            let len = self.free.len() * SLAB_BYTES;
            let memory = HostBuffer::zeroed(self.source, len).map_err(io::Error::other)?;
            memory.exclude_from_fork(true);
            self.memory = Some(memory);
        }
        // Whole pages are certain, and no device is known to need more. Where the first one lies
        // right, so do those behind it, unless they are shorter than what is asked for.
        if alignment > SLAB_BYTES || self.start(0).addr() % alignment != 0 {
            let reason = format!("no slab lies at a multiple of {alignment} bytes in memory");
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        Ok(self.free.pop())
    }

    /// Gives back a slab that nothing is being read into any more.
    pub(crate) fn give_back(&mut self, slab: usize) {
        self.free.push(slab);
    }

    /// Where a slab begins: at a whole page.
    pub(crate) fn start(&self, slab: usize) -> *mut u8 {
        let memory = self.memory.as_ref();
        let first = memory.map_or(NonNull::dangling(), HostBuffer::start);
        first.as_ptr().wrapping_add(slab * SLAB_BYTES)
    }

    /// The first bytes of a slab.
    ///
    /// # Safety
    /// The slab was taken, and nothing is being read into it any more.
    pub(crate) unsafe fn filled(&self, slab: usize, len: usize) -> &[u8] {
        let len = len.min(SLAB_BYTES);
        // SAFETY: the slab lies within the memory, which was zeroed; nothing writes to it, as the
        // caller promises, and `self` is borrowed, so that no other read can take it.
        unsafe { std::slice::from_raw_parts(self.start(slab), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeapMemory;

    #[test]
    fn slabs_that_lie_wrong_are_not_given() {
        let mut slabs = Slabs::new(2, &HeapMemory);
        for alignment in [1 << 62, 2 * SLAB_BYTES] {
            let nowhere = slabs.take(alignment).map_err(|error| error.kind());
            assert_eq!(nowhere, Err(io::ErrorKind::Unsupported));
        }
        assert_eq!(slabs.take(4096).unwrap(), Some(0));
        assert_eq!(slabs.take(4096).unwrap(), Some(1));
        assert_eq!(slabs.take(4096).unwrap(), None);
    }
}
