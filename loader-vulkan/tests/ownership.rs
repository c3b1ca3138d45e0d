//! Whose buffers are after an upload: those that were staged are handed over to the caller's family
//! of queues, others belong to whichever uses them first.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "they are const; clippy says otherwise for Windows"
)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod machine;
mod recorder;
mod weights;

use std::ops::Range;

use ash::vk;
use loader_core::testing::Watchdog;
use loader_core::{Error, Landing, Operation, Placement};
use loader_vulkan::{BufferSlice, VulkanUploader, VulkanUploaderBuilder, Way};
use machine::Machine;
use recorder::{Barrier, Recorded};
use weights::Weights;

/// The caller's family; uploaders use the first one.
const THEIRS: u32 = 1;

/// One file of several slots, one of no bytes, and one of a few. All of each is wanted.
fn weights() -> Weights {
    let tensors = [vec![(0, 1_000_000), (0, 17)], vec![], vec![(0, 100)]];
    Weights::new(&tensors, Placement::File)
}

fn builder(way: Way) -> VulkanUploaderBuilder {
    let builder = VulkanUploader::builder().way(way).ring(3, 64 << 10);
    builder.release_to(THEIRS)
}

/// What a barrier hands over: all that it says but how that was and will be accessed.
#[derive(Debug, PartialEq)]
struct HandOver {
    families: (u32, u32),
    buffer: vk::Buffer,
    range: Range<u64>,
}

impl From<&vk::BufferMemoryBarrier<'_>> for HandOver {
    fn from(barrier: &vk::BufferMemoryBarrier<'_>) -> Self {
        assert!(barrier.p_next.is_null());
        Self {
            families: (
                barrier.src_queue_family_index,
                barrier.dst_queue_family_index,
            ),
            buffer: barrier.buffer,
            range: barrier.offset..barrier.offset + barrier.size,
        }
    }
}

/// What is to be handed over: each part that has bytes, once.
fn all_of(machine: &Machine, slices: &[BufferSlice]) -> Vec<HandOver> {
    let with_bytes = slices.iter().filter(|slice| slice.len > 0);
    with_bytes
        .map(|slice| HandOver {
            families: (machine.family, THEIRS),
            buffer: slice.buffer,
            range: slice.offset..slice.offset + slice.len,
        })
        .collect()
}

/// What was copied into a buffer, in as few ranges as there can be.
fn written(recorded: &[Recorded], wanted: vk::Buffer) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for recorded in recorded {
        match recorded {
            Recorded::Copies { buffer, written } if *buffer == wanted => {
                ranges.extend(written.iter().cloned());
            }
            _ => {}
        }
    }
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// The one barrier of an upload, which must be all of its last submission.
fn release(recorded: &[Recorded], uploader: &VulkanUploader) -> Barrier {
    let [
        earlier @ ..,
        Recorded::Barrier(barrier),
        Recorded::Submission { commands, signals },
    ] = recorded
    else {
        panic!("the last submission is not a barrier: {recorded:?}");
    };
    assert_eq!(*commands, [barrier.commands]);
    let ready = uploader.ready().unwrap();
    assert_eq!(*signals, [(ready.semaphore, ready.value)]);
    for earlier in earlier {
        assert!(!matches!(earlier, Recorded::Barrier(_)), "{earlier:?}");
    }
    barrier.clone()
}

/// Checks that an upload released all of its buffers, and that what it says of acquiring them is
/// the other half of that.
fn check_handed_over(machine: &Machine, uploader: &VulkanUploader, recorded: &[Recorded]) {
    let release = release(recorded, uploader);
    assert_eq!(release.before, vk::PipelineStageFlags::TRANSFER);
    assert_eq!(release.after, vk::PipelineStageFlags::BOTTOM_OF_PIPE);
    assert_eq!(release.dependencies, vk::DependencyFlags::empty());
    assert_eq!(release.others, 0);
    for barrier in &release.buffers {
        assert_eq!(barrier.src_access_mask, vk::AccessFlags::TRANSFER_WRITE);
        assert_eq!(barrier.dst_access_mask, vk::AccessFlags::empty());
    }
    let released: Vec<_> = release.buffers.iter().map(HandOver::from).collect();
    assert_eq!(released, all_of(machine, uploader.buffers()));

    let acquire = uploader.acquire_barriers();
    for barrier in &acquire {
        assert_eq!(barrier.src_access_mask, vk::AccessFlags::empty());
        assert_eq!(barrier.dst_access_mask, vk::AccessFlags::MEMORY_READ);
    }
    let acquired: Vec<_> = acquire.iter().map(HandOver::from).collect();
    assert_eq!(acquired, released);
}

#[test]
fn staged_buffers_are_handed_over_after_the_last_copy() {
    let _watchdog = Watchdog::over("uploads for another queue family");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    for waits in [true, false] {
        let mut builder = builder(Way::Staged);
        if !waits {
            builder = builder.without_waiting();
        }
        let mut uploader = builder.build_on(recorder::share(&machine)).unwrap();
        // The second upload has new buffers, and the slots and commands of the first.
        for _ in 0..2 {
            weights.upload(&mut uploader, Operation::new()).unwrap();
            let recorded = recorder::take();
            check_handed_over(&machine, &uploader, &recorded);
            for (slice, len) in uploader.buffers().iter().zip(weights.lens()) {
                assert_eq!(slice.len, len as u64);
                let all = (len > 0).then_some(0..slice.len);
                assert_eq!(written(&recorded, slice.buffer), Vec::from_iter(all));
            }
        }
    }
    machine.assert_clean();
}

#[test]
fn parts_of_the_callers_buffers_are_handed_over_and_nothing_beside_them() {
    let _watchdog = Watchdog::over("uploads into parts for another queue family");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    let lens: Vec<u64> = weights.lens().iter().map(|len| *len as u64).collect();
    // Two parts of one buffer, the second longer than is wanted.
    let (gap, more) = (4096, 500);
    let buffer = machine.buffer(gap + lens[0] + gap + lens[2] + more + gap);
    let slices = vec![
        BufferSlice::new(buffer.buffer, gap, lens[0]),
        BufferSlice::new(vk::Buffer::null(), 0, 0),
        BufferSlice::new(buffer.buffer, gap + lens[0] + gap, lens[2] + more),
    ];
    let given = slices.clone();
    // SAFETY: the buffer is of this device, holds the parts and outlives the uploader.
    let builder = unsafe { builder(Way::Staged).buffers(move |_| Ok(given.clone())) };
    let mut uploader = builder.build_on(recorder::share(&machine)).unwrap();
    weights.upload(&mut uploader, Operation::new()).unwrap();
    let recorded = recorder::take();
    check_handed_over(&machine, &uploader, &recorded);
    let wanted = [0, 2].map(|index| {
        let start = slices[index].offset;
        start..start + lens[index]
    });
    assert_eq!(written(&recorded, buffer.buffer), wanted);
    machine.assert_clean();
}

#[test]
fn buffers_that_no_queue_has_used_are_not_handed_over() {
    let _watchdog = Watchdog::over("uploads without copies for another queue family");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    let mut ways = vec![(Way::InPlace, Landing::InPlace)];
    if machine.imports {
        ways.push((Way::Import, Landing::Import));
    }
    for (way, landing) in ways {
        let shared = recorder::share(&machine);
        let mut uploader = builder(way).build_on(shared).unwrap();
        let report = weights.upload(&mut uploader, Operation::new()).unwrap();
        assert_eq!(report.landing, Some(landing));
        check_kept(&uploader);
        // They are there for whichever family uses them first.
        let read = |slice| machine.read(slice, None);
        let found: Vec<_> = uploader.buffers().iter().map(read).collect();
        weights.check(&found);
    }
    machine.assert_clean();
}

#[test]
fn mapped_buffers_stay_with_the_family_that_owns_them() {
    let _watchdog = Watchdog::over("an upload into mapped buffers for another queue family");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = Weights::new(&[vec![(0, 100_000)]], Placement::File);
    let len = weights.lens()[0] as u64;
    let (unmapped, mapped) = (machine.buffer(len), machine.buffer(len));
    let first = BufferSlice::new(unmapped.buffer, 0, len);
    let slice = BufferSlice::new(mapped.buffer, 0, len);
    // SAFETY: the buffer is mapped, and outlives the uploader.
    let slice = unsafe { slice.mapped(mapped.start, true) };
    // The caller's queue owns it before the upload, and does after.
    machine.read(&slice, None);
    let mut given = vec![slice, first];
    let give = move |_: &[usize]| Ok(Vec::from_iter(given.pop()));
    // SAFETY: the buffers are of this device and outlive the uploader.
    let builder = unsafe { builder(Way::Auto).buffers(give) };
    let mut uploader = builder.build_on(recorder::share(&machine)).unwrap();
    // What an upload before it was staged through is there still.
    weights.upload(&mut uploader, Operation::new()).unwrap();
    check_handed_over(&machine, &uploader, &recorder::take());
    let report = weights.upload(&mut uploader, Operation::new()).unwrap();
    assert_eq!(report.landing, Some(Landing::InPlace));
    check_kept(&uploader);
    weights.check(&[machine.read(&slice, None)]);
    machine.assert_clean();
}

/// Checks that the device was given nothing to do, and the caller nothing to wait for or acquire.
fn check_kept(uploader: &VulkanUploader) {
    let recorded = recorder::take();
    assert!(recorded.is_empty(), "{recorded:?}");
    assert_eq!(uploader.ready(), None);
    assert!(uploader.acquire_barriers().is_empty());
}

#[test]
fn nothing_is_handed_over_to_ones_own_family() {
    let _watchdog = Watchdog::over("an upload for the uploader's own queue family");
    let Some(machine) = Machine::open() else {
        return;
    };
    let builder = builder(Way::Staged).release_to(machine.family);
    let mut uploader = builder.build_on(recorder::share(&machine)).unwrap();
    weights().upload(&mut uploader, Operation::new()).unwrap();
    let recorded = recorder::take();
    let barrier = |recorded: &Recorded| matches!(recorded, Recorded::Barrier(_));
    assert!(!recorded.is_empty());
    assert!(!recorded.iter().any(barrier), "{recorded:?}");
    assert!(uploader.acquire_barriers().is_empty());
    machine.assert_clean();
}

#[test]
fn a_family_that_is_not_there_is_an_error() {
    let _watchdog = Watchdog::over("an uploader for a queue family that is not there");
    let Some(machine) = Machine::open() else {
        return;
    };
    let families = u32::try_from(machine.families().len()).unwrap();
    for family in [
        families,
        vk::QUEUE_FAMILY_EXTERNAL,
        vk::QUEUE_FAMILY_IGNORED,
    ] {
        let builder = VulkanUploader::builder().release_to(family);
        let error = builder.build_on(machine.share()).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(error.to_string().contains("release_to"), "{error}");
    }
    machine.assert_clean();
}
