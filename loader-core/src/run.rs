//! One operation of a copier, from its preparation to its report.

use std::ops::Range;
use std::thread;
use std::time::Instant;

use tracing::debug_span;
use tracing::field::Empty;
use tracing::span::EnteredSpan;

use crate::budget::{self, Lease};
use crate::coordinator::{Queues, coordinate};
use crate::crew::{Crew, Hired};
use crate::feeder::{Events, Feeder};
use crate::new_thread::{no_thread, threads_start};
use crate::pace::Pace;
use crate::route::{Route, TINY};
use crate::slabs::SLAB_BYTES;
use crate::transfer::{Tally, Transfer};
use crate::{
    CachePolicy, Copier, Error, LoadOptions, Operation, Platform, Queue, Report, Result, Strategy,
    Usage, WeightFile,
};

/// How an operation ended.
pub(crate) struct Ending {
    /// What it did, up to its error if there is one.
    pub(crate) report: Report,
    pub(crate) error: Option<Error>,
}

impl Ending {
    /// Of one that did nothing.
    pub(crate) fn at_once(error: Error) -> Self {
        Self {
            report: Report::default(),
            error: Some(error),
        }
    }

    /// The report of one that reached its end.
    pub(crate) fn complete(self) -> Result<Report> {
        match self.error {
            None => Ok(self.report),
            Some(error) => Err(error),
        }
    }
}

/// One operation of a copier, from its preparation to its report.
pub(crate) struct Run<'c> {
    copier: &'c Copier<'c>,
    started: Instant,
    /// What the process had used; asking costs more than a tiny operation does.
    before: Option<Usage>,
    files: Vec<WeightFile>,
    routes: Vec<Route>,
    pub(crate) total: u64,
    tally: Tally,
    events: Events,
    /// What those who listen see it as, from its preparation on.
    span: EnteredSpan,
}

impl<'c> Run<'c> {
    pub(crate) fn start(copier: &'c Copier<'c>, events: Events) -> Self {
        Self {
            copier,
            started: Instant::now(),
            before: None,
            files: Vec::new(),
            routes: Vec::new(),
            total: 0,
            tally: Tally::default(),
            events,
            span: debug_span!("copy", bytes = Empty, files = Empty).entered(),
        }
    }

    /// Notes what the process has used so far.
    pub(crate) fn note_usage(&mut self) {
        self.before = Some(self.copier.platform.system.usage());
    }

    pub(crate) fn add_file(
        &mut self,
        file: &WeightFile,
        ranges: &[Range<u64>],
        bytes: u64,
    ) -> Result<()> {
        let Copier { platform, options } = *self.copier;
        let route = Route::choose(platform, options, file, ranges, &mut self.tally)?;
        self.files.push(file.clone());
        self.routes.push(route);
        self.total += bytes;
        Ok(())
    }

    pub(crate) fn execute<'f>(
        self,
        mut operation: Operation<'_>,
        prepare: impl FnOnce(&Queues<'_>) -> Option<&'f mut (dyn Feeder + 'f)>,
    ) -> Ending {
        let Self {
            copier,
            started,
            before,
            files,
            routes,
            total,
            tally,
            events,
            span,
        } = self;
        let Copier { platform, options } = *copier;
        span.record("bytes", total).record("files", files.len());
        let chunk_bytes = usize::try_from(options.chunk_bytes()).unwrap_or(usize::MAX);
        let limit = memory_limit(options);
        let in_flight = lease_in_flight(options, chunk_bytes, limit);
        let depth = (in_flight.amount() / chunk_bytes).max(1);
        let busy = depth
            .min(chunk_count(total, chunk_bytes))
            .min((limit / SLAB_BYTES).max(1));
        let direct_workers = direct_workers(platform, busy);
        let step = if operation.wants_progress() {
            (total / 256).max(64 << 10)
        } else {
            0
        };
        let pace = options.pace.map(Pace::new);
        let token = operation.token().cloned();
        let transfer = Transfer::new(token, step, events.0.clone(), tally, pace);

        let (landed, resident_bytes) = {
            let may_wait = routes.iter().any(Route::may_wait);
            let buffered =
                Queue::new(&transfer, &files, depth, limit, None).that_may_wait(may_wait);
            let refuge = (options.strategy == Strategy::Auto).then_some(&buffered);
            let depth_each = depth.div_ceil(direct_workers);
            let slab_bytes = limit / direct_workers;
            let direct = Queue::new(&transfer, &files, depth_each, slab_bytes, refuge);
            let queues = Queues {
                routes: &routes,
                direct: &direct,
                buffered: &buffered,
            };
            let feeder = prepare(&queues);
            if feeder.is_none() {
                transfer.close();
            }
            let crew = Crew {
                platform,
                options,
                transfer: &transfer,
                queues: &queues,
                direct_workers,
            };
            // Who waits for a pace must hear of being cancelled.
            let quick = total <= TINY && direct.waiting() == 0 && options.pace.is_none();
            if feeder.is_none() && quick {
                crew.read_inline();
            } else if let (None, Err(error)) = (&feeder, threads_start()) {
                crew.read_alone(no_thread(error));
            } else {
                // Given back when the last worker has left.
                let mut hired = Hired::default();
                thread::scope(|scope| {
                    coordinate(
                        scope,
                        crew,
                        &mut hired,
                        feeder,
                        &events.1,
                        total,
                        &mut operation,
                    );
                });
            }
            (
                transfer.landed(),
                routes.iter().map(Route::resident_bytes).sum(),
            )
        };
        drop(in_flight);

        let cancelled = operation.is_cancelled();
        let (tally, error) = transfer.outcome();
        if error.is_none() {
            if !cancelled {
                operation.report(landed, total);
            }
            if options.cache == CachePolicy::Bypass {
                forget(platform, &files, &routes);
            }
            tracing::debug!(bytes = landed, resident = resident_bytes, chunks = ?tally.chunks, "copied");
        }
        let after = before.map(|_| platform.system.usage()).unwrap_or_default();
        let before = before.unwrap_or_default();
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let report = Report {
            bytes: landed,
            elapsed: started.elapsed(),
            strategy: options.strategy,
            chunks: tally.chunks,
            fallbacks: tally.fallbacks,
            landing: None,
            locked_bytes: None,
            resident_bytes,
            minor_faults: since(after.minor_faults, before.minor_faults),
            major_faults: since(after.major_faults, before.major_faults),
            peak_memory: after.peak_memory,
        };
        Ending { report, error }
    }
}

/// Evicts what buffered reads brought into the page cache and was not there before.
fn forget(platform: &Platform, files: &[WeightFile], routes: &[Route]) {
    for (file, route) in files.iter().zip(routes) {
        for range in route.brought_in() {
            if let Err(error) = platform.system.evict(file, range) {
                tracing::debug!(%error, "what was read stays in the page cache");
            }
        }
    }
}

fn chunk_count(total: u64, chunk_bytes: usize) -> usize {
    usize::try_from(total.div_ceil(chunk_bytes as u64))
        .unwrap_or(usize::MAX)
        .max(1)
}

/// How many workers read past the page cache, each with part of the queue depth.
fn direct_workers(platform: &Platform, depth: usize) -> usize {
    platform
        .direct
        .as_ref()
        .map_or(1, |reader| reader.workers())
        .clamp(1, depth)
}

fn memory_limit(options: &LoadOptions) -> usize {
    let limit = options.memory_limit.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn lease_in_flight(options: &LoadOptions, chunk_bytes: usize, limit: usize) -> Lease {
    let wanted = options.queue_depth().saturating_mul(chunk_bytes).min(limit);
    budget::IN_FLIGHT.lease(wanted, chunk_bytes, budget::MOST_IN_FLIGHT)
}
