//! A mapping that nobody dereferences: to have addresses to ask and to advise about.

use std::io;
use std::ops::Range;

use loader_core::{ResidencyMap, WeightFile};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::mm::MsyncFlags;

use crate::pages;

/// A whole file mapped for reading. Never for writing: on such mappings newer systems answer
/// readahead by copying every page (XNU, `osfmk/vm/vm_map.c`, `vm_map_willneed`).
pub(crate) struct Mapping(MmapRaw);

impl Mapping {
    pub(crate) fn of(file: &WeightFile) -> io::Result<Self> {
        let len = usize::try_from(file.disk_len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mapped = MmapOptions::new().len(len).map_raw_read_only(file.file());
        mapped.map(Self)
    }

    /// Starts to read `piece` of the file.
    pub(crate) fn will_need(&self, piece: &Range<u64>) -> io::Result<()> {
        let pages = self.pages_around(piece)?;
        self.0
            .advise_range(Advice::WillNeed, pages.start, pages.len())
    }

    /// Whether each page of `window`, which begins at a page, is in the cache.
    fn resident_pages(&self, window: &Range<u64>, page_bytes: u64) -> io::Result<Vec<bool>> {
        // The last page of a file is mapped in full, though the file may end within it.
        let mapped = window.start..window.end.min(self.0.len() as u64);
        let pages = self.pages_around(&mapped)?;
        let count = usize::try_from((window.end - window.start).div_ceil(page_bytes))
            .map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut answers: Vec<u8> = vec![0; count];
        let first = self.0.as_ptr().wrapping_add(pages.start);
        // SAFETY: the pages belong to the mapping and are only asked about, not touched; the system
        // writes one byte a page, for which there is room.
        let asked =
            unsafe { libc::mincore(first.cast(), pages.len(), answers.as_mut_ptr().cast()) };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        let resident = |answer: u8| libc::c_int::from(answer) & libc::MINCORE_INCORE != 0;
        Ok(answers.into_iter().map(resident).collect())
    }

    /// Drops the pages of `range` from the cache. Dirty ones are written to the device first, since
    /// invalidating comes with synchronising (XNU, `osfmk/vm/vm_map.c`, `vm_map_msync`).
    pub(crate) fn evict(&self, range: &Range<u64>) -> io::Result<()> {
        let pages = self.pages_around(range)?;
        let first = self.0.as_mut_ptr().wrapping_add(pages.start);
        // SAFETY: the pages belong to the mapping, through which nobody reads or writes. What they
        // hold is the file's before and after; whoever else maps them faults them in again.
        unsafe {
            rustix::mm::msync(
                first.cast(),
                pages.len(),
                MsyncFlags::SYNC | MsyncFlags::INVALIDATE,
            )
        }?;
        Ok(())
    }

    fn pages_around(&self, range: &Range<u64>) -> io::Result<Range<usize>> {
        let found = pages::around(range, self.0.len(), rustix::param::page_size());
        found.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// What mincore(2) tells: it sees pages in the cache that are not mapped anywhere.
pub(crate) fn residency(file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
    let page_bytes = rustix::param::page_size() as u64;
    ResidencyMap::by_pages(range, granularity, page_bytes, |window| {
        let mapping = Mapping::of(file).ok()?;
        mapping.resident_pages(&window, page_bytes).ok()
    })
}
