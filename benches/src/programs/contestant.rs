//! One turn of a program, and how long it took.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::Value;

use super::contest::Outcome;
use super::rival::Rival;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Contestant {
    /// The program of this workspace.
    Ours {
        arguments: &'static [&'static str],
        clock: Clock,
    },
    /// fio(1): direct reads through io_uring, into the same few blocks again and again.
    Fio {
        block: &'static str,
        depth: &'static str,
    },
    Rival(Rival),
}

/// Whose clock counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// From the start of the process to its end, less what it takes to say its version.
    Process,
    /// What its report says.
    Report,
}

impl Contestant {
    /// How long `path` takes it.
    pub(crate) fn take(&self, path: &Path, start_up: Duration) -> Outcome<Duration> {
        match self {
            Self::Ours { arguments, clock } => {
                let mut command = ours()?;
                command.args(*arguments).arg(path).arg("--json");
                let (output, time) = timed(&mut command)?;
                match clock {
                    Clock::Process => Ok(time.saturating_sub(start_up)),
                    Clock::Report => {
                        let stdout = String::from_utf8(output.stdout)?;
                        let report: Value =
                            serde_json::from_str(stdout.lines().last().unwrap_or_default())?;
                        seconds(&report["seconds"])
                    }
                }
            }
            Self::Fio { block, depth } => {
                let mut command = Command::new("fio");
                command
                    .args(["--name=read", "--rw=read", "--direct=1", "--readonly"])
                    .args(["--ioengine=io_uring", "--output-format=json"])
                    .arg(format!("--bs={block}"))
                    .arg(format!("--iodepth={depth}"))
                    .arg(format!("--filename={}", path.display()));
                if huge_pages() {
                    command.arg("--mem=shmhuge");
                }
                let (output, _) = timed(&mut command)?;
                let report: Value = serde_json::from_slice(&output.stdout)?;
                let milliseconds = &report["jobs"][0]["read"]["runtime"];
                Ok(seconds(milliseconds)?.div_f64(1e3))
            }
            Self::Rival(rival) => Ok(rival_process(*rival, path)?.saturating_sub(start_up)),
        }
    }

    /// Why it cannot take part here.
    pub(crate) fn absent(&self) -> Option<&'static str> {
        let missing = matches!(self, Self::Fio { .. })
            && Command::new("fio").arg("--version").output().is_err();
        missing.then_some("fio is not installed")
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours { arguments, .. } => f.write_str(&arguments.join(" ")),
            Self::Fio { block, depth } => {
                let pages = if huge_pages() { ", huge pages" } else { "" };
                write!(f, "fio, {block} x {depth}{pages}")
            }
            Self::Rival(rival) => f.write_str(&name(*rival)),
        }
    }
}

/// Lets this very program be `rival` in a process of its own.
pub(crate) fn rival_process(rival: Rival, path: &Path) -> Outcome<Duration> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--rival").arg(name(rival)).arg(path);
    Ok(timed(&mut command)?.1)
}

/// What it takes to start a program and to end it.
pub(crate) fn start_up() -> Outcome<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..10 {
        least = least.min(timed(ours()?.arg("--version"))?.1);
    }
    Ok(least)
}

fn ours() -> Outcome<Command> {
    let program = std::env::current_exe()?.with_file_name("weightloader");
    if program.exists() {
        return Ok(Command::new(program));
    }
    let program = program.display();
    Err(format!("{program} is not there: cargo build --release -p loader-cli").into())
}

fn timed(command: &mut Command) -> Outcome<(Output, Duration)> {
    let started = Instant::now();
    let output = command.output()?;
    let time = started.elapsed();
    if output.status.success() {
        return Ok((output, time));
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {reason}", output.status).into())
}

fn seconds(value: &Value) -> Outcome<Duration> {
    let seconds = value.as_f64().ok_or("a report without a time")?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

/// Whether the operator has set huge pages aside, as fio needs them.
fn huge_pages() -> bool {
    let pages = fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    // 64 MiB of pages of 2 MiB.
    pages.trim().parse().is_ok_and(|pages: u64| pages >= 33)
}

fn name(rival: Rival) -> String {
    let value = rival.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
