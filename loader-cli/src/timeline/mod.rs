//! Where the time of one load goes: recorded while it runs, and drawn.

mod picture;
mod recorder;

use std::time::Duration;

pub(crate) use picture::draw;
pub(crate) use recorder::Recorder;

/// What happened during one load; times count from its beginning.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// The headers were read.
    pub(crate) opened: Duration,
    /// Everything was in place.
    pub(crate) loaded: Duration,
    pub(crate) reads: Vec<Read>,
    /// Faults ahead of reads, of each thread.
    pub(crate) faults: Vec<Vec<Interval>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
}

/// A chunk on its way from the file to memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) interval: Interval,
    /// Bytes.
    pub(crate) len: u64,
}

impl Timeline {
    /// Lines for people: how long each phase took.
    pub(crate) fn phases(&self) -> Vec<(&'static str, Interval)> {
        let begins = self.reads.iter().map(|read| read.interval.begin);
        let ends = self.reads.iter().map(|read| read.interval.end);
        let first = begins.min().unwrap_or(self.opened).max(self.opened);
        let last = ends
            .max()
            .unwrap_or(first)
            .clamp(first, self.loaded.max(first));
        let phase = |begin, end| Interval { begin, end };
        vec![
            ("headers", phase(Duration::ZERO, self.opened)),
            (
                "residency, plan, memory, workers",
                phase(self.opened, first),
            ),
            ("reads", phase(first, last)),
            ("last byte to return", phase(last, self.loaded.max(last))),
        ]
    }

    /// Time that any thread spent faulting in memory ahead of reads.
    pub(crate) fn faulting(&self) -> Duration {
        let intervals = self.faults.iter().flatten();
        intervals
            .map(|fault| fault.end.saturating_sub(fault.begin))
            .sum()
    }
}
