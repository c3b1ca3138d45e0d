//! Readahead by advisory reads.

use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use rustix::fs::fcntl_rdadvise;

use crate::calls::ADVISORY_BYTES;
use crate::mapping;

const MECHANISM: Mechanism = Mechanism::new("advisory-read");

/// Readahead by `fcntl(F_RDADVISE)`, which needs no mapping.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct AdvisoryReadPrefetcher;

impl Prefetcher for AdvisoryReadPrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        ADVISORY_BYTES
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        while let Some(piece) = queue.next() {
            let len = piece.end - piece.start;
            match fcntl_rdadvise(queue.file().file(), piece.start, len) {
                Ok(()) => queue.done(&piece),
                Err(error) => queue.failed(&piece, &error.into()),
            }
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        mapping::residency(file, range, granularity)
    }
}
