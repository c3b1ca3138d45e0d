//! Pure arithmetic: whole pages, of 4 KiB or of 16 KiB.

use std::ops::Range;

/// The whole pages within `range`, as far as it lies within `len` bytes; empty where there is none.
pub(crate) fn within(range: Range<usize>, len: usize, page_bytes: usize) -> Range<usize> {
    let end = range.end.min(len);
    let end = end - end % page_bytes;
    let start = range.start.min(end).next_multiple_of(page_bytes);
    start.min(end)..end
}

/// The pages that `range` of a mapping touches, its last one only as far as it is mapped: what
/// calls that want to begin at a page are given. `None` where `range` reaches beyond `len` bytes.
pub(crate) fn around(range: &Range<u64>, len: usize, page_bytes: usize) -> Option<Range<usize>> {
    let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= len);
    let (start, end) = (place(range.start)?, place(range.end)?);
    (start <= end).then(|| start - start % page_bytes..end)
}

/// How memory of `len` bytes must be cut off to end with a page: at `len` rounded up. `None` where
/// that exceeds the address space.
pub(crate) fn rounded_up(len: usize, page_bytes: usize) -> Option<usize> {
    let whole = len.checked_next_multiple_of(page_bytes)?;
    isize::try_from(whole).is_ok().then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page_bytes() -> impl Strategy<Value = usize> {
        prop::sample::select(vec![4096_usize, 16_384])
    }

    proptest! {
        #[test]
        fn whole_pages_within_are_found(
            page in page_bytes(),
            count in 0_usize..20,
            start in 0_usize..400_000,
            len in 0_usize..400_000,
        ) {
            let (all, end) = (count * page, start + len);
            let found = within(start..end, all, page);
            for first in (0..all).step_by(page) {
                let inside = first >= start && first + page <= end;
                prop_assert_eq!(inside, found.contains(&first), "{}", first);
            }
            prop_assert!(found.start % page == 0 && found.end % page == 0);
            prop_assert!(found.start <= found.end && found.end <= all);
        }

        #[test]
        fn pages_around_begin_at_one_and_hold_the_range(
            page in page_bytes(),
            len in 0_usize..400_000,
            start in 0_u64..500_000,
            more in 0_u64..500_000,
        ) {
            let range = start..start + more;
            let found = around(&range, len, page);
            prop_assert_eq!(found.is_some(), range.end <= len as u64);
            if let Some(found) = found {
                prop_assert_eq!(found.start % page, 0);
                prop_assert!(found.start as u64 <= range.start);
                prop_assert!(range.start < found.start as u64 + page as u64);
                prop_assert_eq!(found.end as u64, range.end);
            }
        }

        #[test]
        fn a_mebibyte_of_a_file_stays_one_when_it_begins_at_a_page(
            page in page_bytes(),
            start in 0_u64..1 << 40,
        ) {
            // As pieces are cut: at multiples of their length.
            let piece = start..(start / (1 << 20) + 1) * (1 << 20);
            let pages = around(&piece, usize::MAX, page).unwrap();
            prop_assert!(pages.len() <= 1 << 20);
        }

        #[test]
        fn rounding_up_adds_less_than_a_page(page in page_bytes(), len in 0_usize..1 << 40) {
            let whole = rounded_up(len, page).unwrap();
            prop_assert!(whole >= len && whole - len < page && whole % page == 0);
        }
    }

    #[test]
    fn what_cannot_be_is_none() {
        assert_eq!(rounded_up(usize::MAX, 4096), None);
        assert_eq!(rounded_up(isize::MAX.unsigned_abs(), 16_384), None);
        #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
        for range in [5..4, 0..u64::MAX, u64::MAX..u64::MAX] {
            assert_eq!(around(&range, 100, 4096), None);
        }
    }
}
