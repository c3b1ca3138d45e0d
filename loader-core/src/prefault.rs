//! Faulting in the destination ahead of direct reads, by threads that have nothing else to do.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{HostMemory, Queue, timeline};

/// Memory that queued chunks will land in, in their order.
///
/// Direct reads pin the pages that they write to, so the thread that submits them would fault each
/// one in, and zero it, before the next read can be submitted.
#[derive(Debug)]
pub(crate) struct Prefault {
    memory: Vec<Memory>,
    /// The first that nobody has taken.
    next: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

// SAFETY: an address and a length, which are only ever passed to `HostMemory::populate`; that
// leaves contents as they are and does no harm to memory that is gone.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Prefault {
    /// The memory of all that waits in `queue`.
    pub(crate) fn new(queue: &Queue<'_>) -> Self {
        Self {
            memory: queue.waiting_memory(),
            next: AtomicUsize::new(0),
        }
    }

    /// Faults in what the readers of `queue` have not come to yet, until they have come to all.
    pub(crate) fn run(&self, queue: &Queue<'_>, host: &dyn HostMemory) {
        while !queue.is_stopped() {
            // Reads that were taken fault in their memory themselves.
            let taken = self.memory.len().saturating_sub(queue.waiting());
            let claim = |next: usize| Some(next.max(taken) + 1);
            let before = self
                .next
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, claim);
            let index = before.unwrap_or_else(|next| next).max(taken);
            let Some(memory) = self.memory.get(index) else {
                return;
            };
            timeline::faulting(memory.len, || host.populate(memory.start, memory.len));
        }
    }
}
