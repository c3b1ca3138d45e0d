//! `weightloader load`: everything into host memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use weightloader::{Checkpoint, Loader, Operation, Refusal, Report};

use crate::arguments::{Load, StrategyName};
use crate::failure::Failure;
use crate::mapped::MappedCopy;
use crate::output::Output;
use crate::progress::Bar;
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
    strategy: String,
    chunks: BTreeMap<&'static str, u64>,
    fallbacks: Vec<PassedOver>,
    /// In the page cache when the load began, where that was asked and told.
    resident_bytes: Option<u64>,
    /// Locked in memory, where that was asked for.
    locked_bytes: Option<u64>,
    major_faults: Option<u64>,
    minor_faults: Option<u64>,
    peak_memory: Option<u64>,
}

/// A mechanism that was not used, and why.
#[derive(Debug, Serialize)]
pub(crate) struct PassedOver {
    mechanism: &'static str,
    pub(crate) reason: String,
}

impl From<&Refusal> for PassedOver {
    fn from(refusal: &Refusal) -> Self {
        Self {
            mechanism: refusal.mechanism.name(),
            reason: refusal.reason.clone(),
        }
    }
}

pub(crate) fn run(arguments: &Load, output: &Output) -> Result<(), Failure> {
    let loader = arguments.reading.loader()?;
    let path = arguments.source.locate(&loader, output)?;
    if arguments.reading.cold {
        let checkpoint = loader.open(&path)?;
        cache::make_cold(&loader, checkpoint.files(), output)?;
    }

    let bar = Bar::bytes("loading", 0);
    let started = Instant::now();
    let checkpoint = arguments.selection.select(loader.open(&path)?)?;
    let mapped = arguments.reading.strategy == StrategyName::Mapped;
    let (report, elapsed) = load(&loader, &checkpoint, mapped, bar.operation(), started)?;
    drop(bar);

    let strategy = if mapped {
        "mapped".to_owned()
    } else {
        report.strategy.to_string()
    };
    let bytes = checkpoint.bytes();
    let loaded = Loaded {
        path: path.display().to_string(),
        bytes,
        bytes_read: report.bytes,
        seconds: elapsed.as_secs_f64(),
        bytes_per_second: units::rate(bytes, elapsed),
        tensors: checkpoint.tensors().len(),
        files: checkpoint.files().len(),
        strategy,
        chunks: named(&report),
        fallbacks: report.fallbacks.iter().map(PassedOver::from).collect(),
        resident_bytes: report.resident_bytes,
        locked_bytes: report.locked_bytes,
        major_faults: report.major_faults,
        minor_faults: report.minor_faults,
        peak_memory: report.peak_memory,
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

fn named(report: &Report) -> BTreeMap<&'static str, u64> {
    let chunks = report.chunks.iter();
    chunks
        .map(|(mechanism, count)| (mechanism.name(), *count))
        .collect()
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
    let chunks: Vec<String> = loaded
        .chunks
        .iter()
        .map(|(mechanism, count)| format!("{count} {mechanism}"))
        .collect();
    let mut how = format!("  {}: chunks read: {}", loaded.strategy, chunks.join(", "));
    if let Some(resident) = loaded.resident_bytes {
        let share = units::percent(units::share(resident, loaded.bytes_read));
        how.push_str(&format!("; {share} was cached"));
    }
    lines.push(how);
    for fallback in &loaded.fallbacks {
        let PassedOver { mechanism, reason } = fallback;
        lines.push(format!("  without {mechanism}: {reason}"));
    }
    if let Some(locked) = loaded.locked_bytes {
        lines.push(format!("  locked in memory: {}", units::bytes(locked)));
    }
    if let (Some(major), Some(minor)) = (loaded.major_faults, loaded.minor_faults) {
        lines.push(format!("  page faults: {major} with I/O, {minor} without"));
    }
    if let Some(peak) = loaded.peak_memory {
        lines.push(format!("  peak memory: {}", units::bytes(peak)));
    }
    lines.join("\n")
}
