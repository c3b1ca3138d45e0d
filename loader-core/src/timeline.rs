//! What happens when, for whoever draws a timeline of an operation.
//!
//! Events of level `TRACE` with [`TARGET`] as their target: nothing but a look at one flag where
//! nobody listens. Their message says what happens, [`READ_BEGINS`] and so on; `offset` (bytes from
//! the start of the file on disk, or of memory) and `len` (bytes) say to what.

/// The target of these events.
pub const TARGET: &str = "weightloader::timeline";

/// A reader takes a chunk, to read it at once.
pub const READ_BEGINS: &str = "read begins";
/// The first `len` bytes of what was left of a chunk are in place.
pub const READ_LANDED: &str = "read landed";
/// Memory is being faulted in ahead of the reads into it, by the thread that tells.
pub const FAULT_BEGINS: &str = "fault begins";
/// Memory was faulted in, by the thread that tells.
pub const FAULT_ENDS: &str = "fault ends";

pub(crate) fn read_begins(file: usize, offset: u64, len: usize) {
    tracing::trace!(target: TARGET, file, offset, len, "{READ_BEGINS}");
}

pub(crate) fn read_landed(file: usize, offset: u64, len: usize) {
    tracing::trace!(target: TARGET, file, offset, len, "{READ_LANDED}");
}

/// Tells of `fault` while it runs.
pub(crate) fn faulting(len: usize, fault: impl FnOnce()) {
    tracing::trace!(target: TARGET, len, "{FAULT_BEGINS}");
    fault();
    tracing::trace!(target: TARGET, len, "{FAULT_ENDS}");
}
