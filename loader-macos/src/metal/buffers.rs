//! Buffers that weights go into.

use std::ptr::NonNull;

use loader_core::Result;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResource, MTLResourceOptions, MTLStorageMode};

use super::device::Buffer;
use super::failure::upload_error;
use crate::device_limits::Limits;

/// A part of a buffer that weights go into, or went into.
#[derive(Clone, Debug)]
pub struct BufferSlice {
    /// The buffer.
    pub buffer: Buffer,
    /// Where in the buffer the part begins, in bytes. A tensor is so much further on than its
    /// [`TensorPlacement`](loader_core::TensorPlacement) says.
    pub offset: usize,
    /// How many bytes.
    pub len: usize,
}

impl BufferSlice {
    /// `len` bytes of `buffer` from `offset` on.
    #[must_use]
    pub fn new(buffer: Buffer, offset: usize, len: usize) -> Self {
        Self {
            buffer,
            offset,
            len,
        }
    }

    /// Whether it lies within its buffer.
    pub(crate) fn is_within(&self) -> bool {
        let end = self.offset.checked_add(self.len);
        end.is_some_and(|end| end <= self.buffer.length())
    }

    /// Whether the processors see it.
    pub(crate) fn is_visible(&self) -> bool {
        matches!(
            self.buffer.storageMode(),
            MTLStorageMode::Shared | MTLStorageMode::Managed
        )
    }

    /// Its first byte, where the processors see it.
    pub(crate) fn start(&self) -> Option<NonNull<u8>> {
        if !self.is_visible() || !self.is_within() {
            return None;
        }
        let first = self.buffer.contents().cast::<u8>();
        // SAFETY: the offset lies within the buffer.
        Some(unsafe { first.add(self.offset) })
    }

    /// Tells the device that the processors wrote to it, where it keeps a copy of its own.
    pub(crate) fn written(&self) {
        if self.buffer.storageMode() == MTLStorageMode::Managed {
            self.buffer
                .didModifyRange(NSRange::new(self.offset, self.len));
        }
    }
}

/// Makes a buffer for `len` bytes.
pub(crate) fn allocate(
    device: &ProtocolObject<dyn MTLDevice>,
    len: usize,
    options: MTLResourceOptions,
) -> Result<BufferSlice> {
    let whole = Limits::buffer_len(len);
    let buffer = whole.and_then(|whole| device.newBufferWithLength_options(whole, options));
    let buffer =
        buffer.ok_or_else(|| upload_error(format!("the device has no room for {len} bytes")))?;
    Ok(BufferSlice::new(buffer, 0, len))
}
