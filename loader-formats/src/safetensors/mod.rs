//! safetensors files, alone or as shards.

mod header;
mod index;

use loader_core::{Result, WeightFile};

pub(crate) use index::open_index;

use crate::checkpoint::Index;
use crate::join::join;
use crate::{Checkpoint, Format, OpenOptions};

/// Opens files as one checkpoint.
pub(crate) fn open(files: Vec<WeightFile>, options: &OpenOptions) -> Result<Checkpoint> {
    read(files, options).map(Checkpoint::from)
}

/// Reads the headers of files as one index.
fn read(files: Vec<WeightFile>, options: &OpenOptions) -> Result<Index> {
    let parts = files
        .into_iter()
        .map(|file| {
            let header = header::read(&file, options)?;
            Ok((file, header))
        })
        .collect::<Result<_>>()?;
    join(Format::Safetensors, parts)
}
