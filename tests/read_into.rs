//! Whatever is asked for, of whatever file, by whatever means: the bytes in memory are those that
//! `std::fs::read` gives, and nothing beside them is written.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::ErrorKind;
use std::sync::Arc;

use loader_core::testing::{Fault, FaultyReader, Residency, Sample, TestSystem, Watchdog};
use loader_core::{Extent, Platform, Reader};
use proptest::prelude::*;
use proptest::sample::Index;
use weightloader::{
    CachePolicy, Destination, Error, Loader, Mechanism, Operation, Report, Strategy as Reading,
    WeightFile,
};

/// Whose readers are used, and who tells what is resident.
#[derive(Clone, Copy, Debug)]
enum Machine {
    /// No direct reads, nothing known about residency.
    Portable,
    /// The system that this runs on.
    System,
    /// Its readers, but someone else tells what is resident.
    SystemTold(Residency),
    /// Readers that stop short, are interrupted, refuse, and complete in any order.
    Faulty(Residency, u64),
}

/// What of the file the page cache really holds beforehand.
#[derive(Clone, Copy, Debug)]
enum Warmth {
    Warm,
    Cold,
    /// Cold but for this part.
    Partly(Index),
}

#[derive(Clone, Debug)]
struct Options {
    machine: Machine,
    warmth: Warmth,
    strategy: Reading,
    cache: CachePolicy,
    chunk_bytes: u64,
    threads: usize,
    queue_depth: usize,
}

fn residency() -> impl Strategy<Value = Residency> {
    prop_oneof![
        Just(Residency::All),
        Just(Residency::None),
        Just(Residency::Unknown),
        (1_u64..300).prop_map(|pages| Residency::Alternating(pages * 4096)),
        any::<u64>().prop_map(Residency::Random),
    ]
}

fn machine() -> impl Strategy<Value = Machine> {
    prop_oneof![
        1 => Just(Machine::Portable),
        2 => Just(Machine::System),
        2 => residency().prop_map(Machine::SystemTold),
        3 => (residency(), any::<u64>()).prop_map(|(told, seed)| Machine::Faulty(told, seed)),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let warmth = prop_oneof![
        3 => Just(Warmth::Warm),
        1 => Just(Warmth::Cold),
        1 => any::<Index>().prop_map(Warmth::Partly),
    ];
    let strategy = prop_oneof![
        2 => Just(Reading::Auto),
        1 => Just(Reading::Direct),
        1 => Just(Reading::Buffered),
    ];
    let cache = prop_oneof![
        2 => Just(CachePolicy::Auto),
        1 => Just(CachePolicy::Keep),
        1 => Just(CachePolicy::Bypass),
    ];
    let chunk_bytes = prop_oneof![
        2 => Just(4096_u64),
        3 => 4096_u64..70_000,
        3 => (4_u64..64).prop_map(|pages| pages << 14),
        1 => Just(2 << 20),
    ];
    (
        machine(),
        warmth,
        strategy,
        cache,
        chunk_bytes,
        1_usize..20,
        1_usize..70,
    )
        .prop_map(
            |(machine, warmth, strategy, cache, chunk_bytes, threads, queue_depth)| Options {
                machine,
                warmth,
                strategy,
                cache: match (strategy, cache) {
                    // Refused: it would not keep.
                    (Reading::Direct, CachePolicy::Keep) => CachePolicy::Auto,
                    _ => cache,
                },
                chunk_bytes,
                threads,
                queue_depth,
            },
        )
}

/// Lengths of files: about blocks, about the length below which nobody asks around, and any.
fn file_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0_usize),
        3 => 1_usize..10_000,
        2 => (1_usize..20, 0_usize..3).prop_map(|(blocks, more)| blocks * 4096 + more - 1),
        2 => (0_usize..9).prop_map(|more| (1 << 20) + more - 4),
        4 => (1_usize << 20)..(4 << 20),
    ]
}

/// Part of a whole, by two indices; empty where they are equal, at the end where one is that.
fn part(len: u64, ends: &(Edge, Edge)) -> std::ops::Range<u64> {
    let place = |end: &Edge| match end {
        Edge::Start => 0,
        Edge::Somewhere(index) => index.index(usize::try_from(len).unwrap() + 1) as u64,
        Edge::End => len,
    };
    let (a, b) = (place(&ends.0), place(&ends.1));
    a.min(b)..a.max(b)
}

#[derive(Clone, Copy, Debug)]
enum Edge {
    Start,
    Somewhere(Index),
    End,
}

fn edge() -> impl Strategy<Value = Edge> {
    prop_oneof![
        1 => Just(Edge::Start),
        3 => any::<Index>().prop_map(Edge::Somewhere),
        1 => Just(Edge::End),
    ]
}

impl Options {
    fn platform(&self) -> Platform {
        let told = |residency| Arc::new(TestSystem::new(residency));
        match self.machine {
            Machine::Portable => Platform::portable(),
            Machine::System => weightloader::platform().clone(),
            Machine::SystemTold(residency) => Platform {
                system: told(residency),
                ..weightloader::platform().clone()
            },
            Machine::Faulty(residency, seed) => {
                let mut direct = faulty(Mechanism::DIRECT, seed).on_workers(2);
                if self.strategy == Reading::Auto {
                    direct = direct.sometimes(0.05, Fault::Refuse);
                }
                Platform {
                    direct: Ok(Arc::new(direct.holding(4))),
                    buffered: Arc::new(faulty(Mechanism::BUFFERED, !seed).holding(3)),
                    system: told(residency),
                    ..Platform::portable()
                }
            }
        }
    }

    fn loader(&self) -> Loader {
        Loader::builder()
            .platform(self.platform())
            .strategy(self.strategy)
            .cache(self.cache)
            .chunk_bytes(self.chunk_bytes)
            .threads(self.threads)
            .queue_depth(self.queue_depth)
            .build()
            .unwrap()
    }

    /// Brings the page cache into the state wished for, as far as the system lets itself be told.
    fn prepare(&self, sample: &Sample) {
        let file = sample.open();
        let system = &weightloader::platform().system;
        if !matches!(self.warmth, Warmth::Warm) && sample.sync().is_ok() {
            // A system without eviction leaves it warm.
            let _ = system.evict(&file, 0..file.len());
        }
        if let Warmth::Partly(index) = self.warmth {
            let half = index.index(sample.bytes().len() + 1) / 2;
            let mut bytes = vec![0; half];
            file.read_exact_at(&mut bytes, half as u64 / 2).unwrap();
        }
    }
}

fn faulty(mechanism: Mechanism, seed: u64) -> FaultyReader {
    FaultyReader::new(mechanism, seed)
        .sometimes(0.05, Fault::Error(ErrorKind::Interrupted))
        .sometimes(0.05, Fault::Error(ErrorKind::WouldBlock))
        .sometimes(0.05, Fault::Short(1))
        .sometimes(0.1, Fault::Short(4096))
        .sometimes(0.1, Fault::Short(5000))
}

/// Plain memory full of other bytes, in which extents land somewhere.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

const MARGIN: usize = 8192;

impl Memory {
    fn new(len: usize, shift: usize) -> Self {
        let bytes = loader_core::testing::bytes(len + 2 * MARGIN, 77);
        let start = bytes.as_ptr().align_offset(4096) + shift;
        Self { bytes, start, len }
    }

    fn destination(&mut self) -> Destination<'_> {
        Destination::from(&mut self.bytes[self.start..self.start + self.len])
    }
}

/// Reads and compares all memory with what it should be now.
fn check(
    options: &Options,
    sample: &Sample,
    file: &WeightFile,
    extents: &[Extent],
    mut memory: Memory,
) -> Result<(), TestCaseError> {
    let reference = std::fs::read(sample.path()).unwrap();
    let loader = options.loader();
    let mut wanted = memory.bytes.clone();
    for extent in extents {
        let from = usize::try_from(file.base() + extent.offset).unwrap();
        let len = usize::try_from(extent.len).unwrap();
        let to = memory.start + extent.destination;
        wanted[to..to + len].copy_from_slice(&reference[from..from + len]);
    }
    let before = memory.bytes.clone();
    options.prepare(sample);

    let asked: u64 = extents.iter().map(|extent| extent.len).sum();
    let mut progress = Vec::new();
    let operation = Operation::new().on_progress(|told| progress.push((told.bytes, told.total)));
    let outcome = loader.read_ranges_into(file, extents, memory.destination(), operation);

    if options.strategy == Reading::Direct && !serves(&loader, file) {
        prop_assert!(
            matches!(outcome, Err(Error::Unsupported { .. })),
            "{:?}",
            outcome
        );
        prop_assert!(memory.bytes == before, "something was written all the same");
        return Ok(());
    }
    let report = match outcome {
        Ok(report) => report,
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    if memory.bytes != wanted {
        let wrong = memory.bytes.iter().zip(&wanted).position(|(a, b)| a != b);
        let (wrong, start) = (wrong.unwrap(), memory.start);
        prop_assert!(
            false,
            "byte {wrong} is wrong, the destination begins at {start}"
        );
    }
    prop_assert!(
        progress.iter().all(|told| told.1 == asked),
        "{:?}",
        progress
    );
    prop_assert!(progress.is_sorted(), "{:?}", progress);
    prop_assert_eq!(progress.last(), Some(&(asked, asked)));
    check_report(options, &report, asked)
}

fn check_report(options: &Options, report: &Report, asked: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(report.bytes, asked);
    prop_assert_eq!(report.strategy, options.strategy);
    prop_assert_eq!(report.chunks.is_empty(), asked == 0);
    let direct = [Mechanism::DIRECT, Mechanism::DIRECT_BOUNCED];
    let forbidden: &[Mechanism] = match options.strategy {
        // A forced strategy is the only one.
        Reading::Direct => &[Mechanism::BUFFERED],
        Reading::Buffered => &direct,
        _ => &[],
    };
    for mechanism in forbidden {
        prop_assert!(!report.chunks.contains_key(mechanism), "{:?}", report);
    }
    Ok(())
}

fn serves(loader: &Loader, file: &WeightFile) -> bool {
    let direct = loader.platform().direct.as_ref();
    direct.is_ok_and(|reader: &Arc<dyn Reader>| reader.support(file).is_ok())
}

const CASES: u32 = 150;

#[test]
fn one_range() {
    let folder = tempfile::tempdir().unwrap();
    proptest!(ProptestConfig::with_cases(CASES), |(
        len in file_len(),
        slice in (edge(), edge()),
        range in (edge(), edge()),
        shift in 0_usize..4096,
        congruent in any::<bool>(),
        options in options(),
    )| {
        let _watchdog = Watchdog::over("reading one range");
        let sample = Sample::new(folder.path(), "one", len);
        let slice = part(len as u64, &slice);
        let file = sample.open().slice(slice.start, slice.end - slice.start).unwrap();
        let range = part(file.len(), &range);
        let shift = match congruent {
            true => usize::try_from((slice.start + range.start) % 4096).unwrap(),
            false => shift,
        };
        let memory = Memory::new(usize::try_from(range.end - range.start).unwrap(), shift);
        let extent = Extent { offset: range.start, len: range.end - range.start, destination: 0 };
        check(&options, &sample, &file, &[extent], memory)?;
    });
}

#[test]
fn many_ranges() {
    let folder = tempfile::tempdir().unwrap();
    proptest!(ProptestConfig::with_cases(CASES), |(
        len in file_len(),
        slice in (edge(), edge()),
        parts in prop::collection::vec((edge(), edge(), 0_usize..3000), 0..20),
        shuffled in any::<u64>(),
        shift in 0_usize..4096,
        options in options(),
    )| {
        let _watchdog = Watchdog::over("reading many ranges");
        let sample = Sample::new(folder.path(), "many", len);
        let slice = part(len as u64, &slice);
        let file = sample.open().slice(slice.start, slice.end - slice.start).unwrap();
        // One after the other in memory, with gaps; in the file wherever.
        let mut destination = 0;
        let mut extents: Vec<Extent> = parts
            .iter()
            .map(|(from, to, gap)| {
                let range = part(file.len(), &(*from, *to));
                // Long ranges are what `one_range` is for.
                let len = (range.end - range.start).min(300_000);
                let extent = Extent { offset: range.start, len, destination: destination + gap };
                destination = extent.destination + usize::try_from(len).unwrap();
                extent
            })
            .collect();
        let rotation = usize::try_from(shuffled % 20).unwrap() % extents.len().max(1);
        extents.rotate_left(rotation);
        check(&options, &sample, &file, &extents, Memory::new(destination, shift))?;
    });
}
