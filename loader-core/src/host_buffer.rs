//! Destination memory of ours.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use crate::{Destination, Error, Result};

/// Where host buffers come from: one implementation per operating system.
///
/// ```
/// use std::io;
/// use std::ptr::NonNull;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use loader_core::{HeapMemory, HostBuffer, HostMemory, HostRegion};
///
/// /// Counts the bytes that are taken.
/// #[derive(Debug, Default)]
/// struct Counted(AtomicUsize);
///
/// impl HostMemory for Counted {
///     fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
///         let region = HeapMemory.allocate(len)?;
///         self.0.fetch_add(region.len(), Ordering::Relaxed);
///         Ok(region)
///     }
///     fn populate(&self, start: NonNull<u8>, len: usize) {
///         HeapMemory.populate(start, len);
///     }
/// }
///
/// let memory = Counted::default();
/// let buffer = HostBuffer::zeroed(&memory, 5000)?;
/// assert_eq!((buffer.len(), memory.0.into_inner()), (5000, 8192));
/// # Ok::<(), loader_core::Error>(())
/// ```
pub trait HostMemory: fmt::Debug + Send + Sync {
    /// Takes `len` zeroed bytes (at least one), rounded up to whole pages and aligned to one, on
    /// huge pages where the system offers them and the length makes them worthwhile.
    ///
    /// # Errors
    /// The system's reason.
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>>;

    /// Faults in `len` bytes at `start` for writing, so that those who fill them need not; contents
    /// stay as they are. A hint: memory that cannot be faulted in is left alone.
    fn populate(&self, start: NonNull<u8>, len: usize);

    /// Looks what lies under `len` bytes at `start`, whoever's memory that is. A hint, from a few
    /// looks; [`Backing::Unknown`] where the system does not tell.
    fn backing(&self, start: NonNull<u8>, len: usize) -> Backing {
        let _ = (start, len);
        Backing::Unknown
    }

    /// Asks for huge pages under the pages that `len` bytes at `start` lie on, where none is there
    /// yet: for memory of somebody else's that we fill. A hint; contents stay as they are, whatever
    /// the memory is.
    fn prefer_huge_pages(&self, start: NonNull<u8>, len: usize) {
        let _ = (start, len);
    }
}

/// What lies under memory, mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// Nobody knows.
    Unknown,
    /// Nothing yet: pages come when it is written to.
    Untouched,
    /// Pages of the smallest size, a few kilobytes each.
    SmallPages,
    /// Huge pages, megabytes each.
    HugePages,
}

/// Memory taken from the system, given back when dropped.
///
/// # Safety
/// [`start`](Self::start) never changes, and [`len`](Self::len) bytes there are initialised and
/// valid for reads and writes, aliased by nothing else, until the region is dropped.
pub unsafe trait HostRegion: fmt::Debug + Send + Sync {
    /// Its first byte.
    fn start(&self) -> NonNull<u8>;

    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the whole pages within `range` back to the system; they read as zero afterwards.
    fn release(&mut self, range: Range<usize>);

    /// Locks the memory, so that it is never swapped out, until the region is dropped.
    ///
    /// # Errors
    /// The system's reason: most allow few locked bytes without privileges.
    fn lock(&self) -> io::Result<()> {
        let reason = "this kind of memory cannot be locked here";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Keeps a forked child from sharing these pages (or lets it again), so that a copy made at
    /// the fork cannot divert bytes that the system is writing. Does nothing where the system has
    /// no such means.
    fn exclude_from_fork(&self, excluded: bool);
}

/// Memory of ours that weights land in: page-aligned, on huge pages where the system offers them.
///
/// ```
/// let mut buffer = loader_core::HostBuffer::zeroed(&loader_core::HeapMemory, 10)?;
/// buffer[3] = 7;
/// assert_eq!(&buffer[..], [0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
/// # Ok::<(), loader_core::Error>(())
/// ```
#[derive(Debug)]
pub struct HostBuffer {
    /// `None` for a buffer of no bytes.
    region: Option<Box<dyn HostRegion>>,
    len: usize,
}

impl HostBuffer {
    /// Takes `len` zeroed bytes from `memory`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the system has not that much.
    pub fn zeroed(memory: &dyn HostMemory, len: usize) -> Result<Self> {
        if len == 0 {
            return Ok(Self { region: None, len });
        }
        match memory.allocate(len) {
            Ok(region) if region.len() >= len => Ok(Self {
                region: Some(region),
                len,
            }),
            Ok(region) => Err(Error::OutOfMemory {
                needed: len as u64,
                available: region.len() as u64,
                limit: "what the system gave",
            }),
            Err(error) => {
                tracing::debug!(%error, len, "the system refused memory");
                Err(Error::OutOfMemory {
                    needed: len as u64,
                    available: 0,
                    limit: "address space or overcommit limit",
                })
            }
        }
    }

    /// Gives the whole pages within `range` back to the system: for weights that were uploaded or
    /// converted. They read as zero afterwards. What reaches outside the buffer is ignored.
    pub fn release(&mut self, range: Range<usize>) {
        let range = range.start.min(self.len)..range.end.min(self.len);
        if let Some(region) = self.region.as_mut().filter(|_| !range.is_empty()) {
            region.release(range);
        }
    }

    /// The buffer as a destination.
    pub fn destination(&mut self) -> Destination<'_> {
        Destination::from(&mut **self)
    }

    /// Locks it in memory, so that it is never swapped out, until it is dropped. Faults in what was
    /// not touched yet.
    ///
    /// # Errors
    /// The system's reason: most allow few locked bytes without privileges.
    pub fn lock(&self) -> io::Result<()> {
        self.region.as_ref().map_or(Ok(()), |region| region.lock())
    }

    /// Keeps a forked child from sharing this memory, or lets it again.
    pub fn exclude_from_fork(&self, excluded: bool) {
        if let Some(region) = &self.region {
            region.exclude_from_fork(excluded);
        }
    }

    /// Bytes that belong to it from its first one on: its length, and what rounds that up to whole
    /// pages (at least 4096 bytes each). For those who import it into a device, which takes whole
    /// pages.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len())
    }

    /// Its first byte, for memory that the system writes into; dangling where it has no bytes.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.region
            .as_ref()
            .map_or(NonNull::dangling(), |region| region.start())
    }
}

impl Deref for HostBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region's contract: at least `len` initialised bytes that nothing else
        // writes; a dangling pointer serves for no bytes.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.len) }
    }
}

/// Memory of the global allocator, aligned to 4096 bytes: for systems that have nothing better, and
/// for tests.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct HeapMemory;

impl HeapMemory {
    /// What its memory is aligned to, in bytes, and a multiple of which it has.
    pub const ALIGNMENT: usize = align_of::<Page>();
}

/// A boxed slice, as whose owner nobody makes a reference to memory that others write to.
#[derive(Debug)]
struct HeapRegion(NonNull<[Page]>);

#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl HostMemory for HeapMemory {
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
        let count = len.div_ceil(size_of::<Page>());
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(count)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        pages.resize(count, Page([0; 4096]));
        let pages = NonNull::from(Box::leak(pages.into_boxed_slice()));
        Ok(Box::new(HeapRegion(pages)))
    }

    fn populate(&self, _start: NonNull<u8>, _len: usize) {}
}

// SAFETY: it owns its memory, to which it makes no reference.
unsafe impl Send for HeapRegion {}
// SAFETY: as above.
unsafe impl Sync for HeapRegion {}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: it was a box before, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: its memory stays where it is, initialised and owned, until it is dropped.
unsafe impl HostRegion for HeapRegion {
    fn start(&self) -> NonNull<u8> {
        self.0.cast()
    }

    fn len(&self) -> usize {
        self.0.len() * size_of::<Page>()
    }

    /// The allocator has no use for part of its memory, so it is but zeroed.
    fn release(&mut self, range: Range<usize>) {
        // SAFETY: the pages are this region's, which is borrowed exclusively.
        let pages = unsafe { self.0.as_mut() };
        let first = range.start.div_ceil(size_of::<Page>());
        let end = (range.end / size_of::<Page>()).min(pages.len());
        if let Some(pages) = pages.get_mut(first..end) {
            pages.fill(Page([0; 4096]));
        }
    }

    fn exclude_from_fork(&self, _excluded: bool) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_memory_is_aligned_and_zeroed() {
        for len in [1, 4095, 4096, 4097, 100_000] {
            let buffer = HostBuffer::zeroed(&HeapMemory, len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(4096), 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
        assert!(HostBuffer::zeroed(&HeapMemory, 0).unwrap().is_empty());
    }

    #[test]
    fn impossible_lengths_are_an_error() {
        assert!(matches!(
            HostBuffer::zeroed(&HeapMemory, isize::MAX.unsigned_abs()),
            Err(Error::OutOfMemory { .. })
        ));
    }
}
