//! Weights arrive in device buffers as they are in the file, whichever way they go: read back by
//! the device and compared with what was written.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod machine;
mod weights;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use loader_core::testing::Watchdog;
use loader_core::{Error, Landing, Operation, Placement};
use loader_vulkan::{BufferSlice, VulkanUploader, Way};
use machine::Machine;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use weights::Weights;

const WAYS: [Way; 4] = [Way::Auto, Way::Import, Way::InPlace, Way::Staged];

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        source_file: Some(file!()),
        ..Config::with_cases(cases)
    })
}

/// Files with ranges of each that are wanted.
fn files() -> impl Strategy<Value = Vec<Vec<(usize, usize)>>> {
    let gap = prop_oneof![3 => Just(0_usize), 2 => 1_usize..9000, 1 => 70_000_usize..200_000];
    let len = prop_oneof![1 => Just(0_usize), 4 => 1_usize..9000, 2 => 100_000_usize..900_000];
    prop::collection::vec(prop::collection::vec((gap, len), 0..8), 1..4)
}

fn placement() -> impl Strategy<Value = Placement> {
    prop_oneof![
        Just(Placement::File),
        (0_u32..14).prop_map(|power| Placement::Aligned(1 << power)),
    ]
}

#[test]
fn every_byte_arrives_in_buffers_of_the_uploader() {
    let _watchdog = Watchdog::over("uploads to a Vulkan device");
    let Some(machine) = Machine::open() else {
        return;
    };
    let strategy = (
        files(),
        placement(),
        0..WAYS.len(),
        1_usize..6,
        prop_oneof![2_usize..20, Just(256)],
        any::<bool>(),
    );
    let outcome = runner(80).run(
        &strategy,
        |(files, placement, way, slots, blocks, waits)| {
            let weights = Weights::new(&files, placement);
            let builder = VulkanUploader::builder()
                .way(WAYS[way])
                .ring(slots, blocks * 4096);
            let builder = if waits {
                builder
            } else {
                builder.without_waiting()
            };
            let mut uploader = builder.build_on(machine.share()).unwrap();
            // The second upload uses the ring of the first.
            for _ in 0..2 {
                let report = weights.upload(&mut uploader, Operation::new()).unwrap();
                let staged = matches!(report.landing, Some(Landing::Staged { .. }));
                prop_assert_eq!(staged && WAYS[way] != Way::Auto, WAYS[way] == Way::Staged);
                let ready = uploader.ready().map(|ready| (ready.semaphore, ready.value));
                prop_assert_eq!(ready.is_some(), staged);
                let after = ready.filter(|(_, value)| *value > 0 && !waits);
                let read = |slice: &BufferSlice| machine.read(slice, after);
                let found: Vec<_> = uploader.buffers().iter().map(read).collect();
                weights.check(&found);
            }
            let buffers = uploader.into_buffers().unwrap();
            let lens: Vec<usize> = buffers.iter().map(|buffer| buffer.len()).collect();
            prop_assert_eq!(lens, weights.lens());
            machine.assert_clean();
            Ok(())
        },
    );
    outcome.unwrap();
}

#[test]
fn every_byte_arrives_in_buffers_of_the_caller_and_nothing_beside() {
    let _watchdog = Watchdog::over("uploads into buffers of the caller");
    let Some(machine) = Machine::open() else {
        return;
    };
    let strategy = (
        files(),
        placement(),
        any::<bool>(),
        1_usize..6,
        2_usize..20,
        0_u64..10_000,
        0_u64..10_000,
    );
    let outcome = runner(60).run(
        &strategy,
        |(files, placement, mapped, slots, blocks, before, beyond)| {
            let weights = Weights::new(&files, placement);
            // One buffer holds all parts, apart from each other.
            let mut offset = 0;
            let mut parts = Vec::new();
            for len in weights.lens() {
                offset += before;
                parts.push((offset, len as u64));
                offset += len as u64 + beyond;
            }
            let buffer = machine.buffer(offset.max(1));
            buffer.fill(0xAB);
            let slices: Vec<BufferSlice> = parts
                .iter()
                .map(|&(offset, len)| {
                    let slice = BufferSlice::new(buffer.buffer, offset, len);
                    if !mapped {
                        return slice;
                    }
                    let at = usize::try_from(offset).unwrap();
                    // SAFETY: the part lies within the buffer's mapped memory.
                    let start = unsafe { buffer.start.add(at) };
                    // SAFETY: as above, and nobody else touches it.
                    unsafe { slice.mapped(start, true) }
                })
                .collect();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let told = Arc::clone(&asked);
            let builder = VulkanUploader::builder().ring(slots, blocks * 4096);
            // SAFETY: the buffer is of this device, holds the parts and outlives the uploader.
            let builder = unsafe {
                builder.buffers(move |lens: &[usize]| {
                    *told.lock().unwrap() = lens.to_vec();
                    Ok(slices.clone())
                })
            };
            let submissions = machine.submissions.load(Ordering::Relaxed);
            let mut uploader = builder.build_on(machine.share()).unwrap();
            let report = weights.upload(&mut uploader, Operation::new()).unwrap();
            let all_empty = weights.lens().iter().all(|len| *len == 0);
            let in_place = mapped || all_empty;
            prop_assert_eq!(report.landing == Some(Landing::InPlace), in_place);
            let submitted = machine.submissions.load(Ordering::Relaxed) > submissions;
            prop_assert_eq!(submitted, !in_place);
            prop_assert_eq!(&*asked.lock().unwrap(), &weights.lens());

            let found: Vec<_> = uploader
                .buffers()
                .iter()
                .map(|slice| machine.read(slice, None))
                .collect();
            weights.check(&found);
            let bytes = buffer.bytes();
            let inside = |at: u64| {
                parts
                    .iter()
                    .any(|(start, len)| (*start..start + len).contains(&at))
            };
            let touched = (0_u64..)
                .zip(bytes)
                .find(|(at, byte)| !inside(*at) && **byte != 0xAB);
            prop_assert_eq!(touched, None);
            prop_assert!(uploader.into_buffers().unwrap().is_empty());
            machine.assert_clean();
            Ok(())
        },
    );
    outcome.unwrap();
}

#[test]
fn a_device_of_its_own_serves() {
    let _watchdog = Watchdog::over("an upload to a device of its own");
    for way in WAYS {
        let mut uploader = match VulkanUploader::builder().way(way).build() {
            Ok(uploader) => uploader,
            Err(Error::Unsupported { reason, .. }) => {
                println!("skipped: {reason}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(!uploader.device_name().is_empty());
        let weights = Weights::new(&[vec![(100, 3_000_000), (0, 5)]], Placement::File);
        match weights.upload(&mut uploader, Operation::new()) {
            Ok(report) => assert_eq!(report.bytes, weights.bytes()),
            Err(Error::Unsupported { reason, .. }) if way != Way::Auto => {
                println!("skipped: {reason}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        // The buffers keep the device, and with it the library.
        let handles = uploader.handles();
        let buffers = uploader.into_buffers().unwrap();
        assert_eq!(buffers.len(), 1);
        assert!(buffers[0].handle() != ash::vk::Buffer::null());
        // SAFETY: the device is alive.
        unsafe { handles.device.device_wait_idle() }.unwrap();
    }
}

#[test]
fn what_is_not_enabled_is_not_used() {
    let _watchdog = Watchdog::over("uploads to a device with nothing enabled");
    let Some(machine) = Machine::open() else {
        return;
    };
    let bare = || {
        let (instance, device) = (machine.instance.clone(), machine.device.clone());
        let (physical_device, queue) = (machine.physical_device, machine.queue);
        // SAFETY: the handles belong together and outlive the uploaders.
        unsafe { loader_vulkan::SharedDevice::new(instance, physical_device, device, queue, 0) }
    };
    let weights = Weights::new(&[vec![(0, 100_000)]], Placement::File);
    for (way, reason) in [
        (Way::Import, "VK_EXT_external_memory_host"),
        (Way::Staged, "timeline semaphores"),
    ] {
        let mut uploader = VulkanUploader::builder().way(way).build_on(bare()).unwrap();
        let error = weights.upload(&mut uploader, Operation::new()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut uploader = VulkanUploader::builder().build_on(bare()).unwrap();
    let report = weights.upload(&mut uploader, Operation::new()).unwrap();
    assert_eq!(report.landing, Some(Landing::InPlace));
    assert!(
        !report.fallbacks.is_empty(),
        "better ways say why they do not serve"
    );
    machine.assert_clean();
}

#[test]
fn options_that_make_no_sense_are_errors() {
    for (slots, bytes) in [(0, 8192), (4097, 8192), (1, 4096), (1, 8193), (1, 0)] {
        let outcome = VulkanUploader::builder().ring(slots, bytes).build();
        assert!(
            matches!(outcome, Err(Error::InvalidOption { .. })),
            "{slots} slots of {bytes} bytes"
        );
    }
}

#[test]
fn buffers_that_do_not_suit_are_errors() {
    let _watchdog = Watchdog::over("uploads into buffers that do not suit");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = Weights::new(&[vec![(0, 50_000)]], Placement::File);
    let buffer = machine.buffer(100_000);
    let len = weights.lens()[0] as u64;
    let slice = |len| BufferSlice::new(buffer.buffer, 0, len);
    let given: [Result<Vec<BufferSlice>, String>; 4] = [
        Ok(vec![]),
        Ok(vec![slice(len), slice(len)]),
        Ok(vec![slice(len - 1)]),
        Err("there is none left".to_owned()),
    ];
    for given in given {
        let builder = VulkanUploader::builder();
        // SAFETY: the buffer is of this device and outlives the uploader.
        let builder = unsafe { builder.buffers(move |_| given.clone()) };
        let mut uploader = builder.build_on(machine.share()).unwrap();
        let error = weights.upload(&mut uploader, Operation::new()).unwrap_err();
        assert!(
            matches!(error, Error::Upload { .. } | Error::Destination { .. }),
            "{error}"
        );
    }
    machine.assert_clean();
}

#[test]
fn the_validation_layers_see_what_is_wrong() {
    let Some(machine) = Machine::open() else {
        return;
    };
    let nothing = ash::vk::BufferCreateInfo::default();
    // SAFETY: invalid only in that it asks for no bytes, which drivers survive.
    if let Ok(buffer) = unsafe { machine.device.create_buffer(&nothing, None) } {
        // SAFETY: it was made just now.
        unsafe { machine.device.destroy_buffer(buffer, None) };
    }
    assert_eq!(!machine.complaints().is_empty(), machine.is_watched());
}
