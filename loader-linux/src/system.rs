//! What Linux tells and does about memory and caches.

use std::num::NonZeroU64;
use std::ops::Range;

use loader_core::{Error, Fact, Mechanism, ResidencyMap, Result, System, Usage, WeightFile};
use rustix::fs::{fadvise, fdatasync};
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};

use crate::{facts, mapped_file, memory_limits, residency, usage};

/// Linux, or Android.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{System, WeightFile};
/// use loader_linux::LinuxSystem;
/// let file = WeightFile::open(&path)?;
/// for fact in LinuxSystem.machine_facts().iter().chain(&LinuxSystem.file_facts(&file)) {
///     println!("{}: {}", fact.name, fact.value);
/// }
/// let map = LinuxSystem.residency(&file, 0..7, 4096);
/// // Unknown, or at most what there is.
/// assert!(map.resident_bytes().is_none_or(|bytes| bytes <= 7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct LinuxSystem;

impl System for LinuxSystem {
    /// Bounded by control groups of either version and by the limit on the address space.
    fn available_memory(&self) -> Option<u64> {
        memory_limits::available(&facts::read_text, getrlimit(Resource::As).current)
    }

    fn usage(&self) -> Usage {
        usage::usage()
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }

    /// Drops whole pages, those included that `range` only touches. Dirty ones are written to the
    /// device first, since the kernel keeps them (posix_fadvise(2)); what cannot be written stays,
    /// as does what is being read just now.
    fn evict(&self, file: &WeightFile, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let page = page_size() as u64;
        let start = range.start - range.start % page;
        let end = range
            .end
            .checked_next_multiple_of(page)
            .unwrap_or(range.end);
        if residency::may_be_dirty(file.file(), start..end) {
            if let Err(error) = fdatasync(file.file()) {
                tracing::debug!(%error, "dirty pages stay cached");
            }
        }
        let advice = rustix::fs::Advice::DontNeed;
        fadvise(file.file(), start, NonZeroU64::new(end - start), advice).map_err(|error| {
            Error::Io {
                path: file.path().to_path_buf(),
                action: "drop from the page cache",
                source: error.into(),
            }
        })
    }

    fn advise(&self, mapped: &[u8], advice: loader_core::Advice) -> Result<()> {
        let unsupported = |reason: String| Error::Unsupported {
            mechanism: Mechanism::new("madvise"),
            reason,
        };
        let advice = match advice {
            loader_core::Advice::WillNeed => rustix::mm::Advice::WillNeed,
            loader_core::Advice::Random => rustix::mm::Advice::Random,
            other => return Err(unsupported(format!("{other:?} means nothing here"))),
        };
        let page = page_size();
        let before = mapped.as_ptr().addr() % page;
        let first = mapped.as_ptr().wrapping_sub(before).cast_mut();
        // SAFETY: neither advice changes what memory holds or what it may be used for, whatever
        // lies in the rest of the first page.
        let outcome = unsafe { rustix::mm::madvise(first.cast(), mapped.len() + before, advice) };
        outcome.map_err(|error| unsupported(error.to_string()))
    }

    /// By `/proc/self/maps`; the file is opened anew by its path, so one that was deleted or
    /// replaced since it was mapped is refused.
    fn mapped_file(&self, address: usize, len: usize) -> Result<(WeightFile, Vec<Range<u64>>)> {
        mapped_file::find(address, len)
    }

    fn machine_facts(&self) -> Vec<Fact> {
        facts::of_machine(&facts::read_text, self.available_memory())
    }

    fn file_facts(&self, file: &WeightFile) -> Vec<Fact> {
        facts::of_file(file)
    }
}
