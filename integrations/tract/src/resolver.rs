//! Where tract gets the bytes of external tensors from.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tract_onnx::data_resolver::ModelDataResolver;
use tract_onnx::prelude::TractResult;
use weightloader::{Destination, Loader, Operation, Prefetch, WeightFile};

/// Reads the external data of ONNX models through a [`Loader`].
///
/// tract asks for one tensor after the other and copies each before it asks for the next, so the
/// first request to a file also has the rest of it prefetched in the background. Dropping the
/// resolver cancels what of that has not begun.
#[derive(Debug)]
pub struct DataResolver {
    loader: Loader,
    /// The file asked for last, and what is on its way of it.
    ahead: Mutex<Option<(WeightFile, [Prefetch; 2])>>,
}

impl DataResolver {
    /// A resolver with the default options.
    ///
    /// # Errors
    /// An environment variable of weightloader's that makes no sense.
    pub fn new() -> weightloader::Result<Self> {
        Ok(Self::with_loader(Loader::new()?))
    }

    /// A resolver that reads through `loader`.
    #[must_use]
    pub fn with_loader(loader: Loader) -> Self {
        Self {
            loader,
            ahead: Mutex::default(),
        }
    }

    /// Has all of `file` but `asked` brought into the page cache, unless that goes on already.
    fn look_ahead(&self, file: &WeightFile, asked: &Range<u64>) -> weightloader::Result<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(other, _): &(WeightFile, [Prefetch; 2])| other.is_same_file(file);
        if !ahead.as_ref().is_some_and(known) {
            let after = self.loader.prefetch(file, asked.end..)?;
            let before = self.loader.prefetch(file, ..asked.start)?;
            *ahead = Some((file.clone(), [after, before]));
        }
        Ok(())
    }
}

impl ModelDataResolver for DataResolver {
    fn read_bytes_from_path(
        &self,
        buffer: &mut Vec<u8>,
        path: &Path,
        offset: usize,
        length: Option<usize>,
    ) -> TractResult<()> {
        let file = WeightFile::open(path)?;
        let start = offset as u64;
        // Lengths that overflow lie outside the file as well.
        let end = length.map_or(file.len(), |length| start.saturating_add(length as u64));
        // Also where nothing is to be read, the range must make sense.
        let range = file.range(start..end)?;
        let length = usize::try_from(range.end - range.start)?;
        self.look_ahead(&file, &range)?;

        buffer.try_reserve_exact(length)?;
        let room = &mut buffer.spare_capacity_mut()[..length];
        let destination = Destination::from(room).fresh();
        self.loader
            .read_into(&file, range, destination, Operation::new())?;
        // SAFETY: the read has succeeded, so that many bytes after the buffer's own are there.
        unsafe { buffer.set_len(buffer.len() + length) };
        Ok(())
    }
}
