//! A checkpoint in candle's tensors, and the source of variables made of it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use weightloader::{Checkpoint, Dtype, Loader, Operation, Report};

use crate::elements::unknown;
use crate::{dtype, tensors};

/// Loads all tensors of a file, of an index of shards or of a folder onto `device`: as
/// [`candle_core::safetensors::load`] does, and for the same types.
///
/// # Errors
/// What [`Weights::load`] fails with, and a tensor of a type that candle does not have.
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<HashMap<String, Tensor>> {
    let weights = Weights::open(path, device)?;
    match weights.unknown.into_iter().next() {
        Some((name, dtype)) => Err(unknown(&name, dtype)),
        None => Ok(weights.tensors),
    }
}

/// A source of variables with the tensors of a file, of an index of shards or of a folder, in place
/// of [`VarBuilder::from_mmaped_safetensors`].
///
/// # Errors
/// What [`Weights::load`] fails with.
pub fn var_builder(
    path: impl AsRef<Path>,
    dtype: DType,
    device: &Device,
) -> Result<VarBuilder<'static>> {
    Ok(Weights::open(path, device)?.into_var_builder(dtype, device))
}

/// The tensors of a checkpoint, all loaded in one operation.
///
/// As a [`SimpleBackend`] it gives each tensor as often as it is asked for, without copying, unless
/// another type or device is asked for than it has. Where every tensor is to be converted, both
/// copies are there until this is dropped.
#[derive(Debug)]
pub struct Weights {
    tensors: HashMap<String, Tensor>,
    /// Tensors of types that candle does not have.
    unknown: HashMap<String, Dtype>,
    report: Report,
}

impl Weights {
    /// Loads a file, an index of shards or a folder with the default options.
    ///
    /// # Errors
    /// As [`load`](Self::load), and where a header does not hold what it should.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let loader = Loader::new().map_err(Error::wrap)?;
        let checkpoint = loader.open(path).map_err(Error::wrap)?;
        Self::load(&loader, &checkpoint, device, Operation::new())
    }

    /// Loads the tensors of `checkpoint`, which
    /// [`Checkpoint::select`] may have narrowed to those that a model wants; `operation` tells of
    /// progress and may be cancelled.
    ///
    /// A tensor of a type that candle does not have is passed over here and is an error when it is
    /// asked for.
    ///
    /// # Errors
    /// Whatever reading fails with, naming the file and the offset; cancellation; no memory.
    pub fn load(
        loader: &Loader,
        checkpoint: &Checkpoint,
        device: &Device,
        operation: Operation<'_>,
    ) -> Result<Self> {
        let mut unknown = HashMap::new();
        let known = checkpoint.select(|info| {
            let known = dtype::of(info.dtype()).is_some();
            if !known {
                unknown.insert(info.name().to_owned(), info.dtype());
            }
            known
        });
        let (tensors, report) = tensors::load(loader, &known, device, operation)?;
        Ok(Self {
            tensors,
            unknown,
            report,
        })
    }

    /// How the tensors were read.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The tensors by name.
    #[must_use]
    pub fn into_tensors(self) -> HashMap<String, Tensor> {
        self.tensors
    }

    /// A source of variables with these tensors.
    #[must_use]
    pub fn into_var_builder(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self), dtype, device.clone())
    }

    fn find(&self, name: &str) -> Result<&Tensor> {
        let missing = || match self.unknown.get(name) {
            Some(dtype) => unknown(name, *dtype),
            None => Error::CannotFindTensor {
                path: name.to_owned(),
            }
            .bt(),
        };
        self.tensors.get(name).ok_or_else(missing)
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let tensor = self.find(name)?;
        if tensor.shape() != &shape {
            return Err(Error::UnexpectedShape {
                msg: format!("shape mismatch for {name}"),
                expected: shape,
                got: tensor.shape().clone(),
            }
            .bt());
        }
        tensor.to_device(device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.find(name)?.to_device(device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.unknown.contains_key(name)
    }
}
