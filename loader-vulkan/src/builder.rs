//! Options of an uploader.

use std::fmt;

use ash::vk;
use loader_core::{Error, Result};

use crate::gpu::Gpu;
use crate::own_device;
use crate::ring::RingSize;
use crate::shared_device::SharedDevice;
use crate::slice::BufferSlice;
use crate::uploader::VulkanUploader;
use crate::way::Way;

/// Gives one part of a buffer for each length.
pub(crate) type BufferSource = Box<dyn FnMut(&[usize]) -> Result<Vec<BufferSlice>, String> + Send>;

/// Options of a [`VulkanUploader`]; nothing is required.
#[must_use = "a builder does nothing until it builds"]
pub struct VulkanUploaderBuilder {
    pub(crate) way: Way,
    pub(crate) ring: RingSize,
    pub(crate) usage: vk::BufferUsageFlags,
    pub(crate) release_to: Option<u32>,
    pub(crate) waits: bool,
    pub(crate) buffers: Option<BufferSource>,
}

impl Default for VulkanUploaderBuilder {
    fn default() -> Self {
        Self {
            way: Way::Auto,
            ring: RingSize {
                slots: VulkanUploader::DEFAULT_SLOTS,
                slot_bytes: VulkanUploader::DEFAULT_SLOT_BYTES,
            },
            usage: vk::BufferUsageFlags::STORAGE_BUFFER,
            release_to: None,
            waits: true,
            buffers: None,
        }
    }
}

impl VulkanUploaderBuilder {
    /// How weights go to the device; by default whichever way it serves best.
    pub fn way(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    /// The staging slots, 1 to 4096 of them, and the bytes of each, a multiple of 4096 from 8192
    /// on.
    pub fn ring(mut self, slots: usize, slot_bytes: usize) -> Self {
        self.ring = RingSize { slots, slot_bytes };
        self
    }

    /// What buffers that are made here will be used for, besides being copied from and to; by
    /// default `STORAGE_BUFFER`. `SHADER_DEVICE_ADDRESS` needs its feature to be enabled on the
    /// device, so a shared one.
    pub fn usage(mut self, usage: vk::BufferUsageFlags) -> Self {
        self.usage = usage;
        self
    }

    /// Releases the buffers to this queue family, which is one of the device's, after the last copy
    /// into them: where they are staged to, by a queue of another family. Whoever uses them first
    /// acquires them by [`VulkanUploader::acquire_barriers`].
    ///
    /// Buffers that are imported or filled in place are not released, and there is nothing to
    /// acquire: the host alone has written to them, no queue has. Those made here are for whichever
    /// family uses them first, with what they hold; mapped ones of the caller's stay with the family
    /// that owns them, if one does. So says the Vulkan specification: a resource of
    /// `VK_SHARING_MODE_EXCLUSIVE` is owned by no queue family when it is made, and by the first
    /// that uses it from then on ([Resource Sharing Mode]); what the host wrote before work is
    /// submitted, that work sees, on any queue ([Host Write Ordering Guarantees]).
    ///
    /// [Resource Sharing Mode]: https://docs.vulkan.org/spec/latest/chapters/resources.html#resources-sharing
    /// [Host Write Ordering Guarantees]: https://docs.vulkan.org/spec/latest/chapters/synchronization.html#synchronization-submission-host-writes
    pub fn release_to(mut self, queue_family: u32) -> Self {
        self.release_to = Some(queue_family);
        self
    }

    /// Lets an upload return before the device has done its last copies: others wait for
    /// [`VulkanUploader::ready`], on a queue say. What the device then fails with is told to them.
    pub fn without_waiting(mut self) -> Self {
        self.waits = false;
        self
    }

    /// Uploads into buffers of the caller's: `buffers` is called with the lengths wanted, in bytes,
    /// and gives a part of a buffer for each, at least as long. What it fails with fails the
    /// upload.
    ///
    /// # Safety
    /// The buffers belong to the device that the uploader is built on, hold the parts, were made
    /// with `TRANSFER_DST` and bound to memory; the parts do not overlap. From then on until the
    /// upload is over and the device has done with it (see [`VulkanUploader::ready`]; once it was
    /// aborted, or the uploader was dropped, it has) they live, and nobody else uses the parts.
    /// Buffers that are not shared between queue families belong to that of the uploader's queue,
    /// or hold nothing of value in these parts; where they are released
    /// ([`release_to`](Self::release_to)), they are not shared between families, since nothing may
    /// be handed over then.
    pub unsafe fn buffers(
        mut self,
        buffers: impl FnMut(&[usize]) -> Result<Vec<BufferSlice>, String> + Send + 'static,
    ) -> Self {
        self.buffers = Some(Box::new(buffers));
        self
    }

    /// An uploader with a device of its own: the best there is, a card before what shares the
    /// host's memory, a program last.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no Vulkan library, driver or device;
    /// [`Error::InvalidOption`], also for a queue family to release to that the device does not have.
    pub fn build(self) -> Result<VulkanUploader> {
        self.check()?;
        let (device, own) = own_device::open()?;
        self.build_with(Gpu::new(device, Some(own)))
    }

    /// An uploader on a device of the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], also for a queue family to release to that the device does not have.
    pub fn build_on(self, device: SharedDevice) -> Result<VulkanUploader> {
        self.check()?;
        self.build_with(Gpu::new(device, None))
    }

    fn build_with(self, gpu: Gpu) -> Result<VulkanUploader> {
        self.check_family(&gpu)?;
        Ok(VulkanUploader::with(self, gpu))
    }

    fn check(&self) -> Result<()> {
        let RingSize { slots, slot_bytes } = self.ring;
        if (1..=4096).contains(&slots) && slot_bytes >= 8192 && slot_bytes % 4096 == 0 {
            return Ok(());
        }
        Err(Error::InvalidOption {
            option: "ring",
            value: format!("{slots} slots of {slot_bytes} bytes"),
            expected: "1 to 4096 slots of multiples of 4096 bytes, from 8192 on",
        })
    }

    /// Barriers may name no others than families of the device.
    fn check_family(&self, gpu: &Gpu) -> Result<()> {
        match self.release_to {
            Some(family) if family >= gpu.queue_families() => Err(Error::InvalidOption {
                option: "release_to",
                value: format!("family {family} of {}", gpu.queue_families()),
                expected: "a queue family of the device",
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for VulkanUploaderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanUploaderBuilder")
            .field("way", &self.way)
            .field("ring", &self.ring)
            .field("usage", &self.usage)
            .field("release_to", &self.release_to)
            .field("waits", &self.waits)
            .field("buffers", &self.buffers.is_some())
            .finish()
    }
}
