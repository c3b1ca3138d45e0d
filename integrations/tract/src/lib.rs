//! Reads the external data of ONNX models for [tract](https://github.com/sonos/tract) through
//! `weightloader`.
//!
//! ONNX keeps weights beyond 2 GiB in files beside the model. tract asks a [`ModelDataResolver`]
//! for each tensor in them; the one here reads it with many reads in flight and, while tract works
//! on one tensor, has the next ones brought into the page cache.
//!
//! ```no_run
//! # fn main() -> tract_onnx::prelude::TractResult<()> {
//! use tract_onnx::prelude::*;
//!
//! // In place of `tract_onnx::onnx()`.
//! let model = weightloader_tract::onnx()?.model_for_path("model.onnx")?;
//! let runnable = model.into_optimized()?.into_runnable()?;
//! # drop(runnable);
//! # Ok(())
//! # }
//! ```
//!
//! [`ModelDataResolver`]: tract_onnx::data_resolver::ModelDataResolver

mod resolver;

use std::sync::Arc;

use tract_onnx::Onnx;
use tract_onnx::prelude::TractResult;

pub use resolver::DataResolver;

/// tract's reader of ONNX models, with external data read by a [`DataResolver`].
///
/// # Errors
/// An environment variable of weightloader's that makes no sense.
pub fn onnx() -> TractResult<Onnx> {
    Ok(Onnx {
        provider: Arc::new(DataResolver::new()?),
        ..tract_onnx::onnx()
    })
}
