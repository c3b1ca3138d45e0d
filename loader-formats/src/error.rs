//! What is said of a header that does not hold what its format says.

use std::fmt;

use loader_core::{Error, WeightFile};

/// A format error at `offset` bytes from the start of `file`.
pub(crate) fn format_error(file: &WeightFile, offset: u64, message: impl fmt::Display) -> Error {
    Error::Format {
        path: file.path().to_path_buf(),
        offset: file.base().saturating_add(offset),
        message: message.to_string(),
    }
}

/// A name out of a header, quoted, and cut where it is long: it may be as long as the header.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}…", &self.0[..cut]),
        }
    }
}
