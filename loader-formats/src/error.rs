//! What is said of a header that does not hold what its format says.

use std::fmt;
use std::path::Path;

use loader_core::Error;
#[cfg(any(feature = "safetensors", feature = "gguf"))]
use loader_core::WeightFile;

/// A format error at `offset` bytes from the start of `file`.
#[cfg(any(feature = "safetensors", feature = "gguf"))]
pub(crate) fn format_error(file: &WeightFile, offset: u64, message: impl fmt::Display) -> Error {
    Error::Format {
        path: file.path().to_path_buf(),
        offset: Some(file.base().saturating_add(offset)),
        message: message.to_string(),
    }
}

/// A format error of all that lies at `path`: of a file, or of a folder.
pub(crate) fn whole_error(path: &Path, message: impl fmt::Display) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        offset: None,
        message: message.to_string(),
    }
}

/// A name out of a header, quoted, and cut where it is long: it may be as long as the header.
#[cfg(any(feature = "safetensors", feature = "gguf"))]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

#[cfg(any(feature = "safetensors", feature = "gguf"))]
impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}…", &self.0[..cut]),
        }
    }
}
