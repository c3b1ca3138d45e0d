//! Readahead and residency through a mapping that nobody dereferences.

use std::io;
use std::ops::Range;

use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};
use memmap2::{Advice, MmapOptions, MmapRaw};

const MECHANISM: Mechanism = Mechanism::new("madvise");

/// The most that one call reads before macOS 15.4: `MAX_UPL_TRANSFER_BYTES`, silently (XNU,
/// `osfmk/vm/vm_map.c`, `vm_map_willneed`). Later systems walk every page of what they are given
/// before they return, so short calls keep a prefetch cancellable there.
const PIECE_BYTES: u64 = 1 << 20;

/// Readahead by `madvise(MADV_WILLNEED)` over a read-only mapping, a mebibyte a call.
///
/// The mapping is never writable: on writable ones newer systems copy every page.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct MadvisePrefetcher;

impl Prefetcher for MadvisePrefetcher {
    fn mechanism(&self) -> Mechanism {
        MECHANISM
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE_BYTES
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let mapping = map(queue.file())
            .map_err(|error| Refusal::new(MECHANISM, format!("cannot map the file: {error}")))?;
        while let Some(piece) = queue.next() {
            match advise(&mapping, &piece) {
                Ok(()) => queue.done(&piece),
                Err(error) => queue.failed(&piece, &error),
            }
        }
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency(file, range, granularity)
    }
}

/// What mincore(2) tells: it sees pages in the page cache that are not mapped anywhere.
pub(crate) fn residency(file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
    let page_bytes = rustix::param::page_size() as u64;
    ResidencyMap::by_pages(range, granularity, page_bytes, |window| {
        let mapping = map(file).ok()?;
        pages(&mapping, &window, page_bytes).ok()
    })
}

fn map(file: &WeightFile) -> io::Result<MmapRaw> {
    let len = usize::try_from(file.disk_len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    MmapOptions::new().len(len).map_raw_read_only(file.file())
}

fn advise(mapping: &MmapRaw, piece: &Range<u64>) -> io::Result<()> {
    let (offset, len) = within(mapping, piece)?;
    mapping.advise_range(Advice::WillNeed, offset, len)
}

/// Whether each page of `window` is in the page cache.
fn pages(mapping: &MmapRaw, window: &Range<u64>, page_bytes: u64) -> io::Result<Vec<bool>> {
    // The last page of a file is mapped in full, though the file may end within it.
    let mapped = window.start..window.end.min(mapping.len() as u64);
    let (offset, len) = within(mapping, &mapped)?;
    let count = usize::try_from((window.end - window.start).div_ceil(page_bytes))
        .map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut answers: Vec<u8> = vec![0; count];
    // SAFETY: `offset` lies within the mapping.
    let start = unsafe { mapping.as_ptr().add(offset) };
    // SAFETY: the pages belong to the mapping and are only asked about, not touched; the system
    // writes one byte a page, for which there is room.
    let asked = unsafe { libc::mincore(start.cast(), len, answers.as_mut_ptr().cast()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    let resident = |answer: u8| libc::c_int::from(answer) & libc::MINCORE_INCORE != 0;
    Ok(answers.into_iter().map(resident).collect())
}

fn within(mapping: &MmapRaw, range: &Range<u64>) -> io::Result<(usize, usize)> {
    let place = |at| usize::try_from(at).ok().filter(|at| *at <= mapping.len());
    match (place(range.start), place(range.end)) {
        (Some(start), Some(end)) if start <= end => Ok((start, end - start)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
