//! The mechanisms that the face picks pass the suites that all pass, on the filesystems at hand.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use loader_core::testing::conformance;
use tempfile::TempDir;

/// A folder where temporary files are, which `TMPDIR` chooses, and one in memory.
fn folders() -> Vec<TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(folder) => folders.push(folder),
        Err(error) => println!("skipped: no files in {}: {error}", memory.display()),
    }
    folders
}

#[test]
fn the_buffered_reader() {
    for folder in folders() {
        conformance::reader(&weightloader::platform().buffered, folder.path());
    }
}

#[test]
fn the_direct_reader() {
    for folder in folders() {
        match &weightloader::platform().direct {
            Ok(reader) => conformance::reader(reader, folder.path()),
            Err(refusal) => println!("skipped: {refusal}"),
        }
    }
}

#[test]
fn every_prefetcher() {
    let platform = weightloader::platform();
    if platform.prefetchers.is_empty() {
        println!("skipped: there is no prefetcher on this platform");
    }
    for folder in folders() {
        for prefetcher in &platform.prefetchers {
            conformance::prefetcher(prefetcher, &platform.system, folder.path());
        }
    }
}
