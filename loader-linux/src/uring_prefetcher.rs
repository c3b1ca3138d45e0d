//! Readahead through io_uring: advice in pieces, and single bytes read to see them arrive.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types::Fd};
use loader_core::{Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile};

use crate::{advice, residency, uring};

const READAHEAD: Mechanism = Mechanism::new("uring-readahead");

/// Pieces under way: enough to keep a fast device busy, few enough that a cancelled prefetch is
/// soon over.
const DEPTH: usize = ENTRIES as usize;
const ENTRIES: u32 = 16;

/// Brings ranges into the page cache with `posix_fadvise(WILLNEED)` through io_uring, in pieces.
///
/// One call over a whole file would bring in its first few megabytes only: for each call the
/// kernel reads no more than its readahead window or one request to the device, whichever is
/// longer, and says nothing of the rest (`force_page_cache_ra`, mm/readahead.c). Making room in
/// the page cache takes time for each page; through io_uring kernel threads do it, several at
/// once.
///
/// Advice only starts reads. To know when they are over, a byte at the end of each stretch is read.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use std::sync::Arc;
/// use loader_core::{Operation, Prefetcher, System, WeightFile};
/// use loader_linux::{LinuxSystem, MadvisePrefetcher, UringPrefetcher};
/// let prefetcher: Arc<dyn Prefetcher> = match UringPrefetcher::probe() {
///     Ok(prefetcher) => Arc::new(prefetcher),
///     Err(_) => Arc::new(MadvisePrefetcher), // A container forbids io_uring, say.
/// };
/// let system: Arc<dyn System> = Arc::new(LinuxSystem);
/// let file = WeightFile::open(&path)?;
/// let ahead = loader_core::prefetch(&[prefetcher], &system, &file, vec![0..7], None);
/// let outcome = ahead.wait(Operation::new())?;
/// assert_eq!(outcome.brought + outcome.skipped + outcome.failed, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UringPrefetcher;

impl UringPrefetcher {
    /// The prefetcher, where io_uring serves.
    ///
    /// # Errors
    /// A [`Refusal`] that says why it does not: forbidden, missing or restricted.
    pub fn probe() -> Result<Self, Refusal> {
        uring::probe(READAHEAD).map(|()| Self)
    }
}

impl Prefetcher for UringPrefetcher {
    fn mechanism(&self) -> Mechanism {
        READAHEAD
    }

    fn piece_bytes(&self, file: &WeightFile) -> u64 {
        advice::piece_bytes(file)
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let ring = uring::ring(ENTRIES)
            .map_err(|error| Refusal::new(READAHEAD, format!("no ring: {error}")))?;
        let mut readahead = Readahead {
            ring,
            pieces: [const { None }; DEPTH],
            bytes: Box::new([0; DEPTH]),
            in_flight: 0,
        };
        readahead.run(queue);
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }
}

/// The operations in flight, at most one for each piece. The kernel writes into `bytes` until a
/// read's completion has been seen, so this is not dropped before every one has.
struct Readahead {
    ring: IoUring,
    pieces: [Option<Piece>; DEPTH],
    bytes: Box<[u8; DEPTH]>,
    in_flight: usize,
}

/// A piece on its way.
struct Piece {
    range: Range<u64>,
    /// Up to where it is known to have arrived; `None` while the kernel is being advised.
    arrived: Option<u64>,
}

impl Readahead {
    fn run(&mut self, queue: &PrefetchQueue) {
        let descriptor = Fd(queue.file().file().as_raw_fd());
        loop {
            while let Some(index) = self.pieces.iter().position(Option::is_none) {
                let Some(range) = queue.next() else { break };
                self.advise(descriptor, index, range);
            }
            if self.in_flight == 0 {
                return;
            }
            uring::submit_and_wait(&mut self.ring);
            while let Some((index, result)) = uring::completed(&mut self.ring) {
                self.in_flight -= 1;
                self.move_on(queue, descriptor, index, result);
            }
        }
    }

    fn advise(&mut self, descriptor: Fd, index: usize, range: Range<u64>) {
        // Pieces are a few megabytes long.
        let len = libc::off_t::try_from(range.end - range.start).unwrap_or(libc::off_t::MAX);
        let entry = opcode::Fadvise::new(descriptor, len, libc::POSIX_FADV_WILLNEED)
            .offset(range.start)
            .build();
        self.pieces[index] = Some(Piece {
            range,
            arrived: None,
        });
        // SAFETY: advice refers to no memory; the descriptor is held by the queue.
        unsafe { self.push(index, entry) };
    }

    /// After an operation of a piece is over, begins its next one or tells the queue.
    fn move_on(&mut self, queue: &PrefetchQueue, descriptor: Fd, index: usize, result: i32) {
        let Some(piece) = self.pieces.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let reached = piece.arrived.unwrap_or(piece.range.start);
        if result < 0 {
            queue.failed(&piece.range, &io::Error::from_raw_os_error(-result));
            self.pieces[index] = None;
        } else if reached >= piece.range.end {
            queue.done(&piece.range);
            self.pieces[index] = None;
        } else {
            let end = advice::stretch_end(reached, piece.range.end);
            piece.arrived = Some(end);
            let byte = self.bytes.as_mut_ptr().wrapping_add(index);
            // Not forced onto a kernel thread: the page is there, locked until its bytes are, and
            // io_uring waits for that without one.
            let entry = opcode::Read::new(descriptor, byte, 1)
                .offset(end - 1)
                .build();
            // SAFETY: `byte` is one of this ring's own, used by this piece alone; `bytes` stays
            // until the completion is reaped, which `run` and `drop` wait for. The descriptor is
            // held by the queue.
            unsafe { self.push(index, entry) };
        }
    }

    /// Puts an operation of a piece into the submission queue.
    ///
    /// # Safety
    /// What the entry refers to stays valid until its completion is reaped.
    unsafe fn push(&mut self, index: usize, entry: squeue::Entry) {
        // SAFETY: the caller's promise. The ring has an entry for each piece, and each piece at
        // most one operation, so there is room.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(index as u64)) };
        debug_assert!(pushed.is_ok());
        if pushed.is_ok() {
            self.in_flight += 1;
        }
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        // Only an unwinding `run` leaves operations in flight.
        while self.in_flight > 0 {
            uring::submit_and_wait(&mut self.ring);
            while uring::completed(&mut self.ring).is_some() {
                self.in_flight -= 1;
            }
        }
    }
}
