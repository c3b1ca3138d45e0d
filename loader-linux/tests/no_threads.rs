//! Where the system gives no more threads, loads fail with an error that says so, and prefetches
//! bring nothing; neither panics or hangs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod behind_filter;

use std::env;
use std::path::PathBuf;

use loader_core::{Copier, Error, LoadOptions, Operation, WeightFile};

const ALONE: &str = "WEIGHTLOADER_TEST_ALONE";

#[test]
fn an_error_says_that_there_are_no_threads() {
    let errors = behind_filter::run_alone("without_threads", (ALONE, String::new()));
    assert!(!errors.contains("panicked"), "{errors}");
}

/// Run by the test above in a child process, behind a filter.
#[test]
#[ignore = "run by the other test in a process of its own"]
fn without_threads() {
    env::var_os(ALONE).expect("run by the other test");
    let folder = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, vec![7; 5_000_000]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let platform = loader_linux::platform();
    platform.system.evict(&file, 0..file.len()).unwrap();
    if !behind_filter::forbid(&[libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN) {
        return;
    }

    let options = LoadOptions::default();
    let copier = Copier::new(&platform, &options);
    match behind_filter::read_all(&copier, &file, &mut vec![0; 5_000_000]) {
        Err(Error::Unsupported { mechanism, .. }) => assert_eq!(mechanism.name(), "worker-thread"),
        other => panic!("expected that there are no threads, got {other:?}"),
    }
    let outcome = loader_core::prefetch(
        &platform.prefetchers,
        &platform.system,
        &file,
        std::iter::once(0..file.len()).collect(),
        None,
    )
    .wait(Operation::new())
    .unwrap();
    assert_eq!(outcome.brought, 0);
}
