//! Positional reads through the page cache, over threads.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use weightloader::{Loader, WeightFile};

use super::memory::Memory;
use super::trial::{Ask, Runs};

/// How many bytes a run begins with.
const FIRST: usize = 8 << 20;

pub(crate) fn read(
    path: &Path,
    memory: &Memory,
    chunk: usize,
    threads: usize,
    ask: Ask,
    runs: Runs,
) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let residency = Residency::of(path)?;
    if let Ask::Residency = ask {
        residency.ask(0..residency.file.len(), chunk)?;
    }
    let work = |slot: usize| -> io::Result<()> {
        let file = File::open(path)?;
        if runs.chunks > 1 {
            fadvise(&file, 0, None, Advice::Sequential)?;
        }
        let mut run = 0..0;
        loop {
            let index = run.next().unwrap_or_else(|| {
                let first = next.fetch_add(runs.chunks, Ordering::Relaxed);
                run = first + 1..first + runs.chunks;
                first
            });
            let Some(left) = memory
                .bytes
                .checked_sub(index * chunk)
                .filter(|left| *left > 0)
            else {
                return Ok(());
            };
            let len = left.min(chunk);
            let is_first = (runs.chunks - run.len() - 1) * chunk < FIRST;
            let at_most = if is_first { runs.first_reads } else { chunk };
            if let Ask::ResidencyOfEach = ask {
                let start = (index * chunk) as u64;
                residency.ask(start..start + len as u64, chunk)?;
            }
            memory.fault_in_for_read(index, len)?;
            // SAFETY: within the mapping, and nobody else's: each chunk, and each slot, is taken by
            // one thread. Fresh memory is zeroed.
            let buffer = unsafe { std::slice::from_raw_parts_mut(memory.place(index, slot), len) };
            for (piece, start) in buffer
                .chunks_mut(at_most)
                .zip((index * chunk..).step_by(at_most))
            {
                read_chunk(&file, piece, start as u64, ask)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads)
            .map(|slot| scope.spawn(move || work(slot)))
            .collect();
        let own = work(0);
        others
            .into_iter()
            .filter_map(|other| other.join().ok())
            .fold(own, io::Result::and)
    })
}

/// Asks as the library does.
struct Residency {
    loader: Loader,
    file: WeightFile,
}

impl Residency {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            loader: Loader::new().map_err(io::Error::other)?,
            file: WeightFile::open(path).map_err(io::Error::other)?,
        })
    }

    fn ask(&self, range: Range<u64>, granularity: usize) -> io::Result<()> {
        let told = self.loader.residency(&self.file, range, granularity as u64);
        std::hint::black_box(told.map_err(io::Error::other)?);
        Ok(())
    }
}

fn read_chunk(file: &File, buffer: &mut [u8], offset: u64, ask: Ask) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let (rest, at) = (&mut buffer[filled..], offset + filled as u64);
        let tried = match ask {
            Ask::Nowait => preadv2(
                file,
                &mut [IoSliceMut::new(rest)],
                at,
                ReadWriteFlags::NOWAIT,
            ),
            Ask::Nothing | Ask::Residency | Ask::ResidencyOfEach => Err(Errno::AGAIN),
        };
        let read = match tried {
            Err(Errno::AGAIN) => pread(file, rest, at),
            outcome => outcome,
        };
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => filled += more,
        }
    }
    Ok(())
}
