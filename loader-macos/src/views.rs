//! Pure arithmetic: views of memory that is longer than one buffer may be.

use std::ops::Range;

/// Views of at most `most` bytes over memory of `len` bytes, in order, each beginning at a page, so
/// that any `overlap` bytes on end lie within one of them. Both `len` and the views are whole pages.
///
/// # Errors
/// Why there are none: what shall lie within one view is more than a view holds.
pub(crate) fn views(
    len: usize,
    most: usize,
    overlap: usize,
    page_bytes: usize,
) -> Result<Vec<Range<usize>>, String> {
    if len <= most {
        return Ok(std::iter::once(0..len).collect());
    }
    let most = most - most % page_bytes;
    let step = overlap
        .checked_next_multiple_of(page_bytes)
        .and_then(|overlap| most.checked_sub(overlap))
        .filter(|step| *step > 0);
    let Some(step) = step else {
        return Err(format!(
            "its buffers hold at most {most} bytes, so they cannot overlap by {overlap} bytes"
        ));
    };
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let end = len.min(start + most);
        found.push(start..end);
        if end == len {
            return Ok(found);
        }
        start += step;
    }
}

/// Which of `views` holds all of `range`.
pub(crate) fn holding(views: &[Range<usize>], range: &Range<usize>) -> Option<usize> {
    // Of those that begin early enough the last one reaches farthest.
    let last = views
        .partition_point(|view| view.start <= range.start)
        .checked_sub(1)?;
    (range.start <= range.end && range.end <= views[last].end).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_tensor_lies_within_a_view(
            page in prop::sample::select(vec![4096_usize, 16_384]),
            pages in 0_usize..200,
            most in 1_usize..2_000_000,
            overlap in 0_usize..600_000,
            at in 0.0..1.0_f64,
            len in 0_usize..600_000,
        ) {
            let all = pages * page;
            match views(all, most, overlap, page) {
                Err(reason) => {
                    prop_assert!(all > most);
                    prop_assert!(overlap.next_multiple_of(page) + page > most, "{}", reason);
                }
                Ok(found) => {
                    prop_assert_eq!(found[0].start, 0);
                    prop_assert_eq!(found[found.len() - 1].end, all);
                    for view in &found {
                        prop_assert!(view.start % page == 0 && view.end % page == 0);
                        prop_assert!(view.len() <= most && (all == 0 || !view.is_empty()));
                    }
                    for pair in found.windows(2) {
                        prop_assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end);
                        prop_assert!(pair[0].end >= pair[1].start + overlap);
                    }
                    let len = len.min(overlap.max(if found.len() == 1 { all } else { 0 })).min(all);
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_precision_loss,
                        clippy::cast_sign_loss,
                        reason = "any place will do"
                    )]
                    let start = ((all - len) as f64 * at) as usize;
                    let view = holding(&found, &(start..start + len)).unwrap();
                    prop_assert!(found[view].start <= start && start + len <= found[view].end);
                }
            }
        }
    }

    #[test]
    fn what_no_view_holds_is_not_found() {
        let found = views(10 * 4096, 4 * 4096, 4096, 4096).unwrap();
        assert_eq!(found, [0..16_384, 12_288..28_672, 24_576..40_960]);
        assert_eq!(holding(&found, &(0..16_385)), None);
        assert_eq!(holding(&found, &(12_288..16_385)), Some(1));
        assert_eq!(holding(&found, &(40_960..40_961)), None);
        #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
        let backwards = holding(&found, &(5..4));
        assert_eq!(backwards, None);
    }
}
