//! Linux and Android mechanisms of `weightloader`: readahead by splice, by madvise and through
//! io_uring, direct I/O, residency of the page cache, huge pages.
//!
//! Applications use the crate `weightloader`; this one is for those who put a
//! [`Platform`] together themselves.
#![cfg(any(target_os = "linux", target_os = "android"))]

mod advice;
mod block_device;
mod buffered_reader;
mod direct_file;
mod direct_reader;
mod facts;
mod filesystem;
mod free_blocks;
mod host_memory;
mod madvise_prefetcher;
mod mapped_file;
mod memory_limits;
mod own_descriptor;
mod pagemap;
mod pages;
mod residency;
mod small_region;
mod splice_prefetcher;
mod system;
mod system_calls;
#[cfg(feature = "io-uring")]
mod uring;
#[cfg(feature = "io-uring")]
mod uring_prefetcher;
#[cfg(feature = "io-uring")]
mod uring_reader;
mod usage;

use std::sync::Arc;

use loader_core::{Platform, Prefetcher, Reader, Refusal};

pub use buffered_reader::BufferedReader;
pub use direct_reader::DirectReader;
pub use host_memory::HugePageMemory;
pub use madvise_prefetcher::MadvisePrefetcher;
pub use splice_prefetcher::SplicePrefetcher;
pub use system::LinuxSystem;

#[cfg(feature = "io-uring")]
pub use uring_prefetcher::UringPrefetcher;
#[cfg(feature = "io-uring")]
pub use uring_reader::UringReader;

/// The mechanisms of this system, probed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Copier, Extent, Job, LoadOptions, Operation, WeightFile};
/// let (platform, options) = (loader_linux::platform(), LoadOptions::default());
/// for refusal in &platform.refusals {
///     println!("does not serve here: {refusal}");
/// }
/// let copier = Copier::new(&platform, &options);
/// let file = WeightFile::open(&path)?;
/// let plan = copier.plan(&[Extent { offset: 0, len: 7, destination: 0 }], 7)?;
/// let mut memory = [0; 7];
/// let job = Job { file, plan, destination: (&mut memory).into() };
/// copier.run(vec![job], Operation::new())?;
/// assert_eq!(&memory, b"weights");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn platform() -> Platform {
    let mut refusals = Vec::new();
    let direct = uring_reader().unwrap_or_else(|refusal| {
        refusals.push(refusal);
        Arc::new(DirectReader::new())
    });
    let mut prefetchers: Vec<Arc<dyn Prefetcher>> = vec![Arc::new(SplicePrefetcher)];
    // Why there is none has just been said of the reader.
    prefetchers.extend(uring_prefetcher().ok());
    prefetchers.push(Arc::new(MadvisePrefetcher));
    Platform {
        name: if cfg!(target_os = "android") {
            "Android"
        } else {
            "Linux"
        },
        prefetchers,
        buffered: Arc::new(BufferedReader::new()),
        direct: Ok(direct),
        memory: Arc::new(HugePageMemory),
        system: Arc::new(LinuxSystem),
        refusals,
    }
}

#[cfg(feature = "io-uring")]
fn uring_reader() -> Result<Arc<dyn Reader>, Refusal> {
    UringReader::probe().map(|reader| Arc::new(reader) as Arc<dyn Reader>)
}

#[cfg(feature = "io-uring")]
fn uring_prefetcher() -> Result<Arc<dyn Prefetcher>, Refusal> {
    UringPrefetcher::probe().map(|prefetcher| Arc::new(prefetcher) as Arc<dyn Prefetcher>)
}

#[cfg(not(feature = "io-uring"))]
fn uring_reader() -> Result<Arc<dyn Reader>, Refusal> {
    Err(built_without_io_uring())
}

#[cfg(not(feature = "io-uring"))]
fn uring_prefetcher() -> Result<Arc<dyn Prefetcher>, Refusal> {
    Err(built_without_io_uring())
}

#[cfg(not(feature = "io-uring"))]
fn built_without_io_uring() -> Refusal {
    let reason = "built without the feature io-uring";
    Refusal::new(loader_core::Mechanism::new("uring-direct"), reason)
}
