//! Tasks that go on where the one before ends.

use std::collections::VecDeque;

use super::{Piece, Queue, Task};
use crate::transfer::locked;

/// Tasks that follow one another in one file, taken together; those that are not asked for go back
/// to the queue.
#[derive(Debug)]
pub struct TaskRun<'q> {
    pub(super) queue: &'q Queue<'q>,
    pub(super) pieces: VecDeque<Piece>,
}

impl TaskRun<'_> {
    /// How many bytes its tasks ask for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len as u64).sum()
    }
}

impl<'q> Iterator for TaskRun<'q> {
    type Item = Task<'q>;

    /// The next task; `None` also where the operation was stopped meanwhile.
    fn next(&mut self) -> Option<Task<'q>> {
        if self.queue.transfer.is_stopped() {
            return None;
        }
        let piece = self.pieces.pop_front()?;
        Some(Task::begin(self.queue, piece))
    }
}

impl Drop for TaskRun<'_> {
    fn drop(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        {
            let mut waiting = locked(&self.queue.pieces);
            self.pieces.append(&mut waiting);
            *waiting = std::mem::take(&mut self.pieces);
        }
        self.queue.transfer.wake();
    }
}
