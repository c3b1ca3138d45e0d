//! Descriptors of one's own, since the kernel reads ahead by what was last read through a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use loader_core::WeightFile;
use rustix::fs::{Advice, fadvise};

/// The file opened once more, for one worker that reads it forwards.
pub(crate) fn reopened(file: &WeightFile) -> io::Result<File> {
    let own = File::open(format!("/proc/self/fd/{}", file.file().as_raw_fd()))?;
    if let Err(error) = fadvise(&own, 0, None, Advice::Sequential) {
        tracing::debug!(%error, "the readahead window stays as it is");
    }
    Ok(own)
}
