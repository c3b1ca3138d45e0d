//! How bytes are read.

use std::fmt;

use crate::{Mechanism, Queue, Refusal, WeightFile, processors};

/// What a reader asks of the chunks of a file to move them without a detour.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// Offsets and lengths in the file must be multiples of so many bytes.
    pub offset_alignment: u64,
    /// Addresses in memory must be multiples of so many bytes.
    pub memory_alignment: usize,
    /// Why `Auto` should rather not use it, though it would work.
    pub discouraged: Option<String>,
}

impl Support {
    /// Support for any offset and address.
    #[must_use]
    pub fn any() -> Self {
        Self::aligned(1, 1)
    }

    /// Support for offsets and addresses of these alignments in bytes.
    #[must_use]
    pub fn aligned(offset_alignment: u64, memory_alignment: usize) -> Self {
        Self {
            offset_alignment,
            memory_alignment,
            discouraged: None,
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, memory) = (self.offset_alignment, self.memory_alignment);
        write!(f, "offsets aligned to {offset} bytes, memory to {memory}")?;
        match &self.discouraged {
            Some(reason) => write!(f, "; {reason}"),
            None => Ok(()),
        }
    }
}

/// A way to read files: pulls chunks from a queue, keeps as many in flight as it likes and posts
/// each completion.
///
/// Chunks may come from several files and in any order; how deep to go is the reader's affair
/// (within [`Queue::depth`]). Bounds, splitting, short
/// reads, retries and fallbacks are the queue's: a reader does one thing with each task, in any
/// alignment, and tells the outcome.
///
/// ```
/// use loader_core::{Mechanism, Queue, Reader, Refusal, Support, WeightFile};
///
/// /// Reads one chunk after the other.
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Reader for Plain {
///     fn mechanism(&self) -> Mechanism {
///         Mechanism::new("plain")
///     }
///     fn support(&self, _: &WeightFile) -> Result<Support, Refusal> {
///         Ok(Support::any())
///     }
///     fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
///         while let Some(task) = queue.next() {
///             let at_most = task.len();
///             task.read(self.mechanism(), at_most);
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Reader: fmt::Debug + Send + Sync {
    /// Its name in reports.
    fn mechanism(&self) -> Mechanism;

    /// Whether and under which conditions it can read `file`.
    ///
    /// # Errors
    /// A [`Refusal`] that says why it cannot.
    fn support(&self, file: &WeightFile) -> Result<Support, Refusal>;

    /// How many workers shall run it at once on a machine like this: a reader that waits for each
    /// read needs many. By default few, which suits one that keeps many reads in flight by itself:
    /// one worker keeps one device busy, and machines with many processors have faster ones.
    fn workers(&self) -> usize {
        (processors() / 8).clamp(1, 4)
    }

    /// Serves `queue` until it has no more tasks; runs on a worker of its own, maybe on several at
    /// once. Returns only when nothing that it took is in flight any more, also when it panics.
    ///
    /// # Errors
    /// A [`Refusal`] where it cannot work here at all, before taking any task. Where it runs on
    /// other workers as well, these go on.
    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal>;
}
