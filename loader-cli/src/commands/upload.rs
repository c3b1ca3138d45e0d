//! `weightloader upload`: everything into the buffers of a device.

use std::time::{Duration, Instant};

use serde::Serialize;
use weightloader::core::Landing;

use super::how::How;
use crate::arguments::{StrategyName, Upload};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Bar;
use crate::target::Opened;
use crate::{cache, units};

#[derive(Debug, Serialize)]
struct Uploaded {
    path: String,
    to: &'static str,
    /// What took the weights, as its driver names it.
    device: String,
    /// How they went there.
    way: Option<&'static str>,
    /// Of the tensors.
    bytes: u64,
    /// What was read: the tensors, and small gaps between them.
    bytes_read: u64,
    /// From opening the checkpoint to its last byte in place; opening the device comes before.
    seconds: f64,
    bytes_per_second: f64,
    tensors: usize,
    files: usize,
    /// Of the device, that hold the weights.
    buffers: usize,
    #[serde(flatten)]
    how: How,
}

pub(crate) fn run(arguments: &Upload, output: &Output) -> Result<(), Failure> {
    if arguments.reading.strategy == StrategyName::Mapped {
        let reason = "--strategy mapped copies into host memory only: see `load`";
        return Err(Failure::Message(reason.to_owned()));
    }
    let loader = arguments.reading.loader()?;
    let Opened {
        mut uploader,
        device,
    } = arguments.to.open(arguments.way)?;
    let path = arguments.source.locate(&loader, output)?;
    if arguments.reading.cold {
        let checkpoint = loader.open(&path)?;
        cache::make_cold(&loader, checkpoint.files(), output)?;
    }

    let bar = Bar::bytes("uploading", 0);
    let system = &loader.platform().system;
    let before = system.usage();
    let started = Instant::now();
    let checkpoint = arguments.selection.select(&path, loader.open(&path)?)?;
    let done = loader.upload(&checkpoint, &mut *uploader, bar.operation())?;
    let elapsed = started.elapsed();
    let after = system.usage();
    drop(bar);

    let bytes = checkpoint.bytes();
    let placements = done.placements.iter();
    let uploaded = Uploaded {
        path: path.display().to_string(),
        to: arguments.to.name(),
        device,
        way: done.report.landing.map(Landing::name),
        bytes,
        bytes_read: done.report.bytes,
        seconds: elapsed.as_secs_f64(),
        bytes_per_second: units::rate(bytes, elapsed),
        tensors: checkpoint.tensors().len(),
        files: checkpoint.files().len(),
        buffers: placements
            .map(|placement| placement.buffer + 1)
            .max()
            .unwrap_or(0),
        how: How::new(&done.report, &before, &after),
    };
    output.result(&uploaded, |uploaded| describe(uploaded, elapsed))
}

fn describe(uploaded: &Uploaded, elapsed: Duration) -> String {
    let mut lines = vec![
        format!(
            "{}: {} in {}, {} uploaded in {}: {} GB/s",
            uploaded.path,
            units::count(uploaded.tensors, "tensor"),
            units::count(uploaded.files, "file"),
            units::bytes(uploaded.bytes),
            units::time(elapsed),
            units::gigabytes(uploaded.bytes_per_second),
        ),
        format!(
            "  to {}: {}, {}, {}",
            uploaded.to,
            uploaded.device,
            units::count(uploaded.buffers, "buffer"),
            uploaded.way.unwrap_or("unknown way"),
        ),
    ];
    lines.extend(uploaded.how.describe());
    lines.join("\n")
}
