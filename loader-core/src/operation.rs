//! What belongs to one operation rather than to a loader: progress and cancellation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels operations from any thread. Clones cancel together.
///
/// ```
/// let token = loader_core::CancelToken::new();
/// let seen_elsewhere = token.clone();
/// token.cancel();
/// assert!(seen_elsewhere.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Cancellation>);

#[derive(Debug, Default)]
struct Cancellation {
    cancelled: AtomicBool,
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that this one cancels too, but that does not cancel this one: for one of several
    /// operations that share a token.
    ///
    /// ```
    /// let all = loader_core::CancelToken::new();
    /// let (one, another) = (all.child(), all.child());
    /// one.cancel();
    /// assert!(one.is_cancelled() && !another.is_cancelled());
    /// all.cancel();
    /// assert!(another.is_cancelled());
    /// ```
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Cancellation {
            cancelled: AtomicBool::new(false),
            parent: Some(self.clone()),
        }))
    }

    /// Asks every operation that holds this token to stop. What is in flight is still waited for.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called, of this token or of one that it is a child of.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let Cancellation { cancelled, parent } = &*self.0;
        cancelled.load(Ordering::Acquire) || parent.as_ref().is_some_and(Self::is_cancelled)
    }
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes in place.
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Progress and cancellation of one operation.
///
/// ```
/// use loader_core::{CancelToken, Operation};
/// let token = CancelToken::new();
/// let mut seen = 0;
/// let operation = Operation::new().on_progress(|progress| seen = progress.bytes).cancel(&token);
/// # drop(operation);
/// ```
#[derive(Default)]
pub struct Operation<'a> {
    on_progress: Option<Box<dyn FnMut(Progress) + 'a>>,
    cancel: Option<CancelToken>,
}

impl<'a> Operation<'a> {
    /// An operation that reports nothing and cannot be cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `callback` on the calling thread as bytes land, and once when all have.
    ///
    /// A panic in it stops the operation and passes on once nothing is in flight any more.
    #[must_use]
    pub fn on_progress(mut self, callback: impl FnMut(Progress) + 'a) -> Self {
        self.on_progress = Some(Box::new(callback));
        self
    }

    /// Stops with [`Error::Cancelled`](crate::Error::Cancelled) once `token` is cancelled.
    #[must_use]
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Whether anybody wants to hear of progress.
    #[must_use]
    pub fn wants_progress(&self) -> bool {
        self.on_progress.is_some()
    }

    /// Tells the callback how far the operation has come.
    pub fn report(&mut self, bytes: u64, total: u64) {
        if let Some(callback) = &mut self.on_progress {
            callback(Progress { bytes, total });
        }
    }

    /// Whether the operation was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// The token that cancels it, if any.
    #[must_use]
    pub fn token(&self) -> Option<&CancelToken> {
        self.cancel.as_ref()
    }
}

impl fmt::Debug for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("on_progress", &self.on_progress.is_some())
            .field("cancel", &self.cancel)
            .finish()
    }
}
