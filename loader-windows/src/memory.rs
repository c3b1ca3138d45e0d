//! Destination memory straight from the system.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

use loader_core::{HostMemory, HostRegion};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, MEM_RESET, PAGE_READWRITE, VirtualAlloc, VirtualFree,
    VirtualLock, VirtualUnlock,
};

use crate::working_set::Room;

/// The size of a page on every Windows that Rust runs on.
const PAGE_BYTES: usize = 4096;

/// Memory by `VirtualAlloc`: aligned to 64 KiB and zeroed.
///
/// It is not faulted in ahead: the system has no call that does so without writing to it. Large
/// pages need a privilege that users do not have.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct VirtualMemory;

impl HostMemory for VirtualMemory {
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
        // SAFETY: no address is asked for, so the call touches no memory that exists.
        let start = unsafe {
            VirtualAlloc(
                std::ptr::null(),
                len,
                MEM_RESERVE | MEM_COMMIT,
                PAGE_READWRITE,
            )
        };
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Box::new(VirtualRegion {
                start,
                len: len.next_multiple_of(PAGE_BYTES),
                locked: OnceLock::new(),
            })),
            None => Err(io::Error::last_os_error()),
        }
    }

    fn populate(&self, _start: NonNull<u8>, _len: usize) {}
}

#[derive(Debug)]
struct VirtualRegion {
    start: NonNull<u8>,
    /// Whole pages.
    len: usize,
    /// The room in the working set that its locked pages take.
    locked: OnceLock<Room>,
}

// SAFETY: the memory belongs to the process, not to a thread.
unsafe impl Send for VirtualRegion {}

// SAFETY: shared references give out the address and the length alone.
unsafe impl Sync for VirtualRegion {}

// SAFETY: the allocation is private to this region, zeroed by the system, readable and writable,
// and stays committed where it is until it is dropped.
unsafe impl HostRegion for VirtualRegion {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }

    /// The pages stay committed, so that touching them again cannot fail; the system may take
    /// their memory whenever it likes.
    fn release(&mut self, range: Range<usize>) {
        let start = range.start.next_multiple_of(PAGE_BYTES);
        let end = range.end.min(self.len) / PAGE_BYTES * PAGE_BYTES;
        if start >= end {
            return;
        }
        let len = end - start;
        // SAFETY: `start` lies within the allocation.
        let first = unsafe { self.start.add(start) };
        // SAFETY: these pages belong to this region, which is borrowed exclusively; unlocking them
        // neither unmaps nor changes them.
        let unlock = || unsafe { VirtualUnlock(first.as_ptr().cast(), len) };
        if self.locked.get().is_some() {
            unlock();
        }
        // Reset pages hold what they held or zeros, whichever the system pleases. Both are the same
        // after this.
        // SAFETY: these pages belong to this region, which is borrowed exclusively.
        unsafe { first.write_bytes(0, len) };
        // SAFETY: as above; resetting neither unmaps nor decommits them.
        let reset = unsafe { VirtualAlloc(first.as_ptr().cast(), len, MEM_RESET, PAGE_READWRITE) };
        if reset.is_null() {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "memory was not given back");
            return;
        }
        // Unlocking pages that are not locked fails, and takes them out of the working set.
        unlock();
    }

    /// `VirtualLock`, after the working set was made large enough to hold locked pages.
    fn lock(&self) -> io::Result<()> {
        if self.locked.get().is_some() {
            return Ok(());
        }
        let room = Room::for_locked(self.len)?;
        // SAFETY: the pages are this region's and committed; locking changes nothing of what they
        // hold, and freeing them unlocks them.
        let locked = unsafe { VirtualLock(self.start.as_ptr().cast(), self.len) };
        if locked == 0 {
            return Err(room.explain(io::Error::last_os_error()));
        }
        // Another thread that locked the same pages meanwhile made room as well, which is given
        // back here.
        drop(self.locked.set(room));
        Ok(())
    }

    /// There is no fork here.
    fn exclude_from_fork(&self, _excluded: bool) {}
}

impl Drop for VirtualRegion {
    fn drop(&mut self) {
        // SAFETY: the allocation is this region's and nothing refers to it any more; a length of
        // zero frees all of it.
        let freed = unsafe { VirtualFree(self.start.as_ptr().cast(), 0, MEM_RELEASE) };
        if freed == 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "memory was not freed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::HostBuffer;

    #[test]
    fn memory_is_aligned_and_zeroed() {
        for len in [1, 4095, 65_536, 10_000_001] {
            let buffer = HostBuffer::zeroed(&VirtualMemory, len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(65_536), 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn released_pages_read_as_zero_and_others_stay() {
        let mut buffer = HostBuffer::zeroed(&VirtualMemory, 5 * PAGE_BYTES).unwrap();
        buffer.fill(7);
        buffer.release(PAGE_BYTES - 1..4 * PAGE_BYTES + 1);
        let (kept, rest) = buffer.split_at(PAGE_BYTES);
        let (released, end) = rest.split_at(3 * PAGE_BYTES);
        assert!(kept.iter().chain(end).all(|byte| *byte == 7));
        assert!(released.iter().all(|byte| *byte == 0));
        buffer.fill(9);
        assert!(buffer.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn locked_memory_is_usable_or_the_reason_is_told() {
        let mut buffer = HostBuffer::zeroed(&VirtualMemory, 3 << 20).unwrap();
        for _ in 0..2 {
            if let Err(error) = buffer.lock() {
                assert!(error.to_string().contains("working set"), "{error}");
            }
        }
        buffer.fill(7);
        buffer.release(PAGE_BYTES..3 * PAGE_BYTES);
        assert!(
            buffer[PAGE_BYTES..3 * PAGE_BYTES]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert!(buffer[3 * PAGE_BYTES..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn impossible_lengths_are_an_error() {
        let refused = VirtualMemory.allocate(isize::MAX.unsigned_abs());
        assert!(refused.is_err());
    }
}
