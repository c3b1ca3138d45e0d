//! Direct reads through io_uring: a deep queue, straight into the destination.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use io_uring::{IoUring, opcode, types::Fd};
use loader_core::{
    Approach, HostBuffer, Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile,
};

use crate::direct_file::{self, SLAB_BYTES};
use crate::direct_reader::DirectFiles;
use crate::host_memory::HugePageMemory;
use crate::uring;

/// Straight into the destination.
pub(crate) const DIRECT: Mechanism = Mechanism::new("uring-direct");
/// By way of a slab.
const BOUNCED: Mechanism = Mechanism::new("uring-direct-bounced");

/// Reads past the page cache through io_uring, with as many reads in flight as the queue allows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UringReader;

impl UringReader {
    /// The reader, where io_uring serves.
    ///
    /// # Errors
    /// A [`Refusal`] that says why it does not: forbidden, missing or restricted.
    pub fn probe() -> Result<Self, Refusal> {
        uring::probe(DIRECT).map(|()| Self)
    }
}

impl Reader for UringReader {
    fn mechanism(&self) -> Mechanism {
        DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        direct_file::support(file)
    }

    fn workers(&self) -> usize {
        // One thread keeps one device busy; machines with many processors have faster ones.
        (loader_core::processors() / 8).clamp(1, 4)
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let refusal = |error: io::Error| Refusal::new(DIRECT, format!("no ring: {error}"));
        let depth = queue.depth().clamp(1, 4096);
        let entries = u32::try_from(depth).unwrap_or(4096).next_power_of_two();
        let mut flight = Flight::new(uring::ring(entries).map_err(refusal)?, depth);
        flight.run(queue);
        Ok(())
    }
}

/// The reads in flight of one ring.
///
/// The kernel writes into destinations and slabs until a read's completion has been seen, so this
/// is not dropped before every one has.
struct Flight<'q> {
    ring: IoUring,
    reads: Vec<Option<Read<'q>>>,
    free: Vec<usize>,
    files: DirectFiles,
    slabs: Slabs,
    /// A task that waits for a slab.
    stalled: Option<Task<'q>>,
    in_flight: usize,
}

/// One read in flight.
struct Read<'q> {
    task: Task<'q>,
    bounce: Option<Bounce>,
}

struct Bounce {
    slab: usize,
    skip: usize,
    wanted: usize,
}

impl<'q> Flight<'q> {
    fn new(ring: IoUring, depth: usize) -> Self {
        Self {
            ring,
            reads: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            files: DirectFiles::default(),
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
                // Submitting may have to fault memory in, during which others complete: whoever
                // waits for them is told in time.
                uring::submit(&mut self.ring);
                self.reap();
            }
            if self.in_flight == 0 {
                if self.stalled.is_none() {
                    return;
                }
                continue;
            }
            uring::submit_and_wait(&mut self.ring);
            self.reap();
        }
    }

    /// Whether another read can begin.
    fn has_room(&self) -> bool {
        let waits_for_slab = self.stalled.is_some() && self.slabs.free.is_empty();
        !self.free.is_empty() && !waits_for_slab
    }

    /// Puts a task's read into the submission queue.
    fn begin(&mut self, task: Task<'q>) {
        let (file, support) = match self.files.get(&task) {
            Ok(opened) => opened,
            Err(error) => return task.refuse(DIRECT, error),
        };
        let descriptor = Fd(file.as_raw_fd());
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
        // Chunks are no longer than 1 GiB, slabs shorter.
        let len = u32::try_from(len).unwrap_or(1 << 30);
        let Some(index) = self.free.pop() else { return };
        let entry = opcode::Read::new(descriptor, start, len)
            .offset(offset)
            .build()
            .user_data(index as u64);
        // SAFETY: `start` is valid for writes of `len` bytes: part of the task's destination, or a
        // slab taken just now. Both stay so until the completion is reaped, which `run` and `drop`
        // wait for; so does the descriptor, which `files` holds.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            // The ring has an entry for every read in flight, so this does not happen.
            self.free.push(index);
            return task.fail(io::ErrorKind::WouldBlock.into());
        }
        self.reads[index] = Some(Read { task, bounce });
        self.in_flight += 1;
    }

    fn reap(&mut self) {
        while let Some((index, result)) = uring::completed(&mut self.ring) {
            if let Some(read) = self.land(index) {
                self.finish(read, result);
            }
        }
    }

    /// Takes a completed read out of those in flight.
    fn land(&mut self, index: usize) -> Option<Read<'q>> {
        let read = self.reads.get_mut(index)?.take()?;
        self.free.push(index);
        self.in_flight -= 1;
        Some(read)
    }

    fn finish(&mut self, read: Read<'q>, result: i32) {
        let Read { task, bounce } = read;
        let outcome = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        match (outcome, &bounce) {
            // SAFETY: the kernel has put that many bytes at the front of the task's destination,
            // where it was told to, and has no more to do with it.
            (Ok(filled), None) => unsafe { task.complete(DIRECT, filled) },
            (Ok(filled), Some(Bounce { slab, skip, wanted })) => {
                let read = self.slabs.filled(*slab, filled.min(SLAB_BYTES));
                task.deliver(BOUNCED, read, *skip, *wanted);
            }
            (Err(error), _) if direct_file::is_refusal(&error) => task.refuse(DIRECT, error),
            (Err(error), _) => task.fail(error),
        }
        if let Some(bounce) = bounce {
            self.slabs.free.push(bounce.slab);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Only an unwinding `run` leaves reads in flight. What they were for is told by the tasks.
        while self.in_flight > 0 {
            uring::submit_and_wait(&mut self.ring);
            while let Some((index, _)) = uring::completed(&mut self.ring) {
                drop(self.land(index));
            }
        }
    }
}

/// Slabs of one ring at most: enough that copying out of some overlaps reading into others.
const MOST_SLABS: usize = 16;

/// Memory of ours for reads that cannot go straight to their destination, taken from the system
/// when the first one comes.
struct Slabs {
    memory: Option<HostBuffer>,
    free: Vec<usize>,
}

impl Slabs {
    fn new(count: usize) -> Self {
        Self {
            memory: None,
            free: (0..count).rev().collect(),
        }
    }

    /// Takes a free slab, if there is one.
    fn take(&mut self) -> io::Result<Option<usize>> {
        if self.memory.is_none() {
            let len = self.free.len() * SLAB_BYTES;
            let memory = HostBuffer::zeroed(&HugePageMemory, len).map_err(io::Error::other)?;
            memory.exclude_from_fork(true);
            self.memory = Some(memory);
        }
        Ok(self.free.pop())
    }

    /// Where a slab begins.
    fn start(&self, slab: usize) -> *mut u8 {
        let memory = self
            .memory
            .as_ref()
            .map_or(NonNull::dangling(), HostBuffer::start);
        memory.as_ptr().wrapping_add(slab * SLAB_BYTES)
    }

    /// The first bytes of a slab that nothing is being read into.
    fn filled(&self, slab: usize, len: usize) -> &[u8] {
        debug_assert!(self.memory.is_some() && len <= SLAB_BYTES);
        // SAFETY: the slab lies within the memory and is initialised; its read has completed, and
        // `self` is borrowed, so that no other can begin.
        unsafe { std::slice::from_raw_parts(self.start(slab), len) }
    }
}
