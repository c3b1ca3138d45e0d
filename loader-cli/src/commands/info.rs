//! `weightloader info`: the index of a checkpoint.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use weightloader::{Checkpoint, TensorInfo};

use crate::arguments::Info;
use crate::failure::Failure;
use crate::output::Output;
use crate::units;

#[derive(Debug, Serialize)]
struct Index<'c> {
    path: String,
    format: String,
    /// Of the tensors.
    bytes: u64,
    tensors: Vec<Tensor<'c>>,
    files: Vec<File>,
    metadata: &'c BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Tensor<'c> {
    name: &'c str,
    dtype: &'static str,
    shape: &'c [u64],
    file: String,
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
    let checkpoint = arguments.selection.select(checkpoint)?;
    let files = checkpoint.files();
    let in_file = |index: usize| {
        let tensors = checkpoint.tensors().iter();
        tensors.filter(|tensor| tensor.file() == index).count()
    };
    let index = Index {
        path: arguments.path.display().to_string(),
        format: checkpoint.format().to_string(),
        bytes: checkpoint.bytes(),
        tensors: checkpoint
            .tensors()
            .iter()
            .map(|info| tensor(&checkpoint, info))
            .collect(),
        files: files
            .iter()
            .enumerate()
            .map(|(index, file)| File {
                path: file.path().display().to_string(),
                bytes: file.len(),
                tensors: in_file(index),
            })
            .collect(),
        metadata: checkpoint.metadata(),
    };
    output.result(&index, describe)
}

fn tensor<'c>(checkpoint: &Checkpoint, info: &'c TensorInfo) -> Tensor<'c> {
    let file = &checkpoint.files()[info.file()];
    Tensor {
        name: info.name(),
        dtype: info.dtype().name(),
        shape: info.shape(),
        file: file.path().display().to_string(),
        offset: file.base() + info.range().start,
        bytes: info.bytes(),
    }
}

fn describe(index: &Index<'_>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["tensor", "dtype", "shape", "offset", "bytes"]);
    for column in [3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let sharded = index.files.len() > 1;
    let mut last_file = "";
    for tensor in &index.tensors {
        if sharded && last_file != tensor.file {
            last_file = &tensor.file;
            table.add_row([last_file]);
        }
        table.add_row([
            tensor.name.to_owned(),
            tensor.dtype.to_owned(),
            format!("{:?}", tensor.shape),
            tensor.offset.to_string(),
            tensor.bytes.to_string(),
        ]);
    }
    format!(
        "{}\n{}: {}, {} in {}, {}",
        table.trim_fmt(),
        index.path,
        index.format,
        units::count(index.tensors.len(), "tensor"),
        units::count(index.files.len(), "file"),
        units::bytes(index.bytes),
    )
}
