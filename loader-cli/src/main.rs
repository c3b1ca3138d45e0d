//! The program `weightloader`: loads weights, shows how fast, and why not faster.

mod arguments;
mod bench;
mod cache;
mod commands;
mod drawing;
mod failure;
mod log;
mod mapped;
mod output;
mod progress;
mod sample;
mod target;
mod timeline;
mod units;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;
use crate::output::Output;
use crate::timeline::Recorder;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(arguments.json);
    let recorder = arguments.command.wants_timeline().then(Recorder::default);
    let started = log::start(recorder.clone());
    match started.and_then(|()| run(&arguments.command, recorder.as_ref(), &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.fail(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, recorder: Option<&Recorder>, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Load(load) => commands::load::run(load, recorder, output),
        Command::Upload(upload) => commands::upload::run(upload, output),
        Command::Info(info) => commands::info::run(info, output),
        Command::Extract(extract) => commands::extract::run(extract, output),
        Command::Prefetch(prefetch) => commands::prefetch::run(prefetch, output),
        Command::Residency(residency) => commands::residency::run(residency, output),
        Command::Evict(evict) => commands::evict::run(evict, output),
        Command::Bench(bench) => commands::bench::run(bench, output),
        Command::Doctor(doctor) => commands::doctor::run(doctor, output),
    }
}

/// Tells what is wrong with the command line, or prints the help that it asks for.
fn refuse(error: &clap::Error) -> ExitCode {
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    // Where nobody reads it, nothing is lost.
    let _ = error.print();
    if !help && std::env::args_os().any(|argument| argument == "--json") {
        let rendered = error.render().to_string();
        let first = rendered.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        Output::new(true).fail_as_json(message);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
