//! Reads past the system cache with a deep queue: overlapped, completed through a port.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, RawHandle};
use std::thread;
use std::time::Duration;

use loader_core::{
    DirectRead, Mechanism, Queue, ReadEngine, Reader, Refusal, Support, WeightFile, serve,
};
use windows_sys::Win32::Foundation::{ERROR_HANDLE_EOF, ERROR_IO_PENDING, STATUS_PENDING};
use windows_sys::Win32::Storage::FileSystem::ReadFile;
use windows_sys::Win32::System::IO::{
    GetOverlappedResult, OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0,
};

use crate::completion_port::CompletionPort;
use crate::handle::is;
use crate::memory::VirtualMemory;
use crate::unbuffered_file;

/// Straight into the destination.
const DIRECT: Mechanism = Mechanism::new("overlapped-direct");

/// Reads past the system cache (`FILE_FLAG_NO_BUFFERING`), overlapped, with as many in flight as the
/// queue allows.
///
/// Every worker opens the files for itself and has a completion port of its own.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct OverlappedReader;

impl OverlappedReader {
    /// The reader; it has no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Reader for OverlappedReader {
    fn mechanism(&self) -> Mechanism {
        DIRECT
    }

    fn support(&self, file: &WeightFile) -> Result<Support, Refusal> {
        unbuffered_file::support(file)
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        let refusal = |error| Refusal::new(DIRECT, format!("no completion port: {error}"));
        let port = CompletionPort::new().map_err(refusal)?;
        let depth = queue.depth();
        serve(
            queue,
            OverlappedEngine::new(port, depth),
            depth,
            &VirtualMemory,
        );
        Ok(())
    }
}

/// A completion port, and what each read that may be in flight needs.
struct OverlappedEngine {
    port: CompletionPort,
    /// Where reads begin, and how they end: written by the system. Never moved nor freed while one
    /// is in flight.
    positions: Box<[UnsafeCell<OVERLAPPED>]>,
    /// The files of those in flight.
    handles: Vec<Option<RawHandle>>,
    /// Reads that were over before they began, for they were asked for behind the end of the file.
    at_end: Vec<usize>,
}

impl OverlappedEngine {
    fn new(port: CompletionPort, depth: usize) -> Self {
        Self {
            port,
            positions: (0..depth).map(|_| UnsafeCell::default()).collect(),
            handles: vec![None; depth],
            at_end: Vec::new(),
        }
    }

    /// The outcome of a read, if the completion that was told of is its own: `None` where it is of
    /// an earlier read in the same place.
    fn outcome(&mut self, index: usize) -> Option<io::Result<usize>> {
        let handle = (*self.handles.get(index)?)?;
        let position = self.positions.get(index)?.get();
        // SAFETY: the position is this engine's.
        let status = unsafe { &raw const (*position).Internal };
        // SAFETY: as above; volatile, since the system may be writing to it.
        let status = unsafe { status.read_volatile() };
        if i32::try_from(status) == Ok(STATUS_PENDING) {
            return None;
        }
        self.handles[index] = None;
        let mut filled = 0_u32;
        // SAFETY: the file is open until the read was told of, and the position is that of a read
        // of it which is over.
        let read = unsafe { GetOverlappedResult(handle, position, &raw mut filled, 0) };
        if read != 0 {
            return Some(Ok(filled as usize));
        }
        let error = io::Error::last_os_error();
        Some(if is(&error, ERROR_HANDLE_EOF) {
            Ok(0)
        } else {
            Err(error)
        })
    }
}

// SAFETY: the system writes to the memory of a read alone, and no more once its status is another
// than pending, which is looked at before it is told of; its result tells how many bytes are at the
// front. Reads that began and were not told of are those that have a handle here.
unsafe impl ReadEngine for OverlappedEngine {
    const DIRECT: Mechanism = DIRECT;
    const BOUNCED: Mechanism = Mechanism::new("overlapped-direct-bounced");

    fn open(&mut self, file: &WeightFile) -> io::Result<(File, Support)> {
        let support = unbuffered_file::support(file)
            .map_err(|refusal| io::Error::new(io::ErrorKind::Unsupported, refusal.reason))?;
        let file = unbuffered_file::open(file)?;
        self.port.watch(&file)?;
        Ok((file, support))
    }

    /// The read completes through the port, also where it is over at once.
    unsafe fn begin(&mut self, read: &DirectRead<'_>) -> io::Result<()> {
        let (index, start) = (read.index, read.start);
        let len = u32::try_from(read.len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let position = self.positions.get(index);
        let position = position.ok_or(io::ErrorKind::WouldBlock)?.get();
        // SAFETY: no read uses this position, since none of its number is in flight.
        unsafe { position.write(at(read.offset)) };
        let handle = read.file.as_raw_handle();
        // SAFETY: the handle is open; the caller promises the memory; the position is this engine's
        // and stays where it is until the read was told of.
        let over = unsafe { ReadFile(handle, start, len, std::ptr::null_mut(), position) };
        let error = io::Error::last_os_error();
        if over != 0 || is(&error, ERROR_IO_PENDING) {
            self.handles[index] = Some(handle);
        } else if is(&error, ERROR_HANDLE_EOF) {
            self.at_end.push(index);
        } else {
            return Err(error);
        }
        Ok(())
    }

    fn completed(&mut self, wait: bool, tell: &mut Vec<(usize, io::Result<usize>)>) {
        let wait = wait && self.at_end.is_empty();
        tell.extend(self.at_end.drain(..).map(|index| (index, Ok(0))));
        let first = self.positions.as_ptr().addr();
        match self.port.completed(wait) {
            Ok(completed) => {
                for position in completed {
                    let index = position.addr().wrapping_sub(first) / size_of::<OVERLAPPED>();
                    tell.extend(self.outcome(index).map(|outcome| (index, outcome)));
                }
            }
            Err(error) => {
                // There is no remedy but to try again, since what is in flight must be waited for.
                tracing::debug!(%error, "waiting for a completion");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn is_refusal(&self, error: &io::Error) -> bool {
        unbuffered_file::is_refusal(error)
    }
}

/// A position to read at.
fn at(offset: u64) -> OVERLAPPED {
    // The offset travels in two halves of 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the offset"
    )]
    let halves = OVERLAPPED_0_0 {
        Offset: offset as u32,
        OffsetHigh: (offset >> 32) as u32,
    };
    OVERLAPPED {
        Anonymous: OVERLAPPED_0 { Anonymous: halves },
        ..OVERLAPPED::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_carry_long_offsets() {
        let position = at(0x12_3456_789a);
        // SAFETY: the offsets were written.
        let halves = unsafe { position.Anonymous.Anonymous };
        assert_eq!((halves.OffsetHigh, halves.Offset), (0x12, 0x3456_789a));
    }
}
