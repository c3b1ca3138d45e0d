//! An operation may be cancelled at any moment: it returns, nothing is written afterwards, and what
//! was written is right.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use loader_core::Platform;
use loader_core::testing::{Fault, FaultyReader, Guarded, Residency, Sample, Watchdog, platform};
use proptest::prelude::*;
use tempfile::TempDir;
use weightloader::{CancelToken, Error, Loader, Mechanism, Operation, Strategy as Reading};

const CHUNK: u64 = 32 << 10;
const CHUNKS: u64 = 60;
const LEN: u64 = CHUNK * CHUNKS;

fn sample() -> (TempDir, Sample) {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", usize::try_from(LEN).unwrap());
    (folder, sample)
}

fn loader(strategy: Reading, platform: Platform) -> Loader {
    let builder = Loader::builder().platform(platform).strategy(strategy);
    builder.chunk_bytes(CHUNK).threads(2).build().unwrap()
}

/// A platform of which each reader does `fault` once, at the byte `at`.
fn once_at(at: u64, fault: &Fault) -> Platform {
    let reader = |mechanism| FaultyReader::new(mechanism, at).holding(3);
    Platform {
        direct: Ok(Arc::new(
            reader(Mechanism::DIRECT).once_at(at, fault.clone()),
        )),
        buffered: Arc::new(reader(Mechanism::BUFFERED).once_at(at, fault.clone())),
        ..platform(Residency::Alternating(5 * CHUNK))
    }
}

/// Checks memory after an operation that was cancelled at some moment: all is there, or what is
/// there is right and stays as it is.
fn check(outcome: &weightloader::Result<weightloader::Report>, memory: &Guarded) {
    match outcome {
        Ok(_) => memory.check_complete("cancelled too late"),
        Err(Error::Cancelled) => {
            memory.check_partial("cancelled");
            let snapshot = memory.snapshot();
            thread::sleep(Duration::from_millis(5));
            assert!(memory.is_unchanged_since(&snapshot), "bytes came late");
        }
        Err(error) => panic!("{error}"),
    }
}

const CASES: u32 = 60;

#[test]
fn while_a_byte_is_about_to_be_read() {
    let (_folder, sample) = sample();
    proptest!(ProptestConfig::with_cases(CASES), |(at in 0..LEN, way in 0_usize..3, shift in 0_usize..4096)| {
        let _watchdog = Watchdog::over("a cancelled operation");
        let strategy = [Reading::Auto, Reading::Direct, Reading::Buffered][way];
        let file = sample.open();
        let token = CancelToken::new();
        let cancel = { let token = token.clone(); Fault::call(move || token.cancel()) };
        let loader = loader(strategy, once_at(at, &cancel));
        let mut memory = Guarded::new(sample.bytes(), shift);
        let operation = Operation::new().cancel(&token);
        let outcome = loader.read_into(&file, .., memory.destination(), operation);
        check(&outcome, &memory);
        prop_assert!(token.is_cancelled());
    });
}

#[test]
fn once_so_many_bytes_were_seen() {
    let (_folder, sample) = sample();
    proptest!(ProptestConfig::with_cases(CASES), |(after in 0..=LEN, own in any::<bool>(), shift in 0_usize..4096)| {
        let _watchdog = Watchdog::over("a cancelled operation");
        let file = sample.open();
        let platform = match own {
            true => weightloader::platform().clone(),
            false => platform(Residency::Alternating(CHUNK)),
        };
        let token = CancelToken::new();
        let loader = loader(Reading::Auto, platform);
        let mut memory = Guarded::new(sample.bytes(), shift);
        let mut told_afterwards = 0;
        let operation = Operation::new().cancel(&token).on_progress(|progress| {
            told_afterwards += u32::from(token.is_cancelled());
            if progress.bytes >= after {
                token.cancel();
            }
        });
        let outcome = loader.read_into(&file, .., memory.destination(), operation);
        check(&outcome, &memory);
        prop_assert!(told_afterwards == 0, "progress is told after the cancellation");
        prop_assert!(token.is_cancelled());
    });
}

#[test]
fn from_another_thread() {
    let (_folder, sample) = sample();
    proptest!(ProptestConfig::with_cases(CASES), |(microseconds in 0_u64..5000, own in any::<bool>())| {
        let _watchdog = Watchdog::over("a cancelled operation");
        let file = sample.open();
        let slow = Fault::Delay(Duration::from_micros(200));
        let slow = |mechanism| FaultyReader::new(mechanism, 0).always(slow.clone());
        let platform = match own {
            true => weightloader::platform().clone(),
            false => Platform {
                direct: Ok(Arc::new(slow(Mechanism::DIRECT))),
                buffered: Arc::new(slow(Mechanism::BUFFERED)),
                ..platform(Residency::None)
            },
        };
        let token = CancelToken::new();
        let loader = loader(Reading::Auto, platform);
        let mut memory = Guarded::new(sample.bytes(), 0);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_micros(microseconds));
                token.cancel();
            });
            let operation = Operation::new().cancel(&token);
            loader.read_into(&file, .., memory.destination(), operation)
        });
        check(&outcome, &memory);
    });
}

#[test]
fn a_read_that_is_under_way_is_waited_for() {
    let _watchdog = Watchdog::over("a cancelled operation");
    let (_folder, sample) = sample();
    let file = sample.open();
    let token = CancelToken::new();
    // Cancelled while the reader has taken the chunk, which then takes its time.
    let slowly = {
        let token = token.clone();
        Fault::call(move || {
            token.cancel();
            thread::sleep(Duration::from_millis(100));
        })
    };
    for strategy in [Reading::Direct, Reading::Buffered] {
        let loader = loader(strategy, once_at(4 * CHUNK, &slowly));
        let mut memory = Guarded::new(sample.bytes(), 0);
        let operation = Operation::new().cancel(&token);
        let outcome = loader.read_into(&file, .., memory.destination(), operation);
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        let snapshot = memory.snapshot();
        thread::sleep(Duration::from_millis(200));
        assert!(memory.is_unchanged_since(&snapshot), "{strategy:?}");
    }
}

#[test]
fn one_token_cancels_all_that_hold_it_and_nothing_else() {
    let _watchdog = Watchdog::over("cancelled operations");
    let (_folder, sample) = sample();
    let file = sample.open();
    let (token, other) = (CancelToken::new(), CancelToken::new());
    token.cancel();
    let loader = loader(Reading::Auto, platform(Residency::None));
    let mut memory = vec![0; sample.bytes().len()];
    for _ in 0..3 {
        let operation = Operation::new().cancel(&token.clone());
        let outcome = loader.read_into(&file, .., &mut memory, operation);
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert!(memory.iter().all(|byte| *byte == 0));
    }
    let operation = Operation::new().cancel(&other);
    loader.read_into(&file, .., &mut memory, operation).unwrap();
    assert!(memory == sample.bytes());
}

#[test]
fn a_failure_is_told_rather_than_the_cancellation_that_followed() {
    let _watchdog = Watchdog::over("a failed and cancelled operation");
    let (_folder, sample) = sample();
    let file = sample.open();
    let token = CancelToken::new();
    let reader = FaultyReader::new(Mechanism::DIRECT, 0).once_at(0, Fault::OsError(5));
    let platform = Platform {
        direct: Ok(Arc::new(reader)),
        ..platform(Residency::None)
    };
    let loader = loader(Reading::Direct, platform);
    let mut memory = vec![0; sample.bytes().len()];
    let operation = Operation::new().cancel(&token);
    let outcome = loader.read_into(&file, .., &mut memory, operation);
    assert!(matches!(outcome, Err(Error::Read { .. })), "{outcome:?}");
}
