//! What the system tells and does.
#![cfg(target_vendor = "apple")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use loader_core::{Advice, HostBuffer, Reader, WeightFile};
use loader_macos::NocacheReader;

#[test]
fn bytes_just_written_are_resident() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    std::fs::write(&path, vec![7; 1_000_001]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let platform = loader_macos::platform();
    let map = platform.system.residency(&file, 0..1_000_001, 1 << 16);
    assert_eq!(map.resident_bytes(), Some(1_000_001));
    let middle = platform.system.residency(&file, 17..400_003, 1);
    assert_eq!(middle.resident_bytes(), Some(399_986));
}

#[test]
fn what_is_evicted_is_not_resident_but_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    // Just written, so some of it is dirty.
    std::fs::write(&path, vec![7; 1_000_001]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let platform = loader_macos::platform();
    platform.system.evict(&file, 0..1_000_001).unwrap();
    let map = platform.system.residency(&file, 0..1_000_001, 1 << 16);
    assert_eq!(map.resident_bytes(), Some(0));
    assert!(std::fs::read(&path).unwrap() == vec![7; 1_000_001]);
}

#[test]
fn uncached_reads_need_a_file_that_still_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let moved = folder.path().join("moved.bin");
    std::fs::rename(&path, &moved).unwrap();
    assert!(NocacheReader.support(&file).is_ok());
    std::fs::remove_file(&moved).unwrap();
    assert!(NocacheReader.support(&file).is_err());
    std::fs::write(&moved, vec![7; 10_000]).unwrap();
    assert!(NocacheReader.support(&file).is_err());
}

#[test]
fn memory_and_usage_are_told() {
    let platform = loader_macos::platform();
    assert!(platform.system.available_memory().unwrap() > 1 << 20);
    assert!(platform.system.usage().peak_memory.unwrap() > 1 << 20);
}

#[test]
fn advice_is_taken_at_any_address() {
    let bytes = vec![7_u8; 100_000];
    let platform = loader_macos::platform();
    for advice in [Advice::WillNeed, Advice::Random] {
        platform.system.advise(&bytes[12_345..], advice).unwrap();
    }
    assert!(bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn released_pages_read_as_zero_and_others_stay() {
    let page = rustix::param::page_size();
    let platform = loader_macos::platform();
    let mut buffer = HostBuffer::zeroed(&*platform.memory, 5 * page - 1).unwrap();
    assert_eq!(buffer.capacity(), 5 * page);
    buffer.fill(7);
    buffer.release(page - 1..4 * page + 1);
    let (kept, rest) = buffer.split_at(page);
    let (released, end) = rest.split_at(3 * page);
    assert!(kept.iter().chain(end).all(|byte| *byte == 7));
    assert!(released.iter().all(|byte| *byte == 0));
    buffer.fill(9);
    assert!(buffer.iter().all(|byte| *byte == 9));
}

#[test]
fn memory_is_locked_or_the_limit_is_told() {
    let platform = loader_macos::platform();
    let mut buffer = HostBuffer::zeroed(&*platform.memory, 1 << 20).unwrap();
    if let Err(error) = buffer.lock() {
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
    }
    buffer.fill(7);
    assert!(buffer.iter().all(|byte| *byte == 7));
}
