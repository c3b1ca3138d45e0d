//! Direct reads by blocking calls from several threads: for systems that refuse io_uring.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

use loader_core::{
    Approach, HostBuffer, Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile,
};

use crate::direct_file::{self, SLAB_BYTES};
use crate::host_memory::HugePageMemory;

/// Reads past the page cache with pread(2), one read in flight a worker.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DirectReader;

/// Files opened for direct I/O, by their index in the queue, each when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct DirectFiles(Vec<Option<(File, Support)>>);

impl DirectFiles {
    pub(crate) fn get(&mut self, task: &Task<'_>) -> io::Result<&(File, Support)> {
        let index = task.file_index();
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let opened = match self.0[index].take() {
            Some(opened) => opened,
            None => {
                let support = direct_file::support(task.file()).map_err(|refusal| {
                    io::Error::new(io::ErrorKind::Unsupported, refusal.reason)
                })?;
                (direct_file::open(task.file())?, support)
            }
        };
        Ok(self.0[index].insert(opened))
    }
}

impl DirectReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for DirectReader {
    fn mechanism(&self) -> Mechanism {
        Mechanism::DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        direct_file::support(file)
    }

    fn workers(&self) -> usize {
        // One read in flight each: as many as keep a solid-state disk busy.
        16
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let mut files = DirectFiles::default();
        let mut slab = None;
        while let Some(task) = queue.next() {
            read(task, &mut files, &mut slab);
        }
        Ok(())
    }
}

fn read(task: Task<'_>, files: &mut DirectFiles, slab: &mut Option<HostBuffer>) {
    let (file, support) = match files.get(&task) {
        Ok(opened) => opened,
        Err(error) => return task.refuse(Mechanism::DIRECT, error),
    };
    match support.approach(&task, SLAB_BYTES) {
        Approach::InPlace { len } => {
            let start = task.destination().as_ptr().cast::<MaybeUninit<u8>>();
            // SAFETY: the destination is valid for writes of the task's length, of which `len` is
            // a part, and nobody else touches it until the outcome is told.
            let buffer = unsafe { std::slice::from_raw_parts_mut(start, len) };
            match rustix::io::pread(file, buffer, task.offset()) {
                Ok((filled, _)) => {
                    let filled = filled.len();
                    // SAFETY: the system put that many bytes at the front of the destination.
                    unsafe { task.complete(Mechanism::DIRECT, filled) };
                }
                Err(error) => give_up(task, error.into()),
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
                None => match HostBuffer::zeroed(&HugePageMemory, SLAB_BYTES) {
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
                Err(error) => give_up(task, error.into()),
            }
        }
    }
}

fn give_up(task: Task<'_>, error: io::Error) {
    if direct_file::is_refusal(&error) {
        task.refuse(Mechanism::DIRECT, error);
    } else {
        task.fail(error);
    }
}
