//! Files that are written as a whole or not at all.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// A file in the making. Until it is finished, what was there before by its name is there still.
///
/// A program that is killed may leave a hidden `.part` behind, beside it.
#[derive(Debug)]
pub(crate) struct WholeFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// A file under another name, which takes that of `target` once it is complete.
    Beside {
        part: NamedTempFile<File>,
        target: PathBuf,
    },
    /// What the path itself leads to.
    InPlace(File),
}

impl WholeFile {
    /// Begins to write to `path`: to a regular file by way of another beside it; to a pipe or a
    /// device, and where the folder takes no other file, in place.
    ///
    /// A file that is there is replaced, keeps who may do what with it, and must be one that could
    /// be written to.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        Self::begin(path).map_err(Failure::file(path, "create"))
    }

    fn begin(path: &Path) -> io::Result<Self> {
        let sink = match File::options().write(true).open(path) {
            Ok(existing) => Sink::over(existing, path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Sink::beside(path.to_path_buf())?,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_path_buf(),
            sink,
        })
    }

    /// Puts the file, which is complete, where it belongs.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Sink::Beside { part, target } = self.sink else {
            return Ok(());
        };
        // Closed first: on Windows an open file keeps its name.
        let mut part = part.into_temp_path();
        // Not by the crate's own way of keeping it, which stops at long paths on Windows.
        fs::rename(&part, target).map_err(Failure::file(&self.path, "create"))?;
        part.disable_cleanup(true);
        Ok(())
    }
}

impl Sink {
    fn over(existing: File, path: &Path) -> io::Result<Self> {
        match existing.metadata() {
            Ok(metadata) if metadata.is_file() => Self::replacing(path, &metadata).or_else(|_| {
                existing.set_len(0)?;
                Ok(Self::InPlace(existing))
            }),
            _ => Ok(Self::InPlace(existing)),
        }
    }

    fn replacing(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        // A link stays what it is; the file that it leads to is replaced.
        let sink = Self::beside(fs::canonicalize(path)?)?;
        if let Self::Beside { part, .. } = &sink {
            fs::set_permissions(part.path(), metadata.permissions())?;
        }
        Ok(sink)
    }

    fn beside(target: PathBuf) -> io::Result<Self> {
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Made as any new file is, rather than for its owner alone as temporary ones are.
        let part = tempfile::Builder::new()
            .prefix(".weightloader-")
            .suffix(".part")
            .make_in(folder, |path| File::create_new(path))?;
        Ok(Self::Beside { part, target })
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Beside { part, .. } => part.as_file_mut().write(bytes),
            Sink::InPlace(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Beside { part, .. } => part.as_file_mut().flush(),
            Sink::InPlace(file) => file.flush(),
        }
    }
}
