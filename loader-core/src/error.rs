//! The one error type of the workspace.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::{Mechanism, Refusal};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the file, the offset and what was expected where they apply.
///
/// Offsets are in bytes from the start of the file on disk, also for a [`WeightFile`] that is a
/// slice of a larger file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// use loader_core::{Error, WeightFile};
/// let file = WeightFile::open(&path)?;
/// match file.slice(4, 7) {
///     Err(Error::OutOfBounds { offset, len, file_len, .. }) => {
///         assert_eq!((offset, len, file_len), (4, 7, 7));
///     }
///     other => panic!("bytes that are not there: {other:?}"),
/// }
/// // In words, with the path.
/// let missing = WeightFile::open(folder.path().join("none")).unwrap_err();
/// assert!(missing.to_string().contains("cannot open"));
/// # Ok(())
/// # }
/// ```
///
/// [`WeightFile`]: crate::WeightFile
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Opening or examining a file failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb: "open", "map into memory".
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },

    /// The path names something other than a regular file.
    #[error("{}: expected a regular file, found {found}", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What it is instead: "a directory", "a fifo or device".
        found: &'static str,
    },

    /// A read failed.
    #[error("{}: cannot read {len} bytes at offset {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where the read began, in bytes from the start of the file.
        offset: u64,
        /// How many bytes were asked for.
        len: u64,
        /// The operating system's reason.
        source: io::Error,
    },

    /// The file ended before the bytes that it held when it was opened: it was truncated meanwhile.
    #[error(
        "{}: the file ends within the {len} bytes expected at offset {offset}; was it truncated while it was read?",
        path.display()
    )]
    UnexpectedEof {
        /// The file.
        path: PathBuf,
        /// Where bytes were expected and none came, in bytes from the start of the file.
        offset: u64,
        /// How many bytes were still expected there.
        len: u64,
    },

    /// A range reaches outside its file.
    #[error("{}: {len} bytes at offset {offset} reach outside the {file_len} bytes there are", path.display())]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// Where the range begins.
        offset: u64,
        /// How many bytes it spans.
        len: u64,
        /// How many bytes there are.
        file_len: u64,
    },

    /// A header does not hold what its format says, or a folder no checkpoint.
    #[error("{}: {}{message}", path.display(), Place(*offset))]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes; `None` where the whole file or folder is meant.
        offset: Option<u64>,
        /// What was expected and what was found.
        message: String,
    },

    /// The checkpoint has no tensor of that name.
    #[error("no tensor is named {name:?}")]
    NoSuchTensor {
        /// The name asked for.
        name: String,
    },

    /// The memory given does not fit what should land in it.
    #[error("the destination holds {actual} bytes where {expected} are needed")]
    Destination {
        /// Bytes needed.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },

    /// Two pieces were to land on the same bytes.
    #[error("two pieces would land on the same bytes, at {first} and {second} of the destination")]
    OverlappingDestinations {
        /// Where the first begins, in bytes from the start of the destination.
        first: u64,
        /// Where the second begins.
        second: u64,
    },

    /// The memory is not there, or a limit forbids to take it.
    #[error("{needed} bytes of memory are needed, {available} are available ({limit})")]
    OutOfMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
        /// What bounds them: "free memory", "cgroup limit", "address space".
        limit: &'static str,
    },

    /// A mechanism that the caller forced cannot serve here.
    #[error("{mechanism} cannot be used here: {reason}")]
    Unsupported {
        /// The mechanism.
        mechanism: Mechanism,
        /// Why not.
        reason: String,
    },

    /// An option or environment variable has a value that makes no sense.
    #[error("{option}: {value:?} given, expected {expected}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// What would be valid.
        expected: &'static str,
    },

    /// The operation was cancelled by its token.
    #[error("cancelled")]
    Cancelled,

    /// A handle was used in a process forked after it was made: the threads behind it are not here.
    #[error("this handle belongs to the parent process and does nothing after a fork")]
    Forked,

    /// A reader returned without having filled all that it took.
    #[error("{mechanism} gave up a chunk without filling it or saying why")]
    Abandoned {
        /// The reader's mechanism.
        mechanism: Mechanism,
    },

    /// An uploader could not take the bytes.
    #[error("the {uploader} uploader failed: {message}")]
    Upload {
        /// The uploader's name.
        uploader: &'static str,
        /// What happened.
        message: String,
    },
}

/// What a mechanism refuses that nothing else may do instead.
impl From<Refusal> for Error {
    fn from(Refusal { mechanism, reason }: Refusal) -> Self {
        Self::Unsupported { mechanism, reason }
    }
}

/// `at offset 7: `, where there is one.
struct Place(Option<u64>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, "at offset {offset}: "),
            None => Ok(()),
        }
    }
}
