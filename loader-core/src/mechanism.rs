//! Names of the ways in which bytes move.

use std::fmt;

/// A way to move bytes or to bring them near, by its name: what reports and errors speak of.
///
/// ```
/// use loader_core::Mechanism;
/// assert_eq!(Mechanism::BUFFERED.to_string(), "buffered");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mechanism(&'static str);

impl Mechanism {
    /// Positional reads through the page cache.
    pub const BUFFERED: Self = Self("buffered");
    /// Reads past the page cache, straight into the destination.
    pub const DIRECT: Self = Self("direct");
    /// Reads past the page cache into a slab, copied from there.
    pub const DIRECT_BOUNCED: Self = Self("direct-bounced");
    /// A copy out of a memory mapping.
    pub const MAPPED: Self = Self("mapped");

    /// A mechanism of another name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name: lower case, words joined by hyphens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
