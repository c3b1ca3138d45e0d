//! Files written by the reference implementations, compared with what those read from them.

#![cfg(all(feature = "safetensors", feature = "gguf"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::path::{Path, PathBuf};

use loader_formats::Checkpoint;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a checkpoint holds, in the words of `make.py`.
fn described(checkpoint: &Checkpoint) -> Value {
    let tensors: Vec<Value> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| {
            let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
            let file = &checkpoint.files()[tensor.file()];
            file.read_exact_at(&mut bytes, tensor.range().start)
                .unwrap();
            json!({
                "name": tensor.name(),
                "dtype": tensor.dtype().to_string(),
                "shape": tensor.shape(),
                "file": tensor.file(),
                "offset": tensor.range().start,
                "bytes": tensor.bytes(),
                "crc32": crc32(&bytes),
            })
        })
        .collect();
    json!({
        "format": checkpoint.format().to_string(),
        "metadata": checkpoint.metadata(),
        "tensors": tensors,
    })
}

/// The checksum that zlib computes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| match sum & 1 {
            0 => sum >> 1,
            _ => sum >> 1 ^ 0xedb8_8320,
        })
    })
}

#[test]
fn every_fixture_reads_as_the_reference_reads_it() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    for (name, expected) in expected() {
        let checkpoint = Checkpoint::open(folder().join(&name)).unwrap();
        assert_eq!(described(&checkpoint), expected, "{name}");
        assert!(checkpoint.is_whole());
        let bytes: u64 = checkpoint
            .tensors()
            .iter()
            .map(|tensor| tensor.bytes())
            .sum();
        assert_eq!(checkpoint.bytes(), bytes);
    }
}

#[test]
fn any_part_of_a_split_file_brings_all() {
    for number in 1..=3 {
        let path = folder().join(format!("split/model-{number:05}-of-00003.gguf"));
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(described(&checkpoint), expected()["split"]);
    }
}

#[test]
fn an_index_can_be_named_itself() {
    let path = folder().join("sharded/model.safetensors.index.json");
    assert_eq!(
        described(&Checkpoint::open(path).unwrap()),
        expected()["sharded"]
    );
}

#[test]
fn a_checkpoint_inside_a_larger_file_is_read_from_there() {
    for name in ["dtypes.safetensors", "types.gguf"] {
        let content = std::fs::read(folder().join(name)).unwrap();
        let packed = tempfile::NamedTempFile::new().unwrap();
        let larger = [&b"head "[..], &content, b" and tail"].concat();
        std::fs::write(packed.path(), larger).unwrap();
        let whole = loader_core::WeightFile::open(packed.path()).unwrap();
        let slice = whole.slice(5, content.len() as u64).unwrap();
        let checkpoint = Checkpoint::from_file(slice).unwrap();
        assert_eq!(described(&checkpoint), expected()[name]);
    }
}
