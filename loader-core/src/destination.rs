//! Memory that bytes land in.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::{Backing, HostMemory, LoadOptions};

/// Borrowed memory that bytes land in.
///
/// It is written sequentially and never read back, so it may be write-combined or belong to a
/// driver; such memory may also refuse direct I/O, and then says so. What of it lies on small pages
/// is no place for direct I/O either, which needs nobody to say so where the system tells.
///
/// ```
/// use loader_core::Destination;
/// let mut memory = Vec::with_capacity(4096);
/// let destination = Destination::from(memory.spare_capacity_mut());
/// assert_eq!(destination.len(), 4096);
/// ```
#[derive(Debug)]
pub struct Destination<'a> {
    start: NonNull<u8>,
    len: usize,
    direct: bool,
    fresh: bool,
    borrowed: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

// SAFETY: a destination is an exclusive borrow of plain bytes, which any thread may write.
unsafe impl Send for Destination<'_> {}

impl Destination<'_> {
    /// Memory given by address: mapped device memory, a pinned buffer.
    ///
    /// `direct` tells whether the system may move bytes into it by direct I/O.
    ///
    /// # Safety
    /// `len` bytes at `start` are valid for writes for all of `'a`, and nothing else reads or
    /// writes them meanwhile.
    #[must_use]
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize, direct: bool) -> Self {
        Self {
            start,
            len,
            direct,
            fresh: false,
            borrowed: PhantomData,
        }
    }

    /// Says that nobody has touched this memory since it came from the system, so that huge pages
    /// may still be asked for under it: for large blocks from a general allocator, which come on
    /// small ones. A hint, and no promise: memory that was touched keeps its pages.
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Whether [`fresh`](Self::fresh) was said of it.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Corrects what was said of it by what `memory` sees under it: where nobody has touched it, it
    /// is [`fresh`](Self::fresh); where it lies on small pages, it is not, and is not worth direct
    /// I/O.
    ///
    /// A device is told of each page that it writes to, and takes few at once: into 4 KiB pages that
    /// lie scattered in memory a disk of 3.9 GB/s gave 1.9, and 3.5 by way of slabs.
    pub(crate) fn seen_by(mut self, memory: &dyn HostMemory) -> Self {
        if (self.len as u64) <= LoadOptions::DEFAULT_CHUNK_BYTES {
            return self;
        }
        match memory.backing(self.start, self.len) {
            Backing::Untouched => self.fresh = true,
            Backing::SmallPages => (self.fresh, self.direct) = (false, false),
            Backing::Unknown | Backing::HugePages => {}
        }
        self
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the system may move bytes into it by direct I/O.
    #[must_use]
    pub fn allows_direct(&self) -> bool {
        self.direct
    }

    /// Its first byte.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }
}

impl<'a> From<&'a mut [MaybeUninit<u8>]> for Destination<'a> {
    fn from(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        let len = memory.len();
        Self {
            start: NonNull::from(memory).cast(),
            len,
            direct: true,
            fresh: false,
            borrowed: PhantomData,
        }
    }
}

impl<'a> From<&'a mut [u8]> for Destination<'a> {
    fn from(memory: &'a mut [u8]) -> Self {
        let len = memory.len();
        Self {
            start: NonNull::from(memory).cast(),
            len,
            direct: true,
            fresh: false,
            borrowed: PhantomData,
        }
    }
}

impl<'a, const N: usize> From<&'a mut [u8; N]> for Destination<'a> {
    fn from(memory: &'a mut [u8; N]) -> Self {
        Self::from(memory.as_mut_slice())
    }
}

impl<'a> From<&'a mut Vec<u8>> for Destination<'a> {
    fn from(memory: &'a mut Vec<u8>) -> Self {
        Self::from(memory.as_mut_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeapMemory, HostRegion};

    /// Tells the same of all memory.
    #[derive(Debug)]
    struct Told(Backing);

    impl HostMemory for Told {
        fn allocate(&self, len: usize) -> std::io::Result<Box<dyn HostRegion>> {
            HeapMemory.allocate(len)
        }
        fn populate(&self, _start: NonNull<u8>, _len: usize) {}
        fn backing(&self, _start: NonNull<u8>, _len: usize) -> Backing {
            self.0
        }
    }

    #[test]
    fn what_lies_under_long_memory_is_heeded() {
        let mut memory = vec![0; 3 << 20];
        let mut seen = |len, backing, fresh| {
            let destination = Destination::from(&mut memory[..len]);
            let destination = if fresh {
                destination.fresh()
            } else {
                destination
            };
            let destination = destination.seen_by(&Told(backing));
            (destination.is_fresh(), destination.allows_direct())
        };
        let long = 3 << 20;
        for said in [false, true] {
            assert_eq!(seen(long, Backing::Untouched, said), (true, true));
            assert_eq!(seen(long, Backing::SmallPages, said), (false, false));
            assert_eq!(seen(long, Backing::HugePages, said), (said, true));
            assert_eq!(seen(long, Backing::Unknown, said), (said, true));
            assert_eq!(seen(1 << 20, Backing::SmallPages, said), (said, true));
        }
    }

    #[test]
    fn memory_that_direct_reads_must_not_reach_stays_so() {
        let mut memory = vec![0; 3 << 20];
        let start = NonNull::from(memory.as_mut_slice()).cast();
        // SAFETY: the memory is there, and nothing is read into it.
        let destination = unsafe { Destination::from_raw(start, memory.len(), false) };
        assert!(
            !destination
                .seen_by(&Told(Backing::HugePages))
                .allows_direct()
        );
    }
}
