//! What is read: a regular file, or a blob inside a larger one.

use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::positional::{self, FileId};
use crate::{Error, Result};

/// An open regular file of weights, or a slice of one.
///
/// Cloning is cheap and shares the open file. Offsets given to its methods count from the start
/// of the slice; offsets in errors and chunks count from the start of the file on disk.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("weights.bin");
/// std::fs::write(&path, b"headerweights")?;
/// let file = loader_core::WeightFile::open(&path)?;
/// let blob = file.slice(6, 7)?;
/// let mut bytes = [0; 7];
/// blob.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(&bytes, b"weights");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WeightFile {
    inner: Arc<OpenFile>,
    base: u64,
    len: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    id: FileId,
    len: u64,
}

impl WeightFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::NotRegular`] where it is a directory, a
    /// fifo, a socket or a device (a fifo is not waited for).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = positional::open(path).map_err(|source| {
            // What cannot be opened may be of the wrong kind: a socket, a folder on Windows.
            let kind = std::fs::metadata(path);
            match kind.map_or(Ok(()), |metadata| check_regular(path, &metadata)) {
                Err(not_regular) => not_regular,
                Ok(()) => Error::Io {
                    path: path.to_path_buf(),
                    action: "open",
                    source,
                },
            }
        })?;
        let metadata = examine(&file, path)?;
        Ok(Self::new(file, path.to_path_buf(), &metadata))
    }

    /// Takes an open file; `path` is its name in errors and reports.
    ///
    /// It must be open for reading. On Linux, a file that is open for direct I/O is opened anew
    /// without it, since small reads and warm ones go through the page cache; direct reads are
    /// arranged beside them where they serve. Its position is neither used nor kept.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be examined, is not open for reading or cannot be opened anew,
    /// [`Error::NotRegular`] where it is not a regular file.
    pub fn from_file(file: File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        // First of all: pipes know flags of the same names that mean something else.
        let metadata = examine(&file, &path)?;
        match positional::for_buffered_reads(file) {
            Ok(file) => Ok(Self::new(file, path, &metadata)),
            Err(source) => Err(Error::Io {
                path,
                action: "read through what was given",
                source,
            }),
        }
    }

    fn new(file: File, path: PathBuf, metadata: &Metadata) -> Self {
        let len = metadata.len();
        let id = FileId::of(&file, metadata, &path);
        Self {
            inner: Arc::new(OpenFile {
                file,
                path,
                id,
                len,
            }),
            base: 0,
            len,
        }
    }

    /// Takes a file that somebody else holds open, by its descriptor, or on Windows by the value of
    /// its handle, which stays theirs: a duplicate is kept. `path` is its name in errors and
    /// reports.
    ///
    /// Everything else is as for [`from_file`](Self::from_file). Reads through a Windows handle that
    /// is open for overlapped I/O are waited for.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), and [`Error::Io`] where there is no such descriptor.
    ///
    /// # Safety
    /// Nobody closes the descriptor before this returns.
    pub unsafe fn from_descriptor(descriptor: isize, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        // SAFETY: the caller's promise.
        match unsafe { positional::duplicate(descriptor) } {
            Ok(file) => Self::from_file(file, path),
            Err(source) => Err(Error::Io {
                path,
                action: "duplicate the descriptor of",
                source,
            }),
        }
    }

    /// The `len` bytes at `offset` as a file of their own.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where the slice reaches outside this file.
    pub fn slice(&self, offset: u64, len: u64) -> Result<Self> {
        let range = self.checked(offset, len)?;
        Ok(Self {
            inner: Arc::clone(&self.inner),
            base: range.start,
            len,
        })
    }

    /// The name it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Where it begins in the file on disk, in bytes; zero unless it is a slice.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes, as it was when the file was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Length of the whole file on disk in bytes, as it was when it was opened.
    #[must_use]
    pub fn disk_len(&self) -> u64 {
        self.inner.len
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.inner.file
    }

    /// The range in bytes from the start of the file on disk.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where it reaches outside this file or ends before it begins.
    pub fn range(&self, range: impl RangeBounds<u64>) -> Result<Range<u64>> {
        let start = match range.start_bound() {
            Bound::Included(&start) => Some(start),
            Bound::Excluded(&start) => start.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.checked_add(1),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => Some(self.len),
        };
        match (start, end) {
            (Some(start), Some(end)) if start <= end => self.checked(start, end - start),
            (start, _) => Err(self.out_of_bounds(start.unwrap_or(u64::MAX), 0)),
        }
    }

    /// Reads exactly `buffer.len()` bytes at `offset`: for headers; weights go through a copier.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::UnexpectedEof`] where the file became shorter,
    /// [`Error::Read`].
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let range = self.checked(offset, buffer.len() as u64)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = range.start + done as u64;
            let rest = buffer.len() - done;
            // SAFETY: `u8` and `MaybeUninit<u8>` have the same layout, and `read_at` stores only
            // bytes that a read initialised, so the slice stays initialised.
            let target: &mut [MaybeUninit<u8>] =
                unsafe { std::slice::from_raw_parts_mut(buffer[done..].as_mut_ptr().cast(), rest) };
            match positional::read_at(&self.inner.file, target, at) {
                Ok(0) => return Err(self.unexpected_eof(at, rest as u64)),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.read_failed(at, rest as u64, source)),
            }
        }
        Ok(())
    }

    /// Whether both are the same file on disk.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.inner.id == other.inner.id
    }

    /// Whether both go through the same open file, and not only to the same file on disk.
    pub(crate) fn shares_open_file(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn id(&self) -> &FileId {
        &self.inner.id
    }

    pub(crate) fn read_failed(&self, offset: u64, len: u64, source: io::Error) -> Error {
        Error::Read {
            path: self.path().to_path_buf(),
            offset,
            len,
            source,
        }
    }

    pub(crate) fn unexpected_eof(&self, offset: u64, len: u64) -> Error {
        Error::UnexpectedEof {
            path: self.path().to_path_buf(),
            offset,
            len,
        }
    }

    fn checked(&self, offset: u64, len: u64) -> Result<Range<u64>> {
        match offset.checked_add(len) {
            // The slice lies within the file, so adding its base cannot overflow.
            Some(end) if end <= self.len => Ok(self.base + offset..self.base + end),
            _ => Err(self.out_of_bounds(offset, len)),
        }
    }

    fn out_of_bounds(&self, offset: u64, len: u64) -> Error {
        Error::OutOfBounds {
            path: self.path().to_path_buf(),
            offset: self.base.saturating_add(offset),
            len,
            file_len: self.len,
        }
    }
}

/// What the system says of `file`, which must be a regular one.
fn examine(file: &File, path: &Path) -> Result<Metadata> {
    let metadata = file.metadata().map_err(|source| Error::Io {
        path: path.to_path_buf(),
        action: "examine",
        source,
    })?;
    check_regular(path, &metadata)?;
    Ok(metadata)
}

fn check_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    let found = if metadata.is_file() {
        return Ok(());
    } else if metadata.is_dir() {
        "a directory"
    } else {
        "a fifo, socket or device"
    };
    Err(Error::NotRegular {
        path: path.to_path_buf(),
        found,
    })
}
