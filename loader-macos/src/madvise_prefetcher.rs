//! Readahead by advice on a mapping.

use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};

use crate::calls::WILL_NEED_BYTES;
use crate::mapping::{self, Mapping};

const MECHANISM: Mechanism = Mechanism::new("madvise");

/// Readahead by `madvise(MADV_WILLNEED)` over a read-only mapping, a mebibyte a call: all that one
/// call reads up to macOS 15.3, and as long as one call shall take on later systems, which may wait.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct MadvisePrefetcher;

impl Prefetcher for MadvisePrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        WILL_NEED_BYTES
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mapping = Mapping::of(queue.file())
            .map_err(|error| Refusal::new(MECHANISM, format!("cannot map the file: {error}")))?;
        while let Some(piece) = queue.next() {
            match mapping.will_need(&piece) {
                Ok(()) => queue.done(&piece),
                Err(error) => queue.failed(&piece, &error),
            }
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        mapping::residency(file, range, granularity)
    }
}
