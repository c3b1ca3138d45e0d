//! Which mechanism takes which bytes, and what the report says of it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;

use loader_core::testing::{
    Fault, FaultyReader, Guarded, Residency, Sample, TestSystem, Watchdog, platform,
};
use loader_core::{Extent, Platform, Prefetcher, Reader};
use tempfile::TempDir;
use weightloader::{
    CachePolicy, Error, Loader, LoaderBuilder, Mechanism, Operation, Report, Result, Strategy,
};

const CHUNK: u64 = 64 << 10;
const CHUNKS: u64 = 48;

/// A file of 48 chunks, large enough that it pays to ask what is resident.
fn sample() -> (TempDir, Sample) {
    let folder = tempfile::tempdir().unwrap();
    let len = usize::try_from(CHUNKS * CHUNK).unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", len);
    (folder, sample)
}

fn loader(platform: Platform) -> LoaderBuilder {
    Loader::builder().platform(platform).chunk_bytes(CHUNK)
}

/// Reads the whole file and checks that every byte is right.
fn read(builder: LoaderBuilder, sample: &Sample) -> Result<Report> {
    let _watchdog = Watchdog::over("a test of strategies");
    let file = sample.open();
    let mut memory = Guarded::new(sample.bytes(), 0);
    let loader = builder.build()?;
    let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
    match &outcome {
        Ok(_) => memory.check_complete("a strategy"),
        Err(_) => assert!(memory.check_partial("a strategy") <= sample.bytes().len()),
    }
    outcome
}

/// Chunks that came by direct reads and by buffered ones.
fn chunks(report: &Report) -> (u64, u64) {
    let of = |mechanism| report.chunks.get(&mechanism).copied().unwrap_or(0);
    (of(Mechanism::DIRECT), of(Mechanism::BUFFERED))
}

fn with_direct(direct: FaultyReader, residency: Residency) -> Platform {
    Platform {
        direct: Ok(Arc::new(direct)),
        ..platform(residency)
    }
}

#[test]
fn auto_reads_cold_bytes_directly_and_resident_ones_through_the_cache() {
    let (_folder, sample) = sample();
    for (residency, expected) in [
        (Residency::None, (CHUNKS, 0)),
        (Residency::All, (0, CHUNKS)),
        (Residency::Unknown, (0, CHUNKS)),
        (Residency::Alternating(CHUNK), (CHUNKS / 2, CHUNKS / 2)),
        (Residency::Alternating(8 * CHUNK), (CHUNKS / 2, CHUNKS / 2)),
    ] {
        let report = read(loader(platform(residency)), &sample).unwrap();
        assert_eq!(chunks(&report), expected, "{residency:?}");
        assert_eq!(report.fallbacks, [], "{residency:?}");
    }
}

#[test]
fn auto_reads_each_of_overlapping_ranges_the_same_way() {
    let (_folder, sample) = sample();
    let (file, len) = (sample.open(), sample.bytes().len());
    let loader = loader(platform(Residency::None)).build().unwrap();
    // The second lies within the first.
    let extents = [
        Extent {
            offset: 0,
            len: len as u64,
            destination: 0,
        },
        Extent {
            offset: CHUNK + 7,
            len: 100,
            destination: len,
        },
    ];
    let mut memory = vec![0; len + 100];
    let outcome = loader.read_ranges_into(&file, &extents, &mut memory, Operation::new());
    assert_eq!(chunks(&outcome.unwrap()), (CHUNKS + 1, 0));
    let within = usize::try_from(CHUNK + 7).unwrap();
    assert!(memory[..len] == *sample.bytes());
    assert!(memory[len..] == sample.bytes()[within..within + 100]);
}

#[test]
fn what_was_resident_is_told() {
    let (_folder, sample) = sample();
    let half = Residency::Alternating(CHUNK);
    let report = read(loader(platform(half)), &sample).unwrap();
    assert_eq!(report.resident_bytes, Some(CHUNK * CHUNKS / 2));
    let report = read(loader(platform(Residency::Unknown)), &sample).unwrap();
    assert_eq!(report.resident_bytes, None);
}

#[test]
fn forced_strategies_ask_nobody() {
    let (_folder, sample) = sample();
    for residency in [Residency::None, Residency::All, Residency::Unknown] {
        let direct = loader(platform(residency)).strategy(Strategy::Direct);
        assert_eq!(chunks(&read(direct, &sample).unwrap()), (CHUNKS, 0));
        let buffered = loader(platform(residency)).strategy(Strategy::Buffered);
        assert_eq!(chunks(&read(buffered, &sample).unwrap()), (0, CHUNKS));
    }
}

#[test]
fn keeping_the_model_cached_reads_through_the_cache() {
    let (_folder, sample) = sample();
    let keep = loader(platform(Residency::None)).cache(CachePolicy::Keep);
    assert_eq!(chunks(&read(keep, &sample).unwrap()), (0, CHUNKS));
}

#[test]
fn bypassing_the_cache_evicts_what_was_not_there_before_and_nothing_else() {
    let (_folder, sample) = sample();
    let len = CHUNK * CHUNKS;
    for (residency, strategy) in [
        (Residency::Alternating(4 * CHUNK), Strategy::Buffered),
        (Residency::Alternating(4 * CHUNK), Strategy::Auto),
        (Residency::None, Strategy::Buffered),
        (Residency::All, Strategy::Buffered),
    ] {
        let system = Arc::new(TestSystem::new(residency));
        let platform = Platform {
            system: system.clone(),
            ..platform(residency)
        };
        let bypass = loader(platform).cache(CachePolicy::Bypass);
        read(bypass.strategy(strategy), &sample).unwrap();
        for range in system.evicted() {
            let share = residency.map(range).resident_bytes();
            assert_eq!(share, Some(0), "{residency:?} {strategy:?}");
        }
        let evicted: u64 = system.evicted().iter().map(|r| r.end - r.start).sum();
        let cold = len - residency.map(0..len).resident_bytes().unwrap();
        assert_eq!(evicted, cold, "{residency:?} {strategy:?}");
    }
}

#[test]
fn the_cache_is_left_alone_unless_asked() {
    let (_folder, sample) = sample();
    for cache in [CachePolicy::Auto, CachePolicy::Keep] {
        let system = Arc::new(TestSystem::new(Residency::None));
        let platform = Platform {
            system: system.clone(),
            ..platform(Residency::None)
        };
        read(loader(platform).cache(cache), &sample).unwrap();
        assert_eq!(system.evicted(), [], "{cache:?}");
    }
}

#[test]
fn auto_falls_back_where_there_is_no_direct_reader_and_says_so() {
    let (_folder, sample) = sample();
    let report = read(loader(Platform::portable()), &sample).unwrap();
    assert_eq!(chunks(&report), (0, CHUNKS));
    assert_eq!(report.fallbacks.len(), 1);
    assert_eq!(report.fallbacks[0].mechanism, Mechanism::DIRECT);
}

#[test]
fn auto_falls_back_where_the_direct_reader_does_not_serve_and_says_why() {
    let (_folder, sample) = sample();
    let new = || FaultyReader::new(Mechanism::DIRECT, 0);
    for (direct, reason) in [
        (new().unsupported("not this file"), "not this file"),
        (new().discouraged("slower here"), "slower here"),
        (new().refusing_to_run("no ring"), "no ring"),
    ] {
        let platform = with_direct(direct, Residency::None);
        let report = read(loader(platform), &sample).unwrap();
        assert_eq!(chunks(&report), (0, CHUNKS), "{reason}");
        assert_eq!(report.fallbacks.len(), 1, "{reason}");
        assert_eq!(report.fallbacks[0].reason, reason);
    }
}

#[test]
fn auto_reads_a_refused_chunk_through_the_cache_and_says_so_once() {
    let (_folder, sample) = sample();
    let direct = FaultyReader::new(Mechanism::DIRECT, 0)
        .always_at(5 * CHUNK, Fault::Refuse)
        .always_at(9 * CHUNK, Fault::Refuse);
    let report = read(loader(with_direct(direct, Residency::None)), &sample).unwrap();
    assert_eq!(chunks(&report), (CHUNKS - 2, 2));
    assert_eq!(report.fallbacks.len(), 1, "{:?}", report.fallbacks);
    assert_eq!(report.fallbacks[0].mechanism, Mechanism::DIRECT);
}

#[test]
fn a_chunk_refused_halfway_is_finished_through_the_cache() {
    let (_folder, sample) = sample();
    // The first read of the chunk stops short, the second is refused.
    let direct = FaultyReader::new(Mechanism::DIRECT, 0)
        .once_at(5 * CHUNK, Fault::Short(1000))
        .always_at(5 * CHUNK + 1000, Fault::Refuse);
    let report = read(loader(with_direct(direct, Residency::None)), &sample).unwrap();
    assert_eq!(chunks(&report), (CHUNKS - 1, 1));
}

#[test]
fn forced_direct_reads_never_fall_back() {
    let (_folder, sample) = sample();
    let new = || FaultyReader::new(Mechanism::DIRECT, 0);
    for direct in [new().unsupported("no"), new().refusing_to_run("no")] {
        let platform = with_direct(direct, Residency::None);
        let outcome = read(loader(platform).strategy(Strategy::Direct), &sample);
        match outcome {
            Err(Error::Unsupported { mechanism, reason }) => {
                assert_eq!((mechanism, reason.as_str()), (Mechanism::DIRECT, "no"));
            }
            other => panic!("expected that it is unsupported, got {other:?}"),
        }
    }
    let platform = Platform::portable();
    let outcome = read(loader(platform).strategy(Strategy::Direct), &sample);
    assert!(
        matches!(outcome, Err(Error::Unsupported { .. })),
        "{outcome:?}"
    );
    // What is merely discouraged does serve.
    let platform = with_direct(new().discouraged("slow"), Residency::All);
    let report = read(loader(platform).strategy(Strategy::Direct), &sample).unwrap();
    assert_eq!(chunks(&report), (CHUNKS, 0));
    // One chunk that is refused is one too many.
    let platform = with_direct(new().once_at(CHUNK, Fault::Refuse), Residency::None);
    let outcome = read(loader(platform).strategy(Strategy::Direct), &sample);
    match outcome {
        Err(Error::Read {
            path, offset, len, ..
        }) => {
            assert_eq!((path.as_path(), offset, len), (sample.path(), CHUNK, CHUNK));
        }
        other => panic!("expected a failed read, got {other:?}"),
    }
}

#[test]
fn a_buffered_reader_that_refuses_is_an_error_that_names_it() {
    let (folder, large) = sample();
    let small = Sample::new(folder.path(), "small.bin", 1000);
    for sample in [&large, &small] {
        let name = Mechanism::new("own");
        let buffered: Arc<dyn Reader> =
            Arc::new(FaultyReader::new(name, 0).refusing_to_run("not today"));
        let platform = Platform {
            buffered,
            ..platform(Residency::All)
        };
        match read(loader(platform), sample) {
            Err(Error::Unsupported { mechanism, reason }) => {
                assert_eq!((mechanism, reason.as_str()), (name, "not today"));
            }
            other => panic!("expected that it is unsupported, got {other:?}"),
        }
    }
}

#[test]
fn a_buffered_reader_that_refuses_is_no_matter_where_nothing_is_for_it() {
    let (_folder, sample) = sample();
    let buffered = FaultyReader::new(Mechanism::BUFFERED, 0).refusing_to_run("not today");
    let platform = Platform {
        buffered: Arc::new(buffered),
        ..with_direct(FaultyReader::new(Mechanism::DIRECT, 0), Residency::None)
    };
    // Whoever else is at work, and whenever it comes to lend a hand.
    for _ in 0..20 {
        let report = read(loader(platform.clone()), &sample).unwrap();
        assert_eq!(chunks(&report), (CHUNKS, 0));
    }
}

#[test]
fn tiny_reads_ask_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "tiny.bin", 100_000);
    let report = read(loader(platform(Residency::None)), &sample).unwrap();
    assert_eq!(chunks(&report), (0, 2));
    assert_eq!(report.resident_bytes, None);
}

#[test]
fn nothing_is_read_twice() {
    let (_folder, sample) = sample();
    let direct = Arc::new(FaultyReader::new(Mechanism::DIRECT, 0));
    let buffered = Arc::new(FaultyReader::new(Mechanism::BUFFERED, 0));
    let platform = Platform {
        direct: Ok(direct.clone()),
        buffered: buffered.clone(),
        ..platform(Residency::Alternating(3 * CHUNK))
    };
    read(loader(platform), &sample).unwrap();
    let mut reads = [direct.reads(), buffered.reads()].concat();
    reads.sort_by_key(|range| range.start);
    let mut at = 0;
    for read in reads {
        assert_eq!(read.start, at);
        at = read.end;
    }
    assert_eq!(at, CHUNK * CHUNKS);
}

#[test]
fn options_that_make_no_sense_are_named() {
    for (builder, option) in [
        (
            Loader::builder()
                .strategy(Strategy::Direct)
                .cache(CachePolicy::Keep),
            "cache",
        ),
        (Loader::builder().threads(0), "threads"),
        (Loader::builder().threads(1025), "threads"),
        (Loader::builder().queue_depth(0), "queue depth"),
        (Loader::builder().queue_depth(4097), "queue depth"),
        (Loader::builder().chunk_bytes(4095), "chunk bytes"),
        (Loader::builder().chunk_bytes((1 << 30) + 1), "chunk bytes"),
    ] {
        match builder.build() {
            Err(Error::InvalidOption { option: named, .. }) => assert_eq!(named, option),
            other => panic!("expected an invalid {option}, got {other:?}"),
        }
    }
}

#[test]
fn a_memory_limit_below_a_chunk_still_reads_everything() {
    let (_folder, sample) = sample();
    for limit in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK] {
        let limited = loader(platform(Residency::None)).memory_limit(limit);
        assert_eq!(chunks(&read(limited, &sample).unwrap()), (CHUNKS, 0));
    }
}

#[test]
fn a_destination_of_the_wrong_length_is_refused() {
    let (_folder, sample) = sample();
    let file = sample.open();
    let loader = loader(platform(Residency::All)).build().unwrap();
    for len in [0, sample.bytes().len() - 1, sample.bytes().len() + 1] {
        let mut memory = vec![7; len];
        let outcome = loader.read_into(&file, .., &mut memory, Operation::new());
        assert!(
            matches!(outcome, Err(Error::Destination { .. })),
            "{outcome:?}"
        );
        assert!(memory.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn ranges_outside_the_file_are_refused() {
    let (_folder, sample) = sample();
    let loader = loader(platform(Residency::All)).build().unwrap();
    let slice = sample.open().slice(CHUNK, 1000).unwrap();
    let mut memory = [7; 10];
    let backwards = std::ops::Range { start: 10, end: 5 };
    for range in [991..1001, 1001..1011, u64::MAX - 10..u64::MAX, backwards] {
        let outcome = loader.read_into(&slice, range.clone(), &mut memory, Operation::new());
        match outcome {
            Err(Error::OutOfBounds { path, file_len, .. }) => {
                assert_eq!(
                    (path.as_path(), file_len),
                    (sample.path(), 1000),
                    "{range:?}"
                );
            }
            other => panic!("{range:?}: expected that it is out of bounds, got {other:?}"),
        }
    }
    let outside = Extent {
        offset: u64::MAX,
        len: u64::MAX,
        destination: 0,
    };
    let outcome = loader.read_ranges_into(&slice, &[outside], &mut memory, Operation::new());
    assert!(
        matches!(outcome, Err(Error::OutOfBounds { .. })),
        "{outcome:?}"
    );
    assert_eq!(memory, [7; 10]);
}

#[test]
fn platforms_may_be_put_together_by_anyone() {
    fn is_shared<T: Send + Sync + 'static>(_: &T) {}
    let platform = weightloader::platform();
    is_shared(platform);
    is_shared(&Loader::new().unwrap());
    let prefetchers: &[Arc<dyn Prefetcher>] = &platform.prefetchers;
    assert!(
        prefetchers
            .iter()
            .all(|one| !one.mechanism().name().is_empty())
    );
}
