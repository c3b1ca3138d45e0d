//! The loaded thing: buffers and the index into them.

use std::ops::Range;

use loader_core::{HostBuffer, Layout, Report, Result};
use loader_formats::{Checkpoint, Dtype, TensorInfo};

/// A checkpoint in host memory.
#[derive(Debug)]
pub struct Model {
    pub(crate) checkpoint: Checkpoint,
    /// One per file of the checkpoint.
    pub(crate) buffers: Vec<HostBuffer>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) report: Report,
}

/// A tensor in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'m> {
    info: &'m TensorInfo,
    bytes: &'m [u8],
}

impl Model {
    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`](loader_core::Error::NoSuchTensor).
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        Ok(self.view(self.checkpoint.tensor(name)?))
    }

    /// All tensors, in the order of their files.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.checkpoint.tensors().iter().map(|info| self.view(info))
    }

    /// The index that it was loaded by.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How it was loaded.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The memory of each file of the checkpoint, in their order: to hand over whole.
    #[must_use]
    pub fn into_buffers(self) -> Vec<HostBuffer> {
        self.buffers
    }

    /// Where a tensor lies: which buffer, and which of its bytes.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`](loader_core::Error::NoSuchTensor).
    pub fn place(&self, name: &str) -> Result<(usize, Range<usize>)> {
        let info = self.checkpoint.tensor(name)?;
        Ok((info.file(), self.locate(info)))
    }

    /// Gives the whole pages of a tensor back to the system: for one that was uploaded or
    /// converted. Its bytes read as zero from then on.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`](loader_core::Error::NoSuchTensor).
    pub fn release(&mut self, name: &str) -> Result<()> {
        let (file, range) = self.place(name)?;
        self.buffers[file].release(range);
        Ok(())
    }

    fn view<'m>(&'m self, info: &'m TensorInfo) -> Tensor<'m> {
        Tensor {
            info,
            bytes: &self.buffers[info.file()][self.locate(info)],
        }
    }

    fn locate(&self, info: &TensorInfo) -> Range<usize> {
        locate(&self.checkpoint, &self.layouts, info)
    }
}

/// Where a tensor lies in the buffer of its file.
pub(crate) fn locate(
    checkpoint: &Checkpoint,
    layouts: &[Layout],
    info: &TensorInfo,
) -> Range<usize> {
    let base = checkpoint.files()[info.file()].base();
    let range = info.range();
    // The layout was made from these very ranges, and its buffer fits the address space.
    let start = layouts[info.file()]
        .locate(&(base + range.start..base + range.end))
        .expect("a layout holds every tensor that it was made of");
    start..start + usize::try_from(range.end - range.start).unwrap_or(0)
}

impl<'m> Tensor<'m> {
    /// Its name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &'m str {
        self.info.name()
    }

    /// Its type of element.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.info.dtype()
    }

    /// Its dimensions, as the format orders them.
    #[must_use]
    pub fn shape(&self) -> &'m [u64] {
        self.info.shape()
    }

    /// Its bytes, as in the file.
    #[must_use]
    pub fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// Its entry in the index.
    #[must_use]
    pub fn info(&self) -> &'m TensorInfo {
        self.info
    }

    /// Whether its address suits its type, so that its bytes may be viewed as elements. Formats may
    /// place tensors anywhere;
    /// [`Placement::Aligned`](loader_core::Placement::Aligned) moves them to where they fit.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.bytes.as_ptr().align_offset(self.info.dtype().align()) == 0
    }
}
