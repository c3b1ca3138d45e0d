//! What is bound to the process that made it: threads do not follow into a forked child, and a lock
//! that one of them held is never released there.

use weightloader::Error;

use crate::failure::Result;

/// The process that made an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker(u32);

impl Maker {
    /// This process.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Checks that this is no child of it; to be asked before any lock of the object is taken.
    pub(crate) fn check(self) -> Result<()> {
        if self.0 == std::process::id() {
            Ok(())
        } else {
            Err(Error::Forked.into())
        }
    }
}
