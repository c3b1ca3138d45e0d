//! What every reader has to do.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::testing::{Guarded, Sample, Watchdog};
use crate::{
    CancelToken, Copier, Destination, Error, Extent, Job, LoadOptions, Operation, Plan, Platform,
    Reader, Report, Result, Strategy, WeightFile,
};

/// Runs everything that a reader has to do on files in `folder`, in the place of the direct reader
/// as well as of the buffered one.
///
/// # Panics
/// Where the reader falls short.
pub fn reader(reader: &Arc<dyn Reader>, folder: &Path) {
    let name = reader.mechanism();
    let _watchdog = Watchdog::over(format!("the conformance suite of the reader {name}"));
    let probe = Sample::new(folder, "probe", 5 * BLOCK);
    if let Err(refusal) = reader.support(&probe.open()) {
        let suite = Suite::new(reader, folder, Seat::Direct);
        suite.refusal_is_told(&probe, &probe.open());
        println!("skipped: {refusal}");
        return;
    }
    for seat in [Seat::Direct, Seat::Buffered] {
        let suite = Suite::new(reader, folder, seat);
        suite.support_makes_sense(&probe);
        suite.any_length_anywhere();
        suite.any_chunk_length_and_depth();
        suite.many_small_extents();
        suite.many_files();
        suite.memory_that_refuses_direct();
        suite.holes();
        suite.deleted_file();
        suite.truncated_within_a_chunk();
        suite.truncated_among_chunks();
        suite.cancelled_before();
        suite.cancelled_midway();
        suite.operations_at_once();
    }
}

const BLOCK: usize = 4096;

/// In whose place the reader is tested.
#[derive(Clone, Copy, Debug)]
enum Seat {
    Direct,
    Buffered,
}

struct Suite<'s> {
    reader: &'s Arc<dyn Reader>,
    folder: &'s Path,
    seat: Seat,
    platform: Platform,
    name: String,
}

/// One read of a suite.
struct Case<'c> {
    what: String,
    file: &'c WeightFile,
    extents: Vec<Extent>,
    options: LoadOptions,
}

impl<'s> Suite<'s> {
    fn new(reader: &'s Arc<dyn Reader>, folder: &'s Path, seat: Seat) -> Self {
        let mut platform = Platform::portable();
        match seat {
            Seat::Direct => platform.direct = Ok(Arc::clone(reader)),
            Seat::Buffered => platform.buffered = Arc::clone(reader),
        }
        Self {
            reader,
            folder,
            seat,
            platform,
            name: format!("{} as the {seat:?} reader", reader.mechanism()),
        }
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            strategy: match self.seat {
                Seat::Direct => Strategy::Direct,
                Seat::Buffered => Strategy::Buffered,
            },
            ..LoadOptions::default()
        }
    }

    fn case<'c>(&self, what: &str, file: &'c WeightFile, extents: Vec<Extent>) -> Case<'c> {
        Case {
            what: format!("{}: {what}", self.name),
            file,
            extents,
            options: self.options(),
        }
    }

    fn run(
        &self,
        case: &Case<'_>,
        to: Destination<'_>,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let copier = Copier::new(&self.platform, &case.options);
        let job = Job {
            file: case.file.clone(),
            plan: copier.plan(&case.extents, to.len())?,
            destination: to,
        };
        copier.run(vec![job], operation)
    }

    /// Reads into guarded memory at an address `shift` bytes beyond a page.
    fn check(&self, sample: &Sample, case: &Case<'_>, shift: usize) {
        let mut memory = Guarded::new(&expected(sample, &case.extents), shift);
        let outcome = self.run(case, memory.uninitialised(), Operation::new());
        let report = outcome.unwrap_or_else(|error| panic!("{}: {error}", case.what));
        memory.check_complete(&case.what);
        let asked: u64 = case.extents.iter().map(|extent| extent.len).sum();
        assert_eq!(report.bytes, asked, "{}: bytes in the report", case.what);
        let chunks: u64 = report.chunks.values().sum();
        assert_eq!(
            chunks == 0,
            asked == 0,
            "{}: chunks in the report",
            case.what
        );
    }

    fn refusal_is_told(&self, sample: &Sample, file: &WeightFile) {
        let case = self.case("a file it refuses", file, vec![whole(file)]);
        let mut memory = Guarded::new(sample.bytes(), 0);
        let outcome = self.run(&case, memory.destination(), Operation::new());
        assert!(
            matches!(outcome, Err(Error::Unsupported { .. })),
            "{}: expected that it is unsupported, got {outcome:?}",
            case.what
        );
        assert_eq!(memory.check_partial(&case.what), 0, "{}", case.what);
    }

    fn support_makes_sense(&self, sample: &Sample) {
        let support = self.reader.support(&sample.open());
        let support = support.unwrap_or_else(|_| panic!("{}: support comes and goes", self.name));
        assert!(
            support.offset_alignment.is_power_of_two()
                && support.memory_alignment.is_power_of_two(),
            "{}: alignments must be powers of two: {support:?}",
            self.name
        );
    }

    fn any_length_anywhere(&self) {
        let sample = Sample::new(self.folder, "lengths", 9 * BLOCK + 77);
        let file = sample.open();
        let lens = [0, 1, 511, 512, 513].into_iter().chain(
            (1..=3).flat_map(|blocks| [blocks * BLOCK - 1, blocks * BLOCK, blocks * BLOCK + 1]),
        );
        for len in lens {
            // The last one is at the end of the file.
            for offset in [
                0,
                1,
                512,
                BLOCK - 1,
                BLOCK,
                BLOCK + 1,
                sample.bytes().len() - len,
            ] {
                // Congruent to the offset, aligned to a page, and odd.
                for shift in [offset % BLOCK, 0, 1] {
                    let what = format!("{len} bytes at {offset} to an address of {shift}");
                    let case = self.case(&what, &file, vec![extent(offset, len, 0)]);
                    self.check(&sample, &case, shift);
                }
            }
        }
    }

    fn any_chunk_length_and_depth(&self) {
        let sample = Sample::new(self.folder, "chunks", (3 << 20) + 4097);
        let file = sample.open();
        for (chunk_bytes, depth, threads) in [
            (4096, 1, 1),
            (5000, 3, 2),
            (65_536, 64, 4),
            (1 << 20, 2, 3),
            (1 << 24, 1, 16),
        ] {
            for shift in [0, 1] {
                let what = format!("chunks of {chunk_bytes}, depth {depth}, {threads} threads");
                let mut case = self.case(&what, &file, vec![whole(&file)]);
                case.options.chunk_bytes = Some(chunk_bytes);
                case.options.queue_depth = Some(depth);
                case.options.threads = Some(threads);
                self.check(&sample, &case, shift);
            }
        }
    }

    fn many_small_extents(&self) {
        let sample = Sample::new(self.folder, "extents", 3 << 20);
        let file = sample.open();
        let mut dice = fastrand::Rng::with_seed(1);
        let mut to = 0;
        let extents: Vec<_> = (0..500)
            .map(|_| {
                let len = dice.usize(0..5000);
                let offset = dice.usize(0..sample.bytes().len() - len);
                let extent = extent(offset, len, to);
                to += len;
                extent
            })
            .collect();
        let case = self.case("many small extents, also overlapping ones", &file, extents);
        self.check(&sample, &case, 0);
    }

    fn many_files(&self) {
        let options = self.options();
        let copier = Copier::new(&self.platform, &options);
        let samples: Vec<_> = (0..40)
            .map(|index| Sample::new(self.folder, &format!("file{index}"), index * 3001))
            .collect();
        let mut memories: Vec<_> = samples
            .iter()
            .enumerate()
            .map(|(index, sample)| Guarded::new(sample.bytes(), index))
            .collect();
        let jobs = samples.iter().zip(&mut memories).map(|(sample, memory)| {
            let file = sample.open();
            let destination = memory.uninitialised();
            let plan = Plan::new(&[whole(&file)], destination.len(), 1 << 16);
            Job {
                file,
                plan: plan.unwrap_or_else(|error| panic!("{error}")),
                destination,
            }
        });
        let outcome = copier.run(jobs.collect(), Operation::new());
        outcome.unwrap_or_else(|error| panic!("{}: many files: {error}", self.name));
        for (index, memory) in memories.iter().enumerate() {
            memory.check_complete(&format!("{}: file {index} of many", self.name));
        }
    }

    fn memory_that_refuses_direct(&self) {
        let sample = Sample::new(self.folder, "memory", (2 << 20) + 1);
        let file = sample.open();
        for shift in [0, 1] {
            let case = self.case("memory without direct I/O", &file, vec![whole(&file)]);
            let mut memory = Guarded::new(sample.bytes(), shift);
            let outcome = self.run(&case, memory.not_for_direct(), Operation::new());
            outcome.unwrap_or_else(|error| panic!("{}: {error}", case.what));
            memory.check_complete(&case.what);
        }
    }

    fn holes(&self) {
        let mut bytes = crate::testing::bytes(BLOCK + 1, 3);
        let sample = Sample::with_bytes(self.folder, "holes", bytes.clone());
        let len = (1 << 20) + 99;
        let grown = sample.set_len(len as u64);
        grown.unwrap_or_else(|error| panic!("{}: a hole: {error}", self.name));
        bytes.resize(len, 0);
        let file = sample.open();
        let case = self.case("a hole", &file, vec![whole(&file)]);
        let mut memory = Guarded::new(&bytes, 0);
        let outcome = self.run(&case, memory.destination(), Operation::new());
        outcome.unwrap_or_else(|error| panic!("{}: {error}", case.what));
        memory.check_complete(&case.what);
    }

    fn deleted_file(&self) {
        let sample = Sample::new(self.folder, "deleted", 100_001);
        let file = sample.open();
        if let Err(error) = fs::remove_file(sample.path()) {
            println!("skipped: an open file cannot be deleted here: {error}");
            return;
        }
        // One that opens files anew may not be able to.
        if let (Seat::Direct, Some(refusal)) = (self.seat, self.reader.support(&file).err()) {
            println!("skipped: {refusal}");
            return self.refusal_is_told(&sample, &file);
        }
        let case = self.case("a deleted file", &file, vec![whole(&file)]);
        self.check(&sample, &case, 0);
    }

    fn truncated_within_a_chunk(&self) {
        for (before, after) in [(50_000, 20_001), (50_000, 4096), (50_000, 0), (8192, 8191)] {
            let sample = Sample::new(self.folder, "truncated", before);
            let file = sample.open();
            let case = self.case("a truncated file", &file, vec![whole(&file)]);
            truncate(&sample, after);
            for shift in [0, 1] {
                let mut memory = Guarded::new(sample.bytes(), shift);
                let outcome = self.run(&case, memory.destination(), Operation::new());
                match outcome {
                    Err(Error::UnexpectedEof { path, offset, len }) => assert_eq!(
                        (path.as_path(), offset, len),
                        (sample.path(), after as u64, (before - after) as u64),
                        "{}: from {before} to {after} bytes",
                        case.what
                    ),
                    other => panic!("{}: expected its end, got {other:?}", case.what),
                }
                memory.check_partial(&case.what);
            }
        }
    }

    fn truncated_among_chunks(&self) {
        let (before, after) = (3 << 20, (2 << 20) - 100);
        let sample = Sample::new(self.folder, "truncated", before);
        let file = sample.open();
        let mut case = self.case("a file truncated by many chunks", &file, vec![whole(&file)]);
        case.options.chunk_bytes = Some(64 << 10);
        truncate(&sample, after);
        let mut memory = Guarded::new(sample.bytes(), 0);
        let outcome = self.run(&case, memory.destination(), Operation::new());
        match outcome {
            Err(Error::UnexpectedEof { path, offset, len }) => {
                assert_eq!(path, sample.path(), "{}", case.what);
                assert!(
                    offset >= after as u64 && offset + len <= before as u64,
                    "{}: nothing is missing in {len} bytes at {offset}",
                    case.what
                );
            }
            other => panic!("{}: expected its end, got {other:?}", case.what),
        }
        self.nothing_is_written_any_more(&memory, &case.what);
    }

    fn cancelled_before(&self) {
        for len in [1, 100_000, 4 << 20] {
            let sample = Sample::new(self.folder, "cancelled", len);
            let file = sample.open();
            let case = self.case("cancelled before it began", &file, vec![whole(&file)]);
            let token = CancelToken::new();
            token.cancel();
            let mut memory = Guarded::new(sample.bytes(), 0);
            let operation = Operation::new().cancel(&token);
            let outcome = self.run(&case, memory.destination(), operation);
            assert!(
                matches!(outcome, Err(Error::Cancelled)),
                "{}: {outcome:?}",
                case.what
            );
            assert_eq!(memory.check_partial(&case.what), 0, "{}", case.what);
        }
    }

    fn cancelled_midway(&self) {
        let sample = Sample::new(self.folder, "cancelled", 4 << 20);
        let file = sample.open();
        for depth in [1, 8] {
            let mut case = self.case("cancelled midway", &file, vec![whole(&file)]);
            case.options.chunk_bytes = Some(64 << 10);
            case.options.queue_depth = Some(depth);
            let token = CancelToken::new();
            let mut memory = Guarded::new(sample.bytes(), 1);
            let operation = Operation::new()
                .on_progress(|_| token.cancel())
                .cancel(&token);
            let outcome = self.run(&case, memory.destination(), operation);
            match outcome {
                Ok(_) => memory.check_complete(&case.what),
                Err(Error::Cancelled) => self.nothing_is_written_any_more(&memory, &case.what),
                Err(error) => panic!("{}: {error}", case.what),
            }
        }
    }

    fn operations_at_once(&self) {
        let sample = Sample::new(self.folder, "at once", (2 << 20) + 1);
        let file = sample.open();
        thread::scope(|scope| {
            for shift in 0..4 {
                let (sample, file) = (&sample, &file);
                scope.spawn(move || {
                    let mut case = self.case("four at once", file, vec![whole(file)]);
                    case.options.chunk_bytes = Some(100_000);
                    self.check(sample, &case, shift);
                });
            }
        });
    }

    fn nothing_is_written_any_more(&self, memory: &Guarded, what: &str) {
        memory.check_partial(what);
        let snapshot = memory.snapshot();
        thread::sleep(Duration::from_millis(20));
        assert!(
            memory.is_unchanged_since(&snapshot),
            "{what}: bytes were written after it was over"
        );
    }
}

fn extent(offset: usize, len: usize, destination: usize) -> Extent {
    Extent {
        offset: offset as u64,
        len: len as u64,
        destination,
    }
}

fn whole(file: &WeightFile) -> Extent {
    Extent {
        offset: 0,
        len: file.len(),
        destination: 0,
    }
}

fn truncate(sample: &Sample, len: usize) {
    let truncated = sample.set_len(len as u64);
    truncated.unwrap_or_else(|error| panic!("{}: {error}", sample.path().display()));
}

/// What memory holds when the extents, which follow one another there, have landed.
fn expected(sample: &Sample, extents: &[Extent]) -> Vec<u8> {
    let pieces = extents
        .iter()
        .map(|extent| sample.expected(&(extent.offset..extent.offset + extent.len)));
    pieces.collect::<Vec<_>>().concat()
}
