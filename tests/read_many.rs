//! Many reads in one operation, each into memory of its own: the bytes are those of the files.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::{Arc, Mutex};

use loader_core::testing::{Residency, Sample, TestSystem, Watchdog};
use loader_core::{Platform, Queue, Reader, Support, WeightFile};
use proptest::prelude::*;
use weightloader::{
    Destination, Error, Loader, Mechanism, Operation, ReadRequest, Refusal, Strategy as Reading,
};

/// Memory that a request lands in, somewhere within a longer block of other bytes.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

const OTHER: u8 = 0xee;

impl Memory {
    fn new(len: usize, start: usize) -> Self {
        let bytes = vec![OTHER; start + len + 100];
        Self { bytes, start, len }
    }

    fn destination(&mut self) -> Destination<'_> {
        Destination::from(&mut self.bytes[self.start..self.start + self.len])
    }

    fn holds(&self, wanted: &[u8]) -> bool {
        let (before, rest) = self.bytes.split_at(self.start);
        let (inside, after) = rest.split_at(self.len);
        let untouched = |bytes: &[u8]| bytes.iter().all(|byte| *byte == OTHER);
        inside == wanted && untouched(before) && untouched(after)
    }
}

fn platform(told: Option<Residency>) -> Platform {
    let platform = weightloader::platform().clone();
    match told {
        None => platform,
        Some(residency) => Platform {
            system: Arc::new(TestSystem::new(residency)),
            ..platform
        },
    }
}

fn told() -> impl Strategy<Value = Option<Residency>> {
    prop_oneof![
        Just(None),
        Just(Some(Residency::None)),
        Just(Some(Residency::All)),
        (1_u64..40).prop_map(|pages| Some(Residency::Alternating(pages * 4096))),
    ]
}

#[test]
fn every_request_gets_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let lens = [3_000_000, 1_500_001, 10, 0];
    let names = ["a", "b", "c", "d"];
    let samples: Vec<_> = (0..lens.len())
        .map(|file| Sample::new(folder.path(), names[file], lens[file]))
        .collect();
    proptest!(ProptestConfig::with_cases(60), |(
        // Which file, how opened, where, how long, where in memory, said to be fresh or not.
        reads in prop::collection::vec(
            (0..lens.len(), 0..3_usize, any::<u32>(), 0..900_000_usize, 0..5000_usize, any::<bool>()),
            0..25,
        ),
        told in told(),
        chunk_bytes in (1_u64..300).prop_map(|pages| pages * 4096),
    )| {
        let _watchdog = Watchdog::over("many reads at once");
        let loader = Loader::builder()
            .platform(platform(told))
            .chunk_bytes(chunk_bytes)
            .build()
            .unwrap();
        let files: Vec<WeightFile> = samples.iter().map(Sample::open).collect();
        let mut memories = Vec::new();
        let mut places = Vec::new();
        for (file, opening, at, len, start, fresh) in &reads {
            let whole = samples[*file].bytes();
            let from = *at as usize % (whole.len() + 1);
            let len = (*len).min(whole.len() - from);
            let opened = match opening {
                0 => files[*file].clone(),
                // Through a slice of the same open file, or through another opening of it.
                1 => files[*file].slice(from as u64 / 2, whole.len() as u64 - from as u64 / 2).unwrap(),
                _ => samples[*file].open(),
            };
            memories.push(Memory::new(len, *start));
            places.push((opened, from, len, &whole[from..from + len], *fresh));
        }
        let requests = memories.iter_mut().zip(&places).map(|(memory, (file, from, len, _, fresh))| {
            let from = *from as u64 - file.base();
            let destination = match fresh {
                true => memory.destination().fresh(),
                false => memory.destination(),
            };
            ReadRequest::new(file, from..from + *len as u64, destination)
        });
        let report = loader.read_many(requests, Operation::new()).unwrap();
        for (memory, (file, from, _, wanted, _)) in memories.iter().zip(&places) {
            prop_assert!(memory.holds(wanted), "{} at {from}", file.path().display());
        }
        let asked: usize = places.iter().map(|(_, _, len, ..)| len).sum();
        prop_assert_eq!(report.bytes, asked as u64);
    });
}

/// Reads one chunk after the other and notes which.
#[derive(Debug, Default)]
struct Noting {
    offsets: Mutex<Vec<u64>>,
    files: Mutex<Vec<usize>>,
}

impl Reader for Noting {
    fn mechanism(&self) -> Mechanism {
        Mechanism::BUFFERED
    }

    fn support(&self, _: &WeightFile) -> Result<Support, Refusal> {
        Ok(Support::any())
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        self.files.lock().unwrap().push(queue.files().len());
        while let Some(task) = queue.next() {
            self.offsets.lock().unwrap().push(task.offset());
            let at_most = task.len();
            task.read(self.mechanism(), at_most);
        }
        Ok(())
    }
}

#[test]
fn requests_of_one_file_are_read_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "shared", 4 << 20);
    let file = sample.open();
    let noting = Arc::new(Noting::default());
    let loader = Loader::builder()
        .platform(Platform {
            buffered: Arc::clone(&noting) as _,
            ..Platform::portable()
        })
        .threads(1)
        .chunk_bytes(300_000)
        .build()
        .unwrap();
    let mut memory = vec![0; 4 << 20];
    let requests = memory.chunks_mut(1 << 20).enumerate().rev();
    let requests = requests.map(|(place, part)| {
        let start = (place as u64) << 20;
        ReadRequest::new(&file, start..start + (1 << 20), part)
    });
    loader.read_many(requests, Operation::new()).unwrap();
    assert!(memory == sample.bytes());
    assert!(noting.offsets.lock().unwrap().is_sorted());
    assert_eq!(*noting.files.lock().unwrap(), [1], "it is one file");
}

#[test]
fn one_bad_request_fails_all() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "bad", 5000);
    let file = sample.open();
    let loader = Loader::builder()
        .strategy(Reading::Buffered)
        .build()
        .unwrap();
    let (mut good, mut bad) = (vec![OTHER; 100], vec![OTHER; 100]);
    let mut read = |range| {
        let requests = [
            ReadRequest::new(&file, 0..100, &mut good),
            ReadRequest::new(&file, range, &mut bad),
        ];
        loader.read_many(requests, Operation::new())
    };
    assert!(matches!(
        read(0..99),
        Err(Error::Destination {
            expected: 99,
            actual: 100
        })
    ));
    assert!(matches!(read(4950..5050), Err(Error::OutOfBounds { .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let reversed = read(200..100);
    assert!(matches!(reversed, Err(Error::OutOfBounds { .. })));
    assert!(good.iter().all(|byte| *byte == OTHER), "nothing was read");
}
