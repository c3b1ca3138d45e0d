//! `weightloader evict`: out of the page cache.

use serde::Serialize;

use crate::arguments::Files;
use crate::failure::Failure;
use crate::output::Output;
use crate::{cache, units};

#[derive(Debug, Serialize)]
struct Evicted {
    path: String,
    bytes: u64,
    files: usize,
    /// In the page cache before; `null` where the system does not tell.
    resident_before: Option<u64>,
    /// In the page cache still; `null` where the system does not tell.
    resident_after: Option<u64>,
}

pub(crate) fn run(arguments: &Files, output: &Output) -> Result<(), Failure> {
    let loader = weightloader::Loader::new()?;
    let files = cache::files(&arguments.path)?;
    let resident_before = cache::resident(&loader, &files)?;
    cache::evict(&loader, &files)?;
    let evicted = Evicted {
        path: arguments.path.display().to_string(),
        bytes: cache::total(&files),
        files: files.len(),
        resident_before,
        resident_after: cache::resident(&loader, &files)?,
    };
    output.result(&evicted, |evicted| {
        let known = evicted.resident_before.zip(evicted.resident_after);
        let Some((before, after)) = known else {
            return format!(
                "{}: evicted; the system does not tell what is left",
                evicted.path
            );
        };
        format!(
            "{}: {} were cached, {} still are",
            evicted.path,
            units::bytes(before),
            units::bytes(after),
        )
    })
}
