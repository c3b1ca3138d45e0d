//! The uploader: which way an upload goes, and what it leaves behind.

use std::fmt;

use loader_core::{
    Destination, HostBuffer, HostMemory, Landing, Mechanism, Refusal, Result, Slot, StagedPart,
    Uploader,
};
use objc2::rc::autoreleasepool;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};

use super::blits::Blits;
use super::buffers::{self, BufferSlice};
use super::builder::{BufferSource, MetalUploaderBuilder, Residency};
use super::device::{self, CommandQueue, Device, ResidencySet};
use super::failure::{NAME, upload_error};
use super::import::Imported;
use super::residency;
use crate::device_limits::{self, COPY_ALIGNMENT, Limits, Way};

/// Uploads into Metal buffers.
///
/// Each upload makes new buffers, or asks the caller for some; those of the one before are let go.
pub struct MetalUploader {
    device: Device,
    wanted: Way,
    slots: usize,
    slot_bytes: usize,
    queue: Option<CommandQueue>,
    residency: Residency,
    set: Option<ResidencySet>,
    source: Option<BufferSource>,
    /// Made for the first upload that is staged, and kept for later ones.
    blits: Option<Blits>,
    /// What the upload under way, or the last one, needs of each buffer.
    lens: Vec<usize>,
    slices: Vec<BufferSlice>,
    way: Way,
    refusals: Vec<Refusal>,
}

impl MetalUploader {
    /// Staging slots, unless chosen otherwise.
    pub const DEFAULT_SLOTS: usize = 24;
    /// Bytes of a staging slot, unless chosen otherwise.
    pub const DEFAULT_SLOT_BYTES: usize = 4 << 20;

    /// An uploader on the system's default device with the default options.
    ///
    /// # Errors
    /// As [`MetalUploaderBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// An uploader with options.
    pub fn builder() -> MetalUploaderBuilder {
        MetalUploaderBuilder::default()
    }

    pub(crate) fn with(options: MetalUploaderBuilder, device: Device) -> Self {
        Self {
            device,
            wanted: options.way,
            slots: options.slots,
            slot_bytes: options.slot_bytes,
            queue: options.queue,
            residency: options.residency,
            set: None,
            source: options.buffers,
            blits: None,
            lens: Vec::new(),
            slices: Vec::new(),
            way: Way::Auto,
            refusals: Vec::new(),
        }
    }

    /// The device that it works on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device's name, as the system gives it.
    #[must_use]
    pub fn device_name(&self) -> String {
        self.device.name().to_string()
    }

    /// The queue that it commits to: the caller's, or its own once something was staged.
    #[must_use]
    pub fn queue(&self) -> Option<&CommandQueue> {
        self.queue.as_ref()
    }

    /// The set that keeps the buffers resident, where that was asked for and the system has such.
    /// Add it to the queues that use them.
    #[must_use]
    pub fn residency_set(&self) -> Option<&ResidencySet> {
        self.set.as_ref()
    }

    /// What was uploaded, in the order of the placements' buffers.
    #[must_use]
    pub fn buffers(&self) -> &[BufferSlice] {
        &self.slices
    }

    /// Gives what was uploaded away. A residency set of the uploader's own ends with the uploader,
    /// unless somebody else holds it.
    #[must_use]
    pub fn into_buffers(mut self) -> Vec<BufferSlice> {
        std::mem::take(&mut self.slices)
    }

    /// Forgets the upload before.
    fn start_over(&mut self) {
        if let Some(set) = &self.set {
            residency::remove(set, &self.slices);
        }
        self.slices.clear();
        self.refusals.clear();
    }

    /// Asks the caller for buffers, and finds the way into them.
    fn take_given(&mut self, lens: &[usize]) -> Result<Option<Way>> {
        let Some(source) = &mut self.source else {
            return Ok(None);
        };
        let given = source(lens).map_err(upload_error)?;
        if given.len() != lens.len() {
            let (given, wanted) = (given.len(), lens.len());
            return Err(upload_error(format!(
                "{given} buffers where {wanted} are wanted"
            )));
        }
        for (slice, len) in given.iter().zip(lens) {
            if slice.len < *len || !slice.is_within() {
                return Err(upload_error(format!(
                    "{} bytes at {} of a buffer of {} where {len} are wanted",
                    slice.len,
                    slice.offset,
                    slice.buffer.length()
                )));
            }
        }
        let visible: Vec<bool> = given.iter().map(BufferSlice::is_visible).collect();
        self.slices = given;
        device_limits::way_into(self.wanted, &visible)
            .map(Some)
            .map_err(upload_error)
    }

    /// Makes buffers of our own.
    fn allocate(&mut self, lens: &[usize], options: MTLResourceOptions) -> Result<()> {
        for len in lens {
            let slice = autoreleasepool(|_| buffers::allocate(&self.device, *len, options))?;
            self.slices.push(slice);
        }
        Ok(())
    }

    /// Makes the staging ring, unless there is one. Returns the bytes of its slots.
    fn ring(&mut self, limits: Limits) -> Result<usize> {
        let slot_bytes = limits.slot_bytes(self.slot_bytes);
        if let Some(blits) = &self.blits {
            if (blits.slots(), blits.slot_bytes()) == (self.slots, slot_bytes) {
                return Ok(slot_bytes);
            }
        }
        let queue = match &self.queue {
            Some(queue) => queue.clone(),
            None => {
                let queue = self.device.newCommandQueue();
                queue.ok_or_else(|| upload_error("the device gives no command queue"))?
            }
        };
        self.queue = Some(queue.clone());
        let blits = Blits::new(&self.device, queue, self.slots, slot_bytes)?;
        self.blits = Some(blits);
        Ok(slot_bytes)
    }

    /// Keeps the buffers resident, where that was asked for.
    fn make_resident(&mut self) {
        let set = match (&self.residency, &self.set) {
            (Residency::No, _) => return,
            (Residency::In(set), _) | (Residency::OwnSet, Some(set)) => set.clone(),
            (Residency::OwnSet, None) => match residency::new_set(&self.device) {
                Ok(set) => set,
                Err(refusal) => return self.refusals.push(refusal),
            },
        };
        residency::add(&set, &self.slices);
        self.set = Some(set);
    }
}

impl Uploader for MetalUploader {
    fn name(&self) -> &'static str {
        NAME
    }

    fn max_buffer_len(&self) -> usize {
        device::limits(&self.device).max_buffer_len()
    }

    fn prepare(&mut self, lens: &[usize], _memory: &dyn HostMemory) -> Result<Landing> {
        self.start_over();
        self.lens = lens.to_vec();
        let limits = device::limits(&self.device);
        let given = self.take_given(lens)?;
        self.way = given.unwrap_or_else(|| limits.way(self.wanted));
        if given.is_none() {
            let needed = lens
                .iter()
                .map(|len| *len as u64)
                .fold(0, u64::saturating_add);
            if let Some(reason) = limits.overcommitment(needed) {
                let mechanism = Mechanism::new("metal-working-set");
                self.refusals.push(Refusal::new(mechanism, reason));
            }
        }
        match self.way {
            Way::Import => Ok(Landing::Import),
            Way::Staged => {
                if given.is_none() {
                    self.allocate(lens, MTLResourceOptions::StorageModePrivate)?;
                }
                Ok(Landing::Staged {
                    slot_bytes: autoreleasepool(|_| self.ring(limits))?,
                    copy_alignment: COPY_ALIGNMENT,
                })
            }
            Way::Auto | Way::InPlace => {
                if given.is_none() {
                    self.allocate(lens, MTLResourceOptions::StorageModeShared)?;
                }
                Ok(Landing::InPlace)
            }
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.refusals.clone()
    }

    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()> {
        for buffer in buffers {
            let len = buffer.len();
            // Laid out to fit one buffer.
            let imported = Imported::new(&self.device, buffer, len)?;
            let slice = match imported.slice(&(0..len)) {
                Some(slice) => slice,
                // One of no bytes.
                None => buffers::allocate(&self.device, 0, MTLResourceOptions::StorageModeShared)?,
            };
            self.slices.push(slice);
        }
        Ok(())
    }

    fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
        let lens = self.lens.iter();
        let destination = |(slice, len): (&BufferSlice, &usize)| {
            let start = slice
                .start()
                .ok_or_else(|| upload_error("a buffer cannot be seen by the processors"))?;
            // SAFETY: the slice holds as many bytes, which stay where they are while it is held;
            // it was made here or given exclusively, and is borrowed as long as the destination
            // lives. Where the system cannot move bytes there directly, the reader says so.
            Ok(unsafe { Destination::from_raw(start, *len, true) })
        };
        self.slices.iter().zip(lens).map(destination).collect()
    }

    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        match &mut self.blits {
            Some(blits) => blits.acquire(wait),
            None => Ok(None),
        }
    }

    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        match &mut self.blits {
            Some(blits) => blits.submit(slot.id(), parts, &self.slices),
            None => Err(upload_error("there is no ring that a slot could be of")),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(blits) = &mut self.blits {
            blits.drain()?;
        }
        if self.way == Way::InPlace {
            self.slices.iter().for_each(BufferSlice::written);
        }
        autoreleasepool(|_| self.make_resident());
        Ok(())
    }

    fn abort(&mut self) {
        if let Some(mut blits) = self.blits.take() {
            // A ring whose device has failed is not used again.
            match blits.drain() {
                Ok(()) => self.blits = Some(blits),
                Err(error) => tracing::debug!(%error, "blits are given up"),
            }
        }
        self.slices.clear();
    }
}

impl fmt::Debug for MetalUploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetalUploader")
            .field("device", &self.device)
            .field("wanted", &self.wanted)
            .field("way", &self.way)
            .field("buffers", &self.slices.len())
            .finish_non_exhaustive()
    }
}
