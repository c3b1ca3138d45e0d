//! Readahead through mappings that nobody dereferences.

use std::io;
use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use memmap2::{MmapOptions, MmapRaw};

use crate::hint;

const MECHANISM: Mechanism = Mechanism::new("prefetch-virtual-memory");

/// The bytes of one entry. Whether the call waits for the disk is not documented, so entries are
/// small enough for a prefetch to be cancelled between two calls.
const PIECE_BYTES: u64 = 4 << 20;

/// The entries of one call.
const BATCH: usize = 8;

/// The bytes mapped at once. Views begin at multiples of 64 KiB (`MapViewOfFile`), and a file cannot
/// be truncated while part of it is mapped, so no more is than is being asked for. No piece reaches
/// over the end of a window.
const WINDOW_BYTES: u64 = 256 << 20;

const _: () = assert!(WINDOW_BYTES % PIECE_BYTES == 0 && PIECE_BYTES % (64 << 10) == 0);

/// Readahead by `PrefetchVirtualMemory` over read-only mappings, several ranges a call.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct VirtualMemoryPrefetcher;

impl Prefetcher for VirtualMemoryPrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE_BYTES
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mut window: Option<Window> = None;
        loop {
            let batch: Vec<_> = std::iter::from_fn(|| queue.next()).take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            for pieces in batch.chunk_by(|a, b| window_of(a) == window_of(b)) {
                let asked = ask(queue.file(), &mut window, pieces);
                for piece in pieces {
                    match &asked {
                        Ok(()) => queue.done(piece),
                        Err(error) => queue.failed(piece, error),
                    }
                }
            }
        }
    }

    /// Windows tells the process's own pages (`QueryWorkingSetEx`), not those of the page cache.
    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }
}

/// Which window a piece lies in.
fn window_of(piece: &Range<u64>) -> u64 {
    piece.start / WINDOW_BYTES
}

/// Asks for pieces of one window, mapping that where another one is mapped.
fn ask(file: &WeightFile, window: &mut Option<Window>, pieces: &[Range<u64>]) -> io::Result<()> {
    let index = pieces.first().map_or(0, window_of);
    let mapped = match window.take().filter(|window| window.index == index) {
        Some(mapped) => mapped,
        None => Window::map(file, index)?,
    };
    let mapped = window.insert(mapped);
    let ranges = pieces.iter().map(|piece| mapped.address(piece));
    hint::prefetch(&ranges.collect::<io::Result<Vec<_>>>()?)
}

/// A mapped part of a file.
struct Window {
    index: u64,
    mapping: MmapRaw,
}

impl Window {
    fn map(file: &WeightFile, index: u64) -> io::Result<Self> {
        let start = index * WINDOW_BYTES;
        let len = file.disk_len().saturating_sub(start).min(WINDOW_BYTES);
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mapping = MmapOptions::new()
            .offset(start)
            .len(len)
            .map_raw_read_only(file.file())?;
        Ok(Self { index, mapping })
    }

    /// Where `piece` lies, and how many bytes it spans.
    fn address(&self, piece: &Range<u64>) -> io::Result<(*const u8, usize)> {
        let base = self.index * WINDOW_BYTES;
        let place = |at: u64| {
            let place = usize::try_from(at.checked_sub(base)?).ok()?;
            (place <= self.mapping.len()).then_some(place)
        };
        match (place(piece.start), place(piece.end)) {
            (Some(start), Some(end)) if start <= end => {
                Ok((self.mapping.as_ptr().wrapping_add(start), end - start))
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_map_their_part_of_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        let len = WINDOW_BYTES + 100_000;
        if let Err(error) = file.set_len(len) {
            return println!("skipped: no room for a sparse file: {error}");
        }
        let file = WeightFile::open(&path).unwrap();
        let second = Window::map(&file, 1).unwrap();
        assert_eq!(second.mapping.len(), 100_000);
        let start = second.mapping.as_ptr();
        assert_eq!(
            second.address(&(WINDOW_BYTES..len)).unwrap(),
            (start, 100_000)
        );
        let within = WINDOW_BYTES + 70_000..WINDOW_BYTES + 70_001;
        assert_eq!(
            second.address(&within).unwrap(),
            (start.wrapping_add(70_000), 1)
        );
        for outside in [0..1, WINDOW_BYTES..len + 1, WINDOW_BYTES - 1..len] {
            assert!(second.address(&outside).is_err(), "{outside:?}");
        }
    }
}
