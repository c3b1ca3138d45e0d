//! The sample checkpoint, for those who have none at hand.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, json};
use weightloader::{Loader, WeightFile};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Bar;
use crate::{cache, units};

/// Size of the sample, where there is room for it.
const USUAL: u64 = 1 << 30;

/// Smaller ones tell nothing about a disk.
const LEAST: u64 = 16 << 20;

/// The sample takes at most this part of the free space and of the free memory.
const PART: u64 = 4;

/// The sample checkpoint in the user's cache folder, made where there is none yet.
///
/// `bytes` is its size; by default what suits the disk and the memory.
pub(crate) fn locate(
    loader: &Loader,
    bytes: Option<u64>,
    output: &Output,
) -> Result<PathBuf, Failure> {
    let Some(caches) = dirs::cache_dir() else {
        let reason = "this user has no cache folder for a sample checkpoint; name a file to load";
        return Err(Failure::Message(reason.to_owned()));
    };
    let folder = caches.join("weightloader");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder, "make the folder"))?;
    let memory = loader.platform().system.available_memory();
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => suitable(&folder, memory)?,
    };
    let path = name(&folder, bytes);
    if path.is_file() {
        let path = path.display();
        output.note(format_args!("no file named: using the sample {path}"));
    } else {
        output.note(format_args!(
            "no file named: writing a sample of {}, random weights, to {}, for this time and the next",
            units::bytes(bytes),
            path.display()
        ));
        write(&folder, &path, &Shapes::of(bytes))?;
        forget(loader, &path);
    }
    Ok(path)
}

/// The largest size, halving from the usual one, that is there already or leaves enough room.
fn suitable(folder: &Path, memory: Option<u64>) -> Result<u64, Failure> {
    let room = fs4::available_space(folder).map_err(Failure::file(folder, "ask for free space"))?;
    let memory = memory.unwrap_or(u64::MAX);
    let mut bytes = USUAL;
    while bytes >= LEAST {
        let there = name(folder, bytes).is_file() || bytes <= room / PART;
        if there && bytes <= memory / PART {
            return Ok(bytes);
        }
        bytes /= 2;
    }
    Err(Failure::Message(format!(
        "{}: {} of disk and {} of memory are free, too little for a sample checkpoint; name a file to load",
        folder.display(),
        units::bytes(room),
        units::bytes(memory),
    )))
}

fn name(folder: &Path, bytes: u64) -> PathBuf {
    let size = match (bytes >> 30, bytes >> 20) {
        (gib, _) if gib << 30 == bytes => format!("{gib}GiB"),
        (_, mib) if mib << 20 == bytes => format!("{mib}MiB"),
        _ => format!("{bytes}B"),
    };
    folder.join(format!("sample-{size}.safetensors"))
}

/// Writes under another name first, so that a sample is complete or not there at all.
fn write(folder: &Path, path: &Path, shapes: &Shapes) -> Result<(), Failure> {
    remove_leftovers(folder);
    let failed = |error| Failure::file(path, "write the sample checkpoint")(error);
    let mut part = tempfile::Builder::new()
        .prefix("sample-")
        .suffix(".part")
        .tempfile_in(folder)
        .map_err(failed)?;
    fill(part.as_file_mut(), shapes).map_err(failed)?;
    part.as_file().sync_all().map_err(failed)?;
    part.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn fill(file: &mut File, shapes: &Shapes) -> std::io::Result<()> {
    const PIECE: usize = 4 << 20;
    let mut file = BufWriter::with_capacity(0, file);
    let header = shapes.header();
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let bytes = shapes.bytes();
    let bar = Bar::bytes("writing", bytes);
    let mut random = fastrand::Rng::with_seed(bytes);
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < bytes {
        let len = usize::try_from(bytes - done).map_or(PIECE, |rest| rest.min(PIECE));
        random.fill(&mut piece[..len]);
        file.write_all(&piece[..len])?;
        done += len as u64;
        bar.set(done);
    }
    file.flush()
}

/// Removes what was left behind by programs that were killed while writing a sample.
fn remove_leftovers(folder: &Path) {
    const SURELY_DEAD: Duration = Duration::from_secs(3600);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let part = entry.path().extension().is_some_and(|end| end == "part");
        let age = entry.metadata().and_then(|data| data.modified());
        let old = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > SURELY_DEAD));
        if part && old {
            // Its owner's affair, where it cannot be removed.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Drops what was just written from the page cache: nobody starts with a file in memory.
fn forget(loader: &Loader, path: &Path) {
    // A sample that stays cached is as good, only faster.
    let _ = WeightFile::open(path)
        .map_err(Failure::from)
        .and_then(|file| cache::evict(loader, &[file]));
}

/// The tensors of a small transformer, in the order of the file: names and shapes, all BF16.
#[derive(Debug)]
struct Shapes(Vec<(String, Vec<u64>)>);

/// Bytes of a BF16 element.
const ELEMENT: u64 = 2;

impl Shapes {
    /// Layers for some three quarters of `weights` bytes, and a vocabulary that fills them up.
    fn of(weights: u64) -> Self {
        let widths = [2048, 1024, 512, 256, 128, 64, 32];
        let hidden = widths
            .into_iter()
            .find(|hidden| weights / layer_bytes(*hidden) >= 8)
            .unwrap_or(16);
        let layers = weights / 4 * 3 / layer_bytes(hidden);
        let rest = weights - layers * layer_bytes(hidden);
        // The embedding and the head are of one shape; the last norm is one row.
        let row = ELEMENT * hidden;
        let vocabulary = (rest.div_ceil(row).saturating_sub(1)).div_ceil(2);
        let mut shapes = vec![(
            "model.embed_tokens.weight".to_owned(),
            vec![vocabulary, hidden],
        )];
        for layer in 0..layers {
            for (part, shape) in layer_shapes(hidden) {
                shapes.push((format!("model.layers.{layer}.{part}.weight"), shape));
            }
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
        Self(shapes)
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, shape)| bytes_of(shape)).sum()
    }

    /// The header, padded so that the weights begin at a multiple of eight bytes, as the format's
    /// own writer does it.
    fn header(&self) -> String {
        let mut entries = Map::new();
        let about = json!({ "format": "pt", "made_by": "weightloader: random weights" });
        entries.insert("__metadata__".to_owned(), about);
        let mut at = 0;
        for (name, shape) in &self.0 {
            let end = at + bytes_of(shape);
            let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
            entries.insert(name.clone(), entry);
            at = end;
        }
        let mut header = serde_json::Value::Object(entries).to_string();
        while header.len() % 8 != 0 {
            header.push(' ');
        }
        header
    }
}

fn bytes_of(shape: &[u64]) -> u64 {
    ELEMENT * shape.iter().product::<u64>()
}

fn layer_bytes(hidden: u64) -> u64 {
    layer_shapes(hidden)
        .iter()
        .map(|(_, shape)| bytes_of(shape))
        .sum()
}

fn layer_shapes(hidden: u64) -> [(&'static str, Vec<u64>); 9] {
    let (keys, inner) = (hidden / 4, hidden / 4 * 11);
    [
        ("input_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![hidden, hidden]),
        ("self_attn.k_proj", vec![keys, hidden]),
        ("self_attn.v_proj", vec![keys, hidden]),
        ("self_attn.o_proj", vec![hidden, hidden]),
        ("post_attention_layernorm", vec![hidden]),
        ("mlp.gate_proj", vec![inner, hidden]),
        ("mlp.up_proj", vec![inner, hidden]),
        ("mlp.down_proj", vec![hidden, inner]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_size_that_was_asked_for() {
        for bytes in [1 << 17, 1 << 20, 16 << 20, 100 << 20, 1 << 30, 3 << 30] {
            let shapes = Shapes::of(bytes);
            let more = shapes.bytes() - bytes;
            assert!(more <= 2 * ELEMENT * 2048, "{more} more than {bytes}");
            assert!(shapes.header().len() < 64 << 10);
            assert!(shapes.0.iter().all(|(_, shape)| !shape.contains(&0)));
        }
    }
}
