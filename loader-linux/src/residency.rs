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
    match Method::of(file.file(), &range) {
        Method::InMemory => {
            let resident = Some(range.end - range.start);
            ResidencyMap::new(vec![ResidencyRun { range, resident }])
        }
        Method::Cachestat => ResidencyMap::by_halving(range, granularity, |piece| {
            let pages =
                system_calls::cached_pages(file.file(), piece.start, piece.end - piece.start);
            Some(bytes_of_pages(pages.ok()?, &piece, page))
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

impl Method {
    /// Finds the method that serves for `range` of `file`.
    pub(crate) fn of(file: &File, range: &Range<u64>) -> Self {
        if filesystem::kind(file).in_memory {
            return Self::InMemory;
        }
        // The seccomp policy for its apps kills those who call what it does not know.
        if cfg!(target_os = "android") {
            return Self::None("Android lets no app ask");
        }
        let len = range.end.saturating_sub(range.start);
        if system_calls::cached_pages(file, range.start, len).is_ok() {
            return Self::Cachestat;
        }
        match reopen_for_samples(file) {
            Err(_) => Self::None("the file is not ours and cannot be opened again"),
            Ok(at_random) => match is_cached(&at_random, range.start) {
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
    let stride = len.div_ceil(FIRST_SAMPLES);
    let first: Vec<_> = pieces(&range, stride)
        .map(|piece| is_cached(offsets.within(&piece)))
        .collect();
    if first.iter().all(|answer| *answer == first[0]) {
        let resident = first[0].map(|cached| if cached { len } else { 0 });
        return ResidencyMap::new(vec![ResidencyRun { range, resident }]);
    }
    let smallest = len.div_ceil(MOST_SAMPLES);
    let stride = smallest
        .checked_next_multiple_of(granularity)
        .unwrap_or(len);
    let mut runs: Vec<ResidencyRun> = Vec::new();
    for piece in pieces(&range, stride) {
        let answer = is_cached(offsets.within(&piece));
        append(&mut runs, piece, answer);
    }
    ResidencyMap::new(runs)
}

/// Appends a piece that is cached as a whole, not at all, or nobody knows.
fn append(runs: &mut Vec<ResidencyRun>, piece: Range<u64>, cached: Option<bool>) {
    let len = piece.end - piece.start;
    let resident = cached.map(|cached| if cached { len } else { 0 });
    let last_answer = |run: &ResidencyRun| run.resident.map(|resident| resident > 0);
    match runs.last_mut().filter(|run| last_answer(run) == cached) {
        Some(last) => {
            last.range.end = piece.end;
            last.resident = last.resident.zip(resident).map(|(a, b)| a + b);
        }
        None => runs.push(ResidencyRun {
            range: piece,
            resident,
        }),
    }
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
