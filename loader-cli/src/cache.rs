//! Files and the page cache.

use std::path::Path;

use weightloader::{Checkpoint, Loader, WeightFile};

use crate::failure::Failure;
use crate::output::Output;
use crate::units;

/// The files behind a path: those of a checkpoint in several files, else the file alone, whatever
/// it holds and without reading any of it.
pub(crate) fn files(path: &Path) -> Result<Vec<WeightFile>, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let in_parts = name.ends_with(".index.json") || name.ends_with(".gguf");
    if in_parts || path.is_dir() {
        Ok(Checkpoint::open(path)?.files().to_vec())
    } else {
        Ok(vec![WeightFile::open(path)?])
    }
}

/// Bytes of all files together.
pub(crate) fn total(files: &[WeightFile]) -> u64 {
    files
        .iter()
        .map(WeightFile::len)
        .fold(0, u64::saturating_add)
}

/// Bytes that the page cache holds; `None` where the system does not tell, even where it can be
/// estimated.
pub(crate) fn resident(loader: &Loader, files: &[WeightFile]) -> Result<Option<u64>, Failure> {
    let mut sum = Some(0);
    for file in files {
        let map = loader.residency(file, .., file.len().max(1))?;
        let told = map.resident_bytes().filter(|_| !map.is_estimate());
        sum = sum.zip(told).map(|(a, b)| a + b);
    }
    Ok(sum)
}

/// The share of the bytes that the page cache holds, from 0 to 1.
pub(crate) fn resident_share(
    loader: &Loader,
    files: &[WeightFile],
) -> Result<Option<f64>, Failure> {
    let resident = resident(loader, files)?;
    Ok(resident.map(|resident| units::share(resident, total(files))))
}

/// Drops the files from the page cache.
pub(crate) fn evict(loader: &Loader, files: &[WeightFile]) -> Result<(), Failure> {
    for file in files {
        loader.evict(file, ..)?;
    }
    Ok(())
}

/// Drops the files from the page cache, and says so where they stay.
pub(crate) fn make_cold(
    loader: &Loader,
    files: &[WeightFile],
    output: &Output,
) -> Result<(), Failure> {
    evict(loader, files)?;
    match resident_share(loader, files)? {
        Some(share) if share > COLD => output.note(format_args!(
            "note: {} of the files stayed in the page cache: they are mapped elsewhere, not yet written back, or live in memory (tmpfs)",
            units::percent(share)
        )),
        _ => {}
    }
    Ok(())
}

/// Up to this resident share files count as cold: headers are read to find the weights.
pub(crate) const COLD: f64 = 0.01;
