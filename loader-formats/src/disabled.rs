//! What stands in for a format whose feature is off: it says so.

use std::path::Path;

use loader_core::Result;

use crate::Checkpoint;
use crate::error::whole_error;

fn needs(feature: &str, path: Option<&Path>) -> Result<Checkpoint> {
    let message =
        format!("this was built without the feature \"{feature}\", which reads such files");
    Err(whole_error(path.unwrap_or(Path::new("")), message))
}

#[cfg(not(feature = "safetensors"))]
pub(crate) mod safetensors {
    use std::path::Path;

    use loader_core::{Result, WeightFile};

    use crate::{Checkpoint, OpenOptions};

    #[expect(clippy::needless_pass_by_value, reason = "as where the feature is on")]
    pub(crate) fn open(files: Vec<WeightFile>, _: &OpenOptions) -> Result<Checkpoint> {
        super::needs("safetensors", files.first().map(WeightFile::path))
    }

    pub(crate) fn open_index(path: &Path, _: &OpenOptions) -> Result<Checkpoint> {
        super::needs("safetensors", Some(path))
    }
}

#[cfg(not(feature = "gguf"))]
pub(crate) mod gguf {
    use loader_core::{Result, WeightFile};

    use crate::{Checkpoint, OpenOptions};

    #[expect(clippy::needless_pass_by_value, reason = "as where the feature is on")]
    pub(crate) fn open(file: WeightFile, _: &OpenOptions) -> Result<Checkpoint> {
        super::needs("gguf", Some(file.path()))
    }

    pub(crate) fn open_split(file: WeightFile, options: &OpenOptions) -> Result<Checkpoint> {
        open(file, options)
    }
}
