//! A chunk to be read, and the ways to tell what became of it.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{MOST_RETRIES, Piece, Queue};
use crate::{Error, Mechanism, Refusal, WeightFile, positional, timeline};

/// A chunk, or what is left of one, to be read by whoever holds this.
///
/// Its outcome is told by consuming it; one that is dropped fails the whole operation.
#[derive(Debug)]
pub struct Task<'q> {
    queue: &'q Queue<'q>,
    piece: Option<Piece>,
}

impl<'q> Task<'q> {
    pub(super) fn begin(queue: &'q Queue<'q>, piece: Piece) -> Self {
        timeline::read_begins(piece.file, piece.offset, piece.len);
        Self {
            queue,
            piece: Some(piece),
        }
    }

    /// The file to read from.
    #[must_use]
    pub fn file(&self) -> &'q WeightFile {
        &self.queue.files[self.file_index()]
    }

    /// Which of [`Queue::files`] to read from.
    #[must_use]
    pub fn file_index(&self) -> usize {
        self.piece().file
    }

    /// Where to read, in bytes from the start of the file on disk.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.piece().offset
    }

    /// How many bytes to read; never zero.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.piece().len
    }

    /// Where the bytes go: valid for writes of [`len`](Self::len) bytes until the outcome is told.
    /// It may be write-combined memory, so write it once, front to back, and never read it.
    #[must_use]
    pub fn destination(&self) -> NonNull<u8> {
        self.piece().start
    }

    /// Whether the system may move bytes into the destination by direct I/O.
    #[must_use]
    pub fn allows_direct(&self) -> bool {
        self.piece().direct
    }

    /// Performs one positional read of at most `at_most` bytes through the page cache, as
    /// `mechanism`, and tells the outcome.
    pub fn read(self, mechanism: Mechanism, at_most: usize) {
        let file = self.file().file();
        self.read_through(file, mechanism, at_most);
    }

    /// As [`read`](Self::read), but by way of `file`, another handle to the task's file: for
    /// systems that make reads through one handle wait for each other.
    pub fn read_through(mut self, file: &File, mechanism: Mechanism, at_most: usize) {
        let offset = self.offset();
        let len = self.len().min(at_most);
        let start = self.destination().as_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the piece is the only way to its destination, which is valid for writes of its
        // length.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, len) };
        match positional::read_at(file, buffer, offset) {
            Ok(filled) => self.advance(mechanism, filled),
            Err(error) => self.fail(error),
        }
    }

    /// As [`read_through`](Self::read_through), but all of it in positional reads of `step` bytes,
    /// one after the other: for systems that read further ahead the more reads followed one another.
    pub fn read_in_steps(mut self, file: &File, mechanism: Mechanism, step: usize) {
        let (offset, len) = (self.offset(), self.len());
        let start = self.destination().as_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the piece is the only way to its destination, which is valid for writes of its
        // length.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, len) };
        let mut filled = 0;
        while filled < len {
            let end = filled.saturating_add(step.max(1)).min(len);
            match positional::read_at(file, &mut buffer[filled..end], offset + filled as u64) {
                Ok(0) => {
                    self.advance_to_rest(mechanism, filled);
                    return self.ends_early();
                }
                Ok(read) => filled += read,
                Err(error) => {
                    self.advance_to_rest(mechanism, filled);
                    return self.fail(error);
                }
            }
        }
        self.advance(mechanism, filled);
    }

    /// Lets `fill` write the bytes into the zeroed destination and tell how many it wrote, and
    /// tells the outcome as `mechanism`: for sources other than the file itself.
    pub fn fill(mut self, mechanism: Mechanism, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) {
        let len = self.len();
        let start = self.destination().as_ptr();
        // SAFETY: the piece is the only way to its destination, which is valid for writes of its
        // length.
        unsafe { start.write_bytes(0, len) };
        // SAFETY: as above, and the bytes were initialised just now.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start, len) };
        match fill(buffer) {
            Ok(filled) if filled <= len => self.advance(mechanism, filled),
            Ok(filled) => self.fail(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the reader claims {filled} bytes of {len}"),
            )),
            Err(error) => self.fail(error),
        }
    }

    /// Copies what a read brought to a slab, `wanted` bytes after the first `skip` of `read`, to the
    /// front of the destination, and tells the outcome as `mechanism`. A read that brought fewer is
    /// a short one.
    pub(crate) fn deliver(mut self, mechanism: Mechanism, read: &[u8], skip: usize, wanted: usize) {
        let bytes = read.get(skip..).unwrap_or_default();
        let len = bytes.len().min(wanted).min(self.len());
        let destination = self.destination().as_ptr();
        // SAFETY: the piece is the only way to its destination, which is valid for writes of its
        // length, so no reference reaches into it.
        unsafe { destination.copy_from_nonoverlapping(bytes.as_ptr(), len) };
        self.advance(mechanism, len);
    }

    /// Tells that `mechanism` put `filled` bytes in place at the front of the destination. Fewer
    /// than asked for are a short read, whose rest is queued again; none at all is the end of the
    /// file.
    ///
    /// # Safety
    /// The first `filled` bytes of the destination are initialised with the file's bytes at
    /// [`offset`](Self::offset), `filled` is at most [`len`](Self::len), and nothing writes to
    /// the destination any more on behalf of this task.
    pub unsafe fn complete(mut self, mechanism: Mechanism, filled: usize) {
        self.advance(mechanism, filled);
    }

    /// Tells that reading failed. Nothing writes to the destination any more. Interrupted reads
    /// are queued again; everything else fails the operation.
    pub fn fail(mut self, error: io::Error) {
        let Some(mut piece) = self.piece.take() else {
            return;
        };
        let again = matches!(
            error.kind(),
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
        );
        if again && piece.retries < MOST_RETRIES {
            piece.retries += 1;
            return self.queue.put_back(piece);
        }
        let file = &self.queue.files[piece.file];
        self.queue
            .transfer
            .fail(file.read_failed(piece.offset, piece.len as u64, error));
    }

    /// Tells that `mechanism` cannot read this, though another may: the file's system refused the
    /// alignment, or the memory. The chunk goes to the buffered reader where the caller left the
    /// choice to us, and fails the operation where the mechanism was forced.
    pub fn refuse(mut self, mechanism: Mechanism, error: io::Error) {
        let Some(piece) = self.piece.take() else {
            return;
        };
        let queue = self.queue;
        match queue.refuge {
            Some(refuge) => {
                let path = queue.files[piece.file].path().display();
                let reason = format!("{path}: reads are refused: {error}");
                refuge.take_in([piece]);
                queue.transfer.refused(&Refusal::new(mechanism, reason));
                queue.transfer.wake();
            }
            None => {
                let file = &queue.files[piece.file];
                queue
                    .transfer
                    .fail(file.read_failed(piece.offset, piece.len as u64, error));
            }
        }
    }

    fn advance(&mut self, mechanism: Mechanism, filled: usize) {
        if filled == 0 {
            return self.ends_early();
        }
        self.advance_to_rest(mechanism, filled);
        if let Some(rest) = self.piece.take() {
            self.queue.put_back(rest);
        }
    }

    /// Tells of the first `filled` bytes, and keeps the rest, if there is one.
    fn advance_to_rest(&mut self, mechanism: Mechanism, filled: usize) {
        let Some(mut piece) = self.piece.take_if(|_| filled > 0) else {
            return;
        };
        let transfer = self.queue.transfer;
        let filled = filled.min(piece.len);
        timeline::read_landed(piece.file, piece.offset, filled);
        transfer.bytes_landed(filled as u64);
        if filled < piece.len {
            piece.offset += filled as u64;
            piece.len -= filled;
            piece.retries = 0;
            // SAFETY: `filled` is less than the length, so the result stays within the memory.
            piece.start = unsafe { piece.start.add(filled) };
            self.piece = Some(piece);
            return;
        }
        if let Some(group) = piece.group.take() {
            if group.pieces.fetch_sub(1, Ordering::AcqRel) == 1 {
                transfer.group_landed(group.id);
            }
        }
        transfer.piece_landed(mechanism);
    }

    /// Tells that the file ends where the task begins.
    fn ends_early(&mut self) {
        if let Some(piece) = self.piece.take() {
            let file = &self.queue.files[piece.file];
            let error = file.unexpected_eof(piece.offset, piece.len as u64);
            self.queue.transfer.fail(error);
        }
    }

    fn piece(&self) -> &Piece {
        // Only methods that consume the task take its piece.
        self.piece
            .as_ref()
            .expect("a task holds its piece until its outcome is told")
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if self.piece.is_some() {
            let mechanism = Mechanism::new("reader");
            self.queue.transfer.fail(Error::Abandoned { mechanism });
        }
    }
}
