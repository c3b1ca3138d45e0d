//! What the turns add up to.

use serde::{Serialize, Serializer};
use weightloader::Checkpoint;

use super::contest::Outcome;
use super::state::{ByState, State};
use super::way::{Turn, Way};
use crate::units;

/// The ways compared.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) path: String,
    pub(crate) tensors: usize,
    /// Of the tensors.
    pub(crate) bytes: u64,
    pub(crate) rounds: u32,
    /// System, processors, filesystem and device, as far as the system tells.
    pub(crate) machine: String,
    /// What the device gave at best, in bytes per second.
    pub(crate) ceiling: Option<f64>,
    pub(crate) rows: Vec<Row>,
}

/// One way and how it did.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(serialize_with = "name")]
    pub(crate) way: Way,
    title: &'static str,
    #[serde(flatten)]
    figures: ByState<Figures>,
}

/// What is told of one way in one state.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Figures {
    Measured(Measured),
    Missing {
        /// Why there are none.
        unavailable: String,
    },
}

/// Rates in bytes per second.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The fastest turn as a share of the ceiling.
    pub(crate) share_of_ceiling: Option<f64>,
    turns: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    bytes: u64,
    seconds: f64,
}

/// The turns of one way in one state so far.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    turns: Vec<Turn>,
    obstacle: Option<String>,
}

impl Standing {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Ok(turn) => self.turns.push(turn),
            Err(obstacle) => self.obstacle = Some(obstacle),
        }
    }

    /// Whether nothing stands to be gained from another turn.
    pub(crate) fn is_out(&self) -> bool {
        self.obstacle.is_some()
    }

    fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self
            .turns
            .iter()
            .map(|turn| units::rate(turn.bytes, turn.time))
            .collect();
        rates.sort_unstable_by(f64::total_cmp);
        rates
    }

    fn figures(self, ceiling: Option<f64>) -> Figures {
        let rates = self.rates();
        let (Some(min), Some(max)) = (rates.first(), rates.last()) else {
            let unavailable = self.obstacle.unwrap_or_else(|| "not measured".to_owned());
            return Figures::Missing { unavailable };
        };
        let median = median(&rates);
        Figures::Measured(Measured {
            median,
            min: *min,
            max: *max,
            share_of_ceiling: ceiling.map(|ceiling| max / ceiling),
            turns: self
                .turns
                .iter()
                .map(|turn| Figure {
                    bytes: turn.bytes,
                    seconds: turn.time.as_secs_f64(),
                })
                .collect(),
        })
    }
}

impl Comparison {
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        rounds: u32,
        ways: impl Iterator<Item = (Way, ByState<Standing>)>,
    ) -> Self {
        let ways: Vec<_> = ways.collect();
        let ceiling = ways
            .iter()
            .find(|(way, _)| *way == Way::Ceiling)
            .and_then(|(_, standings)| standings.get(State::Cold).rates().last().copied())
            .filter(|ceiling| *ceiling > 0.0);
        let row = |(way, standings): (Way, ByState<Standing>)| Row {
            way,
            title: way.title(),
            figures: standings.map(|state, standing| {
                if way.has_turn(state) {
                    return standing.figures(ceiling);
                }
                let unavailable = "the device is the same, whatever is cached".to_owned();
                Figures::Missing { unavailable }
            }),
        };
        let path = checkpoint.files().first().map_or_else(String::new, |file| {
            let path = file.path();
            let folder = path.parent().filter(|_| checkpoint.files().len() > 1);
            folder.unwrap_or(path).display().to_string()
        });
        Self {
            path,
            tensors: checkpoint.tensors().len(),
            bytes: checkpoint.bytes(),
            rounds,
            machine: machine(checkpoint),
            ceiling,
            rows: ways.into_iter().map(row).collect(),
        }
    }

    /// The figures of one way in one state, where it was measured.
    pub(crate) fn measured(&self, way: Way, state: State) -> Option<&Measured> {
        let row = self.rows.iter().find(|row| row.way == way)?;
        row.figures(state).measured()
    }
}

impl Row {
    pub(crate) fn figures(&self, state: State) -> &Figures {
        self.figures.get(state)
    }
}

impl Figures {
    pub(crate) fn measured(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Missing { .. } => None,
        }
    }
}

fn name<S: Serializer>(way: &Way, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(way.name())
}

/// Where this was measured: `Linux 6.18.5, 2 processors, ext4 on vda`.
fn machine(checkpoint: &Checkpoint) -> String {
    let platform = weightloader::platform();
    let mut facts = platform.system.machine_facts();
    if let Some(file) = checkpoint.files().first() {
        facts.extend(platform.system.file_facts(file));
    }
    let fact = |name: &str| facts.iter().find(|fact| fact.name == name);
    let mut machine = platform.name.to_owned();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(kernel) = fact("kernel") {
        machine = format!("{machine} {}", kernel.value);
    }
    machine = format!("{machine}, {}", units::count(processors, "processor"));
    if let (Some(filesystem), Some(device)) = (fact("filesystem"), fact("device")) {
        machine = format!("{machine}, {} on {}", filesystem.value, device.value);
    }
    machine
}

/// The median of sorted values; the mean of the middle two where there are two.
fn median(sorted: &[f64]) -> f64 {
    let (lower, upper) = sorted.split_at(sorted.len() / 2);
    match (lower.last(), upper.first()) {
        (Some(low), Some(high)) if lower.len() == upper.len() => f64::midpoint(*low, *high),
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "the values are exact")]
    fn medians_lie_in_the_middle() {
        assert_eq!(median(&[1.0]), 1.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, 10.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_way_without_turns_tells_why() {
        let mut standing = Standing::default();
        standing.add(Err("no direct I/O".to_owned()));
        assert!(standing.is_out());
        let figures = standing.figures(Some(1.0));
        assert!(
            matches!(figures, Figures::Missing { unavailable } if unavailable == "no direct I/O")
        );
    }

    #[test]
    fn shares_are_of_the_ceiling() {
        let mut standing = Standing::default();
        for millis in [100, 200, 400] {
            standing.add(Ok(Turn {
                bytes: 1000,
                time: Duration::from_millis(millis),
            }));
        }
        let Figures::Measured(measured) = standing.figures(Some(10_000.0)) else {
            panic!("three turns give figures");
        };
        assert!((measured.median - 5000.0).abs() < 1e-6);
        assert!((measured.min - 2500.0).abs() < 1e-6);
        assert!((measured.max - 10_000.0).abs() < 1e-6);
        assert!((measured.share_of_ceiling.unwrap() - 1.0).abs() < 1e-9);
    }
}
