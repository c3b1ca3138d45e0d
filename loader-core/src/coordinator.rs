//! What the calling thread does while workers read: feeds them, and passes progress on.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::Scope;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};

use crate::crew::{Crew, Hired};
use crate::feeder::{Feed, Feeder};
use crate::queue::{Group, Piece};
use crate::route::{Route, Way};
use crate::transfer::{Event, Transfer};
use crate::{Chunk, Operation, Queue, Result};

/// The queues of the two readers, and which chunks go to which.
pub(crate) struct Queues<'a> {
    pub(crate) routes: &'a [Route],
    pub(crate) direct: &'a Queue<'a>,
    pub(crate) buffered: &'a Queue<'a>,
}

impl Queues<'_> {
    /// Wakes workers that wait for what was queued.
    fn wake(&self) {
        self.buffered.wake();
    }

    /// Queues a chunk for the reader that its route names.
    ///
    /// # Safety
    /// As [`Queue::push`](Queue::push), for the chunk's part of the memory at `start`.
    pub(crate) unsafe fn push(
        &self,
        file: usize,
        chunk: &Chunk,
        start: NonNull<u8>,
        direct: bool,
        group: Option<&Arc<Group>>,
    ) {
        let piece = Piece {
            file,
            offset: chunk.offset,
            // SAFETY: the caller's promise: the chunk lies within the memory at `start`.
            start: unsafe { start.add(chunk.destination) },
            len: chunk.len,
            direct,
            group: group.cloned(),
            retries: 0,
        };
        let queue = match self.routes[file].way(chunk.offset..chunk.end()) {
            Way::Direct => self.direct,
            Way::Buffered => self.buffered,
        };
        // SAFETY: the caller's promise.
        unsafe { queue.push(piece) };
    }
}

/// How often a cancellation token is looked at.
const CANCEL_POLL: Duration = Duration::from_millis(5);

/// Runs on the calling thread until everything has landed or the operation was stopped: starts
/// workers once there is work for them, feeds them, and passes progress on.
pub(crate) fn coordinate<'scope>(
    scope: &'scope Scope<'scope, '_>,
    crew: Crew<'scope>,
    hired: &mut Hired,
    mut feeder: Option<&mut (dyn Feeder + '_)>,
    events: &Receiver<Event>,
    total: u64,
    operation: &mut Operation<'_>,
) {
    let transfer = crew.transfer;
    // Workers end only when the transfer is over, so it has to be when this function is left.
    let _stop = StopAtEnd(transfer);
    let mut feeding = feeder.is_some();
    loop {
        if let Some(feeder) = feeder.as_deref_mut().filter(|_| feeding) {
            match feed(crew.queues, feeder) {
                Ok(more) => feeding = more,
                Err(error) => return transfer.fail(error),
            }
            if !feeding {
                transfer.close();
            }
        }
        hired.hire(scope, crew);
        let event = match operation.token() {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => events.recv_timeout(CANCEL_POLL),
        };
        match event {
            Ok(Event::Progress) => operation.report(transfer.landed(), total),
            Ok(Event::Group(group)) => {
                if let Some(Err(error)) = feeder.as_deref_mut().map(|feeder| feeder.landed(group)) {
                    return transfer.fail(error);
                }
            }
            Ok(Event::Refused | Event::Room) => {}
            Ok(Event::Finished) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if operation.is_cancelled() {
            return;
        }
    }
}

/// Queues all that the feeder has; tells whether more will come.
fn feed(queues: &Queues<'_>, feeder: &mut dyn Feeder) -> Result<bool> {
    loop {
        match feeder.next()? {
            Feed::Later => return Ok(true),
            Feed::End => return Ok(false),
            Feed::Chunks(fed) => {
                let group = Arc::new(Group {
                    id: fed.group,
                    pieces: AtomicUsize::new(fed.chunks.len()),
                    memory: fed.memory,
                });
                for chunk in &fed.chunks {
                    // SAFETY: the promise of `Copier::feed`'s caller.
                    unsafe { queues.push(fed.file, chunk, fed.start, fed.direct, Some(&group)) };
                }
                queues.wake();
            }
        }
    }
}

struct StopAtEnd<'a>(&'a Transfer);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
