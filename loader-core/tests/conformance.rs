//! The portable reader, and the backends for tests, pass the suites that everything else passes.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use loader_core::testing::{
    Fault, FaultyReader, GatedPrefetcher, NullPrefetcher, Residency, TestSystem, conformance,
};
use loader_core::{Mechanism, PositionalReader, Prefetcher, Reader, System};

fn check_reader(reader: impl Reader + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let reader: Arc<dyn Reader> = Arc::new(reader);
    conformance::reader(&reader, folder.path());
}

fn check_prefetcher(prefetcher: impl Prefetcher, system: TestSystem) {
    let folder = tempfile::tempdir().unwrap();
    let prefetcher: Arc<dyn Prefetcher> = Arc::new(prefetcher);
    let system: Arc<dyn System> = Arc::new(system);
    conformance::prefetcher(&prefetcher, &system, folder.path());
}

#[test]
fn the_portable_reader() {
    check_reader(PositionalReader::new());
}

#[test]
fn a_reader_that_completes_in_any_order() {
    let reader = FaultyReader::new(Mechanism::new("unordered"), 1).holding(8);
    check_reader(reader.on_workers(3));
}

#[test]
fn a_reader_that_is_interrupted_and_stops_short() {
    let reader = FaultyReader::new(Mechanism::new("faulty"), 2)
        .sometimes(0.1, Fault::Error(ErrorKind::Interrupted))
        .sometimes(0.1, Fault::Error(ErrorKind::WouldBlock))
        .sometimes(0.05, Fault::Delay(Duration::from_micros(100)))
        .sometimes(0.3, Fault::Short(511))
        .sometimes(0.3, Fault::Short(4096));
    check_reader(reader.holding(3));
}

#[test]
fn a_reader_that_serves_no_file() {
    check_reader(FaultyReader::new(Mechanism::DIRECT, 3).unsupported("the test wants it"));
}

#[test]
fn the_null_prefetcher() {
    for (piece_bytes, workers) in [(0, 1), (1000, 4), (64 << 10, 2)] {
        let prefetcher = NullPrefetcher {
            piece_bytes,
            workers,
        };
        check_prefetcher(prefetcher, TestSystem::new(Residency::Unknown));
    }
}

#[test]
fn a_prefetcher_with_little_memory() {
    let system = TestSystem::new(Residency::None).with_available_memory(1 << 20);
    check_prefetcher(NullPrefetcher::default(), system);
}

#[test]
fn the_gated_prefetcher_once_open() {
    let prefetcher = GatedPrefetcher::new(300_000);
    prefetcher.open();
    check_prefetcher(prefetcher, TestSystem::new(Residency::Unknown));
}

#[test]
#[should_panic = "expected its end"]
fn a_reader_that_makes_bytes_up_is_caught() {
    /// Fills what it cannot read with zeros.
    #[derive(Debug)]
    struct Padding;

    impl Reader for Padding {
        fn mechanism(&self) -> Mechanism {
            Mechanism::new("padding")
        }

        fn support(
            &self,
            _file: &loader_core::WeightFile,
        ) -> Result<loader_core::Support, loader_core::Refusal> {
            Ok(loader_core::Support::any())
        }

        fn run(&self, queue: &loader_core::Queue<'_>) -> Result<(), loader_core::Refusal> {
            while let Some(task) = queue.next() {
                let (file, offset, len) = (task.file().clone(), task.offset(), task.len());
                task.fill(self.mechanism(), |bytes| {
                    let there = file
                        .file()
                        .metadata()?
                        .len()
                        .saturating_sub(offset)
                        .min(len as u64);
                    let there = usize::try_from(there).unwrap();
                    file.read_exact_at(&mut bytes[..there], offset)
                        .map_err(std::io::Error::other)?;
                    Ok(len)
                });
            }
            Ok(())
        }
    }

    check_reader(Padding);
}

#[test]
fn folders_with_odd_names_serve() {
    let folder = tempfile::tempdir().unwrap();
    let odd: PathBuf = folder.path().join("spaces and \u{e4}\u{1F600}");
    std::fs::create_dir(&odd).unwrap();
    let reader: Arc<dyn Reader> = Arc::new(PositionalReader::new());
    conformance::reader(&reader, &odd);
}
