//! What happens when a read fails, stops short, or its reader misbehaves: an error that says where,
//! never a hang, and nothing is written once it is over.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use loader_core::testing::{Fault, FaultyReader, Guarded, Residency, Sample, Watchdog, platform};
use loader_core::{Platform, Queue, Reader, Support};
use tempfile::TempDir;
use weightloader::{
    Error, Loader, Mechanism, Operation, Refusal, Report, Result, Strategy, WeightFile,
};

const CHUNK: u64 = 64 << 10;
const CHUNKS: u64 = 40;

/// The system's code for "input/output error", on Unix and, by its meaning there, on Windows.
const EIO: i32 = 5;

struct Scene {
    _folder: TempDir,
    sample: Arc<Sample>,
    _watchdog: Watchdog,
}

impl Scene {
    fn new(what: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let len = usize::try_from(CHUNK * CHUNKS).unwrap();
        Self {
            sample: Arc::new(Sample::new(folder.path(), "weights.bin", len)),
            _folder: folder,
            _watchdog: Watchdog::over(what),
        }
    }

    /// Reads the whole file, all of it as `strategy` does.
    fn read(&self, strategy: Strategy, platform: Platform) -> Result<Report> {
        let file = self.sample.open();
        let loader = loader(strategy, platform);
        let mut memory = Guarded::new(self.sample.bytes(), 0);
        let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
        match &outcome {
            Ok(_) => memory.check_complete("a faulty reader"),
            Err(_) => nothing_is_written_any_more(&memory),
        }
        outcome
    }

    /// Reads once with the reader in the place of the direct one, once of the buffered one.
    fn read_both_ways(&self, reader: impl Fn() -> FaultyReader) -> [Result<Report>; 2] {
        let direct = Platform {
            direct: Ok(Arc::new(reader())),
            ..platform(Residency::None)
        };
        let buffered = Platform {
            buffered: Arc::new(reader()),
            ..platform(Residency::All)
        };
        [
            self.read(Strategy::Direct, direct),
            self.read(Strategy::Buffered, buffered),
        ]
    }
}

fn loader(strategy: Strategy, platform: Platform) -> Loader {
    let builder = Loader::builder().platform(platform).strategy(strategy);
    builder.chunk_bytes(CHUNK).threads(3).build().unwrap()
}

fn nothing_is_written_any_more(memory: &Guarded) {
    memory.check_partial("an operation that failed");
    let snapshot = memory.snapshot();
    thread::sleep(Duration::from_millis(20));
    assert!(memory.is_unchanged_since(&snapshot), "bytes came late");
}

fn reader() -> FaultyReader {
    FaultyReader::new(Mechanism::new("faulty"), 5)
}

/// What reads of an odd number of bytes at a time come to.
#[test]
fn short_reads_are_completed() {
    let scene = Scene::new("short reads");
    for bytes in [511, 4096, 5000, 65_535] {
        for outcome in scene.read_both_ways(|| reader().always(Fault::Short(bytes)).holding(3)) {
            let report = outcome.unwrap();
            assert_eq!(report.chunks.values().sum::<u64>(), CHUNKS);
        }
    }
}

#[test]
fn interrupted_reads_are_repeated() {
    let scene = Scene::new("interrupted reads");
    for kind in [ErrorKind::Interrupted, ErrorKind::WouldBlock] {
        for outcome in scene.read_both_ways(|| reader().sometimes(0.7, Fault::Error(kind))) {
            assert_eq!(outcome.unwrap().bytes, CHUNK * CHUNKS);
        }
    }
}

#[test]
fn reads_interrupted_for_ever_are_an_error() {
    let scene = Scene::new("reads interrupted for ever");
    let at = 3 * CHUNK + 5;
    for kind in [ErrorKind::Interrupted, ErrorKind::WouldBlock] {
        for outcome in scene.read_both_ways(|| reader().always_at(at, Fault::Error(kind))) {
            match outcome {
                Err(Error::Read { offset, source, .. }) => {
                    assert_eq!((offset, source.kind()), (3 * CHUNK, kind));
                }
                other => panic!("expected a failed read, got {other:?}"),
            }
        }
    }
}

#[test]
fn a_failed_read_names_its_file_place_and_reason() {
    let scene = Scene::new("failed reads");
    for chunk in [0, 1, CHUNKS / 2, CHUNKS - 1] {
        let at = chunk * CHUNK + 77;
        for outcome in scene.read_both_ways(|| reader().always_at(at, Fault::OsError(EIO))) {
            let error = outcome.unwrap_err();
            let told = error.to_string();
            match error {
                Error::Read {
                    path,
                    offset,
                    len,
                    source,
                } => {
                    assert_eq!(path, scene.sample.path());
                    assert_eq!((offset, len), (chunk * CHUNK, CHUNK));
                    assert_eq!(source.raw_os_error(), Some(EIO));
                    assert!(told.contains("weights.bin"), "{told}");
                    assert!(told.contains(&offset.to_string()), "{told}");
                }
                other => panic!("expected a failed read, got {other:?}"),
            }
        }
    }
}

#[test]
fn a_read_that_fails_after_a_short_one_names_what_was_left() {
    let scene = Scene::new("a read that fails halfway");
    let at = 7 * CHUNK;
    for outcome in scene.read_both_ways(|| {
        reader()
            .once_at(at, Fault::Short(1000))
            .always_at(at + 1000, Fault::OsError(EIO))
    }) {
        match outcome {
            Err(Error::Read { offset, len, .. }) => {
                assert_eq!((offset, len), (at + 1000, CHUNK - 1000));
            }
            other => panic!("expected a failed read, got {other:?}"),
        }
    }
}

#[test]
fn many_failed_reads_are_one_error() {
    let scene = Scene::new("many failed reads");
    for outcome in scene.read_both_ways(|| reader().always(Fault::OsError(EIO)).holding(9)) {
        assert!(matches!(outcome, Err(Error::Read { .. })), "{outcome:?}");
    }
}

#[test]
fn a_forgotten_chunk_is_an_error() {
    let scene = Scene::new("a forgotten chunk");
    for outcome in scene.read_both_ways(|| reader().once_at(9 * CHUNK, Fault::Drop)) {
        assert!(
            matches!(outcome, Err(Error::Abandoned { .. })),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_reader_that_returns_too_early_is_an_error() {
    let scene = Scene::new("a reader that returns too early");
    for tasks in [0, 1, 5] {
        for outcome in scene.read_both_ways(|| reader().returning_after(tasks)) {
            match outcome {
                Err(Error::Abandoned { mechanism }) => assert_eq!(mechanism.name(), "faulty"),
                other => panic!("expected abandoned chunks, got {other:?}"),
            }
        }
    }
}

#[test]
fn a_reader_that_leaves_a_tiny_read_is_an_error() {
    let scene = Scene::new("a reader that leaves a tiny read");
    let file = scene.sample.open();
    let platform = Platform {
        buffered: Arc::new(reader().returning_after(0)),
        ..platform(Residency::All)
    };
    let loader = loader(Strategy::Auto, platform);
    let outcome = loader.read_into(&file, ..100, &mut [0; 100], Operation::new());
    assert!(
        matches!(outcome, Err(Error::Abandoned { .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_panic_in_a_reader_passes_on_and_nothing_is_written_afterwards() {
    let scene = Scene::new("a panic in a reader");
    let holding = || reader().once_at(11 * CHUNK, Fault::Panic).holding(4);
    let between = || reader().panicking_after(3);
    for faulty in [&holding as &dyn Fn() -> FaultyReader, &between] {
        for strategy in [Strategy::Direct, Strategy::Buffered] {
            let platform = Platform {
                direct: Ok(Arc::new(faulty().on_workers(2))),
                buffered: Arc::new(faulty()),
                ..platform(Residency::None)
            };
            let loader = loader(strategy, platform);
            let file = scene.sample.open();
            let mut memory = Guarded::new(scene.sample.bytes(), 0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                loader.read_into(&file, .., memory.destination(), Operation::new())
            }));
            assert!(outcome.is_err(), "{strategy:?}: {outcome:?}");
            nothing_is_written_any_more(&memory);
        }
    }
    // The loader's shared resources survive it.
    scene
        .read(Strategy::Auto, platform(Residency::None))
        .unwrap();
}

/// Panics where it is asked for its name by a worker that is about to run it.
#[derive(Debug)]
struct Nameless;

impl Reader for Nameless {
    fn mechanism(&self) -> Mechanism {
        let worker = thread::current().name() == Some("weightloader-direct");
        assert!(!worker, "the test wants a panic");
        Mechanism::DIRECT
    }

    fn support(&self, _file: &WeightFile) -> std::result::Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, _queue: &Queue<'_>) -> std::result::Result<(), Refusal> {
        Ok(())
    }
}

#[test]
fn a_panic_before_a_reader_begins_passes_on() {
    let scene = Scene::new("a panic before a reader begins");
    for strategy in [Strategy::Direct, Strategy::Auto] {
        let platform = Platform {
            direct: Ok(Arc::new(Nameless)),
            ..platform(Residency::None)
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| scene.read(strategy, platform)));
        assert!(outcome.is_err(), "{outcome:?}");
    }
}

/// The first of its two workers serves; the other finds that it cannot, when all is done.
#[derive(Debug)]
struct HalfRefusing {
    reader: FaultyReader,
    began: AtomicUsize,
    over: AtomicBool,
}

impl Reader for HalfRefusing {
    fn mechanism(&self) -> Mechanism {
        self.reader.mechanism()
    }

    fn support(&self, file: &WeightFile) -> std::result::Result<Support, Refusal> {
        self.reader.support(file)
    }

    fn workers(&self) -> usize {
        2
    }

    fn run(&self, queue: &Queue<'_>) -> std::result::Result<(), Refusal> {
        if self.began.fetch_add(1, Ordering::AcqRel) == 0 {
            let outcome = self.reader.run(queue);
            self.over.store(true, Ordering::Release);
            return outcome;
        }
        while !self.over.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(Refusal::new(self.mechanism(), "no ring is left"))
    }
}

#[test]
fn a_worker_that_cannot_begin_leaves_the_work_to_the_others() {
    let scene = Scene::new("a worker that cannot begin");
    for strategy in [Strategy::Direct, Strategy::Auto] {
        let half_refusing = HalfRefusing {
            reader: reader(),
            began: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        let platform = Platform {
            direct: Ok(Arc::new(half_refusing)),
            ..platform(Residency::None)
        };
        let report = scene.read(strategy, platform).unwrap();
        assert_eq!(report.chunks.values().sum::<u64>(), CHUNKS, "{report:?}");
        assert_eq!(report.chunks.len(), 1, "{report:?}");
        let reasons = report.fallbacks.iter().map(|refusal| &*refusal.reason);
        assert_eq!(reasons.collect::<Vec<_>>(), ["no ring is left"]);
    }
}

#[test]
fn a_panic_in_a_progress_callback_passes_on_and_nothing_is_written_afterwards() {
    let scene = Scene::new("a panic in a progress callback");
    let slow = || reader().always(Fault::Delay(Duration::from_millis(1)));
    let slow_platform = Platform {
        direct: Ok(Arc::new(slow())),
        buffered: Arc::new(slow()),
        ..platform(Residency::None)
    };
    for platform in [slow_platform, weightloader::platform().clone()] {
        for strategy in [Strategy::Auto, Strategy::Buffered] {
            // At once, and after so many bytes.
            for after in [0, CHUNK * CHUNKS / 2, CHUNK * CHUNKS] {
                let loader = loader(strategy, platform.clone());
                let file = scene.sample.open();
                let mut memory = Guarded::new(scene.sample.bytes(), 0);
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let operation = Operation::new().on_progress(|progress| {
                        if progress.bytes >= after {
                            std::panic::panic_any("from the callback");
                        }
                    });
                    loader.read_into(&file, .., memory.destination(), operation)
                }));
                let payload = outcome.expect_err("the panic was swallowed");
                assert_eq!(payload.downcast_ref(), Some(&"from the callback"));
                nothing_is_written_any_more(&memory);
            }
        }
    }
}

#[test]
fn a_file_truncated_between_two_reads_is_an_error_that_says_where_it_ends() {
    let scene = Scene::new("a truncated file");
    let end = 20 * CHUNK + 333;
    for way in 0..2 {
        let sample = Arc::clone(&scene.sample);
        let truncate = move || sample.set_len(end).unwrap();
        let faulty = || {
            let truncate = truncate.clone();
            reader().once_at(2 * CHUNK, Fault::call(truncate))
        };
        let platform = Platform {
            direct: Ok(Arc::new(faulty())),
            buffered: Arc::new(faulty()),
            ..platform(Residency::None)
        };
        // One worker, so that the rest is read after the truncation.
        let builder = Loader::builder().platform(platform).chunk_bytes(CHUNK);
        let strategy = [Strategy::Direct, Strategy::Buffered][way];
        let loader = builder.strategy(strategy).threads(1).build().unwrap();
        let mut memory = Guarded::new(scene.sample.bytes(), 0);
        let file = scene.sample.open();
        let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
        nothing_is_written_any_more(&memory);
        match outcome {
            Err(Error::UnexpectedEof { path, offset, len }) => {
                assert_eq!(path, scene.sample.path());
                assert!(offset >= end, "{offset}");
                assert!(offset + len <= CHUNK * CHUNKS, "{offset} + {len}");
            }
            other => panic!("expected the end of the file, got {other:?}"),
        }
        std::fs::write(scene.sample.path(), scene.sample.bytes()).unwrap();
    }
}

#[test]
fn a_file_truncated_by_someone_else_at_any_moment_never_hangs() {
    let scene = Scene::new("a file truncated at any moment");
    let done = AtomicBool::new(false);
    let (sample, len) = (&scene.sample, CHUNK * CHUNKS);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0_u64.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                sample.set_len(round * 7919 * 4096 % len).unwrap();
                thread::sleep(Duration::from_micros(300));
                std::fs::write(sample.path(), sample.bytes()).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let finished = Done(&done);
        for round in 0..60 {
            let platform = weightloader::platform().clone();
            let strategy = [Strategy::Auto, Strategy::Buffered][round % 2];
            let file = sample.open();
            let mut memory = vec![0; usize::try_from(file.len()).unwrap()];
            let loader = loader(strategy, platform);
            match loader.read_into(&file, .., &mut memory, Operation::new()) {
                // What the bytes are is the system's affair: it clears the end of a truncated page
                // while others read it.
                Ok(report) => assert_eq!(report.bytes, file.len()),
                Err(Error::UnexpectedEof { path, offset, len }) => {
                    assert_eq!(path, sample.path());
                    assert!(offset + len <= file.len(), "{offset} + {len}");
                }
                Err(error) => panic!("{error}"),
            }
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
fn faulty_operations_do_not_disturb_each_other() {
    let scene = Scene::new("faulty operations at once");
    thread::scope(|scope| {
        for seed in 0..8 {
            let scene = &scene;
            scope.spawn(move || {
                for outcome in scene.read_both_ways(|| {
                    let reader = FaultyReader::new(Mechanism::new("faulty"), seed);
                    // Before the others, since a short read would spare the byte that is bad.
                    let reader = match seed % 2 {
                        0 => reader,
                        _ => reader.always_at(CHUNK * seed, Fault::OsError(EIO)),
                    };
                    reader
                        .sometimes(0.1, Fault::Error(ErrorKind::Interrupted))
                        .sometimes(0.2, Fault::Short(1000))
                        .holding(3)
                }) {
                    match outcome {
                        Ok(report) => assert_eq!((seed % 2, report.bytes), (0, CHUNK * CHUNKS)),
                        Err(Error::Read { .. }) => assert_eq!(seed % 2, 1),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
}
