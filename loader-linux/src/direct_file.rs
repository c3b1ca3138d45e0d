//! Files opened past the page cache, and how chunks must lie to be read so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use loader_core::{HostBuffer, Mechanism, Refusal, Support, Task, WeightFile};
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::filesystem;
use crate::host_memory::HugePageMemory;

/// Reads through a slab are at most this long.
pub(crate) const SLAB_BYTES: usize = 1 << 20;

/// Alignments beyond this are not served: a slab must hold several blocks.
const LARGEST_BLOCK: u64 = SLAB_BYTES as u64 / 4;

/// What direct I/O is called in a refusal, whichever reader performs it.
const DIRECT: Mechanism = Mechanism::DIRECT;

/// Whether and how `file` can be read past the page cache.
pub(crate) fn support(file: &WeightFile) -> Result<Support, Refusal> {
    let refuse = |reason: String| {
        Err(Refusal::new(
            DIRECT,
            format!("{}: {reason}", file.path().display()),
        ))
    };
    let kind = filesystem::kind(file.file());
    if kind.in_memory {
        return refuse(format!(
            "{} keeps files in memory, there is nothing to pass by",
            kind.name
        ));
    }
    let aligned = match stated_alignment(file.file()) {
        Some(Support {
            offset_alignment: 0,
            ..
        }) => {
            return refuse(format!(
                "{} has no direct I/O for this file (statx)",
                kind.name
            ));
        }
        Some(support) => support,
        None => match open(file).and_then(|direct| tried_alignment(file, &direct)) {
            Ok(Some(support)) => support,
            Ok(None) => return refuse(format!("{} refuses direct reads (EINVAL)", kind.name)),
            Err(error) => return refuse(format!("direct I/O is refused: {error}")),
        },
    };
    if aligned.offset_alignment > LARGEST_BLOCK {
        return refuse(format!(
            "direct reads need blocks of {} bytes",
            aligned.offset_alignment
        ));
    }
    let mut support = aligned;
    if kind.network_or_fuse {
        support.discouraged = Some(format!(
            "{}: buffered reads serve {} better",
            file.path().display(),
            kind.name
        ));
    }
    Ok(support)
}

/// Opens `file` once more, past the page cache.
///
/// By its descriptor, since its name may be gone or mean another file by now; where `/proc` is
/// missing by its name, if that still means the same file.
pub(crate) fn open(file: &WeightFile) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let by_descriptor = options.open(format!("/proc/self/fd/{}", file.file().as_raw_fd()));
    match by_descriptor {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reopened = options.open(file.path())?;
            let (known, found) = (file.file().metadata()?, reopened.metadata()?);
            if (known.dev(), known.ino()) == (found.dev(), found.ino()) {
                Ok(reopened)
            } else {
                Err(io::Error::other(
                    "/proc is not mounted and the file's name means another file",
                ))
            }
        }
        outcome => outcome,
    }
}

/// What statx(2) says: `STATX_DIOALIGN`, since Linux 6.1, where the filesystem fills it in. An
/// offset alignment of zero says that the file has no direct I/O.
fn stated_alignment(file: &File) -> Option<Support> {
    let wanted = StatxFlags::DIOALIGN | DIO_READ_ALIGN;
    let stat = statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    let given = StatxFlags::from_bits_retain(stat.stx_mask);
    if !given.contains(StatxFlags::DIOALIGN) {
        return None;
    }
    // Reads may be allowed smaller blocks than writes (since Linux 6.14).
    let offset = match stat.stx_dio_read_offset_align {
        smaller if given.contains(DIO_READ_ALIGN) && smaller > 0 => smaller,
        _ => stat.stx_dio_offset_align,
    };
    Some(Support::aligned(
        u64::from(offset),
        stat.stx_dio_mem_align as usize,
    ))
}

/// `STATX_DIO_READ_ALIGN` (include/uapi/linux/stat.h), which rustix does not name yet.
const DIO_READ_ALIGN: StatxFlags = StatxFlags::from_bits_retain(0x0002_0000);

/// Finds the smallest block that a read works with, where nobody tells it.
fn tried_alignment(file: &WeightFile, direct: &File) -> io::Result<Option<Support>> {
    if file.disk_len() == 0 {
        return Ok(Some(Support::aligned(4096, 4096)));
    }
    let largest = 65536;
    let mut memory =
        HostBuffer::zeroed(&HugePageMemory, largest).map_err(|_| io::ErrorKind::OutOfMemory)?;
    for block in [512, 4096, largest] {
        match rustix::io::pread(direct, &mut memory[..block], 0) {
            // The address was aligned to a page; smaller alignments were not tried.
            Ok(_) => return Ok(Some(Support::aligned(block as u64, block.max(4096)))),
            Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// How a task is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// So many bytes straight into the destination; the rest is a task of its own afterwards.
    InPlace { len: usize },
    /// `read` bytes at `offset` into a slab, of which `wanted` bytes after the first `skip` are
    /// copied to the destination.
    Bounce {
        offset: u64,
        read: usize,
        skip: usize,
        wanted: usize,
    },
}

/// Chooses for `len` bytes at `offset` bound for `address`.
///
/// Unaligned heads that shift the rest onto aligned ground are bounced alone, so that the rest can
/// be read in place.
pub(crate) fn approach(
    support: &Support,
    offset: u64,
    len: usize,
    address: usize,
    allows_direct: bool,
) -> Approach {
    let block = support.offset_alignment.max(1);
    let memory = support.memory_alignment.max(1);
    // Both fit a slab, which is an `usize`.
    let small = |bytes: u64| usize::try_from(bytes).unwrap_or(SLAB_BYTES);
    let block_len = small(block);
    let skip = small(offset % block);
    let aligned = skip == 0 && address % memory == 0;
    if allows_direct && aligned && len >= block_len {
        return Approach::InPlace {
            len: len - len % block_len,
        };
    }
    let head = (block_len - skip) % block_len;
    let rest_aligned = head > 0 && address.wrapping_add(head) % memory == 0;
    let wanted = if allows_direct && rest_aligned && len >= head + block_len {
        head
    } else {
        len.min(SLAB_BYTES - skip)
    };
    let read = (skip + wanted).next_multiple_of(block_len);
    Approach::Bounce {
        offset: offset - skip as u64,
        read,
        skip,
        wanted,
    }
}

/// Chooses for a task.
pub(crate) fn approach_task(support: &Support, task: &Task<'_>) -> Approach {
    let address = task.destination().addr().get();
    approach(
        support,
        task.offset(),
        task.len(),
        address,
        task.allows_direct(),
    )
}

/// Copies the bytes wanted to where the task wants them, and tells its outcome.
///
/// `read` is what the system put into a slab, of which `wanted` bytes after `skip` are wanted.
pub(crate) fn deliver(
    task: Task<'_>,
    mechanism: Mechanism,
    read: &[u8],
    skip: usize,
    wanted: usize,
) {
    let got = read.len().saturating_sub(skip).min(wanted);
    let source = read[read.len().min(skip)..].as_ptr();
    let destination = task.destination().as_ptr();
    // SAFETY: `read` holds `got` bytes after `skip`; the task's destination is valid for writes of
    // its length, of which `wanted` is a part; a slab is memory of ours and overlaps none.
    unsafe { destination.copy_from_nonoverlapping(source, got) };
    // SAFETY: the first `got` bytes were copied just now from what the system read at the task's
    // offset, and nothing else writes there.
    unsafe { task.complete(mechanism, got) };
}

/// Whether an error means that direct I/O does not serve here, rather than that the device failed:
/// alignment (EINVAL), memory that cannot be pinned (EFAULT), no such operation.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    use rustix::io::Errno;
    matches!(
        code,
        Some(Errno::INVAL | Errno::FAULT | Errno::OPNOTSUPP | Errno::NOSYS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn approaches_respect_alignment_and_move_on(
            block_power in 9_u32..17,
            memory_power in 2_u32..13,
            offset in 0_u64..1 << 40,
            len in 1_usize..8 << 20,
            address in 4096_usize..1 << 40,
            allows_direct: bool,
        ) {
            let support = Support::aligned(1 << block_power, 1 << memory_power);
            let block = support.offset_alignment;
            match approach(&support, offset, len, address, allows_direct) {
                Approach::InPlace { len: part } => {
                    prop_assert!(allows_direct && part > 0 && part <= len);
                    prop_assert_eq!(offset % block, 0);
                    prop_assert_eq!(part as u64 % block, 0);
                    prop_assert_eq!(address % support.memory_alignment, 0);
                }
                Approach::Bounce { offset: start, read, skip, wanted } => {
                    prop_assert!(wanted > 0 && wanted <= len);
                    prop_assert_eq!(start % block, 0);
                    prop_assert_eq!(read as u64 % block, 0);
                    prop_assert_eq!(start + skip as u64, offset);
                    prop_assert!(skip + wanted <= read && read <= SLAB_BYTES);
                }
            }
        }
    }

    #[test]
    fn congruent_destinations_bounce_only_their_ends() {
        let support = Support::aligned(4096, 4096);
        let (mut offset, mut len, mut address) = (4096 * 3 + 100, 10 << 20, 4096 * 77 + 100);
        let mut steps = Vec::new();
        while len > 0 {
            let step = approach(&support, offset, len, address, true);
            let moved = match step {
                Approach::InPlace { len } => len,
                Approach::Bounce { wanted, .. } => wanted,
            };
            steps.push(step);
            (offset, len, address) = (offset + moved as u64, len - moved, address + moved);
        }
        assert!(matches!(
            steps[..],
            [
                Approach::Bounce { wanted: 3996, .. },
                Approach::InPlace { .. },
                Approach::Bounce { wanted: 100, .. }
            ]
        ));
    }
}
