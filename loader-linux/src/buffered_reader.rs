//! Positional reads through the page cache, each worker through a descriptor of its own.

use std::fs::File;

use loader_core::{Mechanism, PositionalReader, Queue, Reader, Refusal, Support, Task, WeightFile};

use crate::own_descriptor::reopened;

/// How far a worker reads on before it goes elsewhere: far beyond what the kernel needs to widen its
/// readahead, and short enough that all workers get several (docs/performance.md compares lengths).
const RUN: usize = 64 << 20;

/// So far into a run, which is no shorter, it is read in steps. The kernel's readahead window begins
/// as long as the read that missed, on single pages, and each next one has folios four times as
/// large: after reads of a chunk it would be well into a run before they are.
const RAMP: usize = 8 << 20;

/// How many bytes a step is.
const STEP: usize = 128 << 10;

/// Reads through the page cache with positional reads, one in flight a worker.
///
/// The kernel reads ahead by what was last read through a descriptor, in folios that grow as reads
/// follow one another (`page_cache_ra_order`, mm/readahead.c). So every worker opens the file for
/// itself and reads on from where it was; where they took turns on one descriptor, the kernel would
/// see reads here and there, and fill the page cache with small folios, which are slow to copy from
/// also later. Short runs, as of tensors chosen here and there, share the descriptor: reading ahead
/// would bring what nobody asked for. So does what is cached already. Serves any file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, vec![7; 2 << 20])?;
/// use std::sync::Arc;
/// use loader_core::{Copier, Extent, Job, LoadOptions, Operation, Platform, Strategy, WeightFile};
/// use loader_linux::BufferedReader;
/// let platform = Platform { buffered: Arc::new(BufferedReader::new()), ..Platform::portable() };
/// let mut options = LoadOptions::default();
/// options.strategy = Strategy::Buffered;
/// let copier = Copier::new(&platform, &options);
/// let mut memory = vec![0; 2 << 20];
/// let plan = copier.plan(&[Extent { offset: 0, len: 2 << 20, destination: 0 }], memory.len())?;
/// let (file, destination) = (WeightFile::open(&path)?, memory.as_mut_slice().into());
/// copier.run(vec![Job { file, plan, destination }], Operation::new())?;
/// assert!(memory.iter().all(|byte| *byte == 7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BufferedReader;

impl BufferedReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for BufferedReader {
    fn mechanism(&self) -> Mechanism {
        Mechanism::BUFFERED
    }

    fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        if !queue.may_wait() {
            return PositionalReader::new().run(queue);
        }
        let mut own = OwnFile::default();
        while let Some(run) = queue.next_run(RUN) {
            let is_long = run.bytes() >= RAMP as u64;
            let mut read = 0;
            for task in run {
                let len = task.len();
                let (file, step) = match is_long.then(|| own.of(&task)).flatten() {
                    Some(own) if read < RAMP => (own, STEP),
                    Some(own) => (own, len),
                    // All of it at once: the kernel sees nothing that goes on.
                    None => (task.file().file(), len),
                };
                task.read_in_steps(file, Mechanism::BUFFERED, step);
                read += len;
            }
        }
        Ok(())
    }
}

/// A worker's own descriptor of the file that it reads, one at a time: a checkpoint may have more
/// shards than a process may open files.
#[derive(Default)]
struct OwnFile {
    index: Option<usize>,
    file: Option<File>,
}

impl OwnFile {
    /// The worker's own descriptor of the task's file; `None` where opening one is refused.
    fn of(&mut self, task: &Task<'_>) -> Option<&File> {
        if self.index != Some(task.file_index()) {
            self.index = Some(task.file_index());
            self.file = open(task.file());
        }
        self.file.as_ref()
    }
}

fn open(file: &WeightFile) -> Option<File> {
    let opened = reopened(file);
    if let Err(error) = &opened {
        tracing::debug!(path = %file.path().display(), %error, "workers share one descriptor");
    }
    opened.ok()
}
