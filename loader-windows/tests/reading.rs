//! Reads of real files by this system's mechanisms, and what the report says of them.
#![cfg(windows)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::{File, OpenOptions};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;
use std::sync::Arc;
use std::thread;

use loader_core::testing::{Guarded, Residency, Sample, TestSystem, Watchdog};
use loader_core::{
    Copier, Error, Extent, HeapMemory, HostBuffer, Job, LoadOptions, Mechanism, Operation,
    Platform, Report, Result, Strategy, WeightFile,
};
use tempfile::TempDir;
use windows_sys::Win32::Foundation::WAIT_TIMEOUT;
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_NO_BUFFERING, FILE_FLAG_OVERLAPPED};
use windows_sys::Win32::System::IO::{CreateIoCompletionPort, GetQueuedCompletionStatus};

/// This system's mechanisms, with a page cache as a test wants it.
fn platform(residency: Residency) -> Platform {
    Platform {
        system: Arc::new(TestSystem::new(residency)),
        ..loader_windows::platform()
    }
}

fn sample() -> (TempDir, Sample) {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", (9 << 20) + 77);
    (folder, sample)
}

/// Reads all of `file`, which holds `sample`, to an address `shift` bytes beyond a page.
fn read(
    platform: &Platform,
    strategy: Strategy,
    file: &WeightFile,
    sample: &Sample,
    shift: usize,
) -> Result<Report> {
    let _watchdog = Watchdog::over("a read of a real file");
    let mut options = LoadOptions::default();
    options.strategy = strategy;
    let copier = Copier::new(platform, &options);
    let len = sample.bytes().len();
    let whole = Extent {
        offset: 0,
        len: len as u64,
        destination: 0,
    };
    let mut memory = Guarded::new(sample.bytes(), shift);
    let job = Job {
        file: file.clone(),
        plan: copier.plan(&[whole], len)?,
        destination: memory.destination(),
    };
    let report = copier.run(vec![job], Operation::new())?;
    memory.check_complete("a read of a real file");
    Ok(report)
}

fn mechanisms(report: &Report) -> Vec<&'static str> {
    report.chunks.keys().map(|one| one.name()).collect()
}

#[test]
fn cold_bytes_go_past_the_cache_and_cached_ones_through_it() {
    let (_folder, sample) = sample();
    let file = sample.open();
    let cold = platform(Residency::None);
    let report = read(&cold, Strategy::Auto, &file, &sample, 0).unwrap();
    assert_eq!(report.fallbacks, []);
    // The file does not end at the end of a block.
    let expected = ["overlapped-direct", "overlapped-direct-bounced"];
    assert_eq!(mechanisms(&report), expected);
    let report = read(&cold, Strategy::Direct, &file, &sample, 1).unwrap();
    assert_eq!(mechanisms(&report), ["overlapped-direct-bounced"]);
    let cached = platform(Residency::All);
    let report = read(&cached, Strategy::Auto, &file, &sample, 0).unwrap();
    assert_eq!(mechanisms(&report), ["buffered"]);
}

#[test]
fn auto_works_with_the_estimate_of_this_system() {
    let (_folder, sample) = sample();
    let platform = loader_windows::platform();
    let report = read(&platform, Strategy::Auto, &sample.open(), &sample, 0).unwrap();
    assert_eq!(report.fallbacks, []);
    assert!(report.resident_bytes.is_some());
}

#[test]
fn a_file_shared_with_nobody_is_read_through_the_cache_and_the_report_says_why() {
    let (_folder, sample) = sample();
    let alone = OpenOptions::new()
        .read(true)
        .share_mode(0)
        .open(sample.path())
        .unwrap();
    let file = WeightFile::from_file(alone, sample.path()).unwrap();
    let cold = platform(Residency::None);
    let report = read(&cold, Strategy::Auto, &file, &sample, 0).unwrap();
    assert_eq!(mechanisms(&report), ["buffered"]);
    assert_eq!(report.fallbacks.len(), 1, "{:?}", report.fallbacks);
    let reason = &report.fallbacks[0].reason;
    assert!(reason.contains("without buffering"), "{reason}");
    match read(&cold, Strategy::Direct, &file, &sample, 0) {
        Err(Error::Unsupported { mechanism, reason }) => {
            assert_eq!(mechanism, Mechanism::DIRECT);
            assert!(reason.contains("without buffering"), "{reason}");
        }
        other => panic!("expected that it is unsupported, got {other:?}"),
    }
    // Nor can residency be estimated then.
    let system = loader_windows::platform().system;
    let map = system.residency(&file, 0..file.len(), 4096);
    assert_eq!(map.resident_bytes(), None);
}

/// The sample, opened for overlapped reads.
fn overlapped(sample: &Sample) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(FILE_FLAG_OVERLAPPED);
    options.open(sample.path()).unwrap()
}

#[test]
fn handles_opened_for_overlapped_reads_are_waited_for() {
    let (_folder, sample) = sample();
    let file = WeightFile::from_file(overlapped(&sample), sample.path()).unwrap();
    let mut found = vec![0; sample.bytes().len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == sample.bytes());
    for platform in [loader_windows::platform(), Platform::portable()] {
        let report = read(&platform, Strategy::Buffered, &file, &sample, 0).unwrap();
        assert_eq!(mechanisms(&report), ["buffered"]);
    }
}

/// Past the system cache, so that reads are on their way for a while, and in blocks, so that it is
/// permitted.
#[test]
fn threads_that_share_an_overlapped_handle_each_wait_for_their_own_read() {
    const BLOCK: usize = 65536;
    let (_folder, sample) = sample();
    let mut options = OpenOptions::new();
    let cold = options
        .read(true)
        .custom_flags(FILE_FLAG_OVERLAPPED | FILE_FLAG_NO_BUFFERING)
        .open(sample.path())
        .unwrap();
    let file = WeightFile::from_file(cold, sample.path()).unwrap();
    let _watchdog = Watchdog::over("reads through a shared handle");
    let blocks = sample.bytes().len() / BLOCK;
    thread::scope(|scope| {
        for first in 0..8 {
            let (file, sample) = (&file, &sample);
            scope.spawn(move || {
                let mut memory = HostBuffer::zeroed(&HeapMemory, BLOCK).unwrap();
                for round in 0..500 {
                    let start = (first * 37 + round * 11) % blocks * BLOCK;
                    memory.fill(0);
                    file.read_exact_at(&mut memory, start as u64).unwrap();
                    let expected = &sample.bytes()[start..start + BLOCK];
                    assert!(memory[..] == *expected, "at {start}");
                }
            });
        }
    });
}

#[test]
fn a_completion_port_is_told_of_no_read_of_ours() {
    let (_folder, sample) = sample();
    let shared = overlapped(&sample);
    // SAFETY: the handle is open, and no port is given.
    let port = unsafe { CreateIoCompletionPort(shared.as_raw_handle(), null_mut(), 1, 0) };
    assert!(!port.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: the handle was made just now.
    let port = unsafe { OwnedHandle::from_raw_handle(port) };
    let file = WeightFile::from_file(shared, sample.path()).unwrap();
    let mut found = vec![0; 100_000];
    for offset in [0, 5, 9 << 20] {
        let len = found.len().min(sample.bytes().len() - offset);
        file.read_exact_at(&mut found[..len], offset as u64)
            .unwrap();
        assert!(found[..len] == sample.bytes()[offset..offset + len]);
    }
    let (mut bytes, mut key, mut position) = (0, 0, null_mut());
    // SAFETY: the port is open, and the rest is valid for writes.
    let told = unsafe {
        GetQueuedCompletionStatus(
            port.as_raw_handle(),
            &raw mut bytes,
            &raw mut key,
            &raw mut position,
            100,
        )
    };
    assert_eq!(told, 0, "{bytes} bytes were told of");
    let error = std::io::Error::last_os_error();
    assert_eq!(
        error.raw_os_error().map(u32::try_from),
        Some(Ok(WAIT_TIMEOUT)),
        "{error}"
    );
    assert!(position.is_null());
}

#[test]
fn files_are_told_apart_by_what_they_are_and_not_by_their_names() {
    let (folder, sample) = sample();
    let file = sample.open();
    assert!(file.is_same_file(&sample.open()));
    let other = Sample::new(folder.path(), "other.bin", 5000);
    assert!(!file.is_same_file(&other.open()));
    let link = folder.path().join("link.bin");
    match std::fs::hard_link(sample.path(), &link) {
        Ok(()) => assert!(file.is_same_file(&WeightFile::open(&link).unwrap())),
        Err(error) => println!("skipped: no hard links here: {error}"),
    }
}
