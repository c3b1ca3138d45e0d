//! What every prefetcher has to do.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::testing::{Sample, Watchdog};
use crate::{
    CancelToken, Error, Operation, Prefetch, PrefetchOutcome, Prefetcher, System, WeightFile,
};

/// Runs everything that a prefetcher has to do on files in `folder`.
///
/// # Panics
/// Where the prefetcher falls short.
pub fn prefetcher(prefetcher: &Arc<dyn Prefetcher>, system: &Arc<dyn System>, folder: &Path) {
    let name = prefetcher.mechanism();
    let _watchdog = Watchdog::over(format!("the conformance suite of the prefetcher {name}"));
    let suite = Suite {
        prefetchers: [Arc::clone(prefetcher)],
        system,
        folder,
        name: format!("{name} as the prefetcher"),
    };
    suite.every_byte_is_accounted_for();
    suite.handles_may_go();
    suite.waiting_can_be_cancelled();
    suite.progress_is_told();
    suite.deleted_file();
    suite.truncated_file();
    suite.several_at_once();
    suite.residency_is_a_map();
}

struct Suite<'s> {
    prefetchers: [Arc<dyn Prefetcher>; 1],
    system: &'s Arc<dyn System>,
    folder: &'s Path,
    name: String,
}

const LEN: usize = (5 << 20) + 321;

impl Suite<'_> {
    fn start(&self, file: &WeightFile, ranges: Vec<Range<u64>>) -> Prefetch {
        crate::prefetch(&self.prefetchers, self.system, file, ranges, None)
    }

    fn start_whole(&self, file: &WeightFile) -> Prefetch {
        self.start(file, one(0..file.len()))
    }

    fn finish(&self, ahead: Prefetch, what: &str) -> PrefetchOutcome {
        let outcome = ahead.wait(Operation::new());
        outcome.unwrap_or_else(|error| panic!("{}: {what}: {error}", self.name))
    }

    /// Checks that what was brought in is what is in the file.
    fn check_bytes(&self, sample: &Sample, file: &WeightFile, what: &str) {
        let mut found = vec![0; sample.bytes().len()];
        let read = file.read_exact_at(&mut found, 0);
        read.unwrap_or_else(|error| panic!("{}: {what}: {error}", self.name));
        assert!(
            found == sample.bytes(),
            "{}: {what}: the bytes differ",
            self.name
        );
    }

    fn every_byte_is_accounted_for(&self) {
        let sample = Sample::new(self.folder, "prefetched", LEN);
        let file = sample.open();
        let len = file.len();
        for ranges in [
            one(0..len),
            vec![],
            vec![0..0, 5..5, len..len],
            one(1..2),
            vec![4095..4097, 100_000..100_001, len - 1..len],
            vec![0..3 << 20, 1 << 20..len],
            (0..len / 5000).map(|i| i * 5000..i * 5000 + 700).collect(),
        ] {
            let what = format!("{} ranges", ranges.len());
            let asked: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let outcome = self.finish(self.start(&file, ranges), &what);
            assert_eq!(
                settled(&outcome),
                asked,
                "{}: {what}: bytes accounted for in {outcome:?}",
                self.name
            );
            if !outcome.fallbacks.is_empty() {
                println!("skipped: {}", outcome.fallbacks[0]);
            }
            self.check_bytes(&sample, &file, &what);
        }
    }

    fn handles_may_go(&self) {
        type Leave = fn(Prefetch);
        for (what, leave) in [
            ("dropped", drop as Leave),
            ("cancelled", Prefetch::cancel),
            ("detached", Prefetch::detach),
            ("forgotten", std::mem::forget),
        ] {
            let sample = Sample::new(self.folder, what, LEN);
            let file = sample.open();
            leave(self.start_whole(&file));
            self.check_bytes(&sample, &file, what);
        }
    }

    fn waiting_can_be_cancelled(&self) {
        let sample = Sample::new(self.folder, "waited for", LEN);
        let file = sample.open();
        let token = CancelToken::new();
        token.cancel();
        let ahead = self.start_whole(&file);
        match ahead.wait(Operation::new().cancel(&token)) {
            Ok(outcome) => assert_eq!(settled(&outcome), file.len(), "{}", self.name),
            Err(Error::Cancelled) => {}
            Err(error) => panic!("{}: a cancelled wait: {error}", self.name),
        }
        self.check_bytes(&sample, &file, "a cancelled wait");
    }

    fn progress_is_told(&self) {
        let sample = Sample::new(self.folder, "told", LEN);
        let file = sample.open();
        let mut last = 0;
        let ahead = self.start_whole(&file);
        let name = &self.name;
        let operation = Operation::new().on_progress(|progress| {
            assert!(progress.bytes >= last, "{name}: progress goes back");
            assert_eq!(progress.total, LEN as u64, "{name}");
            last = progress.bytes;
        });
        let outcome = ahead.wait(operation);
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(last, LEN as u64, "{name}: the last progress told");
    }

    fn deleted_file(&self) {
        let sample = Sample::new(self.folder, "deleted", LEN);
        let file = sample.open();
        if let Err(error) = fs::remove_file(sample.path()) {
            println!("skipped: an open file cannot be deleted here: {error}");
            return;
        }
        let outcome = self.finish(self.start_whole(&file), "a deleted file");
        assert_eq!(settled(&outcome), file.len(), "{}: deleted", self.name);
        self.check_bytes(&sample, &file, "a deleted file");
    }

    fn truncated_file(&self) {
        let sample = Sample::new(self.folder, "truncated", LEN);
        let file = sample.open();
        if let Err(error) = sample.set_len(5000) {
            println!("skipped: an open file cannot be truncated here: {error}");
            return;
        }
        let outcome = self.finish(self.start_whole(&file), "a truncated file");
        assert_eq!(settled(&outcome), file.len(), "{}: truncated", self.name);
    }

    fn several_at_once(&self) {
        let samples: Vec<_> = (0..6)
            .map(|index| Sample::new(self.folder, &format!("ahead{index}"), 1_000_000 + index))
            .collect();
        let files: Vec<_> = samples.iter().map(Sample::open).collect();
        // Two for each file.
        let ahead: Vec<_> = files
            .iter()
            .chain(&files)
            .map(|file| self.start_whole(file))
            .collect();
        for (ahead, file) in ahead.into_iter().zip(files.iter().chain(&files)) {
            let outcome = self.finish(ahead, "several at once");
            assert_eq!(settled(&outcome), file.len(), "{}", self.name);
        }
        for (sample, file) in samples.iter().zip(&files) {
            self.check_bytes(sample, file, "several at once");
        }
    }

    fn residency_is_a_map(&self) {
        let sample = Sample::new(self.folder, "residency", LEN);
        let file = sample.open();
        self.check_bytes(&sample, &file, "a file read just now");
        let len = file.len();
        for (range, granularity) in [
            (0..len, 4096),
            (0..len, 1 << 20),
            (0..len, u64::MAX),
            (4097..len - 1, 1),
            (100..101, 4096),
            (7..7, 4096),
        ] {
            let map = self.prefetchers[0].residency(&file, range.clone(), granularity);
            let mut at = range.start;
            for run in map.runs() {
                assert_eq!(
                    run.range.start, at,
                    "{}: a gap in the residency of {range:?}",
                    self.name
                );
                let run_len = run.range.end - run.range.start;
                assert!(
                    run.resident.is_none_or(|resident| resident <= run_len),
                    "{}: more is resident than there is: {run:?}",
                    self.name
                );
                at = run.range.end;
            }
            assert_eq!(at, range.end, "{}: the residency of {range:?}", self.name);
        }
    }
}

fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

fn settled(outcome: &PrefetchOutcome) -> u64 {
    outcome.brought + outcome.skipped + outcome.cancelled + outcome.failed
}
