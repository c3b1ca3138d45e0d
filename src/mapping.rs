//! Memory mappings: for those who accept what they bring.

use std::ops::{Deref, RangeBounds};

use loader_core::{Advice, Error, Result, WeightFile};
use memmap2::{Mmap, MmapOptions};

/// A read-only mapping of part of a file.
#[derive(Debug)]
pub struct Mapping {
    /// `None` for a mapping of no bytes, which systems refuse.
    map: Option<Mmap>,
}

/// Maps `range` of `file` into memory, without reading anything yet.
///
/// Bytes are read as they are touched, a page fault at a time: see [`prefetch`](crate::prefetch())
/// to bring them in ahead. Copies made by [`read_into`](crate::read_into) need no mapping.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// let file = weightloader::WeightFile::open(&path)?;
/// // SAFETY: nobody changes or truncates the file while it is mapped.
/// let weights = unsafe { weightloader::map(&file, 4..) }?;
/// assert_eq!(&weights[..], b"weights");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::OutOfBounds`], or [`Error::Io`] where the system refuses (some network filesystems do).
///
/// # Safety
/// For as long as the mapping lives nobody, in this process or another, may change or truncate the
/// file: changed bytes are undefined behaviour for those who read them as plain memory, and
/// touching bytes beyond a new end, or bytes that the device fails to deliver, kills the process
/// (SIGBUS; an in-page error on Windows).
pub unsafe fn map(file: &WeightFile, range: impl RangeBounds<u64>) -> Result<Mapping> {
    let range = file.range(range)?;
    let too_long = |_| Error::OutOfMemory {
        needed: range.end - range.start,
        available: usize::MAX as u64,
        limit: "address space",
    };
    let len = usize::try_from(range.end - range.start).map_err(too_long)?;
    if len == 0 {
        return Ok(Mapping { map: None });
    }
    // SAFETY: the caller's promise.
    let map = unsafe {
        MmapOptions::new()
            .offset(range.start)
            .len(len)
            .map(file.file())
    };
    match map {
        Ok(map) => Ok(Mapping { map: Some(map) }),
        Err(source) => Err(Error::Io {
            path: file.path().to_path_buf(),
            action: "map into memory",
            source,
        }),
    }
}

impl Mapping {
    /// Advises the system how the mapping will be used.
    ///
    /// Systems follow as far as they like: one [`Advice::WillNeed`] over a large mapping makes Linux
    /// read its first few MiB only. [`prefetch`](crate::prefetch()) asks in pieces that are really
    /// read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system has no such call or refuses it.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        match &self.map {
            Some(map) => crate::platform().system.advise(map, advice),
            None => Ok(()),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
