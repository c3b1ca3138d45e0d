//! Checkpoints in the buffers of a Vulkan device, by the placements told: read back by way of the
//! uploader's own handles.

#![cfg(all(feature = "vulkan", feature = "safetensors"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod checkpoints;

use checkpoints::Written;
use loader_core::Landing;
use loader_core::testing::Watchdog;
use weightloader::vulkan::ash::vk;
use weightloader::vulkan::{BufferSlice, Handles, VulkanUploader, Way};
use weightloader::{Error, Loader, Operation, Placement, Strategy};

/// What `slice` holds, copied by the device into memory that the host sees.
fn read_back(handles: &Handles, slice: &BufferSlice) -> Vec<u8> {
    if slice.len == 0 {
        return Vec::new();
    }
    let device = &handles.device;
    let info = vk::BufferCreateInfo::default()
        .size(slice.len)
        .usage(vk::BufferUsageFlags::TRANSFER_DST);
    // SAFETY: valid use of a device that is alive, here and below: handles are new, of this device,
    // used by this thread alone, and destroyed once the queue is idle.
    let buffer = unsafe { device.create_buffer(&info, None) }.unwrap();
    // SAFETY: as above.
    let needs = unsafe { device.get_buffer_memory_requirements(buffer) };
    // SAFETY: as above.
    let types = unsafe {
        handles
            .instance
            .get_physical_device_memory_properties(handles.physical_device)
    };
    let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
    let index = (0..types.memory_type_count)
        .find(|index| {
            let flags = types.memory_types[*index as usize].property_flags;
            needs.memory_type_bits & (1 << index) != 0 && flags.contains(wanted)
        })
        .unwrap();
    let info = vk::MemoryAllocateInfo::default()
        .allocation_size(needs.size)
        .memory_type_index(index);
    // SAFETY: as above.
    let memory = unsafe { device.allocate_memory(&info, None) }.unwrap();
    // SAFETY: as above.
    unsafe { device.bind_buffer_memory(buffer, memory, 0) }.unwrap();
    let info = vk::CommandPoolCreateInfo::default().queue_family_index(handles.queue_family);
    // SAFETY: as above.
    let pool = unsafe { device.create_command_pool(&info, None) }.unwrap();
    let info = vk::CommandBufferAllocateInfo::default()
        .command_pool(pool)
        .command_buffer_count(1);
    // SAFETY: as above.
    let commands = unsafe { device.allocate_command_buffers(&info) }.unwrap();
    let info = vk::CommandBufferBeginInfo::default();
    // SAFETY: as above.
    unsafe { device.begin_command_buffer(commands[0], &info) }.unwrap();
    let region = vk::BufferCopy::default()
        .src_offset(slice.offset)
        .size(slice.len);
    // SAFETY: as above.
    unsafe { device.cmd_copy_buffer(commands[0], slice.buffer, buffer, &[region]) };
    // SAFETY: as above.
    unsafe { device.end_command_buffer(commands[0]) }.unwrap();
    let info = vk::SubmitInfo::default().command_buffers(&commands);
    // SAFETY: as above.
    unsafe { device.queue_submit(handles.queue, &[info], vk::Fence::null()) }.unwrap();
    // SAFETY: as above.
    unsafe { device.queue_wait_idle(handles.queue) }.unwrap();
    // SAFETY: as above.
    let start =
        unsafe { device.map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) };
    let start = start.unwrap().cast::<u8>();
    let len = usize::try_from(slice.len).unwrap();
    // SAFETY: the memory is mapped, of this length, and the device has done with it.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) }.to_vec();
    // SAFETY: as above.
    unsafe { device.destroy_command_pool(pool, None) };
    // SAFETY: as above.
    unsafe { device.destroy_buffer(buffer, None) };
    // SAFETY: as above.
    unsafe { device.free_memory(memory, None) };
    bytes
}

/// An uploader with a device of its own, or nothing where there is none.
fn uploader(way: Way) -> Option<VulkanUploader> {
    match VulkanUploader::builder().way(way).build() {
        Ok(uploader) => Some(uploader),
        Err(Error::Unsupported { reason, .. }) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_tensor_is_where_it_was_placed() {
    let _watchdog = Watchdog::over("uploads of checkpoints to a Vulkan device");
    let shards = [
        vec![4_000_000, 0, 13, 700_001],
        vec![1],
        vec![2_000_003, 64, 3_000_000],
    ];
    let of_one_file = Written::single(&[1_500_000, 7, 0, 64]);
    for written in [Written::sharded(&shards), of_one_file] {
        for way in [Way::Auto, Way::Import, Way::InPlace, Way::Staged] {
            let Some(uploader) = uploader(way) else {
                return;
            };
            check_every_tensor(&written, uploader);
        }
    }
}

/// Uploads in each strategy and placement, and compares what the device holds.
fn check_every_tensor(written: &Written, mut uploader: VulkanUploader) {
    for strategy in [Strategy::Auto, Strategy::Buffered] {
        for placement in [Placement::File, Placement::Aligned(256)] {
            let loader = Loader::builder().strategy(strategy).placement(placement);
            let loader = loader.chunk_bytes(300_000).build().unwrap();
            let checkpoint = loader.open(&written.path).unwrap();
            for file in checkpoint.files() {
                if let Err(error) = loader.evict(file, ..) {
                    println!("skipped: files stay cached: {error}");
                }
            }
            let uploaded = loader
                .upload(&checkpoint, &mut uploader, Operation::new())
                .unwrap();
            let way = uploaded.report.landing.map(Landing::name);
            assert!(way.is_some());
            assert!(uploaded.report.bytes >= written.bytes());
            let handles = uploader.handles();
            let found: Vec<_> = uploader
                .buffers()
                .iter()
                .map(|slice| read_back(&handles, slice))
                .collect();
            assert_eq!(uploaded.placements.len(), written.tensors.len());
            for (placed, (name, bytes)) in uploaded.placements.iter().zip(&written.tensors) {
                assert_eq!(placed.tensor, *name);
                let end = placed.offset + placed.len;
                let found = &found[placed.buffer][placed.offset..end];
                assert!(
                    found == bytes,
                    "{name} by {way:?}, {strategy}, {placement:?}"
                );
                if let Placement::Aligned(alignment) = placement {
                    assert_eq!(placed.offset % alignment, 0, "{name}");
                }
            }
        }
    }
}
