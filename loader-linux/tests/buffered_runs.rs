//! Files that are long enough for workers to read on through descriptors of their own.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::PathBuf;

use loader_core::testing::{Guarded, Sample, Watchdog};
use loader_core::{
    Copier, Error, Extent, Job, LoadOptions, Operation, Report, Result, Strategy, WeightFile,
};

/// No multiple of anything, and a run of 8 MiB and more for each of four workers.
const LEN: usize = (40 << 20) + 12_345;

/// Reads all of the file through the page cache, cold.
fn read(file: &WeightFile, memory: &mut Guarded, options: &LoadOptions) -> Result<Report> {
    let platform = loader_linux::platform();
    platform.system.evict(file, 0..file.len()).unwrap();
    let copier = Copier::new(&platform, options);
    let destination = memory.destination();
    let whole = Extent {
        offset: 0,
        len: LEN as u64,
        destination: 0,
    };
    let plan = copier.plan(&[whole], LEN)?;
    let file = file.clone();
    let job = Job {
        file,
        plan,
        destination,
    };
    copier.run(vec![job], Operation::new())
}

fn options(threads: usize, chunk_bytes: u64) -> LoadOptions {
    let mut options = LoadOptions::default();
    options.strategy = Strategy::Buffered;
    options.threads = Some(threads);
    options.chunk_bytes = Some(chunk_bytes);
    options
}

fn sample() -> (tempfile::TempDir, Sample) {
    let folder = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let sample = Sample::new(folder.path(), "weights", LEN);
    sample.sync().unwrap();
    (folder, sample)
}

#[test]
fn they_bring_the_bytes_of_the_file() {
    let _watchdog = Watchdog::over("buffered reads in runs");
    let (_folder, sample) = sample();
    for (threads, chunk_bytes) in [(1, 2 << 20), (2, 100_000), (4, 1 << 20), (8, 3 << 20)] {
        let mut memory = Guarded::new(sample.bytes(), threads);
        let options = options(threads, chunk_bytes);
        let report = read(&sample.open(), &mut memory, &options).unwrap();
        memory.check_complete("runs");
        assert_eq!(report.bytes, LEN as u64);
    }
}

#[test]
fn one_that_has_become_shorter_is_an_error() {
    let _watchdog = Watchdog::over("a short file");
    let (_folder, sample) = sample();
    let file = sample.open();
    // Behind the first steps of a run, and within them.
    for left in [20_000_001, 5_000_001] {
        sample.set_len(left).unwrap();
        let mut memory = Guarded::new(sample.bytes(), 0);
        match read(&file, &mut memory, &options(1, 2 << 20)) {
            Err(Error::UnexpectedEof { offset, .. }) => assert_eq!(offset, left),
            other => panic!("expected that the file ends, got {other:?}"),
        }
        memory.check_partial("a short file");
    }
}
