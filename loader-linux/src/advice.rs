//! Pieces that the kernel brings in for one piece of advice, and stretches that arrive together.

use loader_core::WeightFile;

use crate::block_device;

/// The kernel's default readahead window (`VM_READAHEAD_PAGES`, include/linux/mm.h): what one piece
/// of advice brings in at least.
const SMALLEST_PIECE: u64 = 128 << 10;

/// Longer pieces gain nothing, and would be cancelled or left to a read only as a whole.
const LARGEST_PIECE: u64 = 4 << 20;

/// Stretches of a piece whose arrival is waited for one by one. The kernel reads advised bytes in
/// order, by requests as long as the device allows.
const STRETCH: u64 = 512 << 10;

/// The most bytes of `file` that one piece of advice brings in.
pub(crate) fn piece_bytes(file: &WeightFile) -> u64 {
    let window = block_device::under(file.file()).map(|device| device.advice_window());
    window
        .unwrap_or(SMALLEST_PIECE)
        .clamp(SMALLEST_PIECE, LARGEST_PIECE)
}

/// Where the stretch that begins at `start` ends, in a piece that ends at `piece_end`.
pub(crate) fn stretch_end(start: u64, piece_end: u64) -> u64 {
    piece_end.min((start / STRETCH + 1).saturating_mul(STRETCH))
}
