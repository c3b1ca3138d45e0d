//! Reads past the page cache, one at a time.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

use crate::{DirectRead, Mechanism, ReadEngine, Support, WeightFile, positional};

/// An engine of one blocking positional read at a time, for systems where nothing better serves:
/// many workers then keep a device busy.
#[derive(Debug)]
pub struct BlockingEngine {
    open: fn(&WeightFile) -> io::Result<(File, Support)>,
    is_refusal: fn(&io::Error) -> bool,
    over: Option<(usize, io::Result<usize>)>,
}

impl BlockingEngine {
    /// Reads in flight: each is over when it has begun.
    pub const DEPTH: usize = 1;

    /// Workers with such an engine each: as many as keep a solid-state disk busy.
    pub const WORKERS: usize = 16;

    /// An engine that opens files past the page cache with `open`, and takes those errors of theirs
    /// that `is_refusal` knows for refusals.
    #[must_use]
    pub fn new(
        open: fn(&WeightFile) -> io::Result<(File, Support)>,
        is_refusal: fn(&io::Error) -> bool,
    ) -> Self {
        Self {
            open,
            is_refusal,
            over: None,
        }
    }
}

// SAFETY: the read is over when `begin` returns, and `read_at` tells how many bytes it put at the
// front of the memory; each is told of once.
unsafe impl ReadEngine for BlockingEngine {
    const DIRECT: Mechanism = Mechanism::DIRECT;
    const BOUNCED: Mechanism = Mechanism::DIRECT_BOUNCED;

    fn open(&mut self, file: &WeightFile) -> io::Result<(File, Support)> {
        (self.open)(file)
    }

    unsafe fn begin(&mut self, read: &DirectRead<'_>) -> io::Result<()> {
        let start = read.start.cast::<MaybeUninit<u8>>();
        // SAFETY: the caller promises that the memory is valid for writes and touched by nobody.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, read.len) };
        let filled = positional::read_at(read.file, buffer, read.offset)?;
        self.over = Some((read.index, Ok(filled)));
        Ok(())
    }

    fn completed(&mut self, _wait: bool, tell: &mut Vec<(usize, io::Result<usize>)>) {
        tell.extend(self.over.take());
    }

    fn is_refusal(&self, error: &io::Error) -> bool {
        (self.is_refusal)(error)
    }
}
