//! The methods of an uploader out of their order: errors, and nothing that the device does touches
//! what may be gone or somebody else's.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod machine;
mod weights;

use std::fmt::Debug;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loader_core::testing::Watchdog;
use loader_core::{
    Error, HeapMemory, HostBuffer, Operation, Placement, Result, Slot, StagedPart, Uploader,
};
use loader_vulkan::{BufferSlice, VulkanUploader, Way};
use machine::Machine;
use weights::Weights;

const WAYS: [Way; 3] = [Way::Import, Way::InPlace, Way::Staged];
const SLOTS: usize = 2;
const SLOT_BYTES: usize = 8192;

fn uploader(machine: &Machine, way: Way) -> VulkanUploader {
    let builder = VulkanUploader::builder().way(way);
    let builder = builder.ring(SLOTS, SLOT_BYTES).without_waiting();
    builder.build_on(machine.share()).unwrap()
}

/// An uploader between `prepare` and `finish`, with room for the bytes of all its slots.
fn under_way(machine: &Machine, way: Way) -> VulkanUploader {
    let mut uploader = uploader(machine, way);
    prepare(&mut uploader);
    uploader
}

fn prepare(uploader: &mut VulkanUploader) {
    let landing = uploader.prepare(&[SLOTS * SLOT_BYTES], &HeapMemory);
    landing.unwrap();
}

/// What a slot becomes: all of a buffer's part with its number.
fn part(index: usize) -> StagedPart {
    StagedPart {
        buffer: 0,
        offset: index * SLOT_BYTES,
        slot_offset: 0,
        len: SLOT_BYTES,
    }
}

#[track_caller]
fn check_refused(outcome: Result<impl Debug>, named: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Upload { .. }), "{error}");
    assert!(error.to_string().contains(named), "{error}");
}

/// Checks that nothing is done outside an upload.
#[track_caller]
fn check_over(uploader: &mut VulkanUploader) {
    let none = "no upload is under way";
    check_refused(uploader.destinations(), none);
    check_refused(uploader.acquire(false), none);
    check_refused(uploader.import(Vec::new()), none);
    check_refused(uploader.finish(), none);
}

#[test]
fn nothing_is_done_outside_an_upload() {
    let _watchdog = Watchdog::over("methods of an uploader outside an upload");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = Weights::new(&[vec![(0, 100_000)]], Placement::File);
    for way in WAYS {
        let mut uploader = uploader(&machine, way);
        check_over(&mut uploader);
        weights.upload(&mut uploader, Operation::new()).unwrap();
        check_over(&mut uploader);
        prepare(&mut uploader);
        uploader.abort();
        check_over(&mut uploader);
    }
    machine.assert_clean();
}

#[test]
fn buffers_of_the_caller_are_not_touched_after_the_upload() {
    let _watchdog = Watchdog::over("buffers that went after an upload");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = Weights::new(&[vec![(0, 100_000)]], Placement::File);
    let len = weights.lens()[0] as u64;
    for mapped in [true, false] {
        let buffer = machine.buffer(len);
        let slice = BufferSlice::new(buffer.buffer, 0, len);
        let slice = match mapped {
            // SAFETY: the buffer is mapped, and lives as long as the upload.
            true => unsafe { slice.mapped(buffer.start, true) },
            false => slice,
        };
        let builder = VulkanUploader::builder().ring(SLOTS, SLOT_BYTES);
        // SAFETY: the buffer is of this device, holds the part and lives as long as the upload.
        let builder = unsafe { builder.buffers(move |_| Ok(vec![slice])) };
        let mut uploader = builder.build_on(machine.share()).unwrap();
        weights.upload(&mut uploader, Operation::new()).unwrap();
        drop(buffer);
        check_over(&mut uploader);
        // SAFETY: dangling, but nobody writes to it.
        let slot = unsafe { Slot::new(0, NonNull::dangling(), SLOT_BYTES, false) };
        check_refused(uploader.submit(slot, &[part(0)]), "no upload is under way");
    }
    machine.assert_clean();
}

#[test]
fn what_is_of_another_way_is_refused() {
    let _watchdog = Watchdog::over("methods of other ways");
    let Some(machine) = Machine::open() else {
        return;
    };
    for way in WAYS {
        let mut uploader = under_way(&machine, way);
        let going = format!("this one goes {way:?}");
        if way != Way::Import {
            let buffer = HostBuffer::zeroed(&HeapMemory, SLOT_BYTES).unwrap();
            check_refused(uploader.import(vec![buffer]), &going);
        }
        if way != Way::InPlace {
            check_refused(uploader.destinations(), &going);
        }
        if way != Way::Staged {
            check_refused(uploader.acquire(false), &going);
        }
        uploader.finish().unwrap();
    }
    machine.assert_clean();
}

#[test]
fn slots_that_are_not_lent_out_are_refused() {
    let _watchdog = Watchdog::over("slots that are not lent out");
    let Some(machine) = Machine::open() else {
        return;
    };
    let mut another = under_way(&machine, Way::Staged);
    let mut uploader = under_way(&machine, Way::Staged);
    let refused = |uploader: &mut VulkanUploader, slot: Slot| {
        check_refused(uploader.submit(slot, &[part(0)]), "not lent out");
    };
    // A copy of what a slot is called, of which nobody uses the memory.
    let named = |id| {
        // SAFETY: dangling, but nobody writes to it.
        unsafe { Slot::new(id, NonNull::dangling(), SLOT_BYTES, false) }
    };
    refused(&mut uploader, named(usize::MAX));

    let of_another = another.acquire(false).unwrap().unwrap();
    let slot = uploader.acquire(false).unwrap().unwrap();
    refused(&mut uploader, of_another);

    // What is being copied is not recorded again, whether the device has done with it or not.
    let gate = machine.gate();
    let id = slot.id();
    uploader.submit(slot, &[part(0)]).unwrap();
    refused(&mut uploader, named(id));
    gate.open();
    uploader.wait().unwrap();
    refused(&mut uploader, named(id));

    // What was lent for an upload that is over is another one's by now.
    let stale = uploader.acquire(false).unwrap().unwrap();
    prepare(&mut uploader);
    let lent: Vec<Slot> = (0..SLOTS)
        .map(|_| uploader.acquire(false).unwrap().unwrap())
        .collect();
    refused(&mut uploader, stale);
    for (index, slot) in lent.into_iter().enumerate() {
        uploader.submit(slot, &[part(index)]).unwrap();
    }
    uploader.finish().unwrap();
    uploader.wait().unwrap();
    drop(gate);
    machine.assert_clean();
}

#[test]
fn slots_that_are_lent_out_are_not_lent_again() {
    let _watchdog = Watchdog::over("waits while slots are lent out");
    let Some(machine) = Machine::open() else {
        return;
    };
    let mut uploader = under_way(&machine, Way::Staged);
    let first = uploader.acquire(false).unwrap().unwrap();
    let second = uploader.acquire(false).unwrap().unwrap();
    uploader.wait().unwrap();
    assert!(uploader.acquire(false).unwrap().is_none());
    uploader.submit(first, &[part(0)]).unwrap();
    uploader.wait().unwrap();
    assert!(uploader.acquire(false).unwrap().is_some());
    assert!(uploader.acquire(false).unwrap().is_none());

    // They come back for the next upload.
    prepare(&mut uploader);
    for _ in 0..SLOTS {
        assert!(uploader.acquire(false).unwrap().is_some());
    }
    check_refused(uploader.submit(second, &[part(1)]), "not lent out");
    machine.assert_clean();
}

#[test]
fn parts_of_no_bytes_are_not_copied_and_those_outside_are_errors() {
    let _watchdog = Watchdog::over("parts of no bytes and outside");
    let Some(machine) = Machine::open() else {
        return;
    };
    let mut uploader = under_way(&machine, Way::Staged);
    let nothing = StagedPart { len: 0, ..part(0) };
    let beyond = StagedPart {
        offset: SLOTS * SLOT_BYTES - 1,
        ..part(0)
    };
    let slot = uploader.acquire(false).unwrap().unwrap();
    check_refused(uploader.submit(slot, &[beyond]), "outside its buffer");
    let slot = uploader.acquire(false).unwrap().unwrap();
    uploader.submit(slot, &[nothing, part(0)]).unwrap();
    uploader.finish().unwrap();
    uploader.wait().unwrap();
    machine.assert_clean();
}

#[test]
fn the_queue_is_at_rest_before_its_semaphore_goes() {
    let _watchdog = Watchdog::over("an uploader that goes after copies");
    let Some(machine) = Machine::open() else {
        return;
    };
    if !machine.is_program() {
        println!("skipped: only a device that is a program is waited for");
        return;
    }
    let weights = Weights::new(&[vec![(100, 30_000)]], Placement::File);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let panics = Arc::new(AtomicBool::new(false));
    let panicking = Arc::clone(&panics);
    let shared = machine.share().queue_lock(move |submit| {
        counted.fetch_add(1, Ordering::Relaxed);
        submit();
        if panicking.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("from the lock"));
        }
    });
    let builder = VulkanUploader::builder().way(Way::Staged);
    let mut uploader = builder.build_on(shared).unwrap();
    weights.upload(&mut uploader, Operation::new()).unwrap();
    let submitted = calls.load(Ordering::Relaxed);
    // Which is no business of whoever drops an uploader.
    panics.store(true, Ordering::Relaxed);
    drop(uploader);
    assert_eq!(calls.load(Ordering::Relaxed), submitted + 1);
    machine.assert_clean();
}
