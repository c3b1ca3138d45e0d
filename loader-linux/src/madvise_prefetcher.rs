//! Readahead by advice on a mapping.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::{advice, residency};

const MADVISE: Mechanism = Mechanism::new("madvise");

/// What each worker has under way at most: enough together to keep a device busy, little enough
/// that a cancelled prefetch is soon over.
const UNDER_WAY: u64 = 16 << 20;

/// Brings ranges into the page cache with `madvise(MADV_WILLNEED)`, in pieces.
///
/// One call over a whole file would bring in its first few megabytes only: for each call the
/// kernel reads no more than its readahead window or one request to the device, whichever is
/// longer, and says nothing of the rest (`force_page_cache_ra`, mm/readahead.c).
///
/// Advice only starts reads. To know when they are over, a byte at the end of each stretch is read,
/// through the file rather than the mapping: nothing here touches mapped memory, so a file that is
/// truncated meanwhile cannot raise SIGBUS.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct MadvisePrefetcher;

impl Prefetcher for MadvisePrefetcher {
    fn mechanism(&self) -> Mechanism {
        MADVISE
    }

    fn piece_bytes(&self, file: &WeightFile) -> u64 {
        advice::piece_bytes(file)
    }

    /// Advising takes time for every page, so several do it at once.
    fn workers(&self) -> usize {
        4
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mapping = map(queue.file())?;
        let mut advised: VecDeque<Range<u64>> = VecDeque::new();
        let mut under_way = 0;
        while let Some(piece) = queue.next() {
            if let Err(error) = advise(&mapping, &piece) {
                queue.failed(&piece, &error);
                continue;
            }
            under_way += piece.end - piece.start;
            advised.push_back(piece);
            while under_way > UNDER_WAY {
                let Some(first) = advised.pop_front() else {
                    break;
                };
                under_way -= first.end - first.start;
                finish(queue, &first);
            }
        }
        for piece in advised {
            finish(queue, &piece);
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }
}

/// Maps the whole file for reading, only to have an address to advise on.
fn map(file: &WeightFile) -> Result<MmapRaw, Refusal> {
    let refusal = |error: io::Error| {
        let path = file.path().display();
        Refusal::new(MADVISE, format!("{path} cannot be mapped: {error}"))
    };
    let len = usize::try_from(file.disk_len())
        .map_err(|_| refusal(io::Error::other("it is longer than the address space")))?;
    MmapOptions::new()
        .len(len)
        .map_raw_read_only(file.file())
        .map_err(refusal)
}

fn advise(mapping: &MmapRaw, piece: &Range<u64>) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let start = usize::try_from(piece.start).map_err(|_| outside())?;
    let end = usize::try_from(piece.end).map_err(|_| outside())?;
    if start > end || end > mapping.len() {
        return Err(outside());
    }
    mapping.advise_range(Advice::WillNeed, start, end - start)
}

/// Waits for a piece to arrive, and tells the queue.
fn finish(queue: &PrefetchQueue, piece: &Range<u64>) {
    match arrive(queue.file(), piece) {
        Ok(()) => queue.done(piece),
        Err(error) => queue.failed(piece, &error),
    }
}

fn arrive(file: &WeightFile, piece: &Range<u64>) -> io::Result<()> {
    let mut at = piece.start;
    while at < piece.end {
        let end = advice::stretch_end(at, piece.end);
        // At the end of a file that was truncated meanwhile there is nothing to wait for.
        rustix::io::retry_on_intr(|| rustix::io::pread(file.file(), &mut [0_u8], end - 1))?;
        at = end;
    }
    Ok(())
}
