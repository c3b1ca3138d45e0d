//! Checkpoints to uploaders of each kind: host memory that is imported, memory that is filled in
//! place, and staging slots that a device copies from at its own pace.

#![cfg(feature = "safetensors")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod checkpoints;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use checkpoints::Written;
use loader_core::testing::{Fault, FaultyReader, Residency, Watchdog, platform};
use loader_core::{HostMemory, Landing, Platform, Slot, StagedPart};
use proptest::prelude::*;
use weightloader::{
    CancelToken, Destination, Error, HostUploader, Loader, Mechanism, Operation, Placement, Result,
    Uploaded, Uploader,
};

/// Checks that every tensor is where it was said to be placed.
fn check(written: &Written, uploaded: &Uploaded, buffers: &[&[u8]]) {
    assert_eq!(uploaded.placements.len(), written.tensors.len());
    for (placement, (name, bytes)) in uploaded.placements.iter().zip(&written.tensors) {
        assert_eq!(placement.tensor, *name);
        assert_eq!(placement.len, bytes.len(), "{name}");
        let place = placement.offset..placement.offset + placement.len;
        let found = &buffers[placement.buffer][place];
        assert!(bytes.is_empty() || found == bytes, "{name}");
    }
}

fn failed<T>(message: &str) -> Result<T> {
    Err(Error::Upload {
        uploader: "test",
        message: message.to_owned(),
    })
}

/// An uploader whose own memory is filled in place.
#[derive(Debug)]
struct InPlace {
    memory: Vec<Vec<u8>>,
    direct: bool,
    finished: usize,
}

impl Uploader for InPlace {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn prepare(&mut self, lens: &[usize], _memory: &dyn HostMemory) -> Result<Landing> {
        self.memory = lens.iter().map(|len| vec![0; *len]).collect();
        Ok(Landing::InPlace)
    }

    fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
        let destination = |memory: &'_ mut Vec<u8>| {
            let (start, len) = (NonNull::from(memory.as_mut_slice()).cast(), memory.len());
            // SAFETY: the memory is borrowed exclusively for as long as the destination lives.
            unsafe { Destination::from_raw(start, len, self.direct) }
        };
        Ok(self.memory.iter_mut().map(destination).collect())
    }

    fn finish(&mut self) -> Result<()> {
        self.finished += 1;
        Ok(())
    }
}

/// A device that copies from staging slots at its own pace: what is submitted is done only when a
/// slot is needed again, in any order.
#[derive(Debug)]
struct Device {
    slot_bytes: usize,
    slots: Vec<Vec<u8>>,
    /// Slots that nobody uses.
    free: Vec<usize>,
    /// Slots that the loader fills.
    lent: Vec<usize>,
    submitted: VecDeque<(usize, Vec<StagedPart>)>,
    buffers: Vec<Vec<u8>>,
    direct: bool,
    fails_after: Option<usize>,
    submits: usize,
    finished: usize,
    aborted: usize,
    copy_alignment: usize,
    max_buffer_len: usize,
}

impl Device {
    fn new(slot_bytes: usize, slots: usize, shift: usize) -> Self {
        Self {
            slot_bytes,
            slots: vec![vec![0; slot_bytes + shift]; slots],
            free: (0..slots).collect(),
            lent: Vec::new(),
            submitted: VecDeque::new(),
            buffers: Vec::new(),
            direct: shift % 2 == 0,
            fails_after: None,
            submits: 0,
            finished: 0,
            aborted: 0,
            copy_alignment: 1,
            max_buffer_len: usize::MAX,
        }
    }

    fn complete(&mut self, index: usize) {
        let Some((slot, parts)) = self.submitted.remove(index) else {
            return;
        };
        let memory = &mut self.slots[slot];
        let shift = memory.len() - self.slot_bytes;
        for part in parts {
            let bytes = &memory[shift..][part.slot_offset..part.slot_offset + part.len];
            self.buffers[part.buffer][part.offset..part.offset + part.len].copy_from_slice(bytes);
        }
        // Whoever wrote before the slot was acquired again would be noticed.
        memory.fill(0xEE);
        self.free.push(slot);
    }

    fn buffers(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Vec::as_slice).collect()
    }
}

impl Uploader for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn max_buffer_len(&self) -> usize {
        self.max_buffer_len
    }

    fn prepare(&mut self, lens: &[usize], _memory: &dyn HostMemory) -> Result<Landing> {
        assert!(lens.iter().all(|len| *len <= self.max_buffer_len));
        let room = |len: &usize| len.next_multiple_of(self.copy_alignment);
        self.buffers = lens.iter().map(|len| vec![0; room(len)]).collect();
        Ok(Landing::Staged {
            slot_bytes: self.slot_bytes,
            copy_alignment: self.copy_alignment,
        })
    }

    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        assert!(!wait || !self.submitted.is_empty(), "waits for nothing");
        if self.free.is_empty() && (wait || self.submits % 3 == 0) {
            // The last in the queue first.
            self.complete(self.submitted.len().saturating_sub(1));
        }
        let Some(slot) = self.free.pop() else {
            return Ok(None);
        };
        self.lent.push(slot);
        let memory = &mut self.slots[slot];
        let shift = memory.len() - self.slot_bytes;
        let start = NonNull::from(&mut memory[shift..]).cast();
        // SAFETY: the slot is the loader's until it is submitted; the vector is never resized.
        Ok(Some(unsafe {
            Slot::new(slot, start, self.slot_bytes, self.direct)
        }))
    }

    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        self.submits += 1;
        if self.fails_after.is_some_and(|after| self.submits > after) {
            return failed("the device is gone");
        }
        let lent = self.lent.iter().position(|lent| *lent == slot.id());
        self.lent
            .swap_remove(lent.expect("a slot that was not lent"));
        for part in parts {
            assert!(part.slot_offset + part.len <= self.slot_bytes, "{part:?}");
            assert!(
                part.offset + part.len <= self.buffers[part.buffer].len(),
                "{part:?}"
            );
            let aligned = [part.offset, part.slot_offset, part.len];
            assert!(
                aligned.iter().all(|at| at % self.copy_alignment == 0),
                "{part:?}"
            );
        }
        self.submitted.push_back((slot.id(), parts.to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        while !self.submitted.is_empty() {
            self.complete(0);
        }
        self.finished += 1;
        Ok(())
    }

    fn abort(&mut self) {
        self.submitted.clear();
        self.aborted += 1;
    }
}

fn platforms(seed: u64) -> [Platform; 2] {
    let faulty = |mechanism| {
        FaultyReader::new(mechanism, seed)
            .sometimes(0.1, Fault::Short(3000))
            .sometimes(0.1, Fault::Error(std::io::ErrorKind::Interrupted))
            .holding(4)
    };
    let faulty = Platform {
        direct: Ok(Arc::new(faulty(Mechanism::DIRECT).on_workers(2))),
        buffered: Arc::new(faulty(Mechanism::BUFFERED)),
        ..platform(Residency::Random(seed))
    };
    [weightloader::platform().clone(), faulty]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_tensor_arrives(
        shards in prop::collection::vec(prop::collection::vec(prop_oneof![
            1 => Just(0_usize),
            4 => 1_usize..9000,
            2 => 100_000_usize..900_000,
        ], 1..8), 1..4),
        which in 0_usize..2,
        seed in any::<u64>(),
        chunk_bytes in 4096_u64..200_000,
        slot_bytes in prop_oneof![Just(8192_usize), 8192_usize..100_000, Just(1 << 20)],
        slots in 1_usize..6,
        shift in prop_oneof![Just(0_usize), 0_usize..5000],
        copy_alignment in prop_oneof![Just(1_usize), Just(4_usize), Just(4096_usize)],
        aligned in prop_oneof![Just(None), Just(Some(4096_usize)), Just(Some(1 << 14))],
        most in prop_oneof![Just(usize::MAX), 950_000_usize..3_000_000],
    ) {
        let _watchdog = Watchdog::over("an upload");
        let written = match shards.as_slice() {
            [only] => Written::single(only),
            several => Written::sharded(several),
        };
        let [own, faulty] = platforms(seed);
        let platform = if which == 0 { own } else { faulty };
        let placement = aligned.map_or(Placement::File, Placement::Aligned);
        let loader = Loader::builder().platform(platform).chunk_bytes(chunk_bytes);
        let loader = loader.placement(placement).build().unwrap();
        let checkpoint = loader.open(&written.path).unwrap();

        let mut host = HostUploader::new();
        let uploaded = loader.upload(&checkpoint, &mut host, Operation::new()).unwrap();
        let buffers = host.into_buffers();
        let buffers: Vec<&[u8]> = buffers.iter().map(|buffer| &**buffer).collect();
        check(&written, &uploaded, &buffers);

        let mut place = InPlace { memory: Vec::new(), direct: shift % 2 == 0, finished: 0 };
        let uploaded = loader.upload(&checkpoint, &mut place, Operation::new()).unwrap();
        let buffers: Vec<&[u8]> = place.memory.iter().map(Vec::as_slice).collect();
        check(&written, &uploaded, &buffers);
        prop_assert_eq!(place.finished, 1);

        let mut device = Device::new(slot_bytes, slots, shift);
        device.copy_alignment = copy_alignment;
        device.max_buffer_len = most;
        let mut told = Vec::new();
        let operation = Operation::new().on_progress(|progress| told.push(progress));
        let uploaded = loader.upload(&checkpoint, &mut device, operation).unwrap();
        check(&written, &uploaded, &device.buffers());
        prop_assert_eq!((device.finished, device.lent.len()), (1, 0));
        let last = told.last().unwrap();
        prop_assert_eq!(last.bytes, last.total);
        prop_assert!(uploaded.report.bytes >= written.bytes());
    }
}

/// What happens to an upload of 3 MB through three slots.
fn upload(
    device: &mut Device,
    builder: weightloader::LoaderBuilder,
    operation: Operation<'_>,
) -> Result<Uploaded> {
    let written = Written::single(&[1_000_000; 3]);
    let loader = builder.chunk_bytes(16 << 10).build().unwrap();
    let checkpoint = loader.open(&written.path).unwrap();
    loader.upload(&checkpoint, device, operation)
}

#[test]
fn a_device_that_fails_ends_the_upload() {
    let _watchdog = Watchdog::over("an upload to a device that fails");
    for after in [0, 1, 10] {
        let mut device = Device::new(64 << 10, 3, 0);
        device.fails_after = Some(after);
        match upload(&mut device, Loader::builder(), Operation::new()) {
            Err(Error::Upload { message, .. }) => assert_eq!(message, "the device is gone"),
            other => panic!("expected a failed upload, got {other:?}"),
        }
        let ends = (device.submits, device.finished, device.aborted);
        assert_eq!(ends, (after + 1, 0, 1));
    }
}

#[test]
fn a_device_without_slots_is_an_error() {
    let _watchdog = Watchdog::over("an upload without slots");
    let mut device = Device::new(64 << 10, 0, 0);
    let outcome = upload(&mut device, Loader::builder(), Operation::new());
    assert!(matches!(outcome, Err(Error::Upload { .. })), "{outcome:?}");
    for too_small in [0, 1, 4096, 8191] {
        let mut device = Device::new(too_small, 3, 0);
        let outcome = upload(&mut device, Loader::builder(), Operation::new());
        assert!(matches!(outcome, Err(Error::Upload { .. })), "{outcome:?}");
    }
}

#[test]
fn a_failed_read_ends_the_upload_and_slots_are_left_alone_afterwards() {
    let _watchdog = Watchdog::over("an upload whose read fails");
    let failing = |mechanism| {
        let reader = FaultyReader::new(mechanism, 0).holding(5);
        Arc::new(reader.always_at(1_500_000, Fault::OsError(5)))
    };
    let platform = Platform {
        direct: Ok(failing(Mechanism::DIRECT)),
        buffered: failing(Mechanism::BUFFERED),
        ..platform(Residency::Alternating(64 << 10))
    };
    let mut device = Device::new(64 << 10, 3, 0);
    let builder = Loader::builder().platform(platform);
    let outcome = upload(&mut device, builder, Operation::new());
    assert!(matches!(outcome, Err(Error::Read { .. })), "{outcome:?}");
    check_slots_rest(&device);
    assert_eq!((device.finished, device.aborted), (0, 1));
}

#[test]
fn a_cancelled_upload_leaves_slots_alone_afterwards() {
    let _watchdog = Watchdog::over("a cancelled upload");
    for after in [0, 500_000, 2_000_000] {
        let mut device = Device::new(64 << 10, 3, 0);
        let token = CancelToken::new();
        let operation = Operation::new().cancel(&token).on_progress(|progress| {
            if progress.bytes >= after {
                token.cancel();
            }
        });
        match upload(&mut device, Loader::builder(), operation) {
            Err(Error::Cancelled) => assert_eq!((device.finished, device.aborted), (0, 1)),
            Ok(_) => assert_eq!((device.finished, device.aborted), (1, 0)),
            Err(error) => panic!("{error}"),
        }
        check_slots_rest(&device);
    }
}

#[test]
fn a_panic_in_a_callback_leaves_slots_alone_afterwards() {
    let _watchdog = Watchdog::over("a panic during an upload");
    let mut device = Device::new(64 << 10, 3, 0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let operation = Operation::new().on_progress(|_| panic!("from the callback"));
        upload(&mut device, Loader::builder(), operation)
    }));
    assert!(outcome.is_err());
    check_slots_rest(&device);
    assert_eq!((device.finished, device.aborted), (0, 1));
}

fn check_slots_rest(device: &Device) {
    let before = device.slots.clone();
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert!(device.slots == before, "bytes came late");
}

#[test]
fn contradictions_are_errors() {
    /// Says one thing and does another.
    #[derive(Debug)]
    struct Contradictory(InPlace);

    impl Uploader for Contradictory {
        fn name(&self) -> &'static str {
            "contradictory"
        }

        fn prepare(&mut self, lens: &[usize], memory: &dyn HostMemory) -> Result<Landing> {
            self.0.prepare(lens, memory)?;
            // The memory of one buffer too few, or too short.
            match self.0.memory.len() {
                1 => self.0.memory[0].truncate(10),
                _ => self.0.memory.truncate(1),
            }
            Ok(Landing::InPlace)
        }

        fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
            self.0.destinations()
        }

        fn finish(&mut self) -> Result<()> {
            self.0.finish()
        }
    }

    let loader = Loader::new().unwrap();
    for shards in [vec![vec![5000]], vec![vec![5000], vec![6000]]] {
        let written = Written::sharded(&shards);
        let checkpoint = loader.open(&written.path).unwrap();
        let mut uploader = Contradictory(InPlace {
            memory: Vec::new(),
            direct: true,
            finished: 0,
        });
        let outcome = loader.upload(&checkpoint, &mut uploader, Operation::new());
        assert!(
            matches!(
                outcome,
                Err(Error::Upload { .. } | Error::Destination { .. })
            ),
            "{outcome:?}"
        );
        assert_eq!(uploader.0.finished, 0);
    }
}
