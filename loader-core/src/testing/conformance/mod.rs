//! What every reader and every prefetcher has to do, as suites that the tests of each call.
//!
//! A suite prints `skipped: reason` where the implementation refuses to serve in the folder given,
//! and panics, saying what was expected, where it serves but falls short.

mod prefetcher;
mod reader;

pub use prefetcher::prefetcher;
pub use reader::reader;
