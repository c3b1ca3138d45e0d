//! Checkpoints to where an uploader takes them.

use std::ops::Range;

use loader_core::{
    Copier, Error, Layout, Operation, Report, Result, TensorPlacement, Uploader, WeightFile,
};
use loader_formats::{Checkpoint, TensorInfo};

use crate::Loader;

/// What was uploaded, and where it is.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// use weightloader::{HostUploader, Loader, Operation, core::Landing};
/// let loader = Loader::new()?;
/// let mut uploader = HostUploader::new();
/// let uploaded = loader.upload(&loader.open(&path)?, &mut uploader, Operation::new())?;
/// for placed in &uploaded.placements {
///     println!("{} begins at byte {} of buffer {}", placed.tensor, placed.offset, placed.buffer);
///     assert_eq!(placed.len, 11);
/// }
/// assert_eq!(uploaded.report.landing, Some(Landing::Import));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Uploaded {
    /// Where each tensor ended up, in the order of the checkpoint. Buffers follow the order of the
    /// files: one for each, or several where a file's weights are more than fit one.
    pub placements: Vec<TensorPlacement>,
    /// How it got there.
    pub report: Report,
}

pub(crate) fn upload(
    loader: &Loader,
    checkpoint: &Checkpoint,
    uploader: &mut dyn Uploader,
    operation: Operation<'_>,
) -> Result<Uploaded> {
    let shares = share_out(loader, checkpoint, uploader)?;
    let placements = placements(checkpoint, &shares);
    let (files, layouts): (Vec<WeightFile>, Vec<Layout>) = shares
        .into_iter()
        .map(|share| (checkpoint.files()[share.file].clone(), share.layout))
        .unzip();
    let platform = loader.platform();
    let copier = Copier::new(platform, loader.options());
    let report = loader_core::upload(platform, &copier, &files, &layouts, uploader, operation)?;
    Ok(Uploaded { placements, report })
}

/// What goes into one buffer: tensors of one file.
struct Share {
    file: usize,
    tensors: Vec<usize>,
    layout: Layout,
}

/// Shares the tensors of each file out to buffers that are as long as the uploader can have them.
fn share_out(
    loader: &Loader,
    checkpoint: &Checkpoint,
    uploader: &dyn Uploader,
) -> Result<Vec<Share>> {
    let most = uploader.max_buffer_len();
    let mut of_files = vec![Vec::new(); checkpoint.files().len()];
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        of_files[tensor.file()].push(index);
    }
    let mut shares = Vec::new();
    for (file, tensors) in of_files.iter_mut().enumerate() {
        tensors.sort_by_key(|index| checkpoint.tensors()[*index].range().start);
        let lay_out = |tensors: &[usize]| layout(loader, checkpoint, file, tensors);
        let mut left = tensors.as_slice();
        loop {
            let (count, layout) = longest_prefix(left, most, lay_out)?;
            if layout.len() > most {
                let first = &checkpoint.tensors()[left[0]];
                let message = format!(
                    "tensor {:?} takes {} bytes, its buffers hold at most {most}",
                    first.name(),
                    layout.len()
                );
                let uploader = uploader.name();
                return Err(Error::Upload { uploader, message });
            }
            let (tensors, rest) = left.split_at(count);
            shares.push(Share {
                file,
                tensors: tensors.to_vec(),
                layout,
            });
            left = rest;
            if left.is_empty() {
                break;
            }
        }
    }
    Ok(shares)
}

/// How many tensors, one at least where there are any, fit a buffer of `most` bytes, and their
/// layout.
fn longest_prefix(
    tensors: &[usize],
    most: usize,
    lay_out: impl Fn(&[usize]) -> Result<Layout>,
) -> Result<(usize, Layout)> {
    let layout = lay_out(tensors)?;
    if layout.len() <= most || tensors.len() <= 1 {
        return Ok((tensors.len(), layout));
    }
    // More tensors never take less room.
    let (mut fits, mut too_many) = (1, tensors.len());
    while too_many - fits > 1 {
        let count = fits + (too_many - fits) / 2;
        if lay_out(&tensors[..count])?.len() <= most {
            fits = count;
        } else {
            too_many = count;
        }
    }
    Ok((fits, lay_out(&tensors[..fits])?))
}

fn layout(
    loader: &Loader,
    checkpoint: &Checkpoint,
    file: usize,
    tensors: &[usize],
) -> Result<Layout> {
    let ranges: Vec<_> = tensors
        .iter()
        .map(|index| on_disk(checkpoint, &checkpoint.tensors()[*index]))
        .collect();
    let file = &checkpoint.files()[file];
    let within = file.base()..file.base() + file.len();
    Layout::new(&ranges, within, loader.options().placement)
}

/// Where a tensor's bytes lie, from the start of its file on disk.
fn on_disk(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Range<u64> {
    let base = checkpoint.files()[tensor.file()].base();
    let range = tensor.range();
    base + range.start..base + range.end
}

/// Where each tensor will be, in the order of the checkpoint.
fn placements(checkpoint: &Checkpoint, shares: &[Share]) -> Vec<TensorPlacement> {
    let mut placed = Vec::with_capacity(checkpoint.tensors().len());
    for (buffer, share) in shares.iter().enumerate() {
        for index in &share.tensors {
            let tensor = &checkpoint.tensors()[*index];
            let range = on_disk(checkpoint, tensor);
            let offset = share
                .layout
                .locate(&range)
                .expect("a layout holds every tensor that it was made of");
            // Its buffer fits the address space.
            let len = usize::try_from(range.end - range.start).unwrap_or(0);
            let name = tensor.name().to_owned();
            placed.push((*index, TensorPlacement::new(name, buffer, offset, len)));
        }
    }
    placed.sort_unstable_by_key(|(index, _)| *index);
    placed.into_iter().map(|(_, placement)| placement).collect()
}
