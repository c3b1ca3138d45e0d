//! `weightloader extract`: the exact bytes of one tensor.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use weightloader::{Checkpoint, HostBuffer, Loader, WeightFile};

use crate::arguments::{Extract, StrategyName};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Bar;
use crate::whole_file::WholeFile;
use crate::{cache, units};

#[derive(Debug, Serialize)]
struct Extracted<'c> {
    path: String,
    tensor: &'c str,
    dtype: &'static str,
    shape: &'c [u64],
    output: String,
    bytes: u64,
    /// Until the last byte was written.
    seconds: f64,
    strategy: String,
}

/// Bytes read and then written at once, at most.
const PIECE: u64 = 64 << 20;

/// Where reads begin in the file and in memory is the same, modulo this many bytes: direct I/O
/// then needs no detour.
const BLOCK: u64 = 4096;

pub(crate) fn run(arguments: &Extract, output: &Output) -> Result<(), Failure> {
    let to_stdout = arguments.output.as_os_str() == "-";
    if to_stdout && output.is_json() {
        let reason = "--json needs standard output for itself; extract to a file";
        return Err(Failure::Message(reason.to_owned()));
    }
    if to_stdout && io::stdout().is_terminal() {
        let reason = "the bytes of a tensor are not for a terminal; redirect them or name a file";
        return Err(Failure::Message(reason.to_owned()));
    }
    let loader = arguments.reading.loader()?;
    if arguments.reading.cold {
        let checkpoint = loader.open(&arguments.path)?;
        cache::make_cold(&loader, checkpoint.files(), output)?;
    }
    let started = Instant::now();
    let checkpoint = loader.open(&arguments.path)?;
    let missing = |error| Failure::Message(format!("{}: {error}", arguments.path.display()));
    let tensor = checkpoint.tensor(&arguments.tensor).map_err(missing)?;
    let file = &checkpoint.files()[tensor.file()];
    let mapped = arguments.reading.strategy == StrategyName::Mapped;
    let bar = Bar::bytes("extracting", tensor.bytes());
    let write = |sink: &mut dyn Write| {
        if mapped {
            copy_mapped(file, tensor.range(), sink)
        } else {
            let limit = arguments.reading.memory_limit;
            let piece = limit.map_or(PIECE, |limit| limit.as_u64().min(PIECE));
            copy(&loader, file, tensor.range(), piece, &bar, sink)
        }
    };
    if to_stdout {
        // Unbuffered: pieces are large, and end nowhere near a line.
        write(&mut io::stdout().lock()).map_err(|stop| stop.into_failure(Failure::Stdout))?;
    } else {
        refuse_own_files(&checkpoint, &arguments.output)?;
        let path = &arguments.output;
        let mut file = WholeFile::create(path)?;
        write(&mut file).map_err(|stop| stop.into_failure(Failure::file(path, "write")))?;
        file.finish()?;
    }
    let elapsed = started.elapsed();
    drop(bar);

    let strategy = if mapped {
        "mapped".to_owned()
    } else {
        loader.options().strategy.to_string()
    };
    let extracted = Extracted {
        path: arguments.path.display().to_string(),
        tensor: tensor.name(),
        dtype: tensor.dtype().name(),
        shape: tensor.shape(),
        output: arguments.output.display().to_string(),
        bytes: tensor.bytes(),
        seconds: elapsed.as_secs_f64(),
        strategy,
    };
    let output = if to_stdout {
        &output.keep_off_stdout()
    } else {
        output
    };
    output.result(&extracted, |extracted| {
        format!(
            "{}: {} {:?}, {} written to {} in {}",
            extracted.tensor,
            extracted.dtype,
            extracted.shape,
            units::bytes(extracted.bytes),
            extracted.output,
            units::time(elapsed),
        )
    })
}

/// Why a copy ended early.
enum Stop {
    Reading(Failure),
    Writing(io::Error),
}

impl Stop {
    fn into_failure(self, writing: impl FnOnce(io::Error) -> Failure) -> Failure {
        match self {
            Self::Reading(failure) => failure,
            Self::Writing(error) => writing(error),
        }
    }
}

impl From<weightloader::Error> for Stop {
    fn from(error: weightloader::Error) -> Self {
        Self::Reading(error.into())
    }
}

/// Reads `range` of `file` piece by piece, and writes each.
fn copy(
    loader: &Loader,
    file: &WeightFile,
    range: Range<u64>,
    piece: u64,
    bar: &Bar,
    sink: &mut dyn Write,
) -> Result<(), Stop> {
    let piece = (piece / BLOCK * BLOCK).max(BLOCK);
    let on_disk = |offset: u64| file.base() + offset;
    let longest = piece.min(range.end - range.start) + BLOCK;
    // A piece is at most 64 MiB.
    let len = usize::try_from(longest).unwrap_or(usize::MAX);
    let mut buffer = HostBuffer::zeroed(&*loader.platform().memory, len)?;
    let mut start = range.start;
    while start < range.end {
        let shift = on_disk(start) % BLOCK;
        let end = (start + (piece - shift)).min(range.end);
        let (from, to) = (fits(shift), fits(shift + (end - start)));
        let bytes = &mut buffer[from..to];
        let done = start - range.start;
        loader.read_into(file, start..end, &mut *bytes, bar.operation_after(done))?;
        sink.write_all(bytes).map_err(Stop::Writing)?;
        start = end;
    }
    sink.flush().map_err(Stop::Writing)
}

/// A place within a piece, which fits the memory that it was taken for.
fn fits(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// Writes `range` of `file` straight from a mapping.
fn copy_mapped(file: &WeightFile, range: Range<u64>, sink: &mut dyn Write) -> Result<(), Stop> {
    // SAFETY: whoever asks for this strategy, whose help says so, promises that nobody changes or
    // truncates the file meanwhile.
    let mapping = unsafe { weightloader::map(file, range) }?;
    sink.write_all(&mapping)
        .and_then(|()| sink.flush())
        .map_err(Stop::Writing)
}

/// Refuses to write over what is read: files of weights, and the index that names them.
fn refuse_own_files(checkpoint: &Checkpoint, path: &Path) -> Result<(), Failure> {
    let Ok(existing) = WeightFile::open(path) else {
        return Ok(());
    };
    let index = checkpoint.shard_index().map(WeightFile::open).transpose()?;
    let mut own = checkpoint.files().iter().chain(&index);
    if own.any(|file| file.is_same_file(&existing)) {
        let path = path.display();
        let reason = format!("{path}: this is the checkpoint itself; name another file to write");
        return Err(Failure::Message(reason));
    }
    Ok(())
}
