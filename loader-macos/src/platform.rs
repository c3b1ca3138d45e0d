//! What this system has to offer.

use std::sync::Arc;

use loader_core::{Platform, PositionalReader};

use crate::{AdvisoryReadPrefetcher, AnonymousMemory, MacSystem, MadvisePrefetcher, NocacheReader};

/// The mechanisms of this system.
#[must_use]
pub fn platform() -> Platform {
    Platform {
        name: match std::env::consts::OS {
            "macos" => "macOS",
            "ios" => "iOS",
            other => other,
        },
        prefetchers: vec![
            Arc::new(MadvisePrefetcher),
            Arc::new(AdvisoryReadPrefetcher),
        ],
        buffered: Arc::new(PositionalReader::new()),
        direct: Ok(Arc::new(NocacheReader)),
        memory: Arc::new(AnonymousMemory),
        system: Arc::new(MacSystem),
        refusals: Vec::new(),
    }
}
