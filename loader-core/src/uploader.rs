//! Where bytes end up: in the host's memory, or in a device's.

use std::fmt;
use std::ptr::NonNull;

use crate::{Destination, HostBuffer, Result};

/// Takes bytes to where they are used.
///
/// There are three ways, and an uploader says which one it goes: it *imports* host memory once it
/// is filled (no copy), has its own memory *filled in place*, or takes the bytes through *staging*
/// slots that it copies from at its own pace. All its methods are called on the thread that called
/// [`upload`](crate::upload()), so it needs no locks.
pub trait Uploader: fmt::Debug {
    /// Its name in reports and errors.
    fn name(&self) -> &'static str;

    /// Called once before anything is read: makes room for one buffer of each of these lengths, in
    /// bytes, and says how they will be filled.
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where the device has no room.
    fn prepare(&mut self, lens: &[usize]) -> Result<Landing>;

    /// Takes the filled memory, one buffer for each length: only for [`Landing::Import`].
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where the device refuses it.
    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()>;

    /// The memory of each buffer, to be filled in place: only for [`Landing::InPlace`].
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where it cannot be mapped.
    fn destinations(&mut self) -> Result<Vec<Destination<'_>>>;

    /// A staging slot that the device has done with, if there is one; with `wait` it waits until
    /// there is, which it may only be asked while slots are the device's: only for
    /// [`Landing::Staged`].
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where the device failed.
    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>>;

    /// Copies the filled part of a slot to its place in a buffer, and may do so later: the slot is
    /// the device's until it is acquired again.
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where the device failed.
    fn submit(&mut self, slot: Slot, part: StagedPart) -> Result<()>;

    /// Called once all bytes have been handed over: waits until they are in place.
    ///
    /// # Errors
    /// [`Error::Upload`](crate::Error::Upload) where the device failed.
    fn finish(&mut self) -> Result<()>;
}

/// How an uploader's buffers are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Landing {
    /// Host memory is filled and then handed over.
    Import,
    /// The uploader's own memory is filled.
    InPlace,
    /// Slots of so many bytes are filled and handed over one by one. At least one block of 4096.
    Staged {
        /// Bytes of each slot.
        slot_bytes: usize,
    },
}

/// A staging slot: memory of an uploader's that is filled and handed back.
#[derive(Debug)]
pub struct Slot {
    pub(crate) id: usize,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) direct: bool,
}

impl Slot {
    /// A slot, by an `id` of the uploader's own; `direct` tells whether the system may move bytes
    /// into it by direct I/O.
    ///
    /// # Safety
    /// `len` bytes at `start` stay valid for writes, and untouched by anyone else, until the slot
    /// is submitted or the [`upload`](crate::upload()) that acquired it is over.
    #[must_use]
    pub unsafe fn new(id: usize, start: NonNull<u8>, len: usize, direct: bool) -> Self {
        Self {
            id,
            start,
            len,
            direct,
        }
    }

    /// The uploader's own name for it.
    #[must_use]
    pub fn id(&self) -> usize {
        self.id
    }
}

/// Which part of a buffer a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StagedPart {
    /// Which buffer.
    pub buffer: usize,
    /// Where in the buffer, in bytes.
    pub offset: usize,
    /// Where in the slot the bytes begin.
    pub slot_offset: usize,
    /// How many bytes.
    pub len: usize,
}

/// Where a tensor ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorPlacement {
    /// Its name in the checkpoint.
    pub tensor: String,
    /// Which of the uploader's buffers.
    pub buffer: usize,
    /// Where in the buffer, in bytes.
    pub offset: usize,
    /// How many bytes.
    pub len: usize,
}

impl TensorPlacement {
    /// A tensor's place.
    #[must_use]
    pub fn new(tensor: String, buffer: usize, offset: usize, len: usize) -> Self {
        Self {
            tensor,
            buffer,
            offset,
            len,
        }
    }
}

/// Uploads into host memory: the buffers are what was loaded.
#[derive(Debug, Default)]
pub struct HostUploader {
    buffers: Vec<HostBuffer>,
}

impl HostUploader {
    /// An uploader that holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The filled buffers.
    #[must_use]
    pub fn into_buffers(self) -> Vec<HostBuffer> {
        self.buffers
    }
}

impl Uploader for HostUploader {
    fn name(&self) -> &'static str {
        "host"
    }

    fn prepare(&mut self, _lens: &[usize]) -> Result<Landing> {
        Ok(Landing::Import)
    }

    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()> {
        self.buffers = buffers;
        Ok(())
    }

    fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
        Ok(Vec::new())
    }

    fn acquire(&mut self, _wait: bool) -> Result<Option<Slot>> {
        Ok(None)
    }

    fn submit(&mut self, _slot: Slot, _part: StagedPart) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
