//! One tensor of the index.

use std::ops::Range;

use crate::Dtype;

/// A tensor: its name, what its elements are, and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: Box<str>,
    shape: Box<[u64]>,
    start: u64,
    end: u64,
    file: u32,
    dtype: Dtype,
}

impl TensorInfo {
    /// A tensor of the first file; `range` must not end before it begins.
    pub(crate) fn new(name: Box<str>, dtype: Dtype, shape: Box<[u64]>, range: Range<u64>) -> Self {
        debug_assert!(range.start <= range.end);
        Self {
            name,
            shape,
            start: range.start,
            end: range.end,
            file: 0,
            dtype,
        }
    }

    /// The same tensor of another file.
    #[cfg(any(feature = "safetensors", feature = "gguf"))]
    pub(crate) fn in_file(mut self, file: u32) -> Self {
        self.file = file;
        self
    }

    /// The same tensor `by` bytes further on; `None` where that overflows.
    #[cfg(feature = "gguf")]
    pub(crate) fn move_by(&mut self, by: u64) -> Option<()> {
        let end = self.end.checked_add(by)?;
        self.start += by;
        self.end = end;
        Some(())
    }

    /// Its name, unique within the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its elements are.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dimensions in elements, in the order its format writes them.
    ///
    /// safetensors begins with the outermost dimension, as NumPy does; GGUF begins with the
    /// innermost one, whose elements are adjacent, as ggml does. A scalar has none.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The file that holds it, as an index into [`Checkpoint::files`](crate::Checkpoint::files).
    #[must_use]
    pub fn file(&self) -> usize {
        self.file as usize
    }

    /// Its bytes, counted from the start of its [`WeightFile`](loader_core::WeightFile), which is
    /// not the start of the file on disk where that is a slice.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// How many bytes it has; zero where a dimension is zero.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// Bytes of a tensor of this shape; `None` where that overflows or does not fill whole blocks.
///
/// Blocks do not reach across rows: the innermost dimension is made of whole ones in ggml, and
/// safetensors only asks it of the tensor.
#[cfg(any(feature = "safetensors", feature = "gguf"))]
pub(crate) fn bytes_of(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, &dimension| product.checked_mul(dimension))?;
    dtype.bytes_of(elements)
}
