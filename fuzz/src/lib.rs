//! What the fuzz targets share: bytes as a file, and what an index that comes of it must promise.
//!
//! From the root of the repository, with the fixtures as a start:
//!
//! ```sh
//! cargo +nightly fuzz run safetensors fuzz/corpus/safetensors loader-formats/tests/fixtures
//! cargo +nightly fuzz run gguf fuzz/corpus/gguf loader-formats/tests/fixtures
//! ```

use std::fs::File;
use std::io::{Seek, Write};

use loader_core::WeightFile;
use loader_formats::{Checkpoint, TensorInfo};

thread_local! {
    static FILE: File = tempfile::tempfile().expect("a temporary file");
}

/// Opens bytes as a file of that name and checks what comes of it.
pub fn check(name: &str, bytes: &[u8]) {
    FILE.with(|mut file| {
        file.rewind().expect("rewind");
        file.write_all(bytes).expect("write");
        file.set_len(bytes.len() as u64).expect("set length");
        let file = file.try_clone().expect("clone");
        let file = WeightFile::from_file(file, name).expect("a regular file");
        if let Ok(checkpoint) = Checkpoint::from_file(file) {
            check_index(&checkpoint, bytes.len() as u64);
        }
    });
}

fn check_index(checkpoint: &Checkpoint, file_len: u64) {
    let mut free_from = 0;
    for tensor in checkpoint.tensors() {
        let range = tensor.range();
        assert!(
            range.start <= range.end && range.end <= file_len,
            "{tensor:?} lies outside"
        );
        assert_eq!(Some(tensor.bytes()), bytes_of(tensor), "{tensor:?}");
        if !range.is_empty() {
            assert!(range.start >= free_from, "{tensor:?} overlaps");
            free_from = range.end;
        }
        let found = checkpoint
            .tensor(tensor.name())
            .expect("a tensor is found by its name");
        assert!(
            std::ptr::eq(found, tensor),
            "two tensors are named {:?}",
            tensor.name()
        );
    }
}

fn bytes_of(tensor: &TensorInfo) -> Option<u64> {
    let mut shape = tensor.shape().iter();
    let elements = shape.try_fold(1_u64, |product, &dimension| product.checked_mul(dimension))?;
    tensor.dtype().bytes_of(elements)
}
