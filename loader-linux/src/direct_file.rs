//! Files opened past the page cache, and how chunks must lie to be read so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use loader_core::{HostBuffer, Mechanism, Refusal, Support, WeightFile};
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::filesystem;
use crate::host_memory::HugePageMemory;

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
    if let Err(error) = aligned.check_blocks() {
        return refuse(format!("direct {error}"));
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

/// Opens `file` once more, past the page cache, and tells how reads of it must lie.
pub(crate) fn open_aligned(file: &WeightFile) -> io::Result<(File, Support)> {
    let support = support(file)
        .map_err(|refusal| io::Error::new(io::ErrorKind::Unsupported, refusal.reason))?;
    Ok((open(file)?, support))
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
