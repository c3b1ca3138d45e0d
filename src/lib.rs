//! Moves machine-learning weights from a file into the memory that will use them, as fast as the
//! device under the file can give them, with one default that needs no tuning.
//!
//! ```
//! # fn main() -> weightloader::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("weights.bin");
//! # std::fs::write(&path, [7; 1000]).unwrap();
//! # fn initialise_everything_else() {}
//! use weightloader::WeightFile;
//!
//! // An early hint, other work, the copy later.
//! let file = WeightFile::open(&path)?;
//! let ahead = weightloader::prefetch(&file, ..)?; // returns at once, whatever the size
//! initialise_everything_else();
//! let mut destination = vec![0; 1000];
//! weightloader::read_into(&file, .., &mut destination)?; // chunked and parallel
//! # drop(ahead);
//!
//! // A whole checkpoint: safetensors, GGUF or raw bytes, a file or a folder of shards.
//! let model = weightloader::load(&path)?;
//! for tensor in model.tensors() {
//!     println!("{} {} {:?} {} bytes", tensor.name(), tensor.dtype(), tensor.shape(), tensor.bytes().len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `io-uring` | yes | direct reads with a deep queue and readahead through io_uring, on Linux |
//! | `safetensors` | yes | safetensors files and folders with `model.safetensors.index.json` |
//! | `gguf` | yes | GGUF files, versions 2 and 3, split files included |
//! | `vulkan` | no | uploads into the buffers of a GPU: `weightloader::vulkan` |
//! | `metal` | no | uploads into Metal buffers, on macOS and iOS: `weightloader::metal` |
//!
//! # What a profiler sees
//!
//! Every phase is told to whatever subscriber of [`tracing`](https://docs.rs/tracing) the program
//! has, at debug level. Spans nest across threads, within the span of whoever called:
//!
//! | span | what it spans | its fields |
//! |---|---|---|
//! | `open` | reading the headers of a checkpoint | `path` |
//! | `prefetch` | a prefetch in the background | `path`, `bytes` |
//! | `copy` | one operation, from the question what is resident to the last byte | `bytes`, `files` |
//! | `worker` | a thread at work for a `copy` | `name` |
//! | `read` | a reader at work in a worker | `mechanism` |
//! | `stream` | the background of a stream, its `copy` within | `items` |
//! | `upload` | an upload, its `copy` within | `uploader` |
//!
//! Events tell what was found and decided: `index read`, `residency`, `route`, `falling back`,
//! `prefetching`, `prefetched`, `prepared`, `copied`, `uploaded`.
//!
//! # Known limits
//!
//! - Linux tells what is cached only to those who own the file or may write it; for others it is
//!   sampled. Windows tells nobody: it is estimated from a few timed reads. On Android nobody may
//!   ask, so reads go through the page cache.
//! - On Windows nothing can be evicted from the page cache.
//! - A file must not change while it is read. Where it does, the bytes read are a mix of old and
//!   new; where it becomes shorter, that is an error. Nothing raises SIGBUS unless a mapping is
//!   asked for, which is `unsafe`.

// The examples of the README are compiled as those here are.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod builder;
mod defaults;
mod environment;
mod loader;
mod mapping;
mod model;
mod platform;
mod read_request;
mod stream;
mod upload;

pub use builder::LoaderBuilder;
pub use defaults::{load, prefetch, read_into};
pub use loader::Loader;
pub use loader_core::{
    Advice, CachePolicy, CancelToken, Destination, Error, Extent, Fact, HostBuffer, HostUploader,
    LoadOptions, Mechanism, Operation, Placement, Prefetch, PrefetchOutcome, Progress, Refusal,
    Report, ResidencyMap, ResidencyRun, Result, Strategy, Stream, StreamOrder, StreamedBytes,
    TensorPlacement, Uploader, Usage, WeightFile,
};
pub use loader_formats::{Checkpoint, Dtype, Format, OpenOptions, TensorInfo};
pub use mapping::{Mapping, map};
pub use model::{Model, Tensor};
// The platform, and what it alone has.
pub use platform::*;
pub use read_request::ReadRequest;
pub use stream::{StreamedTensor, TensorStream};
pub use upload::Uploaded;

#[cfg(feature = "vulkan")]
pub use loader_vulkan as vulkan;

/// The traits and types that readers, prefetchers and uploaders are written with.
pub mod core {
    pub use loader_core::*;
}
