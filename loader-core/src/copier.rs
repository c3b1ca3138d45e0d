//! The chunked parallel copier: feeds plans to readers over workers.

use std::ops::Range;

use crossbeam::channel::unbounded;

use crate::feeder::{Events, Feeder};
use crate::plan;
use crate::route::TINY;
use crate::run::{Ending, Run};
use crate::{
    Chunk, Destination, Error, Extent, LoadOptions, Operation, Plan, Platform, Report, Result,
    WeightFile,
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
    pub(crate) platform: &'p Platform,
    pub(crate) options: &'p LoadOptions,
}

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
    pub fn plan(&self, extents: &[Extent], destination_len: usize) -> Result<Plan> {
        Plan::new(extents, destination_len, self.options.chunk_bytes())
    }

    /// Looks at the pages under memory of somebody else's, so that what is read into it comes the way
    /// that suits them. To be done before [`plan_for`](Self::plan_for).
    #[must_use]
    pub fn examine<'d>(&self, destination: Destination<'d>) -> Destination<'d> {
        destination.seen_by(&*self.platform.memory)
    }

    /// Plans `extents` for `destination`: as [`plan`](Self::plan), or so that no two chunks share a
    /// huge page of memory that is [fresh](Destination::fresh).
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan_for(&self, extents: &[Extent], destination: &Destination<'_>) -> Result<Plan> {
        if !destination.is_fresh() {
            return self.plan(extents, destination.len());
        }
        let address = destination.as_ptr().addr().get();
        Plan::for_fresh(
            extents,
            address,
            destination.len(),
            self.options.chunk_bytes(),
        )
    }

    /// Reads everything that `jobs` plan and returns when it is in place. Nothing writes to any
    /// destination any more when this returns, errs or unwinds.
    ///
    /// Any number of jobs may read from one file, each into memory of its own; their chunks are
    /// then read in the order of the file, whatever the order of the jobs.
    ///
    /// # Errors
    /// The first error of any read, with its file and offset; [`Error::Cancelled`];
    /// [`Error::Unsupported`] where a forced strategy cannot serve or no thread can be started;
    /// [`Error::InvalidOption`];
    /// [`Error::Destination`] or [`Error::OutOfBounds`] where a plan does not fit its job.
    pub fn run(&self, jobs: Vec<Job<'_>>, operation: Operation<'_>) -> Result<Report> {
        self.options.check()?;
        let mut run = Run::start(self, unbounded());
        jobs.iter().try_for_each(check_fit)?;
        let sources = sources(&jobs);
        for source in &sources {
            run.add_file(source.file, &source.ranges(), source.bytes())?;
        }
        if run.total > TINY {
            run.note_usage();
        }
        for Job { destination, .. } in jobs.iter().filter(|job| job.destination.is_fresh()) {
            let memory = &self.platform.memory;
            memory.prefer_huge_pages(destination.as_ptr(), destination.len());
        }
        run.execute(operation, |queues| {
            for (file, source) in sources.iter().enumerate() {
                for (job, chunk) in source.chunks() {
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
        .complete()
    }

    /// Reads what `feeder` asks for, from `files`, of which it will want these ranges.
    ///
    /// # Errors
    /// As [`run`](Self::run), but for those that come once it reads, which its ending tells.
    ///
    /// # Safety
    /// The memory of each chunk that the feeder gives stays valid for writes and untouched until
    /// its group has landed or this function has returned or unwound.
    pub(crate) unsafe fn feed(
        &self,
        files: &[(WeightFile, Vec<Range<u64>>)],
        events: Events,
        feeder: &mut dyn Feeder,
        operation: Operation<'_>,
    ) -> Result<Ending> {
        self.options.check()?;
        let mut run = Run::start(self, events);
        for (file, ranges) in files {
            let bytes = ranges.iter().map(|range| range.end - range.start).sum();
            run.add_file(file, ranges, bytes)?;
        }
        run.note_usage();
        Ok(run.execute(operation, |_| Some(feeder)))
    }
}

/// The jobs that read from one open file.
struct Source<'j, 'd> {
    file: &'j WeightFile,
    jobs: Vec<&'j Job<'d>>,
}

/// Brings jobs together that read from the same open file, so that it is examined once.
fn sources<'j, 'd>(jobs: &'j [Job<'d>]) -> Vec<Source<'j, 'd>> {
    let mut sources: Vec<Source<'j, 'd>> = Vec::new();
    for job in jobs {
        // From the end, since jobs mostly come file by file.
        let mut known = sources.iter_mut().rev();
        match known.find(|source| source.file.shares_open_file(&job.file)) {
            Some(source) => source.jobs.push(job),
            None => sources.push(Source {
                file: &job.file,
                jobs: vec![job],
            }),
        }
    }
    sources
}

impl<'j, 'd> Source<'j, 'd> {
    fn bytes(&self) -> u64 {
        self.jobs.iter().map(|job| job.plan.bytes()).sum()
    }

    /// Which bytes are read: in order, neither touching nor overlapping.
    fn ranges(&self) -> Vec<Range<u64>> {
        if let [job] = self.jobs[..] {
            return job.plan.ranges();
        }
        let mut ranges: Vec<_> = self.jobs.iter().flat_map(|job| job.plan.ranges()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        plan::join(ranges)
    }

    /// All chunks, in the order of their offsets.
    fn chunks(&self) -> Vec<(&'j Job<'d>, &'j Chunk)> {
        let chunks_of = |job: &&'j Job<'d>| {
            let job = *job;
            job.plan.chunks().iter().map(move |chunk| (job, chunk))
        };
        let mut chunks: Vec<_> = self.jobs.iter().flat_map(chunks_of).collect();
        if self.jobs.len() > 1 {
            chunks.sort_by_key(|(_, chunk)| chunk.offset);
        }
        chunks
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
