//! Reads past the unified buffer cache.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use loader_core::{
    Approach, HostBuffer, Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile,
};
use rustix::io::Errno;

use crate::calls::{self, READ_BYTES};
use crate::{AnonymousMemory, host_statistics, system};

/// What reads with `F_NOCACHE` must be aligned to, in the file and in memory, to pass by the cache:
/// blocks of the device, which have 512 or 4096 bytes. Anything else is served too, but one byte
/// out of place sends all of a read through the cache (XNU, `bsd/vfs/vfs_cluster.c`,
/// `cluster_read_direct`).
const BLOCK: usize = 4096;

/// Reads through a slab are at most this long.
const SLAB_BYTES: usize = 1 << 20;

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
        // One read in flight each: as many as keep a solid-state disk busy.
        16
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let mut files = UncachedFiles::default();
        let mut slab = None;
        while let Some(task) = queue.next() {
            read(task, &mut files, &mut slab);
        }
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

/// Files opened past the cache, by their index in the queue, each when it is first needed.
#[derive(Debug, Default)]
struct UncachedFiles(Vec<Option<File>>);

impl UncachedFiles {
    fn get(&mut self, task: &Task<'_>) -> io::Result<&File> {
        let index = task.file_index();
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let opened = match self.0[index].take() {
            Some(opened) => opened,
            None => open(task.file())?,
        };
        Ok(self.0[index].insert(opened))
    }
}

fn read(task: Task<'_>, files: &mut UncachedFiles, slab: &mut Option<HostBuffer>) {
    let file = match files.get(&task) {
        Ok(file) => file,
        Err(error) => return task.refuse(Mechanism::DIRECT, error),
    };
    match alignments().approach(&task, SLAB_BYTES) {
        Approach::InPlace { len } => {
            let start = task.destination().as_ptr().cast::<MaybeUninit<u8>>();
            // SAFETY: the destination is valid for writes of the task's length, of which this is a
            // part, and nobody else touches it until the outcome is told.
            let buffer = unsafe { std::slice::from_raw_parts_mut(start, len.min(READ_BYTES)) };
            match rustix::io::pread(file, buffer, task.offset()) {
                Ok((filled, _)) => {
                    let filled = filled.len();
                    // SAFETY: the system put that many bytes at the front of the destination.
                    unsafe { task.complete(Mechanism::DIRECT, filled) };
                }
                Err(error) => give_up(task, error),
            }
        }
        Approach::Bounce {
            offset,
            read,
            skip,
            wanted,
        } => {
            let slab = match slab {
                Some(slab) => slab,
                None => match HostBuffer::zeroed(&AnonymousMemory, SLAB_BYTES) {
                    Ok(fresh) => slab.insert(fresh),
                    Err(error) => {
                        return task.refuse(Mechanism::DIRECT_BOUNCED, io::Error::other(error));
                    }
                },
            };
            match rustix::io::pread(file, &mut slab[..read], offset) {
                Ok(filled) => {
                    task.deliver(Mechanism::DIRECT_BOUNCED, &slab[..filled], skip, wanted);
                }
                Err(error) => give_up(task, error),
            }
        }
    }
}

fn give_up(task: Task<'_>, error: Errno) {
    // Memory that cannot be wired, or a filesystem without such reads.
    let refused = matches!(error, Errno::INVAL | Errno::FAULT | Errno::NOTSUP);
    if refused {
        task.refuse(Mechanism::DIRECT, error.into());
    } else {
        task.fail(error.into());
    }
}
