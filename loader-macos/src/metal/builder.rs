//! Options of an uploader.

use std::fmt;

use loader_core::{Error, Result};

use super::buffers::BufferSlice;
use super::device::{self, CommandQueue, Device, ResidencySet};
use super::uploader::MetalUploader;
use crate::device_limits::Way;

/// Gives one part of a buffer for each length.
pub(crate) type BufferSource = Box<dyn FnMut(&[usize]) -> Result<Vec<BufferSlice>, String>>;

/// Where buffers are kept resident.
#[derive(Debug)]
pub(crate) enum Residency {
    No,
    OwnSet,
    In(ResidencySet),
}

/// Options of a [`MetalUploader`]; nothing is required.
#[must_use = "a builder does nothing until it builds"]
pub struct MetalUploaderBuilder {
    pub(crate) way: Way,
    pub(crate) slots: usize,
    pub(crate) slot_bytes: usize,
    pub(crate) queue: Option<CommandQueue>,
    pub(crate) residency: Residency,
    pub(crate) buffers: Option<BufferSource>,
}

impl Default for MetalUploaderBuilder {
    fn default() -> Self {
        Self {
            way: Way::Auto,
            slots: MetalUploader::DEFAULT_SLOTS,
            slot_bytes: MetalUploader::DEFAULT_SLOT_BYTES,
            queue: None,
            residency: Residency::No,
            buffers: None,
        }
    }
}

impl MetalUploaderBuilder {
    /// How weights go to the device; by default whichever way serves best.
    pub fn way(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    /// The staging slots, 1 to 64 of them (a queue has so many command buffers under way, unless it
    /// was made with more), and the bytes of each, from 8192 on; rounded to whole blocks of 4096,
    /// and to what one buffer of the device holds.
    pub fn ring(mut self, slots: usize, slot_bytes: usize) -> Self {
        (self.slots, self.slot_bytes) = (slots, slot_bytes);
        self
    }

    /// The queue that blits are committed to; by default one of the uploader's own, made when first
    /// it is needed. It must be of the device that the uploader is built on.
    pub fn queue(mut self, queue: CommandQueue) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Keeps the buffers resident in a set of the uploader's own, so that their first use need not
    /// wait: see [`MetalUploader::residency_set`]. Where the system has no such sets (before macOS
    /// 15) the report says so.
    pub fn keep_resident(mut self) -> Self {
        self.residency = Residency::OwnSet;
        self
    }

    /// Keeps the buffers resident in a set of the caller's, until the next upload takes them out of
    /// it or the caller does.
    pub fn keep_resident_in(mut self, set: ResidencySet) -> Self {
        self.residency = Residency::In(set);
        self
    }

    /// Uploads into buffers of the caller's: `buffers` is called with the lengths wanted, in bytes,
    /// and gives a part of a buffer for each, at least as long. What it fails with fails the
    /// upload. Parts that are staged to begin at a multiple of 4 bytes and have room for their
    /// length rounded up to one.
    ///
    /// # Safety
    /// The buffers belong to the device that the uploader is built on. From then on until the
    /// upload is over nobody else uses the parts: no other thread, and no command of any queue; nor
    /// do the parts overlap.
    pub unsafe fn buffers(
        mut self,
        buffers: impl FnMut(&[usize]) -> Result<Vec<BufferSlice>, String> + 'static,
    ) -> Self {
        self.buffers = Some(Box::new(buffers));
        self
    }

    /// An uploader on the system's default device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is none; [`Error::InvalidOption`].
    pub fn build(self) -> Result<MetalUploader> {
        self.build_on(device::default_device()?)
    }

    /// An uploader on a device of the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn build_on(self, device: Device) -> Result<MetalUploader> {
        let Self {
            slots, slot_bytes, ..
        } = self;
        if (1..=64).contains(&slots) && slot_bytes >= 8192 {
            return Ok(MetalUploader::with(self, device));
        }
        Err(Error::InvalidOption {
            option: "ring",
            value: format!("{slots} slots of {slot_bytes} bytes"),
            expected: "1 to 64 slots of 8192 bytes or more",
        })
    }
}

impl fmt::Debug for MetalUploaderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetalUploaderBuilder")
            .field("way", &self.way)
            .field("slots", &self.slots)
            .field("slot_bytes", &self.slot_bytes)
            .field("queue", &self.queue)
            .field("residency", &self.residency)
            .field("buffers", &self.buffers.is_some())
            .finish()
    }
}
