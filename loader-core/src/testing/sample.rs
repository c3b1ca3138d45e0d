//! Files to read.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::WeightFile;

/// `len` bytes that look random and are always the same for the same `seed`.
#[must_use]
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A file of known bytes, deleted when dropped.
#[derive(Debug)]
pub struct Sample {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Sample {
    /// Writes `len` bytes to a new file `name` in `folder`.
    ///
    /// # Panics
    /// Where the file cannot be written.
    #[must_use]
    pub fn new(folder: &Path, name: &str, len: usize) -> Self {
        Self::with_bytes(folder, name, bytes(len, len as u64))
    }

    /// Writes `bytes` to a new file `name` in `folder`.
    ///
    /// # Panics
    /// Where the file cannot be written.
    #[must_use]
    pub fn with_bytes(folder: &Path, name: &str, bytes: Vec<u8>) -> Self {
        let path = folder.join(name);
        fs::write(&path, &bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, bytes }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The written bytes of a range from the start of the file on disk.
    ///
    /// # Panics
    /// Where the range reaches outside.
    #[must_use]
    pub fn expected(&self, range: &Range<u64>) -> &[u8] {
        let index = |offset: u64| usize::try_from(offset).expect("samples fit into memory");
        &self.bytes[index(range.start)..index(range.end)]
    }

    /// Opens it.
    ///
    /// # Panics
    /// Where it cannot be opened.
    #[must_use]
    pub fn open(&self) -> WeightFile {
        WeightFile::open(&self.path).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Makes it shorter, or longer by a hole, on disk alone.
    ///
    /// # Errors
    /// The system's reason.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        File::options().write(true).open(&self.path)?.set_len(len)
    }

    /// Puts it on the device, so that its pages are clean and can be evicted.
    ///
    /// # Errors
    /// The system's reason.
    pub fn sync(&self) -> io::Result<()> {
        File::options().write(true).open(&self.path)?.sync_all()
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // A test may have deleted it.
        let _ = fs::remove_file(&self.path);
    }
}
