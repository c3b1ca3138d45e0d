//! Checkpoints to where an uploader takes them.

use loader_core::{Copier, Operation, Report, Result, TensorPlacement, Uploader};
use loader_formats::Checkpoint;

use crate::Loader;
use crate::model::locate;

/// What was uploaded, and where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Uploaded {
    /// Where each tensor ended up, in the order of the checkpoint.
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
    let copier = Copier::new(loader.platform(), loader.options());
    let layouts = loader.layouts(checkpoint)?;
    let files = checkpoint.files();
    let report = loader_core::upload(
        loader.platform(),
        &copier,
        files,
        &layouts,
        uploader,
        operation,
    )?;
    let place = |tensor: &loader_formats::TensorInfo| {
        let range = locate(checkpoint, &layouts, tensor);
        let name = tensor.name().to_owned();
        TensorPlacement::new(name, tensor.file(), range.start, range.len())
    };
    Ok(Uploaded {
        placements: checkpoint.tensors().iter().map(place).collect(),
        report,
    })
}
