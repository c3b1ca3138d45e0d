//! Pure arithmetic: how a chunk is read past the page cache, in place or through a slab.

use std::io;

use crate::slabs::SLAB_BYTES;
use crate::{Support, Task};

/// Several blocks of any file fit a slab.
const LARGEST_BLOCK: u64 = SLAB_BYTES as u64 / 4;

/// How the front of a task is read by a reader that must respect alignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// Straight into the destination.
    InPlace {
        /// How many bytes; the rest is a task of its own afterwards.
        len: usize,
    },
    /// Whole blocks into a slab, of which a part is copied to the destination.
    Bounce {
        /// Where to read, in bytes from the start of the file on disk.
        offset: u64,
        /// How many bytes to read.
        read: usize,
        /// How many bytes of the slab come before those wanted.
        skip: usize,
        /// How many bytes are wanted.
        wanted: usize,
    },
}

impl Support {
    /// Chooses how to read the front of `task`, through a slab where it must be.
    ///
    /// Unaligned heads that shift the rest onto aligned ground are bounced alone, so that the rest
    /// can be read in place.
    pub(crate) fn approach(&self, task: &Task<'_>) -> Approach {
        self.choose(
            task.offset(),
            task.len(),
            task.destination().addr().get(),
            task.allows_direct(),
        )
    }

    /// Asserts that such reads can be served: their blocks are powers of two, of which several fit
    /// a slab.
    ///
    /// # Errors
    /// What they need, where that cannot be had.
    pub fn check_blocks(&self) -> io::Result<()> {
        let (block, memory) = (self.offset_alignment, self.memory_alignment);
        if block.is_power_of_two() && block <= LARGEST_BLOCK && memory.is_power_of_two() {
            return Ok(());
        }
        let reason =
            format!("reads need blocks of {block} bytes at multiples of {memory} in memory");
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Asserts that a read lies as it must, also on systems that would let it pass, as Wine does.
    pub(crate) fn check(&self, offset: u64, address: usize, len: usize) -> io::Result<()> {
        let block = self.offset_alignment;
        let file_aligned = offset % block == 0 && len as u64 % block == 0;
        if file_aligned && address % self.memory_alignment == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "a misaligned read of {len} bytes at {offset} to {address:#x}: {self:?}"
        )))
    }

    /// Blocks are as [`check_blocks`](Self::check_blocks) demands.
    fn choose(&self, offset: u64, len: usize, address: usize, allows_direct: bool) -> Approach {
        let memory = self.memory_alignment;
        // Blocks fit a slab, whose length is an `usize`.
        let block = usize::try_from(self.offset_alignment).unwrap_or(SLAB_BYTES);
        let skip = usize::try_from(offset % self.offset_alignment).unwrap_or_default();
        let aligned = skip == 0 && address % memory == 0;
        if allows_direct && aligned && len >= block {
            return Approach::InPlace {
                len: len - len % block,
            };
        }
        let head = (block - skip) % block;
        let rest_aligned = head > 0 && address.wrapping_add(head) % memory == 0;
        let wanted = if allows_direct && rest_aligned && len >= head + block {
            head
        } else {
            len.min(SLAB_BYTES - skip)
        };
        let read = (skip + wanted).next_multiple_of(block);
        Approach::Bounce {
            offset: offset - skip as u64,
            read,
            skip,
            wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn approaches_respect_alignment_and_move_on(
            block_power in 9_u32..17,
            memory_power in 2_u32..13,
            offset in 0_u64..1 << 40,
            len in 1_usize..8 << 20,
            address in 4096_usize..1 << 40,
            allows_direct: bool,
        ) {
            let support = Support::aligned(1 << block_power, 1 << memory_power);
            let block = support.offset_alignment;
            match support.choose(offset, len, address, allows_direct) {
                Approach::InPlace { len: part } => {
                    prop_assert!(allows_direct && part > 0 && part <= len);
                    prop_assert_eq!(offset % block, 0);
                    prop_assert_eq!(part as u64 % block, 0);
                    prop_assert_eq!(address % support.memory_alignment, 0);
                }
                Approach::Bounce { offset: start, read, skip, wanted } => {
                    prop_assert!(wanted > 0 && wanted <= len);
                    prop_assert_eq!(start % block, 0);
                    prop_assert_eq!(read as u64 % block, 0);
                    prop_assert_eq!(start + skip as u64, offset);
                    prop_assert!(skip + wanted <= read && read <= SLAB_BYTES);
                }
            }
        }
    }

    #[test]
    fn congruent_destinations_bounce_only_their_ends() {
        let support = Support::aligned(4096, 4096);
        let (mut offset, mut len, mut address) = (4096 * 3 + 100, 10 << 20, 4096 * 77 + 100);
        let mut steps = Vec::new();
        while len > 0 {
            let step = support.choose(offset, len, address, true);
            let moved = match step {
                Approach::InPlace { len } => len,
                Approach::Bounce { wanted, .. } => wanted,
            };
            steps.push(step);
            (offset, len, address) = (offset + moved as u64, len - moved, address + moved);
        }
        assert!(matches!(
            steps[..],
            [
                Approach::Bounce { wanted: 3996, .. },
                Approach::InPlace { .. },
                Approach::Bounce { wanted: 100, .. }
            ]
        ));
    }

    #[test]
    fn misaligned_reads_are_noticed() {
        let support = Support::aligned(4096, 512);
        assert!(support.check(8192, 0x1200, 4096).is_ok());
        for (offset, address, len) in [(512, 0x1000, 4096), (0, 0x1100, 4096), (0, 0x1000, 512)] {
            assert!(support.check(offset, address, len).is_err());
        }
    }

    #[test]
    fn blocks_that_no_slab_holds_are_noticed() {
        assert!(Support::aligned(256 << 10, 1 << 20).check_blocks().is_ok());
        assert!(Support::any().check_blocks().is_ok());
        for (block, memory) in [
            (0, 1),
            (3000, 1),
            (512 << 10, 1),
            (1 << 63, 1),
            (512, 0),
            (512, 3),
        ] {
            assert!(Support::aligned(block, memory).check_blocks().is_err());
        }
    }
}
