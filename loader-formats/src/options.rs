//! What can be chosen about opening a checkpoint.

/// How a checkpoint is opened; the defaults need no tuning.
///
/// ```
/// let options = loader_formats::OpenOptions::new().header_limit(1 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    pub(crate) header_limit: u64,
}

impl OpenOptions {
    /// The longest header read, unless chosen otherwise: 32 MiB.
    pub const DEFAULT_HEADER_LIMIT: u64 = 32 << 20;

    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header_limit: Self::DEFAULT_HEADER_LIMIT,
        }
    }

    /// The longest header read of any one file, in bytes; a longer one is an error.
    ///
    /// It bounds the memory that a hostile file can make its index take, to a few times as much.
    #[must_use]
    pub fn header_limit(mut self, bytes: u64) -> Self {
        self.header_limit = bytes;
        self
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}
