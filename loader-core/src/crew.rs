//! Who does the work of one operation.

use std::sync::Arc;
use std::thread::{self, Scope};

use crate::budget::{self, Lease};
use crate::coordinator::Queues;
use crate::prefault::Prefault;
use crate::transfer::Transfer;
use crate::{Error, LoadOptions, Mechanism, Platform, Queue, Reader};

/// Who does the work of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) options: &'a LoadOptions,
    pub(crate) transfer: &'a Transfer,
    pub(crate) queues: &'a Queues<'a>,
    pub(crate) direct_workers: usize,
    pub(crate) may_wait: bool,
}

/// The workers of one operation, started when first there is work for them.
#[derive(Default)]
pub(crate) struct Hired {
    direct: Option<Lease>,
    buffered: Option<Lease>,
}

/// Threads that wait for the device while they read through the page cache keep it busier than
/// processors alone would.
const WAITING_WORKERS: usize = 8;

impl Hired {
    pub(crate) fn hire<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, crew: Crew<'scope>) {
        let begins_direct = self.direct.is_none() && crew.queues.direct.waiting() > 0;
        if begins_direct {
            // All of them, before the first one can give up.
            crew.queues.direct.expect_readers(crew.direct_workers);
            for _ in 0..crew.direct_workers {
                start(scope, crew.transfer, "weightloader-direct", move || {
                    crew.read_direct()
                });
            }
        }
        if self.buffered.is_none() && crew.queues.buffered.waiting() > 0 {
            let suiting = if crew.may_wait {
                budget::processors().max(WAITING_WORKERS)
            } else if begins_direct || self.direct.is_some() {
                // The device is the slower one: copies must not keep its reads from being submitted.
                budget::processors().saturating_sub(1).max(1)
            } else {
                budget::processors()
            };
            let wanted = crew.options.threads.unwrap_or(suiting);
            let lease = budget::WORKERS.lease(wanted, 1, budget::most_workers());
            crew.queues.buffered.expect_readers(lease.amount());
            for _ in 0..lease.amount() {
                start(scope, crew.transfer, "weightloader-copy", move || {
                    crew.read_buffered()
                });
            }
            self.buffered = Some(lease);
        }
        if begins_direct {
            self.direct = Some(prefault(scope, crew));
        }
    }
}

/// Starts threads that fault in the destination of direct reads on processors that these leave
/// idle, and then lend a hand with copies.
fn prefault<'scope>(scope: &'scope Scope<'scope, '_>, crew: Crew<'scope>) -> Lease {
    let idle = budget::processors().saturating_sub(1).min(MOST_PREFAULTERS);
    let lease = budget::WORKERS.lease(idle, 0, budget::most_workers());
    let memory = Arc::new(Prefault::new(crew.queues.direct));
    for _ in 0..lease.amount() {
        let memory = Arc::clone(&memory);
        start(scope, crew.transfer, "weightloader-prefault", move || {
            // A thread that starts maps memory, which has to wait for whoever is faulting some in.
            crew.queues.direct.wait_for_first_task();
            memory.run(crew.queues.direct, &*crew.platform.memory);
            if crew.options.threads.is_none() {
                crew.lend_a_hand();
            }
        });
    }
    lease
}

/// Zeroing pages by more threads than this brings nothing: memory is busy.
const MOST_PREFAULTERS: usize = 4;

/// Starts a worker; an operation that cannot have one fails.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    transfer: &'scope Transfer,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) {
    let span = tracing::debug_span!("worker", name);
    let work = move || {
        let _stop = StopAtPanic(transfer);
        span.in_scope(work);
    };
    if let Err(error) = thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
    {
        let mechanism = Mechanism::new("worker-thread");
        transfer.fail(Error::Unsupported {
            mechanism,
            reason: error.to_string(),
        });
    }
}

impl Crew<'_> {
    fn read_direct(&self) {
        match &self.platform.direct {
            Ok(reader) => self.read(&**reader, self.queues.direct),
            Err(refusal) => self.queues.direct.give_up(refusal.clone()),
        }
    }

    /// One more reader serves the buffered queue, on this thread.
    pub(crate) fn lend_a_hand(&self) {
        self.queues.buffered.expect_readers(1);
        self.read_buffered();
    }

    fn read_buffered(&self) {
        self.read(&*self.platform.buffered, self.queues.buffered);
    }

    /// Lets `reader` serve `queue`. One that leaves before everything has landed ends the
    /// operation, for nobody else may come for what it leaves.
    fn read(&self, reader: &dyn Reader, queue: &Queue<'_>) {
        let mechanism = reader.mechanism();
        let _span = tracing::debug_span!("read", %mechanism).entered();
        match reader.run(queue) {
            Err(refusal) => queue.give_up(refusal),
            Ok(()) if self.transfer.is_over() => {}
            Ok(()) => self.transfer.fail(Error::Abandoned { mechanism }),
        }
    }
}

/// Ends the operation when its thread unwinds, for nobody else may come for what that one leaves.
struct StopAtPanic<'a>(&'a Transfer);

impl Drop for StopAtPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
