//! Where bytes land, and who faults it in.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::trial::{Reads, Trial};

/// Who faults the destination in, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Faults {
    /// Whoever writes to it first: the submission of a direct read, or a copy.
    AtFirstWrite,
    /// Each reading thread, chunk by chunk, right before it reads.
    BeforeEachRead,
    /// So many threads of their own, ahead of the reads.
    Ahead(usize),
    /// So many threads, all of it before the first read.
    Beforehand(usize),
    /// Nobody: a few chunks of memory, faulted in before the clock, are read into again and again,
    /// as benchmarks of devices do.
    Reused,
}

/// Anonymous memory for all of a file, or, reused, for the reads in flight.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    mapped: usize,
    /// Bytes of the file.
    pub(crate) bytes: usize,
    chunk: usize,
    pub(crate) faults: Faults,
}

// SAFETY: an address; who writes where is settled by the trials, chunk by chunk.
unsafe impl Sync for Memory {}

const HUGE_PAGE: usize = 2 << 20;

impl Memory {
    pub(crate) fn map(bytes: usize, chunk: usize, trial: &Trial) -> io::Result<Self> {
        let wanted = match (trial.faults, trial.reads) {
            (Faults::Reused, Reads::Direct { depth, .. }) => depth * chunk,
            (Faults::Reused, Reads::Buffered { threads, .. }) => threads * chunk,
            _ => bytes,
        };
        let mapped = wanted.next_multiple_of(HUGE_PAGE) + HUGE_PAGE;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), mapped, protection, flags) }?;
        let advice = if trial.huge_pages {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // SAFETY: our own mapping, whose contents the advice does not change.
        unsafe { madvise(start, mapped, advice) }?;
        let memory = Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            mapped,
            bytes,
            chunk,
            faults: trial.faults,
        };
        if matches!(trial.faults, Faults::Reused) {
            memory.populate(0, wanted)?;
        }
        Ok(memory)
    }

    /// Where a chunk lands; `slot` counts the reads that may be under way at once.
    pub(crate) fn place(&self, chunk: usize, slot: usize) -> *mut u8 {
        let index = match self.faults {
            Faults::Reused => slot,
            _ => chunk,
        };
        self.aligned().wrapping_add(index * self.chunk)
    }

    pub(crate) fn fault_in_beforehand(&self) -> io::Result<()> {
        match self.faults {
            Faults::Beforehand(threads) => self.fault_in(threads, &AtomicBool::new(false)),
            _ => Ok(()),
        }
    }

    /// Faults in what is ahead of the reads until all is, or `stop` says so.
    pub(crate) fn fault_in_ahead(&self, stop: &AtomicBool) -> io::Result<()> {
        match self.faults {
            Faults::Ahead(threads) => self.fault_in(threads, stop),
            _ => Ok(()),
        }
    }

    pub(crate) fn fault_in_for_read(&self, chunk: usize, len: usize) -> io::Result<()> {
        match self.faults {
            Faults::BeforeEachRead => self.populate(chunk * self.chunk, len),
            _ => Ok(()),
        }
    }

    fn fault_in(&self, threads: usize, stop: &AtomicBool) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(HUGE_PAGE, Ordering::Relaxed);
                if at >= self.bytes {
                    break;
                }
                self.populate(at, HUGE_PAGE.min(self.bytes - at))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            others
                .into_iter()
                .filter_map(|other| other.join().ok())
                .fold(own, io::Result::and)
        })
    }

    fn populate(&self, at: usize, len: usize) -> io::Result<()> {
        let (start, len) = (self.aligned().wrapping_add(at), len.next_multiple_of(4096));
        // SAFETY: within our own mapping, whose contents this does not change (madvise(2)).
        Ok(unsafe { madvise(start.cast(), len, Advice::LinuxPopulateWrite) }?)
    }

    fn aligned(&self) -> *mut u8 {
        let start = self.start.as_ptr();
        start.wrapping_add(start.align_offset(HUGE_PAGE))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; reads into it have ended, since trials wait for them.
        let outcome = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
        debug_assert!(outcome.is_ok(), "{outcome:?}");
    }
}
