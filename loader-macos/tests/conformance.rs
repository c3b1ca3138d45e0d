//! The mechanisms of this system pass the suites that all pass.
#![cfg(target_vendor = "apple")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use loader_core::testing::conformance;

#[test]
fn the_buffered_reader() {
    let folder = tempfile::tempdir().unwrap();
    conformance::reader(&loader_macos::platform().buffered, folder.path());
}

#[test]
fn the_uncached_reader() {
    let folder = tempfile::tempdir().unwrap();
    let reader = loader_macos::platform().direct.unwrap();
    conformance::reader(&reader, folder.path());
}

#[test]
fn every_prefetcher() {
    let platform = loader_macos::platform();
    for prefetcher in &platform.prefetchers {
        let folder = tempfile::tempdir().unwrap();
        conformance::prefetcher(prefetcher, &platform.system, folder.path());
    }
}
