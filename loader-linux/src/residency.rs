//! What part of a file the page cache holds.
//!
//! cachestat(2) counts the cached pages of any range at once, a million pages in well under a
//! millisecond. It tells only those who own the file or may write it (`can_do_cachestat`,
//! mm/filemap.c). mincore(2) has the same rule but answers others that everything is resident
//! (`can_do_mincore`, mm/mincore.c), so it is never asked.
//!
//! Those who may only read a file can find out by trying: a read that must not wait
//! (`RWF_NOWAIT`) succeeds where the page is cached. It is not free of effects: before it gives up,
//! the kernel begins to read what is missing (`filemap_get_pages`, mm/filemap.c). So samples are
//! few, each at a place of its own, and made through an open file that is advised to be read at
//! random, for which the kernel reads that page alone (`page_cache_sync_ra`, mm/readahead.c).

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use loader_core::{ResidencyMap, ResidencyRun, WeightFile};
use rustix::fs::{Advice, fadvise};
use rustix::param::page_size;

use crate::{filesystem, system_calls};

/// Parts that a piece is cut into where it is cached in part.
const PARTS: u64 = 64;

/// Samples that decide whether a range is all alike.
const FIRST_SAMPLES: u64 = 16;

/// Samples of a mixed range at most. Each cold one costs the device a read of a page.
const MOST_SAMPLES: u64 = 512;

/// How the residency of a file can be found out.
#[derive(Debug)]
pub(crate) enum Method {
    /// The filesystem keeps files in memory.
    InMemory,
    /// cachestat(2).
    Cachestat,
    /// preadv2(2) with `RWF_NOWAIT`, through this open file.
    Sampling(File),
    /// Not at all, for this reason.
    None(&'static str),
}

/// How much of `range` (from the start of the file on disk) is cached, told apart down to pieces
/// of `granularity` bytes.
pub(crate) fn residency(file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
    if range.is_empty() {
        return ResidencyMap::default();
    }
    let page = page_size() as u64;
    let granularity = granularity
        .max(1)
        .checked_next_multiple_of(page)
        .unwrap_or(1 << 62);
    match Method::of(file.file(), range.start) {
        Method::InMemory => {
            let resident = Some(range.end - range.start);
            ResidencyMap::new(vec![ResidencyRun { range, resident }])
        }
        Method::Cachestat => count(range, granularity, |piece| {
            let len = piece.end - piece.start;
            let pages = system_calls::cached_pages(file.file(), piece.start, len).ok()?;
            Some(bytes_of_pages(pages.cached, piece, page))
        }),
        Method::Sampling(at_random) => {
            let seed = RandomState::new().hash_one(range.start);
            sample(range, granularity, seed, |offset| {
                is_cached(&at_random, offset)
            })
        }
        Method::None(reason) => {
            tracing::debug!(path = %file.path().display(), reason, "residency is unknown");
            ResidencyMap::unknown(range)
        }
    }
}

/// Whether pages of `range` may have to be written to the device before they can be dropped.
pub(crate) fn may_be_dirty(file: &File, range: Range<u64>) -> bool {
    if cfg!(target_os = "android") {
        return true;
    }
    let len = range.end.saturating_sub(range.start);
    system_calls::cached_pages(file, range.start, len).map_or(true, |pages| pages.unwritten > 0)
}

impl Method {
    /// Finds the method that serves `file`, by trying at `offset`, where the file must have a byte.
    pub(crate) fn of(file: &File, offset: u64) -> Self {
        if filesystem::kind(file).in_memory {
            return Self::InMemory;
        }
        // The seccomp policy for its apps kills those who call what it does not know.
        if cfg!(target_os = "android") {
            return Self::None("Android lets no app ask");
        }
        if system_calls::cached_pages(file, offset, 1).is_ok() {
            return Self::Cachestat;
        }
        match reopen_for_samples(file) {
            Err(_) => Self::None("the file is not ours and cannot be opened again"),
            Ok(at_random) => match is_cached(&at_random, offset) {
                Some(_) => Self::Sampling(at_random),
                None => Self::None("the filesystem cannot read without waiting"),
            },
        }
    }
}

/// Opens the file once more by its descriptor, since advice holds for an open file, and the one
/// given is read in other ways.
fn reopen_for_samples(file: &File) -> io::Result<File> {
    let at_random = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    fadvise(&at_random, 0, None, Advice::Random)?;
    Ok(at_random)
}

/// Whether the page at `offset` is cached; `None` where the filesystem cannot tell, or the file
/// has ended.
fn is_cached(at_random: &File, offset: u64) -> Option<bool> {
    loop {
        match system_calls::read_byte_without_waiting(at_random, offset) {
            Ok(read) => return (read > 0).then_some(true),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Some(false),
                io::ErrorKind::Interrupted => {}
                _ => return None,
            },
        }
    }
}

/// How many bytes of `piece` lie in `cached` of the pages that it overlaps, taking them as evenly
/// spread where some are cached and some are not.
fn bytes_of_pages(cached: u64, piece: &Range<u64>, page: u64) -> u64 {
    let (len, pages) = (
        piece.end - piece.start,
        piece.end.div_ceil(page) - piece.start / page,
    );
    if cached >= pages {
        return len;
    }
    let bytes = u128::from(len) * u128::from(cached) / u128::from(pages);
    // Smaller than `len`, which was 64 bits long.
    u64::try_from(bytes).unwrap_or(len)
}

/// Finds what is cached by asking how many bytes of a piece are, and for the pieces within it only
/// where the answer is mixed, down to `granularity` bytes.
///
/// The kernel walks over every folio that it counts, so pieces are cut into many at once: that
/// walks over each only two or three times.
fn count(
    range: Range<u64>,
    granularity: u64,
    mut ask: impl FnMut(&Range<u64>) -> Option<u64>,
) -> ResidencyMap {
    let cut = |piece: &Range<u64>| {
        let part = (piece.end - piece.start).div_ceil(PARTS);
        let stride = part.checked_next_multiple_of(granularity).unwrap_or(part);
        // The first is to be taken first.
        pieces(piece, stride).collect::<Vec<_>>().into_iter().rev()
    };
    let mut runs = Vec::new();
    let mut open: Vec<_> = cut(&range).collect();
    while let Some(piece) = open.pop() {
        let len = piece.end - piece.start;
        let resident = ask(&piece).map(|resident| resident.min(len));
        let mixed = resident.is_some_and(|resident| resident > 0 && resident < len);
        if mixed && len > granularity {
            open.extend(cut(&piece));
        } else {
            append(&mut runs, piece, resident);
        }
    }
    ResidencyMap::new(runs)
}

/// Finds what is cached by asking for single offsets: a few first, and only where they differ one
/// for each piece of `granularity` bytes, or longer pieces where that would be too many.
///
/// Offsets are chosen by `seed`: what was asked for once may be cached ever after.
fn sample(
    range: Range<u64>,
    granularity: u64,
    seed: u64,
    mut is_cached: impl FnMut(u64) -> Option<bool>,
) -> ResidencyMap {
    let mut offsets = Offsets(seed);
    let len = range.end - range.start;
    let first: Vec<_> = pieces(&range, len.div_ceil(FIRST_SAMPLES))
        .map(|piece| offsets.within(&piece))
        .map(|offset| (offset, is_cached(offset)))
        .collect();
    let answer = first[0].1;
    if first.iter().all(|(_, other)| *other == answer) {
        let resident = all_or_nothing(answer, len);
        return ResidencyMap::new(vec![ResidencyRun { range, resident }]);
    }
    let smallest = len.div_ceil(MOST_SAMPLES);
    let stride = smallest
        .checked_next_multiple_of(granularity)
        .unwrap_or(len);
    let mut runs: Vec<ResidencyRun> = Vec::new();
    for piece in pieces(&range, stride) {
        // Where one of the first samples lies its answer holds; another could meet the page that it
        // brought in.
        let known = first.iter().find(|(offset, _)| piece.contains(offset));
        let answer = known.map_or_else(|| is_cached(offsets.within(&piece)), |(_, answer)| *answer);
        let len = piece.end - piece.start;
        append(&mut runs, piece, all_or_nothing(answer, len));
    }
    ResidencyMap::new(runs)
}

/// Appends a piece, joining it to the last where both are cached in full, not at all, or nobody
/// knows.
fn append(runs: &mut Vec<ResidencyRun>, piece: Range<u64>, resident: Option<u64>) {
    let piece = ResidencyRun {
        range: piece,
        resident,
    };
    let full = |run: &ResidencyRun| run.resident == Some(run.range.end - run.range.start);
    let alike = |last: &&mut ResidencyRun| {
        let same = last.resident == resident && matches!(resident, None | Some(0));
        same || (full(last) && full(&piece))
    };
    match runs.last_mut().filter(alike) {
        Some(last) => {
            last.range.end = piece.range.end;
            last.resident = last.resident.zip(resident).map(|(a, b)| a + b);
        }
        None => runs.push(piece),
    }
}

fn all_or_nothing(cached: Option<bool>, len: u64) -> Option<u64> {
    cached.map(|cached| if cached { len } else { 0 })
}

/// Cuts `range` at the multiples of `stride`.
fn pieces(range: &Range<u64>, stride: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (stride, end) = (stride.max(1), range.end);
    let mut start = range.start;
    std::iter::from_fn(move || {
        let cut = (start / stride + 1).saturating_mul(stride).min(end);
        let piece = (start < end).then_some(start..cut);
        start = cut;
        piece
    })
}

/// Offsets that are another each time (SplitMix64, which needs no more than one addition and two
/// multiplications).
struct Offsets(u64);

impl Offsets {
    /// An offset within `piece`, which is not empty.
    fn within(&mut self, piece: &Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        piece.start + bits % (piece.end - piece.start).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::System as _;
    use proptest::prelude::*;
    use std::fs;

    /// A file of 4 MiB on a disk; `None`, and it is said, where temporary files lie in memory.
    fn file_on_disk() -> Option<(tempfile::TempDir, WeightFile)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, vec![3; 4 << 20]).unwrap();
        let file = WeightFile::open(path).unwrap();
        if filesystem::kind(file.file()).in_memory {
            println!("skipped: temporary files lie in memory here");
            return None;
        }
        Some((folder, file))
    }

    fn evict(file: &WeightFile) {
        crate::LinuxSystem.evict(file, 0..file.disk_len()).unwrap();
    }

    /// Caches the bytes of `range` and nothing else.
    fn cache(file: &WeightFile, range: Range<u64>) {
        let at_random = reopen_for_samples(file.file()).unwrap();
        let page = page_size();
        for offset in range.step_by(page) {
            rustix::io::pread(&at_random, &mut vec![0_u8; page], offset).unwrap();
        }
    }

    #[test]
    fn cachestat_counts_what_is_cached() {
        let Some((_folder, file)) = file_on_disk() else {
            return;
        };
        let range = 0..file.disk_len();
        if !matches!(Method::of(file.file(), range.start), Method::Cachestat) {
            println!("skipped: this kernel has no cachestat");
            return;
        }
        evict(&file);
        let cold = residency(&file, range.clone(), 4096);
        assert_eq!(cold.resident_bytes(), Some(0));
        cache(&file, 1 << 20..2 << 20);
        let mixed = residency(&file, range.clone(), 64 << 10);
        let warm: Vec<_> = mixed
            .runs()
            .iter()
            .filter(|run| run.resident != Some(0))
            .collect();
        assert_eq!(warm.len(), 1, "{mixed:?}");
        assert_eq!(warm[0].range, 1 << 20..2 << 20);
        assert_eq!(mixed.resident_bytes(), Some(1 << 20));
        // Within a page, and over the edge of what is cached.
        let within = residency(&file, (1 << 20) + 5..(1 << 20) + 8, 1);
        assert_eq!(within.resident_bytes(), Some(3));
        let across = residency(&file, (2 << 20) - 5..(2 << 20) + 5, 1);
        assert_eq!(across.resident_bytes(), Some(5));
    }

    #[test]
    fn samples_tell_cold_from_cached() {
        for cached in [0, 2 << 20, 4 << 20] {
            // A new file each time: a page that a missed sample is bringing in is not evicted.
            let Some((_folder, file)) = file_on_disk() else {
                return;
            };
            evict(&file);
            cache(&file, 0..cached);
            let len = file.disk_len();
            if let Ok(found) = system_calls::cached_pages(file.file(), 0, len) {
                if found.cached * (page_size() as u64) != cached {
                    println!("skipped: the system does not cache just what it is asked to");
                    return;
                }
            }
            let at_random = reopen_for_samples(file.file()).unwrap();
            let seed = RandomState::new().hash_one(cached);
            let map = sample(0..file.disk_len(), 64 << 10, seed, |offset| {
                is_cached(&at_random, offset)
            });
            if map.resident_bytes().is_none() {
                println!("skipped: this filesystem cannot read without waiting");
                return;
            }
            if let Ok(still) = system_calls::cached_pages(file.file(), 0, cached.max(1)) {
                if still.cached * (page_size() as u64) < cached {
                    println!("skipped: the system drops what was cached a moment ago");
                    return;
                }
            }
            assert_eq!(map.resident_bytes(), Some(cached), "{map:?}");
            assert_eq!(map.runs()[0].range.start, 0);
            assert_eq!(map.runs().len(), if cached == 2 << 20 { 2 } else { 1 });
        }
    }

    #[test]
    fn a_missed_sample_brings_in_one_page_at_most() {
        let Some((_folder, file)) = file_on_disk() else {
            return;
        };
        let range = 0..file.disk_len();
        if !matches!(Method::of(file.file(), range.start), Method::Cachestat) {
            println!("skipped: this kernel has no cachestat");
            return;
        }
        evict(&file);
        let at_random = reopen_for_samples(file.file()).unwrap();
        is_cached(&at_random, 2 << 20);
        let cached = system_calls::cached_pages(file.file(), 0, file.disk_len()).unwrap();
        assert!(cached.cached <= 1, "{cached:?}");
    }

    #[test]
    fn files_in_memory_are_resident() {
        let memory = rustix::fs::memfd_create("weights", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 1 << 20).unwrap();
        let file = WeightFile::from_file(memory.into(), "memory").unwrap();
        let map = residency(&file, 10..1 << 20, 4096);
        assert_eq!(map.share(10..1 << 20), Some(1.0));
        assert!(residency(&file, 5..5, 4096).runs().is_empty());
    }

    #[test]
    fn bytes_of_pages_are_exact_at_the_ends() {
        for (piece, none, all) in [(0..8192_u64, 0, 8192), (4000..8193, 0, 4193), (5..6, 0, 1)] {
            let pages = piece.end.div_ceil(4096) - piece.start / 4096;
            assert_eq!(bytes_of_pages(0, &piece, 4096), none);
            assert_eq!(bytes_of_pages(pages, &piece, 4096), all);
        }
        assert_eq!(bytes_of_pages(1, &(0..8192), 4096), 4096);
        assert_eq!(
            bytes_of_pages(u64::MAX / 4096 / 2, &(0..u64::MAX), 4096) >> 62,
            1
        );
    }

    #[test]
    fn counting_all_or_nothing_asks_little() {
        for share in [0, 1] {
            let mut questions = 0;
            let map = count(5..1 << 40, 4096, |piece| {
                questions += 1;
                Some((piece.end - piece.start) * share)
            });
            assert_eq!(map.runs().len(), 1);
            assert!(questions <= PARTS + 1, "{questions}");
        }
        assert_eq!(count(5..1 << 40, 4096, |_| None).resident_bytes(), None);
    }

    proptest! {
        #[test]
        fn counting_finds_what_asking_each_piece_finds(
            pages in prop::collection::vec(any::<bool>(), 1..2000),
            start in 0_u64..200,
            granularity in 1_u64..100,
        ) {
            let range = start..start + pages.len() as u64;
            let cached = |piece: &Range<u64>| {
                let index = |at: u64| usize::try_from(at - start).unwrap();
                let pages = &pages[index(piece.start)..index(piece.end)];
                pages.iter().filter(|page| **page).count() as u64
            };
            let map = count(range.clone(), granularity, |piece| Some(cached(piece)));
            let mut at = range.start;
            for run in map.runs() {
                prop_assert_eq!(run.range.start, at);
                prop_assert_eq!(run.resident, Some(cached(&run.range)));
                let len = run.range.end - run.range.start;
                prop_assert!(len <= granularity || run.resident == Some(0) || run.resident == Some(len));
                at = run.range.end;
            }
            prop_assert_eq!(at, range.end);
        }

        #[test]
        fn samples_cover_the_range_and_are_few(
            start in 0_u64..1 << 40,
            len in 1_u64..1 << 40,
            granularity_power in 12_u32..24,
            seed: u64,
            cached_below in 0.0..1.2_f64,
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
            let edge = start + (len as f64 * cached_below) as u64;
            let range = start..start + len;
            let mut asked = 0;
            let map = sample(range.clone(), 1 << granularity_power, seed, |offset| {
                assert!(range.contains(&offset));
                asked += 1;
                Some(offset < edge)
            });
            prop_assert!(asked <= FIRST_SAMPLES + MOST_SAMPLES + 2, "{}", asked);
            let mut at = range.start;
            for run in map.runs() {
                prop_assert_eq!(run.range.start, at);
                at = run.range.end;
            }
            prop_assert_eq!(at, range.end);
            // Only the piece that the edge lies in can be told wrongly.
            let stride = len.div_ceil(MOST_SAMPLES).next_multiple_of(1 << granularity_power);
            if map.runs().len() > 1 {
                let told = map.resident_bytes().unwrap();
                prop_assert!(told.abs_diff(edge.min(range.end) - start) <= stride);
            }
        }

        #[test]
        fn unknown_stays_unknown(len in 1_u64..1 << 30, seed: u64) {
            let map = sample(0..len, 4096, seed, |_| None);
            prop_assert_eq!(map.resident_bytes(), None);
        }
    }
}
