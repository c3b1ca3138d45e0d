//! What a prefetcher promises on this system beyond the conformance suite.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::File;
use std::io::IoSliceMut;
use std::sync::Arc;

use loader_core::{Operation, Prefetcher, System, WeightFile};
use loader_linux::{LinuxSystem, MadvisePrefetcher, platform};
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

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

/// Bytes between the reads that look whether a page has arrived: a page at most.
const PAGE: usize = 4096;

/// The first page that cannot be read without waiting. Asking which pages are in the page cache
/// would not do, since they are put there when a read of them begins.
fn first_missing(file: &WeightFile) -> Option<u64> {
    let path = file.path();
    let at_random = File::open(path).unwrap();
    fadvise(&at_random, 0, None, Advice::Random).unwrap();
    (0..file.disk_len()).step_by(PAGE).find(|offset| {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        match preadv2(&at_random, &mut parts, *offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == 0,
            Err(Errno::OPNOTSUPP) => false,
            Err(_) => true,
        }
    })
}

#[test]
fn what_was_waited_for_has_arrived() {
    let system: Arc<dyn System> = Arc::new(LinuxSystem);
    for prefetcher in prefetchers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![5; (24 << 20) + 123]).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let len = file.len();
        system.evict(&file, 0..len).unwrap();
        let ahead = loader_core::prefetch(
            &[Arc::clone(&prefetcher)],
            &system,
            &file,
            std::iter::once(0..len).collect(),
            None,
        );
        let outcome = ahead.wait(Operation::new()).unwrap();
        assert_eq!(outcome.brought, len, "{prefetcher:?}: {outcome:?}");
        assert_eq!(first_missing(&file), None, "{prefetcher:?}");
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
