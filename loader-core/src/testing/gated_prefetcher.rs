//! A prefetcher that goes only as far as it is let.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::transfer::locked;
use crate::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};

/// Takes as many pieces as a test lets it, and remembers which: for tests of what happens while a
/// prefetch is under way. It stays under way, also with nothing left to take, until it is opened.
#[derive(Debug)]
pub struct GatedPrefetcher {
    piece_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Pieces that may still be taken.
    allowed: usize,
    /// Whether any number may.
    open: bool,
    taken: Vec<Range<u64>>,
}

impl GatedPrefetcher {
    /// A prefetcher in pieces of `piece_bytes` that may not take any yet.
    #[must_use]
    pub fn new(piece_bytes: u64) -> Self {
        Self {
            piece_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Lets it take so many more pieces.
    pub fn allow(&self, pieces: usize) {
        locked(&self.state).allowed += pieces;
        self.changed.notify_all();
    }

    /// Lets it take all pieces.
    pub fn open(&self) {
        locked(&self.state).open = true;
        self.changed.notify_all();
    }

    /// Waits until it has taken so many pieces in all.
    pub fn wait_for(&self, pieces: usize) {
        let mut state = locked(&self.state);
        while state.taken.len() < pieces {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The pieces it has taken so far.
    #[must_use]
    pub fn taken(&self) -> Vec<Range<u64>> {
        locked(&self.state).taken.clone()
    }
}

impl Prefetcher for GatedPrefetcher {
    fn mechanism(&self) -> Mechanism {
        Mechanism::new("gated")
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        self.piece_bytes
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        loop {
            let mut state = locked(&self.state);
            while !state.open && state.allowed == 0 {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.allowed = state.allowed.saturating_sub(1);
            let open = state.open;
            // The next piece may have to be waited for.
            drop(state);
            let Some(piece) = queue.next() else {
                if open {
                    return Ok(());
                }
                continue;
            };
            queue.done(&piece);
            locked(&self.state).taken.push(piece);
            self.changed.notify_all();
        }
    }

    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }
}
