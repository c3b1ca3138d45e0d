//! Tests of the staging ring at its work: uploads to a pretended device that takes whole words and
//! copies at its own pace, on threads of its own.

use std::fs;
use std::ptr::NonNull;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use loader_core::testing::{Watchdog, bytes};
use loader_core::{
    CancelToken, Copier, Error, HostMemory, Landing, Layout, LoadOptions, Operation, Placement,
    Platform, Result, Slot, StagedPart, Uploader, WeightFile,
};
use proptest::prelude::*;

use crate::device_limits::{COPY_ALIGNMENT, Limits};
use crate::staging_ring::{Completion, Ring};

/// What one slot was filled with, and where that goes: a command buffer.
struct Command {
    slot: usize,
    copies: Vec<(StagedPart, Vec<u8>)>,
}

type Buffers = Arc<Mutex<Vec<Vec<u8>>>>;

#[derive(Debug)]
struct Pretended {
    limits: Limits,
    asked: usize,
    slots: Vec<Vec<u8>>,
    ring: Ring,
    buffers: Buffers,
    commands: Option<Sender<Command>>,
    engines: Vec<JoinHandle<()>>,
    fails_at: Option<usize>,
    finished: bool,
}

impl Pretended {
    fn new(slots: usize, asked: usize, fails_at: Option<usize>) -> Self {
        let limits = Limits {
            unified: false,
            max_buffer_bytes: 1 << 20,
            working_set_bytes: 0,
            allocated_bytes: 0,
            page_bytes: 4096,
        };
        Self {
            limits,
            asked,
            slots: vec![Vec::new(); slots],
            ring: Ring::new(slots),
            buffers: Buffers::default(),
            commands: None,
            engines: Vec::new(),
            fails_at,
            finished: false,
        }
    }

    /// Two engines, so that what was handed over first need not be done first.
    fn start(&mut self) {
        let (sender, commands) = mpsc::channel();
        self.commands = Some(sender);
        let commands = Arc::new(Mutex::new(commands));
        for _ in 0..2 {
            let (commands, buffers) = (Arc::clone(&commands), Arc::clone(&self.buffers));
            let (completions, fails_at) = (self.ring.completions(), self.fails_at);
            self.engines.push(thread::spawn(move || {
                run(&commands, &buffers, &completions, fails_at);
            }));
        }
    }

    fn stop(&mut self) {
        self.commands = None;
        for engine in self.engines.drain(..) {
            engine.join().unwrap();
        }
    }
}

fn run(
    commands: &Mutex<Receiver<Command>>,
    buffers: &Buffers,
    completions: &Sender<Completion>,
    fails_at: Option<usize>,
) {
    loop {
        let next = commands.lock().unwrap().recv();
        let Ok(Command { slot, copies }) = next else {
            return;
        };
        let mut failure = None;
        for (part, bytes) in copies {
            for place in [part.offset, part.slot_offset, part.len] {
                assert_eq!(place % COPY_ALIGNMENT, 0, "{part:?}");
            }
            if fails_at.is_some_and(|at| (part.offset..part.offset + part.len).contains(&at)) {
                failure = Some("the device is lost".to_owned());
                continue;
            }
            buffers.lock().unwrap()[part.buffer][part.offset..part.offset + part.len]
                .copy_from_slice(&bytes);
        }
        completions.send(Completion { slot, failure }).unwrap();
    }
}

impl Uploader for Pretended {
    fn name(&self) -> &'static str {
        "pretended"
    }

    fn max_buffer_len(&self) -> usize {
        self.limits.max_buffer_len()
    }

    fn prepare(&mut self, lens: &[usize], _memory: &dyn HostMemory) -> Result<Landing> {
        let whole = lens
            .iter()
            .map(|len| vec![0; Limits::buffer_len(*len).unwrap()]);
        *self.buffers.lock().unwrap() = whole.collect();
        let slot_bytes = self.limits.slot_bytes(self.asked);
        self.slots
            .iter_mut()
            .for_each(|slot| slot.resize(slot_bytes, 0));
        self.start();
        Ok(Landing::Staged {
            slot_bytes,
            copy_alignment: COPY_ALIGNMENT,
        })
    }

    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        let lent = self.ring.lend(wait).map_err(|message| Error::Upload {
            uploader: "pretended",
            message,
        })?;
        Ok(lent.map(|index| {
            let slot = &mut self.slots[index];
            // SAFETY: the slot is never resized from now on, and nobody's until it is submitted.
            unsafe { Slot::new(index, NonNull::from(&mut slot[..]).cast(), slot.len(), true) }
        }))
    }

    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        let index = slot.id();
        let memory = &self.slots[index];
        let copy = |part: &StagedPart| {
            let from = part.slot_offset..part.slot_offset + part.len;
            (*part, memory[from].to_vec())
        };
        let copies = parts.iter().map(copy).collect();
        self.ring.hand_over(index).unwrap();
        let command = Command {
            slot: index,
            copies,
        };
        self.commands.as_ref().unwrap().send(command).unwrap();
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let drained = self.ring.drain();
        self.stop();
        self.finished = drained.is_ok();
        drained.map_err(|message| Error::Upload {
            uploader: "pretended",
            message,
        })
    }

    fn abort(&mut self) {
        drop(self.ring.drain());
        self.stop();
    }
}

/// Uploads one file, of which `ranges` are wanted, and tells where they were to go.
fn upload(
    device: &mut Pretended,
    contents: &[u8],
    ranges: &[std::ops::Range<u64>],
    placement: Placement,
    operation: Operation<'_>,
) -> (Result<()>, Layout) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    fs::write(&path, contents).unwrap();
    let file = WeightFile::open(path).unwrap();
    let layout = Layout::new(ranges, 0..file.len(), placement).unwrap();
    let platform = Platform::portable();
    let options = LoadOptions::default();
    let copier = Copier::new(&platform, &options);
    let layouts = [layout];
    let done = loader_core::upload(&platform, &copier, &[file], &layouts, device, operation);
    let [layout] = layouts;
    (done.map(drop), layout)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_tensor_arrives_word_by_word(
        cuts in prop::collection::vec((0_u64..90_000, 0_u64..70_000), 1..8),
        aligned in prop::option::of(2_u32..9),
        slots in 1_usize..5,
        asked in 1_usize..40_000,
        seed: u64,
    ) {
        let _watchdog = Watchdog::over("an upload to a pretended device");
        let mut ranges = Vec::new();
        let mut end = 0;
        for (gap, len) in cuts {
            ranges.push(end + gap..end + gap + len);
            end += gap + len;
        }
        let contents = bytes(usize::try_from(end).unwrap() + 3, seed);
        let placement = aligned.map_or(Placement::File, |power| Placement::Aligned(1 << power));
        let mut device = Pretended::new(slots, asked, None);
        let operation = Operation::new();
        let (done, layout) = upload(&mut device, &contents, &ranges, placement, operation);
        done.unwrap();
        prop_assert!(device.finished);
        let buffers = device.buffers.lock().unwrap();
        for range in ranges {
            let place = |at: u64| usize::try_from(at).unwrap();
            let expected = &contents[place(range.start)..place(range.end)];
            let start = layout.locate(&range).unwrap();
            prop_assert!(buffers[0][start..start + expected.len()] == *expected);
        }
    }
}

#[test]
fn a_device_that_is_lost_fails_the_upload_and_comes_to_rest() {
    let _watchdog = Watchdog::over("an upload to a device that is lost");
    for at in [0, 100_000, 299_999] {
        let mut device = Pretended::new(2, 8192, Some(at));
        let contents = bytes(300_000, 1);
        let ranges: Vec<_> = std::iter::once(0..300_000).collect();
        let operation = Operation::new();
        let (done, _) = upload(&mut device, &contents, &ranges, Placement::File, operation);
        match done {
            Err(Error::Upload { message, .. }) => assert_eq!(message, "the device is lost"),
            other => panic!("expected a lost device, got {other:?}"),
        }
        assert!(!device.finished && device.engines.is_empty());
    }
}

#[test]
fn a_cancelled_upload_comes_to_rest() {
    let _watchdog = Watchdog::over("a cancelled upload");
    let mut device = Pretended::new(2, 8192, None);
    let contents = bytes(1 << 20, 1);
    let ranges: Vec<_> = std::iter::once(0..1 << 20).collect();
    let token = CancelToken::new();
    let operation = Operation::new()
        .on_progress(|progress| {
            if progress.bytes > 100_000 {
                token.cancel();
            }
        })
        .cancel(&token);
    let (done, _) = upload(&mut device, &contents, &ranges, Placement::File, operation);
    assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    assert!(!device.finished && device.engines.is_empty());
    // Every slot came back.
    for _ in 0..2 {
        assert!(device.ring.lend(false).unwrap().is_some());
    }
}
