//! What most need, in one call, with the default options.

use std::ops::RangeBounds;
use std::path::Path;

use loader_core::{Destination, Operation, Prefetch, Report, Result, WeightFile};

use crate::{Loader, Model};

/// Loads a checkpoint with the default options: a file of safetensors, GGUF or raw bytes, or a
/// folder of shards.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// let model = weightloader::load(&path)?;
/// for tensor in model.tensors() {
///     println!("{}: {} bytes", tensor.name(), tensor.bytes().len());
///     assert_eq!(tensor.bytes(), b"biasweights");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Loader::new`], [`Loader::open`] and [`Loader::load`].
pub fn load(path: impl AsRef<Path>) -> Result<Model> {
    let loader = Loader::new()?;
    loader.load(&loader.open(path)?, Operation::new())
}

/// Reads `range` of `file` into memory with the default options.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// let file = weightloader::WeightFile::open(&path)?;
/// let mut weights = [0; 7];
/// weightloader::read_into(&file, 4.., &mut weights)?;
/// assert_eq!(&weights, b"weights");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Loader::new`] and [`Loader::read_into`].
pub fn read_into<'d>(
    file: &WeightFile,
    range: impl RangeBounds<u64>,
    destination: impl Into<Destination<'d>>,
) -> Result<Report> {
    Loader::new()?.read_into(file, range, destination, Operation::new())
}

/// Brings `range` of `file` into the page cache in the background. Returns at once, whatever the
/// size.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// use weightloader::{Operation, WeightFile};
/// let file = WeightFile::open(&path)?;
/// let ahead = weightloader::prefetch(&file, ..)?;
/// // Other work comes here. A read would take over what has not begun; this waits for all.
/// let outcome = ahead.wait(Operation::new())?;
/// println!("{} bytes are near", outcome.brought);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Loader::new`] and [`Loader::prefetch`].
pub fn prefetch(file: &WeightFile, range: impl RangeBounds<u64>) -> Result<Prefetch> {
    Loader::new()?.prefetch(file, range)
}
