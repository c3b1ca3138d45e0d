//! Readahead by advice on a mapping.

use std::fs;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::Advice;

use crate::free_blocks::FreeBlocks;
use crate::{advice, residency};

const MADVISE: Mechanism = Mechanism::new("madvise");

/// What a fault brings in at most, and so the length of a piece.
const PIECE: u64 = 2 << 20;

/// Each waits for one piece, so this is the queue depth that the device sees.
const WORKERS: usize = 16;

/// Memory in huge blocks is left alone below this many bytes: the kernel would begin to reclaim
/// and compact memory to make more of them, and each fault would wait for that.
const LEAST_HUGE_BLOCKS: u64 = 256 << 20;

/// Brings ranges into the page cache with madvise(2), in pieces.
///
/// One `MADV_WILLNEED` over a whole file would bring in its first few megabytes only: for each
/// call the kernel reads no more than its readahead window or one request to the device, whichever
/// is longer, and says nothing of the rest (`force_page_cache_ra`, mm/readahead.c). So it is given
/// in pieces that are really read. As advice only starts reads, a byte at the end of each stretch is
/// read then, to know that they are over: through the file, since touching the mapping of a file
/// that is truncated meanwhile would raise SIGBUS.
///
/// Since Linux 5.18 there is a faster way while much memory is free. A fault in a mapping that is
/// advised to use huge pages reads the 2 MiB around it whatever the window, into one folio where
/// the filesystem has large ones (`do_sync_mmap_readahead`, mm/filemap.c), and `MADV_POPULATE_READ`
/// faults without touching, so that it errs where touching would raise SIGBUS. It takes a tenth of
/// the processor's time of `MADV_WILLNEED`, which fills the cache page by page, and whoever copies
/// or maps the file afterwards gains as well.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, vec![7; 100_000])?;
/// use std::sync::Arc;
/// use loader_core::{Operation, Prefetcher, System, WeightFile};
/// use loader_linux::{LinuxSystem, MadvisePrefetcher};
/// let prefetchers: [Arc<dyn Prefetcher>; 1] = [Arc::new(MadvisePrefetcher)];
/// let system: Arc<dyn System> = Arc::new(LinuxSystem);
/// let file = WeightFile::open(&path)?;
/// let ranges = vec![0..10_000, 60_000..100_000];
/// let ahead = loader_core::prefetch(&prefetchers, &system, &file, ranges, None);
/// let outcome = ahead.wait(Operation::new())?;
/// println!("{} bytes are near", outcome.brought);
/// assert_eq!(outcome.brought + outcome.skipped + outcome.failed, 50_000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct MadvisePrefetcher;

impl Prefetcher for MadvisePrefetcher {
    fn mechanism(&self) -> Mechanism {
        MADVISE
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE
    }

    fn workers(&self) -> usize {
        WORKERS
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mapping = Mapping::of(queue.file())?;
        let huge_blocks = huge_blocks_wanted(&mapping);
        let advised_at_once = advice::piece_bytes(queue.file());
        while let Some(piece) = queue.next() {
            let plenty = |blocks: &FreeBlocks| blocks.bytes() >= LEAST_HUGE_BLOCKS;
            let outcome = if huge_blocks.as_ref().is_some_and(plenty) {
                populate(&mapping, &piece)
            } else {
                will_need(&mapping, &piece, advised_at_once)
                    .and_then(|()| arrival(queue.file(), &piece))
            };
            match outcome {
                Ok(()) => queue.done(&piece),
                Err(error) => queue.failed(&piece, &error),
            }
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }
}

/// Faults `piece` in, without leaving it mapped.
fn populate(mapping: &Mapping, piece: &Range<u64>) -> io::Result<()> {
    mapping.advise_piece(piece, Advice::LinuxPopulateRead)?;
    // The page cache keeps them; this process need not count them as its own.
    mapping.advise_piece(piece, Advice::LinuxDontNeed)
}

/// Starts to read `piece`, as much at once as one piece of advice brings in.
fn will_need(mapping: &Mapping, piece: &Range<u64>, at_once: u64) -> io::Result<()> {
    let mut start = piece.start;
    while start < piece.end {
        let end = piece.end.min(start.saturating_add(at_once));
        mapping.advise_piece(&(start..end), Advice::WillNeed)?;
        start = end;
    }
    Ok(())
}

/// Waits until `piece` has arrived.
fn arrival(file: &WeightFile, piece: &Range<u64>) -> io::Result<()> {
    let mut start = piece.start;
    while start < piece.end {
        let end = advice::stretch_end(start, piece.end);
        rustix::io::retry_on_intr(|| rustix::io::pread(file.file(), &mut [0_u8], end - 1))?;
        start = end;
    }
    Ok(())
}

/// Makes faults in `mapping` read huge pages, and gives what tells how many can be had; `None`
/// where the kernel would not.
fn huge_blocks_wanted(mapping: &Mapping) -> Option<FreeBlocks> {
    if !faults_read_huge_pages() {
        return None;
    }
    // Random, so that no fault begins to read beyond its own piece: how much it did would depend on
    // the readahead window again, and on which thread comes first.
    for advice in [Advice::LinuxHugepage, Advice::Random] {
        mapping.advise(0..mapping.0.len(), advice).ok()?;
    }
    FreeBlocks::of_at_least(PIECE)
}

/// Whether this kernel's faults do so on request, found out once.
fn faults_read_huge_pages() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        // How much a fault reads cannot be seen but by timing, so the version has to tell.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        version(&release) >= Some((5, 18)) && knows_advice()
    })
}

/// The first two numbers of a kernel release such as "6.1.0-13-amd64".
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the kernel knows the advice needed: it may have been built without huge pages.
fn knows_advice() -> bool {
    let Ok(page) = MmapOptions::new().len(1).map_anon() else {
        return false;
    };
    let page = Mapping(MmapRaw::from(page));
    let all = 0..page.0.len();
    [Advice::LinuxHugepage, Advice::LinuxPopulateRead]
        .into_iter()
        .all(|advice| page.advise(all.clone(), advice).is_ok())
}

/// A mapping made only to have addresses to advise on: nobody reads or writes through it.
struct Mapping(MmapRaw);

impl Mapping {
    /// Maps a whole file, for reading.
    fn of(file: &WeightFile) -> Result<Self, Refusal> {
        let refusal = |error: io::Error| {
            let path = file.path().display();
            Refusal::new(MADVISE, format!("{path} cannot be mapped: {error}"))
        };
        let len = usize::try_from(file.disk_len())
            .map_err(|_| refusal(io::Error::other("it is longer than the address space")))?;
        let mapping = MmapOptions::new().len(len).map_raw_read_only(file.file());
        mapping.map(Self).map_err(refusal)
    }

    /// Advises on a piece of the file.
    fn advise_piece(&self, piece: &Range<u64>, advice: Advice) -> io::Result<()> {
        match (usize::try_from(piece.start), usize::try_from(piece.end)) {
            (Ok(start), Ok(end)) => self.advise(start..end, advice),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Advises on the pages that overlap `range`.
    fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        if range.start > range.end || range.end > self.0.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = range.start - range.start % rustix::param::page_size();
        let first = self.0.as_mut_ptr().wrapping_add(start);
        // SAFETY: the pages lie within the mapping, which begins at a page. Nobody relies on what
        // they hold, and no advice changes the file behind them.
        unsafe { rustix::mm::madvise(first.cast(), range.end - start, advice) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::{Operation, System};
    use std::sync::Arc;

    #[test]
    fn releases_have_versions() {
        for (release, expected) in [
            ("6.1.0-13-amd64\n", Some((6, 1))),
            ("5.15.153.1-microsoft-standard-WSL2", Some((5, 15))),
            ("6.18-rc1", Some((6, 18))),
            ("", None),
            ("unknown", None),
        ] {
            assert_eq!(version(release), expected);
        }
    }

    #[test]
    fn advice_stays_within_the_mapping() {
        let page = Mapping(MmapOptions::new().len(1).map_anon().unwrap().into());
        assert!(page.advise(0..1, Advice::WillNeed).is_ok());
        #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
        for range in [0..2, 1..0, 2..2] {
            assert!(page.advise(range, Advice::WillNeed).is_err());
        }
        assert!(page.advise_piece(&(0..u64::MAX), Advice::WillNeed).is_err());
    }

    /// A file, and a mapping of it.
    fn mapped(folder: &tempfile::TempDir) -> (WeightFile, Mapping) {
        let path = folder.path().join("weights");
        fs::write(&path, vec![5; (5 << 20) + 11]).unwrap();
        let file = WeightFile::open(&path).unwrap();
        crate::LinuxSystem.evict(&file, 0..file.len()).unwrap();
        let mapping = Mapping::of(&file).unwrap();
        (file, mapping)
    }

    #[test]
    fn both_ways_bring_in_all_of_a_piece() {
        let folder = tempfile::tempdir().unwrap();
        for populates in [false, true] {
            let (file, mapping) = mapped(&folder);
            let piece = (1 << 20) + 1..file.len();
            if populates && huge_blocks_wanted(&mapping).is_none() {
                println!("skipped: faults read no huge pages here");
                return;
            }
            if populates {
                populate(&mapping, &piece).unwrap();
            } else {
                will_need(&mapping, &piece, advice::piece_bytes(&file)).unwrap();
                arrival(&file, &piece).unwrap();
            }
            let map = residency::residency(&file, piece.clone(), 4096);
            assert_ne!(
                map.share(piece).map(|share| share < 1.0),
                Some(true),
                "{map:?}"
            );
        }
    }

    #[test]
    fn truncated_files_are_an_error_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mapping) = mapped(&folder);
        fs::File::options()
            .write(true)
            .open(file.path())
            .unwrap()
            .set_len(100)
            .unwrap();
        let piece = 1 << 20..3 << 20;
        assert!(populate(&mapping, &piece).is_err());
        will_need(&mapping, &piece, 1 << 20).unwrap();
        arrival(&file, &piece).unwrap();
    }

    #[test]
    fn what_is_brought_in_is_not_counted_as_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, vec![5; 64 << 20]).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let system: Arc<dyn System> = Arc::new(crate::LinuxSystem);
        let mapped = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            crate::usage::kibibytes(&status, "RssFile").unwrap()
        };
        let before = mapped();
        let prefetchers: [Arc<dyn Prefetcher>; 1] = [Arc::new(MadvisePrefetcher)];
        let ranges = std::iter::once(0..file.len()).collect();
        let ahead = loader_core::prefetch(&prefetchers, &system, &file, ranges, None);
        ahead.wait(Operation::new()).unwrap();
        assert!(mapped() < before + (48 << 20), "{before} {}", mapped());
    }
}
