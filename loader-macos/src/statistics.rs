//! Pure arithmetic: how much memory there is to be had, from the kernel's counts of pages.

/// What host_statistics64 counts, in pages of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageCounts {
    /// Free ones, the speculative ones included.
    pub(crate) free: u32,
    /// Read ahead from files and not used yet: also counted as free and as pages of files.
    pub(crate) speculative: u32,
    /// Pages of files.
    pub(crate) external: u32,
    /// Pages that programs offered to lose.
    pub(crate) purgeable: u32,
}

impl PageCounts {
    /// Bytes that can be taken without compressing or swapping what programs hold: pages that are
    /// free, that can be read again from their files, or that programs offered to lose.
    pub(crate) fn available(self, page_bytes: u64) -> u64 {
        let free = self.free.saturating_sub(self.speculative);
        let pages = u64::from(free) + u64::from(self.external) + u64::from(self.purgeable);
        pages.saturating_mul(page_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_added_up() {
        let counts = PageCounts {
            free: 26_863,
            speculative: 5120,
            external: 190_000,
            purgeable: 1000,
        };
        assert_eq!(counts.available(16_384), (21_743 + 190_000 + 1000) * 16_384);
    }

    proptest! {
        #[test]
        fn no_page_counts_twice(free: u16, speculative: u16, others: u16, purgeable: u16) {
            let counts = PageCounts {
                free: u32::from(free) + u32::from(speculative),
                speculative: speculative.into(),
                external: u32::from(others) + u32::from(speculative),
                purgeable: purgeable.into(),
            };
            let pages = [free, speculative, others, purgeable].map(u64::from);
            prop_assert_eq!(counts.available(4096), pages.iter().sum::<u64>() * 4096);
        }

        #[test]
        fn any_counts_give_an_answer(free: u32, speculative: u32, external: u32, purgeable: u32) {
            let counts = PageCounts { free, speculative, external, purgeable };
            prop_assert!(counts.available(u64::MAX) >= counts.available(1));
        }
    }
}
