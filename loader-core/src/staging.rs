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
