//! GGUF files, alone or split.

mod header;
mod split;
mod value;

use loader_core::{Result, WeightFile};

pub(crate) use split::open_split;

use crate::error::whole_error;
use crate::join::join;
use crate::{Checkpoint, Format, OpenOptions};

/// Opens one file, which must not be a part of a split one.
pub(crate) fn open(file: WeightFile, options: &OpenOptions) -> Result<Checkpoint> {
    let (header, part) = header::read(&file, options)?;
    match part {
        None => join(Format::Gguf, vec![(file, header)]).map(Checkpoint::from),
        Some(part) => {
            let message = format!(
                "this is part {} of {} of a split file; open its path to have them all",
                part.number, part.count
            );
            Err(whole_error(file.path(), message))
        }
    }
}
