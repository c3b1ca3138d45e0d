//! Prefetches of real files.
#![cfg(windows)]

use std::fs;

use loader_core::{Operation, WeightFile};

fn sample(len: usize) -> (tempfile::TempDir, WeightFile) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("weights.bin");
    let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
    fs::write(&path, bytes).expect("a file");
    let file = WeightFile::open(&path).expect("a regular file");
    (dir, file)
}

#[test]
fn every_byte_is_brought() {
    let platform = loader_windows::platform();
    for len in [0_usize, 1, 4097, 20_000_001] {
        let (_dir, file) = sample(len);
        let range = file.range(..).unwrap();
        let ahead = loader_core::prefetch(
            &platform.prefetchers,
            &platform.system,
            &file,
            vec![range.clone()],
            None,
        );
        let outcome = ahead.wait(Operation::new()).unwrap();
        assert_eq!(outcome.fallbacks, vec![], "{len} bytes");
        assert_eq!(outcome.brought, len as u64);
    }
}

#[test]
fn scattered_ranges_of_a_slice_are_brought() {
    let platform = loader_windows::platform();
    let (_dir, file) = sample(30_000_000);
    let blob = file.slice(12_345, 20_000_000).unwrap();
    let ranges = vec![
        blob.range(1..2).unwrap(),
        blob.range(5_000_000..15_000_001).unwrap(),
        blob.range(19_999_999..).unwrap(),
    ];
    let ahead = loader_core::prefetch(&platform.prefetchers, &platform.system, &blob, ranges, None);
    let outcome = ahead.wait(Operation::new()).unwrap();
    assert_eq!(outcome.brought, 10_000_003);
}

#[test]
fn residency_is_told_as_an_estimate() {
    let platform = loader_windows::platform();
    let (_dir, file) = sample(10_000);
    let map = platform.system.residency(&file, 0..10_000, 4096);
    assert!(map.is_estimate() && map.resident_bytes().is_some());
    // Prefetchers are asked for what the system knows, which is nothing.
    let map = platform.prefetchers[0].residency(&file, 0..10_000, 4096);
    assert_eq!(map.resident_bytes(), None);
}
