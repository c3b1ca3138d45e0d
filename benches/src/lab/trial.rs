//! One way to read a file, and what it cost.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use weightloader_lab::processor_time;

use super::memory::{Faults, Memory};
use super::{buffered, direct};

/// One way to read a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) reads: Reads,
    /// Bytes of one read.
    pub(crate) chunk: usize,
    pub(crate) huge_pages: bool,
    pub(crate) faults: Faults,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reads {
    /// Past the page cache through io_uring.
    Direct {
        /// Reads in flight, over all rings.
        depth: usize,
        rings: usize,
        ring: RingKind,
        /// `IOSQE_ASYNC`: the kernel's workers submit.
        kernel_workers: bool,
    },
    /// Positional reads through the page cache.
    Buffered {
        threads: usize,
        ask: Ask,
        runs: Runs,
    },
}

/// How far a thread reads on, through a descriptor of its own, before it goes elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    /// How many chunks follow one another.
    pub(crate) chunks: usize,
    /// Bytes of each read in the first 8 MiB of a run.
    pub(crate) first_reads: usize,
}

impl Runs {
    /// Each chunk, in one read, by whoever comes first.
    pub(crate) const NONE: Self = Self {
        chunks: 1,
        first_reads: usize::MAX,
    };
}

/// How a ring is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RingKind {
    Plain,
    CooperativeTaskrun,
    SingleIssuer,
    /// Single issuer with completions deferred until they are waited for.
    DeferTaskrun,
}

/// What is asked before a read through the page cache.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Nothing,
    /// What of the whole file is resident, in one go.
    Residency,
    /// What of each chunk is resident.
    ResidencyOfEach,
    /// Each read is tried with `RWF_NOWAIT` first.
    Nowait,
}

/// What a trial cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    bytes: usize,
    elapsed: Duration,
    processor: Duration,
}

impl Trial {
    /// Reads the whole file into memory that is mapped, and given back, outside the clock.
    pub(crate) fn run(&self, path: &Path) -> io::Result<Cost> {
        let bytes = usize::try_from(std::fs::metadata(path)?.len()).map_err(io::Error::other)?;
        let memory = Memory::map(bytes, self.chunk, self)?;
        let (started, before) = (Instant::now(), processor_time());
        memory.fault_in_beforehand()?;
        match self.reads {
            Reads::Direct { .. } => direct::read(path, &memory, self)?,
            Reads::Buffered { threads, ask, runs } => {
                buffered::read(path, &memory, self.chunk, threads, ask, runs)?;
            }
        }
        Ok(Cost {
            bytes,
            elapsed: started.elapsed(),
            processor: processor_time().saturating_sub(before),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
impl Cost {
    /// GB/s.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64() / 1e9
    }

    /// Milliseconds.
    pub(crate) fn processor_per_gib(&self) -> f64 {
        self.processor.as_secs_f64() * 1e3 / (self.bytes as f64 / f64::from(1 << 30))
    }
}
