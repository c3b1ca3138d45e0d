//! Which checkpoint a folder holds.

use std::path::{Path, PathBuf};

use loader_core::{Error, Result, WeightFile};

#[cfg(not(feature = "gguf"))]
use crate::disabled::gguf;
#[cfg(not(feature = "safetensors"))]
use crate::disabled::safetensors;
use crate::error::whole_error;
#[cfg(feature = "gguf")]
use crate::gguf;
#[cfg(feature = "safetensors")]
use crate::safetensors;
use crate::shard_name::ShardName;
use crate::{Checkpoint, OpenOptions, open};

/// The index that a folder is opened by where it has several.
const MAIN_INDEX: &str = "model.safetensors.index.json";

/// Opens the one checkpoint of a folder.
pub(crate) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let listing = Listing::of(folder)?;
    if let Some(index) = listing.index(folder)? {
        return safetensors::open_index(index, options);
    }
    match (&*listing.safetensors, &*listing.gguf) {
        ([], []) => Err(whole_error(
            folder,
            "the folder has no .safetensors or .gguf files",
        )),
        (shards, []) => {
            check_complete(folder, shards)?;
            let files = shards.iter().map(WeightFile::open).collect::<Result<_>>()?;
            safetensors::open(files, options)
        }
        ([], [first, others @ ..]) => {
            let split = ShardName::of(first);
            let same = |other| match (&split, ShardName::of(other)) {
                (Some(split), Some(other)) => split.is_sibling(&other),
                _ => false,
            };
            if let Some(other) = others.iter().find(|other| !same(other)) {
                return Err(ambiguous(folder, first, other));
            }
            gguf::open_split(WeightFile::open(first)?, options)
        }
        ([first, ..], [other, ..]) => Err(ambiguous(folder, first, other)),
    }
}

/// The files of a folder that may be of use, by name.
#[derive(Default)]
struct Listing {
    indexes: Vec<PathBuf>,
    safetensors: Vec<PathBuf>,
    gguf: Vec<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let failed = |source| Error::Io {
            path: folder.to_path_buf(),
            action: "list",
            source,
        };
        let mut listing = Self::default();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // macOS leaves files like ._model.safetensors on filesystems that are not its own.
            let hidden = path
                .file_name()
                .is_none_or(|name| name.to_string_lossy().starts_with('.'));
            let kind = match path.extension().and_then(|extension| extension.to_str()) {
                _ if hidden => continue,
                Some("safetensors") => &mut listing.safetensors,
                Some("gguf") => &mut listing.gguf,
                _ if open::is_index(&path) => &mut listing.indexes,
                _ => continue,
            };
            // Links lead to where the files are; a link to nowhere stays, to be an error.
            if !path.is_dir() {
                kind.push(path);
            }
        }
        listing.indexes.sort_unstable();
        listing.safetensors.sort_unstable();
        listing.gguf.sort_unstable();
        Ok(listing)
    }

    /// The index to open the folder by, if there is any.
    fn index(&self, folder: &Path) -> Result<Option<&Path>> {
        let main = self
            .indexes
            .iter()
            .find(|index| index.ends_with(MAIN_INDEX));
        match (main, &*self.indexes) {
            (Some(index), _) | (None, [index]) => Ok(Some(index)),
            (None, []) => Ok(None),
            (None, [first, other, ..]) => Err(ambiguous(folder, first, other)),
        }
    }
}

/// Checks that of each set of numbered shards all are there.
fn check_complete(folder: &Path, shards: &[PathBuf]) -> Result<()> {
    let mut names: Vec<_> = shards
        .iter()
        .filter_map(|path| ShardName::of(path))
        .collect();
    names.sort_unstable();
    for set in names.chunk_by(ShardName::is_sibling) {
        let wanted = 1..=set[0].count;
        let found = set.iter().map(|name| name.number);
        // Both in order, and a name cannot be there twice.
        if let Some((missing, _)) = wanted
            .zip(found.map(Some).chain(std::iter::repeat(None)))
            .find(|&(wanted, found)| found != Some(wanted))
        {
            let missing = set[0].sibling(missing);
            let message = format!("the shard {} is missing", missing.display());
            return Err(whole_error(folder, message));
        }
    }
    Ok(())
}

fn ambiguous(folder: &Path, one: &Path, other: &Path) -> Error {
    let (one, other) = (one.display(), other.display());
    whole_error(
        folder,
        format_args!("which one is meant, {one} or {other}? Give its path"),
    )
}
