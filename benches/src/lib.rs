//! What the laboratories share.

#![cfg(target_os = "linux")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What all threads of this process have spent so far.
#[must_use]
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().unwrap_or_default()
}
