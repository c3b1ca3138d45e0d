//! Pure arithmetic: which bytes of a file share a staging slot, and where they go from there.

use crate::{Extent, Layout, StagedPart};

/// Offsets are kept congruent to so many bytes between file and slot, so that direct reads can go
/// straight into it.
const BLOCK: u64 = 4096;

/// Gaps up to so many bytes are read along: a read of its own costs more.
const READ_ALONG: u64 = 64 << 10;

/// What goes through a slot at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Which layout, and so which file and which buffer.
    pub(crate) buffer: usize,
    /// What is read, and where in the slot it lands: in order, without overlap.
    pub(crate) reads: Vec<Extent>,
    /// What is copied from the slot afterwards.
    pub(crate) parts: Vec<StagedPart>,
}

/// Slots of a device, and what it asks of copies from them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// A multiple of the block, at least two of them.
    room: u64,
    /// A power of two, at most a block.
    alignment: u64,
}

impl Slots {
    /// # Errors
    /// What is wrong with the uploader's figures.
    pub(crate) fn new(slot_bytes: usize, copy_alignment: usize) -> Result<Self, String> {
        let (bytes, alignment) = (slot_bytes as u64, copy_alignment as u64);
        if bytes < 2 * BLOCK {
            return Err(format!("staging slots of {bytes} bytes are too small"));
        }
        if !alignment.is_power_of_two() || alignment > BLOCK {
            return Err(format!("copies cannot be aligned to {alignment} bytes"));
        }
        Ok(Self {
            room: bytes - bytes % BLOCK,
            alignment,
        })
    }

    /// What goes through slots, in order, so that every byte that `layouts` lay out is copied to
    /// its place exactly once.
    ///
    /// # Errors
    /// Where tensors lie closer together than the device's copies are aligned.
    pub(crate) fn schedule(self, layouts: &[Layout]) -> Result<Vec<Fill>, String> {
        let mut fills = Vec::new();
        for (buffer, layout) in layouts.iter().enumerate() {
            self.check_room_between(layout)?;
            let mut window = None;
            for extent in layout.extents() {
                if self.is_congruent(extent) {
                    for piece in cut(extent, self.room, extent.offset % self.room) {
                        let start = piece.offset - piece.offset % self.room;
                        if window.replace(start) != Some(start) {
                            fills.push(Fill::new(buffer));
                        }
                        self.add(&mut fills, piece, piece.offset - start);
                    }
                } else {
                    window = None;
                    // The head of a block is left for the place to begin at.
                    let room = self.room - BLOCK;
                    for piece in cut(extent, room, extent.destination as u64 % room) {
                        fills.push(Fill::new(buffer));
                        self.add(&mut fills, piece, piece.destination as u64 % self.alignment);
                    }
                }
            }
        }
        Ok(fills)
    }

    /// Whether an extent can keep its place within a block of the file and still be copied.
    fn is_congruent(self, extent: &Extent) -> bool {
        extent.offset % self.alignment == extent.destination as u64 % self.alignment
    }

    /// Copies are widened to the alignment, so they must not reach into each other.
    fn check_room_between(self, layout: &Layout) -> Result<(), String> {
        let mut places: Vec<(u64, u64)> = layout
            .extents()
            .iter()
            .map(|extent| self.widened(extent.destination as u64, extent.len))
            .collect();
        places.sort_unstable();
        match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            None => Ok(()),
            Some(pair) => Err(format!(
                "it copies multiples of {} bytes, but tensors meet at byte {} of their buffer; \
                 lay them out aligned",
                self.alignment, pair[1].0
            )),
        }
    }

    /// The place of `len` bytes at `offset`, from and to multiples of the alignment.
    fn widened(self, offset: u64, len: u64) -> (u64, u64) {
        let start = offset - offset % self.alignment;
        (start, (offset + len).next_multiple_of(self.alignment))
    }

    /// Adds what is read and copied for `piece`, which begins at `slot_offset`, to the last fill.
    fn add(self, fills: &mut [Fill], piece: Extent, slot_offset: u64) {
        let Some(fill) = fills.last_mut() else {
            return;
        };
        // Everything here is at most the length of a slot or of a buffer.
        let small = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (start, end) = self.widened(slot_offset, piece.len);
        let shift = small(slot_offset - start);
        fill.parts.push(StagedPart {
            buffer: fill.buffer,
            offset: piece.destination - shift,
            slot_offset: small(start),
            len: small(end - start),
        });
        let read = Extent {
            destination: small(slot_offset),
            ..piece
        };
        match fill.reads.last_mut() {
            Some(last) if read.offset <= last.offset + last.len + READ_ALONG => {
                let end = (read.offset + read.len).max(last.offset + last.len);
                last.len = end - last.offset;
            }
            _ => fill.reads.push(read),
        }
    }
}

impl Fill {
    fn new(buffer: usize) -> Self {
        Self {
            buffer,
            reads: Vec::new(),
            parts: Vec::new(),
        }
    }
}

/// Cuts an extent into pieces of at most `room` bytes, the first of them shorter by `begun`.
fn cut(extent: &Extent, room: u64, begun: u64) -> impl Iterator<Item = Extent> + use<> {
    let mut left = *extent;
    let mut most = room - begun;
    std::iter::from_fn(move || {
        let piece = Extent {
            len: left.len.min(most),
            ..left
        };
        most = room;
        left.offset += piece.len;
        left.len -= piece.len;
        left.destination += usize::try_from(piece.len).ok()?;
        (piece.len > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Placement;

    /// A byte of a file, as good as random.
    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0]
    }

    fn small(bytes: u64) -> usize {
        usize::try_from(bytes).unwrap()
    }

    /// Does what a reader and a device do with the slots, in any order of slots, and gives what the
    /// buffers hold then.
    fn play(fills: &[Fill], layouts: &[Layout], slots: Slots, backwards: bool) -> Vec<Vec<u8>> {
        let room = |layout: &Layout| layout.len().next_multiple_of(small(slots.alignment));
        let mut buffers: Vec<Vec<u8>> = layouts.iter().map(|of| vec![0xAA; room(of)]).collect();
        let order: Vec<&Fill> = if backwards {
            fills.iter().rev().collect()
        } else {
            fills.iter().collect()
        };
        for fill in order {
            // What is there before it is filled is of no value.
            let mut slot = vec![0x55; small(slots.room)];
            let mut end = 0;
            for read in &fill.reads {
                assert!(read.offset >= end, "reads are in order: {fill:?}");
                end = read.offset + read.len;
                for at in 0..read.len {
                    slot[read.destination + small(at)] = byte(read.offset + at);
                }
            }
            for part in &fill.parts {
                let aligned = [part.offset, part.slot_offset, part.len];
                assert!(
                    aligned.iter().all(|at| *at as u64 % slots.alignment == 0),
                    "{part:?}"
                );
                let bytes = &slot[part.slot_offset..part.slot_offset + part.len];
                buffers[part.buffer][part.offset..part.offset + part.len].copy_from_slice(bytes);
            }
        }
        buffers
    }

    /// Ranges of a file that are wanted, by the gap before each and its length.
    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let gap = prop_oneof![4 => Just(0_u64), 2 => 1_u64..9000, 1 => 70_000_u64..200_000];
        let len = prop_oneof![1 => Just(0_u64), 4 => 1_u64..9000, 1 => 20_000_u64..90_000];
        prop::collection::vec((gap, len), 0..12)
    }

    proptest! {
        #[test]
        fn every_byte_goes_to_its_place(
            files in prop::collection::vec((0_u64..10_000, ranges()), 1..3),
            blocks in 2_usize..12,
            odd in 0_usize..4096,
            alignment in (0_u32..=12).prop_map(|power| 1_usize << power),
            placed in prop_oneof![Just(None), (0_u32..14).prop_map(|power| Some(1_usize << power))],
            backwards in any::<bool>(),
        ) {
            let placement = placed.map_or(Placement::File, Placement::Aligned);
            let mut layouts = Vec::new();
            for (base, gaps) in &files {
                let mut wanted = Vec::new();
                let mut end = *base;
                for (gap, len) in gaps {
                    wanted.push(end + gap..end + gap + len);
                    end += gap + len;
                }
                layouts.push(Layout::new(&wanted, *base..end, placement).unwrap());
            }
            let slots = Slots::new(blocks * 4096 + odd, alignment).unwrap();
            let fills = match slots.schedule(&layouts) {
                Ok(fills) => fills,
                Err(reason) => {
                    // Only tensors that lie closer together than copies are aligned do not go.
                    prop_assert!(placed.is_some_and(|placed| placed < alignment), "{}", reason);
                    return Ok(());
                }
            };
            let buffers = play(&fills, &layouts, slots, backwards);
            for (layout, buffer) in layouts.iter().zip(&buffers) {
                for extent in layout.extents() {
                    for at in 0..extent.len {
                        let found = buffer[extent.destination + small(at)];
                        prop_assert_eq!(found, byte(extent.offset + at), "{:?}", extent);
                    }
                }
            }
            for fill in &fills {
                prop_assert!(!fill.parts.is_empty() && !fill.reads.is_empty());
                if placed.is_none() || alignment == 1 {
                    // Direct reads go straight into the slot.
                    for read in &fill.reads {
                        prop_assert_eq!(read.offset % BLOCK, read.destination as u64 % BLOCK);
                    }
                }
            }
        }
    }

    #[test]
    fn small_neighbours_share_a_slot() {
        let ranges: Vec<_> = (0..100_u64).map(|at| at * 100..at * 100 + 90).collect();
        let layout = Layout::new(&ranges, 0..10_000, Placement::Aligned(256)).unwrap();
        let slots = Slots::new(64 << 10, 1).unwrap();
        let fills = slots.schedule(&[layout]).unwrap();
        assert_eq!(fills.len(), 1);
        assert_eq!((fills[0].reads.len(), fills[0].parts.len()), (1, 100));
    }

    #[test]
    fn figures_that_make_no_sense_are_refused() {
        for (bytes, alignment) in [(0, 1), (8191, 1), (8192, 0), (8192, 3), (8192, 8192)] {
            assert!(
                Slots::new(bytes, alignment).is_err(),
                "{bytes}, {alignment}"
            );
        }
    }
}
