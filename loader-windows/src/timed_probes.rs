//! What part of a file the system cache holds, guessed from how long reads of it take.
//!
//! Windows tells nobody. A read of one page that is cached takes a microsecond or a few; one that is
//! not waits for the device, for some 60 microseconds on a fast one. Each probe is therefore read
//! twice: the second time it certainly is cached, and shows how fast that is here and now.
//!
//! Probes are few, each at a place of its own, and go through an open file that is said to be read
//! at random, for which the cache manager reads nothing ahead. What they read is cached afterwards,
//! so places are chosen anew each time. Since a thread may be kept waiting by other things than the
//! device, what took long is probed once more, at another place.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::ops::Range;
use std::os::windows::fs::FileExt;
use std::time::{Duration, Instant};

use loader_core::{ResidencyMap, ResidencyRun, WeightFile};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_RANDOM_ACCESS;

use crate::handle::reopen;

/// Bytes of one probe: a page.
const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;

/// One probe stands for so many bytes, as long as that makes neither too few nor too many.
const BYTES_PER_PROBE: u64 = 16 << 20;

const FEWEST_PROBES: u64 = 2;

/// On a hard disk each probe of what is not cached takes ten milliseconds.
const MOST_PROBES: u64 = 32;

/// How much longer than a cached read one may take that is still taken for cached: looking at pages
/// that the process has not looked at before takes several microseconds, and a fast device
/// answers after some sixty.
const MARGIN: Duration = Duration::from_micros(30);

/// How long one probe took, and the same read again.
#[derive(Clone, Copy, Debug)]
struct Timing {
    first: Duration,
    again: Duration,
}

/// An estimate of what part of `range` (from the start of the file on disk) is cached, told apart
/// down to pieces of `granularity` bytes; unknown where the file cannot be opened again or read.
pub(crate) fn residency(file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
    if range.is_empty() {
        return ResidencyMap::default();
    }
    let probed = reopen(file.file(), FILE_FLAG_RANDOM_ACCESS).and_then(|at_random| {
        // The first read through a handle also sets up its part of the cache.
        time(&at_random, range.start)?;
        let random = RandomState::new();
        let pieces = pieces(&range, granularity);
        let probe = |piece: &Range<u64>, salt: u64| {
            time(
                &at_random,
                within(piece, random.hash_one((piece.start, salt))),
            )
        };
        let timings = pieces.iter().map(|piece| probe(piece, 0));
        let mut timings = timings.collect::<io::Result<Vec<_>>>()?;
        let longest = longest(&timings);
        for (timing, piece) in timings.iter_mut().zip(&pieces) {
            if timing.first > longest {
                timing.first = timing.first.min(probe(piece, 1)?.first);
            }
        }
        Ok((timings, pieces))
    });
    match probed {
        Ok((timings, pieces)) => estimate(pieces, &timings),
        Err(error) => {
            let path = file.path().display();
            tracing::debug!(%path, %error, "residency is unknown");
            ResidencyMap::unknown(range)
        }
    }
}

/// What each probe stands for: equal pieces, none shorter than `granularity`.
fn pieces(range: &Range<u64>, granularity: u64) -> Vec<Range<u64>> {
    let len = range.end - range.start;
    let probes = (len / BYTES_PER_PROBE).clamp(FEWEST_PROBES, MOST_PROBES);
    let stride = len.div_ceil(probes).max(granularity).max(PAGE).min(len);
    (0..len.div_ceil(stride))
        .map(|index| {
            let start = range.start + index * stride;
            start..start.saturating_add(stride).min(range.end)
        })
        .collect()
}

/// The start of some page that begins within `piece`, or the start of the piece.
fn within(piece: &Range<u64>, random: u64) -> u64 {
    let first = piece.start.next_multiple_of(PAGE);
    let pages = piece.end.saturating_sub(first).div_ceil(PAGE);
    match pages {
        0 => piece.start,
        pages => first + random % pages * PAGE,
    }
}

fn time(at_random: &File, offset: u64) -> io::Result<Timing> {
    let mut page = [0; PAGE_LEN];
    let mut read = || {
        let started = Instant::now();
        at_random.seek_read(&mut page, offset)?;
        Ok(started.elapsed())
    };
    read().and_then(|first| read().map(|again| Timing { first, again }))
}

/// How long the read of something cached takes at most.
fn longest(timings: &[Timing]) -> Duration {
    let cached = timings.iter().map(|timing| timing.again).min();
    cached.unwrap_or_default() + MARGIN
}

/// Takes each piece as cached or not by its probe.
fn estimate(pieces: Vec<Range<u64>>, timings: &[Timing]) -> ResidencyMap {
    let longest = longest(timings);
    let runs = pieces.into_iter().zip(timings).map(|(range, timing)| {
        let len = range.end - range.start;
        let resident = if timing.first <= longest { len } else { 0 };
        ResidencyRun {
            range,
            resident: Some(resident),
        }
    });
    ResidencyMap::new(runs.collect()).estimated()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(first: u64, again: u64) -> Timing {
        Timing {
            first: Duration::from_micros(first),
            again: Duration::from_micros(again),
        }
    }

    #[test]
    fn what_takes_longer_than_a_cached_read_is_not_cached() {
        let pieces = vec![0..100, 100..200, 200..300, 300..350];
        let timings = [micros(3, 1), micros(90, 2), micros(12, 2), micros(9000, 1)];
        let map = estimate(pieces, &timings);
        let resident: Vec<_> = map.runs().iter().map(|run| run.resident).collect();
        assert_eq!(resident, [Some(100), Some(0), Some(100), Some(0)]);
        assert!(map.is_estimate());
    }

    #[test]
    fn on_a_slow_machine_cached_reads_may_take_their_time() {
        let map = estimate(
            vec![0..100, 100..200],
            &[micros(210, 200), micros(400, 200)],
        );
        assert_eq!(map.share(0..100), Some(1.0));
        assert_eq!(map.share(100..200), Some(0.0));
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_and_probes_lie_within(
            start in 0_u64..1 << 40,
            len in 1_u64..1 << 40,
            granularity in prop_oneof![Just(0), Just(u64::MAX), 1_u64..1 << 30],
            random: u64,
        ) {
            let range = start..start + len;
            let pieces = pieces(&range, granularity);
            prop_assert!(pieces.len() as u64 <= MOST_PROBES);
            let mut at = start;
            for piece in pieces {
                prop_assert_eq!(piece.start, at);
                prop_assert!(piece.end > at && piece.end <= range.end);
                prop_assert!(piece.contains(&within(&piece, random)));
                at = piece.end;
            }
            prop_assert_eq!(at, range.end);
        }
    }

    #[test]
    fn a_real_file_has_an_estimate_for_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![1; 3_000_001]).unwrap();
        let file = WeightFile::open(&path).unwrap();
        for range in [0..3_000_001, 4097..4098, 2_999_999..3_000_001] {
            let map = residency(&file, range.clone(), 4096);
            assert!(map.is_estimate());
            assert!(map.share(range.clone()).is_some(), "{range:?}");
        }
        assert!(residency(&file, 7..7, 4096).runs().is_empty());
    }
}
