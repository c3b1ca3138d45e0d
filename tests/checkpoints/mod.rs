//! Checkpoints of known bytes, written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A checkpoint on disk, and what is in it.
pub(crate) struct Written {
    _folder: TempDir,
    /// The file, or the folder of shards.
    pub(crate) path: PathBuf,
    /// Names and bytes, in the order of the files.
    pub(crate) tensors: Vec<(String, Vec<u8>)>,
}

impl Written {
    /// One safetensors file with tensors of these lengths.
    pub(crate) fn single(lens: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensors = tensors(0, lens);
        write(&path, &tensors);
        Self {
            _folder: folder,
            path,
            tensors,
        }
    }

    /// A folder of safetensors files, each with tensors of these lengths.
    pub(crate) fn sharded(shards: &[Vec<usize>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let mut all = Vec::new();
        let mut map = String::new();
        for (index, lens) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
            let tensors = tensors(index, lens);
            write(&path.join(&file), &tensors);
            for (name, _) in &tensors {
                let comma = if map.is_empty() { "" } else { "," };
                write!(map, "{comma}\"{name}\":\"{file}\"").unwrap();
            }
            all.extend(tensors);
        }
        let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{map}}}}}");
        fs::write(path.join("model.safetensors.index.json"), index).unwrap();
        Self {
            _folder: folder,
            path,
            tensors: all,
        }
    }

    /// How many bytes all tensors have.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum()
    }
}

fn tensors(shard: usize, lens: &[usize]) -> Vec<(String, Vec<u8>)> {
    let tensor = |(index, len): (usize, &usize)| {
        let seed = (shard * 1000 + index) as u64;
        let bytes = loader_core::testing::bytes(*len, seed);
        (format!("shard{shard}.tensor{index}"), bytes)
    };
    lens.iter().enumerate().map(tensor).collect()
}

/// Writes the format as its documentation says: the header's length, the header, the bytes.
fn write(path: &Path, tensors: &[(String, Vec<u8>)]) {
    let mut header = String::from("{");
    let mut at = 0;
    for (name, bytes) in tensors {
        let comma = if at == 0 && header.len() == 1 {
            ""
        } else {
            ","
        };
        let (len, end) = (bytes.len(), at + bytes.len());
        write!(
            header,
            "{comma}\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[{at},{end}]}}"
        )
        .unwrap();
        at = end;
    }
    header.push('}');
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    for (_, bytes) in tensors {
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}
