//! Arguments, rounds, and the table of what they showed.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};
use weightloader::{Loader, WeightFile};

use super::case::Case;
use super::contestant::{self, Contestant};
use super::rival::Rival;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures whole programs beside each other.
#[derive(Debug, Parser)]
#[command(name = "programs")]
struct Arguments {
    /// One file of weights, on the disk in question
    file: PathBuf,
    /// What to measure; by default everything
    #[arg(long = "case")]
    cases: Vec<Case>,
    /// Interleaved rounds of each case
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[arg(long, hide = true)]
    rival: Option<Rival>,
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.rival {
        Some(rival) => rival.run(&arguments.file),
        None => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("programs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let loader = Loader::new()?;
    let file = WeightFile::open(&arguments.file)?;
    let start_up = contestant::start_up()?;
    let cases = match &arguments.cases[..] {
        [] => Case::value_variants(),
        chosen => chosen,
    };
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "case",
        "program",
        "best GB/s",
        "median GB/s",
        "best beside the first",
        "median beside the first",
    ]);
    for case in cases {
        let mut contestants = case.contestants();
        contestants.retain(|contestant| match contestant.absent() {
            Some(reason) => {
                eprintln!("{contestant} is left out: {reason}");
                false
            }
            None => true,
        });
        let mut times: Vec<Vec<Duration>> = contestants.iter().map(|_| Vec::new()).collect();
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        let mut chance = fastrand::Rng::with_seed(7);
        for round in 0..arguments.rounds {
            // What one leaves behind in memory and in the page cache slows the next one down.
            chance.shuffle(&mut order);
            for &index in &order {
                case.prepare(&loader, &file)?;
                contestant::rival_process(Rival::TouchMemory, file.path())?;
                times[index].push(contestants[index].take(file.path(), start_up)?);
            }
            eprintln!("{case:?}: round {} of {}", round + 1, arguments.rounds);
        }
        add_rows(&mut table, *case, &contestants, &mut times, file.len());
    }
    println!("{table}");
    Ok(())
}

fn add_rows(
    table: &mut Table,
    case: Case,
    contestants: &[Contestant],
    times: &mut [Vec<Duration>],
    bytes: u64,
) {
    #[expect(clippy::cast_precision_loss, reason = "far from 2^53 bytes")]
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    let mut first = None;
    for (contestant, times) in contestants.iter().zip(times) {
        times.sort_unstable();
        let [best, median] =
            [times[0], times[times.len() / 2]].map(|time| rate(time.as_secs_f64()));
        let (first_best, first_median) = *first.get_or_insert((best, median));
        table.add_row([
            format!("{case:?}"),
            contestant.to_string(),
            format!("{best:.2}"),
            format!("{median:.2}"),
            format!("{:.2}", best / first_best),
            format!("{:.2}", median / first_median),
        ]);
    }
}
