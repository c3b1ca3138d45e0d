//! What all queues, readers and the copier share during one operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::pace::Pace;
use crate::{CancelToken, Error, Mechanism, Refusal};

/// What the coordinating thread wants to be woken for.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes have landed; only sent where somebody wants progress.
    Progress,
    /// A group of pieces has landed in full.
    Group(usize),
    /// A feeder has room for more.
    Room,
    /// A reader passed a piece on to the buffered queue.
    Refused,
    /// Everything has landed, or the transfer was stopped.
    Finished,
}

/// The state of one operation.
#[derive(Debug)]
pub(crate) struct Transfer {
    cancel: Option<CancelToken>,
    stopped: AtomicBool,
    failure: Mutex<Option<Error>>,
    /// Bytes in place.
    landed: AtomicU64,
    /// Progress is told when this many bytes more have landed.
    progress_step: u64,
    /// Pieces pushed and not yet landed, and one more while pieces may still be pushed.
    outstanding: AtomicUsize,
    tally: Mutex<Tally>,
    events: Sender<Event>,
    pub(crate) pace: Option<Pace>,
    /// How many wait for something to change, in whichever queue.
    waiting: Mutex<usize>,
    changed: Condvar,
}

/// What a report will say.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) chunks: BTreeMap<Mechanism, u64>,
    pub(crate) fallbacks: Vec<Refusal>,
}

impl Tally {
    /// Notes why a mechanism was passed over, each reason once.
    pub(crate) fn fell_back(&mut self, refusal: Refusal) {
        if self.note(&refusal) {
            tell(&refusal);
        }
    }

    /// As [`fell_back`](Self::fell_back), for those who hold a lock; tells whether it is news.
    fn note(&mut self, refusal: &Refusal) -> bool {
        let is_news = !self.fallbacks.contains(refusal);
        if is_news {
            self.fallbacks.push(refusal.clone());
        }
        is_news
    }
}

fn tell(refusal: &Refusal) {
    tracing::debug!(%refusal, "falling back");
}

impl Transfer {
    /// `progress_step` of zero asks for no progress events.
    pub(crate) fn new(
        cancel: Option<CancelToken>,
        progress_step: u64,
        events: Sender<Event>,
        tally: Tally,
        pace: Option<Pace>,
    ) -> Self {
        Self {
            cancel,
            stopped: AtomicBool::new(false),
            failure: Mutex::new(None),
            landed: AtomicU64::new(0),
            progress_step,
            outstanding: AtomicUsize::new(1),
            tally: Mutex::new(tally),
            events,
            pace,
            waiting: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// Whether readers shall take no more work.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
            || self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// Whether no more work will ever come.
    pub(crate) fn is_over(&self) -> bool {
        self.is_stopped() || self.outstanding.load(Ordering::Acquire) == 0
    }

    /// Makes readers take no more work.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.finish();
    }

    /// Stops for `error`; the first error is the one that is told.
    pub(crate) fn fail(&self, error: Error) {
        locked(&self.failure).get_or_insert(error);
        self.stop();
    }

    /// Counts a piece that is to land.
    pub(crate) fn expect_piece(&self) {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
    }

    /// Says that no more pieces will be pushed.
    pub(crate) fn close(&self) {
        self.piece_over();
    }

    /// Counts bytes in place.
    pub(crate) fn bytes_landed(&self, bytes: u64) {
        let before = self.landed.fetch_add(bytes, Ordering::AcqRel);
        if self.progress_step > 0
            && before / self.progress_step != (before + bytes) / self.progress_step
        {
            self.send(Event::Progress);
        }
    }

    /// Counts a piece in place in full.
    pub(crate) fn piece_landed(&self, mechanism: Mechanism) {
        *locked(&self.tally).chunks.entry(mechanism).or_default() += 1;
        self.piece_over();
    }

    pub(crate) fn group_landed(&self, group: usize) {
        self.send(Event::Group(group));
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        let is_news = locked(&self.tally).note(refusal);
        self.send(Event::Refused);
        // Subscribers run outside of locks: they may take long, or panic.
        if is_news {
            tell(refusal);
        }
    }

    /// Bytes in place.
    pub(crate) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Takes the outcome: what the report will say, and the error that stopped it, of which
    /// cancellation is one.
    pub(crate) fn outcome(self) -> (Tally, Option<Error>) {
        let complete = self.outstanding.into_inner() == 0;
        let cancelled = (!complete).then_some(Error::Cancelled);
        (
            into_inner(self.tally),
            into_inner(self.failure).or(cancelled),
        )
    }

    /// Wakes readers that wait for work.
    pub(crate) fn wake(&self) {
        // Waking nobody is a system call all the same.
        if *locked(&self.waiting) > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until woken, or for `at_most`, unless `ready` says that there is no need to; `ready` is
    /// asked when whoever changes that has to wait, so that no change is missed.
    pub(crate) fn wait_unless(&self, ready: impl Fn() -> bool, at_most: Option<Duration>) {
        let mut waiting = locked(&self.waiting);
        if ready() {
            return;
        }
        *waiting += 1;
        let mut woken = match at_most {
            None => self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner),
            Some(at_most) => {
                let woken = self.changed.wait_timeout(waiting, at_most);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *woken -= 1;
    }

    fn piece_over(&self) {
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
    }

    fn finish(&self) {
        self.wake();
        self.send(Event::Finished);
    }

    fn send(&self, event: Event) {
        // The receiver outlives the workers; if it is gone, nobody wants to know.
        let _ = self.events.send(event);
    }
}

/// Locks `mutex` also where a panic has poisoned it: every update here is a single step.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
