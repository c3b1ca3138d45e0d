//! The chunked parallel copier: feeds plans to readers over workers.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::budget::{self, Lease};
use crate::prefault::Prefault;
use crate::queue::{Group, Piece};
use crate::route::{Route, TINY, Way};
use crate::transfer::{Event, Tally, Transfer};
use crate::{
    CachePolicy, Chunk, Destination, Error, LoadOptions, Mechanism, Operation, Plan, Platform,
    Refusal, Report, Result, Strategy, WeightFile,
};

/// One file's part of a copy: what is read from it, and into which memory.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Job<'a> {
    /// Where bytes come from.
    pub file: WeightFile,
    /// Which bytes, and where in the destination they land.
    pub plan: Plan,
    /// The memory that they land in.
    pub destination: Destination<'a>,
}

/// Copies bytes from files into memory with the readers of a platform.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("weights.bin");
/// # std::fs::write(&path, b"headerweights")?;
/// use loader_core::{Copier, Extent, Job, LoadOptions, Operation, Plan, Platform, WeightFile};
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let file = WeightFile::open(&path)?;
/// let mut memory = [0; 7];
/// let plan = Plan::new(&[Extent { offset: 6, len: 7, destination: 0 }], 7, 1 << 20)?;
/// let job = Job { file, plan, destination: (&mut memory).into() };
/// let report = Copier::new(&platform, &options).run(vec![job], Operation::new())?;
/// assert_eq!((&memory, report.bytes), (b"weights", 7));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Copier<'p> {
    platform: &'p Platform,
    options: &'p LoadOptions,
}

/// More pieces, as room for them becomes free.
pub(crate) trait Feeder {
    /// What to do next.
    fn next(&mut self) -> Result<Feed>;
    /// A group has landed.
    fn landed(&mut self, group: usize) -> Result<()>;
}

pub(crate) enum Feed {
    /// Read these chunks of one file.
    Chunks(FedChunks),
    /// Ask again after the next event.
    Later,
    /// That was all.
    End,
}

/// Chunks of one file that land together.
pub(crate) struct FedChunks {
    pub(crate) file: usize,
    pub(crate) chunks: Vec<Chunk>,
    /// What the chunks' destinations count from.
    pub(crate) start: std::ptr::NonNull<u8>,
    pub(crate) direct: bool,
    pub(crate) group: usize,
    pub(crate) memory: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// The events of an operation that is being prepared: both ends, so that a feeder can hold one.
pub(crate) type Events = (Sender<Event>, Receiver<Event>);

impl<'p> Copier<'p> {
    /// A copier with the readers of `platform`.
    #[must_use]
    pub fn new(platform: &'p Platform, options: &'p LoadOptions) -> Self {
        Self { platform, options }
    }

    /// Plans `extents` in chunks of the length that the options choose.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, extents: &[crate::Extent], destination_len: usize) -> Result<Plan> {
        Plan::new(extents, destination_len, self.options.chunk_bytes())
    }

    /// Reads everything that `jobs` plan and returns when it is in place. Nothing writes to any
    /// destination any more when this returns, errs or unwinds.
    ///
    /// # Errors
    /// The first error of any read, with its file and offset; [`Error::Cancelled`];
    /// [`Error::Unsupported`] where a forced strategy cannot serve; [`Error::InvalidOption`];
    /// [`Error::Destination`] or [`Error::OutOfBounds`] where a plan does not fit its job.
    pub fn run(&self, jobs: Vec<Job<'_>>, operation: Operation<'_>) -> Result<Report> {
        self.options.check()?;
        let mut run = Run::start(self, unbounded());
        for job in &jobs {
            check_fit(job)?;
            run.add_file(&job.file, &job.plan.ranges(), job.plan.bytes())?;
        }
        if run.total > TINY {
            run.note_usage();
        }
        run.execute(operation, |queues| {
            for (file, job) in jobs.iter().enumerate() {
                for chunk in job.plan.chunks() {
                    let start = job.destination.as_ptr();
                    let direct = job.destination.allows_direct();
                    // SAFETY: `check_fit` has made sure that the chunk lies within the
                    // destination, the plan that no two chunks overlap there; `jobs` borrow their
                    // memory until this function returns, which is after the last reader.
                    unsafe { queues.push(file, chunk, start, direct, None) };
                }
            }
            None
        })
    }

    /// Reads what `feeder` asks for, from `files`, of which it will want these ranges.
    ///
    /// # Safety
    /// The memory of each chunk that the feeder gives stays valid for writes and untouched until
    /// its group has landed or this function has returned or unwound.
    pub(crate) unsafe fn feed(
        &self,
        files: &[(WeightFile, Vec<std::ops::Range<u64>>)],
        events: Events,
        feeder: &mut dyn Feeder,
        operation: Operation<'_>,
    ) -> Result<Report> {
        self.options.check()?;
        let mut run = Run::start(self, events);
        for (file, ranges) in files {
            let bytes = ranges.iter().map(|range| range.end - range.start).sum();
            run.add_file(file, ranges, bytes)?;
        }
        run.note_usage();
        run.execute(operation, |_| Some(feeder))
    }
}

fn check_fit(job: &Job<'_>) -> Result<()> {
    let room = job.destination.len();
    for chunk in job.plan.chunks() {
        // Both ends were checked for overflow when the plan was made.
        let end = chunk.destination + chunk.len;
        if end > room {
            return Err(Error::Destination {
                expected: end as u64,
                actual: room as u64,
            });
        }
        if chunk.end() > job.file.disk_len() {
            return Err(Error::OutOfBounds {
                path: job.file.path().to_path_buf(),
                offset: chunk.offset,
                len: chunk.len as u64,
                file_len: job.file.disk_len(),
            });
        }
    }
    Ok(())
}

/// One operation of a copier, from its preparation to its report.
struct Run<'c> {
    copier: &'c Copier<'c>,
    started: Instant,
    /// What the process had used; asking costs more than a tiny operation does.
    before: Option<crate::Usage>,
    files: Vec<WeightFile>,
    routes: Vec<Route>,
    total: u64,
    tally: Tally,
    events: Events,
}

/// The queues of the two readers, and which chunks go to which.
struct Queues<'a> {
    routes: &'a [Route],
    direct: &'a crate::Queue<'a>,
    buffered: &'a crate::Queue<'a>,
}

impl Queues<'_> {
    /// Wakes workers that wait for what was queued.
    fn wake(&self) {
        self.buffered.wake();
    }

    /// Queues a chunk for the reader that its route names.
    ///
    /// # Safety
    /// As [`Queue::push`](crate::Queue::push), for the chunk's part of the memory at `start`.
    unsafe fn push(
        &self,
        file: usize,
        chunk: &Chunk,
        start: std::ptr::NonNull<u8>,
        direct: bool,
        group: Option<&Arc<Group>>,
    ) {
        let piece = Piece {
            file,
            offset: chunk.offset,
            // SAFETY: the caller's promise: the chunk lies within the memory at `start`.
            start: unsafe { start.add(chunk.destination) },
            len: chunk.len,
            direct,
            group: group.cloned(),
            retries: 0,
        };
        let queue = match self.routes[file].way(chunk.offset..chunk.end()) {
            Way::Direct => self.direct,
            Way::Buffered => self.buffered,
        };
        // SAFETY: the caller's promise.
        unsafe { queue.push(piece) };
    }
}

impl<'c> Run<'c> {
    fn start(copier: &'c Copier<'c>, events: Events) -> Self {
        Self {
            copier,
            started: Instant::now(),
            before: None,
            files: Vec::new(),
            routes: Vec::new(),
            total: 0,
            tally: Tally::default(),
            events,
        }
    }

    /// Notes what the process has used so far.
    fn note_usage(&mut self) {
        self.before = Some(self.copier.platform.system.usage());
    }

    fn add_file(
        &mut self,
        file: &WeightFile,
        ranges: &[std::ops::Range<u64>],
        bytes: u64,
    ) -> Result<()> {
        let Copier { platform, options } = *self.copier;
        let route = Route::choose(platform, options, file, ranges, &mut self.tally)?;
        self.files.push(file.clone());
        self.routes.push(route);
        self.total += bytes;
        Ok(())
    }

    fn execute<'f>(
        self,
        mut operation: Operation<'_>,
        prepare: impl FnOnce(&Queues<'_>) -> Option<&'f mut (dyn Feeder + 'f)>,
    ) -> Result<Report> {
        let Self {
            copier,
            started,
            before,
            files,
            routes,
            total,
            tally,
            events,
        } = self;
        let Copier { platform, options } = *copier;
        let _span = tracing::debug_span!("copy", bytes = total, files = files.len()).entered();
        let chunk_bytes = usize::try_from(options.chunk_bytes()).unwrap_or(usize::MAX);
        let in_flight = lease_in_flight(options, chunk_bytes);
        let depth = (in_flight.amount() / chunk_bytes).max(1);
        let direct_workers = direct_workers(platform, depth.min(chunk_count(total, chunk_bytes)));
        let step = if operation.wants_progress() {
            (total / 256).max(64 << 10)
        } else {
            0
        };
        let transfer = Transfer::new(operation.token().cloned(), step, events.0.clone(), tally);

        let (landed, resident_bytes) = {
            let buffered = crate::Queue::new(&transfer, &files, depth, None);
            let refuge = (options.strategy == Strategy::Auto).then_some(&buffered);
            let depth_each = depth.div_ceil(direct_workers);
            let direct = crate::Queue::new(&transfer, &files, depth_each, refuge);
            let queues = Queues {
                routes: &routes,
                direct: &direct,
                buffered: &buffered,
            };
            let feeder = prepare(&queues);
            if feeder.is_none() {
                transfer.close();
            }
            let may_wait = routes.iter().any(Route::may_wait);
            let crew = Crew {
                platform,
                options,
                transfer: &transfer,
                queues: &queues,
                direct_workers,
                may_wait,
            };
            let inline = feeder.is_none() && total <= TINY && direct.waiting() == 0;
            if inline {
                crew.read_buffered();
            } else {
                thread::scope(|scope| {
                    coordinate(scope, crew, feeder, &events.1, total, &mut operation);
                });
            }
            (
                transfer.landed(),
                routes.iter().map(Route::resident_bytes).sum(),
            )
        };
        drop(in_flight);

        let cancelled = operation.is_cancelled();
        let tally = transfer.outcome()?;
        if !cancelled {
            operation.report(landed, total);
        }
        if options.cache == CachePolicy::Bypass {
            forget(platform, &files, &routes);
        }
        let after = before.map(|_| platform.system.usage()).unwrap_or_default();
        let before = before.unwrap_or_default();
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Ok(Report {
            bytes: landed,
            elapsed: started.elapsed(),
            strategy: options.strategy,
            chunks: tally.chunks,
            fallbacks: tally.fallbacks,
            resident_bytes,
            minor_faults: since(after.minor_faults, before.minor_faults),
            major_faults: since(after.major_faults, before.major_faults),
            peak_memory: after.peak_memory,
        })
    }
}

/// Evicts what buffered reads brought into the page cache and was not there before.
fn forget(platform: &Platform, files: &[WeightFile], routes: &[Route]) {
    for (file, route) in files.iter().zip(routes) {
        for range in route.brought_in() {
            if let Err(error) = platform.system.evict(file, range) {
                tracing::debug!(%error, "what was read stays in the page cache");
            }
        }
    }
}

fn chunk_count(total: u64, chunk_bytes: usize) -> usize {
    usize::try_from(total.div_ceil(chunk_bytes as u64))
        .unwrap_or(usize::MAX)
        .max(1)
}

/// How many workers read past the page cache, each with part of the queue depth.
fn direct_workers(platform: &Platform, depth: usize) -> usize {
    platform
        .direct
        .as_ref()
        .map_or(1, |reader| reader.workers())
        .clamp(1, depth)
}

fn lease_in_flight(options: &LoadOptions, chunk_bytes: usize) -> Lease {
    let limit = options.memory_limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let wanted = options.queue_depth().saturating_mul(chunk_bytes).min(limit);
    budget::IN_FLIGHT.lease(wanted, chunk_bytes, budget::MOST_IN_FLIGHT)
}

/// Who does the work of one operation.
#[derive(Clone, Copy)]
struct Crew<'a> {
    platform: &'a Platform,
    options: &'a LoadOptions,
    transfer: &'a Transfer,
    queues: &'a Queues<'a>,
    direct_workers: usize,
    may_wait: bool,
}

/// How often a cancellation token is looked at.
const CANCEL_POLL: Duration = Duration::from_millis(5);

/// Runs on the calling thread until everything has landed or the operation was stopped: starts
/// workers once there is work for them, feeds them, and passes progress on.
fn coordinate<'scope>(
    scope: &'scope Scope<'scope, '_>,
    crew: Crew<'scope>,
    mut feeder: Option<&mut (dyn Feeder + '_)>,
    events: &Receiver<Event>,
    total: u64,
    operation: &mut Operation<'_>,
) {
    let transfer = crew.transfer;
    // Workers end only when the transfer is over, so it has to be when this function is left.
    let _stop = StopAtEnd(transfer);
    let mut hired = Hired::default();
    let mut feeding = feeder.is_some();
    loop {
        if let Some(feeder) = feeder.as_deref_mut().filter(|_| feeding) {
            match feed(crew.queues, feeder) {
                Ok(more) => feeding = more,
                Err(error) => return transfer.fail(error),
            }
            if !feeding {
                transfer.close();
            }
        }
        hired.hire(scope, crew);
        let event = match operation.token() {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => events.recv_timeout(CANCEL_POLL),
        };
        match event {
            Ok(Event::Progress) => operation.report(transfer.landed(), total),
            Ok(Event::Group(group)) => {
                if let Some(Err(error)) = feeder.as_deref_mut().map(|feeder| feeder.landed(group)) {
                    return transfer.fail(error);
                }
            }
            Ok(Event::Refused | Event::Room) => {}
            Ok(Event::Finished) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if operation.is_cancelled() {
            return;
        }
    }
}

/// Queues all that the feeder has; tells whether more will come.
fn feed(queues: &Queues<'_>, feeder: &mut dyn Feeder) -> Result<bool> {
    loop {
        match feeder.next()? {
            Feed::Later => return Ok(true),
            Feed::End => return Ok(false),
            Feed::Chunks(fed) => {
                let group = Arc::new(Group {
                    id: fed.group,
                    pieces: AtomicUsize::new(fed.chunks.len()),
                    memory: fed.memory,
                });
                for chunk in &fed.chunks {
                    // SAFETY: the promise of `Copier::feed`'s caller.
                    unsafe { queues.push(fed.file, chunk, fed.start, fed.direct, Some(&group)) };
                }
                queues.wake();
            }
        }
    }
}

struct StopAtEnd<'a>(&'a Transfer);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The workers of one operation, started when first there is work for them.
#[derive(Default)]
struct Hired {
    direct: Option<Lease>,
    buffered: Option<Lease>,
}

/// Threads that wait for the device while they read through the page cache keep it busier than
/// processors alone would.
const WAITING_WORKERS: usize = 8;

impl Hired {
    fn hire<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, crew: Crew<'scope>) {
        if self.direct.is_none() && crew.queues.direct.waiting() > 0 {
            self.direct = Some(prefault(scope, crew));
            for _ in 0..crew.direct_workers {
                start(scope, crew.transfer, "weightloader-direct", move || {
                    crew.read_direct()
                });
            }
        }
        if self.buffered.is_none() && crew.queues.buffered.waiting() > 0 {
            let suiting = if crew.may_wait {
                budget::processors().max(WAITING_WORKERS)
            } else {
                budget::processors()
            };
            let wanted = crew.options.threads.unwrap_or(suiting);
            let lease = budget::WORKERS.lease(wanted, 1, budget::most_workers());
            for _ in 0..lease.amount() {
                start(scope, crew.transfer, "weightloader-copy", move || {
                    crew.read_buffered()
                });
            }
            self.buffered = Some(lease);
        }
    }
}

/// Starts threads that fault in the destination of direct reads on processors that these leave idle.
fn prefault<'scope>(scope: &'scope Scope<'scope, '_>, crew: Crew<'scope>) -> Lease {
    let idle = budget::processors().saturating_sub(1).min(MOST_PREFAULTERS);
    let lease = budget::WORKERS.lease(idle, 0, budget::most_workers());
    let memory = Arc::new(Prefault::new(crew.queues.direct));
    for _ in 0..lease.amount() {
        let memory = Arc::clone(&memory);
        start(scope, crew.transfer, "weightloader-prefault", move || {
            memory.run(crew.queues.direct, &*crew.platform.memory);
        });
    }
    lease
}

/// Zeroing pages by more threads than this brings nothing: memory is busy.
const MOST_PREFAULTERS: usize = 4;

/// Starts a worker; an operation that cannot have one fails.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    transfer: &Transfer,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) {
    if let Err(error) = thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
    {
        let mechanism = Mechanism::new("worker-thread");
        transfer.fail(Error::Unsupported {
            mechanism,
            reason: error.to_string(),
        });
    }
}

impl Crew<'_> {
    fn read_direct(&self) {
        let outcome = match &self.platform.direct {
            Ok(reader) => self.read(&**reader, self.queues.direct),
            Err(refusal) => Err(refusal.clone()),
        };
        if let Err(refusal) = outcome {
            if !self.queues.direct.surrender(&refusal) {
                self.fail(refusal);
            }
        }
    }

    fn read_buffered(&self) {
        if let Err(refusal) = self.read(&*self.platform.buffered, self.queues.buffered) {
            self.fail(refusal);
        }
    }

    /// Lets `reader` serve `queue`. One that leaves before everything has landed ends the
    /// operation, for nobody else may come for what it leaves.
    fn read(
        &self,
        reader: &dyn crate::Reader,
        queue: &crate::Queue<'_>,
    ) -> std::result::Result<(), Refusal> {
        let mut leaving = Leaving {
            transfer: self.transfer,
            mechanism: reader.mechanism(),
            refused: false,
        };
        let outcome = reader.run(queue);
        leaving.refused = outcome.is_err();
        outcome
    }

    fn fail(&self, refusal: Refusal) {
        let Refusal { mechanism, reason } = refusal;
        self.transfer.fail(Error::Unsupported { mechanism, reason });
    }
}

/// Looks at what a reader leaves behind when it returns or unwinds.
struct Leaving<'a> {
    transfer: &'a Transfer,
    mechanism: Mechanism,
    refused: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.refused && !self.transfer.is_over() {
            let mechanism = self.mechanism;
            self.transfer.fail(Error::Abandoned { mechanism });
        }
    }
}
