//! Prefetching in the background, and the handle to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use crate::pace::Pace;
use crate::transfer::locked;
use crate::{
    Error, Operation, OwnerProcess, Prefetcher, Refusal, Result, System, WeightFile, new_thread,
};

/// Brings `ranges` (from the start of the file on disk) of `file` into the page cache in the
/// background, by the first of `prefetchers` that serves. Returns at once, whatever the size.
///
/// Ranges may be empty and may overlap; what reaches outside the file is ignored.
///
/// Only as much is brought in as fits the memory that is free, so that what came first is not
/// evicted by what comes last; the rest is told as skipped. A hint that fails is logged and told
/// in the outcome, never an error.
///
/// `pace` is how many bytes a second to ask for at most, so that others who use the device are not
/// disturbed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Operation, Platform, WeightFile};
/// let platform = Platform::portable();
/// let file = WeightFile::open(&path)?;
/// let ahead = loader_core::prefetch(&platform.prefetchers, &platform.system, &file, vec![0..7], None);
/// let outcome = ahead.wait(Operation::new())?;
/// assert_eq!(outcome.brought, 0); // The portable platform has no prefetcher.
/// # Ok(())
/// # }
/// ```
pub fn prefetch(
    prefetchers: &[Arc<dyn Prefetcher>],
    system: &Arc<dyn System>,
    file: &WeightFile,
    ranges: Vec<Range<u64>>,
    pace: Option<u64>,
) -> Prefetch {
    let within = |range: Range<u64>| range.start..range.end.min(file.disk_len());
    let ranges = ranges.into_iter().map(within);
    let pending: VecDeque<_> = ranges.filter(|range| !range.is_empty()).collect();
    let queue = Arc::new(PrefetchQueue {
        file: file.clone(),
        total: bytes_of(&pending),
        pace: pace.map(Pace::new),
        owner: OwnerProcess::current(),
        state: Mutex::new(State {
            pending,
            live: true,
            ..State::default()
        }),
        changed: Condvar::new(),
    });
    register(&queue);
    let path = file.path().display();
    let span = tracing::debug_span!("prefetch", %path, bytes = queue.total);
    let (prefetchers, system) = (prefetchers.to_vec(), Arc::clone(system));
    let driven = Arc::clone(&queue);
    let driver = new_thread(THREAD).and_then(|thread| {
        thread.spawn(move || span.in_scope(|| drive(&driven, &prefetchers, &*system)))
    });
    if let Err(error) = driver {
        tracing::warn!(%error, "no thread for prefetching");
        queue.end();
    }
    Prefetch {
        queue,
        detached: false,
    }
}

/// The name of its threads.
const THREAD: &str = "weightloader-prefetch";

/// The share of the available memory that a prefetch may fill: the rest is for those who use what
/// it brings.
const WINDOW: (u64, u64) = (3, 4);

fn drive(queue: &PrefetchQueue, prefetchers: &[Arc<dyn Prefetcher>], system: &dyn System) {
    // Also when a prefetcher panics, those who wait must be told.
    struct End<'a>(&'a PrefetchQueue);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    let _end = End(queue);
    if let Some(available) = system.available_memory() {
        queue.bound_by(available / WINDOW.1 * WINDOW.0);
    }
    let span = tracing::Span::current();
    for prefetcher in prefetchers {
        tracing::debug!(mechanism = %prefetcher.mechanism(), "prefetching");
        queue.cut(prefetcher.piece_bytes(&queue.file));
        let refused = thread::scope(|scope| {
            let others: Vec<_> = (1..prefetcher.workers())
                // With fewer where the system gives no more threads.
                .map_while(|_| {
                    let work = || span.in_scope(|| prefetcher.run(queue));
                    new_thread(THREAD).ok()?.spawn_scoped(scope, work).ok()
                })
                .collect();
            let own = prefetcher.run(queue).err();
            let theirs = others.into_iter().filter_map(|other| match other.join() {
                Ok(outcome) => outcome.err(),
                Err(panic) => resume_unwind(panic),
            });
            own.into_iter().chain(theirs).last()
        });
        match refused {
            None => return,
            Some(refusal) => {
                tracing::debug!(%refusal, "prefetching by the next mechanism");
                locked(&queue.state).outcome.fallbacks.push(refusal);
            }
        }
    }
}

/// The pieces of one prefetch, which workers pull from.
#[derive(Debug)]
pub struct PrefetchQueue {
    file: WeightFile,
    total: u64,
    pace: Option<Pace>,
    /// The process that has the threads which drive it.
    owner: OwnerProcess,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Range<u64>>,
    piece_bytes: u64,
    /// Taken by a worker, done or not, joined where they touch.
    started: Vec<Range<u64>>,
    /// Whether the driver is still at work.
    live: bool,
    outcome: PrefetchOutcome,
}

impl State {
    /// The piece that comes next.
    fn peek(&self) -> Option<Range<u64>> {
        let range = self.pending.front()?;
        let end = match self.piece_bytes {
            0 => range.end,
            bytes => (range.start / bytes + 1)
                .saturating_mul(bytes)
                .min(range.end),
        };
        Some(range.start..end)
    }

    /// Takes a piece off the front of what is pending.
    fn take(&mut self, piece: Range<u64>) -> Range<u64> {
        match self.pending.front_mut() {
            Some(range) if piece.end < range.end => range.start = piece.end,
            _ => drop(self.pending.pop_front()),
        }
        match self.started.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => self.started.push(piece.clone()),
        }
        piece
    }
}

/// What a prefetch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefetchOutcome {
    /// Bytes that are resident or on their way.
    pub brought: u64,
    /// Bytes not asked for, because memory would not hold them.
    pub skipped: u64,
    /// Bytes left to reads that came first, or cancelled.
    pub cancelled: u64,
    /// Bytes whose hint failed.
    pub failed: u64,
    /// Mechanisms passed over, and why.
    pub fallbacks: Vec<Refusal>,
}

impl PrefetchOutcome {
    fn settled(&self) -> u64 {
        self.brought + self.skipped + self.cancelled + self.failed
    }
}

impl PrefetchQueue {
    /// The file that pieces are of.
    #[must_use]
    pub fn file(&self) -> &WeightFile {
        &self.file
    }

    /// The next piece, from the start of the file on disk. Waits where a pace was asked for.
    #[must_use]
    pub fn next(&self) -> Option<Range<u64>> {
        let mut state = locked(&self.state);
        loop {
            let piece = state.peek()?;
            let admitted = self
                .pace
                .as_ref()
                .map_or(Ok(()), |pace| pace.admit(piece.end - piece.start));
            let Err(wait) = admitted else {
                return Some(state.take(piece));
            };
            let woken = self.changed.wait_timeout(state, wait);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells that a piece is resident or on its way.
    pub fn done(&self, piece: &Range<u64>) {
        locked(&self.state).outcome.brought += piece.end - piece.start;
        self.changed.notify_all();
    }

    /// Gives back a piece that the mechanism cannot bring in at all, before it refuses.
    pub fn give_back(&self, piece: Range<u64>) {
        locked(&self.state).pending.push_front(piece);
    }

    /// Tells that a piece was not brought in; the reason is logged.
    pub fn failed(&self, piece: &Range<u64>, error: &std::io::Error) {
        let path = self.file.path().display();
        tracing::debug!(%path, offset = piece.start, len = piece.end - piece.start, %error, "a prefetch failed");
        locked(&self.state).outcome.failed += piece.end - piece.start;
        self.changed.notify_all();
    }

    fn cut(&self, piece_bytes: u64) {
        let whole = if piece_bytes == 0 {
            u64::MAX
        } else {
            piece_bytes
        };
        let paced = self.pace.as_ref().map_or(u64::MAX, Pace::piece_bytes);
        locked(&self.state).piece_bytes = whole.min(paced);
    }

    /// Drops what is pending beyond the first `window` bytes.
    fn bound_by(&self, window: u64) {
        let mut guard = locked(&self.state);
        let state = &mut *guard;
        let mut left = window;
        let mut kept = VecDeque::with_capacity(state.pending.len());
        for range in state.pending.drain(..) {
            let len = range.end.saturating_sub(range.start);
            let keep = len.min(left);
            left -= keep;
            state.outcome.skipped += len - keep;
            if keep > 0 {
                kept.push_back(range.start..range.start + keep);
            }
        }
        state.pending = kept;
        if state.outcome.skipped > 0 {
            let path = self.file.path().display();
            tracing::debug!(%path, skipped = state.outcome.skipped, window, "prefetching only what memory holds");
        }
    }

    fn cancel_pending(&self) {
        let mut state = locked(&self.state);
        state.outcome.cancelled += bytes_of(&std::mem::take(&mut state.pending));
        drop(state);
        // Workers may be waiting for their pace.
        self.changed.notify_all();
    }

    fn end(&self) {
        let mut state = locked(&self.state);
        state.pending.clear();
        // What no mechanism took was not brought, nor what one took and said nothing of.
        let silent = self.total.saturating_sub(state.outcome.settled());
        state.outcome.failed += silent;
        let outcome = state.outcome.clone();
        drop(state);
        // Before anybody who waits goes on, and outside the lock.
        tracing::debug!(?outcome, "prefetched");
        locked(&self.state).live = false;
        self.changed.notify_all();
    }

    fn is_live(&self) -> bool {
        self.owner.is_current() && locked(&self.state).live
    }

    /// Takes `range` out of what is pending and tells which parts of it were started.
    fn claim(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut guard = locked(&self.state);
        let state = &mut *guard;
        let mut kept = VecDeque::with_capacity(state.pending.len() + 1);
        for pending in state.pending.drain(..) {
            let before = pending.start..pending.end.min(range.start.max(pending.start));
            let after = pending.start.max(range.end.min(pending.end))..pending.end;
            let left: u64 = [&before, &after]
                .iter()
                .map(|part| part.end - part.start)
                .sum();
            state.outcome.cancelled += (pending.end - pending.start) - left;
            kept.extend([before, after].into_iter().filter(|part| !part.is_empty()));
        }
        state.pending = kept;
        // Workers may be waiting for their pace.
        self.changed.notify_all();
        let overlap =
            |started: &Range<u64>| started.start.max(range.start)..started.end.min(range.end);
        state
            .started
            .iter()
            .map(overlap)
            .filter(|part| !part.is_empty())
            .collect()
    }
}

/// A prefetch in the background. Dropping it cancels what has not started and never blocks;
/// [`detach`](Self::detach) lets it run on by itself.
///
/// In a process forked after it was made it does nothing.
#[derive(Debug)]
#[must_use = "dropping the handle cancels what has not started; call detach() to let it run"]
pub struct Prefetch {
    queue: Arc<PrefetchQueue>,
    detached: bool,
}

impl Prefetch {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.queue.owner.is_current() || !locked(&self.queue.state).live
    }

    /// Bytes that need no more work, and bytes in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        if !self.queue.owner.is_current() {
            return (0, self.queue.total);
        }
        (
            locked(&self.queue.state).outcome.settled(),
            self.queue.total,
        )
    }

    /// Waits until all is resident or on its way, and tells what happened.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where `operation` was cancelled meanwhile, [`Error::Forked`] in a
    /// forked child.
    pub fn wait(self, mut operation: Operation<'_>) -> Result<PrefetchOutcome> {
        self.queue.owner.check()?;
        loop {
            let (settled, live) = {
                let state = locked(&self.queue.state);
                (state.outcome.settled(), state.live)
            };
            // Outside the lock, since the callback may take long or panic.
            operation.report(settled, self.queue.total);
            if !live {
                return Ok(locked(&self.queue.state).outcome.clone());
            }
            if operation.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let state = locked(&self.queue.state);
            if state.live && state.outcome.settled() == settled {
                let pause = Duration::from_millis(50);
                drop(
                    self.queue
                        .changed
                        .wait_timeout(state, pause)
                        .unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }

    /// Cancels what has not started, without waiting for what has: as dropping it does.
    pub fn cancel(self) {
        drop(self);
    }

    /// Lets it run on by itself.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        if !self.detached && self.queue.owner.is_current() {
            self.queue.cancel_pending();
        }
    }
}

fn bytes_of(ranges: &VecDeque<Range<u64>>) -> u64 {
    let lens = ranges.iter().map(|range| range.end - range.start);
    lens.fold(0, u64::saturating_add)
}

/// Live prefetches of this process, so that reads can claim what they are about to bring.
static LIVE: Mutex<Vec<Weak<PrefetchQueue>>> = Mutex::new(Vec::new());

/// The number of the process that they are of; none before there was one.
static LIVE_IN: AtomicU32 = AtomicU32::new(0);

fn register(queue: &Arc<PrefetchQueue>) {
    if let Some(mut live) = lock_live() {
        live.retain(|other| other.upgrade().is_some_and(|other| other.is_live()));
        live.push(Arc::downgrade(queue));
    }
}

/// Claims `ranges` (from the start of the file on disk) for a read: live prefetches of the same
/// file leave them alone from now on. Tells which parts they have started, which are best read
/// through the page cache.
pub(crate) fn claim(file: &WeightFile, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let none_ever = LIVE_IN.load(Ordering::Acquire) == 0;
    let Some(live) = (!none_ever).then(lock_live).flatten() else {
        return Vec::new();
    };
    let queues: Vec<_> = live.iter().filter_map(Weak::upgrade).collect();
    drop(live);
    queues
        .iter()
        .filter(|queue| queue.file.id() == file.id() && queue.is_live())
        .flat_map(|queue| ranges.iter().flat_map(|range| queue.claim(range)))
        .collect()
}

/// The lock may have been held by another thread at a fork, and then is never released in the
/// child: there it is not waited for.
fn lock_live() -> Option<MutexGuard<'static, Vec<Weak<PrefetchQueue>>>> {
    let this = std::process::id();
    let known = LIVE_IN.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire);
    if known.is_ok() || known == Err(this) {
        return Some(locked(&LIVE));
    }
    let live = match LIVE.try_lock() {
        Ok(live) => live,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    LIVE_IN.store(this, Ordering::Release);
    Some(live)
}
