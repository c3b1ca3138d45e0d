//! Bringing the page cache into the state that a turn begins in.

use std::ops::RangeInclusive;

use weightloader::{Checkpoint, HostBuffer, Loader, Operation, WeightFile};

use super::contest::excused;
use super::state::State;
use super::way::Way;
use crate::failure::Failure;
use crate::{cache, units};

/// The page cache, as far as it holds the files of one checkpoint.
#[derive(Debug)]
pub(crate) struct PageCache<'c> {
    files: &'c [WeightFile],
    /// For what is no way's own: evicting, warming, asking.
    loader: Loader,
}

/// From this resident share on files count as warm.
const WARM: f64 = 0.99;

/// Resident shares that count as half: pieces do not come out even.
const HALF: RangeInclusive<f64> = 0.4..=0.6;

/// Every other piece of this many bytes is cached where half of a file is, of shorter files every
/// other quarter.
const PIECE: u64 = 64 << 20;

impl<'c> PageCache<'c> {
    pub(crate) fn new(checkpoint: &'c Checkpoint) -> Result<Self, Failure> {
        Ok(Self {
            files: checkpoint.files(),
            loader: Loader::new()?,
        })
    }

    /// Brings the page cache into `state`, or tells why it cannot be.
    pub(crate) fn bring(&self, state: State) -> Result<Result<(), String>, Failure> {
        match state {
            State::Cold => self.make_cold(),
            State::Half => self.make_half(),
            State::Warm => self.make_warm(),
        }
    }

    fn make_cold(&self) -> Result<Result<(), String>, Failure> {
        if let Err(reason) = excused(cache::evict(&self.loader, self.files))? {
            return Ok(Err(reason));
        }
        Ok(match self.resident_share()? {
            Some(share) if share > cache::COLD => Err(format!(
                "{} stays in the page cache after eviction",
                units::percent(share)
            )),
            _ => Ok(()),
        })
    }

    fn make_half(&self) -> Result<Result<(), String>, Failure> {
        if let Err(reason) = self.make_warm()? {
            return Ok(Err(reason));
        }
        for file in self.files {
            let piece = PIECE.min(file.len().div_ceil(4)).max(1);
            let mut start = piece;
            while start < file.len() {
                let end = file.len().min(start.saturating_add(piece));
                if let Err(reason) = excused(self.loader.evict(file, start..end))? {
                    return Ok(Err(reason));
                }
                start = end.saturating_add(piece);
            }
        }
        Ok(match self.resident_share()? {
            Some(share) if !HALF.contains(&share) => Err(format!(
                "{} stays in the page cache after every other piece was evicted",
                units::percent(share)
            )),
            _ => Ok(()),
        })
    }

    fn make_warm(&self) -> Result<Result<(), String>, Failure> {
        if self.is_warm()? != Some(true) {
            self.files.iter().try_for_each(|file| self.warm(file))?;
        }
        Ok(match self.is_warm()? {
            Some(false) => Err("the page cache does not hold all of it".to_owned()),
            _ => Ok(()),
        })
    }

    fn is_warm(&self) -> Result<Option<bool>, Failure> {
        Ok(self.resident_share()?.map(|share| share >= WARM))
    }

    fn resident_share(&self) -> Result<Option<f64>, Failure> {
        cache::resident_share(&self.loader, self.files)
    }

    /// Reads the file once through the page cache.
    fn warm(&self, file: &WeightFile) -> Result<(), Failure> {
        const AT_ONCE: u64 = 32 << 20;
        let loader = Way::Buffered.loader()?;
        let len = usize::try_from(AT_ONCE.min(file.len())).unwrap_or(0);
        let mut buffer = HostBuffer::zeroed(&*loader.platform().memory, len)?;
        let mut start = 0;
        while start < file.len() {
            let end = file.len().min(start + AT_ONCE);
            let len = usize::try_from(end - start).unwrap_or(0);
            loader.read_into(file, start..end, &mut buffer[..len], Operation::new())?;
            start = end;
        }
        Ok(())
    }
}
