//! Destination memory straight from the system.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use loader_core::{HostMemory, HostRegion};
use memmap2::{MmapMut, MmapRaw};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Anonymous mappings: page-aligned (16 KiB on Apple silicon) and zeroed.
///
/// They are not faulted in ahead: the system has no call that does so without writing to them.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct AnonymousMemory;

impl HostMemory for AnonymousMemory {
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
        let mapping = MmapRaw::from(MmapMut::map_anon(len)?);
        Ok(Box::new(AnonymousRegion { mapping }))
    }

    fn populate(&self, _start: NonNull<u8>, _len: usize) {}
}

#[derive(Debug)]
struct AnonymousRegion {
    mapping: MmapRaw,
}

// SAFETY: the mapping is private to this region, zeroed by the system, readable and writable, and
// stays where it is until it is dropped; releasing pages replaces them by zeroed ones in place.
unsafe impl HostRegion for AnonymousRegion {
    fn start(&self) -> NonNull<u8> {
        // A mapping never begins at zero.
        NonNull::new(self.mapping.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.mapping.len()
    }

    fn release(&mut self, range: Range<usize>) {
        let page_bytes = rustix::param::page_size();
        let start = range.start.next_multiple_of(page_bytes);
        let end = range.end.min(self.len()) / page_bytes * page_bytes;
        if start >= end {
            return;
        }
        // SAFETY: `start` lies within the mapping.
        let first = unsafe { self.mapping.as_mut_ptr().add(start) };
        // SAFETY: these whole pages belong to this region, which is borrowed exclusively; they are
        // replaced by zeroed ones of the same protection, and unmapped together with the rest.
        let replaced = unsafe {
            mmap_anonymous(
                first.cast(),
                end - start,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED,
            )
        };
        if let Err(error) = replaced {
            tracing::debug!(%error, "memory was not given back");
        }
    }

    fn exclude_from_fork(&self, excluded: bool) {
        let inheritance = if excluded {
            libc::VM_INHERIT_NONE
        } else {
            libc::VM_INHERIT_COPY
        };
        // SAFETY: the range is this region's mapping; what a forked child has of it changes
        // nothing here.
        let set = unsafe {
            libc::minherit(
                self.mapping.as_mut_ptr().cast(),
                self.mapping.len(),
                inheritance,
            )
        };
        if set != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "memory is shared with forked children");
        }
    }
}
