//! Checkpoints of the shapes that loads are judged by, written once into a folder.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

/// Shapes of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One file, a tensor of 4 MiB and others of 16 MiB.
    One,
    /// The same tensors in eight files.
    Shards,
    /// One file of tensors of 1 to 64 KiB.
    Small,
}

const SHARDS: u64 = 8;
const TENSOR: u64 = 16 << 20;
const FIRST: u64 = 4 << 20;
const SMALL: u64 = 64 << 10;

impl Shape {
    /// The checkpoint of this shape and about so many bytes, made where it is not there yet.
    pub(crate) fn locate(self, folder: &Path, bytes: u64) -> io::Result<PathBuf> {
        let path = folder.join(format!("{self:?}-{bytes}").to_lowercase());
        if path.exists() {
            return Ok(path);
        }
        eprintln!("writing {}", path.display());
        let part = path.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)?;
        match self {
            Self::One => write_file(&part.join("model.safetensors"), &large(bytes))?,
            Self::Shards => {
                for shard in 1..=SHARDS {
                    let name = format!("model-{shard:05}-of-{SHARDS:05}.safetensors");
                    write_file(&part.join(name), &large(bytes / SHARDS))?;
                }
                write_index(&part, bytes / SHARDS)?;
            }
            Self::Small => {
                // Lengths that differ, half of the longest in the mean.
                let count = bytes / (SMALL / 2);
                let lens = (0..count).map(|index| 1024 + index * 7919 % (SMALL - 1024));
                write_file(&part.join("model.safetensors"), &lens.collect::<Vec<_>>())?;
            }
        }
        fs::rename(part, &path)?;
        Ok(path)
    }
}

fn large(bytes: u64) -> Vec<u64> {
    let count = usize::try_from(bytes / TENSOR).unwrap_or(usize::MAX);
    let mut lens = vec![TENSOR; count];
    if let Some(first) = lens.first_mut() {
        *first = FIRST;
    }
    lens
}

/// Writes tensors of these lengths.
fn write_file(path: &Path, lens: &[u64]) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut tensors = Map::new();
    let mut end = 0;
    for (index, len) in lens.iter().enumerate() {
        let start = end;
        end += len;
        let entry = json!({ "dtype": "U8", "shape": [len], "data_offsets": [start, end] });
        tensors.insert(name(&stem, index), entry);
    }
    let mut header = serde_json::to_string(&tensors)?;
    while header.len() % 8 > 0 {
        header.push(' ');
    }
    let mut file = BufWriter::with_capacity(4 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = fastrand::Rng::with_seed(end);
    let mut piece = vec![0; 1 << 20];
    while end > 0 {
        let len = usize::try_from(end).map_or(piece.len(), |end| end.min(piece.len()));
        random.fill(&mut piece[..len]);
        file.write_all(&piece[..len])?;
        end -= len as u64;
    }
    file.into_inner()?.sync_all()
}

fn write_index(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut map = Map::new();
    for shard in 1..=SHARDS {
        let stem = format!("model-{shard:05}-of-{SHARDS:05}");
        for index in 0..large(bytes).len() {
            map.insert(name(&stem, index), format!("{stem}.safetensors").into());
        }
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
}

fn name(stem: &str, index: usize) -> String {
    format!("{stem}.{index:06}")
}
