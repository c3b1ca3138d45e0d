//! What is loaded: what the user names, or a sample.

use std::borrow::Cow;
use std::path::Path;

use weightloader::Loader;

use crate::arguments::Source;
use crate::failure::Failure;
use crate::output::Output;
use crate::sample;

impl Source {
    /// The path given, or that of the sample checkpoint, made where there is none yet.
    pub(crate) fn locate(
        &self,
        loader: &Loader,
        output: &Output,
    ) -> Result<Cow<'_, Path>, Failure> {
        match &self.path {
            Some(path) => Ok(path.into()),
            None => {
                let most = self.sample_bytes.map(|bytes| bytes.as_u64());
                Ok(sample::locate(loader, most, output)?.into())
            }
        }
    }
}
