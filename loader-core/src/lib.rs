//! Platform-independent types, traits and the chunked parallel copier of `weightloader`.

mod error;
mod file;
mod mechanism;
mod positional;

pub use error::{Error, Result};
pub use file::WeightFile;
pub use mechanism::Mechanism;
