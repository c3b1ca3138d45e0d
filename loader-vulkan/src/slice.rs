//! Parts of buffers that weights go into.

use std::ptr::NonNull;

use ash::vk;

/// A part of a buffer that weights go into, or went into.
#[derive(Clone, Copy, Debug)]
pub struct BufferSlice {
    /// The buffer; null where there are no bytes.
    pub buffer: vk::Buffer,
    /// Where in the buffer the part begins, in bytes. A tensor is so much further on than its
    /// [`TensorPlacement`](loader_core::TensorPlacement) says.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    pub(crate) mapped: Option<Mapped>,
}

/// Where the host sees a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) start: NonNull<u8>,
    pub(crate) direct: bool,
}

// SAFETY: handles and an address, which are only used through an uploader, exclusively.
unsafe impl Send for BufferSlice {}

impl BufferSlice {
    /// `len` bytes of `buffer` from `offset` on.
    #[must_use]
    pub fn new(buffer: vk::Buffer, offset: u64, len: u64) -> Self {
        Self {
            buffer,
            offset,
            len,
            mapped: None,
        }
    }

    /// The same where the host sees it, at `start`, in coherent memory (or the caller flushes it
    /// after the upload). `direct` tells whether the system may move bytes there by direct I/O:
    /// memory of a driver often refuses that with `EFAULT`.
    ///
    /// # Safety
    /// The slice's length of bytes at `start` are valid for writes, and nothing else touches them,
    /// while an upload into the slice goes on.
    #[must_use]
    pub unsafe fn mapped(mut self, start: NonNull<u8>, direct: bool) -> Self {
        self.mapped = Some(Mapped { start, direct });
        self
    }
}
