//! Readahead through a mapping that nobody dereferences.

use std::io;
use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use memmap2::{MmapOptions, MmapRaw};

use crate::hint;

const MECHANISM: Mechanism = Mechanism::new("prefetch-virtual-memory");

/// The bytes of one entry. Whether the call waits for the disk is not documented, so entries are
/// small enough for a prefetch to be cancelled between two calls.
const PIECE_BYTES: u64 = 4 << 20;

/// The entries of one call.
const BATCH: usize = 8;

/// Readahead by `PrefetchVirtualMemory` over a read-only mapping, several ranges a call.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct VirtualMemoryPrefetcher;

impl Prefetcher for VirtualMemoryPrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE_BYTES
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mapping = map(queue.file())
            .map_err(|error| Refusal::new(MECHANISM, format!("cannot map the file: {error}")))?;
        loop {
            let batch: Vec<_> = std::iter::from_fn(|| queue.next()).take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let asked = batch
                .iter()
                .map(|piece| address(&mapping, piece))
                .collect::<io::Result<Vec<_>>>()
                .and_then(|ranges| hint::prefetch(&ranges));
            for piece in &batch {
                match &asked {
                    Ok(()) => queue.done(piece),
                    Err(error) => queue.failed(piece, error),
                }
            }
        }
    }

    /// Windows tells the process's own pages (`QueryWorkingSetEx`), not those of the page cache.
    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }
}

fn map(file: &WeightFile) -> io::Result<MmapRaw> {
    let len = usize::try_from(file.disk_len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    MmapOptions::new().len(len).map_raw_read_only(file.file())
}

/// Where `piece` lies in the mapping, and how many bytes it spans.
fn address(mapping: &MmapRaw, piece: &Range<u64>) -> io::Result<(*const u8, usize)> {
    let place = |at| usize::try_from(at).ok().filter(|at| *at <= mapping.len());
    match (place(piece.start), place(piece.end)) {
        (Some(start), Some(end)) if start <= end => {
            Ok((mapping.as_ptr().wrapping_add(start), end - start))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
