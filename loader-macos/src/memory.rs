//! Destination memory straight from the system.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use loader_core::{HostMemory, HostRegion};
use memmap2::{MmapMut, MmapRaw};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Resource, getrlimit};

use crate::{pages, sysctl};

/// Anonymous mappings: zeroed whole pages (of 16 KiB on Apple silicon).
///
/// They are not faulted in ahead: the system has no call that does so without writing to them.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct AnonymousMemory;

impl HostMemory for AnonymousMemory {
    fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
        let whole = pages::rounded_up(len, rustix::param::page_size())
            .ok_or_else(|| io::Error::other("more than the address space holds"))?;
        let mapping = MmapRaw::from(MmapMut::map_anon(whole)?);
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
        let pages = pages::within(range, self.len(), rustix::param::page_size());
        if pages.is_empty() {
            return;
        }
        let first = self.mapping.as_mut_ptr().wrapping_add(pages.start);
        // SAFETY: these whole pages belong to this region, which is borrowed exclusively; they are
        // replaced by zeroed ones of the same protection, and unmapped together with the rest.
        let replaced = unsafe {
            mmap_anonymous(
                first.cast(),
                pages.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED,
            )
        };
        if let Err(error) = replaced {
            tracing::debug!(%error, "memory was not given back");
        }
    }

    /// mlock(2), which may lock as much as `RLIMIT_MEMLOCK` and the kernel's own limit allow (XNU,
    /// `osfmk/vm/vm_map.c`, `add_wire_counts`).
    fn lock(&self) -> io::Result<()> {
        let first = self.mapping.as_mut_ptr();
        // SAFETY: the range is this region's mapping; locking changes nothing of its contents, and
        // unmapping unlocks it.
        let locked = unsafe { rustix::mm::mlock(first.cast(), self.mapping.len()) };
        locked.map_err(|error| {
            let limits = [
                getrlimit(Resource::Memlock).current,
                sysctl::number(c"vm.user_wire_limit"),
            ];
            match (error, limits.into_iter().flatten().min()) {
                (Errno::AGAIN | Errno::NOMEM, Some(limit)) => io::Error::other(format!(
                    "{error}; this process may lock {limit} bytes (RLIMIT_MEMLOCK and \
                     vm.user_wire_limit)"
                )),
                _ => error.into(),
            }
        })
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
