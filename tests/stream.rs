//! Tensors as they land: in order, in bounded memory, and errors in their place.

#![cfg(feature = "safetensors")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod checkpoints;

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use checkpoints::Written;
use loader_core::Platform;
use loader_core::testing::{Fault, FaultyReader, Residency, Sample, Watchdog, platform};
use proptest::prelude::*;
use weightloader::{
    Error, Loader, LoaderBuilder, Mechanism, Strategy as Reading, StreamOrder, TensorStream,
};

fn stream(builder: LoaderBuilder, written: &Written) -> TensorStream {
    let loader = builder.build().unwrap();
    let checkpoint = loader.open(&written.path).unwrap();
    loader.stream(&checkpoint).unwrap()
}

/// A platform that reads everything by `reader`, directly.
fn reading_by(reader: &Arc<FaultyReader>) -> LoaderBuilder {
    let platform = Platform {
        direct: Ok(reader.clone()),
        ..platform(Residency::None)
    };
    let builder = Loader::builder().platform(platform);
    builder.strategy(Reading::Direct).chunk_bytes(64 << 10)
}

fn reader() -> FaultyReader {
    FaultyReader::new(Mechanism::DIRECT, 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn every_range_of_a_slice_comes_with_its_bytes(
        len in 0_usize..3_000_000,
        base in 0_u64..10_000,
        cuts in prop::collection::vec((0_u64..=100, 0_u64..=100), 0..20),
        landed in any::<bool>(),
    ) {
        let _watchdog = Watchdog::over("a stream of ranges");
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::new(folder.path(), "weights.bin", len);
        let base = base.min(len as u64);
        let file = sample.open().slice(base, len as u64 - base).unwrap();
        let at = |percent: u64| file.len() * percent / 100;
        let ranges: Vec<_> = cuts
            .into_iter()
            .map(|(a, b)| at(a.min(b))..at(a.max(b)))
            .collect();
        let order = if landed { StreamOrder::Landed } else { StreamOrder::Asked };
        let loader = Loader::builder().stream_order(order).build().unwrap();
        let mut seen = Vec::new();
        for part in loader.stream_ranges(&file, ranges.clone()).unwrap() {
            let (index, bytes) = part.unwrap();
            let range = base + ranges[index].start..base + ranges[index].end;
            prop_assert!(bytes[..] == *sample.expected(&range));
            seen.push(index);
        }
        if landed {
            seen.sort_unstable();
        }
        prop_assert_eq!(seen, (0..ranges.len()).collect::<Vec<_>>());
        let outside = loader.stream_ranges(&file, [0..1, 0..file.len() + 1]);
        let refused = matches!(outside, Err(Error::OutOfBounds { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn every_tensor_comes_once_in_order_with_its_bytes(
        shards in prop::collection::vec(prop::collection::vec(prop_oneof![
            1 => Just(0_usize),
            4 => 1_usize..5000,
            2 => 100_000_usize..2_000_000,
        ], 1..10), 1..4),
        own in any::<bool>(),
        limit in prop_oneof![Just(0_u64), 1_u64..10_000_000, Just(1 << 40)],
        keep in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let _watchdog = Watchdog::over("a stream");
        let written = match shards.as_slice() {
            [only] => Written::single(only),
            several => Written::sharded(several),
        };
        let platform = match own {
            true => weightloader::platform().clone(),
            false => {
                let faulty = |mechanism| FaultyReader::new(mechanism, seed)
                    .sometimes(0.1, Fault::Short(3000))
                    .sometimes(0.1, Fault::Error(std::io::ErrorKind::Interrupted))
                    .holding(4);
                Platform {
                    direct: Ok(Arc::new(faulty(Mechanism::DIRECT).on_workers(2))),
                    buffered: Arc::new(faulty(Mechanism::BUFFERED)),
                    ..platform(Residency::Random(seed))
                }
            }
        };
        let builder = Loader::builder().platform(platform).memory_limit(limit).chunk_bytes(100_000);
        let mut stream = stream(builder, &written);
        // What was taken stays as it is, whatever comes after it.
        let mut kept = Vec::new();
        let mut count = 0;
        for (tensor, (name, bytes)) in stream.by_ref().zip(&written.tensors) {
            let tensor = tensor.unwrap();
            prop_assert_eq!(tensor.name(), name);
            prop_assert!(tensor.bytes() == bytes, "{}", name);
            count += 1;
            if keep {
                kept.push(tensor);
            }
        }
        prop_assert_eq!(count, written.tensors.len());
        prop_assert!(stream.next().is_none());
        for (tensor, (name, bytes)) in kept.iter().zip(&written.tensors) {
            prop_assert!(tensor.bytes() == bytes, "{}, later", name);
        }
        let report = stream.report();
        prop_assert!(report.is_some_and(|report| report.bytes >= written.bytes()));
    }
}

#[test]
fn what_lands_first_comes_first_where_that_is_asked_for() {
    let _watchdog = Watchdog::over("a stream in the order of landing");
    // Each is a group of its own.
    let written = Written::single(&[9 << 20; 4]);
    // A read of the second tensor lasts until one of the last tensor begins.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (wait, open) = (Arc::clone(&gate), gate);
    let wait = move || {
        let closed = wait.0.lock().unwrap();
        drop(wait.1.wait_while(closed, |open| !*open).unwrap());
    };
    let open = move || {
        *open.0.lock().unwrap() = true;
        open.1.notify_all();
    };
    let slow = reader()
        .on_workers(2)
        .once_at(10 << 20, Fault::call(wait))
        .once_at(35 << 20, Fault::call(open));
    let builder = reading_by(&Arc::new(slow)).chunk_bytes(4 << 20);
    let stream = stream(builder.stream_order(StreamOrder::Landed), &written);
    let mut order = Vec::new();
    for tensor in stream {
        let tensor = tensor.unwrap();
        let is_it = |(name, _): &(String, Vec<u8>)| name == tensor.name();
        let index = written.tensors.iter().position(is_it).unwrap();
        assert!(tensor.bytes() == written.tensors[index].1);
        order.push(index);
    }
    let place = |index| order.iter().position(|it| *it == index);
    assert!(place(2) < place(1), "{order:?}");
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3]);
}

#[test]
fn no_more_is_read_ahead_than_allowed() {
    let _watchdog = Watchdog::over("a stream with little memory");
    // Small tensors, which are read together, and large ones.
    for lens in [vec![50_000; 200], vec![900_000; 12]] {
        let written = Written::single(&lens);
        let reader = Arc::new(reader());
        let limit = 2_000_000;
        let mut stream = stream(reading_by(&reader).memory_limit(limit), &written);
        let mut taken = 0;
        loop {
            // As much as it ever will, as long as nobody takes anything.
            thread::sleep(Duration::from_millis(10));
            let reads = reader.reads();
            let read: u64 = reads.iter().map(|range| range.end - range.start).sum();
            // Blocks at both ends, and the group that the consumer holds.
            let allowed = taken + 2 * limit + 100_000;
            assert!(read <= allowed, "{read} bytes read, {taken} taken");
            match stream.next() {
                Some(tensor) => taken += tensor.unwrap().bytes().len() as u64,
                None => break,
            }
        }
        assert_eq!(taken, written.bytes());
    }
}

#[test]
fn a_tensor_larger_than_the_limit_comes_all_the_same() {
    let _watchdog = Watchdog::over("a large tensor in a stream");
    let written = Written::single(&[3_000_000, 10, 2_000_000]);
    let mut stream = stream(Loader::builder().memory_limit(1), &written);
    for (_, bytes) in &written.tensors {
        assert!(stream.next().unwrap().unwrap().bytes() == bytes);
    }
    assert!(stream.next().is_none());
}

#[test]
fn what_was_taken_outlives_the_stream_and_may_go_anywhere() {
    let _watchdog = Watchdog::over("tensors of a stream that is gone");
    let written = Written::single(&[1_000_000; 6]);
    let mut stream = stream(Loader::builder(), &written);
    let taken: Vec<_> = stream.by_ref().take(3).map(Result::unwrap).collect();
    drop(stream);
    let elsewhere = thread::spawn(move || taken);
    for (tensor, (_, bytes)) in elsewhere.join().unwrap().iter().zip(&written.tensors) {
        assert!(tensor.bytes() == bytes);
        assert!(tensor.clone().bytes() == bytes);
    }
}

#[test]
fn dropping_never_waits() {
    let _watchdog = Watchdog::over("dropping a stream");
    let written = Written::single(&[500_000; 10]);
    for taken in [0, 1, 5, 10] {
        for forget in [false, true] {
            // Each read takes as long as it likes.
            let slow = reader().always(Fault::Delay(Duration::from_millis(5)));
            let mut stream = stream(reading_by(&Arc::new(slow)), &written);
            for tensor in stream.by_ref().take(taken) {
                tensor.unwrap();
            }
            match forget {
                true => std::mem::forget(stream),
                false => drop(stream),
            }
        }
    }
}

#[test]
fn a_dropped_stream_stops_reading() {
    let _watchdog = Watchdog::over("a dropped stream");
    let written = Written::single(&[500_000; 40]);
    let slow = Arc::new(reader().always(Fault::Delay(Duration::from_millis(10))));
    let mut stream = stream(reading_by(&slow), &written);
    stream.next().unwrap().unwrap();
    drop(stream);
    // Reads that were under way end; how soon, nobody promises.
    let mut reads = 0;
    while slow.reads().len() > reads {
        reads = slow.reads().len();
        thread::sleep(Duration::from_millis(500));
    }
    assert!(reads < 306, "all was read");
}

#[test]
fn an_error_comes_last_and_in_its_place() {
    let _watchdog = Watchdog::over("a stream that fails");
    let written = Written::single(&[1_000_000; 8]);
    for (at, before) in [(0, 0), (5_500_000, 5)] {
        let failing = Arc::new(reader().always_at(at + 1000, Fault::OsError(5)));
        // One tensor after the other.
        let builder = reading_by(&failing).memory_limit(1);
        let mut stream = stream(builder, &written);
        let mut good = 0;
        let error = loop {
            match stream.next().expect("an error before the end") {
                Ok(tensor) => {
                    assert!(tensor.bytes() == written.tensors[good].1);
                    good += 1;
                }
                Err(error) => break error,
            }
        };
        match error {
            Error::Read {
                path, offset, len, ..
            } => {
                assert_eq!(path, written.path);
                assert!((offset..offset + len).contains(&(at + 1000)));
            }
            other => panic!("expected a failed read, got {other:?}"),
        }
        assert_eq!(good, before);
        assert!(stream.next().is_none());
        assert!(stream.next().is_none());
        assert!(stream.report().is_none());
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let _watchdog = Watchdog::over("a stream of a truncated file");
    let written = Written::single(&[1_000_000; 8]);
    let loader = Loader::new().unwrap();
    let checkpoint = loader.open(&written.path).unwrap();
    let file = std::fs::File::options().write(true).open(&written.path);
    file.unwrap().set_len(3_000_000).unwrap();
    let error = loader.stream(&checkpoint).unwrap().find_map(Result::err);
    match error {
        Some(Error::UnexpectedEof { path, .. }) => assert_eq!(path, written.path),
        other => panic!("expected the end of the file, got {other:?}"),
    }
}

#[test]
fn a_panic_in_a_reader_is_an_error_rather_than_the_end() {
    let _watchdog = Watchdog::over("a stream whose reader panics");
    let written = Written::single(&[1_000_000; 8]);
    let panicking = [
        reader().once_at(4_000_000, Fault::Panic),
        reader().panicking_after(20),
    ];
    for panicking in panicking {
        let tensors = stream(reading_by(&Arc::new(panicking)), &written);
        let mut outcomes: Vec<_> = tensors.collect();
        let last = outcomes.pop().expect("at least an error");
        assert!(last.is_err(), "the stream ends as if all were well");
        assert!(outcomes.len() < 8);
        assert!(outcomes.iter().all(Result::is_ok));
    }
}

#[test]
fn several_streams_and_loads_at_once() {
    let _watchdog = Watchdog::over("several streams");
    let written = Written::single(&[300_000; 10]);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let tensors = stream(Loader::builder().memory_limit(500_000), &written);
                for (tensor, (_, bytes)) in tensors.zip(&written.tensors) {
                    assert!(tensor.unwrap().bytes() == bytes);
                }
                let model = weightloader::load(&written.path).unwrap();
                assert_eq!(model.tensors().count(), 10);
            });
        }
    });
}

#[test]
fn nothing_to_stream() {
    let _watchdog = Watchdog::over("a stream of nothing");
    for lens in [vec![], vec![0, 0]] {
        let written = Written::single(&lens);
        let mut stream = stream(Loader::builder(), &written);
        for _ in &lens {
            assert!(stream.next().unwrap().unwrap().bytes().is_empty());
        }
        assert!(stream.next().is_none());
    }
}
