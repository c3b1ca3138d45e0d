//! `weightloader info`: the index of a checkpoint.

use std::collections::BTreeMap;

use serde::Serialize;
use weightloader::{Checkpoint, TensorInfo};

use crate::arguments::Info;
use crate::failure::Failure;
use crate::listing;
use crate::output::Output;
use crate::units;

#[derive(Debug, Serialize)]
struct Index<'c> {
    path: String,
    format: String,
    /// Of the tensors.
    bytes: u64,
    tensors: Vec<Tensor<'c>>,
    files: &'c [File],
    metadata: &'c BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Tensor<'c> {
    name: &'c str,
    dtype: &'static str,
    shape: &'c [u64],
    file: &'c str,
    /// From the start of the file.
    offset: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    bytes: u64,
    tensors: usize,
}

pub(crate) fn run(arguments: &Info, output: &Output) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&arguments.path)?;
    let checkpoint = arguments.selection.select(&arguments.path, checkpoint)?;
    output.list(|lines| listing::write(&checkpoint, lines))?;
    let files = files(&checkpoint);
    let tensors = checkpoint.tensors().iter();
    let index = Index {
        path: arguments.path.display().to_string(),
        format: checkpoint.format().to_string(),
        bytes: checkpoint.bytes(),
        tensors: tensors
            .map(|info| tensor(&checkpoint, &files, info))
            .collect(),
        files: &files,
        metadata: checkpoint.metadata(),
    };
    output.result(&index, describe)
}

fn files(checkpoint: &Checkpoint) -> Vec<File> {
    let mut files: Vec<File> = checkpoint
        .files()
        .iter()
        .map(|file| File {
            path: file.path().display().to_string(),
            bytes: file.len(),
            tensors: 0,
        })
        .collect();
    for tensor in checkpoint.tensors() {
        files[tensor.file()].tensors += 1;
    }
    files
}

fn tensor<'c>(checkpoint: &Checkpoint, files: &'c [File], info: &'c TensorInfo) -> Tensor<'c> {
    Tensor {
        name: info.name(),
        dtype: info.dtype().name(),
        shape: info.shape(),
        file: &files[info.file()].path,
        offset: checkpoint.files()[info.file()].base() + info.range().start,
        bytes: info.bytes(),
    }
}

fn describe(index: &Index<'_>) -> String {
    format!(
        "{}: {}, {} in {}, {}",
        index.path,
        index.format,
        units::count(index.tensors.len(), "tensor"),
        units::count(index.files.len(), "file"),
        units::bytes(index.bytes),
    )
}
