//! Reads past the unified buffer cache.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use loader_core::{BlockingEngine, Mechanism, Queue, Reader, Refusal, Support, WeightFile, serve};

use crate::{AnonymousMemory, calls, host_statistics, system};

/// What reads with `F_NOCACHE` must be aligned to, in the file and in memory, to pass by the cache:
/// blocks of the device, which have 512 or 4096 bytes. Anything else is served too, but one byte
/// out of place sends all of a read through the cache (XNU, `bsd/vfs/vfs_cluster.c`,
/// `cluster_read_direct`).
const BLOCK: usize = 4096;

/// Reads with `F_NOCACHE`, one in flight a worker.
///
/// What the cache holds already is copied from there all the same (XNU, `bsd/vfs/vfs_cluster.c`,
/// `cluster_read_direct`). Files are opened anew for it, since the flag belongs to the open file,
/// which duplicates of a descriptor share; so a file that is deleted meanwhile cannot be read so.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct NocacheReader;

impl Reader for NocacheReader {
    fn mechanism(&self) -> Mechanism {
        Mechanism::DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        let path = file.path().display();
        if let Err(error) = open(file) {
            let reason = format!("{path} cannot be opened for uncached reads: {error}");
            return Err(Refusal::new(Mechanism::DIRECT, reason));
        }
        let reason = calls::discouragement(
            system::is_local(file),
            rustix::param::page_size(),
            host_statistics::kernel_page_bytes(),
        );
        let mut support = alignments();
        support.discouraged = reason.map(|reason| format!("{path}: {reason}"));
        Ok(support)
    }

    fn workers(&self) -> usize {
        BlockingEngine::WORKERS
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let engine = BlockingEngine::new(open_aligned, is_refusal);
        serve(queue, engine, BlockingEngine::DEPTH, &AnonymousMemory);
        Ok(())
    }
}

fn alignments() -> Support {
    Support::aligned(BLOCK as u64, BLOCK)
}

/// Opens `file` once more, past the cache: by the name that it has now, if that still means the
/// same file.
fn open(file: &WeightFile) -> io::Result<File> {
    let name = rustix::fs::getpath(file.file())?;
    let reopened = OpenOptions::new()
        .read(true)
        // Should the name mean a fifo by now, nobody waits for its writer.
        .custom_flags(libc::O_NONBLOCK)
        .open(OsStr::from_bytes(name.to_bytes()))?;
    let (known, found) = (file.file().metadata()?, reopened.metadata()?);
    if (known.dev(), known.ino()) != (found.dev(), found.ino()) {
        return Err(io::Error::other("its name means another file by now"));
    }
    rustix::fs::fcntl_nocache(&reopened, true)?;
    Ok(reopened)
}

/// Opens `file` once more, past the cache, and tells how reads of it must lie.
fn open_aligned(file: &WeightFile) -> io::Result<(File, Support)> {
    Ok((open(file)?, alignments()))
}

/// Whether an error means memory that cannot be wired, or a filesystem without such reads.
fn is_refusal(error: &io::Error) -> bool {
    [libc::EINVAL, libc::EFAULT, libc::ENOTSUP]
        .into_iter()
        .any(|code| error.raw_os_error() == Some(code))
}
