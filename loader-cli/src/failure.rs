//! What can go wrong in a command.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command failed, in one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Loader(#[from] weightloader::Error),
    #[error("{}: cannot {action}: {source}", path.display())]
    File {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("cannot write to standard output: {0}")]
    Stdout(io::Error),
    #[error("{0}")]
    Message(String),
}

impl Failure {
    /// What to do with the error of trying to `action` the file at `path`.
    pub(crate) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File {
            path,
            action,
            source,
        }
    }

    /// Whether whoever reads the output has enough, as `head` does: nothing to complain about, and no
    /// failure either. Elsewhere a signal ends a program then, without a word.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        match self {
            // Files that are pipes: /dev/stdout, or one with a name.
            Self::Stdout(error) | Self::File { source: error, .. } => {
                error.kind() == io::ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }
}
