//! What becomes of handles and operations when the process forks: they are inert in the child, and
//! go on undisturbed in the parent.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod child;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use loader_core::testing::{GatedPrefetcher, Guarded, Residency, Sample, Watchdog, platform};
use loader_core::{Platform, Stream, StreamItem};
use weightloader::{Error, Loader, Operation, Strategy};

use child::expect;

const PIECE: u64 = 64 << 10;
const LEN: u64 = 40 * PIECE;

/// Runs `work` in a forked child, and expects that it says all is well.
fn in_a_child(work: impl FnOnce() -> Result<(), u8>) {
    assert_eq!(child::run(work), Some(0), "the child's exit code");
}

fn sample() -> (tempfile::TempDir, Sample) {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", usize::try_from(LEN).unwrap());
    (folder, sample)
}

#[test]
fn prefetches_are_inert_in_the_child_and_go_on_in_the_parent() {
    let _watchdog = Watchdog::over("a fork during a prefetch");
    let (_folder, sample) = sample();
    let file = sample.open();
    // Each is looked at in one child, and left there in another way.
    let leave: [fn(weightloader::Prefetch); 3] = [
        drop,
        weightloader::Prefetch::cancel,
        weightloader::Prefetch::detach,
    ];
    for leave in leave {
        let gate = Arc::new(GatedPrefetcher::new(PIECE));
        let platform = Platform {
            prefetchers: vec![gate.clone()],
            ..platform(Residency::None)
        };
        let loader = Loader::builder().platform(platform).build().unwrap();
        let ahead = loader.prefetch(&file, ..).unwrap();
        let mut handle = Some(ahead);
        in_a_child(|| {
            let ahead = handle.take().ok_or(1)?;
            expect(ahead.is_done(), 2)?;
            expect(ahead.progress() == (0, LEN), 3)?;
            leave(ahead);
            Ok(())
        });
        let ahead = handle.unwrap();
        assert!(!ahead.is_done());
        let mut handle = Some(ahead);
        in_a_child(|| {
            let waited = handle.take().ok_or(1)?.wait(Operation::new());
            expect(matches!(waited, Err(Error::Forked)), 4)
        });
        gate.open();
        let outcome = handle.unwrap().wait(Operation::new()).unwrap();
        assert_eq!(outcome.brought, LEN, "{outcome:?}");
    }
}

#[test]
fn streams_are_inert_in_the_child_and_go_on_in_the_parent() {
    let _watchdog = Watchdog::over("a fork during a stream");
    let (_folder, sample) = sample();
    let items: Vec<_> = (0..40)
        .map(|index| StreamItem {
            file: 0,
            range: index * PIECE..(index + 1) * PIECE,
        })
        .collect();
    let loader = Loader::builder().memory_limit(4 * PIECE).build().unwrap();
    let start = || {
        let (platform, options) = (loader.platform(), loader.options());
        Stream::start(platform, options, vec![sample.open()], items.clone()).unwrap()
    };
    let mut stream = Some(start());
    // What was taken before the fork can be read and dropped in the child.
    let (index, bytes) = stream.as_mut().unwrap().next().unwrap().unwrap();
    assert_eq!(index, 0);
    let mut taken = Some(bytes);
    in_a_child(|| {
        let mut stream = stream.take().ok_or(1)?;
        let forked = stream.by_ref().find_map(Result::err);
        expect(matches!(forked, Some(Error::Forked)), 2)?;
        expect(stream.next().is_none(), 3)?;
        expect(stream.report().is_none(), 4)?;
        drop(stream);
        let bytes = taken.take().ok_or(5)?;
        expect(bytes[..] == sample.bytes()[..bytes.len()], 6)?;
        drop(bytes);
        Ok(())
    });
    let mut all = taken.unwrap().to_vec();
    for item in stream.unwrap() {
        all.extend_from_slice(&item.unwrap().1);
    }
    assert!(all == sample.bytes());
}

#[test]
fn loads_go_on_in_the_parent_and_new_ones_work_in_the_child() {
    let _watchdog = Watchdog::over("forks during loads");
    let (_folder, sample) = sample();
    let load = |shift| {
        for strategy in [Strategy::Auto, Strategy::Buffered] {
            let builder = Loader::builder().strategy(strategy);
            let loader = builder.chunk_bytes(16 << 10).build().unwrap();
            let mut memory = Guarded::new(sample.bytes(), shift);
            let file = sample.open();
            loader
                .read_into(&file, .., memory.destination(), Operation::new())
                .unwrap();
            memory.check_complete("a load with forks");
        }
    };
    let read_again = || {
        let loader = Loader::builder().build().map_err(|_| 1)?;
        let file = weightloader::WeightFile::open(sample.path()).map_err(|_| 2)?;
        let mut memory = vec![0; sample.bytes().len()];
        let outcome = loader.read_into(&file, .., &mut memory, Operation::new());
        outcome.map_err(|_| 3)?;
        expect(memory == sample.bytes(), 4)
    };
    // What is made once per process is made before the first fork.
    load(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for shift in 0..2 {
            let (load, done) = (&load, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    load(shift);
                }
            });
        }
        let finished = Done(&done);
        for _ in 0..10 {
            in_a_child(|| Ok(()));
            in_a_child(read_again);
        }
        drop(finished);
    });
}

/// Says that it is over also when a test panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn memory_that_is_being_filled_is_not_diverted_by_a_fork() {
    let _watchdog = Watchdog::over("forks while a model loads");
    let (_folder, sample) = sample();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let finished = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                in_a_child(|| {
                    thread::sleep(Duration::from_millis(3));
                    Ok(())
                });
            }
        });
        for _ in 0..30 {
            let model = weightloader::load(sample.path()).unwrap();
            let bytes: Vec<_> = model.tensors().map(|tensor| tensor.bytes()).collect();
            assert!(bytes.concat() == sample.bytes());
        }
        drop(finished);
    });
}
