//! Every prefetcher passes the same suite.
#![cfg(any(target_os = "linux", target_os = "android"))]

use std::sync::Arc;

use loader_core::testing::conformance;
use loader_core::{Operation, Prefetcher, System, WeightFile};
use loader_linux::{LinuxSystem, MadvisePrefetcher, platform};

fn prefetchers() -> Vec<Arc<dyn Prefetcher>> {
    let found = platform().prefetchers;
    assert!(
        found
            .iter()
            .any(|prefetcher| prefetcher.mechanism() == MadvisePrefetcher.mechanism()),
        "advice on mappings needs nothing that a kernel may lack"
    );
    found
}

#[test]
fn prefetchers_conform() {
    let system: Arc<dyn System> = Arc::new(LinuxSystem);
    for prefetcher in prefetchers() {
        let folder = tempfile::tempdir().unwrap();
        conformance::prefetcher(&prefetcher, &system, folder.path());
    }
}

#[test]
fn what_was_waited_for_is_resident() {
    let system: Arc<dyn System> = Arc::new(LinuxSystem);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let len = (24 << 20) + 123;
    std::fs::write(&path, vec![5; len]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let len = len as u64;
    for prefetcher in prefetchers() {
        system.evict(&file, 0..len).unwrap();
        let before = system.residency(&file, 0..len, 1 << 20).resident_bytes();
        let ahead = loader_core::prefetch(
            &[Arc::clone(&prefetcher)],
            &system,
            &file,
            std::iter::once(0..len).collect(),
        );
        let outcome = ahead.wait(Operation::new()).unwrap();
        assert_eq!(outcome.brought, len, "{prefetcher:?}: {outcome:?}");
        match prefetcher
            .residency(&file, 0..len, 1 << 20)
            .resident_bytes()
        {
            Some(resident) => assert_eq!(resident, len, "{prefetcher:?}, before: {before:?}"),
            None => println!("skipped: residency is unknown here"),
        }
    }
}

#[test]
fn pieces_are_what_one_call_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, vec![5; 16 << 20]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    for prefetcher in prefetchers() {
        let bytes = prefetcher.piece_bytes(&file);
        assert!(
            bytes >= 128 << 10 && bytes % 4096 == 0,
            "{prefetcher:?}: {bytes}"
        );
    }
}
