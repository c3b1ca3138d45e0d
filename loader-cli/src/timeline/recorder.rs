//! Listens to what the library tells of its reads and faults.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use weightloader::core::timeline::{FAULT_BEGINS, FAULT_ENDS, READ_BEGINS, READ_LANDED, TARGET};

use super::{Interval, Read, Timeline};

/// Notes each event with its time and thread; clones share what they noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    notes: Arc<Mutex<Vec<Note>>>,
}

#[derive(Clone, Debug)]
struct Note {
    at: Instant,
    thread: ThreadId,
    told: Told,
}

/// The fields of an event.
#[derive(Clone, Debug, Default)]
struct Told {
    message: String,
    file: u64,
    offset: u64,
    len: u64,
}

impl Visit for Told {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "file" => self.file = value,
            "offset" => self.offset = value,
            "len" => self.len = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let at = Instant::now();
        let mut told = Told::default();
        event.record(&mut told);
        let thread = thread::current().id();
        let note = Note { at, thread, told };
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(note);
    }
}

impl Recorder {
    /// What was noted of a load that began at `started`.
    pub(crate) fn timeline(
        &self,
        started: Instant,
        opened: Duration,
        loaded: Duration,
    ) -> Timeline {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut timeline = Timeline {
            opened,
            loaded,
            ..Timeline::default()
        };
        // By where a read stands in its file: what is left of a short one begins anew further on.
        let mut reading = HashMap::new();
        let mut faulting: HashMap<ThreadId, Duration> = HashMap::new();
        let mut lanes: HashMap<ThreadId, usize> = HashMap::new();
        for Note { at, thread, told } in notes.iter() {
            let at = at.saturating_duration_since(started);
            match told.message.as_str() {
                READ_BEGINS => {
                    reading.insert((told.file, told.offset), at);
                }
                READ_LANDED => {
                    if let Some(begin) = reading.remove(&(told.file, told.offset)) {
                        let interval = Interval { begin, end: at };
                        timeline.reads.push(Read {
                            interval,
                            len: told.len,
                        });
                    }
                }
                FAULT_BEGINS => {
                    faulting.insert(*thread, at);
                }
                FAULT_ENDS => {
                    if let Some(begin) = faulting.remove(thread) {
                        let lane = *lanes.entry(*thread).or_insert(timeline.faults.len());
                        timeline
                            .faults
                            .resize_with(timeline.faults.len().max(lane + 1), Vec::new);
                        timeline.faults[lane].push(Interval { begin, end: at });
                    }
                }
                _ => {}
            }
        }
        timeline.reads.sort_by_key(|read| read.interval.begin);
        timeline
    }
}
