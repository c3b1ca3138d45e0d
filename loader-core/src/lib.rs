//! Platform-independent types, traits and the chunked parallel copier of `weightloader`.
//!
//! Bytes flow one way: a [`WeightFile`] is cut by a [`Plan`] into [`Chunk`]s, the residency of the
//! page cache decides which [`Reader`] takes each, and they land in a [`Destination`]. A
//! [`Platform`] brings the readers, prefetchers and memory of one operating system.
//!
//! Applications use the crate `weightloader`, which picks the platform; this one is for those who
//! write readers, prefetchers and uploaders.

mod approach;
mod blocking_engine;
mod budget;
mod coordinator;
mod copier;
mod crew;
mod destination;
mod error;
mod feeder;
mod file;
mod flight;
mod host_buffer;
mod layout;
mod mechanism;
mod new_thread;
mod operation;
mod options;
mod owner_process;
mod pace;
mod pages;
mod plan;
mod platform;
mod positional;
mod positional_reader;
mod prefault;
mod prefetch;
mod prefetcher;
mod queue;
mod read_engine;
mod reader;
mod report;
mod residency;
mod route;
mod run;
mod slabs;
mod slot_stream;
mod staging;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timeline;
mod transfer;
mod turns;
mod upload;
mod uploader;

pub use blocking_engine::BlockingEngine;
pub use budget::processors;
pub use copier::{Copier, Job};
pub use destination::Destination;
pub use error::{Error, Result};
pub use file::WeightFile;
pub use flight::serve;
pub use host_buffer::{Backing, HeapMemory, HostBuffer, HostMemory, HostRegion};
pub use layout::{Layout, Placement};
pub use mechanism::Mechanism;
pub use new_thread::new_thread;
pub use operation::{CancelToken, Operation, Progress};
pub use options::{CachePolicy, LoadOptions, Strategy, StreamOrder};
pub use owner_process::OwnerProcess;
pub use plan::{Chunk, Extent, Plan};
pub use platform::{Advice, Fact, Platform, System};
pub use positional_reader::PositionalReader;
pub use prefetch::{Prefetch, PrefetchOutcome, PrefetchQueue, prefetch};
pub use prefetcher::Prefetcher;
pub use queue::{Queue, Task, TaskRun};
pub use read_engine::{DirectRead, ReadEngine};
pub use reader::{Reader, Support};
pub use report::{Refusal, Report, Usage};
pub use residency::{ResidencyMap, ResidencyRun};
pub use slot_stream::{FilledSlot, SlotStream, StreamSlot};
pub use stream::{Stream, StreamItem, StreamedBytes};
pub use upload::{fill, upload};
pub use uploader::{HostUploader, Landing, Slot, StagedPart, TensorPlacement, Uploader};
