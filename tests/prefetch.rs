//! Prefetches in the background: what becomes of their handles, and how reads claim what has not
//! begun.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use loader_core::testing::{
    FaultyReader, GatedPrefetcher, NullPrefetcher, Residency, Sample, TestSystem, Watchdog,
    platform,
};
use loader_core::{
    Extent, Platform, PrefetchOutcome, PrefetchQueue, Prefetcher, Refusal, ResidencyMap, WeightFile,
};
use proptest::prelude::*;
use tempfile::TempDir;
use weightloader::{CancelToken, Error, Loader, Mechanism, Operation, Strategy as Reading};

const PIECE: u64 = 64 << 10;
const PIECES: u64 = 40;
const LEN: u64 = PIECE * PIECES;

/// A cold file, a prefetcher that goes as far as it is let, and readers that remember.
struct Scene {
    _folder: TempDir,
    sample: Sample,
    gate: Arc<GatedPrefetcher>,
    direct: Arc<FaultyReader>,
    buffered: Arc<FaultyReader>,
    loader: Loader,
    _watchdog: Watchdog,
}

impl Scene {
    fn new(what: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::new(folder.path(), "weights.bin", usize::try_from(LEN).unwrap());
        let gate = Arc::new(GatedPrefetcher::new(PIECE));
        let direct = Arc::new(FaultyReader::new(Mechanism::DIRECT, 0));
        let buffered = Arc::new(FaultyReader::new(Mechanism::BUFFERED, 0));
        let platform = Platform {
            prefetchers: vec![gate.clone()],
            direct: Ok(direct.clone()),
            buffered: buffered.clone(),
            ..platform(Residency::None)
        };
        let loader = Loader::builder().platform(platform).chunk_bytes(PIECE);
        Self {
            _folder: folder,
            sample,
            gate,
            direct,
            buffered,
            loader: loader.build().unwrap(),
            _watchdog: Watchdog::over(what),
        }
    }

    fn read(&self, file: &WeightFile, range: Range<u64>) {
        let len = usize::try_from(range.end - range.start).unwrap();
        let mut memory = vec![0; len];
        self.loader
            .read_into(file, range.clone(), &mut memory, Operation::new())
            .unwrap();
        assert!(memory == self.sample.expected(&range), "{range:?}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Lets the prefetch's thread end.
        self.gate.open();
    }
}

fn settled(outcome: &PrefetchOutcome) -> u64 {
    outcome.brought + outcome.skipped + outcome.cancelled + outcome.failed
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[test]
fn a_read_claims_what_has_not_begun() {
    let scene = Scene::new("a read over a live prefetch");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    scene.gate.allow(7);
    scene.gate.wait_for(7);
    scene.read(&file, 0..LEN);
    scene.gate.open();
    let outcome = ahead.wait(Operation::new()).unwrap();

    assert_eq!(
        (outcome.brought, outcome.cancelled),
        (7 * PIECE, 33 * PIECE)
    );
    assert_eq!(scene.gate.taken().len(), 7);
    // What the prefetch had begun comes through the page cache, the rest past it.
    for read in scene.direct.reads() {
        assert!(read.start >= 7 * PIECE, "{read:?} is read twice");
    }
    for read in scene.buffered.reads() {
        assert!(read.end <= 7 * PIECE, "{read:?} is no longer prefetched");
    }
}

#[test]
fn a_read_claims_its_own_bytes_only() {
    let scene = Scene::new("a read over part of a live prefetch");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    let claimed = 10 * PIECE + 5..30 * PIECE - 5;
    scene.read(&file, claimed.clone());
    scene.gate.open();
    let outcome = ahead.wait(Operation::new()).unwrap();
    assert_eq!(outcome.cancelled, claimed.end - claimed.start);
    assert_eq!(outcome.brought, LEN - outcome.cancelled);
    for piece in scene.gate.taken() {
        assert!(!overlap(&piece, &claimed), "{piece:?} is brought in twice");
    }
}

#[test]
fn reads_of_far_apart_ranges_leave_alone_what_is_between() {
    let scene = Scene::new("reads of two ranges over a live prefetch");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    let extent = |piece, destination| Extent {
        offset: piece * PIECE,
        len: 10 * PIECE,
        destination,
    };
    let half = usize::try_from(10 * PIECE).unwrap();
    let extents = [extent(0, 0), extent(30, half)];
    let mut memory = vec![0; 2 * half];
    scene
        .loader
        .read_ranges_into(&file, &extents, &mut memory, Operation::new())
        .unwrap();
    scene.gate.open();
    let outcome = ahead.wait(Operation::new()).unwrap();
    assert_eq!(
        (outcome.brought, outcome.cancelled),
        (20 * PIECE, 20 * PIECE)
    );
}

#[test]
fn other_files_and_other_handles_of_the_same_file() {
    let scene = Scene::new("a read of another file");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    let other = Sample::new(scene.sample.path().parent().unwrap(), "other.bin", 2 << 20);
    let mut memory = vec![0; 2 << 20];
    scene
        .loader
        .read_into(&other.open(), .., &mut memory, Operation::new())
        .unwrap();
    assert_eq!(ahead.progress(), (0, LEN));
    // Opened a second time, and a slice: it is the same file on disk.
    let again = scene.sample.open().slice(PIECE, LEN - PIECE).unwrap();
    let mut memory = vec![0; usize::try_from(LEN - PIECE).unwrap()];
    scene
        .loader
        .read_into(&again, .., &mut memory, Operation::new())
        .unwrap();
    assert_eq!(ahead.progress(), (LEN - PIECE, LEN));
}

#[test]
fn starting_never_waits() {
    let scene = Scene::new("starting a prefetch");
    let file = scene.sample.open();
    // The gate is shut, so whoever waited for anything would wait for ever.
    let handles: Vec<_> = (0..20)
        .map(|_| scene.loader.prefetch(&file, ..).unwrap())
        .collect();
    for ahead in &handles {
        assert!(!ahead.is_done());
        assert_eq!(ahead.progress(), (0, LEN));
    }
}

#[test]
fn dropping_never_waits_and_cancels_what_has_not_begun() {
    for cancel in [false, true] {
        let scene = Scene::new("dropping a prefetch");
        let file = scene.sample.open();
        let ahead = scene.loader.prefetch(&file, ..).unwrap();
        scene.gate.allow(3);
        scene.gate.wait_for(3);
        match cancel {
            true => ahead.cancel(),
            false => drop(ahead),
        }
        let second = scene.loader.prefetch(&file, ..1).unwrap();
        scene.gate.open();
        second.wait(Operation::new()).unwrap();
        let taken = scene.gate.taken();
        let beyond = taken.iter().filter(|piece| piece.end > 4 * PIECE);
        assert_eq!(beyond.count(), 0, "{taken:?}");
    }
}

#[test]
fn what_is_detached_or_forgotten_runs_on() {
    for forget in [false, true] {
        let scene = Scene::new("a detached prefetch");
        let file = scene.sample.open();
        let ahead = scene.loader.prefetch(&file, ..).unwrap();
        match forget {
            true => std::mem::forget(ahead),
            false => ahead.detach(),
        }
        scene.gate.open();
        scene.gate.wait_for(usize::try_from(PIECES).unwrap());
        assert_eq!(scene.gate.taken().last(), Some(&(LEN - PIECE..LEN)));
    }
}

#[test]
fn it_outlives_its_file_handle_and_loader() {
    let scene = Scene::new("a prefetch whose file was dropped");
    let file = scene.sample.open();
    let ahead = scene.loader.clone().prefetch(&file, ..).unwrap();
    drop(file);
    scene.gate.open();
    let handle = thread::spawn(move || ahead.wait(Operation::new()).unwrap());
    assert_eq!(handle.join().unwrap().brought, LEN);
}

#[test]
fn waiting_is_cancelled_while_nothing_moves() {
    let scene = Scene::new("a cancelled wait");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    let token = CancelToken::new();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| token.cancel());
        ahead.wait(Operation::new().cancel(&token))
    });
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
}

#[test]
fn a_panic_in_the_callback_of_a_wait_passes_on() {
    let scene = Scene::new("a panic while waiting");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ahead.wait(Operation::new().on_progress(|_| panic!("from the callback")))
    }));
    assert!(outcome.is_err());
    // The handle is gone, and so is what it had not begun.
    scene.gate.open();
    scene.read(&file, 0..LEN);
    assert!(scene.gate.taken().len() <= 1, "{:?}", scene.gate.taken());
}

#[test]
fn only_what_memory_holds_is_brought_in() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", usize::try_from(LEN).unwrap());
    let file = sample.open();
    for available in [0, 1, PIECE, 10 * PIECE, u64::MAX] {
        let _watchdog = Watchdog::over("a prefetch with little memory");
        let system = TestSystem::new(Residency::None).with_available_memory(available);
        let platform = Platform {
            prefetchers: vec![Arc::new(NullPrefetcher::default())],
            system: Arc::new(system),
            ..platform(Residency::None)
        };
        let loader = Loader::builder().platform(platform).build().unwrap();
        let ahead = loader.prefetch(&file, ..).unwrap();
        let outcome = ahead.wait(Operation::new()).unwrap();
        assert_eq!(settled(&outcome), LEN, "{outcome:?}");
        assert!(outcome.brought <= available, "{outcome:?}");
        let room_for_some = available >= PIECE;
        assert_eq!(outcome.brought > 0, room_for_some, "{outcome:?}");
        let room_for_all = available == u64::MAX;
        assert_eq!(outcome.skipped == 0, room_for_all, "{outcome:?}");
    }
}

/// Brings half of what it takes, and then does what it is told.
#[derive(Debug)]
struct Odd(Oddity);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Oddity {
    Refuses,
    GivesBack,
    Fails,
    Panics,
}

impl Prefetcher for Odd {
    fn mechanism(&self) -> Mechanism {
        Mechanism::new("odd")
    }

    fn piece_bytes(&self, _file: &WeightFile) -> u64 {
        PIECE
    }

    fn run(&self, queue: &PrefetchQueue) -> Result<(), Refusal> {
        if self.0 == Oddity::Refuses {
            return Err(Refusal::new(self.mechanism(), "not today"));
        }
        let mut served = 0;
        while let Some(piece) = queue.next() {
            served += 1;
            if self.0 == Oddity::GivesBack && served == 3 {
                queue.give_back(piece);
                return Err(Refusal::new(self.mechanism(), "not this one"));
            }
            match self.0 {
                Oddity::Panics if served == 5 => panic!("as the test wants it"),
                Oddity::Fails if served % 2 == 0 => {
                    queue.failed(&piece, &std::io::ErrorKind::Other.into());
                }
                _ => queue.done(&piece),
            }
        }
        Ok(())
    }

    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        ResidencyMap::unknown(range)
    }
}

#[test]
fn hints_that_fail_are_told_but_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", usize::try_from(LEN).unwrap());
    let file = sample.open();
    let prefetch = |prefetchers: Vec<Arc<dyn Prefetcher>>| {
        let _watchdog = Watchdog::over("a prefetch that fails");
        let platform = Platform {
            prefetchers,
            ..platform(Residency::None)
        };
        let loader = Loader::builder().platform(platform).build().unwrap();
        let ahead = loader.prefetch(&file, ..).unwrap();
        ahead.wait(Operation::new()).unwrap()
    };
    let odd = |oddity| -> Arc<dyn Prefetcher> { Arc::new(Odd(oddity)) };

    let outcome = prefetch(vec![odd(Oddity::Fails)]);
    assert_eq!((outcome.brought, outcome.failed), (LEN / 2, LEN / 2));

    let outcome = prefetch(vec![]);
    assert_eq!((outcome.brought, outcome.failed), (0, LEN));

    let outcome = prefetch(vec![odd(Oddity::Refuses)]);
    assert_eq!((outcome.brought, outcome.failed), (0, LEN));
    assert_eq!(outcome.fallbacks[0].reason, "not today");

    // The next mechanism goes on.
    let next: Arc<dyn Prefetcher> = Arc::new(NullPrefetcher::default());
    let outcome = prefetch(vec![odd(Oddity::Refuses), next]);
    assert_eq!((outcome.brought, outcome.failed), (LEN, 0));
    assert_eq!(outcome.fallbacks.len(), 1);

    // It goes on with the very piece that was given back.
    let next: Arc<dyn Prefetcher> = Arc::new(NullPrefetcher::default());
    let outcome = prefetch(vec![odd(Oddity::GivesBack), next]);
    assert_eq!((outcome.brought, outcome.failed), (LEN, 0));
    assert_eq!(outcome.fallbacks[0].reason, "not this one");

    // Four pieces came, one was lost; whoever waits is told all the same.
    let outcome = prefetch(vec![odd(Oddity::Panics)]);
    assert_eq!(outcome.brought, 4 * PIECE);
    assert_eq!(settled(&outcome), LEN, "{outcome:?}");
}

#[test]
fn nonsense_ranges_are_no_panic() {
    let scene = Scene::new("a prefetch of nonsense");
    scene.gate.open();
    let file = scene.sample.open();
    let backwards = Range { start: 10, end: 5 };
    let Platform {
        prefetchers,
        system,
        ..
    } = scene.loader.platform();
    for ranges in [
        vec![backwards.clone()],
        vec![backwards, 0..0, 0..10],
        vec![0..u64::MAX, 5..u64::MAX],
    ] {
        let ahead = loader_core::prefetch(prefetchers, system, &file, ranges.clone(), None);
        let outcome = ahead.wait(Operation::new()).unwrap();
        // The same bytes twice, at most.
        assert!(outcome.brought <= 2 * LEN, "{ranges:?}: {outcome:?}");
        drop(loader_core::prefetch(
            prefetchers,
            system,
            &file,
            ranges,
            None,
        ));
    }
    let outside = scene.loader.prefetch(&file, ..=LEN);
    assert!(
        matches!(outside, Err(Error::OutOfBounds { .. })),
        "{outside:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However a prefetch and reads interleave: no byte is both prefetched and read directly, all
    /// bytes are right, and every one of the prefetch is accounted for.
    #[test]
    fn no_byte_is_brought_in_twice(
        wanted in (0..LEN, 0..LEN),
        steps in prop::collection::vec((0_usize..6, 0..LEN, 0..LEN), 1..8),
    ) {
        let scene = Scene::new("reads over a live prefetch");
        let file = scene.sample.open();
        let wanted = wanted.0.min(wanted.1)..wanted.0.max(wanted.1);
        let ahead = scene.loader.prefetch(&file, wanted.clone()).unwrap();
        for (pieces, a, b) in steps {
            scene.gate.allow(pieces);
            // A part that the automatic strategy may read either way.
            let start = a.min(b);
            scene.read(&file, start..a.max(b).max((start + (1 << 20) + 1).min(LEN)));
        }
        scene.gate.open();
        let outcome = ahead.wait(Operation::new()).unwrap();
        prop_assert_eq!(settled(&outcome), wanted.end - wanted.start);
        let taken = scene.gate.taken();
        let brought: u64 = taken.iter().map(|piece| piece.end - piece.start).sum();
        prop_assert_eq!(outcome.brought, brought);
        for piece in &taken {
            for read in scene.direct.reads() {
                prop_assert!(!overlap(piece, &read), "{:?} of {:?} twice", read, piece);
            }
        }
    }
}

#[test]
fn forced_direct_reads_stay_direct_over_a_live_prefetch() {
    let scene = Scene::new("forced reads over a live prefetch");
    let file = scene.sample.open();
    let ahead = scene.loader.prefetch(&file, ..).unwrap();
    scene.gate.allow(2);
    scene.gate.wait_for(2);
    let platform = scene.loader.platform().clone();
    let forced = Loader::builder()
        .platform(platform)
        .strategy(Reading::Direct);
    let mut memory = vec![0; usize::try_from(LEN).unwrap()];
    let forced = forced.build().unwrap();
    forced
        .read_into(&file, .., &mut memory, Operation::new())
        .unwrap();
    assert!(memory == scene.sample.bytes());
    assert_eq!(scene.buffered.reads(), []);
    drop(ahead);
}
