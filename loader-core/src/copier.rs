//! The chunked parallel copier: feeds plans to readers over workers.

use std::ops::Range;

use crossbeam::channel::unbounded;

use crate::feeder::{Events, Feeder};
use crate::route::TINY;
use crate::run::Run;
use crate::{
    Destination, Error, Extent, LoadOptions, Operation, Plan, Platform, Report, Result, WeightFile,
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
        files: &[(WeightFile, Vec<Range<u64>>)],
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
