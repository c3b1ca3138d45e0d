//! What belongs to one operation: progress, cancellation, pace, and what its memory is.

use std::ffi::c_void;
use std::sync::Arc;

use weightloader::{CancelToken, Operation};

use crate::boundary::invalid;
use crate::failure::{Failure, Result, Status};
use crate::own_thread;
use crate::registry;
use crate::sized::{self, Growing};
use crate::token::TokenHandle;

/// Told how much is in place, from 0 to 1, on the thread that called the operation; false cancels
/// it.
pub type ProgressCallback =
    Option<unsafe extern "C" fn(fraction: f32, context: *mut c_void) -> bool>;

/// What memory is like that bytes land in; or'ed together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryFlag {
    /// Ordinary memory.
    None = 0,
    /// Direct I/O must not write to it: write-combined or driver memory for which the system
    /// answers EFAULT. Bytes are then copied there, front to back; memory is never read back.
    NoDirect = 1,
    /// Nobody has touched it since it came from the system, so that huge pages may still be asked
    /// for. A hint, and no promise.
    Fresh = 2,
}

/// What belongs to one operation; zero everywhere is an operation that reports nothing and cannot
/// be cancelled.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperationOptions {
    /// sizeof(weightloader_operation).
    pub struct_size: usize,
    /// Called as bytes land, or null.
    pub progress: ProgressCallback,
    /// Given to progress.
    pub progress_context: *mut c_void,
    /// Cancels the operation from other threads, or null.
    pub token: *const TokenHandle,
    /// Bytes a second at most; 0 for what the file was opened with.
    pub bytes_per_second: u64,
    /// weightloader_memory_flag of the memory that bytes land in.
    pub memory_flags: u32,
}

// SAFETY: pointers and numbers, the first of which is the length; a null function is `None`.
unsafe impl Growing for OperationOptions {
    const NAME: &'static str = "weightloader_operation";
}

/// An operation that was read from the caller.
pub(crate) struct Asked {
    options: OperationOptions,
    token: Option<Arc<CancelToken>>,
}

impl Asked {
    /// # Safety
    /// `operation` is null or points to as many bytes as its first member says.
    pub(crate) unsafe fn read(operation: *const OperationOptions) -> Result<Self> {
        // SAFETY: the caller's promise.
        let options = unsafe { sized::read_or_default(operation) }?;
        check_flags(options.memory_flags)?;
        let token = match options.token.is_null() {
            true => None,
            false => Some(registry::find(options.token)?),
        };
        Ok(Self { options, token })
    }

    pub(crate) fn bytes_per_second(&self) -> u64 {
        self.options.bytes_per_second
    }

    pub(crate) fn memory_flags(&self) -> u32 {
        self.options.memory_flags
    }

    /// Runs `work` with this operation's progress and cancellation.
    ///
    /// # Safety
    /// The progress function is a valid one, for the context given with it.
    pub(crate) unsafe fn run<T>(
        &self,
        work: impl FnOnce(Operation<'_>) -> weightloader::Result<T>,
    ) -> Result<T> {
        own_thread::keep();
        // What the callback cancels is this operation alone; the caller's token may serve others.
        let cancel = self.token.as_ref().map(|token| token.child());
        let Some(progress) = self.options.progress else {
            return Ok(work(match &cancel {
                Some(cancel) => Operation::new().cancel(cancel),
                None => Operation::new(),
            })?);
        };
        let cancel = cancel.unwrap_or_default();
        let context = self.options.progress_context;
        let mut refused = false;
        let report = |done: weightloader::Progress| {
            if refused {
                return;
            }
            // SAFETY: the caller's promise.
            if !unsafe { progress(fraction(done.bytes, done.total), context) } {
                refused = true;
                cancel.cancel();
            }
        };
        let outcome = work(Operation::new().on_progress(report).cancel(&cancel));
        if refused {
            return Err(Failure::new(
                Status::Cancelled,
                "cancelled by the progress function",
            ));
        }
        Ok(outcome?)
    }
}

pub(crate) fn check_flags(flags: u32) -> Result<()> {
    if flags & !ALL_FLAGS == 0 {
        Ok(())
    } else {
        Err(invalid(format!(
            "{flags:#x} is no weightloader_memory_flag"
        )))
    }
}

const ALL_FLAGS: u32 = MemoryFlag::NoDirect as u32 | MemoryFlag::Fresh as u32;

#[expect(clippy::cast_precision_loss, reason = "progress for people")]
#[expect(clippy::cast_possible_truncation, reason = "between 0 and 1")]
fn fraction(bytes: u64, total: u64) -> f32 {
    match total {
        0 => 1.0,
        total => (bytes as f64 / total as f64) as f32,
    }
}
