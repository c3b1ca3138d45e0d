//! Prefetches: started by file or by address, and their jobs.

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weightloader::core::OwnerProcess;
use weightloader::{Loader, Prefetch, PrefetchOutcome};

use crate::boundary::{give, guarded, invalid, output};
use crate::failure::{Result, Status};
use crate::file::FileHandle;
use crate::memory;
use crate::operation::{Asked, OperationOptions};
use crate::registry::{self, handle};
use crate::sized::{self, Growing};

handle!(
    /// A prefetch in the background.
    JobHandle,
    Job,
    "weightloader_job"
);

/// A prefetch, until somebody ends it, or nothing that was left to do from the beginning.
#[derive(Debug)]
pub(crate) struct Job {
    owner: OwnerProcess,
    prefetch: Mutex<Option<Prefetch>>,
}

impl Job {
    /// `None` is a job with nothing to do.
    fn new(prefetch: Option<Prefetch>) -> Self {
        Self {
            owner: OwnerProcess::current(),
            prefetch: Mutex::new(prefetch),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<Prefetch>>> {
        self.owner.check()?;
        Ok(self.prefetch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look<T>(&self, look: impl FnOnce(&Prefetch) -> T) -> Result<Option<T>> {
        Ok(self.lock()?.as_ref().map(look))
    }

    /// Ends the job that `handle` stands for.
    fn end(handle: *const JobHandle) -> Result<Option<Prefetch>> {
        let job = registry::close(handle)?;
        let ended = job.lock()?.take();
        Ok(ended)
    }
}

/// What a prefetch did, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// sizeof(weightloader_outcome).
    pub struct_size: usize,
    /// In the page cache or on their way.
    pub brought: u64,
    /// Not asked for, because memory would not hold them.
    pub skipped: u64,
    /// Left to reads that came first, or cancelled.
    pub cancelled: u64,
    /// For which the hint failed.
    pub failed: u64,
}

// SAFETY: numbers, the first of which is the length.
unsafe impl Growing for Outcome {
    const NAME: &'static str = "weightloader_outcome";
}

/// Brings `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into the page cache in
/// the background, and returns at once whatever the size. Later reads of them take over what has
/// not begun by then. The job outlives the file.
///
/// A job is ended by exactly one of weightloader_job_wait(), weightloader_job_cancel() and
/// weightloader_job_detach(), which also frees its handle.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `job` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_prefetch(
    file: *const FileHandle,
    offset: u64,
    length: u64,
    job: *mut *mut JobHandle,
) -> Status {
    guarded(|| {
        output(job, "job")?;
        let opened = registry::find(file)?;
        let end = opened.end(offset, length)?;
        let prefetch = opened.loader.prefetch(&opened.file, offset..end)?;
        let handle = registry::issue(Job::new(Some(prefetch)))?;
        // SAFETY: the caller's promise.
        unsafe { give(job, handle, "job") }
    })
}

/// As weightloader_prefetch(), for what lies behind `length` bytes of mapped memory at `address`:
/// of a mapping made by weightloader_map(), or on Linux of any mapping of one file, whoever made
/// it. The memory itself is never touched, and need not stay mapped. Anything else is
/// WEIGHTLOADER_STATUS_UNSUPPORTED, but no bytes are no work, wherever they are.
///
/// Threads: any, at any time.
///
/// # Safety
/// `job` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_prefetch_address(
    address: *const c_void,
    length: usize,
    job: *mut *mut JobHandle,
) -> Status {
    guarded(|| {
        output(job, "job")?;
        if address.addr().checked_add(length).is_none() {
            return Err(invalid("the range reaches beyond all addresses"));
        }
        let prefetch = match length {
            0 => None,
            _ => Some(prefetch_behind(address, length)?),
        };
        let handle = registry::issue(Job::new(prefetch))?;
        // SAFETY: the caller's promise.
        unsafe { give(job, handle, "job") }
    })
}

fn prefetch_behind(address: *const c_void, length: usize) -> Result<Prefetch> {
    Ok(match memory::behind(address.addr(), length)? {
        Some((opened, range)) => opened.loader.prefetch(&opened.file, range)?,
        None => Loader::new()?.prefetch_mapped(address.cast(), length)?,
    })
}

/// Tells whether nothing is left to do.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `done` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_job_done(job: *const JobHandle, done: *mut bool) -> Status {
    guarded(|| {
        let answer = registry::find(job)?.look(Prefetch::is_done)?;
        let answer = answer.unwrap_or(true);
        // SAFETY: the caller's promise.
        unsafe { give(done, answer, "done") }
    })
}

/// Tells how many bytes need no more work, and how many there are in all.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `settled` and `total` are valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_job_progress(
    job: *const JobHandle,
    settled: *mut u64,
    total: *mut u64,
) -> Status {
    guarded(|| {
        output(settled, "settled")?;
        output(total, "total")?;
        let progress = registry::find(job)?.look(Prefetch::progress)?;
        let (done, all) = progress.unwrap_or((0, 0));
        // SAFETY: the caller's promise.
        unsafe { give(settled, done, "settled") }?;
        // SAFETY: the caller's promise.
        unsafe { give(total, all, "total") }
    })
}

/// Waits until all is in the page cache or on its way, and frees the job. Of `operation`, which may
/// be null, progress and token are used; where these cancel the wait, the rest of the job is
/// cancelled too, and it is freed all the same. `outcome` may be null.
///
/// Threads: any, but one alone can end a job: for others its handle is closed.
///
/// # Safety
/// `operation` and `outcome` are null or have their `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_job_wait(
    job: *mut JobHandle,
    operation: *const OperationOptions,
    outcome: *mut Outcome,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let asked = unsafe { Asked::read(operation) }?;
        if !outcome.is_null() {
            // SAFETY: the caller's promise.
            unsafe { sized::output(outcome) }?;
        }
        let done = match Job::end(job)? {
            None => PrefetchOutcome::default(),
            // SAFETY: the caller's promise.
            Some(prefetch) => unsafe { asked.run(|operation| prefetch.wait(operation)) }?,
        };
        if outcome.is_null() {
            return Ok(());
        }
        let answer = Outcome {
            struct_size: 0,
            brought: done.brought,
            skipped: done.skipped,
            cancelled: done.cancelled,
            failed: done.failed,
        };
        // SAFETY: the caller's promise.
        unsafe { sized::write(outcome, &answer) }
    })
}

/// Cancels what has not started, without waiting for what has, and frees the job.
///
/// Threads: any, but one alone can end a job: for others its handle is closed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_job_cancel(job: *mut JobHandle) -> Status {
    guarded(|| Job::end(job).map(drop))
}

/// Lets the job run on by itself, and frees its handle.
///
/// Threads: any, but one alone can end a job: for others its handle is closed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_job_detach(job: *mut JobHandle) -> Status {
    guarded(|| {
        if let Some(prefetch) = Job::end(job)? {
            prefetch.detach();
        }
        Ok(())
    })
}
