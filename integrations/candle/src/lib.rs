//! Loads checkpoints into [candle](https://github.com/huggingface/candle)'s tensors
//! through `weightloader`: all tensors in one operation, each read straight into the memory that
//! candle owns, whatever is cached and whatever is not.
//!
//! ```
//! # fn main() -> candle_core::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("model.safetensors");
//! # let zeros = candle_core::Tensor::zeros((3, 4), candle_core::DType::F32, &candle_core::Device::Cpu)?;
//! # candle_core::safetensors::save(&[("head.weight", zeros)].into(), &path)?;
//! use candle_core::{DType, Device};
//! use candle_nn::linear_no_bias;
//!
//! // In place of `unsafe { VarBuilder::from_mmaped_safetensors(&[path], ...) }`.
//! let weights = weightloader_candle::var_builder(&path, DType::F32, &Device::Cpu)?;
//! let head = linear_no_bias(4, 3, weights.pp("head"))?;
//! # drop(head);
//! # Ok(())
//! # }
//! ```
//!
//! A path may be a file, an index of shards (`model.safetensors.index.json`) or a folder; of GGUF
//! files, the tensors that are not quantised. No mapping is made, so a file that becomes shorter is
//! an error rather than a crash.

mod dtype;
mod elements;
mod tensors;
mod weights;

pub use weights::{Weights, load, var_builder};
