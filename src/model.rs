//! The loaded thing: buffers and the index into them.

use std::ops::Range;

use loader_core::{HostBuffer, Layout, Report, Result};
use loader_formats::{Checkpoint, Dtype, TensorInfo};

/// A checkpoint in host memory.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// let model = weightloader::load(&path)?;
/// // Raw bytes are one tensor, named as their file.
/// assert_eq!(model.tensor("weights")?.bytes(), b"biasweights");
/// println!("{} bytes in {:?}", model.report().bytes, model.report().elapsed);
/// // The memory can be handed over whole, once it was asked what is where.
/// let (buffer, range) = model.place("weights")?;
/// let buffers = model.into_buffers();
/// assert_eq!(&buffers[buffer][range], b"biasweights");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    pub(crate) checkpoint: Checkpoint,
    /// One per file of the checkpoint.
    pub(crate) buffers: Vec<HostBuffer>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) report: Report,
}

/// A tensor in host memory.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !cfg!(feature = "safetensors") {
/// #     return Ok(());
/// # }
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let header = br#"{"scale":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
/// # let len = (header.len() as u64).to_le_bytes();
/// # let elements = [1.5_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat();
/// # std::fs::write(&path, [&len[..], header, &elements].concat())?;
/// use weightloader::Dtype;
/// let model = weightloader::load(&path)?;
/// let scale = model.tensor("scale")?;
/// assert_eq!((scale.dtype(), scale.shape()), (Dtype::F32, &[2][..]));
/// let elements = scale.bytes().chunks_exact(4).map(|bytes| {
///     f32::from_le_bytes(bytes.try_into().expect("a chunk has 4 bytes"))
/// });
/// assert_eq!(elements.collect::<Vec<_>>(), [1.5, 2.0]);
/// # Ok(())
/// # }
/// ```
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
    /// converted. Those pages read as zero from then on.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, vec![7; 1 << 20])?;
    /// let mut model = weightloader::load(&path)?;
    /// let sum: u64 = model.tensor("weights")?.bytes().iter().map(|byte| u64::from(*byte)).sum();
    /// assert_eq!(sum, 7 << 20);
    /// model.release("weights")?; // The sum is all that is needed.
    /// assert!(model.tensor("weights")?.bytes().iter().all(|byte| *byte == 0));
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, b"biasweights")?;
    /// use weightloader::{Loader, Operation, Placement};
    /// let loader = Loader::builder().placement(Placement::Aligned(64)).build()?;
    /// let model = loader.load(&loader.open(&path)?, Operation::new())?;
    /// assert!(model.tensors().all(|tensor| tensor.is_aligned()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.bytes.as_ptr().align_offset(self.info.dtype().align()) == 0
    }
}
