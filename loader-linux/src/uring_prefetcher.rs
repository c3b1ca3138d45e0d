//! Readahead through io_uring: reads into scratch memory that leave the pages cached.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue::Flags, types::Fd};
use loader_core::{
    HostBuffer, Mechanism, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile,
};

use crate::host_memory::HugePageMemory;
use crate::{residency, uring};

const READAHEAD: Mechanism = Mechanism::new("uring-readahead");

/// Bytes of one read: long enough to keep the device busy, short enough for the processor's cache
/// to hold what is only copied to be forgotten.
const PIECE_BYTES: u32 = 2 << 20;

/// Reads in flight.
const DEPTH: u32 = 8;

/// Brings ranges into the page cache with buffered reads through io_uring.
///
/// Advice would not do: the kernel reads at most its readahead window for each call, and tells
/// nobody when it is done (`force_page_cache_ra`, mm/readahead.c). A read that has completed leaves
/// its pages in the cache for certain. Reads are handed to kernel threads (`IOSQE_ASYNC`), since
/// io_uring would otherwise perform each while it is submitted, one after the other.
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

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        u64::from(PIECE_BYTES)
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        let refusal = |error: io::Error| Refusal::new(READAHEAD, format!("no ring: {error}"));
        let ring = uring::ring(DEPTH).map_err(refusal)?;
        let scratch = HostBuffer::zeroed(&HugePageMemory, (DEPTH * PIECE_BYTES) as usize)
            .map_err(|error| refusal(io::Error::other(error)))?;
        scratch.exclude_from_fork(true);
        let pieces = [const { None }; DEPTH as usize];
        Readahead {
            ring,
            scratch,
            pieces,
            in_flight: 0,
        }
        .run(queue);
        Ok(())
    }

    fn residency(&self, file: &WeightFile, range: Range<u64>, granularity: u64) -> ResidencyMap {
        residency::residency(file, range, granularity)
    }
}

/// The reads in flight. The kernel writes into the scratch memory until a read's completion has
/// been seen, so this is not dropped before every one has.
struct Readahead {
    ring: IoUring,
    scratch: HostBuffer,
    /// The piece that each part of the scratch memory is being used for.
    pieces: [Option<Range<u64>>; DEPTH as usize],
    in_flight: usize,
}

impl Readahead {
    fn run(&mut self, queue: &PrefetchQueue) {
        loop {
            while let Some(index) = self.pieces.iter().position(Option::is_none) {
                let Some(piece) = queue.next() else { break };
                self.begin(queue, index, piece);
            }
            if self.in_flight == 0 {
                return;
            }
            uring::submit_and_wait(&mut self.ring);
            self.reap(Some(queue));
        }
    }

    fn begin(&mut self, queue: &PrefetchQueue, index: usize, piece: Range<u64>) {
        let len =
            u32::try_from(piece.end - piece.start).map_or(PIECE_BYTES, |len| len.min(PIECE_BYTES));
        let start = self
            .scratch
            .start()
            .as_ptr()
            .wrapping_add(index * PIECE_BYTES as usize);
        let descriptor = Fd(queue.file().file().as_raw_fd());
        let entry = opcode::Read::new(descriptor, start, len)
            .offset(piece.start)
            .build()
            .flags(Flags::ASYNC)
            .user_data(index as u64);
        // SAFETY: `start` is valid for writes of a piece's length within the scratch memory, a
        // part that no other read uses; it stays so until the completion is reaped, which `run`
        // and `drop` wait for; so does the descriptor, which the queue holds.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            // The ring has an entry for every piece, so this does not happen.
            return queue.failed(&piece, &io::ErrorKind::WouldBlock.into());
        }
        self.pieces[index] = Some(piece);
        self.in_flight += 1;
    }

    fn reap(&mut self, queue: Option<&PrefetchQueue>) {
        while let Some((index, result)) = uring::completed(&mut self.ring) {
            let Some(piece) = self.pieces.get_mut(index).and_then(Option::take) else {
                continue;
            };
            self.in_flight -= 1;
            match (queue, result) {
                (None, _) => {}
                (Some(queue), result @ ..0) => {
                    queue.failed(&piece, &io::Error::from_raw_os_error(-result));
                }
                // A short read has met the end of the file, or made the rest start.
                (Some(queue), _) => queue.done(&piece),
            }
        }
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        // Only an unwinding `run` leaves reads in flight.
        while self.in_flight > 0 {
            uring::submit_and_wait(&mut self.ring);
            self.reap(None);
        }
    }
}
