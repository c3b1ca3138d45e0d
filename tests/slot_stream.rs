//! Streams through slots of the caller's: parts in order, released in any order, stopped at any
//! moment, and nothing written to a slot that the caller has.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use loader_core::testing::{Fault, FaultyReader, Residency, Watchdog, platform};
use loader_core::{
    FilledSlot, LoadOptions, Platform, SlotStream, StreamItem, StreamSlot, WeightFile,
};
use proptest::prelude::*;
use weightloader::{Error, Loader, Mechanism};

/// Files with bytes that tell their places, and items in them.
struct Source {
    contents: Vec<Vec<u8>>,
    files: Vec<WeightFile>,
    items: Vec<StreamItem>,
    _directory: tempfile::TempDir,
}

impl Source {
    fn new(lens: &[usize], items: &[(usize, usize, usize)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content = |(seed, len): (usize, &usize)| {
            (0..*len)
                .map(|at| u8::try_from((at * 31 + at / 251 + seed * 7) % 251).unwrap())
                .collect::<Vec<_>>()
        };
        let contents: Vec<_> = lens.iter().enumerate().map(content).collect();
        let file = |(index, content): (usize, &Vec<u8>)| {
            let path = directory.path().join(index.to_string());
            std::fs::write(&path, content).unwrap();
            WeightFile::open(path).unwrap()
        };
        let files: Vec<_> = contents.iter().enumerate().map(file).collect();
        let item = |(file, start, len): &(usize, usize, usize)| {
            let file = file % lens.len();
            let start = start % (lens[file] + 1);
            let end = (start + len).min(lens[file]);
            StreamItem {
                file,
                range: start as u64..end as u64,
            }
        };
        Self {
            items: items.iter().map(item).collect(),
            contents,
            files,
            _directory: directory,
        }
    }

    fn item_bytes(&self, item: usize) -> &[u8] {
        let StreamItem { file, range } = &self.items[item];
        let place = |offset| usize::try_from(offset).unwrap();
        &self.contents[*file][place(range.start)..place(range.end)]
    }

    fn bytes(&self) -> u64 {
        self.items
            .iter()
            .map(|item| item.range.end - item.range.start)
            .sum()
    }
}

/// The memory of slots, each at some distance from a page.
struct Ring {
    memory: Vec<Vec<u8>>,
    starts: Vec<NonNull<u8>>,
    len: usize,
}

impl Ring {
    fn new(count: usize, len: usize, misaligned_by: usize) -> Self {
        let mut memory = vec![vec![0; len + 8192]; count];
        let start = |slot: &mut Vec<u8>| {
            let offset = slot.as_ptr().align_offset(4096) + misaligned_by;
            NonNull::from(&mut slot[offset..]).cast()
        };
        let starts = memory.iter_mut().map(start).collect();
        Self {
            memory,
            starts,
            len,
        }
    }

    fn slots(&self) -> Vec<StreamSlot> {
        let slot = |start: &NonNull<u8>| StreamSlot::new(*start, self.len, true);
        self.starts.iter().map(slot).collect()
    }

    fn bytes(&self, filled: &FilledSlot) -> &[u8] {
        // SAFETY: the part lies within the slot.
        let start = unsafe { self.starts[filled.slot].add(filled.slot_offset) };
        // SAFETY: as above, and the slot is the caller's between `next` and `release`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), filled.len) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Streams are dropped before their ring, so this finds memory that nobody writes to.
        self.memory.iter_mut().for_each(|slot| slot.fill(0xee));
    }
}

fn start(
    platform: &Platform,
    options: &LoadOptions,
    source: &Source,
    ring: &Ring,
) -> weightloader::Result<SlotStream> {
    // SAFETY: tests drop streams before rings, and read slots between `next` and `release` only.
    unsafe {
        SlotStream::start(
            platform,
            options,
            source.files.clone(),
            source.items.clone(),
            ring.slots(),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn parts_come_in_order_with_their_bytes_whatever_the_order_of_release(
        lens in prop::collection::vec(0_usize..3_000_000, 1..4),
        items in prop::collection::vec((0_usize..4, 0_usize..3_000_000, prop_oneof![
            1 => Just(0_usize),
            4 => 1_usize..10_000,
            2 => 100_000_usize..2_000_000,
        ]), 0..12),
        slots in 1_usize..5,
        slot_len in prop_oneof![Just(4096_usize), 4097_usize..20_000, Just(1 << 20)],
        misaligned_by in prop_oneof![3 => Just(0_usize), 1 => 0_usize..4096],
        own in any::<bool>(),
        held in 0_usize..4,
        newest_first in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let _watchdog = Watchdog::over("a stream through slots");
        let source = Source::new(&lens, &items);
        let ring = Ring::new(slots, slot_len, misaligned_by);
        let platform = if own {
            weightloader::platform().clone()
        } else {
            let faulty = |mechanism| FaultyReader::new(mechanism, seed)
                .sometimes(0.1, Fault::Short(3000))
                .sometimes(0.1, Fault::Error(std::io::ErrorKind::Interrupted))
                .holding(4);
            Platform {
                direct: Ok(Arc::new(faulty(Mechanism::DIRECT).on_workers(2))),
                buffered: Arc::new(faulty(Mechanism::BUFFERED)),
                ..platform(Residency::Random(seed))
            }
        };
        let loader = Loader::builder().chunk_bytes(100_000).build().unwrap();
        let stream = start(&platform, loader.options(), &source, &ring).unwrap();

        let wanted = source.items.iter().enumerate().filter(|(_, item)| !item.range.is_empty());
        let mut wanted = wanted.map(|(index, _)| index);
        let (mut item, mut at) = (wanted.next(), 0);
        let mut kept: Vec<(FilledSlot, Vec<u8>)> = Vec::new();
        while let Some(filled) = stream.next().unwrap() {
            prop_assert_eq!((Some(filled.item), filled.item_offset), (item, at as u64));
            let whole = source.item_bytes(filled.item);
            prop_assert!(filled.len > 0 && filled.slot_offset + filled.len <= slot_len);
            prop_assert!(ring.bytes(&filled) == &whole[at..at + filled.len]);
            at += filled.len;
            if at == whole.len() {
                (item, at) = (wanted.next(), 0);
            }
            kept.push((filled, ring.bytes(&filled).to_vec()));
            // Hold on to some, but leave at least one to the stream.
            while kept.len() > held.min(slots - 1) {
                let oldest = if newest_first { kept.len() - 1 } else { 0 };
                let (filled, bytes) = kept.remove(oldest);
                prop_assert!(ring.bytes(&filled) == bytes, "a slot changed while it was held");
                stream.release(filled.slot).unwrap();
                prop_assert!(stream.release(filled.slot).is_err(), "released twice");
            }
        }
        prop_assert_eq!(item, None);
        prop_assert!(stream.next().unwrap().is_none());
        prop_assert_eq!(stream.report().map(|report| report.bytes), Some(source.bytes()));
    }
}

#[test]
fn one_that_waits_for_a_slot_is_woken_by_release_elsewhere_and_by_cancellation() {
    let _watchdog = Watchdog::over("a stream without a free slot");
    let source = Source::new(&[100_000], &[(0, 0, 100_000)]);
    let ring = Ring::new(2, 8192, 0);
    let options = LoadOptions::default();
    let stream = start(weightloader::platform(), &options, &source, &ring).unwrap();
    let first = stream.next().unwrap().unwrap();
    let second = stream.next().unwrap().unwrap();
    let (has_third, told) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let wait_for_the_next_wait = || thread::sleep(Duration::from_millis(20));
            wait_for_the_next_wait();
            stream.release(second.slot).unwrap();
            told.into_iter().next();
            wait_for_the_next_wait();
            stream.cancel();
        });
        let third = stream.next().unwrap().unwrap();
        has_third.send(()).unwrap();
        assert_eq!((third.slot, third.item_offset), (second.slot, 16_384));
        assert!(matches!(stream.next(), Err(Error::Cancelled)));
    });
    assert!(matches!(stream.next(), Err(Error::Cancelled)));
    assert_eq!(stream.report().unwrap().bytes, 3 * 8192);
    stream.release(first.slot).unwrap();
}

#[test]
fn a_failed_read_is_told_with_its_offset() {
    let _watchdog = Watchdog::over("a stream with a failing read");
    let source = Source::new(&[2_000_000], &[(0, 0, 2_000_000)]);
    let ring = Ring::new(2, 1 << 20, 0);
    let reader = Arc::new(
        FaultyReader::new(Mechanism::BUFFERED, 0)
            .sometimes(1.0, Fault::Error(std::io::ErrorKind::PermissionDenied)),
    );
    let platform = Platform {
        buffered: reader.clone(),
        direct: Ok(reader),
        ..platform(Residency::None)
    };
    let stream = start(&platform, &LoadOptions::default(), &source, &ring).unwrap();
    assert!(matches!(stream.next(), Err(Error::Read { .. })));
    assert!(matches!(stream.next(), Err(Error::Cancelled)));
    assert_eq!(stream.report().unwrap().bytes, 0);
}

#[test]
fn nothing_is_written_after_a_stream_was_dropped() {
    let _watchdog = Watchdog::over("a dropped stream");
    let source = Source::new(&[5_000_000], &[(0, 0, 5_000_000)]);
    for taken in 0..4 {
        let mut ring = Ring::new(3, 1 << 20, 0);
        let options = LoadOptions::default();
        let stream = start(weightloader::platform(), &options, &source, &ring).unwrap();
        for _ in 0..taken.min(3) {
            stream.next().unwrap().unwrap();
        }
        drop(stream);
        for slot in &mut ring.memory {
            slot.fill(0xcc);
        }
        thread::sleep(Duration::from_millis(20));
        assert!(ring.memory.iter().flatten().all(|byte| *byte == 0xcc));
    }
}

#[test]
fn slots_that_make_no_sense_are_refused() {
    let source = Source::new(&[10], &[(0, 0, 10)]);
    let refused = |slots: Vec<StreamSlot>| {
        let (files, items) = (source.files.clone(), source.items.clone());
        let options = LoadOptions::default();
        // SAFETY: nothing starts, as the assertion says.
        let outcome =
            unsafe { SlotStream::start(weightloader::platform(), &options, files, items, slots) };
        assert!(matches!(
            outcome,
            Err(Error::InvalidOption {
                option: "slots",
                ..
            })
        ));
    };
    let mut memory = vec![0_u8; 20_000];
    let start = NonNull::from(&mut memory[..]).cast::<u8>();
    refused(Vec::new());
    refused(vec![StreamSlot::new(start, 4095, true)]);
    // SAFETY: it stays within the memory.
    let overlapping = unsafe { start.add(5000) };
    refused(vec![
        StreamSlot::new(overlapping, 8192, true),
        StreamSlot::new(start, 8192, true),
    ]);
}
