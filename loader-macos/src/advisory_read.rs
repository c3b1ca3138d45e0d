//! Readahead by advisory reads.

use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use rustix::fs::fcntl_rdadvise;

use crate::mapping;

const MECHANISM: Mechanism = Mechanism::new("advisory-read");

/// How much one call asks for. The system issues it as reads of at most 512 KiB that it does not
/// wait for (XNU, `bsd/vfs/vfs_cluster.c`, `advisory_read_ext`).
const PIECE_BYTES: u64 = 16 << 20;

// The system takes the length as an int.
const _: () = assert!(PIECE_BYTES <= i32::MAX.unsigned_abs() as u64);

/// Readahead by `fcntl(F_RDADVISE)`, which needs no mapping.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct AdvisoryReadPrefetcher;

impl Prefetcher for AdvisoryReadPrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE_BYTES
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
