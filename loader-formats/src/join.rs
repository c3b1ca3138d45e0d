//! Joining the headers of one or more files into one index.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use loader_core::{Result, WeightFile};

use crate::checkpoint::Index;
use crate::error::{Quoted, format_error, whole_error};
use crate::{Format, TensorInfo};

/// What the header of one file says.
#[derive(Default)]
pub(crate) struct Header {
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Joins the headers of files into one index, in which names differ and no two tensors overlap.
///
/// Where files disagree about metadata the first one is believed.
pub(crate) fn join(format: Format, parts: Vec<(WeightFile, Header)>) -> Result<Index> {
    let mut files = Vec::new();
    let mut tensors = Vec::new();
    let mut metadata = BTreeMap::new();
    for (file, header) in parts {
        let number = u32::try_from(files.len())
            .map_err(|_| whole_error(file.path(), "more files than can be numbered"))?;
        if number == 0 {
            // The usual case of a single file needs no second copy of a long list.
            (tensors, metadata) = (header.tensors, header.metadata);
        } else {
            tensors.extend(
                header
                    .tensors
                    .into_iter()
                    .map(|tensor| tensor.in_file(number)),
            );
            for (key, value) in header.metadata {
                metadata.entry(key).or_insert(value);
            }
        }
        files.push(file);
    }
    tensors.sort_unstable_by(by_place);
    tensors.shrink_to_fit();
    let by_name = by_name(&files, &tensors)?;
    check_overlap(&files, &tensors)?;
    Ok(Index {
        format,
        files,
        tensors,
        by_name,
        metadata,
        whole: true,
        shard_index: None,
    })
}

fn by_place(a: &TensorInfo, b: &TensorInfo) -> Ordering {
    let place = |tensor: &TensorInfo| (tensor.file(), tensor.range().start, tensor.range().end);
    place(a).cmp(&place(b)).then_with(|| a.name().cmp(b.name()))
}

/// Places of the tensors by name, which must differ.
fn by_name(files: &[WeightFile], tensors: &[TensorInfo]) -> Result<Vec<u32>> {
    let count = u32::try_from(tensors.len()).map_err(|_| {
        let message = format!("{} tensors are too many", tensors.len());
        whole_error(files[0].path(), message)
    })?;
    // With the names beside them: looking each up in its tensor takes longer than comparing it.
    let names = tensors.iter().map(TensorInfo::name);
    let mut named: Vec<(&str, u32)> = names.zip(0..count).collect();
    named.sort_unstable();
    for pair in named.windows(2) {
        let [(name, first), (other, second)] = [pair[0], pair[1]];
        if name == other {
            let name = Quoted(name);
            let [first, second] = [first, second].map(|place| &tensors[place as usize]);
            let file = &files[second.file()];
            let start = second.range().start;
            return Err(if first.file() == second.file() {
                format_error(file, start, format_args!("two tensors are named {name}"))
            } else {
                let other = files[first.file()].path().display();
                let message = format!("a tensor is named {name}, as is one of {other}");
                format_error(file, start, message)
            });
        }
    }
    Ok(named.into_iter().map(|(_, place)| place).collect())
}

/// Checks that no two tensors share a byte; they are given by place.
fn check_overlap(files: &[WeightFile], tensors: &[TensorInfo]) -> Result<()> {
    let mut last: Option<&TensorInfo> = None;
    for tensor in tensors.iter().filter(|tensor| tensor.bytes() > 0) {
        if let Some(last) = last {
            if last.file() == tensor.file() && last.range().end > tensor.range().start {
                let file = &files[tensor.file()];
                let (a, b) = (Quoted(last.name()), Quoted(tensor.name()));
                let message = format!("the tensors {a} and {b} overlap");
                return Err(format_error(file, tensor.range().start, message));
            }
        }
        last = Some(tensor);
    }
    Ok(())
}
