//! The uploader: which way an upload goes, and what it leaves behind.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use loader_core::{
    Destination, Error, HostBuffer, HostMemory, Landing, Refusal, Result, Slot, StagedPart,
    Uploader,
};

use crate::builder::{BufferSource, VulkanUploaderBuilder};
use crate::device_buffer::DeviceBuffer;
use crate::failure::{NAME, upload_error};
use crate::gpu::Gpu;
use crate::memory_type::{self, Purpose};
use crate::ring::{Copies, Ring, RingSize};
use crate::slice::BufferSlice;
use crate::way::{self, Offers, Way};

/// Uploads into buffers of a Vulkan device.
///
/// Each upload makes new buffers, or asks the caller for some; those of the one before are dropped.
/// The methods of [`Uploader`] are errors outside an upload, which begins with
/// [`prepare`](Uploader::prepare) and ends with [`finish`](Uploader::finish) or
/// [`abort`](Uploader::abort), and so are those of another way than this upload's.
///
/// In a process forked after it was made it is inert: methods that ask anything of the device are
/// [`Error::Forked`], and dropping it, or one of its [`DeviceBuffer`]s, waits for nothing and gives
/// nothing back. Its [`handles`](Self::handles) are of no use there either.
pub struct VulkanUploader {
    // Dropped first: it waits for the copies into the buffers.
    ring: Option<Ring>,
    owned: Vec<DeviceBuffer>,
    slices: Vec<BufferSlice>,
    gpu: Arc<Gpu>,
    wanted: Way,
    ring_size: RingSize,
    usage: vk::BufferUsageFlags,
    release_to: Option<u32>,
    waits: bool,
    source: Option<BufferSource>,
    /// What the upload under way, or the last one, needs of each buffer.
    lens: Vec<usize>,
    /// The way of the upload under way. Its buffers may be used by nobody else, and those of the
    /// caller's are there, only so long.
    going: Option<Way>,
    refusals: Vec<Refusal>,
    ready: Option<Ready>,
}

/// What to wait for before weights may be used: a timeline semaphore of the uploader's, which lives
/// as long as that, and its value once all copies are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ready {
    /// The timeline semaphore.
    pub semaphore: vk::Semaphore,
    /// The value to wait for.
    pub value: u64,
}

/// The handles that an uploader works on.
#[derive(Clone)]
#[non_exhaustive]
pub struct Handles {
    /// The instance.
    pub instance: ash::Instance,
    /// The physical device.
    pub physical_device: vk::PhysicalDevice,
    /// The device.
    pub device: ash::Device,
    /// The queue that copies are submitted to.
    pub queue: vk::Queue,
    /// Its family.
    pub queue_family: u32,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles")
            .field("device", &self.device.handle())
            .field("queue", &self.queue)
            .field("queue_family", &self.queue_family)
            .finish_non_exhaustive()
    }
}

impl VulkanUploader {
    /// Staging slots, unless chosen otherwise: together they are as much as is read past the page
    /// cache at once.
    pub const DEFAULT_SLOTS: usize = 16;
    /// Bytes of a staging slot, unless chosen otherwise.
    pub const DEFAULT_SLOT_BYTES: usize = 4 << 20;

    /// An uploader with a device of its own and the default options.
    ///
    /// # Errors
    /// As [`VulkanUploaderBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// An uploader with options.
    pub fn builder() -> VulkanUploaderBuilder {
        VulkanUploaderBuilder::default()
    }

    pub(crate) fn with(options: VulkanUploaderBuilder, gpu: Gpu) -> Self {
        let VulkanUploaderBuilder {
            way,
            ring,
            usage,
            release_to,
            waits,
            buffers,
        } = options;
        Self {
            ring: None,
            owned: Vec::new(),
            slices: Vec::new(),
            gpu: Arc::new(gpu),
            wanted: way,
            ring_size: ring,
            usage: usage | vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST,
            release_to,
            waits,
            source: buffers,
            lens: Vec::new(),
            going: None,
            refusals: Vec::new(),
            ready: None,
        }
    }

    /// The device's name, as its driver tells it.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.gpu.name
    }

    /// What it works on: of its own or of the caller's. Handles of its own live as long as the
    /// uploader and the [`DeviceBuffer`]s that came of it.
    #[must_use]
    pub fn handles(&self) -> Handles {
        Handles {
            instance: self.gpu.instance.clone(),
            physical_device: self.gpu.physical_device,
            device: self.gpu.device.clone(),
            queue: self.gpu.queue,
            queue_family: self.gpu.queue_family,
        }
    }

    /// Where the weights of the last upload are, by the numbers that placements name.
    #[must_use]
    pub fn buffers(&self) -> &[BufferSlice] {
        &self.slices
    }

    /// What must be waited for before the weights may be used; `None` where nothing must: they were
    /// not staged, and whatever is submitted after the upload sees them. An upload that waits has
    /// waited for it already.
    #[must_use]
    pub fn ready(&self) -> Option<Ready> {
        self.ready
    }

    /// The barriers with which a queue of the family that the buffers were released to acquires
    /// them, each whole part that [`buffers`](Self::buffers) tells, after waiting for
    /// [`ready`](Self::ready); none where they were not released. Their source stages are those
    /// that wait; their destination stages and how the weights will be accessed are the caller's to
    /// fill in, the latter at first any reading.
    #[must_use]
    pub fn acquire_barriers(&self) -> Vec<vk::BufferMemoryBarrier<'static>> {
        let barriers = match (self.ready, self.released_family()) {
            (Some(_), Some(family)) => ownership(&self.slices, self.gpu.queue_family, family),
            _ => Vec::new(),
        };
        let acquire = |barrier: vk::BufferMemoryBarrier<'static>| {
            // What was written is available by the release; whatever an acquire says of it is
            // ignored, but has to suit its stages where these come with each barrier.
            barrier
                .src_access_mask(vk::AccessFlags::empty())
                .dst_access_mask(vk::AccessFlags::MEMORY_READ)
        };
        barriers.into_iter().map(acquire).collect()
    }

    /// The buffers that were made here, by the numbers that placements name, once the device has
    /// done with them; none where they were the caller's. They keep a device of the uploader's own.
    ///
    /// # Errors
    /// [`Error::Upload`] where the device failed meanwhile; [`Error::Forked`].
    pub fn into_buffers(mut self) -> Result<Vec<DeviceBuffer>> {
        self.wait()?;
        Ok(std::mem::take(&mut self.owned))
    }

    /// Waits until the device has done everything that was submitted.
    ///
    /// # Errors
    /// [`Error::Upload`] where the device failed meanwhile; [`Error::Forked`].
    pub fn wait(&mut self) -> Result<()> {
        self.gpu.owner.check()?;
        self.ring.as_mut().map_or(Ok(()), Ring::wait)
    }

    /// The family that buffers are released to, where that means anything.
    fn released_family(&self) -> Option<u32> {
        self.release_to
            .filter(|family| *family != self.gpu.queue_family)
    }

    /// The caller's buffers, where there are any.
    fn ask_for_buffers(&mut self, lens: &[usize]) -> Result<Option<Vec<BufferSlice>>> {
        let Some(source) = &mut self.source else {
            return Ok(None);
        };
        let slices = source(lens).map_err(upload_error)?;
        if slices.len() != lens.len() {
            return Err(upload_error(format!(
                "{} buffers were given for {}",
                slices.len(),
                lens.len()
            )));
        }
        for (slice, len) in slices.iter().zip(lens) {
            if slice.len < *len as u64 {
                return Err(Error::Destination {
                    expected: *len as u64,
                    actual: slice.len,
                });
            }
        }
        Ok(Some(slices))
    }

    /// The way to go into `slices`, or into buffers of our own.
    fn choose_way(&mut self, slices: Option<&[BufferSlice]>, host: &dyn HostMemory) -> Result<Way> {
        let preferred = match slices {
            None if self.gpu.shares_host_memory() => [Way::Import, Way::InPlace, Way::Staged],
            None => [Way::Staged, Way::InPlace, Way::Import],
            Some(_) => [Way::InPlace, Way::Staged, Way::Import],
        };
        // Asking whether memory can be imported means trying it, so only who may need to know asks.
        let asks = match self.wanted {
            Way::Auto => preferred[0] == Way::Import,
            wanted => wanted == Way::Import,
        };
        let offers = Offers {
            import: match slices {
                Some(_) => Err("the caller's buffers have their memory already".to_owned()),
                None if asks => self.try_import(host),
                None => Err("it was not tried".to_owned()),
            },
            in_place: match slices {
                Some(slices) if slices.iter().all(is_mapped) => Ok(()),
                Some(_) => Err("not all of the caller's buffers are mapped".to_owned()),
                None => self.sees_device_memory(),
            },
            staged: match self.gpu.timeline_semaphores {
                true => Ok(()),
                false => Err("the device has no timeline semaphores enabled".to_owned()),
            },
        };
        let (way, refusals) = way::choose(self.wanted, preferred, &offers)?;
        self.refusals = refusals;
        Ok(way)
    }

    /// Imports a page, and lets it go again.
    fn try_import(&self, host: &dyn HostMemory) -> Result<(), String> {
        if self.gpu.host_import.is_none() {
            return Err("VK_EXT_external_memory_host is not offered or not enabled".to_owned());
        }
        let page = HostBuffer::zeroed(host, 1);
        let imported = page.and_then(|page| DeviceBuffer::import(&self.gpu, page, self.usage));
        imported.map(drop).map_err(|error| error.to_string())
    }

    fn sees_device_memory(&self) -> Result<(), String> {
        let seen = memory_type::choose(&self.gpu.memory, u32::MAX, Purpose::DeviceMapped);
        match seen {
            Some(_) => Ok(()),
            None => Err("the host sees no coherent memory of the device".to_owned()),
        }
    }

    fn allocate(
        &mut self,
        lens: &[usize],
        purpose: Purpose,
        host: &dyn HostMemory,
    ) -> Result<Vec<BufferSlice>> {
        for len in lens {
            let buffer = DeviceBuffer::allocate(&self.gpu, *len, self.usage, purpose)?;
            if let Some(mapped) = buffer.mapped().filter(|_| self.gpu.is_program()) {
                // The program's copies fault its memory in, page by page.
                host.prefer_huge_pages(mapped.start, *len);
            }
            self.owned.push(buffer);
        }
        Ok(self.owned.iter().map(DeviceBuffer::slice).collect())
    }

    /// Checks that an upload is under way, and goes this way.
    fn check_going(&self, way: Way) -> Result<()> {
        self.gpu.owner.check()?;
        match self.going {
            Some(going) if going == way => Ok(()),
            Some(going) => Err(upload_error(format!(
                "it was asked for what uploads by {way:?} do, and this one goes {going:?}"
            ))),
            None => Err(nothing_under_way()),
        }
    }

    fn the_ring(&mut self) -> Result<&mut Ring> {
        self.check_going(Way::Staged)?;
        let missing = || upload_error("nothing is being staged".to_owned());
        self.ring.as_mut().ok_or_else(missing)
    }

    /// What a part becomes: a region of a copy into a buffer.
    fn region(&self, part: &StagedPart) -> Result<(vk::Buffer, vk::BufferCopy)> {
        let slice = self.slices.get(part.buffer);
        let end = part.offset.checked_add(part.len);
        let slot_end = part.slot_offset.checked_add(part.len);
        let fits = |slice: &&BufferSlice| {
            end.is_some_and(|end| end as u64 <= slice.len)
                && slot_end.is_some_and(|end| end <= self.ring_size.slot_bytes)
        };
        let Some(slice) = slice.filter(fits) else {
            return Err(upload_error(format!("{part:?} lies outside its buffer")));
        };
        let region = vk::BufferCopy::default()
            .src_offset(part.slot_offset as u64)
            .dst_offset(slice.offset + part.offset as u64)
            .size(part.len as u64);
        Ok((slice.buffer, region))
    }
}

impl Uploader for VulkanUploader {
    fn name(&self) -> &'static str {
        NAME
    }

    fn max_buffer_len(&self) -> usize {
        usize::try_from(self.gpu.max_buffer_len).unwrap_or(usize::MAX)
    }

    fn prepare(&mut self, lens: &[usize], memory: &dyn HostMemory) -> Result<Landing> {
        self.gpu.owner.check()?;
        self.abort();
        self.lens = lens.to_vec();
        let given = self.ask_for_buffers(lens)?;
        let way = self.choose_way(given.as_deref(), memory)?;
        self.slices = match (given, way) {
            (Some(slices), _) => slices,
            (None, Way::InPlace) => self.allocate(lens, Purpose::DeviceMapped, memory)?,
            (None, Way::Staged) => self.allocate(lens, Purpose::Device, memory)?,
            (None, Way::Import | Way::Auto) => Vec::new(),
        };
        let landing = match way {
            Way::Staged => {
                let size = self.ring_size;
                if self.ring.as_ref().is_none_or(|ring| ring.size() != size) {
                    self.ring = Some(Ring::new(&self.gpu, size, memory)?);
                }
                Landing::Staged {
                    slot_bytes: size.slot_bytes,
                    copy_alignment: 1,
                }
            }
            Way::InPlace => Landing::InPlace,
            Way::Import | Way::Auto => Landing::Import,
        };
        self.going = Some(way);
        Ok(landing)
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.refusals.clone()
    }

    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()> {
        self.check_going(Way::Import)?;
        for buffer in buffers {
            let imported = DeviceBuffer::import(&self.gpu, buffer, self.usage)?;
            self.owned.push(imported);
        }
        self.slices = self.owned.iter().map(DeviceBuffer::slice).collect();
        Ok(())
    }

    fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
        self.check_going(Way::InPlace)?;
        let places = self.slices.iter().zip(&self.lens);
        places
            .map(|(slice, len)| {
                let (start, direct) = match slice.mapped {
                    Some(mapped) => (mapped.start, mapped.direct),
                    None if *len == 0 => (NonNull::dangling(), false),
                    None => return Err(upload_error("a buffer is not mapped".to_owned())),
                };
                // SAFETY: the slice is mapped for at least this length: it is ours, or its owner
                // promised so until the upload is over, which it is not; nobody else touches it
                // during the upload, which borrows `self`.
                Ok(unsafe { Destination::from_raw(start, *len, direct) })
            })
            .collect()
    }

    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        self.the_ring()?.acquire(wait)
    }

    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        self.check_going(Way::Staged)?;
        let mut copies: Vec<Copies> = Vec::new();
        // There are no copies of nothing in Vulkan.
        for part in parts.iter().filter(|part| part.len > 0) {
            let (buffer, region) = self.region(part)?;
            match copies.last_mut() {
                Some(last) if last.buffer == buffer => last.regions.push(region),
                _ => copies.push(Copies {
                    buffer,
                    regions: vec![region],
                }),
            }
        }
        let ring = self.the_ring()?;
        // SAFETY: the upload is under way, and the regions lie within its slices and the slot;
        // buffers of ours are dropped only after the ring was waited for, those of the caller's
        // live until then by its promise.
        unsafe { ring.submit(slot.id(), &copies) }
    }

    fn finish(&mut self) -> Result<()> {
        self.gpu.owner.check()?;
        let (from, to) = (self.gpu.queue_family, self.released_family());
        // Over even where it fails in what follows, which is not to be done again: what is then
        // still on its way is waited for by `abort`, by the next upload, or when this is dropped.
        let way = self.going.take().ok_or_else(nothing_under_way)?;
        let Some(ring) = self.ring.as_mut().filter(|_| way == Way::Staged) else {
            // No queue has used the buffers, so none of this family's is to be released.
            return Ok(());
        };
        if let Some(to) = to {
            let barriers = ownership(&self.slices, from, to);
            // SAFETY: the buffers were written by copies on this queue, so its family owns them;
            // they live as those copies need them to. `prepare` has waited for everything before,
            // and comes before every other `finish`.
            unsafe { ring.release(&barriers) }?;
        }
        if self.waits {
            ring.wait()?;
        }
        let (semaphore, value) = ring.timeline();
        self.ready = Some(Ready { semaphore, value });
        Ok(())
    }

    fn abort(&mut self) {
        self.going = None;
        match self.wait() {
            Ok(()) => {}
            // What logs are written to may be locked for ever in a forked child.
            Err(Error::Forked) => {}
            Err(error) => tracing::debug!(%error, "copies are given up"),
        }
        if let Some(ring) = &mut self.ring {
            ring.take_back();
        }
        self.ready = None;
        self.refusals.clear();
        self.slices.clear();
        self.owned.clear();
    }
}

impl fmt::Debug for VulkanUploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanUploader")
            .field("gpu", &self.gpu)
            .field("way", &self.wanted)
            .field("ring_size", &self.ring_size)
            .field("slices", &self.slices)
            .finish_non_exhaustive()
    }
}

fn nothing_under_way() -> Error {
    upload_error("no upload is under way".to_owned())
}

fn is_mapped(slice: &BufferSlice) -> bool {
    slice.mapped.is_some() || slice.len == 0
}

/// Barriers that hand what copies wrote from one queue family to another.
fn ownership(slices: &[BufferSlice], from: u32, to: u32) -> Vec<vk::BufferMemoryBarrier<'static>> {
    let barrier = |slice: &BufferSlice| {
        vk::BufferMemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)
            .buffer(slice.buffer)
            .offset(slice.offset)
            .size(slice.len)
    };
    slices
        .iter()
        .filter(|slice| slice.len > 0)
        .map(barrier)
        .collect()
}
