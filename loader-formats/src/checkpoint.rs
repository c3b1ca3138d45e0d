//! The tensor index of one file or of many shards.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use loader_core::{Error, Result, WeightFile};

use crate::{Dtype, OpenOptions, TensorInfo, open};

/// What a checkpoint is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// safetensors, in one file or in shards.
    Safetensors,
    /// GGUF, in one file or split.
    Gguf,
    /// Bytes without a header.
    Raw,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Raw => "raw",
        })
    }
}

/// The tensor index of one file or of many shards.
///
/// Cloning is cheap and shares the index and the open files.
#[derive(Clone)]
pub struct Checkpoint {
    index: Arc<Index>,
}

pub(crate) struct Index {
    pub(crate) format: Format,
    pub(crate) files: Vec<WeightFile>,
    /// By file, then by offset.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Places in `tensors`, by name.
    pub(crate) by_name: Vec<u32>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Whether no tensor was dropped.
    pub(crate) whole: bool,
    /// What named the shards.
    pub(crate) shard_index: Option<PathBuf>,
}

impl Checkpoint {
    /// Opens a checkpoint by its path and reads its headers.
    ///
    /// - A file is recognised by its first bytes, then by its extension (`.safetensors`, `.gguf`).
    ///   Any other file is raw: one tensor of dtype [`U8`](Dtype::U8), named as the file without
    ///   its extension.
    /// - A part of a split GGUF file (`…-00002-of-00003.gguf`) brings all its parts.
    /// - An index (`….index.json`) brings the shards that it names, all from its own folder.
    /// - A folder is opened by `model.safetensors.index.json` where it has one, else by its only
    ///   other index, else as all of its `.safetensors` files together, else as its only GGUF
    ///   file, split or not. Names that begin with a dot are passed over.
    ///
    /// # Errors
    /// [`Error::Format`] where a header does not hold what its format says, where a folder has no
    /// checkpoint or more than one, where shards are missing, and where a needed feature of this
    /// crate is off. [`Error::Io`], [`Error::NotRegular`], [`Error::Read`] and
    /// [`Error::UnexpectedEof`] where a file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::new())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        open::path(path.as_ref(), options)
    }

    /// Reads the header of an open file, or of a checkpoint inside a larger file.
    ///
    /// The format is found as [`open`](Self::open) finds it. No other file is opened: a part of a
    /// split GGUF file is an error.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Read`] and [`Error::UnexpectedEof`], as [`open`](Self::open).
    pub fn from_file(file: WeightFile) -> Result<Self> {
        Self::from_file_with(file, &OpenOptions::new())
    }

    /// As [`from_file`](Self::from_file), with options.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_file_with(file: WeightFile, options: &OpenOptions) -> Result<Self> {
        open::file(file, options)
    }

    /// The whole of a file, whatever it holds, as one tensor of dtype [`U8`](Dtype::U8), named as
    /// the file without its extension.
    #[must_use]
    pub fn raw(file: WeightFile) -> Self {
        let name = file
            .path()
            .file_stem()
            .map_or_else(|| "raw".into(), |stem| stem.to_string_lossy());
        let shape = Box::new([file.len()]);
        let tensor = TensorInfo::new(name.into(), Dtype::U8, shape, 0..file.len());
        Self::from(Index {
            format: Format::Raw,
            files: vec![file],
            tensors: vec![tensor],
            by_name: vec![0],
            metadata: BTreeMap::new(),
            whole: true,
            shard_index: None,
        })
    }

    /// The files, in the order of their names.
    #[must_use]
    pub fn files(&self) -> &[WeightFile] {
        &self.index.files
    }

    /// The index (`….index.json`) that named the shards, where one did. It is none of
    /// [`files`](Self::files), which hold tensors.
    #[must_use]
    pub fn shard_index(&self) -> Option<&Path> {
        self.index.shard_index.as_deref()
    }

    /// The tensors, by file and then by offset.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.index.tensors
    }

    /// The tensor of that name, found by binary search.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let Index {
            tensors, by_name, ..
        } = &*self.index;
        let named = |place: u32| &tensors[place as usize];
        by_name
            .binary_search_by(|&place| named(place).name().cmp(name))
            .map(|found| named(by_name[found]))
            .map_err(|_| Error::NoSuchTensor {
                name: name.to_owned(),
            })
    }

    /// What the checkpoint is written in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.index.format
    }

    /// The tensors that `keep` says yes to, in the same files.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("blob");
    /// # std::fs::write(&path, [0; 24])?;
    /// # let checkpoint = loader_formats::Checkpoint::open(&path)?;
    /// let layer = checkpoint.select(|tensor| tensor.name().starts_with("model.layers.7."));
    /// assert!(layer.bytes() <= checkpoint.bytes());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn select(&self, mut keep: impl FnMut(&TensorInfo) -> bool) -> Self {
        let old = &*self.index;
        let mut tensors = Vec::new();
        // Where each kept tensor went.
        let places: Vec<Option<u32>> = old
            .tensors
            .iter()
            .map(|tensor| {
                keep(tensor).then(|| {
                    tensors.push(tensor.clone());
                    // There are no more than before, and those could be counted.
                    u32::try_from(tensors.len() - 1).unwrap_or(u32::MAX)
                })
            })
            .collect();
        let by_name = old
            .by_name
            .iter()
            .filter_map(|&place| places[place as usize])
            .collect();
        Self::from(Index {
            format: old.format,
            files: old.files.clone(),
            whole: old.whole && tensors.len() == old.tensors.len(),
            tensors,
            by_name,
            metadata: old.metadata.clone(),
            shard_index: old.shard_index.clone(),
        })
    }

    /// Whether all tensors of the files are here: [`select`](Self::select) has dropped none.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.index.whole
    }

    /// Bytes of all tensors together, without headers and gaps.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // The tensors of one file fit into it, but sparse files may together claim more bytes than
        // can be counted.
        self.index
            .tensors
            .iter()
            .map(TensorInfo::bytes)
            .fold(0, u64::saturating_add)
    }

    /// What the headers say besides tensors: `__metadata__` of safetensors; the scalars and strings
    /// of GGUF, as text, without its arrays.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.index.metadata
    }
}

impl fmt::Debug for Checkpoint {
    /// Counts the tensors rather than listing them: there may be many thousands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("format", &self.index.format)
            .field("files", &self.index.files)
            .field("tensors", &self.index.tensors.len())
            .field("bytes", &self.bytes())
            .field("whole", &self.index.whole)
            .finish_non_exhaustive()
    }
}

impl From<Index> for Checkpoint {
    fn from(index: Index) -> Self {
        Self {
            index: Arc::new(index),
        }
    }
}
