//! How bytes are brought near ahead of use.

use std::fmt;
use std::ops::Range;

use crate::{Mechanism, PrefetchQueue, Refusal, ResidencyMap, WeightFile};

/// A way to bring ranges of a file into the page cache ahead of use.
///
/// It is driven by [`prefetch`](crate::prefetch()): on worker threads, in pieces, so that the
/// caller never waits, whatever the size and however the system call behaves.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use std::io;
/// use std::ops::Range;
/// use std::sync::Arc;
/// use loader_core::{
///     Mechanism, Operation, Platform, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile,
/// };
///
/// /// Brings bytes near by reading them.
/// #[derive(Debug)]
/// struct ReadAhead;
///
/// impl Prefetcher for ReadAhead {
///     fn mechanism(&self) -> Mechanism {
///         Mechanism::new("read-ahead")
///     }
///     fn piece_bytes(&self, _: &WeightFile) -> u64 {
///         1 << 20
///     }
///     fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
///         let file = queue.file();
///         let mut buffer = vec![0; 1 << 20];
///         while let Some(piece) = queue.next() {
///             let len = (piece.end - piece.start) as usize;
///             match file.read_exact_at(&mut buffer[..len], piece.start - file.base()) {
///                 Ok(()) => queue.done(&piece),
///                 Err(error) => queue.failed(&piece, &io::Error::other(error)),
///             }
///         }
///         Ok(())
///     }
///     fn residency(&self, _: &WeightFile, range: Range<u64>, _: u64) -> ResidencyMap {
///         ResidencyMap::unknown(range)
///     }
/// }
///
/// let prefetchers: [Arc<dyn Prefetcher>; 1] = [Arc::new(ReadAhead)];
/// let system = Platform::portable().system;
/// let file = WeightFile::open(&path)?;
/// let ahead = loader_core::prefetch(&prefetchers, &system, &file, vec![0..7], None);
/// assert_eq!(ahead.wait(Operation::new())?.brought, 7);
/// # Ok(())
/// # }
/// ```
pub trait Prefetcher: fmt::Debug + Send + Sync + 'static {
    /// Its name in reports.
    fn mechanism(&self) -> Mechanism;

    /// The most bytes that one call really brings in for `file`: systems read less than they are
    /// asked for, without saying so.
    fn piece_bytes(&self, file: &WeightFile) -> u64;

    /// How many workers shall drive it at once.
    fn workers(&self) -> usize {
        1
    }

    /// Serves `queue` until it has no more pieces, marking each one done when it is resident or
    /// on its way. Returns only when nothing refers to memory of its own any more.
    ///
    /// # Errors
    /// A [`Refusal`] where it cannot work here; the next mechanism then goes on with what is left.
    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal>;

    /// How much of `range` (from the start of the file on disk) is resident, told apart down to
    /// pieces of `granularity` bytes.
    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap;
}
