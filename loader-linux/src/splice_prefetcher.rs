//! Readahead by the reads of sendfile(2), whose bytes go nowhere.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use rustix::fs::sendfile;

use crate::own_descriptor::reopened;
use crate::residency;

const SPLICE: Mechanism = Mechanism::new("splice");

/// The longest piece: at each one the kernel's own readahead begins with a small window again, and
/// needs several MiB to widen it. From a disk of 2.5 GB/s pieces of 16 MiB came at 2.0 GB/s, however
/// many workers there were, pieces of 64 MiB at 2.4.
const LONGEST_PIECE: u64 = 64 << 20;

/// The shortest piece; a file is cut into several for each worker, where it is long enough.
const SHORTEST_PIECE: u64 = 4 << 20;

/// Each worker waits for its own reads, so this many keep a device busy whatever the number of
/// processors.
const WORKERS: usize = 4;

/// Brings ranges into the page cache by sending them to `/dev/null`.
///
/// Sending reads through the page cache and hands its pages on instead of copying them (splice(2)),
/// and `/dev/null` drops what it is handed. So the kernel's own readahead does the work, with the
/// large folios that it takes for sequential reads and does not take for advice
/// (`force_page_cache_ra`, mm/readahead.c), and what has been sent is in the page cache for
/// certain.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use std::sync::Arc;
/// use loader_core::{Operation, Prefetcher, System, WeightFile};
/// use loader_linux::{LinuxSystem, MadvisePrefetcher, SplicePrefetcher};
/// // Where a filesystem cannot hand its pages on, advice takes over.
/// let prefetchers: [Arc<dyn Prefetcher>; 2] =
///     [Arc::new(SplicePrefetcher), Arc::new(MadvisePrefetcher)];
/// let system: Arc<dyn System> = Arc::new(LinuxSystem);
/// let file = WeightFile::open(&path)?;
/// let ahead = loader_core::prefetch(&prefetchers, &system, &file, vec![0..7], None);
/// let outcome = ahead.wait(Operation::new())?;
/// assert_eq!(outcome.brought + outcome.skipped + outcome.failed, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct SplicePrefetcher;

impl Prefetcher for SplicePrefetcher {
    fn mechanism(&self) -> Mechanism {
        SPLICE
    }

    fn piece_bytes(&self, file: &WeightFile) -> u64 {
        let share = file.len() / (4 * WORKERS as u64);
        (share / SHORTEST_PIECE * SHORTEST_PIECE).clamp(SHORTEST_PIECE, LONGEST_PIECE)
    }

    fn workers(&self) -> usize {
        WORKERS
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let refusal = |error: io::Error| Refusal::new(SPLICE, error.to_string());
        let nowhere = OpenOptions::new()
            .write(true)
            .open("/dev/null")
            .map_err(refusal)?;
        let shared = || queue.file().file().try_clone();
        let file = reopened(queue.file())
            .or_else(|_| shared())
            .map_err(refusal)?;
        while let Some(piece) = queue.next() {
            match send(&nowhere, &file, &piece) {
                Ok(()) => queue.done(&piece),
                // The filesystem has no way to hand its pages on (sendfile(2)).
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    queue.give_back(piece);
                    return Err(refusal(error));
                }
                Err(error) => queue.failed(&piece, &error),
            }
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }
}

fn send(nowhere: &File, file: &File, piece: &Range<u64>) -> io::Result<()> {
    let mut offset = piece.start;
    while offset < piece.end {
        let left = usize::try_from(piece.end - offset).unwrap_or(usize::MAX);
        match sendfile(nowhere, file, Some(&mut offset), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
