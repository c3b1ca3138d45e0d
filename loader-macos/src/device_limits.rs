//! Pure arithmetic: what follows from what a device tells of itself.

/// Places and lengths of blits between buffers are multiples of so many bytes (macOS,
/// `MTLBlitCommandEncoder`, `copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:`).
pub(crate) const COPY_ALIGNMENT: usize = 4;

/// Offsets keep their place within so many bytes of the file on the way through a slot.
const BLOCK: usize = 4096;

/// How weights go to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// Whichever of the others serves best.
    ///
    /// Buffers of the caller's are filled in place where the processors see them, else staged to.
    /// Without such, a device that shares its memory with the processors imports, since direct
    /// reads surely reach memory of ours; one with memory of its own is staged to.
    #[default]
    Auto,
    /// Host memory is filled and then becomes the device's without a copy.
    Import,
    /// Buffers of shared storage are filled.
    InPlace,
    /// A ring of slots is filled, from which blits copy to buffers of private storage.
    Staged,
}

/// The way to go into buffers of the caller's: each is told by whether the processors see it.
///
/// # Errors
/// Why there is none.
pub(crate) fn way_into(wanted: Way, visible: &[bool]) -> Result<Way, String> {
    let serves = match visible.iter().filter(|visible| **visible).count() {
        // No bytes go anywhere, so any way does.
        0 if visible.is_empty() => return Ok(Way::InPlace),
        0 => Way::Staged,
        count if count == visible.len() => Way::InPlace,
        _ => return Err("some of the buffers given have private storage and some not".to_owned()),
    };
    match wanted {
        Way::Auto => Ok(serves),
        // A blit writes to either.
        Way::Staged => Ok(Way::Staged),
        Way::InPlace if serves == Way::InPlace => Ok(serves),
        Way::InPlace => Err("buffers of private storage cannot be filled in place".to_owned()),
        Way::Import => Err("host memory is imported as buffers of its own".to_owned()),
    }
}

/// What a device tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Whether it shares its memory with the processors.
    pub(crate) unified: bool,
    /// The most bytes of one buffer (`maxBufferLength`).
    pub(crate) max_buffer_bytes: usize,
    /// How much it can use with good performance (`recommendedMaxWorkingSetSize`).
    pub(crate) working_set_bytes: u64,
    /// How much this process has allocated of it (`currentAllocatedSize`).
    pub(crate) allocated_bytes: u64,
    /// Bytes of a page of this process.
    pub(crate) page_bytes: usize,
}

impl Limits {
    /// The way to go into buffers of our own.
    pub(crate) fn way(self, wanted: Way) -> Way {
        match wanted {
            Way::Auto if self.unified => Way::Import,
            Way::Auto => Way::Staged,
            chosen => chosen,
        }
    }

    /// The most bytes that are laid out for one buffer, so that rounding them up to what buffers
    /// must have still fits one.
    pub(crate) fn max_buffer_len(self) -> usize {
        self.max_buffer_bytes - self.max_buffer_bytes % self.page_bytes.max(COPY_ALIGNMENT)
    }

    /// The length of the buffer for `len` bytes: one of no bytes cannot be had, and blits write
    /// whole words.
    pub(crate) fn buffer_len(len: usize) -> Option<usize> {
        len.max(COPY_ALIGNMENT)
            .checked_next_multiple_of(COPY_ALIGNMENT)
    }

    /// The length of staging slots, of which `asked` bytes were wished for: whole blocks, two at
    /// least, one buffer each.
    pub(crate) fn slot_bytes(self, asked: usize) -> usize {
        let most = self.max_buffer_bytes - self.max_buffer_bytes % BLOCK;
        asked
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(most)
            .min(most)
            .max(2 * BLOCK)
    }

    /// Why `more` bytes would not do well on this device, as far as it tells.
    pub(crate) fn overcommitment(self, more: u64) -> Option<String> {
        let needed = self.allocated_bytes.saturating_add(more);
        (self.working_set_bytes > 0 && needed > self.working_set_bytes).then(|| {
            format!(
                "{needed} bytes are allocated in all, more than the {} that the device recommends \
                 as its working set",
                self.working_set_bytes
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    fn limits(max_buffer_bytes: usize, page_bytes: usize) -> Limits {
        Limits {
            unified: true,
            max_buffer_bytes,
            working_set_bytes: 0,
            allocated_bytes: 0,
            page_bytes,
        }
    }

    proptest! {
        #[test]
        fn what_is_laid_out_fits_a_buffer_whichever_way(
            max_buffer_bytes in 16_384_usize..1 << 40,
            page in prop::sample::select(vec![4096_usize, 16_384]),
            less in 0_usize..100_000,
        ) {
            let len = limits(max_buffer_bytes, page).max_buffer_len().saturating_sub(less);
            prop_assert!(len.next_multiple_of(page) <= max_buffer_bytes);
            let words = Limits::buffer_len(len).unwrap();
            prop_assert!(words <= max_buffer_bytes && words >= len && words > 0);
            prop_assert_eq!(words % COPY_ALIGNMENT, 0);
        }

        #[test]
        fn slots_are_blocks_and_fit_a_buffer(
            max_buffer_bytes in 2 * BLOCK..1 << 40,
            asked in prop_oneof![0_usize..1 << 30, Just(usize::MAX)],
        ) {
            let found = limits(max_buffer_bytes, 4096).slot_bytes(asked);
            prop_assert!(found % BLOCK == 0 && found >= 2 * BLOCK && found <= max_buffer_bytes);
            prop_assert!(found >= asked.min(max_buffer_bytes - max_buffer_bytes % BLOCK));
        }
    }

    #[test]
    fn the_way_follows_the_device_unless_it_is_chosen() {
        let shares = limits(MIB, 4096);
        let discrete = Limits {
            unified: false,
            ..shares
        };
        assert_eq!(shares.way(Way::Auto), Way::Import);
        assert_eq!(discrete.way(Way::Auto), Way::Staged);
        for chosen in [Way::Import, Way::InPlace, Way::Staged] {
            assert_eq!(shares.way(chosen), chosen);
            assert_eq!(discrete.way(chosen), chosen);
        }
    }

    #[test]
    fn given_buffers_are_filled_as_their_storage_allows() {
        let (private, shared) = (&[false, false][..], &[true, true][..]);
        assert_eq!(way_into(Way::Auto, private), Ok(Way::Staged));
        assert_eq!(way_into(Way::Auto, shared), Ok(Way::InPlace));
        assert_eq!(way_into(Way::Staged, shared), Ok(Way::Staged));
        assert_eq!(way_into(Way::InPlace, shared), Ok(Way::InPlace));
        assert!(way_into(Way::InPlace, private).is_err());
        for wanted in [Way::Auto, Way::Import, Way::InPlace, Way::Staged] {
            assert!(way_into(wanted, &[true, false]).is_err());
            assert!(way_into(wanted, &[]).is_ok());
        }
        assert!(way_into(Way::Import, shared).is_err());
    }

    #[test]
    fn more_than_the_working_set_is_told() {
        let told = Limits {
            working_set_bytes: 100,
            allocated_bytes: 60,
            ..limits(MIB, 4096)
        };
        assert_eq!(told.overcommitment(40), None);
        assert!(
            told.overcommitment(41)
                .is_some_and(|why| why.contains("101 bytes"))
        );
        assert!(told.overcommitment(u64::MAX).is_some());
        // A device that tells nothing.
        assert_eq!(limits(MIB, 4096).overcommitment(u64::MAX), None);
    }
}
