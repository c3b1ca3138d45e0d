//! Direct reads by blocking calls from several threads: for systems that refuse io_uring.

use loader_core::{BlockingEngine, Mechanism, Queue, Reader, Refusal, Support, WeightFile, serve};

use crate::direct_file;
use crate::host_memory::HugePageMemory;

/// Reads past the page cache with pread(2), one read in flight a worker.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Reader, WeightFile};
/// use loader_linux::DirectReader;
/// match DirectReader::new().support(&WeightFile::open(&path)?) {
///     Ok(support) => {
///         assert!(support.offset_alignment.is_power_of_two());
///         println!("{support}"); // Other reads go by way of a slab.
///     }
///     Err(refusal) => println!("{refusal}"), // The file lies in memory, say.
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DirectReader;

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
        BlockingEngine::WORKERS
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let engine = BlockingEngine::new(direct_file::open_aligned, direct_file::is_refusal);
        serve(queue, engine, BlockingEngine::DEPTH, &HugePageMemory);
        Ok(())
    }
}
