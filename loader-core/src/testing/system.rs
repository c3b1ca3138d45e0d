//! A system whose answers a test chooses.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::testing::FaultyReader;
use crate::transfer::locked;
use crate::{
    Fact, Mechanism, Platform, Reader, ResidencyMap, ResidencyRun, Result, System, Usage,
    WeightFile,
};

/// What a [`TestSystem`] says of the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residency {
    /// Everything is resident.
    All,
    /// Nothing is.
    None,
    /// It does not tell.
    Unknown,
    /// Stretches of so many bytes, at multiples of that, are resident and not by turns; the first
    /// is.
    Alternating(u64),
    /// Stretches of 4096 bytes are resident, not, or unknown, as this seed decides.
    Random(u64),
}

impl Residency {
    /// What is said of `range`.
    #[must_use]
    pub fn map(self, range: Range<u64>) -> ResidencyMap {
        let (stretch, resident): (u64, &dyn Fn(u64) -> Option<bool>) = match self {
            Self::All => (u64::MAX, &|_| Some(true)),
            Self::None => (u64::MAX, &|_| Some(false)),
            Self::Unknown => (u64::MAX, &|_| None),
            Self::Alternating(stretch) => (stretch, &|index| Some(index % 2 == 0)),
            Self::Random(seed) => (4096, &move |index| {
                let mut dice = fastrand::Rng::with_seed(seed ^ index);
                [Some(true), Some(false), None][dice.usize(..3)]
            }),
        };
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let index = at / stretch;
            let end = (index + 1).saturating_mul(stretch).min(range.end);
            runs.push(ResidencyRun {
                range: at..end,
                resident: resident(index).map(|resident| if resident { end - at } else { 0 }),
            });
            at = end;
        }
        ResidencyMap::new(runs)
    }
}

/// A system whose answers a test chooses, and which remembers what it was asked to evict.
#[derive(Debug)]
pub struct TestSystem {
    residency: Residency,
    available_memory: Option<u64>,
    evicted: Mutex<Vec<Range<u64>>>,
}

impl TestSystem {
    /// A system with this page cache.
    #[must_use]
    pub fn new(residency: Residency) -> Self {
        Self {
            residency,
            available_memory: None,
            evicted: Mutex::default(),
        }
    }

    /// Says that so many bytes of memory are available.
    #[must_use]
    pub fn with_available_memory(mut self, bytes: u64) -> Self {
        self.available_memory = Some(bytes);
        self
    }

    /// What it was asked to evict, in bytes from the start of the file on disk.
    #[must_use]
    pub fn evicted(&self) -> Vec<Range<u64>> {
        locked(&self.evicted).clone()
    }
}

impl System for TestSystem {
    fn available_memory(&self) -> Option<u64> {
        self.available_memory
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn residency(&self, _file: &WeightFile, range: Range<u64>, _granularity: u64) -> ResidencyMap {
        self.residency.map(range)
    }

    fn evict(&self, _file: &WeightFile, range: Range<u64>) -> Result<()> {
        locked(&self.evicted).push(range);
        Ok(())
    }

    fn machine_facts(&self) -> Vec<Fact> {
        vec![Fact::new("system", "made for a test")]
    }

    fn file_facts(&self, _file: &WeightFile) -> Vec<Fact> {
        Vec::new()
    }
}

/// A platform with that page cache, the portable reader for buffered reads, and for direct ones a
/// stand-in that reads through the page cache under the name of direct reads.
///
/// A test that wants other parts replaces them: `Platform { direct, ..platform(residency) }`.
#[must_use]
pub fn platform(residency: Residency) -> Platform {
    let direct: Arc<dyn Reader> =
        Arc::new(FaultyReader::new(Mechanism::DIRECT, 0).with_alignment(512, 512));
    Platform {
        name: "test",
        direct: Ok(direct),
        system: Arc::new(TestSystem::new(residency)),
        ..Platform::portable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_what_they_say() {
        assert_eq!(Residency::All.map(3..10).resident_bytes(), Some(7));
        assert_eq!(Residency::None.map(3..10).resident_bytes(), Some(0));
        assert_eq!(Residency::Unknown.map(3..10).resident_bytes(), None);
        let map = Residency::Alternating(10).map(5..35);
        let resident: Vec<_> = map.runs().iter().map(|run| run.resident).collect();
        assert_eq!(resident, [Some(5), Some(0), Some(10), Some(0)]);
        let map = Residency::Random(1).map(0..1 << 20);
        assert_eq!(map.runs().len(), 256);
        for answer in [Some(4096), Some(0), None] {
            assert!(map.runs().iter().any(|run| run.resident == answer));
        }
    }
}
