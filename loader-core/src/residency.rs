//! What part of a file the page cache holds.

use std::ops::Range;

/// A stretch of a file and how much of it is in the page cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidencyRun {
    /// The stretch, in bytes from the start of the file on disk.
    pub range: Range<u64>,
    /// How many of its bytes are resident; `None` where the system does not tell.
    pub resident: Option<u64>,
}

/// The residency of a range of a file: runs in order, without gaps.
///
/// It is a snapshot: pages come and go at any moment, so it may steer how bytes are read but never
/// whether they are.
///
/// ```
/// use loader_core::{ResidencyMap, ResidencyRun};
/// let map = ResidencyMap::new(vec![
///     ResidencyRun { range: 0..100, resident: Some(100) },
///     ResidencyRun { range: 100..300, resident: Some(0) },
/// ]);
/// assert_eq!(map.share(50..150), Some(0.5));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResidencyMap {
    runs: Vec<ResidencyRun>,
    estimated: bool,
}

impl ResidencyMap {
    /// A map of these runs, which must be in order, must not overlap and must have bytes.
    ///
    /// # Panics
    /// In builds with debug assertions, where they overlap or are out of order.
    #[must_use]
    pub fn new(runs: Vec<ResidencyRun>) -> Self {
        debug_assert!(
            runs.windows(2)
                .all(|pair| pair[0].range.end <= pair[1].range.start)
        );
        Self {
            runs,
            estimated: false,
        }
    }

    /// The same map, marked as an estimate: the system does not tell what is resident, and the
    /// answer was concluded from something else.
    #[must_use]
    pub fn estimated(self) -> Self {
        Self {
            estimated: true,
            ..self
        }
    }

    /// Whether it is an estimate rather than what the system told.
    #[must_use]
    pub fn is_estimate(&self) -> bool {
        self.estimated
    }

    /// A map that says of `range` that nobody knows.
    #[must_use]
    pub fn unknown(range: Range<u64>) -> Self {
        Self::new(vec![ResidencyRun {
            range,
            resident: None,
        }])
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[ResidencyRun] {
        &self.runs
    }

    /// How many bytes are resident; `None` where part of them is unknown.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        self.runs.iter().map(|run| run.resident).sum()
    }

    /// The resident share of `range`, from 0 to 1, taking each run as evenly filled; `None` where
    /// it is unknown, lies outside the map or has no bytes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share is a rough figure")]
    pub fn share(&self, range: Range<u64>) -> Option<f64> {
        if range.is_empty() {
            return None;
        }
        let first = self
            .runs
            .partition_point(|run| run.range.end <= range.start);
        let mut covered = 0_u64;
        let mut resident = 0.0;
        for run in self.runs[first..]
            .iter()
            .take_while(|run| run.range.start < range.end)
        {
            let overlap = run.range.end.min(range.end) - run.range.start.max(range.start);
            let len = run.range.end - run.range.start;
            resident += run.resident? as f64 / len as f64 * overlap as f64;
            covered += overlap;
        }
        (covered > 0 && covered == range.end - range.start).then(|| resident / covered as f64)
    }

    /// Finds what is resident by asking for ever smaller pieces only where an answer is mixed.
    ///
    /// `ask` tells how many bytes of a piece are resident, or `None` where it cannot tell; pieces
    /// are cut into parts at multiples of `granularity`, until they are no longer than that.
    pub fn by_parts(
        range: Range<u64>,
        granularity: u64,
        mut ask: impl FnMut(Range<u64>) -> Option<u64>,
    ) -> Self {
        let granularity = granularity.max(1);
        let mut map = Self::default();
        // Popped from the end, so the first part of a piece is pushed last.
        let mut open = vec![range];
        while let Some(piece) = open.pop() {
            let len = piece.end.saturating_sub(piece.start);
            if len == 0 {
                continue;
            }
            let resident = ask(piece.clone()).map(|resident| resident.min(len));
            let mixed = resident.is_some_and(|resident| resident > 0 && resident < len);
            let parts = if mixed && len > granularity {
                parts(&piece, granularity)
            } else {
                Vec::new()
            };
            if parts.len() > 1 {
                open.extend(parts.into_iter().rev());
            } else {
                map.push(ResidencyRun {
                    range: piece,
                    resident,
                });
            }
        }
        map
    }

    /// Appends a run, joining it to the last where both are alike.
    fn push(&mut self, run: ResidencyRun) {
        let full = |run: &ResidencyRun| run.resident == Some(run.range.end - run.range.start);
        if let Some(last) = self.runs.last_mut() {
            let empty = last.resident == Some(0) && run.resident == Some(0);
            let unknown = last.resident.is_none() && run.resident.is_none();
            if empty || unknown || (full(last) && full(&run)) {
                last.range.end = run.range.end;
                last.resident = last.resident.zip(run.resident).map(|(a, b)| a + b);
                return;
            }
        }
        self.runs.push(run);
    }
}

/// Into how many parts a piece is cut whose answer is mixed. A system that counts cached pages one
/// by one takes as long for all parts as for the whole, so few levels are better than few questions.
const PARTS: u64 = 32;

/// Cuts a piece at multiples of `granularity`.
fn parts(piece: &Range<u64>, granularity: u64) -> Vec<Range<u64>> {
    let step = ((piece.end - piece.start) / PARTS)
        .max(granularity)
        .checked_next_multiple_of(granularity)
        .unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    let mut start = piece.start;
    while start < piece.end {
        let end = start
            .checked_add(step)
            .and_then(|end| (end / granularity).checked_mul(granularity))
            .unwrap_or(u64::MAX)
            .clamp(start + 1, piece.end);
        parts.push(start..end);
        start = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cutting_finds_what_asking_each_piece_finds(
            pages in prop::collection::vec(any::<bool>(), 1..400),
            start in 0_u64..10,
            granularity in 1_u64..8,
        ) {
            let range = start..start + pages.len() as u64;
            let count = |piece: Range<u64>| {
                let index = |at: u64| usize::try_from(at - start).unwrap();
                pages[index(piece.start)..index(piece.end)].iter().filter(|page| **page).count() as u64
            };
            let map = ResidencyMap::by_parts(range.clone(), granularity, |piece| Some(count(piece)));
            let mut at = range.start;
            for run in map.runs() {
                prop_assert_eq!(run.range.start, at);
                prop_assert_eq!(run.resident, Some(count(run.range.clone())));
                at = run.range.end;
            }
            prop_assert_eq!(at, range.end);
            prop_assert_eq!(map.resident_bytes(), Some(count(range)));
        }
    }

    #[test]
    fn all_or_nothing_needs_one_question() {
        for answer in [0, 1 << 30] {
            let mut questions = 0;
            let map = ResidencyMap::by_parts(0..1 << 30, 4096, |_| {
                questions += 1;
                Some(answer)
            });
            assert_eq!((questions, map.runs().len()), (1, 1));
        }
    }

    #[test]
    fn unknown_parts_make_shares_unknown() {
        let map = ResidencyMap::new(vec![
            ResidencyRun {
                range: 0..10,
                resident: Some(10),
            },
            ResidencyRun {
                range: 10..20,
                resident: None,
            },
        ]);
        assert_eq!(map.share(0..10), Some(1.0));
        assert_eq!(map.share(5..15), None);
        assert_eq!(map.share(15..25), None);
        assert_eq!(map.resident_bytes(), None);
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "it must be survived")]
    fn ranges_without_bytes_have_no_share() {
        let map = ResidencyMap::new(vec![ResidencyRun {
            range: 0..100,
            resident: Some(100),
        }]);
        for range in [50..50, 50..20, 200..0] {
            assert_eq!(map.share(range), None);
        }
    }
}
