//! Windows mechanisms of `weightloader`: readahead by `PrefetchVirtualMemory`, memory by
//! `VirtualAlloc`.
//!
//! Empty on other systems.
#![cfg(windows)]

mod hint;
mod memory;
mod system;
mod virtual_memory;

use std::sync::Arc;

use loader_core::{Mechanism, Platform, PositionalReader, Refusal};

pub use memory::VirtualMemory;
pub use virtual_memory::VirtualMemoryPrefetcher;

/// The mechanisms of this system.
#[must_use]
pub fn platform() -> Platform {
    Platform {
        name: "Windows",
        prefetchers: vec![Arc::new(VirtualMemoryPrefetcher)],
        buffered: Arc::new(PositionalReader::new()),
        direct: Err(Refusal::new(
            Mechanism::DIRECT,
            "unbuffered reads are not implemented yet",
        )),
        memory: Arc::new(VirtualMemory),
        system: Arc::new(system::WindowsSystem),
        refusals: Vec::new(),
    }
}
