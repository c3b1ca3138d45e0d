//! Turns: who loads when, and in which state of the page cache.

use std::time::{Duration, Instant};

use weightloader::{Checkpoint, Error, Loader};

use super::page_cache::PageCache;
use super::result::{Comparison, Standing};
use super::state::{ByState, State};
use super::way::{Turn, Way};
use crate::failure::Failure;
use crate::progress::Bar;

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rounds: u32,
    /// No further round begins after this time.
    pub(crate) time: Option<Duration>,
}

/// The ways that take part, and how each does.
#[derive(Debug)]
pub(crate) struct Contest<'c> {
    checkpoint: &'c Checkpoint,
    page_cache: PageCache<'c>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    way: Way,
    loader: Loader,
    standings: ByState<Standing>,
}

impl<'c> Contest<'c> {
    /// A contest of `ways`, in their order.
    pub(crate) fn new(checkpoint: &'c Checkpoint, ways: &[Way]) -> Result<Self, Failure> {
        let entries = ways.iter().map(|way| {
            Ok(Entry {
                way: *way,
                loader: way.loader()?,
                standings: ByState::default(),
            })
        });
        Ok(Self {
            checkpoint,
            page_cache: PageCache::new(checkpoint)?,
            entries: entries.collect::<Result<_, Failure>>()?,
        })
    }

    /// Lets every way take its turns, interleaved, so that a disturbance hits all of them.
    pub(crate) fn run(mut self, limits: Limits) -> Result<Comparison, Failure> {
        let started = Instant::now();
        let turns = u64::from(limits.rounds) * (State::ALL.len() * self.entries.len()) as u64;
        let bar = Bar::steps(turns);
        let mut rounds = 0;
        while rounds < limits.rounds && limits.time.is_none_or(|time| started.elapsed() < time) {
            rounds += 1;
            for state in State::ALL {
                for turn in 0..self.entries.len() {
                    // Another way begins each time: whoever comes first after the state of the page
                    // cache has changed finds memory in worse order.
                    let index = (turn + rounds as usize - 1) % self.entries.len();
                    let title = self.entries[index].way.title();
                    bar.step(format!("round {rounds}, {state}: {title}"));
                    self.turn(index, state)?;
                }
            }
        }
        let ways = self
            .entries
            .into_iter()
            .map(|entry| (entry.way, entry.standings));
        Ok(Comparison::new(self.checkpoint, rounds, ways))
    }

    fn turn(&mut self, index: usize, state: State) -> Result<(), Failure> {
        let entry = &mut self.entries[index];
        if !entry.way.has_turn(state) || entry.standings.get(state).is_out() {
            return Ok(());
        }
        let outcome = match self.page_cache.bring(state)? {
            Ok(()) => excused(entry.way.take_turn(&entry.loader, self.checkpoint))?,
            Err(obstacle) => Err(obstacle),
        };
        entry.standings.get_mut(state).add(outcome);
        Ok(())
    }
}

/// What this machine or file does not offer is no failure: the reason stands in its place.
pub(super) fn excused<T>(
    outcome: Result<T, impl Into<Failure>>,
) -> Result<Result<T, String>, Failure> {
    match outcome.map_err(Into::into) {
        Ok(outcome) => Ok(Ok(outcome)),
        Err(Failure::Loader(Error::Unsupported { reason, .. })) => Ok(Err(reason)),
        Err(failure) => Err(failure),
    }
}

/// A turn, or why there is none.
pub(crate) type Outcome = Result<Turn, String>;
