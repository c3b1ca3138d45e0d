//! Who does the work of one operation.

use std::sync::Arc;
use std::thread::{self, Scope};

use crate::budget::{self, Lease};
use crate::coordinator::Queues;
use crate::new_thread::no_thread;
use crate::prefault::Prefault;
use crate::transfer::Transfer;
use crate::{Error, LoadOptions, Platform, Queue, Reader, Refusal, new_thread};

/// Who does the work of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) options: &'a LoadOptions,
    pub(crate) transfer: &'a Transfer,
    pub(crate) queues: &'a Queues<'a>,
    pub(crate) direct_workers: usize,
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
                let work = move || crew.read_direct();
                let started = start(scope, crew.transfer, "weightloader-direct", work);
                started.unwrap_or_else(|refusal| crew.queues.direct.give_up(refusal));
            }
        }
        if self.buffered.is_none() && crew.queues.buffered.waiting() > 0 {
            let suiting = if crew.queues.buffered.may_wait() {
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
                let work = move || crew.read_buffered();
                let started = start(scope, crew.transfer, "weightloader-copy", work);
                started.unwrap_or_else(|refusal| crew.queues.buffered.give_up(refusal));
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
        let work = move || {
            // A thread that starts maps memory, which has to wait for whoever is faulting some in.
            crew.queues.direct.wait_for_first_task();
            memory.run(crew.queues.direct, &*crew.platform.memory);
            if crew.options.threads.is_none() {
                crew.lend_a_hand();
            }
        };
        // The reads fault in what nobody does ahead of them.
        if let Err(refusal) = start(scope, crew.transfer, "weightloader-prefault", work) {
            tracing::debug!(%refusal, "memory is not faulted in ahead");
        }
    }
    lease
}

/// Zeroing pages by more threads than this brings nothing: memory is busy.
const MOST_PREFAULTERS: usize = 4;

/// Starts a worker, where the system has a thread for it.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    transfer: &'scope Transfer,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> Result<(), Refusal> {
    let span = tracing::debug_span!("worker", name);
    let work = move || {
        let _stop = StopAtPanic(transfer);
        span.in_scope(work);
    };
    let started = new_thread(name).and_then(|thread| thread.spawn_scoped(scope, work));
    started.map_err(no_thread)?;
    Ok(())
}

impl Crew<'_> {
    fn read_direct(&self) {
        let direct = self.platform.direct.as_ref().map_err(Clone::clone);
        let outcome = direct.and_then(|reader| self.read(&**reader, self.queues.direct));
        outcome.unwrap_or_else(|refusal| self.queues.direct.give_up(refusal));
    }

    /// The one reader there is serves the buffered queue, on this thread.
    pub(crate) fn read_inline(&self) {
        self.queues.buffered.expect_readers(1);
        self.read_buffered();
    }

    /// Reads everything on this thread, through the page cache: one thread serves one queue.
    pub(crate) fn read_alone(&self, refusal: Refusal) {
        self.transfer.refused(&refusal);
        if self.queues.direct.waiting() > 0 {
            self.queues.direct.expect_readers(1);
            self.queues.direct.give_up(refusal);
        }
        self.read_inline();
    }

    fn read_buffered(&self) {
        let outcome = self.read(&*self.platform.buffered, self.queues.buffered);
        outcome.unwrap_or_else(|refusal| self.queues.buffered.give_up(refusal));
    }

    /// Serves the buffered queue beside those who were hired for it, if any are: nobody counts on
    /// it.
    fn lend_a_hand(&self) {
        if let Err(refusal) = self.read(&*self.platform.buffered, self.queues.buffered) {
            tracing::debug!(%refusal, "a hand that was lent is of no use");
        }
    }

    /// Lets `reader` serve `queue`. One that leaves before everything has landed, and does not say
    /// why, ends the operation, for nobody else may come for what it leaves.
    fn read(&self, reader: &dyn Reader, queue: &Queue<'_>) -> Result<(), Refusal> {
        let mechanism = reader.mechanism();
        let _span = tracing::debug_span!("read", %mechanism).entered();
        reader.run(queue)?;
        if !self.transfer.is_over() {
            self.transfer.fail(Error::Abandoned { mechanism });
        }
        Ok(())
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
