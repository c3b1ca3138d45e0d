//! One turn of one way, and what it cost.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weightloader::{Checkpoint, HostBuffer, Loader, Operation, WeightFile};
use weightloader_lab::processor_time;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Cold,
    Warm,
}

#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// A load by default options.
    Load(Checkpoint, State),
    /// read(2) on one thread into fresh memory on huge pages, cold.
    ReadCall(Checkpoint),
    /// From opening to the first tensor, cold.
    FirstTensor(Checkpoint),
    /// A file opened and read into a fresh vector, many times.
    SmallRead(PathBuf),
    /// The same, into memory of ours.
    SmallLoad(PathBuf),
    /// The same by `std::fs::read`.
    StandardRead(PathBuf),
}

/// What is told of a turn; less is better.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    NanosecondsPerKibibyte,
    ProcessorPerGibibyte,
    Milliseconds,
    Microseconds,
}

/// How often a small file is read in one turn: the fastest counts, as of all rounds.
const SMALL_READS: usize = 200;

struct Spent {
    time: Duration,
    processor: Duration,
    bytes: u64,
}

impl Turn {
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Load(..) => "load".to_owned(),
            Self::ReadCall(_) => "read(2)".to_owned(),
            Self::FirstTensor(_) => "stream".to_owned(),
            Self::SmallRead(_) => "read_into".to_owned(),
            Self::SmallLoad(_) => "load".to_owned(),
            Self::StandardRead(_) => "std::fs::read".to_owned(),
        }
    }

    /// Brings the page cache into the state that is wanted, and measures.
    pub(crate) fn take(&self, loader: &Loader, cost: Cost) -> Outcome<f64> {
        let spent = match self {
            Self::Load(checkpoint, state) => {
                prepare(loader, checkpoint, *state)?;
                measure(
                    || Ok(loader.load(checkpoint, Operation::new())?),
                    checkpoint.bytes(),
                )?
            }
            Self::ReadCall(checkpoint) => {
                prepare(loader, checkpoint, State::Cold)?;
                measure(|| read_call(loader, checkpoint), checkpoint.bytes())?
            }
            Self::FirstTensor(checkpoint) => {
                prepare(loader, checkpoint, State::Cold)?;
                let path = checkpoint.files()[0].path();
                let first = || {
                    let mut stream = loader.stream(&loader.open(path)?)?;
                    let tensor = stream.next().transpose()?;
                    Ok((tensor, stream))
                };
                measure(first, 0)?
            }
            Self::SmallRead(path) => fastest(|| small_read(loader, path))?,
            Self::SmallLoad(path) => fastest(|| {
                let checkpoint = Checkpoint::raw(WeightFile::open(path)?);
                Ok(loader.load(&checkpoint, Operation::new())?)
            })?,
            Self::StandardRead(path) => fastest(|| Ok(std::fs::read(path)?))?,
        };
        Ok(cost.of(&spent))
    }
}

impl Cost {
    fn of(self, spent: &Spent) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far from 2^53 bytes")]
        let bytes = spent.bytes as f64;
        match self {
            Self::NanosecondsPerKibibyte => spent.time.as_secs_f64() * 1e9 / bytes * 1024.0,
            Self::ProcessorPerGibibyte => {
                spent.processor.as_secs_f64() * 1e3 / bytes * f64::from(1 << 30)
            }
            Self::Milliseconds => spent.time.as_secs_f64() * 1e3,
            Self::Microseconds => spent.time.as_secs_f64() * 1e6,
        }
    }

    pub(crate) fn describe(self, cost: f64) -> String {
        match self {
            Self::NanosecondsPerKibibyte => format!("{:.2} GB/s", 1024.0 / cost),
            Self::ProcessorPerGibibyte => format!("{cost:.0} ms per GiB"),
            Self::Milliseconds => format!("{cost:.1} ms"),
            Self::Microseconds => format!("{cost:.1} µs"),
        }
    }
}

/// Measures until `what` returns; what it gives is dropped afterwards.
fn measure<T>(what: impl FnOnce() -> Outcome<T>, bytes: u64) -> Outcome<Spent> {
    let (started, processor) = (Instant::now(), processor_time());
    let given = what()?;
    let spent = Spent {
        time: started.elapsed(),
        processor: processor_time().saturating_sub(processor),
        bytes,
    };
    drop(black_box(given));
    Ok(spent)
}

/// The fastest of many.
fn fastest<T>(what: impl Fn() -> Outcome<T>) -> Outcome<Spent> {
    let mut fastest = Duration::MAX;
    for _ in 0..SMALL_READS {
        let started = Instant::now();
        drop(black_box(what()?));
        fastest = fastest.min(started.elapsed());
    }
    Ok(Spent {
        time: fastest,
        processor: Duration::ZERO,
        bytes: 0,
    })
}

fn small_read(loader: &Loader, path: &Path) -> Outcome<usize> {
    let file = WeightFile::open(path)?;
    let len = usize::try_from(file.len())?;
    let mut memory: Vec<u8> = Vec::with_capacity(len);
    let into = &mut memory.spare_capacity_mut()[..len];
    let report = loader.read_into(&file, .., into, Operation::new())?;
    black_box(&memory);
    Ok(usize::try_from(report.bytes)?)
}

fn read_call(loader: &Loader, checkpoint: &Checkpoint) -> Outcome<Vec<HostBuffer>> {
    const AT_ONCE: usize = 2 << 20;
    let read = |file: &WeightFile| {
        let len = usize::try_from(file.len())?;
        let mut memory = HostBuffer::zeroed(&*loader.platform().memory, len)?;
        let mut open = File::open(file.path())?;
        for part in memory.chunks_mut(AT_ONCE) {
            open.read_exact(part)?;
        }
        Ok(memory)
    };
    checkpoint.files().iter().map(read).collect()
}

/// Brings the page cache into `state`, and memory into that of a process that has worked a while:
/// what a virtual machine has given back to its host meanwhile takes long to touch again.
fn prepare(loader: &Loader, checkpoint: &Checkpoint, state: State) -> Outcome<()> {
    for file in checkpoint.files() {
        match state {
            State::Cold => loader.evict(file, ..)?,
            State::Warm => {
                std::io::copy(&mut File::open(file.path())?, &mut std::io::sink())?;
            }
        }
    }
    let len = checkpoint.files().iter().map(WeightFile::len).sum::<u64>();
    let mut memory = HostBuffer::zeroed(&*loader.platform().memory, usize::try_from(len)?)?;
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(())
}
