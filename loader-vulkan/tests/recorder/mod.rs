//! A device with two families of queues, whichever the driver has, that writes down what an
//! uploader has it do.
//!
//! What is written down is what the uploader calls, on the thread of the test. The driver is told
//! the same, but nothing of a second family where it has none: ownership then changes hands on
//! paper alone.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;

use ash::vk;
use loader_vulkan::SharedDevice;

use crate::machine::Machine;

/// What an uploader had its device do.
#[derive(Clone, Debug)]
pub(crate) enum Recorded {
    Copies {
        buffer: vk::Buffer,
        /// Where in the buffer.
        written: Vec<Range<u64>>,
    },
    Barrier(Barrier),
    Submission {
        commands: Vec<vk::CommandBuffer>,
        /// The timelines that are signalled, and their values.
        signals: Vec<(vk::Semaphore, u64)>,
    },
}

/// A call of `vkCmdPipelineBarrier`.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    pub(crate) commands: vk::CommandBuffer,
    pub(crate) before: vk::PipelineStageFlags,
    pub(crate) after: vk::PipelineStageFlags,
    pub(crate) dependencies: vk::DependencyFlags,
    /// How many barriers it has that are not of buffers.
    pub(crate) others: u32,
    pub(crate) buffers: Vec<vk::BufferMemoryBarrier<'static>>,
}

thread_local! {
    static RECORDED: RefCell<Vec<Recorded>> = const { RefCell::new(Vec::new()) };
    static DRIVER: Cell<Option<Driver>> = const { Cell::new(None) };
    /// What is told of families.
    static FAMILIES: RefCell<Vec<vk::QueueFamilyProperties>> = const { RefCell::new(Vec::new()) };
}

/// The driver's own functions.
#[derive(Clone, Copy)]
struct Driver {
    copy: vk::PFN_vkCmdCopyBuffer,
    barrier: vk::PFN_vkCmdPipelineBarrier,
    submit: vk::PFN_vkQueueSubmit,
    /// Whether the driver has a second family of its own.
    knows_two: bool,
}

impl Driver {
    fn get() -> Self {
        DRIVER.get().unwrap()
    }
}

/// The machine's device as a runtime shares it, with two families of queues at least.
pub(crate) fn share(machine: &Machine) -> SharedDevice {
    let functions = machine.device.fp_v1_0();
    let mut families = machine.families();
    DRIVER.set(Some(Driver {
        copy: functions.cmd_copy_buffer,
        barrier: functions.cmd_pipeline_barrier,
        submit: functions.queue_submit,
        knows_two: families.len() > 1,
    }));
    let first = families[0];
    families.resize(families.len().max(2), first);
    FAMILIES.set(families);

    let copy: vk::PFN_vkCmdCopyBuffer = copy;
    let barrier: vk::PFN_vkCmdPipelineBarrier = barrier;
    let submit: vk::PFN_vkQueueSubmit = submit;
    let families: vk::PFN_vkGetPhysicalDeviceQueueFamilyProperties = tell_families;
    let replacements = [
        (c"vkCmdCopyBuffer", copy as *const c_void),
        (c"vkCmdPipelineBarrier", barrier as *const c_void),
        (c"vkQueueSubmit", submit as *const c_void),
        (
            c"vkGetPhysicalDeviceQueueFamilyProperties",
            families as *const c_void,
        ),
    ];
    // SAFETY: each is of the type of the function it is named after.
    unsafe { machine.share_with(&replacements) }
}

/// What was written down since this was asked last.
pub(crate) fn take() -> Vec<Recorded> {
    RECORDED.take()
}

fn record(recorded: Recorded) {
    RECORDED.with_borrow_mut(|all| all.push(recorded));
}

/// What a caller of Vulkan's gives as a count and a pointer.
///
/// # Safety
/// So many are there, or none and the pointer is anything.
unsafe fn given<T: Clone>(start: *const T, count: u32) -> Vec<T> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count as usize) }.to_vec()
}

unsafe extern "system" fn tell_families(
    _device: vk::PhysicalDevice,
    count: *mut u32,
    families: *mut vk::QueueFamilyProperties,
) {
    let told = FAMILIES.with_borrow(Clone::clone);
    let mut told_count = u32::try_from(told.len()).unwrap();
    if !families.is_null() {
        // SAFETY: the caller says there for how many there is room.
        told_count = told_count.min(unsafe { *count });
        // SAFETY: there is room for so many.
        unsafe { families.copy_from_nonoverlapping(told.as_ptr(), told_count as usize) };
    }
    // SAFETY: the caller wants the count there.
    unsafe { *count = told_count };
}

unsafe extern "system" fn copy(
    commands: vk::CommandBuffer,
    from: vk::Buffer,
    to: vk::Buffer,
    count: u32,
    regions: *const vk::BufferCopy,
) {
    // SAFETY: the caller's promises.
    let given = unsafe { given(regions, count) };
    let written = |region: &vk::BufferCopy| region.dst_offset..region.dst_offset + region.size;
    record(Recorded::Copies {
        buffer: to,
        written: given.iter().map(written).collect(),
    });
    // SAFETY: as above.
    unsafe { (Driver::get().copy)(commands, from, to, count, regions) };
}

unsafe extern "system" fn barrier(
    commands: vk::CommandBuffer,
    before: vk::PipelineStageFlags,
    after: vk::PipelineStageFlags,
    dependencies: vk::DependencyFlags,
    memory_count: u32,
    memory: *const vk::MemoryBarrier<'_>,
    buffer_count: u32,
    buffers: *const vk::BufferMemoryBarrier<'_>,
    image_count: u32,
    images: *const vk::ImageMemoryBarrier<'_>,
) {
    let buffers: *const vk::BufferMemoryBarrier<'static> = buffers.cast();
    // SAFETY: the caller's promises; nothing is chained to them, as the test checks.
    let mut buffers = unsafe { given(buffers, buffer_count) };
    record(Recorded::Barrier(Barrier {
        commands,
        before,
        after,
        dependencies,
        others: memory_count + image_count,
        buffers: buffers.clone(),
    }));
    let driver = Driver::get();
    if !driver.knows_two {
        for buffer in &mut buffers {
            buffer.src_queue_family_index = vk::QUEUE_FAMILY_IGNORED;
            buffer.dst_queue_family_index = vk::QUEUE_FAMILY_IGNORED;
        }
    }
    // SAFETY: the caller's promises, and barriers without families are valid wherever those with
    // families are.
    unsafe {
        (driver.barrier)(
            commands,
            before,
            after,
            dependencies,
            memory_count,
            memory,
            buffer_count,
            buffers.as_ptr(),
            image_count,
            images,
        );
    }
}

unsafe extern "system" fn submit(
    queue: vk::Queue,
    count: u32,
    infos: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    // SAFETY: the caller's promises.
    for info in unsafe { given(infos, count) } {
        // SAFETY: as above.
        let commands = unsafe { given(info.p_command_buffers, info.command_buffer_count) };
        // SAFETY: as above.
        let timelines = unsafe { given(info.p_signal_semaphores, info.signal_semaphore_count) };
        let values = info.p_next.cast::<vk::TimelineSemaphoreSubmitInfo<'_>>();
        // SAFETY: an uploader chains this structure, and no other.
        let values = unsafe { &*values };
        assert_eq!(
            values.s_type,
            vk::StructureType::TIMELINE_SEMAPHORE_SUBMIT_INFO
        );
        let count = values.signal_semaphore_value_count;
        // SAFETY: the caller's promises.
        let values = unsafe { given(values.p_signal_semaphore_values, count) };
        record(Recorded::Submission {
            commands,
            signals: timelines.into_iter().zip(values).collect(),
        });
    }
    // SAFETY: as above.
    unsafe { (Driver::get().submit)(queue, count, infos, fence) }
}
