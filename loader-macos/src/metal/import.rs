//! Host memory that becomes buffers without a copy.

use std::any::Any;
use std::ffi::c_void;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use block2::RcBlock;
use loader_core::{HostBuffer, Result};
use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSUInteger;
use objc2_metal::{MTLDevice, MTLResourceOptions};

use super::buffers::BufferSlice;
use super::device::{self, Buffer};
use super::failure::upload_error;
use crate::views;

/// Host memory as buffers of shared storage, without a copy: one, or overlapping ones where the
/// memory is longer than the device's longest buffer.
///
/// The memory lives until the last of its buffers is gone, commands that use them included.
#[derive(Clone, Debug)]
pub struct Imported {
    buffers: Vec<Buffer>,
    /// Which bytes of the memory each buffer is.
    views: Vec<Range<usize>>,
    /// Without what rounds it up to whole pages.
    len: usize,
}

impl Imported {
    /// Imports memory of ours, of a loaded model say. Where that takes several buffers, any
    /// `longest` bytes on end lie within one of them: give the length of the longest tensor.
    ///
    /// # Errors
    /// [`Error::Upload`](loader_core::Error::Upload) where it does not begin at a page and consist
    /// of whole ones, as memory of [`AnonymousMemory`](crate::AnonymousMemory) does; where no
    /// buffer holds `longest` bytes; where the device refuses it.
    pub fn new(
        device: &ProtocolObject<dyn MTLDevice>,
        memory: HostBuffer,
        longest: usize,
    ) -> Result<Self> {
        // A copy made by a fork would part what the device writes from what we see.
        memory.exclude_from_fork(true);
        let (start, len, capacity) = (memory.start(), memory.len(), memory.capacity());
        // SAFETY: the buffer owns `capacity` initialised bytes at `start`, readable and writable,
        // which nobody reaches but through it; it is owned by the buffers from now on.
        unsafe { Self::import(device, start, len, capacity, longest, Arc::new(memory)) }
    }

    /// Imports a mapping of a file, which must begin at a page of memory; `longest` is as in
    /// [`new`](Self::new). Its pages are read as they are first used, on which the device waits:
    /// better prefetch them. The first use of a buffer wires all of it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Safety
    /// The mapping derefs to the same bytes as long as it lives, is mapped to the end of its last
    /// page, and nobody changes or truncates the file meanwhile. The device only reads from the
    /// buffers, unless the mapping is writable and nobody else refers to its bytes.
    pub unsafe fn from_mapping<M>(
        device: &ProtocolObject<dyn MTLDevice>,
        mapping: M,
        longest: usize,
    ) -> Result<Self>
    where
        M: Deref<Target = [u8]> + Send + Sync + 'static,
    {
        let bytes: &[u8] = &mapping;
        let (start, len) = (NonNull::from(bytes).cast(), bytes.len());
        let capacity = crate::pages::rounded_up(len, rustix::param::page_size())
            .ok_or_else(|| upload_error("a mapping as long as the address space"))?;
        // SAFETY: the caller's promise; the mapping is owned by the buffers from now on.
        unsafe { Self::import(device, start, len, capacity, longest, Arc::new(mapping)) }
    }

    /// # Safety
    /// `capacity` bytes at `start`, `len` among them, stay mapped and are not reached by anybody
    /// else while `owner` lives, but for bytes that the device only reads.
    unsafe fn import(
        device: &ProtocolObject<dyn MTLDevice>,
        start: NonNull<u8>,
        len: usize,
        capacity: usize,
        longest: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self> {
        if len == 0 {
            return Ok(Self {
                buffers: Vec::new(),
                views: Vec::new(),
                len,
            });
        }
        let limits = device::limits(device);
        let page_bytes = limits.page_bytes;
        if start.addr().get() % page_bytes != 0 || capacity % page_bytes != 0 {
            return Err(upload_error(format!(
                "{capacity} bytes at {start:p} are not whole pages of {page_bytes} bytes"
            )));
        }
        let views = views::views(capacity, limits.max_buffer_bytes, longest, page_bytes)
            .map_err(upload_error)?;
        let buffers = views
            .iter()
            .map(|view| {
                let owner = Arc::clone(&owner);
                // It has nothing to do when it is called: the block holds the memory for as long as
                // the buffer holds the block.
                let deallocator = RcBlock::new(move |_: NonNull<c_void>, _: NSUInteger| {
                    let _held = &owner;
                });
                // SAFETY: the view lies within the memory.
                let first = unsafe { start.add(view.start) };
                // SAFETY: whole pages, which `owner` keeps where they are; the block owns a share
                // of it, and what it owns may be dropped on any thread.
                let buffer = autoreleasepool(|_| unsafe {
                    device.newBufferWithBytesNoCopy_length_options_deallocator(
                        first.cast(),
                        view.len(),
                        MTLResourceOptions::StorageModeShared,
                        Some(&deallocator),
                    )
                });
                buffer.ok_or_else(|| {
                    upload_error(format!("the device refuses {} bytes of ours", view.len()))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            buffers,
            views,
            len,
        })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes, and so no buffers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its buffers, in order.
    #[must_use]
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Where bytes of the memory lie, a tensor's say; `None` where no buffer holds them all.
    #[must_use]
    pub fn slice(&self, range: &Range<usize>) -> Option<BufferSlice> {
        if range.end > self.len {
            return None;
        }
        let view = views::holding(&self.views, range)?;
        let offset = range.start - self.views[view].start;
        let buffer = self.buffers.get(view)?.clone();
        Some(BufferSlice::new(buffer, offset, range.len()))
    }
}
