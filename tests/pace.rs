//! A pace: what is asked for beyond it waits, and can be called off while it does.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "one piece, in a list of pieces"
)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use loader_core::Platform;
use loader_core::testing::{FaultyReader, GatedPrefetcher, Residency, Sample, Watchdog, platform};
use proptest::prelude::*;
use weightloader::{
    CancelToken, Error, Loader, LoaderBuilder, Mechanism, Operation, Strategy as Reading,
};

const PIECE: u64 = 256 << 10;
const LEN: usize = 4 << 20;

/// Slow enough that a test never sees the second piece.
const CRAWL: u64 = 1;

fn folder_and_sample() -> (tempfile::TempDir, Sample) {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", LEN);
    (folder, sample)
}

fn reading_by(reader: &Arc<FaultyReader>) -> LoaderBuilder {
    let platform = Platform {
        direct: Ok(reader.clone()),
        buffered: reader.clone(),
        ..platform(Residency::None)
    };
    Loader::builder().platform(platform)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn paced_reads_bring_the_same_bytes(
        pace in 200_000_000_u64..20_000_000_000,
        direct in any::<bool>(),
        depth in 1_usize..8,
    ) {
        let _watchdog = Watchdog::over("a paced read");
        let (_folder, sample) = folder_and_sample();
        let strategy = if direct { Reading::Auto } else { Reading::Buffered };
        let loader = Loader::builder().pace(pace).strategy(strategy).queue_depth(depth).build().unwrap();
        let mut memory = vec![0; LEN];
        let report = loader.read_into(&sample.open(), .., &mut memory, Operation::new()).unwrap();
        prop_assert_eq!(report.bytes, LEN as u64);
        prop_assert!(memory == sample.expected(&(0..LEN as u64)));
    }
}

#[test]
fn a_paced_read_takes_one_piece_and_waits_where_it_can_be_cancelled() {
    let small = 3 * PIECE;
    for (strategy, len) in [
        (Reading::Direct, LEN as u64),
        (Reading::Buffered, LEN as u64),
        (Reading::Buffered, small),
    ] {
        let _watchdog = Watchdog::over("a crawling read");
        let (_folder, sample) = folder_and_sample();
        let reader = Arc::new(FaultyReader::new(Mechanism::DIRECT, 0));
        let loader = reading_by(&reader)
            .pace(CRAWL)
            .strategy(strategy)
            .build()
            .unwrap();
        let token = CancelToken::new();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                while reader.reads().is_empty() {
                    thread::yield_now();
                }
                // Long enough for a second read, were there one.
                thread::sleep(Duration::from_millis(20));
                token.cancel();
            });
            let mut memory = vec![0; usize::try_from(len).unwrap()];
            let operation = Operation::new().cancel(&token);
            loader.read_into(&sample.open(), ..len, &mut memory, operation)
        });
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert_eq!(reader.reads(), vec![0..PIECE], "{strategy} {len}");
    }
}

#[test]
fn a_paced_prefetch_takes_one_piece_and_lets_go_when_dropped() {
    let _watchdog = Watchdog::over("a crawling prefetch");
    let (_folder, sample) = folder_and_sample();
    let gate = Arc::new(GatedPrefetcher::new(1 << 20));
    gate.open();
    let platform = Platform {
        prefetchers: vec![gate.clone()],
        ..platform(Residency::None)
    };
    let loader = Loader::builder()
        .platform(platform)
        .pace(CRAWL)
        .build()
        .unwrap();
    let ahead = loader.prefetch(&sample.open(), ..).unwrap();
    gate.wait_for(1);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(gate.taken(), vec![0..PIECE]);
    drop(ahead);

    // A read of what has not begun takes it out of the hands of the prefetch, which then ends.
    let ahead = loader.prefetch(&sample.open(), ..).unwrap();
    gate.wait_for(2);
    let unpaced = Loader::new().unwrap();
    let mut memory = vec![0; LEN];
    unpaced
        .read_into(&sample.open(), .., &mut memory, Operation::new())
        .unwrap();
    let outcome = ahead.wait(Operation::new()).unwrap();
    assert_eq!(
        (outcome.brought, outcome.cancelled),
        (PIECE, LEN as u64 - PIECE)
    );
    assert!(memory == sample.expected(&(0..LEN as u64)));
}

#[test]
fn no_pace_at_all_is_no_pace() {
    let error = Loader::builder().pace(0).build().unwrap_err();
    assert!(error.to_string().contains("pace"), "{error}");
}
