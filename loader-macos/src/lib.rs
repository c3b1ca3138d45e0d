//! macOS mechanisms of `weightloader`: readahead by madvise(2) and by `F_RDADVISE`, residency by
//! mincore(2), page-aligned memory.
//!
//! Empty on other systems. It is type-checked but not yet run on macOS; what decides anything here
//! (pieces, rounding, counting) is in `loader-core`, where it is tested on every system.
#![cfg(target_vendor = "apple")]

mod advisory_read;
mod mapping;
mod memory;
mod system;

use std::sync::Arc;

use loader_core::{Mechanism, Platform, PositionalReader, Refusal};

pub use advisory_read::AdvisoryReadPrefetcher;
pub use mapping::MadvisePrefetcher;
pub use memory::AnonymousMemory;

/// The mechanisms of this system.
#[must_use]
pub fn platform() -> Platform {
    Platform {
        name: "macOS",
        prefetchers: vec![
            Arc::new(MadvisePrefetcher),
            Arc::new(AdvisoryReadPrefetcher),
        ],
        buffered: Arc::new(PositionalReader::new()),
        direct: Err(Refusal::new(
            Mechanism::DIRECT,
            "reads with F_NOCACHE are not implemented yet",
        )),
        memory: Arc::new(AnonymousMemory),
        system: Arc::new(system::MacSystem),
        refusals: Vec::new(),
    }
}
