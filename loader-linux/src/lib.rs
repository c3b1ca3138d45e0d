//! Linux and Android mechanisms of `weightloader`: madvise, io_uring, direct I/O, residency of the
//! page cache, huge pages.
//!
//! Applications use the crate `weightloader`; this one is for those who put a
//! [`Platform`] together themselves.
#![cfg(any(target_os = "linux", target_os = "android"))]

mod filesystem;
mod host_memory;
mod residency;
mod system;
mod system_calls;
mod usage;

use std::sync::Arc;

use loader_core::{Mechanism, Platform, PositionalReader, Refusal};

pub use host_memory::HugePageMemory;
pub use system::LinuxSystem;

/// The mechanisms of this system, probed.
#[must_use]
pub fn platform() -> Platform {
    Platform {
        name: if cfg!(target_os = "android") { "Android" } else { "Linux" },
        prefetchers: Vec::new(),
        buffered: Arc::new(PositionalReader::new()),
        direct: Err(Refusal::new(Mechanism::DIRECT, "not probed")),
        memory: Arc::new(HugePageMemory),
        system: Arc::new(LinuxSystem),
    }
}
