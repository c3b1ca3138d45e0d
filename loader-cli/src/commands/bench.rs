//! `weightloader bench`: the ways of loading, compared.

use std::time::Duration;

use clap::ValueEnum;
use weightloader::Loader;

use crate::arguments::Bench;
use crate::bench::{self, Contest, Limits, Way};
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(arguments: &Bench, output: &Output) -> Result<(), Failure> {
    let loader = Loader::new()?;
    let path = arguments.source.locate(&loader, output)?;
    let checkpoint = arguments.selection.select(&path, loader.open(&path)?)?;
    if checkpoint.bytes() == 0 {
        let path = path.display();
        return Err(Failure::Message(format!(
            "{path}: there are no weights to load"
        )));
    }
    let ways = if arguments.only.is_empty() {
        let all = Way::value_variants().iter().copied();
        all.filter(|way| arguments.upload || way.upload().is_none())
            .collect()
    } else {
        arguments.only.clone()
    };
    let limits = Limits {
        rounds: arguments.rounds,
        time: arguments.seconds.map(Duration::from_secs),
    };
    let comparison = Contest::new(&checkpoint, &ways)?.run(limits)?;
    if let Some(path) = &arguments.plot {
        bench::draw(&comparison, path)?;
        output.note(format_args!("drawn to {}", path.display()));
    }
    output.result(&comparison, bench::describe)
}
