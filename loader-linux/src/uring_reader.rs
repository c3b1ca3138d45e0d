//! Direct reads through io_uring: a deep queue, straight into the destination.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types::Fd};
use loader_core::{
    DirectRead, Mechanism, Queue, ReadEngine, Reader, Refusal, Support, WeightFile, serve,
};

use crate::direct_file;
use crate::host_memory::HugePageMemory;
use crate::uring;

/// Straight into the destination.
pub(crate) const DIRECT: Mechanism = Mechanism::new("uring-direct");

/// Reads past the page cache through io_uring, with as many reads in flight as the queue allows.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, vec![7; 2 << 20])?;
/// use std::sync::Arc;
/// use loader_core::{Copier, Extent, Job, LoadOptions, Operation, Platform, Reader, WeightFile};
/// use loader_linux::{DirectReader, UringReader};
/// let direct: Arc<dyn Reader> = match UringReader::probe() {
///     Ok(reader) => Arc::new(reader),
///     Err(_) => Arc::new(DirectReader::new()), // A container forbids io_uring, say.
/// };
/// let platform = Platform { direct: Ok(direct), ..loader_linux::platform() };
/// let options = LoadOptions::default(); // What is cached already is read buffered.
/// let copier = Copier::new(&platform, &options);
/// let mut memory = vec![0; 2 << 20];
/// let plan = copier.plan(&[Extent { offset: 0, len: 2 << 20, destination: 0 }], memory.len())?;
/// let (file, destination) = (WeightFile::open(&path)?, memory.as_mut_slice().into());
/// copier.run(vec![Job { file, plan, destination }], Operation::new())?;
/// assert!(memory.iter().all(|byte| *byte == 7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UringReader;

impl UringReader {
    /// The reader, where io_uring serves.
    ///
    /// # Errors
    /// A [`Refusal`] that says why it does not: forbidden, missing or restricted.
    pub fn probe() -> Result<Self, Refusal> {
        uring::probe(DIRECT).map(|()| Self)
    }
}

impl Reader for UringReader {
    fn mechanism(&self) -> Mechanism {
        DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        direct_file::support(file)
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let refusal = |error: io::Error| Refusal::new(DIRECT, format!("no ring: {error}"));
        let depth = queue.depth();
        // What options allow fits the largest ring.
        let entries = u32::try_from(depth).unwrap_or(4096).next_power_of_two();
        let engine = UringEngine(uring::ring(entries).map_err(refusal)?);
        serve(queue, engine, depth, &HugePageMemory);
        Ok(())
    }
}

/// A ring with an entry for every read in flight.
struct UringEngine(IoUring);

// SAFETY: the kernel writes to the memory of an entry alone, and no more once its completion has
// been seen, whose result tells how many bytes it put at the front. Entries bear the number of their
// read, and each completes once.
unsafe impl ReadEngine for UringEngine {
    const DIRECT: Mechanism = DIRECT;
    const BOUNCED: Mechanism = Mechanism::new("uring-direct-bounced");

    fn open(&mut self, file: &WeightFile) -> io::Result<(File, Support)> {
        direct_file::open_aligned(file)
    }

    unsafe fn begin(&mut self, read: &DirectRead<'_>) -> io::Result<()> {
        // Chunks are no longer than 1 GiB, slabs shorter.
        let len = u32::try_from(read.len).unwrap_or(1 << 30);
        let entry = opcode::Read::new(Fd(read.file.as_raw_fd()), read.start, len)
            .offset(read.offset)
            .build()
            .user_data(read.index as u64);
        // SAFETY: the caller's promise: memory and descriptor stay until the completion was told.
        let pushed = unsafe { self.0.submission().push(&entry) };
        // The ring has an entry for every read in flight, so it is never full.
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    fn completed(&mut self, wait: bool, tell: &mut Vec<(usize, io::Result<usize>)>) {
        if wait {
            uring::submit_and_wait(&mut self.0);
        } else {
            uring::submit(&mut self.0);
        }
        tell.extend(
            std::iter::from_fn(|| uring::completed(&mut self.0)).map(|(index, result)| {
                let outcome = usize::try_from(result);
                (
                    index,
                    outcome.map_err(|_| io::Error::from_raw_os_error(-result)),
                )
            }),
        );
    }

    fn is_refusal(&self, error: &io::Error) -> bool {
        direct_file::is_refusal(error)
    }
}
