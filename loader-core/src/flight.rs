//! Reads past the page cache in flight, through an engine of any system.

use std::fs::File;
use std::io;

use crate::approach::Approach;
use crate::slabs::{SLAB_BYTES, Slabs};
use crate::{DirectRead, HostMemory, Queue, ReadEngine, Support, Task};

/// Serves `queue` with an engine, with `depth` reads in flight at most and one at least. Slabs are of
/// `memory`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use std::fs::File;
/// use std::sync::Arc;
/// use loader_core::{
///     BlockingEngine, Copier, Extent, HeapMemory, Job, LoadOptions, Mechanism, Operation, Platform,
///     Queue, Reader, Refusal, Strategy, Support, WeightFile, serve,
/// };
///
/// /// Reads whole blocks of 4096 bytes. A real one opens files past the page cache.
/// #[derive(Debug)]
/// struct Blocks;
///
/// impl Reader for Blocks {
///     fn mechanism(&self) -> Mechanism {
///         Mechanism::DIRECT
///     }
///     fn support(&self, _: &WeightFile) -> Result<Support, Refusal> {
///         Ok(Support::aligned(4096, 1))
///     }
///     fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
///         let open = |file: &WeightFile| Ok((File::open(file.path())?, Support::aligned(4096, 1)));
///         let engine = BlockingEngine::new(open, |_| false);
///         serve(queue, engine, BlockingEngine::DEPTH, &HeapMemory);
///         Ok(())
///     }
/// }
///
/// let platform = Platform { direct: Ok(Arc::new(Blocks)), ..Platform::portable() };
/// let mut options = LoadOptions::default();
/// options.strategy = Strategy::Direct;
/// let copier = Copier::new(&platform, &options);
/// let mut memory = [0; 6];
/// let plan = copier.plan(&[Extent { offset: 1, len: 6, destination: 0 }], 6)?;
/// let file = WeightFile::open(&path)?;
/// let job = Job { file, plan, destination: (&mut memory).into() };
/// copier.run(vec![job], Operation::new())?;
/// assert_eq!(&memory, b"eights"); // By way of a slab.
/// # Ok(())
/// # }
/// ```
pub fn serve<E: ReadEngine>(queue: &Queue<'_>, engine: E, depth: usize, memory: &dyn HostMemory) {
    let depth = depth.max(1);
    let slabs = (queue.slab_bytes() / SLAB_BYTES).clamp(1, depth.min(MOST_SLABS));
    Flight::new(engine, depth, Slabs::new(slabs, memory)).run(queue);
}

/// Slabs of one worker at most: enough that copying out of some overlaps reading into others.
const MOST_SLABS: usize = 16;

/// The reads in flight of one worker.
///
/// The system writes into destinations and slabs until the engine told of a read, so this is not
/// dropped before it told of every one.
struct Flight<'q, E: ReadEngine> {
    engine: E,
    reads: Vec<Option<Read<'q>>>,
    free: Vec<usize>,
    /// By their index in the queue, each opened when it is first needed.
    files: Vec<Option<(File, Support)>>,
    slabs: Slabs<'q>,
    /// A task that waits for a slab.
    stalled: Option<Task<'q>>,
    in_flight: usize,
    completed: Vec<(usize, io::Result<usize>)>,
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

impl<'q, E: ReadEngine> Flight<'q, E> {
    fn new(engine: E, depth: usize, slabs: Slabs<'q>) -> Self {
        Self {
            engine,
            reads: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            files: Vec::new(),
            slabs,
            stalled: None,
            in_flight: 0,
            completed: Vec::new(),
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
                let Some(task) = task else { break };
                self.begin(task);
                // Beginning may have to fault memory in, during which others complete: whoever
                // waits for them is told in time.
                self.reap(false);
            }
            if self.in_flight > 0 {
                self.reap(true);
            } else if self.stalled.is_none() {
                return;
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
            Err(error) => return task.refuse(E::DIRECT, error),
        };
        let (offset, start, len, bounce) = match support.approach(&task) {
            Approach::InPlace { len } => (task.offset(), task.destination().as_ptr(), len, None),
            Approach::Bounce {
                offset,
                read,
                skip,
                wanted,
            } => match self.slabs.take(support.memory_alignment) {
                Ok(Some(slab)) => {
                    let bounce = Bounce { slab, skip, wanted };
                    (offset, self.slabs.start(slab), read, Some(bounce))
                }
                Ok(None) => {
                    self.stalled = Some(task);
                    return;
                }
                Err(error) => return task.refuse(E::BOUNCED, error),
            },
        };
        let Some(Some((file, _))) = self.files.get(task.file_index()) else {
            return task.fail(io::ErrorKind::NotFound.into());
        };
        // A task is begun only where there is room.
        let Some(index) = self.free.pop() else {
            return task.fail(io::ErrorKind::WouldBlock.into());
        };
        let read = DirectRead {
            index,
            file,
            offset,
            start,
            len,
        };
        let begun = support.check(offset, start.addr(), len).and_then(|()| {
            // SAFETY: the memory is part of the task's destination, or a slab taken just now, which
            // holds as many bytes as its blocks were checked for. Both stay valid for writes until
            // the read is told of, which `run` and `drop` wait for; so does the file. The number was
            // free.
            unsafe { self.engine.begin(&read) }
        });
        self.reads[index] = Some(Read { task, bounce });
        self.in_flight += 1;
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
        let opened = match self.files[index].take() {
            Some(opened) => opened,
            None => {
                let (file, support) = self.engine.open(task.file())?;
                support.check_blocks()?;
                (file, support)
            }
        };
        let (_, support) = self.files[index].insert(opened);
        Ok(support.clone())
    }

    fn reap(&mut self, wait: bool) {
        self.engine.completed(wait, &mut self.completed);
        self.settle_completed();
    }

    /// One by one, so that whatever unwinds loses none of the others.
    fn settle_completed(&mut self) {
        while let Some((index, outcome)) = self.completed.pop() {
            self.settle(index, outcome);
        }
    }

    /// Tells the outcome of a read that nothing is written for any more.
    fn settle(&mut self, index: usize, outcome: io::Result<usize>) {
        let Some(Read { task, bounce }) = self.reads.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        self.in_flight -= 1;
        match (outcome, &bounce) {
            // SAFETY: the engine put that many bytes at the front of the task's destination, where
            // it was told to, and has no more to do with it.
            (Ok(filled), None) => unsafe { task.complete(E::DIRECT, filled) },
            (Ok(filled), Some(Bounce { slab, skip, wanted })) => {
                // SAFETY: the slab was taken for this read, which is over.
                let read = unsafe { self.slabs.filled(*slab, filled) };
                task.deliver(E::BOUNCED, read, *skip, *wanted);
            }
            (Err(error), _) if self.engine.is_refusal(&error) => task.refuse(E::DIRECT, error),
            (Err(error), _) => task.fail(error),
        }
        if let Some(bounce) = bounce {
            self.slabs.give_back(bounce.slab);
        }
    }
}

impl<E: ReadEngine> Drop for Flight<'_, E> {
    fn drop(&mut self) {
        // Only an unwinding `run` leaves reads in flight, or told of and not settled.
        self.settle_completed();
        while self.in_flight > 0 {
            self.reap(true);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use super::*;
    use crate::positional;
    use crate::testing::{Guarded, Residency, Sample, platform};
    use crate::{BlockingEngine, Mechanism, Reader, Refusal, Strategy, WeightFile};
    use crate::{Copier, Extent, HeapMemory, HostRegion, Job, LoadOptions, Operation, Platform};
    use std::mem::MaybeUninit;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::ptr::NonNull;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;
    use std::time::Duration;

    /// Reads that write long after they began, by an engine that panics where the second file is
    /// opened.
    struct Late {
        opened: usize,
        tell: Sender<(usize, io::Result<usize>)>,
        told: Receiver<(usize, io::Result<usize>)>,
        panics_with: &'static AtomicUsize,
        in_flight: usize,
    }

    // SAFETY: a thread writes to the memory before it tells, and no more thereafter.
    unsafe impl ReadEngine for Late {
        const DIRECT: Mechanism = Mechanism::DIRECT;
        const BOUNCED: Mechanism = Mechanism::DIRECT_BOUNCED;

        fn open(&mut self, file: &WeightFile) -> io::Result<(File, Support)> {
            self.opened += 1;
            if self.opened > 1 {
                self.panics_with.store(self.in_flight, Ordering::SeqCst);
                panic!("the test wants a panic");
            }
            Ok((File::open(file.path())?, Support::aligned(4096, 4096)))
        }

        unsafe fn begin(&mut self, read: &DirectRead<'_>) -> io::Result<()> {
            let (file, tell) = (read.file.try_clone()?, self.tell.clone());
            let (index, offset, len) = (read.index, read.offset, read.len);
            let start = read.start.expose_provenance();
            self.in_flight += 1;
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                let start = std::ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(start);
                // SAFETY: the caller promises that the memory is valid for writes and touched by
                // nobody until it was told.
                let buffer = unsafe { std::slice::from_raw_parts_mut(start, len) };
                let outcome = positional::read_at(&file, buffer, offset);
                tell.send((index, outcome)).unwrap();
            });
            Ok(())
        }

        fn completed(&mut self, wait: bool, tell: &mut Vec<(usize, io::Result<usize>)>) {
            let before = tell.len();
            if wait {
                tell.extend(self.told.recv());
            }
            tell.extend(self.told.try_iter());
            self.in_flight -= tell.len() - before;
        }

        fn is_refusal(&self, _error: &io::Error) -> bool {
            false
        }
    }

    /// Panics with so many reads in flight, and takes slabs of that memory.
    #[derive(Debug)]
    struct LateReader(&'static AtomicUsize, CountedMemory);

    /// Counts the bytes that are taken.
    #[derive(Clone, Debug, Default)]
    struct CountedMemory(Arc<AtomicUsize>);

    impl HostMemory for CountedMemory {
        fn allocate(&self, len: usize) -> io::Result<Box<dyn HostRegion>> {
            self.0.fetch_add(len, Ordering::SeqCst);
            HeapMemory.allocate(len)
        }

        fn populate(&self, _start: NonNull<u8>, _len: usize) {}
    }

    impl Reader for LateReader {
        fn mechanism(&self) -> Mechanism {
            Mechanism::DIRECT
        }

        fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
            Ok(Support::aligned(4096, 4096))
        }

        fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
            let (tell, told) = channel();
            let engine = Late {
                opened: 0,
                tell,
                told,
                panics_with: self.0,
                in_flight: 0,
            };
            serve(queue, engine, 8, &self.1);
            Ok(())
        }
    }

    #[test]
    fn slabs_stay_within_the_memory_limit() {
        static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::new(folder.path(), "weights", 9 << 20);
        for (limit, most) in [
            (None, 8 << 20),
            (Some(3 << 20), 3 << 20),
            (Some(1), 1 << 20),
        ] {
            let memory = CountedMemory::default();
            let platform = Platform {
                direct: Ok(Arc::new(LateReader(&IN_FLIGHT, memory.clone()))),
                ..platform(Residency::None)
            };
            let options = LoadOptions {
                strategy: Strategy::Direct,
                memory_limit: limit,
                ..LoadOptions::default()
            };
            // Incongruent to any block, so that every read takes a slab.
            let mut destination = Guarded::new(sample.bytes(), 1);
            let copier = Copier::new(&platform, &options);
            let report = copier.run(
                vec![whole(&copier, &sample, 0, &mut destination)],
                Operation::new(),
            );
            destination.check_complete("with few slabs");
            assert_eq!(report.unwrap().bytes, 9 << 20);
            let taken = memory.0.load(Ordering::SeqCst);
            assert!((1..=most).contains(&taken), "{taken} of {most}");
        }
    }

    /// All of a sample but `hole` bytes at its beginning.
    fn whole<'m>(
        copier: &Copier<'_>,
        sample: &Sample,
        hole: usize,
        memory: &'m mut Guarded,
    ) -> Job<'m> {
        let len = sample.bytes().len() - hole;
        let extent = Extent {
            offset: hole as u64,
            len: len as u64,
            destination: 0,
        };
        Job {
            file: sample.open(),
            plan: copier.plan(&[extent], len).unwrap(),
            destination: memory.destination(),
        }
    }

    #[test]
    fn a_panic_leaves_nothing_in_flight() {
        static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
        let folder = tempfile::tempdir().unwrap();
        let samples = ["first", "second"].map(|name| Sample::new(folder.path(), name, 3 << 20));
        let platform = Platform {
            direct: Ok(Arc::new(LateReader(&IN_FLIGHT, CountedMemory::default()))),
            ..platform(Residency::None)
        };
        let options = LoadOptions {
            strategy: Strategy::Direct,
            chunk_bytes: Some(1 << 20),
            ..LoadOptions::default()
        };
        // In place, and by way of slabs, since there is a hole before the first block.
        for hole in [0, 100] {
            let mut memories = samples
                .each_ref()
                .map(|sample| Guarded::new(&sample.bytes()[hole..], 0));
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let copier = Copier::new(&platform, &options);
                let jobs = samples
                    .iter()
                    .zip(&mut memories)
                    .map(|(sample, memory)| whole(&copier, sample, hole, memory));
                copier.run(jobs.collect(), Operation::new())
            }));
            assert!(unwound.is_err(), "{unwound:?}");
            assert!(IN_FLIGHT.swap(0, Ordering::SeqCst) > 0);
            let snapshots = memories.each_ref().map(Guarded::snapshot);
            thread::sleep(Duration::from_millis(100));
            for (memory, snapshot) in memories.iter().zip(&snapshots) {
                assert!(memory.is_unchanged_since(snapshot));
                memory.check_partial("a panic");
            }
        }
    }

    /// A blocking reader whose files need blocks as long as their name says.
    #[derive(Debug)]
    struct Blocks;

    impl Reader for Blocks {
        fn mechanism(&self) -> Mechanism {
            Mechanism::DIRECT
        }

        fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
            Ok(Support::any())
        }

        fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
            let open = |file: &WeightFile| {
                let name = file.path().file_name().unwrap().to_string_lossy();
                let support = Support::aligned(name.parse().unwrap(), 4096);
                Ok((File::open(file.path())?, support))
            };
            let engine = BlockingEngine::new(open, |_| false);
            serve(queue, engine, BlockingEngine::DEPTH, &HeapMemory);
            Ok(())
        }
    }

    #[test]
    fn blocks_that_no_slab_holds_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let platform = Platform {
            direct: Ok(Arc::new(Blocks)),
            ..platform(Residency::None)
        };
        for (block, serves) in [
            ("65536", true),
            ("4194304", false),
            ("3000", false),
            ("0", false),
        ] {
            let sample = Sample::new(folder.path(), block, 3 << 20);
            for strategy in [Strategy::Auto, Strategy::Direct] {
                let options = LoadOptions {
                    strategy,
                    ..LoadOptions::default()
                };
                // Incongruent to any block, so that every read takes a slab.
                let mut memory = Guarded::new(sample.bytes(), 1);
                let copier = Copier::new(&platform, &options);
                let job = whole(&copier, &sample, 0, &mut memory);
                match copier.run(vec![job], Operation::new()) {
                    Ok(report) => {
                        assert!(serves || strategy == Strategy::Auto, "{block} {report:?}");
                        assert_eq!(report.fallbacks.is_empty(), serves, "{block} {report:?}");
                        memory.check_complete(block);
                    }
                    Err(error) => {
                        assert!(!serves && strategy == Strategy::Direct, "{block} {error}");
                        assert!(error.to_string().contains("blocks"), "{error}");
                    }
                }
            }
        }
    }
}
