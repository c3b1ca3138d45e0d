//! The program `weightloader`: loads weights, shows how fast, and why not faster.

mod arguments;
mod bench;
mod cache;
mod commands;
mod drawing;
mod failure;
mod listing;
mod log;
mod mapped;
mod output;
mod progress;
mod sample;
mod target;
mod timeline;
mod units;
mod whole_file;

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
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
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
    let printed = error.print().map_err(Failure::Stdout);
    if !help {
        // What could not be printed, the exit status tells.
        if std::env::args_os().any(|argument| argument == "--json") {
            let message = in_one_line(&error.render().to_string());
            Output::new(true).fail_as_json(&message);
        }
    } else if let Err(failure) = printed {
        if !failure.is_broken_pipe() {
            Output::new(false).fail(&failure);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What is wrong, without the usage and the advice that follow after an empty line.
fn in_one_line(rendered: &str) -> String {
    let mut lines = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let details: Vec<&str> = lines.collect();
    let message = format!("{first} {}", details.join(", "));
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    message.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    #[test]
    fn what_is_missing_belongs_to_the_line() {
        let rendered = "error: these are missing:\n  --output <OUT>\n  <PATH>\n\nUsage: x\n";
        let expected = "these are missing: --output <OUT>, <PATH>";
        assert_eq!(in_one_line(rendered), expected);
        assert_eq!(in_one_line("error: wrong\n"), "wrong");
        assert_eq!(in_one_line(""), "");
    }
}
