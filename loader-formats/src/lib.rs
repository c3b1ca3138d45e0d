//! Headers of safetensors, GGUF and raw checkpoints as one tensor index.
//!
//! [`Checkpoint::open`] reads the headers of a file, of a folder of shards or of a split file, and
//! nothing else: it tells where each tensor lies, and leaves it to others to bring the bytes.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("embedding.bin");
//! # std::fs::write(&path, [0; 24])?;
//! let checkpoint = loader_formats::Checkpoint::open(&path)?;
//! for tensor in checkpoint.tensors() {
//!     let file = &checkpoint.files()[tensor.file()];
//!     println!("{} {} {:?}: {:?} of {}",
//!         tensor.name(), tensor.dtype(), tensor.shape(), tensor.range(), file.path().display());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Headers are not believed
//! Every length, offset and count of a header is checked before it is used, nothing is allocated
//! for what a header merely claims, and no header is read beyond [`OpenOptions::header_limit`]. An
//! index that was opened promises: each tensor lies within its file and is as long as its shape and
//! dtype say, no two tensors of a file share a byte, none of its bytes lie unused between them but for
//! GGUF's padding, and no two have the same name.
//!
//! # Features
//! - `safetensors` (default): safetensors files and folders of them.
//! - `gguf` (default): GGUF files.
//!
//! Files of a format whose feature is off are recognised and refused, not taken for raw ones.

#![forbid(unsafe_code)]

mod checkpoint;
#[cfg(not(all(feature = "safetensors", feature = "gguf")))]
mod disabled;
mod dtype;
mod error;
mod folder;
#[cfg(feature = "gguf")]
mod gguf;
#[cfg(any(feature = "safetensors", feature = "gguf"))]
mod header;
#[cfg(any(feature = "safetensors", feature = "gguf"))]
mod join;
#[cfg(feature = "safetensors")]
mod json;
mod open;
mod options;
#[cfg(feature = "safetensors")]
mod safetensors;
mod shard_name;
mod tensor;

pub use checkpoint::{Checkpoint, Format};
pub use dtype::Dtype;
pub use options::OpenOptions;
pub use tensor::TensorInfo;
