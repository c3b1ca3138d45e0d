//! Files that no proper program would write, and a place to put them.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::path::Path;

use loader_core::{Error, Result, WeightFile};
use loader_formats::{Checkpoint, OpenOptions};

/// A safetensors file of this header and so many bytes of data.
pub(crate) fn safetensors(header: &str, data_len: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_len, 0x5a);
    file
}

/// A safetensors header of these tensors.
pub(crate) fn header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a str, Vec<u64>, [u64; 2])>,
) -> String {
    let tensors: Vec<String> = tensors
        .into_iter()
        .map(|(name, dtype, shape, offsets)| {
            let name = serde_json::Value::from(name);
            format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#)
        })
        .collect();
    format!("{{{}}}", tensors.join(","))
}

/// A GGUF file in the making; counts are those of what was added unless set.
#[derive(Clone, Debug)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) key_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) alignment: usize,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Vec<u8>>,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            key_count: None,
            tensor_count: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Adds a key with the type and the bytes of its value.
    pub(crate) fn key(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.keys
            .push([&text(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.key(key.as_bytes(), 4, &value.to_le_bytes())
    }

    pub(crate) fn u16(self, key: &str, value: u16) -> Self {
        self.key(key.as_bytes(), 2, &value.to_le_bytes())
    }

    pub(crate) fn tensor(mut self, name: &[u8], shape: &[u64], kind: u32, offset: u64) -> Self {
        let mut tensor = text(name);
        tensor.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        tensor.extend(shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
        tensor.extend(kind.to_le_bytes());
        tensor.extend(offset.to_le_bytes());
        self.tensors.push(tensor);
        self
    }

    /// The header, padded.
    pub(crate) fn header(&self) -> Vec<u8> {
        let count = |given: Option<u64>, list: &[Vec<u8>]| given.unwrap_or(list.len() as u64);
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(count(self.tensor_count, &self.tensors).to_le_bytes());
        file.extend(count(self.key_count, &self.keys).to_le_bytes());
        file.extend(self.keys.concat());
        file.extend(self.tensors.concat());
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file
    }

    /// The file with so many bytes of data.
    pub(crate) fn with_data(&self, len: usize) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len() + len, 0x5a);
        file
    }
}

/// A GGUF string: its length and its bytes.
pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// A GGUF array of so many elements of a type, with their bytes.
pub(crate) fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

/// Opens bytes as a file without an extension.
pub(crate) fn open(bytes: &[u8]) -> Result<Checkpoint> {
    open_with(bytes, &OpenOptions::new())
}

pub(crate) fn open_with(bytes: &[u8], options: &OpenOptions) -> Result<Checkpoint> {
    open_named("file", bytes, options)
}

pub(crate) fn open_named(name: &str, bytes: &[u8], options: &OpenOptions) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    Checkpoint::from_file_with(WeightFile::open(path)?, options)
}

/// The path, offset and message of a format error.
pub(crate) fn format_error(
    result: Result<Checkpoint>,
) -> (std::path::PathBuf, Option<u64>, String) {
    match result {
        Err(Error::Format {
            path,
            offset,
            message,
        }) => (path, offset, message),
        other => panic!("expected a format error, got {other:?}"),
    }
}

/// Asserts that opening `path` fails with a format error that names `at` and says `message`.
pub(crate) fn refused(path: &Path, at: &Path, message: &str) {
    let (path, _, found) = format_error(Checkpoint::open(path));
    assert_eq!(path, at, "{found}");
    assert!(found.contains(message), "expected {message:?} in {found:?}");
}

/// Asserts what every index promises.
pub(crate) fn assert_sound(checkpoint: &Checkpoint) {
    let mut free_from = vec![0; checkpoint.files().len()];
    let mut names = std::collections::BTreeSet::new();
    for tensor in checkpoint.tensors() {
        let (range, file) = (tensor.range(), tensor.file());
        assert!(range.start <= range.end, "{tensor:?}");
        assert!(
            range.end <= checkpoint.files()[file].len(),
            "{tensor:?} lies outside its file"
        );
        assert_eq!(tensor.bytes(), range.end - range.start);
        let elements: u128 = tensor
            .shape()
            .iter()
            .map(|&dimension| u128::from(dimension))
            .product();
        let (per_block, bytes) = tensor.dtype().block();
        let expected = elements * u128::from(bytes);
        assert_eq!(
            u128::from(tensor.bytes()) * u128::from(per_block),
            expected,
            "{tensor:?}"
        );
        if !range.is_empty() {
            assert!(range.start >= free_from[file], "{tensor:?} overlaps");
            free_from[file] = range.end;
        }
        assert!(names.insert(tensor.name()), "{tensor:?} is there twice");
        assert_eq!(checkpoint.tensor(tensor.name()).unwrap(), tensor);
    }
    assert!(
        checkpoint
            .tensors()
            .is_sorted_by_key(|tensor| (tensor.file(), tensor.range().start))
    );
}
