//! Which reader takes which bytes: the heart of the automatic strategy.

use std::ops::Range;

use crate::prefetch;
use crate::transfer::Tally;
use crate::{
    CachePolicy, LoadOptions, Platform, Refusal, ResidencyMap, Result, Strategy, Support,
    WeightFile,
};

/// How a chunk is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Buffered,
}

/// Up to this many bytes in all, asking around costs more than any choice gains.
pub(crate) const TINY: u64 = LoadOptions::SMALL_BYTES;

/// From this resident share on, a chunk is read through the page cache: direct I/O costs a cold
/// byte about as much as buffered reads do, and a resident one many times more.
const MOSTLY_RESIDENT: f64 = 0.5;

/// How the chunks of one file are read.
#[derive(Debug)]
pub(crate) struct Route {
    /// The way of cold bytes.
    cold: Way,
    /// What was resident at the beginning, where it matters.
    residency: Option<ResidencyMap>,
    /// Whether resident bytes go another way.
    mixed: bool,
    /// What a live prefetch has started to bring.
    started: Vec<Range<u64>>,
}

impl Route {
    /// Decides for `ranges` of `file`, and claims them from live prefetches.
    pub(crate) fn choose(
        platform: &Platform,
        options: &LoadOptions,
        file: &WeightFile,
        ranges: &[Range<u64>],
        tally: &mut Tally,
    ) -> Result<Self> {
        let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let cold = match options.strategy {
            _ if !options.may_read_directly(len) => Way::Buffered,
            Strategy::Direct => {
                direct_support(platform, file)?;
                Way::Direct
            }
            _ => match worthwhile(platform, file) {
                Ok(()) => {
                    platform
                        .refusals
                        .iter()
                        .cloned()
                        .for_each(|refusal| tally.fell_back(refusal));
                    Way::Direct
                }
                Err(refusal) => {
                    tally.fell_back(refusal);
                    Way::Buffered
                }
            },
        };
        let started = prefetch::claim(file, ranges);
        let mixed = options.strategy == Strategy::Auto && cold == Way::Direct;
        let asks = mixed || options.cache == CachePolicy::Bypass;
        let residency = asks.then(|| {
            let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
            let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
            platform
                .system
                .residency(file, start..end, options.chunk_bytes())
        });
        let path = file.path().display();
        if let Some(residency) = &residency {
            tracing::debug!(%path, bytes = len, resident = residency.resident_bytes(), "residency");
        }
        tracing::debug!(%path, ?cold, by_residency = mixed, prefetched = ?started, "route");
        Ok(Self {
            cold,
            mixed,
            residency,
            started,
        })
    }

    pub(crate) fn way(&self, chunk: Range<u64>) -> Way {
        let Some(residency) = self.residency.as_ref().filter(|_| self.mixed) else {
            return self.cold;
        };
        let begun = self
            .started
            .iter()
            .any(|started| started.start < chunk.end && chunk.start < started.end);
        match residency.share(chunk) {
            // Nobody knows: buffered reads lose little where it is cold, direct ones much where it
            // is warm.
            None => Way::Buffered,
            Some(share) if share >= MOSTLY_RESIDENT || begun => Way::Buffered,
            Some(_) => Way::Direct,
        }
    }

    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.residency
            .as_ref()
            .and_then(ResidencyMap::resident_bytes)
    }

    /// What buffered reads may have brought into the page cache, as far as that is known.
    pub(crate) fn brought_in(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let runs = self.residency.iter().flat_map(ResidencyMap::runs);
        let partly = runs.filter(|run| run.resident != Some(run.range.end - run.range.start));
        partly.map(|run| run.range.clone())
    }

    /// Whether buffered reads may have to wait for the device.
    pub(crate) fn may_wait(&self) -> bool {
        !self.mixed || self.resident_bytes().is_none()
    }
}

fn direct_support(platform: &Platform, file: &WeightFile) -> std::result::Result<Support, Refusal> {
    platform
        .direct
        .as_ref()
        .map_err(Clone::clone)?
        .support(file)
}

fn worthwhile(platform: &Platform, file: &WeightFile) -> std::result::Result<(), Refusal> {
    let direct = platform.direct.as_ref().map_err(Clone::clone)?;
    match direct.support(file)?.discouraged {
        None => Ok(()),
        Some(reason) => Err(Refusal::new(direct.mechanism(), reason)),
    }
}
