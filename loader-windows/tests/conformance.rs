//! The mechanisms of this system pass the suites that all pass.
#![cfg(windows)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::sync::Arc;

use loader_core::testing::conformance;
use loader_core::{PositionalReader, Reader};
use loader_windows::{BufferedReader, OverlappedReader};

fn check(reader: Arc<dyn Reader>) {
    let folder = tempfile::tempdir().unwrap();
    conformance::reader(&reader, folder.path());
}

#[test]
fn overlapped_reads_conform() {
    check(Arc::new(OverlappedReader::new()));
}

#[test]
fn buffered_reads_conform() {
    check(Arc::new(BufferedReader::new()));
}

#[test]
fn buffered_reads_through_a_shared_handle_conform() {
    check(Arc::new(PositionalReader::new()));
}

#[test]
fn every_prefetcher_conforms() {
    let platform = loader_windows::platform();
    for prefetcher in &platform.prefetchers {
        let folder = tempfile::tempdir().unwrap();
        conformance::prefetcher(prefetcher, &platform.system, folder.path());
    }
}
