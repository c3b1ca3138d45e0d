//! Positional reads through the system cache, each worker through a handle of its own.

use std::fs::File;

use loader_core::{LoadOptions, Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile};

use crate::handle::reopen;

/// Reads through the system cache with one positional read a chunk, one in flight a worker.
///
/// Windows performs one read at a time for each handle that was not opened for overlapped ones, so
/// every worker opens the files for itself; where that is refused, workers share the handle and
/// wait for each other. Serves any file.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BufferedReader;

impl BufferedReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for BufferedReader {
    fn mechanism(&self) -> Mechanism {
        Mechanism::BUFFERED
    }

    fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let mut files = Handles::default();
        while let Some(task) = queue.next() {
            let at_most = task.len();
            match files.of(&task) {
                Some(file) => task.read_through(file, Mechanism::BUFFERED, at_most),
                None => task.read(Mechanism::BUFFERED, at_most),
            }
        }
        Ok(())
    }
}

/// Handles of one worker, by the index of the file in the queue.
#[derive(Default)]
struct Handles(Vec<Handle>);

#[derive(Default)]
enum Handle {
    #[default]
    Unopened,
    Own(File),
    Shared,
}

impl Handles {
    /// The worker's own handle to the task's file; `None` where there is none, or where opening one
    /// would take longer than the file is worth.
    fn of(&mut self, task: &Task<'_>) -> Option<&File> {
        let index = task.file_index();
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Handle::default);
        }
        let handle = &mut self.0[index];
        if matches!(handle, Handle::Unopened) {
            *handle = open(task.file());
        }
        match handle {
            Handle::Own(file) => Some(file),
            Handle::Unopened | Handle::Shared => None,
        }
    }
}

fn open(file: &WeightFile) -> Handle {
    if file.len() <= LoadOptions::SMALL_BYTES {
        return Handle::Shared;
    }
    match reopen(file.file(), 0) {
        Ok(own) => Handle::Own(own),
        Err(error) => {
            tracing::debug!(path = %file.path().display(), %error, "workers share one handle");
            Handle::Shared
        }
    }
}
