//! System calls that no crate wraps for every system and architecture served here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `cachestat(2)`: the same number on every architecture but Alpha; MIPS, which counts from
/// elsewhere, answers ENOSYS. The libc crate names it for few targets only.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` (include/uapi/linux/mman.h).
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat` (include/uapi/linux/mman.h).
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// What the page cache holds of a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedPages {
    /// Pages that it holds, those included that are only being read.
    pub(crate) cached: u64,
    /// Pages of them that are not on the device yet, and so cannot be dropped.
    pub(crate) unwritten: u64,
}

/// Counts the pages that overlap `len` bytes at `offset`.
///
/// Since Linux 6.5. ENOSYS before, EPERM where the caller neither owns the file nor may write it
/// (Linux 6.14 and its stable predecessors), EOPNOTSUPP for huge-page filesystems. Never to be
/// called on Android, whose seccomp policy kills the process.
pub(crate) fn cached_pages(file: &File, offset: u64, len: u64) -> io::Result<CachedPages> {
    // To the kernel a length of zero would mean "to the end of the file".
    if len == 0 {
        return Ok(CachedPages {
            cached: 0,
            unwritten: 0,
        });
    }
    let range = CachestatRange { offset, len };
    let mut answer = Cachestat::default();
    let no_flags: libc::c_uint = 0;
    // SAFETY: both structures have the layout that the kernel expects and outlive the call, which
    // reads the first and fills the second; the descriptor is open while `file` is borrowed.
    let outcome = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut answer,
            no_flags,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(CachedPages {
        cached: answer.cached,
        unwritten: answer.dirty.saturating_add(answer.writeback),
    })
}

/// Reads one byte at `offset` if that needs no waiting for the device: `preadv2(RWF_NOWAIT)`, since
/// Linux 4.14. EAGAIN where it would have to wait, EOPNOTSUPP where the filesystem cannot tell.
///
/// Called by number, since Android's C library has had it only since API level 33.
pub(crate) fn read_byte_without_waiting(file: &File, offset: u64) -> io::Result<usize> {
    let mut byte = 0_u8;
    let part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let count: libc::c_int = 1;
    // The kernel takes the offset in two halves as long as a register; where one register holds
    // all of it, the second is ignored.
    #[allow(clippy::cast_possible_truncation, reason = "the other half follows")]
    let (low, high) = (offset as libc::c_ulong, (offset >> 32) as libc::c_ulong);
    // SAFETY: `part` names one byte, valid for writes, and both outlive the call; the descriptor
    // is open while `file` is borrowed.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            file.as_raw_fd(),
            &raw const part,
            count,
            low,
            high,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

/// Page faults of this process so far, its ended threads included: without I/O, and with I/O.
pub(crate) fn page_faults() -> Option<(u64, u64)> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes of its type.
    let outcome = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if outcome != 0 {
        return None;
    }
    // SAFETY: it was zeroed, which is a valid value of its integers, and then filled by the call.
    let usage = unsafe { usage.assume_init() };
    Some((
        u64::try_from(usage.ru_minflt).ok()?,
        u64::try_from(usage.ru_majflt).ok()?,
    ))
}
