//! An uploader of one's own: a device that copies from a ring of staging slots, played here by
//! plain memory.
//!
//! ```text
//! cargo run --release --example upload -- CHECKPOINT
//! ```
//!
//! A real one allocates pinned slots, submits a copy command, and takes the slot back once the
//! command's fence is signalled. `VulkanUploader` and `MetalUploader` are such.

use std::collections::VecDeque;
use std::error::Error;
use std::ptr::NonNull;

use weightloader::core::{HostMemory, Landing, Slot, StagedPart};
use weightloader::{HostBuffer, Loader, Operation, Result, Uploader};

const SLOTS: usize = 4;
const SLOT_BYTES: usize = 8 << 20;

/// A device with memory of its own.
#[derive(Debug, Default)]
struct Device {
    buffers: Vec<Vec<u8>>,
    slots: Vec<HostBuffer>,
    free: Vec<usize>,
    /// Copies that were submitted and may not be done: the slot, and what goes where.
    submitted: VecDeque<(usize, Vec<StagedPart>)>,
}

impl Device {
    /// Waits for the oldest copy, after which its slot is free.
    fn complete_one(&mut self) {
        if let Some((slot, parts)) = self.submitted.pop_front() {
            for part in parts {
                let from = &self.slots[slot][part.slot_offset..part.slot_offset + part.len];
                let to = &mut self.buffers[part.buffer][part.offset..part.offset + part.len];
                to.copy_from_slice(from);
            }
            self.free.push(slot);
        }
    }
}

impl Uploader for Device {
    fn name(&self) -> &'static str {
        "example-device"
    }

    fn prepare(&mut self, lens: &[usize], memory: &dyn HostMemory) -> Result<Landing> {
        self.buffers = lens.iter().map(|&len| vec![0; len]).collect();
        self.slots.clear();
        for _ in 0..SLOTS {
            self.slots.push(HostBuffer::zeroed(memory, SLOT_BYTES)?);
        }
        self.free = (0..SLOTS).collect();
        Ok(Landing::Staged {
            slot_bytes: SLOT_BYTES,
            copy_alignment: 1,
        })
    }

    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        if wait && self.free.is_empty() {
            self.complete_one();
        }
        Ok(self.free.pop().map(|slot| {
            let start: NonNull<u8> = self.slots[slot].start();
            // SAFETY: the buffer lives until the next upload prepares, and nobody reads it before
            // it is submitted.
            unsafe { Slot::new(slot, start, SLOT_BYTES, true) }
        }))
    }

    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        self.submitted.push_back((slot.id(), parts.to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        while !self.submitted.is_empty() {
            self.complete_one();
        }
        Ok(())
    }

    fn abort(&mut self) {
        self.submitted.clear();
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which checkpoint?")?;
    let loader = Loader::new()?;
    let checkpoint = loader.open(path)?;
    let mut device = Device::default();
    let uploaded = loader.upload(&checkpoint, &mut device, Operation::new())?;
    for placed in uploaded.placements.iter().take(5) {
        let bytes = &device.buffers[placed.buffer][placed.offset..placed.offset + placed.len];
        println!(
            "{}: buffer {}, offset {}, begins with {:?}",
            placed.tensor,
            placed.buffer,
            placed.offset,
            &bytes[..bytes.len().min(4)]
        );
    }
    let report = uploaded.report;
    println!(
        "{} bytes in {:.3} s",
        report.bytes,
        report.elapsed.as_secs_f64()
    );
    Ok(())
}
