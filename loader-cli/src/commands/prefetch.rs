//! `weightloader prefetch`: into the page cache, ahead of use.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use weightloader::{Loader, WeightFile};

use super::how::PassedOver;
use crate::arguments::Prefetch;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Bar;
use crate::{cache, units};

#[derive(Debug, Default, Serialize)]
struct Prefetched {
    path: String,
    bytes: u64,
    /// Until everything was there.
    seconds: f64,
    /// Until the calls had returned, which is how long a program that has other work waits.
    call_seconds: f64,
    /// Asked for and accepted.
    brought: u64,
    /// Left out because memory would not hold it.
    skipped: u64,
    cancelled: u64,
    failed: u64,
    fallbacks: Vec<PassedOver>,
    /// Share in the page cache at the end, from 0 to 1; `null` where the system does not tell.
    resident_after: Option<f64>,
}

pub(crate) fn run(arguments: &Prefetch, output: &Output) -> Result<(), Failure> {
    let mut builder = Loader::builder();
    if let Some(pace) = arguments.pace {
        builder = builder.pace(pace.as_u64());
    }
    let loader = builder.build()?;
    let path = &arguments.files.path;
    let files = cache::files(path)?;
    let mut prefetched = Prefetched {
        path: path.display().to_string(),
        bytes: cache::total(&files),
        ..Prefetched::default()
    };
    let bar = Bar::bytes("prefetching", prefetched.bytes);
    let started = Instant::now();
    for file in &files {
        // One after the other: each looks at how much memory the last has left.
        prefetched.add(&loader, file, &bar)?;
    }
    await_arrival(&loader, &files, prefetched.brought, &bar)?;
    let elapsed = started.elapsed();
    drop(bar);
    prefetched.seconds = elapsed.as_secs_f64();
    prefetched.resident_after = cache::resident_share(&loader, &files)?;
    output.result(&prefetched, |prefetched| describe(prefetched, elapsed))
}

impl Prefetched {
    fn add(&mut self, loader: &Loader, file: &WeightFile, bar: &Bar) -> Result<(), Failure> {
        let done = self.brought + self.skipped + self.cancelled + self.failed;
        let called = Instant::now();
        let ahead = loader.prefetch(file, ..)?;
        self.call_seconds += called.elapsed().as_secs_f64();
        let outcome = ahead.wait(bar.operation_after(done))?;
        self.brought += outcome.brought;
        self.skipped += outcome.skipped;
        self.cancelled += outcome.cancelled;
        self.failed += outcome.failed;
        for refusal in &outcome.fallbacks {
            let passed_over = PassedOver::from(refusal);
            let known = |old: &PassedOver| old.reason == passed_over.reason;
            if !self.fallbacks.iter().any(known) {
                self.fallbacks.push(passed_over);
            }
        }
        Ok(())
    }
}

/// Waits for what was asked for and is still on its way, as long as more arrives.
fn await_arrival(
    loader: &Loader,
    files: &[WeightFile],
    brought: u64,
    bar: &Bar,
) -> Result<(), Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(2);
    const GIVE_UP_AFTER: Duration = Duration::from_millis(250);
    let mut most = 0;
    let mut arrived_last = Instant::now();
    while let Some(resident) = cache::resident(loader, files)? {
        if resident > most {
            most = resident;
            arrived_last = Instant::now();
            bar.set(resident);
        }
        if resident >= brought || arrived_last.elapsed() > GIVE_UP_AFTER {
            break;
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn describe(prefetched: &Prefetched, elapsed: Duration) -> String {
    let mut lines = vec![format!(
        "{}: {} of {} brought into the page cache in {}: {} GB/s; the call returned after {}",
        prefetched.path,
        units::bytes(prefetched.brought),
        units::bytes(prefetched.bytes),
        units::time(elapsed),
        units::gigabytes(units::rate(prefetched.brought, elapsed)),
        units::time(Duration::from_secs_f64(prefetched.call_seconds)),
    )];
    if prefetched.skipped > 0 {
        let skipped = units::bytes(prefetched.skipped);
        lines.push(format!("  {skipped} left out: memory would not hold them"));
    }
    if prefetched.failed > 0 {
        let failed = units::bytes(prefetched.failed);
        lines.push(format!("  {failed} could not be asked for"));
    }
    for fallback in &prefetched.fallbacks {
        lines.push(format!("  {}", fallback.reason));
    }
    lines.push(match prefetched.resident_after {
        Some(share) => format!("  {} is cached now", units::percent(share)),
        None => "  the system does not tell how much is cached now".to_owned(),
    });
    lines.join("\n")
}
