//! `weightloader load`: everything into host memory.

use std::time::{Duration, Instant};

use serde::Serialize;
use weightloader::{Checkpoint, Loader, Operation, Report};

use super::how::How;
use crate::arguments::{Load, StrategyName};
use crate::failure::Failure;
use crate::mapped::MappedCopy;
use crate::output::Output;
use crate::progress::Bar;
use crate::timeline::{self, Recorder};
use crate::{cache, units};

#[derive(Debug, Serialize)]
struct Loaded {
    path: String,
    /// Of the tensors.
    bytes: u64,
    /// What was read: the tensors, and small gaps between them.
    bytes_read: u64,
    /// From opening the checkpoint to its last byte in place.
    seconds: f64,
    bytes_per_second: f64,
    tensors: usize,
    files: usize,
    #[serde(flatten)]
    how: How,
}

pub(crate) fn run(
    arguments: &Load,
    recorder: Option<&Recorder>,
    output: &Output,
) -> Result<(), Failure> {
    let mapped = arguments.reading.strategy == StrategyName::Mapped;
    if mapped && arguments.lock {
        let reason = "--lock is for loads, not for --strategy mapped, which stands for comparison";
        return Err(Failure::Message(reason.to_owned()));
    }
    let builder = arguments.reading.builder();
    let loader = builder.lock_memory(arguments.lock).build()?;
    let path = arguments.source.locate(&loader, output)?;
    if arguments.reading.cold {
        let checkpoint = loader.open(&path)?;
        cache::make_cold(&loader, checkpoint.files(), output)?;
    }

    let bar = Bar::bytes("loading", 0);
    let system = &loader.platform().system;
    let before = system.usage();
    let started = Instant::now();
    let checkpoint = arguments.selection.select(&path, loader.open(&path)?)?;
    let opened = started.elapsed();
    let (report, elapsed) = load(&loader, &checkpoint, mapped, bar.operation(), started)?;
    let after = system.usage();
    drop(bar);
    if let (Some(recorder), Some(out)) = (recorder, &arguments.timeline) {
        let timeline = recorder.timeline(started, opened, elapsed);
        let heading = format!(
            "One load of {}: {} GB/s",
            units::bytes(checkpoint.bytes()),
            units::gigabytes(units::rate(checkpoint.bytes(), elapsed))
        );
        timeline::draw(&timeline, &heading, out)?;
    }

    let how = How::new(&report, &before, &after);
    let bytes = checkpoint.bytes();
    let loaded = Loaded {
        path: path.display().to_string(),
        bytes,
        bytes_read: report.bytes,
        seconds: elapsed.as_secs_f64(),
        bytes_per_second: units::rate(bytes, elapsed),
        tensors: checkpoint.tensors().len(),
        files: checkpoint.files().len(),
        how: if mapped { how.by("mapped") } else { how },
    };
    output.result(&loaded, |loaded| describe(loaded, elapsed))
}

/// Loads, tells how long that took since `started`, and gives the memory back.
fn load(
    loader: &Loader,
    checkpoint: &Checkpoint,
    mapped: bool,
    operation: Operation<'_>,
    started: Instant,
) -> Result<(Report, Duration), Failure> {
    if mapped {
        let (_buffer, report) = MappedCopy::default().load(loader, checkpoint, operation)?;
        return Ok((report, started.elapsed()));
    }
    let model = loader.load(checkpoint, operation)?;
    Ok((model.report().clone(), started.elapsed()))
}

fn describe(loaded: &Loaded, elapsed: Duration) -> String {
    let mut lines = vec![format!(
        "{}: {} in {}, {} loaded in {}: {} GB/s",
        loaded.path,
        units::count(loaded.tensors, "tensor"),
        units::count(loaded.files, "file"),
        units::bytes(loaded.bytes),
        units::time(elapsed),
        units::gigabytes(loaded.bytes_per_second),
    )];
    lines.extend(loaded.how.describe());
    lines.join("\n")
}
