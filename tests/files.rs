//! Files of every kind: all strategies read them right, or say clearly why not.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use loader_core::testing::{Guarded, Residency, Sample, Watchdog, platform};
use loader_core::{Platform, Reader};
use weightloader::{CachePolicy, Error, Loader, Operation, Strategy, WeightFile};

/// Reads all of `file` by every strategy, with every policy, by portable means and this system's.
fn read_every_way(file: &WeightFile, expected: &[u8]) {
    let platforms = [
        Platform::portable(),
        platform(Residency::Alternating(128 << 10)),
        weightloader::platform().clone(),
    ];
    for platform in platforms {
        for strategy in [Strategy::Auto, Strategy::Direct, Strategy::Buffered] {
            for cache in [CachePolicy::Auto, CachePolicy::Keep, CachePolicy::Bypass] {
                if (strategy, cache) == (Strategy::Direct, CachePolicy::Keep) {
                    // Refused: it would not keep.
                    continue;
                }
                let what = format!("{} {strategy:?} {cache:?}", platform.name);
                let builder = Loader::builder().platform(platform.clone());
                let loader = builder.strategy(strategy).cache(cache).build().unwrap();
                let mut memory = Guarded::new(expected, 0);
                let outcome = loader.read_into(file, .., memory.destination(), Operation::new());
                let serves = |reader: &std::sync::Arc<dyn Reader>| reader.support(file).is_ok();
                if strategy == Strategy::Direct && !platform.direct.as_ref().is_ok_and(serves) {
                    assert!(
                        matches!(outcome, Err(Error::Unsupported { .. })),
                        "{what}: {outcome:?}"
                    );
                    continue;
                }
                let report = outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
                memory.check_complete(&what);
                assert_eq!(report.bytes, expected.len() as u64, "{what}");
            }
        }
    }
}

#[test]
fn of_any_length() {
    let _watchdog = Watchdog::over("files of any length");
    let folder = tempfile::tempdir().unwrap();
    for len in [
        0,
        1,
        2,
        511,
        512,
        4095,
        4096,
        4097,
        100_000,
        1 << 20,
        (1 << 20) + 1,
        3_000_001,
    ] {
        let sample = Sample::new(folder.path(), "any.bin", len);
        read_every_way(&sample.open(), sample.bytes());
        let model = weightloader::load(sample.path()).unwrap();
        let all: Vec<_> = model
            .tensors()
            .map(|tensor| tensor.bytes().to_vec())
            .collect();
        assert!(all.concat() == sample.bytes(), "{len} bytes loaded whole");
    }
}

#[test]
fn an_empty_file_has_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "empty.bin", 0);
    let (file, loader) = (sample.open(), Loader::new().unwrap());
    assert!(file.is_empty());
    let ahead = loader.prefetch(&file, ..).unwrap();
    assert_eq!(ahead.wait(Operation::new()).unwrap().brought, 0);
    let map = loader.residency(&file, .., 4096).unwrap();
    assert_eq!(map.resident_bytes().unwrap_or(0), 0);
    let mut told = Vec::new();
    let operation = Operation::new().on_progress(|progress| told.push(progress));
    let report = loader.read_into(&file, .., &mut [], operation).unwrap();
    assert_eq!((report.bytes, report.chunks.len()), (0, 0));
    // Once, when all is there.
    assert_eq!(told.len(), 1);
}

#[test]
fn with_holes() {
    let _watchdog = Watchdog::over("files with holes");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "holes.bin", 10_000);
    let len = 5 << 20;
    sample.set_len(len).unwrap();
    let mut expected = sample.bytes().to_vec();
    expected.resize(usize::try_from(len).unwrap(), 0);
    read_every_way(&sample.open(), &expected);

    let sample = Sample::with_bytes(folder.path(), "nothing but a hole.bin", Vec::new());
    sample.set_len(len).unwrap();
    expected.fill(0);
    read_every_way(&sample.open(), &expected);
}

#[test]
fn deleted_while_open() {
    let _watchdog = Watchdog::over("a deleted file");
    let folder = tempfile::tempdir().unwrap();
    for len in [5000, 3_000_000] {
        let sample = Sample::new(folder.path(), "deleted.bin", len);
        let file = sample.open();
        if let Err(error) = fs::remove_file(sample.path()) {
            println!("skipped: an open file cannot be deleted here: {error}");
            return;
        }
        let ahead = weightloader::prefetch(&file, ..).unwrap();
        read_every_way(&file, sample.bytes());
        ahead.wait(Operation::new()).unwrap();
    }
}

#[test]
fn replaced_while_open() {
    let _watchdog = Watchdog::over("a replaced file");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "replaced.bin", 2_000_001);
    let file = sample.open();
    let other = folder.path().join("other.bin");
    fs::write(&other, vec![1; 2_000_001]).unwrap();
    if let Err(error) = fs::rename(&other, sample.path()) {
        println!("skipped: an open file cannot be replaced here: {error}");
        return;
    }
    read_every_way(&file, sample.bytes());
}

#[test]
fn grown_while_open() {
    let _watchdog = Watchdog::over("a grown file");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "grown.bin", 2_000_001);
    let file = sample.open();
    sample.set_len(3_000_000).unwrap();
    assert_eq!(file.len(), 2_000_001);
    read_every_way(&file, sample.bytes());
}

#[test]
fn within_a_larger_one() {
    let _watchdog = Watchdog::over("slices");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "larger.bin", 4_000_000);
    let whole = sample.open();
    for range in [
        0..0,
        1..2,
        4095..4097,
        1_000_001..3_500_000,
        3_999_999..4_000_000,
    ] {
        let slice = whole.slice(range.start, range.end - range.start).unwrap();
        read_every_way(&slice, sample.expected(&range));
    }
    // A slice of a slice.
    let slice = whole.slice(1000, 3_000_000).unwrap();
    let slice = slice.slice(500_000, 2_000_000).unwrap();
    read_every_way(&slice, sample.expected(&(501_000..2_501_000)));
    let outside = slice.slice(0, 2_000_001);
    assert!(
        matches!(outside, Err(Error::OutOfBounds { .. })),
        "{outside:?}"
    );
    let outside = slice.slice(u64::MAX, 2);
    assert!(
        matches!(outside, Err(Error::OutOfBounds { .. })),
        "{outside:?}"
    );
}

#[test]
fn truncated_before_it_is_read() {
    let _watchdog = Watchdog::over("a truncated file");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "truncated.bin", 3_000_000);
    let file = sample.open();
    sample.set_len(1_234_567).unwrap();
    for strategy in [Strategy::Auto, Strategy::Buffered] {
        let loader = Loader::builder().strategy(strategy).build().unwrap();
        let mut memory = Guarded::new(sample.bytes(), 0);
        let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
        memory.check_partial("a truncated file");
        match outcome {
            Err(Error::UnexpectedEof { path, offset, len }) => {
                assert_eq!(path, sample.path());
                assert!(offset >= 1_234_567, "{offset}");
                assert!(offset + len <= 3_000_000, "{offset} + {len}");
            }
            other => panic!("expected the end of the file, got {other:?}"),
        }
    }
    // What is left of it can be read.
    let loader = Loader::new().unwrap();
    let mut memory = Guarded::new(&sample.bytes()[..1_234_567], 0);
    loader
        .read_into(&file, ..1_234_567, memory.destination(), Operation::new())
        .unwrap();
    memory.check_complete("what is left");
}

#[test]
fn that_do_not_exist() {
    let path = Path::new("no such folder/weights.bin");
    for outcome in [
        WeightFile::open(path).map(|_| ()),
        weightloader::load(path).map(|_| ()),
    ] {
        match outcome {
            Err(Error::Io {
                path: named,
                source,
                ..
            }) => assert_eq!(
                (named.as_path(), source.kind()),
                (path, ErrorKind::NotFound)
            ),
            other => panic!("expected an error of the system, got {other:?}"),
        }
    }
}

#[test]
fn that_are_folders() {
    let folder = tempfile::tempdir().unwrap();
    match WeightFile::open(folder.path()) {
        Err(Error::NotRegular { path, found }) => {
            assert_eq!((path.as_path(), found), (folder.path(), "a directory"));
        }
        other => panic!("expected that it is not regular, got {other:?}"),
    }
    // Loading takes a folder of shards, which this is not.
    let error = weightloader::load(folder.path()).unwrap_err().to_string();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name), "{error}");
}
