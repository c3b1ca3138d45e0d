//! What programs do that know of no loader, each in a process of its own.

use std::hint::black_box;
use std::path::Path;

use clap::ValueEnum;
use weightloader::{Advice, HostBuffer, Loader, WeightFile};

use super::contest::Outcome;

const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// Copies out of a mapping into fresh memory on huge pages
    PageFaults,
    /// Advises once that all of a mapping will be needed, and touches each page
    AdviseAndTouch,
    /// Touches as much fresh memory as the file has bytes, so that the host of a virtual machine
    /// has given it before others need it
    TouchMemory,
}

impl Rival {
    /// Does it, and lets the end of the process clean up, as for all contestants.
    pub(crate) fn run(self, path: &Path) -> Outcome<()> {
        let file = WeightFile::open(path)?;
        let len = usize::try_from(file.len())?;
        let memory = || HostBuffer::zeroed(&*Loader::new()?.platform().memory, len);
        // SAFETY: the file is the one that is measured, which nobody changes meanwhile.
        let map = || unsafe { weightloader::map(&file, ..) };
        match self {
            Self::PageFaults => {
                let mut memory = memory()?;
                memory.copy_from_slice(&map()?);
                black_box(&memory);
            }
            Self::AdviseAndTouch => {
                let map = map()?;
                map.advise(Advice::WillNeed)?;
                black_box(map.iter().step_by(PAGE).fold(0, |sum, byte| sum ^ byte));
            }
            Self::TouchMemory => {
                let mut memory = memory()?;
                memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
                black_box(&memory);
            }
        }
        Ok(())
    }
}
