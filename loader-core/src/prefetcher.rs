//! How bytes are brought near ahead of use.

use std::fmt;
use std::ops::Range;

use crate::{Mechanism, PrefetchQueue, Refusal, ResidencyMap, WeightFile};

/// A way to bring ranges of a file into the page cache ahead of use.
///
/// It is driven by [`prefetch`](crate::prefetch()): on worker threads, in pieces, so that the
/// caller never waits, whatever the size and however the system call behaves.
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
