//! Where bytes end up: in the host's memory, or in a device's.

use std::fmt;
use std::ptr::NonNull;

use crate::{Destination, Error, HostBuffer, HostMemory, Refusal, Result};

/// Takes bytes to where they are used.
///
/// There are three ways, and an uploader says which one it goes: it *imports* host memory once it
/// is filled (no copy), has its own memory *filled in place*, or takes the bytes through *staging*
/// slots that it copies from at its own pace. It implements the methods of the ways that it goes.
/// All are called on the thread that called [`upload`](crate::upload()), so it needs no locks.
///
/// An upload calls [`prepare`](Self::prepare), then those of the way, then either
/// [`finish`](Self::finish) or, where anything failed, was cancelled or unwound,
/// [`abort`](Self::abort). The next upload begins with [`prepare`](Self::prepare) again.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{
///     Copier, Destination, HostMemory, Landing, Layout, LoadOptions, Operation, Placement, Platform,
///     Result, Uploader, WeightFile,
/// };
///
/// /// A device whose memory the host sees.
/// #[derive(Debug, Default)]
/// struct Device(Vec<Vec<u8>>);
///
/// impl Uploader for Device {
///     fn name(&self) -> &'static str {
///         "example"
///     }
///     fn prepare(&mut self, lens: &[usize], _: &dyn HostMemory) -> Result<Landing> {
///         self.0 = lens.iter().map(|len| vec![0; *len]).collect();
///         Ok(Landing::InPlace)
///     }
///     fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
///         Ok(self.0.iter_mut().map(|buffer| Destination::from(&mut buffer[..])).collect())
///     }
///     fn finish(&mut self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let copier = Copier::new(&platform, &options);
/// let files = [WeightFile::open(&path)?];
/// let layout = Layout::new(&[0..7], 0..7, Placement::default())?;
/// let at = layout.locate(&(0..7)).expect("it was laid out");
/// let mut device = Device::default();
/// loader_core::upload(&platform, &copier, &files, &[layout], &mut device, Operation::new())?;
/// assert_eq!(&device.0[0][at..at + 7], b"weights");
/// # Ok(())
/// # }
/// ```
pub trait Uploader: fmt::Debug {
    /// Its name in reports and errors.
    fn name(&self) -> &'static str;

    /// The most bytes that one of its buffers may have. Weights of a file that are more than that
    /// go into several buffers, cut between tensors.
    fn max_buffer_len(&self) -> usize {
        usize::MAX
    }

    /// Called once before anything is read: makes room for one buffer of each of these lengths, in
    /// bytes, and says how they will be filled. `memory` is where this system's host memory comes
    /// from, for an uploader that needs some: pinned, or imported as staging slots.
    ///
    /// # Errors
    /// [`Error::Upload`] where the device has no room.
    fn prepare(&mut self, lens: &[usize], memory: &dyn HostMemory) -> Result<Landing>;

    /// After [`prepare`](Self::prepare): better ways that do not serve here, and why, for the
    /// report.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    /// Takes the filled memory, one buffer for each length: only for [`Landing::Import`].
    ///
    /// # Errors
    /// [`Error::Upload`] where the device refuses it.
    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()> {
        drop(buffers);
        Err(another_way(self.name()))
    }

    /// The memory of each buffer, to be filled in place: only for [`Landing::InPlace`]. Memory of a
    /// driver that direct I/O may not reach (the system answers `EFAULT`) says so.
    ///
    /// # Errors
    /// [`Error::Upload`] where it cannot be mapped.
    fn destinations(&mut self) -> Result<Vec<Destination<'_>>> {
        Err(another_way(self.name()))
    }

    /// A staging slot that the device has done with, if there is one; with `wait` it waits until
    /// there is, which it may only be asked while slots are the device's: only for
    /// [`Landing::Staged`].
    ///
    /// # Errors
    /// [`Error::Upload`] where the device failed.
    fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        let _ = wait;
        Err(another_way(self.name()))
    }

    /// Copies parts of a filled slot to their places in one or several buffers, and may do so
    /// later: the slot is the device's until it is acquired again.
    ///
    /// # Errors
    /// [`Error::Upload`] where the device failed.
    fn submit(&mut self, slot: Slot, parts: &[StagedPart]) -> Result<()> {
        let _ = (slot, parts);
        Err(another_way(self.name()))
    }

    /// Called once all bytes have been handed over: waits until they are in place. One that was
    /// asked to let others wait instead, on a device's queue say, returns once they can.
    ///
    /// # Errors
    /// [`Error::Upload`] where the device failed.
    fn finish(&mut self) -> Result<()>;

    /// Called instead of [`finish`](Self::finish) where the upload came to nothing: when it
    /// returns, nothing is on its way to any buffer any more.
    fn abort(&mut self) {}
}

/// The error of a method of a way that an uploader does not go.
fn another_way(uploader: &'static str) -> Error {
    Error::Upload {
        uploader,
        message: "it was asked for a way of uploading that it does not go".to_owned(),
    }
}

/// How an uploader's buffers are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Landing {
    /// Host memory is filled and then handed over.
    Import,
    /// The uploader's own memory is filled.
    InPlace,
    /// Slots are filled and handed over one by one.
    Staged {
        /// Bytes of each slot: at least two blocks of 4096.
        slot_bytes: usize,
        /// Places and lengths of what is copied from slots to buffers are multiples of so many
        /// bytes: a power of two up to 4096. With more than one, parts are widened to it, so the
        /// buffers must have room for their length rounded up.
        copy_alignment: usize,
    },
}

impl Landing {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::InPlace => "in place",
            Self::Staged { .. } => "staged",
        }
    }
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

/// What is copied from a slot to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of uploaders build it")]
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

    fn prepare(&mut self, _lens: &[usize], _memory: &dyn HostMemory) -> Result<Landing> {
        Ok(Landing::Import)
    }

    fn import(&mut self, buffers: Vec<HostBuffer>) -> Result<()> {
        self.buffers = buffers;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
