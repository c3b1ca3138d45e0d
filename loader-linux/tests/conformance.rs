//! Every reader and prefetcher of this crate passes the suite that all of them pass.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::PathBuf;
use std::sync::Arc;

use loader_core::testing::conformance;
use loader_core::{Prefetcher, Reader, WeightFile};
use loader_linux::{BufferedReader, DirectReader, MadvisePrefetcher, SplicePrefetcher};
use tempfile::TempDir;

/// A folder on a filesystem of the project's own, since many a temporary folder lies in memory,
/// where direct I/O has nothing to pass by.
fn folder() -> TempDir {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(target).unwrap()
}

/// Whether `reader` serves files there at all; says so where it does not.
fn serves(reader: &dyn Reader, folder: &TempDir) -> bool {
    let path = folder.path().join("probe");
    std::fs::write(&path, [1; 8192]).unwrap();
    match reader.support(&WeightFile::open(&path).unwrap()) {
        Ok(_) => true,
        Err(refusal) => {
            println!("skipped: {refusal}");
            false
        }
    }
}

fn check_reader(reader: Arc<dyn Reader>) {
    let folder = folder();
    if serves(&*reader, &folder) {
        conformance::reader(&reader, folder.path());
    }
}

fn check_prefetcher(prefetcher: Arc<dyn Prefetcher>) {
    let folder = folder();
    conformance::prefetcher(&prefetcher, &loader_linux::platform().system, folder.path());
}

#[test]
fn buffered_reads_conform() {
    check_reader(Arc::new(BufferedReader::new()));
}

#[test]
fn direct_reads_by_threads_conform() {
    check_reader(Arc::new(DirectReader::new()));
}

#[test]
fn splice_conforms() {
    check_prefetcher(Arc::new(SplicePrefetcher));
}

#[test]
fn madvise_conforms() {
    check_prefetcher(Arc::new(MadvisePrefetcher));
}

#[cfg(feature = "io-uring")]
#[test]
fn io_uring_reads_conform() {
    match loader_linux::UringReader::probe() {
        Ok(reader) => check_reader(Arc::new(reader)),
        Err(refusal) => println!("skipped: {refusal}"),
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn io_uring_readahead_conforms() {
    match loader_linux::UringPrefetcher::probe() {
        Ok(prefetcher) => check_prefetcher(Arc::new(prefetcher)),
        Err(refusal) => println!("skipped: {refusal}"),
    }
}
