//! What is bound to the process that made it.

use crate::{Error, Result};

/// The process that made a handle.
///
/// Threads do not follow into a forked child, and a lock that one of them held at the fork is never
/// released there. So a handle that has threads at work asks this before it takes any lock, and is
/// inert in the child: it does nothing, waits for nothing and gives nothing back.
///
/// ```
/// # fn main() -> loader_core::Result<()> {
/// use loader_core::OwnerProcess;
/// let owner = OwnerProcess::current();
/// owner.check()?; // Would be `Error::Forked` in a child.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerProcess(u32);

impl OwnerProcess {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        Self(std::process::id())
    }

    /// Whether this is that process, and no child of it.
    #[must_use]
    pub fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Checks that this is that process.
    ///
    /// # Errors
    /// [`Error::Forked`] in a forked child.
    pub fn check(self) -> Result<()> {
        if self.is_current() {
            Ok(())
        } else {
            Err(Error::Forked)
        }
    }
}
