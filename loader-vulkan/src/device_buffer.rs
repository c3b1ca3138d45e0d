//! Buffers of ours, and the memory they are bound to.

use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use loader_core::{HostBuffer, Result};

use crate::failure::{failed, upload_error};
use crate::gpu::{Gpu, HostImport};
use crate::memory_type::{self, Purpose};
use crate::slice::{BufferSlice, Mapped};

/// A buffer of a device's that holds weights, and its memory; both go when it is dropped.
///
/// The device must have done with it by then. Dropping it in a process forked after it was made does
/// nothing.
#[derive(Debug)]
pub struct DeviceBuffer {
    gpu: Arc<Gpu>,
    /// Null for no bytes.
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    mapped: Option<Mapped>,
    /// What the memory is, where it was imported; freed after it.
    host: Option<HostBuffer>,
    len: usize,
}

// SAFETY: handles that are used through this alone, and the address of memory that belongs to it.
unsafe impl Send for DeviceBuffer {}

const HOST_MEMORY: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

impl DeviceBuffer {
    /// The handle; null for no bytes.
    #[must_use]
    pub fn handle(&self) -> vk::Buffer {
        self.buffer
    }

    /// Its memory; null for no bytes.
    #[must_use]
    pub fn memory(&self) -> vk::DeviceMemory {
        self.memory
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn slice(&self) -> BufferSlice {
        BufferSlice {
            buffer: self.buffer,
            offset: 0,
            len: self.len as u64,
            mapped: self.mapped,
        }
    }

    /// Where the host sees it, if it does.
    pub(crate) fn mapped(&self) -> Option<Mapped> {
        self.mapped
    }

    /// A buffer in memory of the device's.
    pub(crate) fn allocate(
        gpu: &Arc<Gpu>,
        len: usize,
        usage: vk::BufferUsageFlags,
        purpose: Purpose,
    ) -> Result<Self> {
        let mut this = Self::without_memory(gpu, len);
        if len == 0 {
            return Ok(this);
        }
        let info = vk::BufferCreateInfo::default()
            .size(len as u64)
            .usage(usage);
        let requirements = this.create(&info)?;
        let index = memory_type::choose(&gpu.memory, requirements.memory_type_bits, purpose)
            .ok_or_else(|| upload_error(format!("the device has no {purpose} memory")))?;
        let mut flags = vk::MemoryAllocateFlagsInfo::default();
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(requirements.size)
            .memory_type_index(index);
        if usage.contains(vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS) {
            flags = flags.flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
            info = info.push_next(&mut flags);
        }
        this.bind(&info)?;
        let visible = gpu.memory.memory_types[index as usize]
            .property_flags
            .contains(vk::MemoryPropertyFlags::HOST_VISIBLE);
        // A program's memory is looked at to ask for huge pages under it.
        if purpose != Purpose::Device || visible && gpu.is_program() {
            this.map()?;
        }
        Ok(this)
    }

    /// A buffer in host memory, which becomes the device's without a copy.
    pub(crate) fn import(
        gpu: &Arc<Gpu>,
        host: HostBuffer,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self> {
        let mut this = Self::without_memory(gpu, host.len());
        if host.is_empty() {
            return Ok(this);
        }
        let Some(import) = &gpu.host_import else {
            return Err(upload_error("the device imports no memory".to_owned()));
        };
        let (start, capacity) = (host.start(), host.capacity());
        this.mapped = Some(Mapped {
            start,
            direct: true,
        });
        this.host = Some(host);
        let types = importable_types(gpu, import, start, capacity)?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST_MEMORY);
        let info = vk::BufferCreateInfo::default()
            .size(this.len as u64)
            .usage(usage)
            .push_next(&mut external);
        let requirements = this.create(&info)?;
        if requirements.size > capacity as u64 {
            return Err(upload_error(format!(
                "the device wants {} bytes for a buffer of {}, of which {capacity} are there",
                requirements.size, this.len
            )));
        }
        let allowed = requirements.memory_type_bits & types;
        let index = memory_type::choose(&gpu.memory, allowed, Purpose::Imported)
            .ok_or_else(|| upload_error("the device reads no host memory in place".to_owned()))?;
        let mut pointer = vk::ImportMemoryHostPointerInfoEXT::default()
            .handle_type(HOST_MEMORY)
            .host_pointer(start.as_ptr().cast());
        let mut flags = vk::MemoryAllocateFlagsInfo::default();
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(capacity as u64)
            .memory_type_index(index)
            .push_next(&mut pointer);
        if usage.contains(vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS) {
            flags = flags.flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
            info = info.push_next(&mut flags);
        }
        this.bind(&info)?;
        Ok(this)
    }

    fn without_memory(gpu: &Arc<Gpu>, len: usize) -> Self {
        Self {
            gpu: Arc::clone(gpu),
            buffer: vk::Buffer::null(),
            memory: vk::DeviceMemory::null(),
            mapped: None,
            host: None,
            len,
        }
    }

    fn create(&mut self, info: &vk::BufferCreateInfo<'_>) -> Result<vk::MemoryRequirements> {
        let device = &self.gpu.device;
        // SAFETY: the structure is valid and names no queue families, as an exclusive buffer need
        // not.
        self.buffer =
            unsafe { device.create_buffer(info, None) }.map_err(failed("make a buffer"))?;
        // SAFETY: the buffer was made just now.
        Ok(unsafe { device.get_buffer_memory_requirements(self.buffer) })
    }

    fn bind(&mut self, info: &vk::MemoryAllocateInfo<'_>) -> Result<()> {
        let device = &self.gpu.device;
        let size = info.allocation_size;
        // SAFETY: the structure is valid; memory that is imported is page-aligned, whole pages, and
        // stays until after this is freed.
        self.memory = unsafe { device.allocate_memory(info, None) }
            .map_err(failed(&format!("take {size} bytes of device memory")))?;
        // SAFETY: both are of this device, new, and suit each other by the buffer's requirements.
        unsafe { device.bind_buffer_memory(self.buffer, self.memory, 0) }
            .map_err(failed("give a buffer its memory"))
    }

    fn map(&mut self) -> Result<()> {
        // SAFETY: the memory is of a type that the host sees, and is not mapped yet.
        let start = unsafe {
            self.gpu
                .device
                .map_memory(self.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
        }
        .map_err(failed("map device memory"))?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| upload_error("device memory was mapped nowhere".to_owned()))?;
        self.mapped = Some(Mapped {
            start,
            direct: self.gpu.is_program(),
        });
        Ok(())
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if !self.gpu.owner.is_current() {
            // Its pages may not be in the child, and others in their place.
            std::mem::forget(self.host.take());
            return;
        }
        let device = &self.gpu.device;
        // SAFETY: the buffer is ours, or null, and nothing uses it any more: whoever submits work
        // on it waits before it lets go of it.
        unsafe { device.destroy_buffer(self.buffer, None) };
        // SAFETY: likewise, and freeing unmaps. Memory that was imported is given back by `host`
        // after this.
        unsafe { device.free_memory(self.memory, None) };
    }
}

/// Which memory types `len` bytes at `start` can become.
fn importable_types(gpu: &Gpu, import: &HostImport, start: NonNull<u8>, len: usize) -> Result<u32> {
    let alignment = import.alignment;
    if start.addr().get() % alignment != 0 || len % alignment != 0 {
        return Err(upload_error(format!(
            "the device imports multiples of {alignment} bytes, which memory here is not"
        )));
    }
    let mut found = vk::MemoryHostPointerPropertiesEXT::default();
    // SAFETY: the extension is enabled; the memory is whole pages, as the extension asks.
    let result = unsafe {
        (import.functions.fp().get_memory_host_pointer_properties_ext)(
            gpu.device.handle(),
            HOST_MEMORY,
            start.as_ptr().cast(),
            &mut found,
        )
    };
    result.result().map_err(failed("import host memory"))?;
    Ok(found.memory_type_bits)
}
