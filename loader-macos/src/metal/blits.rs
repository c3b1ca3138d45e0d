//! Staging slots, and the blits that copy from them.

use std::ptr::NonNull;

use block2::RcBlock;
use loader_core::{Result, Slot, StagedPart};
use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLDevice, MTLResourceOptions,
};

use super::buffers::{self, BufferSlice};
use super::device::CommandQueue;
use super::failure::upload_error;
use crate::device_limits::COPY_ALIGNMENT;
use crate::staging_ring::{Completion, Ring};

/// Slots of shared storage, and the queue that copies from them.
///
/// A command buffer keeps the buffers that it refers to, so the slots outlive their blits whenever
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Blits {
    queue: CommandQueue,
    slots: Vec<BufferSlice>,
    ring: Ring,
}

impl Blits {
    /// Makes slots of `slot_bytes` each.
    pub(crate) fn new(
        device: &ProtocolObject<dyn MTLDevice>,
        queue: CommandQueue,
        slots: usize,
        slot_bytes: usize,
    ) -> Result<Self> {
        // Not write-combined: the system may copy into it as well as a device.
        let slots = (0..slots)
            .map(|_| buffers::allocate(device, slot_bytes, MTLResourceOptions::StorageModeShared))
            .collect::<Result<Vec<_>>>()?;
        let ring = Ring::new(slots.len());
        Ok(Self { queue, slots, ring })
    }

    /// Bytes of each slot.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slots.first().map_or(0, |slot| slot.len)
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        let Some(index) = self.ring.lend(wait).map_err(upload_error)? else {
            return Ok(None);
        };
        let slot = &self.slots[index];
        let start = slot
            .start()
            .ok_or_else(|| upload_error("a staging slot cannot be seen"))?;
        // SAFETY: the buffer is a slot's own and of that length, and it is neither the device's nor
        // lent to anybody else until it is submitted.
        Ok(Some(unsafe { Slot::new(index, start, slot.len, true) }))
    }

    /// Begins to copy `parts` of a slot to their places in `targets`.
    pub(crate) fn submit(
        &mut self,
        slot: usize,
        parts: &[StagedPart],
        targets: &[BufferSlice],
    ) -> Result<()> {
        let copies = parts
            .iter()
            .map(|part| self.copy(slot, part, targets))
            .collect::<Result<Vec<_>>>()?;
        autoreleasepool(|_| self.commit(slot, &copies))
    }

    /// Waits until the device has done with every slot.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.ring.drain().map_err(upload_error)
    }

    /// What a part means for the device, if it lies where it may.
    fn copy<'t>(
        &self,
        slot: usize,
        part: &StagedPart,
        targets: &'t [BufferSlice],
    ) -> Result<Copy<'t>> {
        let within = |offset: usize, len: usize| {
            let end = offset.checked_add(part.len);
            end.is_some_and(|end| end <= len)
        };
        let target = targets
            .get(part.buffer)
            .filter(|target| target.is_within() && within(part.offset, rounded_up(target.len)));
        let source = self.slots.get(slot);
        let (Some(target), true) = (
            target,
            source.is_some_and(|slot| within(part.slot_offset, slot.len)),
        ) else {
            return Err(upload_error(format!("{part:?} lies outside its buffers")));
        };
        let copy = Copy {
            target,
            from: part.slot_offset,
            to: target.offset + part.offset,
            len: part.len,
        };
        let fits = copy.to + copy.len <= target.buffer.length();
        let aligned = [copy.from, copy.to, copy.len]
            .iter()
            .all(|place| place % COPY_ALIGNMENT == 0);
        if fits && aligned {
            Ok(copy)
        } else {
            Err(upload_error(format!(
                "blits copy whole words within a buffer, not {part:?} to byte {}",
                copy.to
            )))
        }
    }

    fn commit(&mut self, slot: usize, copies: &[Copy<'_>]) -> Result<()> {
        let commands = self
            .queue
            .commandBuffer()
            .ok_or_else(|| upload_error("the queue gives no command buffer"))?;
        let blit = commands
            .blitCommandEncoder()
            .ok_or_else(|| upload_error("the command buffer gives no blit encoder"))?;
        for copy in copies {
            // SAFETY: both places lie within their buffers and at whole words, as was checked in
            // `copy`; the command buffer keeps both. The slot is the device's from now on, and
            // nobody else uses the targets, by the contract of those who gave them.
            unsafe {
                blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                    &self.slots[slot].buffer,
                    copy.from,
                    &copy.target.buffer,
                    copy.to,
                    copy.len,
                );
            }
        }
        blit.endEncoding();
        // From here on the slot comes back by its completion alone.
        self.ring.hand_over(slot).map_err(upload_error)?;
        let completions = self.ring.completions();
        let handler = RcBlock::new(
            move |commands: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
                // SAFETY: the system gives the command buffer that has completed, for the length
                // of this call.
                let failure = failure(unsafe { commands.as_ref() });
                // Nobody listens any more where the uploader is gone.
                let _ = completions.send(Completion { slot, failure });
            },
        );
        // SAFETY: the block is valid; the system copies it, and may call it on any thread, which a
        // sender allows.
        unsafe { commands.addCompletedHandler(RcBlock::as_ptr(&handler)) };
        commands.commit();
        Ok(())
    }
}

/// A blit from a slot to a buffer.
struct Copy<'t> {
    target: &'t BufferSlice,
    from: usize,
    to: usize,
    len: usize,
}

/// Parts are widened to whole words.
fn rounded_up(len: usize) -> usize {
    len.checked_next_multiple_of(COPY_ALIGNMENT).unwrap_or(len)
}

/// Why a command buffer failed, where it did.
fn failure(commands: &ProtocolObject<dyn MTLCommandBuffer>) -> Option<String> {
    if commands.status() != MTLCommandBufferStatus::Error {
        return None;
    }
    let reason = commands.error().map_or_else(
        || "it does not say why".to_owned(),
        |error| error.localizedDescription().to_string(),
    );
    Some(format!("the device failed to copy: {reason}"))
}
