//! Turns: who loads when, and in which state of the page cache.

use std::time::{Duration, Instant};

use weightloader::{Checkpoint, Error, HostBuffer, Loader, Operation, WeightFile};

use super::result::{Comparison, Standing};
use super::way::{State, Turn, Way};
use crate::failure::Failure;
use crate::progress::Bar;
use crate::{cache, units};

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
    /// For what is no way's own: evicting, warming, asking.
    loader: Loader,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    way: Way,
    loader: Loader,
    cold: Standing,
    warm: Standing,
}

/// From this resident share on files count as warm.
const WARM: f64 = 0.99;

impl<'c> Contest<'c> {
    /// A contest of `ways`, in their order.
    pub(crate) fn new(checkpoint: &'c Checkpoint, ways: &[Way]) -> Result<Self, Failure> {
        let entries = ways.iter().map(|way| {
            Ok(Entry {
                way: *way,
                loader: way.loader()?,
                cold: Standing::default(),
                warm: Standing::default(),
            })
        });
        Ok(Self {
            checkpoint,
            loader: Loader::new()?,
            entries: entries.collect::<Result<_, Failure>>()?,
        })
    }

    /// Lets every way take its turns, interleaved, so that a disturbance hits all of them.
    pub(crate) fn run(mut self, limits: Limits) -> Result<Comparison, Failure> {
        let started = Instant::now();
        let turns = u64::from(limits.rounds) * 2 * self.entries.len() as u64;
        let bar = Bar::steps(turns);
        let mut rounds = 0;
        while rounds < limits.rounds && limits.time.is_none_or(|time| started.elapsed() < time) {
            rounds += 1;
            for state in [State::Cold, State::Warm] {
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
            .map(|entry| (entry.way, entry.cold, entry.warm));
        Ok(Comparison::new(self.checkpoint, rounds, ways))
    }

    fn turn(&mut self, index: usize, state: State) -> Result<(), Failure> {
        let way = self.entries[index].way;
        if !way.has_turn(state) || self.standing(index, state).is_out() {
            return Ok(());
        }
        let outcome = match self.prepare(state)? {
            Ok(()) => excused(way.take_turn(&self.entries[index].loader, self.checkpoint))?,
            Err(obstacle) => Err(obstacle),
        };
        self.standing(index, state).add(outcome);
        Ok(())
    }

    fn standing(&mut self, index: usize, state: State) -> &mut Standing {
        let entry = &mut self.entries[index];
        match state {
            State::Cold => &mut entry.cold,
            State::Warm => &mut entry.warm,
        }
    }

    /// Brings the page cache into `state`, or tells why it cannot be.
    fn prepare(&self, state: State) -> Result<Result<(), String>, Failure> {
        let files = self.checkpoint.files();
        match state {
            State::Cold => {
                if let Err(reason) = excused(cache::evict(&self.loader, files))? {
                    return Ok(Err(reason));
                }
                let left = cache::resident_share(&self.loader, files)?;
                Ok(match left {
                    Some(share) if share > cache::COLD => Err(format!(
                        "{} stays in the page cache after eviction",
                        units::percent(share)
                    )),
                    _ => Ok(()),
                })
            }
            State::Warm => {
                if self.is_warm()? != Some(true) {
                    for file in files {
                        self.warm(file)?;
                    }
                }
                Ok(match self.is_warm()? {
                    Some(false) => Err("the page cache does not hold all of it".to_owned()),
                    _ => Ok(()),
                })
            }
        }
    }

    fn is_warm(&self) -> Result<Option<bool>, Failure> {
        let share = cache::resident_share(&self.loader, self.checkpoint.files())?;
        Ok(share.map(|share| share >= WARM))
    }

    /// Reads the file once through the page cache.
    fn warm(&self, file: &WeightFile) -> Result<(), Failure> {
        const PIECE: u64 = 32 << 20;
        let loader = Way::Buffered.loader()?;
        let len = usize::try_from(PIECE.min(file.len())).unwrap_or(0);
        let mut buffer = HostBuffer::zeroed(&*loader.platform().memory, len)?;
        let mut start = 0;
        while start < file.len() {
            let end = file.len().min(start + PIECE);
            let len = usize::try_from(end - start).unwrap_or(0);
            loader.read_into(file, start..end, &mut buffer[..len], Operation::new())?;
            start = end;
        }
        Ok(())
    }
}

/// What this machine or file does not offer is no failure: the reason stands in its place.
fn excused<T>(outcome: Result<T, impl Into<Failure>>) -> Result<Result<T, String>, Failure> {
    match outcome.map_err(Into::into) {
        Ok(outcome) => Ok(Ok(outcome)),
        Err(Failure::Loader(Error::Unsupported { reason, .. })) => Ok(Err(reason)),
        Err(failure) => Err(failure),
    }
}

/// A turn, or why there is none.
pub(crate) type Outcome = Result<Turn, String>;
