//! Arguments, rounds, and the table of what they showed.

mod buffered;
mod direct;
mod experiment;
mod memory;
mod trial;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Table, presets};
use rustix::fs::{Advice, fadvise};

use experiment::{Experiment, State};
use trial::{Cost, Trial};

/// Varies one thing at a time in how a file is read into fresh memory.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Arguments {
    /// The file to read; a large one on the disk in question
    file: PathBuf,
    /// Which experiments; all by default
    #[arg(long, value_enum)]
    experiment: Vec<Experiment>,
    /// Interleaved rounds of each experiment
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

pub(crate) fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let file = File::open(&arguments.file)?;
    let chosen: Vec<Experiment> = if arguments.experiment.is_empty() {
        Experiment::ALL.to_vec()
    } else {
        arguments.experiment.clone()
    };
    for experiment in chosen {
        let trials = experiment.trials();
        let mut costs: Vec<Vec<Cost>> = trials.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds {
            for turn in 0..trials.len() {
                // Another one begins each time, so that none always follows the same one.
                let index = (turn + round) % trials.len();
                let trial = &trials[index].1;
                prepare(&file, experiment.state())?;
                costs[index].push(trial.run(&arguments.file)?);
            }
        }
        println!("\n{experiment}\n{}", table(&trials, &mut costs));
    }
    Ok(())
}

/// Brings the page cache into `state`.
fn prepare(file: &File, state: State) -> io::Result<()> {
    match state {
        State::Cold => fadvise(file, 0, None, Advice::DontNeed)?,
        State::Warm => drop(io::copy(
            &mut io::BufReader::with_capacity(1 << 20, file.try_clone()?),
            &mut io::sink(),
        )?),
    }
    Ok(())
}

fn table(trials: &[(String, Trial)], costs: &mut [Vec<Cost>]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "best GB/s", "median GB/s", "processor ms per GiB"]);
    for ((name, _), costs) in trials.iter().zip(costs) {
        costs.sort_by(|a, b| b.rate().total_cmp(&a.rate()));
        let (best, median) = (costs[0], costs[costs.len() / 2]);
        table.add_row([
            name.clone(),
            format!("{:.2}", best.rate()),
            format!("{:.2}", median.rate()),
            format!("{:.0}", best.processor_per_gib()),
        ]);
    }
    table
}
