//! What an operating system's crate hands over.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{
    HeapMemory, HostMemory, PositionalReader, Prefetcher, Reader, Refusal, ResidencyMap, Result,
    Usage, WeightFile,
};

/// The mechanisms of one operating system, probed; every OS crate exports a function `platform()`
/// that gives one.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "OS crates and tests build it")]
pub struct Platform {
    /// The system's name, as a person would say it.
    pub name: &'static str,
    /// Prefetchers that serve here, the best first.
    pub prefetchers: Vec<Arc<dyn Prefetcher>>,
    /// The reader through the page cache.
    pub buffered: Arc<dyn Reader>,
    /// The reader past the page cache, or why there is none.
    pub direct: std::result::Result<Arc<dyn Reader>, Refusal>,
    /// Where host buffers come from.
    pub memory: Arc<dyn HostMemory>,
    /// What the system tells and does about memory and caches.
    pub system: Arc<dyn System>,
    /// Better mechanisms that were probed and do not serve here, and why; told in every report of
    /// an operation that might have used them.
    pub refusals: Vec<Refusal>,
}

impl Platform {
    /// A platform of portable parts alone: buffered reads into heap memory.
    #[must_use]
    pub fn portable() -> Self {
        let reason = "there is no direct I/O on this platform";
        Self {
            name: "portable",
            prefetchers: Vec::new(),
            buffered: Arc::new(PositionalReader::new()),
            direct: Err(Refusal::new(crate::Mechanism::DIRECT, reason)),
            memory: Arc::new(HeapMemory),
            system: Arc::new(UnknownSystem),
            refusals: Vec::new(),
        }
    }

    /// Checks, before anything is read, that `needed` bytes of memory can be taken, as far as the
    /// system tells.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) where there is less.
    pub fn check_memory(&self, needed: u64) -> Result<()> {
        if needed <= NEGLIGIBLE_BYTES {
            return Ok(());
        }
        match self.system.available_memory() {
            Some(available) if available < needed => Err(crate::Error::OutOfMemory {
                needed,
                available,
                limit: "free memory and the limits set on this process",
            }),
            _ => Ok(()),
        }
    }
}

/// So little memory is not worth asking what there is, which means reading a dozen small files.
const NEGLIGIBLE_BYTES: u64 = 16 << 20;

/// One thing that was found out about a machine or a file, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fact {
    /// What it is about, in lower case with underscores: "io_uring", "readahead_window".
    pub name: &'static str,
    /// What was found: "4096 bytes", "refused (EPERM)".
    pub value: String,
}

impl Fact {
    /// A fact.
    pub fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self {
            name,
            value: value.into(),
        }
    }
}

/// How mapped bytes will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Soon, all of them: bring them in.
    WillNeed,
    /// Here and there: bring in no more than what is touched.
    Random,
}

/// What an operating system tells and does about memory and caches.
pub trait System: fmt::Debug + Send + Sync {
    /// Bytes of memory that can be taken without swapping or being killed: free and reclaimable
    /// memory, bounded by limits set on the process (cgroup). `None` where nobody knows.
    fn available_memory(&self) -> Option<u64>;

    /// What the process has used so far.
    fn usage(&self) -> Usage;

    /// How much of `range` (from the start of the file on disk) the page cache holds, told apart
    /// down to pieces of `granularity` bytes. It may be sampled, or
    /// [an estimate](ResidencyMap::is_estimate) where the system tells nobody, and is unknown where
    /// neither is possible.
    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap;

    /// Drops the pages of `range` (from the start of the file on disk) from the page cache. Dirty
    /// ones are written to the device first, as far as they can be; those that somebody has mapped
    /// may stay.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the system has no such call,
    /// [`Error::Io`](crate::Error::Io) where it failed.
    fn evict(&self, file: &WeightFile, range: Range<u64>) -> Result<()>;

    /// Advises the system how the bytes of `mapped`, which lie in a file mapping, will be used. It
    /// never changes what they hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the system has no such call or
    /// refuses it.
    fn advise(&self, mapped: &[u8], advice: Advice) -> Result<()> {
        let _ = (mapped, advice);
        Err(crate::Error::Unsupported {
            mechanism: crate::Mechanism::new("advice"),
            reason: "this platform takes no advice on mappings".to_owned(),
        })
    }

    /// Which file is mapped at `address`, and which of its bytes (from its start on disk) the `len`
    /// bytes of memory there are, in the order of the memory. A hint is all that this is for: the
    /// mapping may be gone by the time that the answer is used.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the system does not tell, where
    /// something else than one file is mapped there, or where the file cannot be opened any more.
    fn mapped_file(&self, address: usize, len: usize) -> Result<(WeightFile, Vec<Range<u64>>)> {
        let _ = (address, len);
        Err(crate::Error::Unsupported {
            mechanism: crate::Mechanism::new("mapped-file"),
            reason: "this platform does not tell what is mapped where".to_owned(),
        })
    }

    /// What this machine offers, for people to read.
    fn machine_facts(&self) -> Vec<Fact>;

    /// What the filesystem under `file` offers, for people to read.
    fn file_facts(&self, file: &WeightFile) -> Vec<Fact>;
}

/// A system that tells nothing.
#[derive(Clone, Copy, Debug)]
struct UnknownSystem;

impl System for UnknownSystem {
    fn available_memory(&self) -> Option<u64> {
        None
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }

    fn evict(&self, _file: &WeightFile, _range: Range<u64>) -> Result<()> {
        Err(crate::Error::Unsupported {
            mechanism: crate::Mechanism::new("evict"),
            reason: "the portable platform knows no such call".to_owned(),
        })
    }

    fn machine_facts(&self) -> Vec<Fact> {
        Vec::new()
    }

    fn file_facts(&self, _file: &WeightFile) -> Vec<Fact> {
        Vec::new()
    }
}
