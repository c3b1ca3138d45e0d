//! Concurrent operations share one budget of workers for the process.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use loader_core::Platform;
use loader_core::testing::{Fault, FaultyReader, Guarded, Residency, Sample, Watchdog, platform};
use weightloader::{Loader, Mechanism, Operation, Strategy};

const LOADS: usize = 12;
const THREADS: usize = 16;

/// A reader whose first reads wait until so many of them are under way at once.
fn reader_of_many(reads: usize) -> Arc<FaultyReader> {
    let arrived = AtomicUsize::new(0);
    let wait = Fault::call(move || {
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < reads {
            thread::sleep(Duration::from_millis(1));
        }
    });
    Arc::new(FaultyReader::new(Mechanism::BUFFERED, 0).always(wait))
}

#[test]
fn concurrent_loads_share_the_workers_and_all_of_them_move_on() {
    let _watchdog = Watchdog::over("concurrent loads");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", 4 << 20);
    // Every load has one worker at least, and the first has more.
    let reader = reader_of_many(LOADS + 1);
    let platform = Platform {
        buffered: reader.clone(),
        ..platform(Residency::All)
    };
    let loader = Loader::builder()
        .platform(platform)
        .strategy(Strategy::Buffered)
        .threads(THREADS)
        .chunk_bytes(64 << 10)
        .build()
        .unwrap();
    thread::scope(|scope| {
        for shift in 0..LOADS {
            let (sample, loader) = (&sample, &loader);
            scope.spawn(move || {
                let mut memory = Guarded::new(sample.bytes(), shift);
                let file = sample.open();
                loader
                    .read_into(&file, .., memory.destination(), Operation::new())
                    .unwrap();
                memory.check_complete("a concurrent load");
            });
        }
    });
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let most = (2 * processors).max(16);
    // Every load has one at least, the rest is shared.
    let bound = most + LOADS;
    let running = reader.most_running();
    assert!(running <= bound, "{running} workers at once");
    assert!(running > LOADS, "{running} workers at once");
    assert!(bound < LOADS * THREADS || most > 100, "this proves nothing");

    // All have been given back.
    let mut memory = Guarded::new(sample.bytes(), 0);
    let reader = reader_of_many(THREADS);
    let alone = Platform {
        buffered: reader.clone(),
        ..loader.platform().clone()
    };
    let alone = Loader::builder()
        .platform(alone)
        .strategy(Strategy::Buffered)
        .threads(THREADS)
        .chunk_bytes(64 << 10)
        .build()
        .unwrap();
    alone
        .read_into(&sample.open(), .., memory.destination(), Operation::new())
        .unwrap();
    assert_eq!(reader.most_running(), THREADS);
}
