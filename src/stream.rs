//! Tensors as they land, in bounded memory.

use loader_core::{Report, Result, Stream, StreamItem, StreamedBytes};
use loader_formats::{Checkpoint, Dtype, TensorInfo};

use crate::Loader;

/// The tensors of a checkpoint, read ahead in the background: in the order of its files or, with
/// [`StreamOrder::Landed`](crate::StreamOrder::Landed), as they land.
///
/// Made by [`Loader::stream`]. What is read ahead and not yet taken is bounded by the least of the
/// loader's memory limit, 128 MiB and a quarter of the memory that was available when the stream
/// began; a tensor longer than that is read ahead alone. What was taken belongs to the taker.
/// Dropping the stream stops it without waiting.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// use weightloader::{Loader, StreamOrder};
/// let loader = Loader::builder().stream_order(StreamOrder::Landed).build()?;
/// let mut stream = loader.stream(&loader.open(&path)?)?;
/// for tensor in stream.by_ref() {
///     let tensor = tensor?;
///     println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
/// }
/// let report = stream.report().expect("all have been taken");
/// assert_eq!(report.bytes, 11);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TensorStream {
    checkpoint: Checkpoint,
    stream: Stream,
}

/// A tensor that has landed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// let loader = weightloader::Loader::new()?;
/// let mut stream = loader.stream(&loader.open(&path)?)?;
/// let tensor = stream.next().expect("there is one")?;
/// drop(stream); // What was taken stays, and may go anywhere.
/// let converted = std::thread::spawn(move || tensor.bytes().to_ascii_uppercase());
/// assert_eq!(converted.join().expect("it does not panic"), b"BIASWEIGHTS");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamedTensor {
    info: TensorInfo,
    bytes: StreamedBytes,
}

impl TensorStream {
    pub(crate) fn start(loader: &Loader, checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.files().to_vec();
        let item = |tensor: &TensorInfo| {
            let base = files[tensor.file()].base();
            let range = tensor.range();
            StreamItem {
                file: tensor.file(),
                range: base + range.start..base + range.end,
            }
        };
        let items = checkpoint.tensors().iter().map(item).collect();
        let stream = Stream::start(loader.platform(), loader.options(), files, items)?;
        Ok(Self {
            checkpoint: checkpoint.clone(),
            stream,
        })
    }

    /// How the tensors were read, once all have been taken.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.stream.report()
    }
}

impl Iterator for TensorStream {
    type Item = Result<StreamedTensor>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.stream.next()?;
        Some(item.map(|(index, bytes)| StreamedTensor {
            info: self.checkpoint.tensors()[index].clone(),
            bytes,
        }))
    }
}

impl StreamedTensor {
    /// Its name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        self.info.name()
    }

    /// Its type of element.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.info.dtype()
    }

    /// Its dimensions, as the format orders them.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.info.shape()
    }

    /// Its bytes, as in the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its entry in the index.
    #[must_use]
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }
}
