//! The portable reader: positional reads through the page cache.

use crate::{Mechanism, Queue, Reader, Refusal, Support, WeightFile};

/// Reads with one positional read (pread(2), `ReadFile` with an offset) a chunk. Serves any file.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PositionalReader;

impl PositionalReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for PositionalReader {
    fn mechanism(&self) -> Mechanism {
        Mechanism::BUFFERED
    }

    fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        while let Some(task) = queue.next() {
            let at_most = task.len();
            task.read(Mechanism::BUFFERED, at_most);
        }
        Ok(())
    }
}
