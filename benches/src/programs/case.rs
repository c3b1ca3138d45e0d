//! What is cached before each turn, and who takes turns.

use std::fs::File;
use std::io;
use std::ops::Range;

use clap::ValueEnum;
use weightloader::{Loader, WeightFile};

use super::contest::Outcome;
use super::contestant::{Clock, Contestant};
use super::rival::Rival;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Nothing cached
    Cold,
    /// Every other 64 MiB cached
    HalfAlternate,
    /// The first half cached
    HalfFirst,
    /// Half of all pieces of 2 MiB cached, by chance
    HalfScattered,
    /// All cached
    Warm,
    /// Nothing cached; until all is
    Prefetch,
    /// Nothing cached; into the buffers of a Vulkan device
    Upload,
}

const MEBIBYTE: u64 = 1 << 20;

impl Case {
    /// Those who take turns, ours by default first.
    pub(crate) fn contestants(self) -> Vec<Contestant> {
        let load = |arguments| Contestant::Ours {
            arguments,
            clock: Clock::Process,
        };
        let default = load(&["load"]);
        let buffered = load(&["load", "--strategy", "buffered"]);
        let direct = load(&["load", "--strategy", "direct"]);
        match self {
            Self::Cold => vec![
                default,
                direct,
                buffered,
                Contestant::Fio {
                    block: "1m",
                    depth: "32",
                },
                Contestant::Fio {
                    block: "4m",
                    depth: "16",
                },
                Contestant::Rival(Rival::PageFaults),
            ],
            Self::HalfAlternate | Self::HalfFirst | Self::HalfScattered => {
                vec![default, direct, buffered]
            }
            Self::Warm => vec![default, buffered, Contestant::Rival(Rival::PageFaults)],
            Self::Prefetch => vec![
                load(&["prefetch"]),
                Contestant::Rival(Rival::AdviseAndTouch),
            ],
            Self::Upload => [
                &["load"][..],
                &["upload", "--to", "vulkan", "--way", "import"],
                &["upload", "--to", "vulkan", "--way", "staged"],
            ]
            .map(|arguments| Contestant::Ours {
                arguments,
                // Not the start of a driver, which comes once in the life of a program.
                clock: Clock::Report,
            })
            .into(),
        }
    }

    /// Brings the page cache into the state that a turn begins in.
    pub(crate) fn prepare(self, loader: &Loader, file: &WeightFile) -> Outcome<()> {
        let cached_anew = |absent: Vec<Range<u64>>| -> Outcome<()> {
            // In full, since readahead brings what lies next to a piece as well, and anew, since what
            // page faults cached lies in small folios, which take longer to copy.
            loader.evict(file, ..)?;
            io::copy(&mut File::open(file.path())?, &mut io::sink())?;
            for range in absent {
                loader.evict(file, range.start..range.end.min(file.len()))?;
            }
            Ok(())
        };
        let every_other = |piece: u64| {
            let starts = (piece..file.len()).step_by(step(2 * piece).max(1));
            starts.map(|at| at..at + piece).collect()
        };
        match self {
            Self::Cold | Self::Prefetch | Self::Upload => Ok(loader.evict(file, ..)?),
            Self::Warm => cached_anew(Vec::new()),
            Self::HalfFirst => cached_anew(every_other(file.len().div_ceil(2))),
            Self::HalfAlternate => cached_anew(every_other(64 * MEBIBYTE)),
            Self::HalfScattered => {
                let piece = 2 * MEBIBYTE;
                let mut pieces: Vec<u64> = (0..file.len()).step_by(step(piece)).collect();
                // The same half in each round.
                fastrand::Rng::with_seed(5).shuffle(&mut pieces);
                let absent = &pieces[pieces.len() / 2..];
                cached_anew(absent.iter().map(|&at| at..at + piece).collect())
            }
        }
    }
}

fn step(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
