//! What becomes of an upload that is cancelled, whose reads fail, or whose device fails: an error
//! that says so, no hang, nothing left behind, and an uploader that works again.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "they are const; clippy says otherwise for Windows"
)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod machine;
mod weights;

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ash::vk;
use loader_core::testing::{Fault, FaultyReader, Residency, Watchdog, platform};
use loader_core::{CancelToken, Error, LoadOptions, Mechanism, Operation, Placement, Platform};
use loader_vulkan::{SharedDevice, VulkanUploader, Way};
use machine::Machine;
use weights::Weights;

const WAYS: [Way; 3] = [Way::Import, Way::InPlace, Way::Staged];

fn weights() -> Weights {
    let tensors = vec![(8, 1_000_000); 3];
    Weights::new(&[tensors.clone(), tensors], Placement::File)
}

fn uploader(machine: &Machine, way: Way) -> VulkanUploader {
    let builder = VulkanUploader::builder().way(way).ring(3, 64 << 10);
    builder.build_on(machine.share()).unwrap()
}

/// An uploader that stages, to a device whose queue is locked in a way of its own.
fn staging_uploader(shared: SharedDevice) -> VulkanUploader {
    let builder = VulkanUploader::builder().way(Way::Staged);
    builder.ring(3, 64 << 10).build_on(shared).unwrap()
}

/// Checks that an uploader serves after all that happened to it.
fn check_works(machine: &Machine, uploader: &mut VulkanUploader, weights: &Weights) {
    weights.upload(uploader, Operation::new()).unwrap();
    let read = |slice| machine.read(slice, None);
    let found: Vec<_> = uploader.buffers().iter().map(read).collect();
    weights.check(&found);
}

#[test]
fn a_cancelled_upload_leaves_nothing_behind() {
    let _watchdog = Watchdog::over("cancelled uploads to a Vulkan device");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    for way in WAYS {
        for after in [0, 500_000, 3_000_000] {
            let mut uploader = uploader(&machine, way);
            let token = CancelToken::new();
            let operation = Operation::new().cancel(&token).on_progress(|progress| {
                if progress.bytes >= after {
                    token.cancel();
                }
            });
            match weights.upload(&mut uploader, operation) {
                Err(Error::Cancelled) => assert!(uploader.buffers().is_empty()),
                // It may have been through already.
                Ok(_) => assert_eq!(uploader.buffers().len(), 2),
                Err(error) => panic!("{error}"),
            }
            check_works(&machine, &mut uploader, &weights);
        }
    }
    machine.assert_clean();
}

#[test]
fn a_failed_read_leaves_nothing_behind() {
    let _watchdog = Watchdog::over("uploads whose reads fail");
    let Some(machine) = Machine::open() else {
        return;
    };
    let failing = |mechanism| {
        let reader = FaultyReader::new(mechanism, 0).holding(3);
        Arc::new(reader.always_at(1_500_000, Fault::OsError(5)))
    };
    let failing = Platform {
        direct: Ok(failing(Mechanism::DIRECT)),
        buffered: failing(Mechanism::BUFFERED),
        ..platform(Residency::Alternating(64 << 10))
    };
    let (weights, options) = (weights(), LoadOptions::default());
    for way in WAYS {
        let mut uploader = uploader(&machine, way);
        let outcome = weights.upload_with(&failing, &options, &mut uploader, Operation::new());
        assert!(matches!(outcome, Err(Error::Read { .. })), "{outcome:?}");
        assert!(uploader.buffers().is_empty());
        check_works(&machine, &mut uploader, &weights);
    }
    machine.assert_clean();
}

/// A function of the driver's that fails from its n-th call on this thread on.
struct Failing {
    name: &'static CStr,
    replacement: *const c_void,
}

// An uploader calls its device on the thread that uploads, which is the test's.
thread_local! {
    /// The driver's own function.
    static ORIGINAL: Cell<vk::PFN_vkVoidFunction> = const { Cell::new(None) };
    /// How many calls still succeed.
    static SUCCEEDING: Cell<usize> = const { Cell::new(usize::MAX) };
    static FAILURE: Cell<vk::Result> = const { Cell::new(vk::Result::ERROR_DEVICE_LOST) };
}

/// Whether this call is one that fails, and how.
fn fails() -> Option<vk::Result> {
    SUCCEEDING.with(|left| match left.get() {
        0 => Some(FAILURE.get()),
        more => {
            left.set(more - 1);
            None
        }
    })
}

/// Whether a call that fails does nothing, or what it should, though it says otherwise: a device
/// that is lost has done with everything, while the driver under the test goes on.
#[derive(PartialEq)]
enum Failure {
    DoesNothing,
    IsDone,
}

/// Makes a module with a replacement for a function that answers with a `vk::Result`.
macro_rules! failing {
    ($module:ident, $name:literal, $type:ty, $failure:expr, ($($argument:ident: $of:ty),*)) => {
        mod $module {
            use super::*;

            unsafe extern "system" fn replacement($($argument: $of),*) -> vk::Result {
                let failure = fails();
                if let Some(failure) = failure.filter(|_| $failure == Failure::DoesNothing) {
                    return failure;
                }
                let original = ORIGINAL.get().unwrap();
                // SAFETY: the driver gave this address for the function of this type.
                let original: $type = unsafe { std::mem::transmute(original) };
                // SAFETY: the caller's promises.
                let outcome = unsafe { original($($argument),*) };
                failure.unwrap_or(outcome)
            }

            pub(super) fn function() -> Failing {
                let replacement: $type = replacement;
                Failing {
                    name: $name,
                    replacement: replacement as *const c_void,
                }
            }
        }
    };
}

failing!(allocate_memory, c"vkAllocateMemory", vk::PFN_vkAllocateMemory, Failure::DoesNothing, (
    device: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    memory: *mut vk::DeviceMemory
));
failing!(map_memory, c"vkMapMemory", vk::PFN_vkMapMemory, Failure::DoesNothing, (
    device: vk::Device,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize,
    size: vk::DeviceSize,
    flags: vk::MemoryMapFlags,
    data: *mut *mut c_void
));
failing!(create_buffer, c"vkCreateBuffer", vk::PFN_vkCreateBuffer, Failure::DoesNothing, (
    device: vk::Device,
    info: *const vk::BufferCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    buffer: *mut vk::Buffer
));
failing!(bind_buffer, c"vkBindBufferMemory", vk::PFN_vkBindBufferMemory, Failure::DoesNothing, (
    device: vk::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize
));
failing!(create_semaphore, c"vkCreateSemaphore", vk::PFN_vkCreateSemaphore, Failure::DoesNothing, (
    device: vk::Device,
    info: *const vk::SemaphoreCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    semaphore: *mut vk::Semaphore
));
failing!(begin, c"vkBeginCommandBuffer", vk::PFN_vkBeginCommandBuffer, Failure::DoesNothing, (
    commands: vk::CommandBuffer,
    info: *const vk::CommandBufferBeginInfo<'_>
));
failing!(submit, c"vkQueueSubmit", vk::PFN_vkQueueSubmit, Failure::DoesNothing, (
    queue: vk::Queue,
    count: u32,
    infos: *const vk::SubmitInfo<'_>,
    fence: vk::Fence
));
failing!(counter, c"vkGetSemaphoreCounterValue", vk::PFN_vkGetSemaphoreCounterValue, Failure::IsDone, (
    device: vk::Device,
    semaphore: vk::Semaphore,
    value: *mut u64
));
failing!(wait, c"vkWaitSemaphores", vk::PFN_vkWaitSemaphores, Failure::IsDone, (
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64
));

failing!(wait_in_vain, c"vkWaitSemaphores", vk::PFN_vkWaitSemaphores, Failure::DoesNothing, (
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64
));

/// An uploader on a device one of whose functions fails after `succeeding` calls, as `failure`.
fn uploader_failing(
    machine: &Machine,
    way: Way,
    function: &Failing,
    succeeding: usize,
    failure: vk::Result,
) -> VulkanUploader {
    let builder = VulkanUploader::builder().way(way).ring(3, 64 << 10);
    let shared = share_failing(machine, function, succeeding, failure);
    builder.build_on(shared).unwrap()
}

/// A device one of whose functions fails after `succeeding` calls, as `failure`.
fn share_failing(
    machine: &Machine,
    function: &Failing,
    succeeding: usize,
    failure: vk::Result,
) -> SharedDevice {
    ORIGINAL.set(machine.device_function(function.name));
    SUCCEEDING.set(succeeding);
    FAILURE.set(failure);
    // SAFETY: the replacement is of the function's type.
    unsafe { machine.share_with(&[(function.name, function.replacement)]) }
}

/// Uploads until the function fails for the first time after each number of calls, and checks that
/// the error names what happened.
fn check_failures(way: Way, function: &Failing, failure: vk::Result, named: &str) {
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    let mut failures = 0;
    for succeeding in [0, 1, 2, 3, 5, 20] {
        let mut uploader = uploader_failing(&machine, way, function, succeeding, failure);
        let outcome = weights.upload(&mut uploader, Operation::new());
        let left = SUCCEEDING.replace(usize::MAX);
        match outcome {
            Err(error) => {
                failures += 1;
                assert_eq!(left, 0, "{error}");
                assert!(matches!(
                    error,
                    Error::Upload { .. } | Error::Unsupported { .. }
                ));
                assert!(error.to_string().contains(named), "{error}");
                assert!(uploader.buffers().is_empty());
            }
            // So many calls were not made.
            Ok(_) => assert!(left > 0 || failures > 0, "{:?} succeeded", function.name),
        }
        // The device recovers, as it would not, so that the uploader shows what it kept.
        check_works(&machine, &mut uploader, &weights);
    }
    assert!(failures > 0, "{:?} is never called", function.name);
    machine.assert_clean();
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let _watchdog = Watchdog::over("uploads to a device without memory");
    let no_memory = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    for way in WAYS {
        check_failures(
            way,
            &allocate_memory::function(),
            no_memory,
            "no memory left",
        );
        check_failures(way, &create_buffer::function(), no_memory, "no memory left");
        check_failures(way, &bind_buffer::function(), no_memory, "no memory left");
    }
    let cannot_map = vk::Result::ERROR_MEMORY_MAP_FAILED;
    check_failures(
        Way::InPlace,
        &map_memory::function(),
        cannot_map,
        "MEMORY_MAP_FAILED",
    );
    let no_memory = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    for function in [
        create_semaphore::function(),
        begin::function(),
        submit::function(),
    ] {
        check_failures(Way::Staged, &function, no_memory, "host has no memory left");
    }
}

#[test]
fn a_device_that_is_lost_is_an_error() {
    let _watchdog = Watchdog::over("uploads to a device that is lost");
    let lost = vk::Result::ERROR_DEVICE_LOST;
    for function in [submit::function(), counter::function(), wait::function()] {
        check_failures(Way::Staged, &function, lost, "VK_ERROR_DEVICE_LOST");
    }
    // Waiting that fails while the device goes on is not the end of its copies.
    let no_memory = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    check_failures(
        Way::Staged,
        &wait_in_vain::function(),
        no_memory,
        "host has no memory",
    );
}

#[test]
fn a_lock_that_does_not_submit_is_an_error() {
    let _watchdog = Watchdog::over("an upload whose submissions are swallowed");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    for swallowed in [0, 1, 20] {
        let calls = AtomicUsize::new(0);
        let shared = machine.share().queue_lock(move |submit| {
            if calls.fetch_add(1, Ordering::Relaxed) != swallowed {
                submit();
            }
        });
        let mut uploader = staging_uploader(shared);
        let error = weights.upload(&mut uploader, Operation::new()).unwrap_err();
        assert!(error.to_string().contains("did not submit"), "{error}");
        check_works(&machine, &mut uploader, &weights);
    }
    machine.assert_clean();
}

#[test]
fn a_lock_that_submits_twice_submits_once() {
    let _watchdog = Watchdog::over("an upload whose submissions are repeated");
    let Some(machine) = Machine::open() else {
        return;
    };
    let many = usize::MAX;
    let success = vk::Result::SUCCESS;
    let shared = share_failing(&machine, &submit::function(), many, success);
    let mut uploader = staging_uploader(shared.queue_lock(|submit| {
        submit();
        submit();
    }));
    let weights = weights();
    weights.upload(&mut uploader, Operation::new()).unwrap();
    let submitted = many - SUCCEEDING.get();
    assert!(submitted > 1);
    assert_eq!(uploader.ready().unwrap().value, submitted as u64);
    check_works(&machine, &mut uploader, &weights);
    machine.assert_clean();
}

#[test]
fn a_lock_that_panics_leaves_nothing_in_flight() {
    let _watchdog = Watchdog::over("panics around submissions to a Vulkan device");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    for submits in [true, false] {
        for panicking in [0, 2] {
            let calls = AtomicUsize::new(0);
            let (panics, panicked) = mpsc::channel();
            let shared = machine.share().queue_lock(move |submit| {
                let panic_now = calls.fetch_add(1, Ordering::Relaxed) == panicking;
                if submits || !panic_now {
                    submit();
                }
                if panic_now {
                    panics.send(()).unwrap();
                    // A panic that prints nothing, which would take longer than the gate is shut.
                    std::panic::resume_unwind(Box::new("from the lock"));
                }
            });
            let mut uploader = staging_uploader(shared);
            let gate = machine.gate();
            thread::scope(|scope| {
                let gate = &gate;
                scope.spawn(move || {
                    panicked.recv().unwrap();
                    // Time for an uploader to go on that does not wait.
                    thread::sleep(Duration::from_millis(100));
                    gate.open();
                });
                let upload = || weights.upload(&mut uploader, Operation::new());
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(upload));
                assert!(outcome.is_err());
                let in_flight = submits || panicking > 0;
                assert!(gate.is_open() || !in_flight, "copies are in flight");
            });
            drop(gate);
            assert!(uploader.buffers().is_empty());
            check_works(&machine, &mut uploader, &weights);
        }
    }
    machine.assert_clean();
}

#[test]
fn a_panic_in_a_callback_leaves_nothing_behind() {
    let _watchdog = Watchdog::over("a panic during an upload to a Vulkan device");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    for way in WAYS {
        let mut uploader = uploader(&machine, way);
        let panics = || {
            let operation = Operation::new().on_progress(|_| panic!("from the callback"));
            weights.upload(&mut uploader, operation)
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
        assert!(outcome.is_err());
        assert!(uploader.buffers().is_empty());
        check_works(&machine, &mut uploader, &weights);
    }
    machine.assert_clean();
}
