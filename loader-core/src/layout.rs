//! Pure arithmetic: where the wanted ranges of a file go in a buffer of ours.

use std::ops::Range;

use crate::{Error, Extent, Result};

/// How tensors lie in the buffer that they land in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// As in the file: direct reads need no bounce, a tensor's alignment is then its file's.
    #[default]
    File,
    /// Each tensor at a multiple of so many bytes (a power of two), at the price of copying the
    /// bytes once more wherever that shifts them.
    Aligned(usize),
}

/// Offsets are kept congruent to this many bytes between file and buffer, and spans are widened to
/// it: the largest block that common devices ask of direct I/O.
const BLOCK: u64 = 4096;

/// A file's first bytes are kept congruent to this many bytes where there are
/// [`LONG`] of them: chunks, which begin at multiples of it in the file, then each lie on a huge page
/// of their own, which no two threads fault in at once.
const HUGE: u64 = 2 << 20;

/// Fewer bytes are not worth what that leaves unused before them.
const LONG: u64 = 32 << 20;

/// Gaps up to this many bytes are read along rather than cut out: a read of its own costs more.
const READ_ALONG: u64 = 64 * 1024;

/// Where the wanted ranges of one file lie in its buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    extents: Vec<Extent>,
    len: usize,
}

impl Layout {
    /// Lays out `ranges` (offsets from the start of the file on disk, sorted by their start) of a
    /// file whose readable bytes are `within`.
    ///
    /// With [`Placement::File`] near ranges share one extent, widened to whole blocks where the
    /// file allows it, and each extent's place in the buffer is congruent to its place in the file.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the buffer would exceed the address space.
    pub fn new(ranges: &[Range<u64>], within: Range<u64>, placement: Placement) -> Result<Self> {
        let mut layout = Self::default();
        match placement {
            Placement::File => {
                for span in spans(ranges, &within) {
                    let first = layout.extents.is_empty() && span.end - span.start >= LONG;
                    let unit = if first { HUGE } else { BLOCK };
                    let shift = span.start % unit;
                    layout.append(span, |end| {
                        end.checked_next_multiple_of(unit)?.checked_add(shift)
                    })?;
                }
            }
            Placement::Aligned(alignment) => {
                let alignment = alignment.max(1) as u64;
                for range in ranges.iter().filter(|range| !range.is_empty()) {
                    layout.append(range.clone(), |end| end.checked_next_multiple_of(alignment))?;
                }
            }
        }
        Ok(layout)
    }

    /// What is to be read and where it lands, sorted by offset.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Bytes that the buffer must have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that are to be read, those between wanted ranges that are read along included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Whether nothing is to be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the bytes of `range` lie in the buffer; `None` unless one extent holds them all.
    #[must_use]
    pub fn locate(&self, range: &Range<u64>) -> Option<usize> {
        if range.is_empty() {
            return Some(0);
        }
        let after = self
            .extents
            .partition_point(|extent| extent.offset <= range.start);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let inside = range.end <= extent.offset + extent.len;
        let shift = usize::try_from(range.start - extent.offset).ok()?;
        inside.then(|| extent.destination + shift)
    }

    fn append(&mut self, span: Range<u64>, place: impl Fn(u64) -> Option<u64>) -> Result<()> {
        let len = span.end - span.start;
        let fits = |bytes: u64| {
            usize::try_from(bytes)
                .ok()
                .filter(|bytes| isize::try_from(*bytes).is_ok())
        };
        let placed = place(self.len as u64)
            .and_then(|start| Some((fits(start)?, fits(start.checked_add(len)?)?)));
        let Some((destination, end)) = placed else {
            return Err(Error::OutOfMemory {
                needed: (self.len as u64).saturating_add(len),
                available: isize::MAX.unsigned_abs() as u64,
                limit: "address space",
            });
        };
        self.extents.push(Extent {
            offset: span.start,
            len,
            destination,
        });
        self.len = end;
        Ok(())
    }
}

/// Widens ranges to whole blocks and joins those that then touch or nearly do.
fn spans(ranges: &[Range<u64>], within: &Range<u64>) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let start = (range.start / BLOCK * BLOCK).max(within.start);
        let end = range
            .end
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(u64::MAX)
            .min(within.end);
        match spans.last_mut() {
            Some(last) if start <= last.end.saturating_add(READ_ALONG) => {
                last.end = last.end.max(end)
            }
            _ => spans.push(start..end.max(range.end)),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0_u64..300_000, 0_u64..200_000), 0..20).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|(gap, len)| {
                    let start = at + gap;
                    at = start + len;
                    start..at
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn file_placement_is_congruent_and_complete(ranges in ranges(), base in 0_u64..5000, spare in 0_u64..5000) {
            let ranges: Vec<_> = ranges.iter().map(|r| r.start + base..r.end + base).collect();
            let end = ranges.last().map_or(base, |r| r.end) + spare;
            let layout = Layout::new(&ranges, base..end, Placement::File).unwrap();
            let mut free_from = 0;
            for extent in layout.extents() {
                prop_assert_eq!(extent.destination as u64 % BLOCK, extent.offset % BLOCK);
                prop_assert!(extent.offset >= base && extent.offset + extent.len <= end);
                prop_assert!(extent.destination >= free_from);
                free_from = extent.destination + usize::try_from(extent.len).unwrap();
            }
            prop_assert_eq!(layout.len(), free_from);
            for range in &ranges {
                let at = layout.locate(range);
                prop_assert!(at.is_some());
                if !range.is_empty() {
                    prop_assert_eq!(at.unwrap() as u64 % BLOCK, range.start % BLOCK);
                }
            }
            let wanted: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            let read: u64 = layout.extents().iter().map(|e| e.len).sum();
            prop_assert!(read <= wanted + ranges.len() as u64 * (READ_ALONG + 2 * BLOCK));
        }

        #[test]
        fn aligned_placement_aligns_each_range(ranges in ranges(), power in 0_u32..13) {
            let alignment = 1_usize << power;
            let end = ranges.last().map_or(0, |r| r.end);
            let layout = Layout::new(&ranges, 0..end, Placement::Aligned(alignment)).unwrap();
            for range in &ranges {
                prop_assert_eq!(layout.locate(range).unwrap() % alignment, 0);
            }
        }
    }

    #[test]
    fn far_ranges_are_cut_apart() {
        let ranges = [5000..6000, 10_000_000..10_000_100];
        let layout = Layout::new(&ranges, 0..20_000_000, Placement::File).unwrap();
        assert_eq!(layout.extents().len(), 2);
        assert!(layout.len() < 20_000);
    }

    #[test]
    fn long_spans_lie_on_huge_pages_as_in_the_file() {
        let start = 5 * HUGE + 3 * BLOCK;
        for (len, unit) in [(LONG, HUGE), (LONG - BLOCK, BLOCK)] {
            let range = start..start + len;
            let file = 0..1 << 40;
            let layout = Layout::new(std::slice::from_ref(&range), file, Placement::File).unwrap();
            let at = layout.locate(&range).unwrap() as u64;
            assert_eq!(at, start % unit);
        }
    }
}
