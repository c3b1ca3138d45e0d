//! Windows mechanisms of `weightloader`: unbuffered overlapped reads, buffered reads, readahead by
//! `PrefetchVirtualMemory`, an estimate of residency, memory by `VirtualAlloc`.
//!
//! Empty on other systems.
#![cfg(windows)]

mod buffered_reader;
mod completion_port;
mod facts;
mod handle;
mod hint;
mod memory;
mod overlapped_reader;
mod system;
mod timed_probes;
mod unbuffered_file;
mod virtual_memory;
mod working_set;

use std::sync::Arc;

use loader_core::Platform;

pub use buffered_reader::BufferedReader;
pub use memory::VirtualMemory;
pub use overlapped_reader::OverlappedReader;
pub use system::WindowsSystem;
pub use virtual_memory::VirtualMemoryPrefetcher;

/// The mechanisms of this system.
#[must_use]
pub fn platform() -> Platform {
    Platform {
        name: "Windows",
        prefetchers: vec![Arc::new(VirtualMemoryPrefetcher)],
        buffered: Arc::new(BufferedReader::new()),
        direct: Ok(Arc::new(OverlappedReader::new())),
        memory: Arc::new(VirtualMemory),
        system: Arc::new(WindowsSystem),
        refusals: Vec::new(),
    }
}
