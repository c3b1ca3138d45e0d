//! Residency from the answers of systems that tell one page at a time.

use std::ops::Range;

use crate::ResidencyMap;

impl ResidencyMap {
    /// Finds what is resident by asking page by page, as mincore(2) does.
    ///
    /// `ask` is given a window that begins at a multiple of `page_bytes` and covers whole pages,
    /// the last of which may reach beyond the end of `range`; it tells for each page, in order,
    /// whether it is resident, or `None` where the system does not tell. The map tells runs apart
    /// down to pieces of `granularity` bytes.
    ///
    /// ```
    /// use loader_core::ResidencyMap;
    /// // Ten bytes into the second page of 4096 bytes, which alone is resident.
    /// let map = ResidencyMap::by_pages(100..4106, 4096, 4096, |window| {
    ///     assert_eq!(window, 0..8192);
    ///     Some(vec![false, true])
    /// });
    /// assert_eq!(map.resident_bytes(), Some(10));
    /// ```
    pub fn by_pages(
        range: Range<u64>,
        granularity: u64,
        page_bytes: u64,
        ask: impl FnOnce(Range<u64>) -> Option<Vec<bool>>,
    ) -> Self {
        if range.is_empty() {
            return Self::default();
        }
        let page_bytes = page_bytes.max(1);
        let first = range.start / page_bytes;
        let window = first * page_bytes
            ..range
                .end
                .checked_next_multiple_of(page_bytes)
                .unwrap_or(u64::MAX);
        let Some(pages) = ask(window) else {
            return Self::unknown(range);
        };
        Self::by_parts(range, granularity.max(page_bytes), |piece| {
            let page = |number: u64| usize::try_from(number - first).ok();
            let from = page(piece.start / page_bytes)?;
            let to = page((piece.end - 1) / page_bytes)?;
            let answers = pages.get(from..=to)?;
            let resident = (piece.start / page_bytes..)
                .zip(answers)
                .filter(|(_, resident)| **resident);
            // Only the part of each page that lies within the piece.
            let bytes = resident.map(|(number, _)| {
                let start = number * page_bytes;
                piece.end.min(start.saturating_add(page_bytes)) - piece.start.max(start)
            });
            Some(bytes.sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_of_a_resident_page_counts_and_no_other(
            pages in prop::collection::vec(any::<bool>(), 1..60),
            page_bytes in prop::sample::select(vec![1_u64, 7, 4096, 16384]),
            first in 0_u64..5,
            start in 0.0..1.0_f64,
            end in 0.0..1.0_f64,
            granularity in 0_u64..100_000,
        ) {
            let known = first * page_bytes..(first + pages.len() as u64) * page_bytes;
            let place = |share: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_precision_loss,
                    clippy::cast_sign_loss,
                    reason = "any place in the pages will do"
                )]
                let within = ((known.end - known.start) as f64 * share) as u64;
                known.start + within
            };
            let range = place(start.min(end))..place(start.max(end));
            let is_resident = |page: u64| pages[usize::try_from(page - first).unwrap()];
            let map = ResidencyMap::by_pages(range.clone(), granularity, page_bytes, |window| {
                assert!(window.start % page_bytes == 0 && window.end % page_bytes == 0);
                assert!(window.start <= range.start && range.end <= window.end);
                assert!(known.start <= window.start && window.end <= known.end);
                Some((window.start / page_bytes..window.end / page_bytes).map(is_resident).collect())
            });
            let mut at = range.start;
            for run in map.runs() {
                prop_assert_eq!(run.range.start, at);
                let expected = run.range.clone().filter(|byte| is_resident(byte / page_bytes));
                prop_assert_eq!(run.resident, Some(expected.count() as u64));
                at = run.range.end;
            }
            prop_assert_eq!(at, range.end);
        }
    }

    #[test]
    fn silence_is_unknown() {
        let map = ResidencyMap::by_pages(5..9, 1, 4, |_| None);
        assert_eq!(map, ResidencyMap::unknown(5..9));
    }

    #[test]
    fn fewer_answers_than_pages_are_unknown() {
        let map = ResidencyMap::by_pages(0..8, 1, 4, |_| Some(vec![true]));
        assert_eq!(map.resident_bytes(), None);
    }
}
