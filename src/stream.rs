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
#[derive(Debug)]
pub struct TensorStream {
    checkpoint: Checkpoint,
    stream: Stream,
}

/// A tensor that has landed.
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
