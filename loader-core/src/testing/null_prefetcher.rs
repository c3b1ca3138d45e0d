//! A prefetcher that brings nothing.

use std::ops::Range;

use crate::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};

/// Marks every piece done without doing anything.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct NullPrefetcher {
    /// Bytes of a piece; zero for pieces of any length.
    pub piece_bytes: u64,
    /// How many workers drive it.
    pub workers: usize,
}

impl Default for NullPrefetcher {
    fn default() -> Self {
        Self {
            piece_bytes: 64 << 10,
            workers: 1,
        }
    }
}

impl Prefetcher for NullPrefetcher {
    fn mechanism(&self) -> Mechanism {
        Mechanism::new("null")
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        self.piece_bytes
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        while let Some(piece) = queue.next() {
            queue.done(&piece);
        }
        Ok(())
    }

    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }
}
