//! What performs reads past the page cache: each system has its own.

use std::fs::File;
use std::io;

use crate::{Mechanism, Support, WeightFile};

/// What performs reads past the page cache: each system's own way to have many of them in flight.
///
/// [`serve`](crate::serve) drives it: opens files once, reads in place or through slabs as
/// alignments demand, and waits for all that is in flight before it returns, errs or unwinds.
///
/// # Safety
/// Memory that [`begin`](Self::begin) was given is written by the read that it began alone, and no
/// more once [`completed`](Self::completed) told of that read; the bytes that it tells of are then
/// at the front of the memory. Only reads that began and have not been told of are told of.
pub unsafe trait ReadEngine {
    /// Straight into the destination.
    const DIRECT: Mechanism;
    /// By way of a slab.
    const BOUNCED: Mechanism;

    /// Opens a file past the page cache, and tells how reads of it must lie.
    ///
    /// # Errors
    /// The system's reason; the file is then read another way where the caller left us the choice.
    fn open(&mut self, file: &WeightFile) -> io::Result<(File, Support)>;

    /// Begins a read. It may be over at once, and is told of by [`completed`](Self::completed) all
    /// the same.
    ///
    /// # Safety
    /// The file stays open and the memory valid for writes, touched by nobody else, until
    /// `completed` told of this read; no read of that number is in flight.
    ///
    /// # Errors
    /// The system's reason; the read has then not begun, and is not told of.
    unsafe fn begin(&mut self, read: &DirectRead<'_>) -> io::Result<()>;

    /// Tells of reads that are over: their numbers, and how many bytes they brought or why none.
    /// Waits for one where `wait` says so; that may tell of none all the same, and is then asked
    /// again.
    fn completed(&mut self, wait: bool, tell: &mut Vec<(usize, io::Result<usize>)>);

    /// Whether an error means that such reads do not serve here, rather than that the device failed.
    fn is_refusal(&self, error: &io::Error) -> bool;
}

/// A read past the page cache that lies as the file's [`Support`] says.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DirectRead<'f> {
    /// The number that [`ReadEngine::completed`] tells of it by: less than the depth.
    pub index: usize,
    /// A file that [`ReadEngine::open`] opened.
    pub file: &'f File,
    /// Where to read, in bytes from the start of the file on disk.
    pub offset: u64,
    /// Where the bytes go.
    pub start: *mut u8,
    /// How many bytes to read.
    pub len: usize,
}
