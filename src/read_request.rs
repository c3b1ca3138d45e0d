//! One of several reads that are made at once.

use std::ops::Range;

use loader_core::{Copier, Destination, Error, Extent, Job, Result, WeightFile};

/// Bytes of a file and the memory that they land in: one of several reads that
/// [`Loader::read_many`](crate::Loader::read_many) makes in one operation.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReadRequest<'d> {
    /// Where bytes come from.
    pub file: WeightFile,
    /// Which, in bytes from the start of `file`.
    pub range: Range<u64>,
    /// Where they land; it must hold exactly as many bytes.
    pub destination: Destination<'d>,
}

impl<'d> ReadRequest<'d> {
    /// A request for `range` of `file`; cloning a file is cheap.
    #[must_use]
    pub fn new(
        file: &WeightFile,
        range: Range<u64>,
        destination: impl Into<Destination<'d>>,
    ) -> Self {
        Self {
            file: file.clone(),
            range,
            destination: destination.into(),
        }
    }

    /// What the copier does for it.
    pub(crate) fn into_job(self, copier: &Copier<'_>) -> Result<Job<'d>> {
        let Self {
            file,
            range,
            destination,
        } = self;
        let range = file.range(range)?;
        let expected = range.end - range.start;
        let actual = destination.len() as u64;
        if expected != actual {
            return Err(Error::Destination { expected, actual });
        }
        let extent = Extent {
            offset: range.start,
            len: expected,
            destination: 0,
        };
        let destination = copier.examine(destination);
        let plan = copier.plan_for(&[extent], &destination)?;
        Ok(Job {
            file,
            plan,
            destination,
        })
    }
}
