//! Pieces for the copier that come as room for them becomes free.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender};

use crate::transfer::Event;
use crate::{Chunk, Result};

/// More pieces, as room for them becomes free.
pub(crate) trait Feeder {
    /// What to do next.
    fn next(&mut self) -> Result<Feed>;
    /// A group has landed.
    fn landed(&mut self, group: usize) -> Result<()>;
}

pub(crate) enum Feed {
    /// Read these chunks of one file.
    Chunks(FedChunks),
    /// Ask again after the next event.
    Later,
    /// That was all.
    End,
}

/// Chunks of one file that land together.
pub(crate) struct FedChunks {
    pub(crate) file: usize,
    pub(crate) chunks: Vec<Chunk>,
    /// What the chunks' destinations count from.
    pub(crate) start: NonNull<u8>,
    pub(crate) direct: bool,
    pub(crate) group: usize,
    pub(crate) memory: Option<Arc<dyn Any + Send + Sync>>,
}

/// The events of an operation that is being prepared: both ends, so that a feeder can hold one.
pub(crate) type Events = (Sender<Event>, Receiver<Event>);
