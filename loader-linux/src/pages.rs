//! What the kernel does about whole pages of anonymous memory of ours. None of it changes what they
//! hold.

use std::io;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::Advice;
use rustix::process::{Resource, getrlimit};

/// mlock(2), which without `CAP_IPC_LOCK` may lock no more than `RLIMIT_MEMLOCK` allows.
pub(crate) fn lock(start: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: locking changes nothing of what memory holds, and fails where there is none.
    let outcome = unsafe { rustix::mm::mlock(start.as_ptr().cast(), len) };
    let allowed = getrlimit(Resource::Memlock).current;
    outcome.map_err(|error| match (error, allowed) {
        (Errno::NOMEM | Errno::PERM | Errno::AGAIN, Some(limit)) => io::Error::other(format!(
            "{error}; this process may lock {limit} bytes (RLIMIT_MEMLOCK)"
        )),
        (error, _) => error.into(),
    })
}

/// munlock(2), where the memory is not to be unmapped.
pub(crate) fn unlock(start: NonNull<u8>, len: usize) {
    // SAFETY: as for locking.
    if let Err(error) = unsafe { rustix::mm::munlock(start.as_ptr().cast(), len) } {
        tracing::debug!(%error, "memory stays locked");
    }
}

/// `MADV_DONTFORK`: the pages are not in the child at all, so the child must not touch them.
pub(crate) fn exclude_from_fork(start: NonNull<u8>, len: usize, excluded: bool) {
    let advice = if excluded {
        Advice::LinuxDontFork
    } else {
        Advice::LinuxDoFork
    };
    // SAFETY: the advice changes nothing of what this process has in memory.
    if let Err(error) = unsafe { rustix::mm::madvise(start.as_ptr().cast(), len, advice) } {
        tracing::debug!(%error, ?advice, "forked children share memory as before");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use loader_core::HostMemory;

    use crate::HugePageMemory;

    /// Whether forked children share the memory at `address`; `None` where nothing is mapped there.
    fn is_shared_with_children(address: usize) -> Option<bool> {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in smaps.lines() {
            let bounds = line
                .split_once(' ')
                .and_then(|(first, _)| first.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((start, end)) = bounds.and_then(|(a, b)| Some((number(a)?, number(b)?))) {
                within = (start..end).contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| within) {
                return Some(!flags.split_whitespace().any(|flag| flag == "dc"));
            }
        }
        None
    }

    #[test]
    fn forked_children_share_memory_unless_it_is_being_filled() {
        for len in [100, 1 << 20, 3 << 20] {
            let region = HugePageMemory.allocate(len).unwrap();
            let address = region.start().addr().get();
            assert_eq!(is_shared_with_children(address), Some(true), "{len}");
            region.exclude_from_fork(true);
            assert_eq!(is_shared_with_children(address), Some(false), "{len}");
            region.exclude_from_fork(false);
            assert_eq!(is_shared_with_children(address), Some(true), "{len}");
            // Who gets the memory next knows nothing of it.
            region.exclude_from_fork(true);
            drop(region);
            assert_ne!(is_shared_with_children(address), Some(false), "{len}");
        }
    }
}
