//! Arguments, rounds, and the table of what they showed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Table, presets};
use weightloader::{Checkpoint, Loader, WeightFile};

use super::checkpoints::Shape;
use super::turn::{Cost, Outcome, State, Turn};

/// Measures the default beside what it is judged by.
#[derive(Debug, Parser)]
#[command(name = "cases")]
struct Arguments {
    /// Where the checkpoints are written, and kept
    folder: PathBuf,
    /// Interleaved rounds of each case
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Size of a checkpoint; that of small tensors has a third of it
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(128..))]
    mebibytes: u64,
}

/// A turn, and another one that it is put beside.
struct Case {
    name: String,
    turn: Turn,
    beside: Option<Turn>,
    cost: Cost,
}

pub(crate) fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cases: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let loader = Loader::new()?;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "best",
        "median",
        "beside",
        "best",
        "median",
        "ratio of bests",
    ]);
    for case in cases(&loader, &arguments.folder, arguments.mebibytes << 20)? {
        let turns: Vec<&Turn> = std::iter::once(&case.turn).chain(&case.beside).collect();
        let mut costs: Vec<Vec<f64>> = turns.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds as usize {
            for turn in 0..turns.len() {
                // Another one begins each time, so that none always follows the same one.
                let index = (turn + round) % turns.len();
                costs[index].push(turns[index].take(&loader, case.cost)?);
            }
        }
        let mut row = vec![case.name.clone()];
        let mut bests = Vec::new();
        for (turn, costs) in turns.iter().zip(&mut costs) {
            costs.sort_unstable_by(f64::total_cmp);
            let (best, median) = (costs[0], costs[costs.len() / 2]);
            if !bests.is_empty() {
                row.push(turn.title());
            }
            row.extend([best, median].map(|cost| case.cost.describe(cost)));
            bests.push(best);
        }
        if let [ours, theirs] = bests[..] {
            row.push(format!("{:.2}", ours / theirs));
        }
        table.add_row(row);
        eprintln!("{}", case.name);
    }
    println!("{table}");
    Ok(())
}

fn cases(loader: &Loader, folder: &Path, bytes: u64) -> Outcome<Vec<Case>> {
    let open = |shape: Shape, bytes| -> Outcome<Checkpoint> {
        Ok(loader.open(shape.locate(folder, bytes)?)?)
    };
    let one = open(Shape::One, bytes)?;
    let shards = open(Shape::Shards, bytes)?;
    let small = open(Shape::Small, bytes / 3)?;
    let blob = Checkpoint::raw(WeightFile::open(small.files()[0].path())?);
    let mut number = 0;
    let third = one.select(|_| {
        number += 1;
        number % 3 == 0
    });
    let per_byte = |name: &str, state, ours: &Checkpoint, theirs: &Checkpoint| Case {
        name: name.to_owned(),
        turn: Turn::Load(ours.clone(), state),
        beside: Some(Turn::Load(theirs.clone(), state)),
        cost: Cost::NanosecondsPerKibibyte,
    };
    let mut cases = vec![
        per_byte(
            "eight shards, cold, beside one file",
            State::Cold,
            &shards,
            &one,
        ),
        per_byte(
            "small tensors, cold, beside a blob",
            State::Cold,
            &small,
            &blob,
        ),
        per_byte(
            "small tensors, warm, beside a blob",
            State::Warm,
            &small,
            &blob,
        ),
        per_byte(
            "every third tensor, cold, beside all",
            State::Cold,
            &third,
            &one,
        ),
        Case {
            name: "processor time, cold, beside read(2) on one thread".to_owned(),
            turn: Turn::Load(one.clone(), State::Cold),
            beside: Some(Turn::ReadCall(one.clone())),
            cost: Cost::ProcessorPerGibibyte,
        },
        Case {
            name: "first tensor of a cold stream".to_owned(),
            turn: Turn::FirstTensor(one.clone()),
            beside: None,
            cost: Cost::Milliseconds,
        },
    ];
    for (kibibytes, len) in [(1, 1 << 10), (64, 64 << 10), (1024, 1 << 20)] {
        let path = folder.join(format!("small-{len}"));
        std::fs::write(&path, vec![1; len])?;
        for turn in [Turn::SmallRead(path.clone()), Turn::SmallLoad(path.clone())] {
            cases.push(Case {
                name: format!("file of {kibibytes} KiB, {}, warm", turn.title()),
                turn,
                beside: Some(Turn::StandardRead(path.clone())),
                cost: Cost::Microseconds,
            });
        }
    }
    Ok(cases)
}
