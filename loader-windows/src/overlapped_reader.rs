//! Reads past the system cache with a deep queue: overlapped, completed through a port.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::thread;
use std::time::Duration;

use loader_core::{Approach, Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile};
use windows_sys::Win32::Foundation::{ERROR_HANDLE_EOF, ERROR_IO_PENDING, STATUS_PENDING};
use windows_sys::Win32::Storage::FileSystem::ReadFile;
use windows_sys::Win32::System::IO::{
    GetOverlappedResult, OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0,
};

use crate::completion_port::CompletionPort;
use crate::handle::is;
use crate::slabs::Slabs;
use crate::unbuffered_file::{self, SLAB_BYTES};

/// Straight into the destination.
const DIRECT: Mechanism = Mechanism::new("overlapped-direct");
/// By way of a slab.
const BOUNCED: Mechanism = Mechanism::new("overlapped-direct-bounced");

/// Slabs of one worker at most: enough that copying out of some overlaps reading into others.
const MOST_SLABS: usize = 16;

/// Reads past the system cache (`FILE_FLAG_NO_BUFFERING`), overlapped, with as many in flight as the
/// queue allows.
///
/// Every worker opens the files for itself and has a completion port of its own.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct OverlappedReader;

impl OverlappedReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for OverlappedReader {
    fn mechanism(&self) -> Mechanism {
        DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        unbuffered_file::support(file)
    }

    fn workers(&self) -> usize {
        // One thread keeps one device busy; machines with many processors have faster ones.
        (loader_core::processors() / 8).clamp(1, 4)
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let refusal = |error| Refusal::new(DIRECT, format!("no completion port: {error}"));
        let port = CompletionPort::new().map_err(refusal)?;
        Flight::new(port, queue.depth()).run(queue);
        Ok(())
    }
}

/// The reads in flight of one worker.
///
/// The system writes into destinations, slabs and `OVERLAPPED` structures until a read's completion
/// has been seen, so this is not dropped before every one has.
struct Flight<'q> {
    port: CompletionPort,
    /// One for each read that may be in flight. Never moved nor freed while one is.
    positions: Box<[Position]>,
    reads: Vec<Option<Read<'q>>>,
    free: Vec<usize>,
    /// By their index in the queue, each opened when it is first needed.
    files: Vec<Option<(File, Support)>>,
    slabs: Slabs,
    /// A task that waits for a slab.
    stalled: Option<Task<'q>>,
    in_flight: usize,
}

/// Where a read begins, and how it ends: written by the system.
#[derive(Default)]
struct Position(UnsafeCell<OVERLAPPED>);

/// One read in flight.
struct Read<'q> {
    task: Task<'q>,
    bounce: Option<Bounce>,
}

#[derive(Clone, Copy)]
struct Bounce {
    slab: usize,
    skip: usize,
    wanted: usize,
}

impl<'q> Flight<'q> {
    fn new(port: CompletionPort, depth: usize) -> Self {
        let depth = depth.clamp(1, 4096);
        Self {
            port,
            positions: (0..depth).map(|_| Position::default()).collect(),
            reads: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            files: Vec::new(),
            slabs: Slabs::new(depth.min(MOST_SLABS)),
            stalled: None,
            in_flight: 0,
        }
    }

    fn run(&mut self, queue: &'q Queue<'q>) {
        loop {
            while self.has_room() {
                let task = match self.stalled.take() {
                    Some(task) => Some(task),
                    // With nothing in flight there is nothing to reap, so waiting is all there is.
                    None if self.in_flight == 0 => queue.next(),
                    None => queue.try_next(),
                };
                match task {
                    Some(task) => self.begin(task),
                    None => break,
                }
            }
            if self.in_flight == 0 {
                if self.stalled.is_none() {
                    return;
                }
                continue;
            }
            for index in self.completed() {
                self.land(index);
            }
        }
    }

    /// Whether another read can begin.
    fn has_room(&self) -> bool {
        let waits_for_slab = self.stalled.is_some() && self.slabs.is_exhausted();
        !self.free.is_empty() && !waits_for_slab
    }

    /// Begins what a task needs next.
    fn begin(&mut self, task: Task<'q>) {
        let support = match self.open(&task) {
            Ok(support) => support,
            Err(error) => return task.refuse(DIRECT, error),
        };
        let (offset, start, len, bounce) = match support.approach(&task, SLAB_BYTES) {
            Approach::InPlace { len } => (task.offset(), task.destination().as_ptr(), len, None),
            Approach::Bounce {
                offset,
                read,
                skip,
                wanted,
            } => match self.slabs.take() {
                Ok(Some(slab)) => {
                    let bounce = Bounce { slab, skip, wanted };
                    (offset, self.slabs.start(slab), read, Some(bounce))
                }
                Ok(None) => {
                    self.stalled = Some(task);
                    return;
                }
                Err(error) => return task.refuse(BOUNCED, error),
            },
        };
        // A task is begun only where there is room.
        let Some(index) = self.free.pop() else { return };
        let file = task.file_index();
        self.reads[index] = Some(Read { task, bounce });
        self.in_flight += 1;
        let begun = check_alignment(&support, offset, start.addr(), len)
            // SAFETY: `start` is valid for writes of `len` bytes: part of the task's destination,
            // or a slab taken just now. Both stay so until the read has landed, which `run` and
            // `drop` wait for; so do its position and its file.
            .and_then(|()| unsafe { self.submit(index, file, offset, start, len) });
        if let Err(error) = begun {
            self.settle(index, Err(error));
        }
    }

    /// Opens the task's file for this worker, and tells how reads of it must lie.
    fn open(&mut self, task: &Task<'q>) -> io::Result<Support> {
        let index = task.file_index();
        if self.files.len() <= index {
            self.files.resize_with(index + 1, || None);
        }
        if let Some((_, support)) = &self.files[index] {
            return Ok(support.clone());
        }
        let support = unbuffered_file::support(task.file())
            .map_err(|refusal| io::Error::new(io::ErrorKind::Unsupported, refusal.reason))?;
        let file = unbuffered_file::open(task.file())?;
        self.port.watch(&file)?;
        let (_, support) = self.files[index].insert((file, support));
        Ok(support.clone())
    }

    /// Hands a read to the system. It completes through the port, also where it is over at once; one
    /// that fails here never began.
    ///
    /// # Safety
    /// `start` is valid for writes of `len` bytes until the read has landed.
    unsafe fn submit(
        &self,
        index: usize,
        file: usize,
        offset: u64,
        start: *mut u8,
        len: usize,
    ) -> io::Result<()> {
        let Some((file, _)) = &self.files[file] else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let position = self.positions[index].0.get();
        // SAFETY: no read uses this position, since its index was free.
        unsafe { position.write(at(offset)) };
        // SAFETY: the handle is open; the caller promises the memory; the position is this flight's
        // and stays where it is until the completion has been seen.
        let over = unsafe {
            ReadFile(
                file.as_raw_handle(),
                start,
                len,
                std::ptr::null_mut(),
                position,
            )
        };
        let error = io::Error::last_os_error();
        if over != 0 || is(&error, ERROR_IO_PENDING) {
            return Ok(());
        }
        Err(error)
    }

    /// Waits for at least one completion and tells which reads are over.
    fn completed(&self) -> Vec<usize> {
        let first = self.positions.as_ptr().addr();
        match self.port.wait() {
            Ok(completed) => completed
                .map(|position| position.addr().wrapping_sub(first) / size_of::<Position>())
                .collect(),
            Err(error) => {
                // There is no remedy but to try again, since what is in flight must be waited for.
                tracing::debug!(%error, "waiting for a completion");
                thread::sleep(Duration::from_millis(1));
                Vec::new()
            }
        }
    }

    /// Tells the outcome of a read that is over.
    fn land(&mut self, index: usize) {
        let Some(Some(read)) = self.reads.get(index) else {
            return;
        };
        let position = self.positions[index].0.get();
        // SAFETY: the position is this flight's.
        let status = unsafe { &raw const (*position).Internal };
        // Not over, if this completion is of an earlier read in the same place.
        // SAFETY: as above; volatile, since the system may be writing to it.
        let status = unsafe { status.read_volatile() };
        if i32::try_from(status) == Ok(STATUS_PENDING) {
            return;
        }
        let file = self.files.get(read.task.file_index());
        let Some(Some((file, _))) = file else { return };
        let mut filled = 0_u32;
        // SAFETY: the handle is open, and the position is that of a read of it which is over.
        let read =
            unsafe { GetOverlappedResult(file.as_raw_handle(), position, &raw mut filled, 0) };
        let outcome = match read {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(filled as usize),
        };
        self.settle(index, outcome);
    }

    /// Tells the outcome of a read that nothing is written for any more.
    fn settle(&mut self, index: usize, outcome: io::Result<usize>) {
        let Some(Read { task, bounce }) = self.reads[index].take() else {
            return;
        };
        self.free.push(index);
        self.in_flight -= 1;
        let outcome = match outcome {
            Err(error) if is(&error, ERROR_HANDLE_EOF) => Ok(0),
            outcome => outcome,
        };
        match (outcome, bounce) {
            // SAFETY: the system has put that many bytes at the front of the task's destination,
            // where it was told to, and has no more to do with it.
            (Ok(filled), None) => unsafe { task.complete(DIRECT, filled) },
            (Ok(filled), Some(Bounce { slab, skip, wanted })) => {
                // SAFETY: the slab was taken for this read, which is over.
                let read = unsafe { self.slabs.filled(slab, filled) };
                task.deliver(BOUNCED, read, skip, wanted);
            }
            (Err(error), _) if unbuffered_file::is_refusal(&error) => task.refuse(DIRECT, error),
            (Err(error), _) => task.fail(error),
        }
        if let Some(Bounce { slab, .. }) = bounce {
            self.slabs.give_back(slab);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Only an unwinding `run` leaves reads in flight.
        while self.in_flight > 0 {
            for index in self.completed() {
                self.land(index);
            }
        }
    }
}

/// A position to read at.
fn at(offset: u64) -> OVERLAPPED {
    // The offset travels in two halves of 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the offset"
    )]
    let halves = OVERLAPPED_0_0 {
        Offset: offset as u32,
        OffsetHigh: (offset >> 32) as u32,
    };
    OVERLAPPED {
        Anonymous: OVERLAPPED_0 { Anonymous: halves },
        ..OVERLAPPED::default()
    }
}

/// Asserts what Windows asks of unbuffered reads. A read that breaks it is a mistake of ours, so it
/// fails the operation, also on systems that would let it pass, as Wine does.
fn check_alignment(support: &Support, offset: u64, address: usize, len: usize) -> io::Result<()> {
    let block = support.offset_alignment;
    let file_aligned = offset % block == 0 && len as u64 % block == 0;
    if file_aligned && address % support.memory_alignment == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "a misaligned unbuffered read of {len} bytes at {offset} to {address:#x}: {support:?}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loader_core::testing::{Guarded, Residency, Sample, platform};
    use loader_core::{Copier, Extent, Job, LoadOptions, Operation, Platform, Strategy};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    /// Begins as many reads as it may and panics before it has seen any complete.
    #[derive(Debug)]
    struct Panicking;

    impl Reader for Panicking {
        fn mechanism(&self) -> Mechanism {
            DIRECT
        }

        fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
            unbuffered_file::support(file)
        }

        fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
            let mut flight = Flight::new(CompletionPort::new().unwrap(), queue.depth());
            while flight.has_room() && flight.stalled.is_none() {
                match queue.try_next() {
                    Some(task) => flight.begin(task),
                    None => break,
                }
            }
            assert!(flight.in_flight == 0, "the test wants a panic");
            Ok(())
        }
    }

    #[test]
    fn a_panic_leaves_nothing_in_flight() {
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::new(folder.path(), "weights", 20 << 20);
        let platform = Platform {
            direct: Ok(Arc::new(Panicking)),
            ..platform(Residency::None)
        };
        let mut options = LoadOptions::default();
        options.strategy = Strategy::Direct;
        // In place, and by way of slabs.
        for shift in [0, 1] {
            let mut memory = Guarded::new(sample.bytes(), shift);
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let copier = Copier::new(&platform, &options);
                let len = sample.bytes().len();
                let whole = Extent {
                    offset: 0,
                    len: len as u64,
                    destination: 0,
                };
                let job = Job {
                    file: sample.open(),
                    plan: copier.plan(&[whole], len).unwrap(),
                    destination: memory.destination(),
                };
                copier.run(vec![job], Operation::new())
            }));
            assert!(unwound.is_err(), "{unwound:?}");
            let snapshot = memory.snapshot();
            thread::sleep(Duration::from_millis(50));
            assert!(memory.is_unchanged_since(&snapshot));
            memory.check_partial("a panic");
        }
    }

    #[test]
    fn misaligned_reads_are_noticed() {
        let support = Support::aligned(4096, 512);
        assert!(check_alignment(&support, 8192, 0x1200, 4096).is_ok());
        for (offset, address, len) in [(512, 0x1000, 4096), (0, 0x1100, 4096), (0, 0x1000, 512)] {
            assert!(check_alignment(&support, offset, address, len).is_err());
        }
    }

    #[test]
    fn positions_carry_long_offsets() {
        let position = at(0x12_3456_789a);
        // SAFETY: the offsets were written.
        let halves = unsafe { position.Anonymous.Anonymous };
        assert_eq!((halves.OffsetHigh, halves.Offset), (0x12, 0x3456_789a));
    }
}
