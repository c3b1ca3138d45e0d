//! Backends that do nothing or misbehave on purpose, and the suites that every reader and
//! prefetcher passes.
//!
//! Behind the feature `testing`; not covered by semantic versioning. Everything here panics where
//! an expectation is not met, with a message that says which.

mod faulty_reader;
mod gated_prefetcher;
mod guarded;
mod null_prefetcher;
mod sample;
mod system;
mod watchdog;

pub mod conformance;

pub use faulty_reader::{Fault, FaultyReader};
pub use gated_prefetcher::GatedPrefetcher;
pub use guarded::Guarded;
pub use null_prefetcher::NullPrefetcher;
pub use sample::{Sample, bytes};
pub use system::{Residency, TestSystem, platform};
pub use watchdog::Watchdog;
