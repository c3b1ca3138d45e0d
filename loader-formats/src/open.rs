//! From a path to a checkpoint: which format it is written in.

use std::path::Path;

use loader_core::{Error, Result, WeightFile};

#[cfg(not(feature = "gguf"))]
use crate::disabled::gguf;
#[cfg(not(feature = "safetensors"))]
use crate::disabled::safetensors;
#[cfg(feature = "gguf")]
use crate::gguf;
#[cfg(feature = "safetensors")]
use crate::safetensors;
use crate::{Checkpoint, Format, OpenOptions, folder};

/// Opens a file or a folder, with the files that belong to it.
pub(crate) fn path(path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let _span = tracing::debug_span!("open", path = %path.display()).entered();
    let checkpoint = of_path(path, options)?;
    tell(&checkpoint);
    Ok(checkpoint)
}

/// Opens one file and no other.
pub(crate) fn file(file: WeightFile, options: &OpenOptions) -> Result<Checkpoint> {
    let _span = tracing::debug_span!("open", path = %file.path().display()).entered();
    let checkpoint = of_file(file, options)?;
    tell(&checkpoint);
    Ok(checkpoint)
}

/// Tells what was found.
fn tell(checkpoint: &Checkpoint) {
    tracing::debug!(
        format = %checkpoint.format(),
        files = checkpoint.files().len(),
        tensors = checkpoint.tensors().len(),
        bytes = checkpoint.bytes(),
        "index read"
    );
}

fn of_path(path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        action: "open",
        source,
    })?;
    if metadata.is_dir() {
        return folder::open(path, options);
    }
    if is_index(path) {
        return safetensors::open_index(path, options);
    }
    let file = WeightFile::open(path)?;
    match format(&file, options)? {
        Format::Safetensors => safetensors::open(vec![file], options),
        Format::Gguf => gguf::open_split(file, options),
        Format::Raw => Ok(Checkpoint::raw(file)),
    }
}

fn of_file(file: WeightFile, options: &OpenOptions) -> Result<Checkpoint> {
    match format(&file, options)? {
        Format::Safetensors => safetensors::open(vec![file], options),
        Format::Gguf => gguf::open(file, options),
        Format::Raw => Ok(Checkpoint::raw(file)),
    }
}

/// Whether a path is named as a safetensors index is.
pub(crate) fn is_index(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// The format of a file, by its first bytes, then by its extension.
fn format(file: &WeightFile, options: &OpenOptions) -> Result<Format> {
    let mut start = [0; 9];
    let len = usize::try_from(file.len()).map_or(start.len(), |len| len.min(start.len()));
    file.read_exact_at(&mut start[..len], 0)?;
    if start.starts_with(b"GGUF") {
        return Ok(Format::Gguf);
    }
    let [length @ .., brace] = start;
    let length = u64::from_le_bytes(length);
    // A length that reaches beyond the end is believed where it is moderate: of a file that was cut
    // short one wants to hear just that, not to have it taken for raw bytes.
    let plausible = length < file.len() || length <= options.header_limit;
    if brace == b'{' && plausible {
        return Ok(Format::Safetensors);
    }
    let whole = file.len() == file.disk_len();
    let extension = file.path().extension().filter(|_| whole);
    Ok(match extension.and_then(|extension| extension.to_str()) {
        Some("safetensors") => Format::Safetensors,
        Some("gguf") => Format::Gguf,
        _ => Format::Raw,
    })
}
