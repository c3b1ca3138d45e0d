//! Short destination memory, of the allocator.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use loader_core::{HeapMemory, HostMemory, HostRegion};
use rustix::param::page_size;

use crate::pages;

/// Up to this many bytes memory is the allocator's, which has most of it at hand: mapping and
/// faulting in 1 MiB anew takes ten times as long as reading it from the page cache.
const MOST_BYTES: usize = 1 << 20;

/// Whole pages of the allocator's.
#[derive(Debug)]
pub(crate) struct SmallRegion {
    pages: Box<dyn HostRegion>,
    /// Whether they were locked, and must not be when the allocator gets them back.
    locked: AtomicBool,
    /// Whether they are kept out of forked children; the same.
    excluded: AtomicBool,
}

impl SmallRegion {
    /// Takes `len` bytes, where that is few and pages are such that the allocator's memory consists
    /// of them.
    pub(crate) fn allocate(len: usize) -> Option<io::Result<Self>> {
        let suits = len <= MOST_BYTES && page_size() == HeapMemory::ALIGNMENT;
        suits.then(|| {
            Ok(Self {
                pages: HeapMemory.allocate(len)?,
                locked: AtomicBool::new(false),
                excluded: AtomicBool::new(false),
            })
        })
    }
}

// SAFETY: the pages are such a region, which is owned until this is dropped.
unsafe impl HostRegion for SmallRegion {
    fn start(&self) -> NonNull<u8> {
        self.pages.start()
    }

    fn len(&self) -> usize {
        self.pages.len()
    }

    fn release(&mut self, range: Range<usize>) {
        self.pages.release(range);
    }

    fn lock(&self) -> io::Result<()> {
        self.locked.store(true, Ordering::Release);
        pages::lock(self.start(), self.len())
    }

    fn exclude_from_fork(&self, excluded: bool) {
        self.excluded.store(excluded, Ordering::Release);
        pages::exclude_from_fork(self.start(), self.len(), excluded);
    }
}

impl Drop for SmallRegion {
    fn drop(&mut self) {
        if *self.locked.get_mut() {
            pages::unlock(self.start(), self.len());
        }
        if *self.excluded.get_mut() {
            pages::exclude_from_fork(self.start(), self.len(), false);
        }
    }
}
