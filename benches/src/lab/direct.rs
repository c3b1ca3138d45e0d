//! Reads past the page cache through io_uring, over rings.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::fs::OFlags;

use super::memory::Memory;
use super::trial::{Reads, RingKind, Trial};

pub(crate) fn read(path: &Path, memory: &Memory, trial: &Trial) -> io::Result<()> {
    let Reads::Direct {
        depth,
        rings,
        ring,
        kernel_workers,
    } = trial.reads
    else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let depth_each = (depth / rings).max(1);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let reader = |first_slot: usize| {
        Reader {
            file: &file,
            memory,
            chunk: trial.chunk,
            next: &next,
            first_slot,
            kernel_workers,
        }
        .run(&build(ring, depth_each), depth_each)
    };
    std::thread::scope(|scope| {
        let reader = &reader;
        let ahead = scope.spawn(|| memory.fault_in_ahead(&stop));
        let others: Vec<_> = (1..rings)
            .map(|ring| scope.spawn(move || reader(ring * depth_each)))
            .collect();
        let own = reader(0);
        let read = others
            .into_iter()
            .filter_map(|other| other.join().ok())
            .fold(own, io::Result::and);
        stop.store(true, Ordering::Relaxed);
        read.and(ahead.join().unwrap_or(Ok(())))
    })
}

type Build = Box<dyn Fn() -> io::Result<IoUring>>;

fn build(kind: RingKind, depth: usize) -> Build {
    let entries = u32::try_from(depth.next_power_of_two()).unwrap_or(u32::MAX);
    Box::new(move || {
        let mut builder = IoUring::builder();
        match kind {
            RingKind::Plain => &mut builder,
            RingKind::CooperativeTaskrun => builder.setup_coop_taskrun(),
            RingKind::SingleIssuer => builder.setup_single_issuer(),
            RingKind::DeferTaskrun => builder.setup_single_issuer().setup_defer_taskrun(),
        };
        builder.build(entries)
    })
}

/// Keeps one ring full until no chunk is left.
struct Reader<'a> {
    file: &'a File,
    memory: &'a Memory,
    chunk: usize,
    next: &'a AtomicUsize,
    /// Slots of reused memory from here on are this reader's.
    first_slot: usize,
    kernel_workers: bool,
}

impl Reader<'_> {
    fn run(&self, build: &Build, depth: usize) -> io::Result<()> {
        let mut ring = build()?;
        let mut free: Vec<usize> = (0..depth).collect();
        let mut outcome = Ok(());
        loop {
            while outcome.is_ok() {
                let Some(slot) = free.pop() else { break };
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                let left = self.memory.bytes.saturating_sub(index * self.chunk);
                if left == 0 {
                    free.push(slot);
                    break;
                }
                outcome = self.push(&mut ring, index, left.min(self.chunk), slot);
            }
            if free.len() == depth {
                return outcome;
            }
            ring.submit_and_wait(1)?;
            for entry in ring.completion() {
                free.push(usize::try_from(entry.user_data()).map_err(io::Error::other)?);
                if entry.result() < 0 {
                    outcome = Err(io::Error::from_raw_os_error(-entry.result()));
                }
            }
        }
    }

    fn push(&self, ring: &mut IoUring, index: usize, len: usize, slot: usize) -> io::Result<()> {
        self.memory.fault_in_for_read(index, len)?;
        let place = self.memory.place(index, self.first_slot + slot);
        // The last read reaches beyond the end of the file, into the rest of its last page.
        let len = u32::try_from(len.next_multiple_of(4096)).map_err(io::Error::other)?;
        let flags = if self.kernel_workers {
            squeue::Flags::ASYNC
        } else {
            squeue::Flags::empty()
        };
        let entry = opcode::Read::new(Fd(self.file.as_raw_fd()), place, len)
            .offset((index * self.chunk) as u64)
            .build()
            .flags(flags)
            .user_data(slot as u64);
        // SAFETY: within the mapping, which outlives the ring's reads: `run` returns when none is
        // in flight.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)
    }
}
