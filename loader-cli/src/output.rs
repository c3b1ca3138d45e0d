//! Where results go: for people, and for programs.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::failure::Failure;

/// People read standard output, or standard error where programs read standard output.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    stdout_is_taken: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            stdout_is_taken: json,
        }
    }

    /// Whether a program reads standard output.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Leaves standard output to the bytes of a tensor.
    pub(crate) fn keep_off_stdout(&self) -> Self {
        Self {
            json: self.json,
            stdout_is_taken: true,
        }
    }

    /// A line, or several, for people.
    fn say(&self, text: impl Display) -> Result<(), Failure> {
        if self.stdout_is_taken {
            // Beside the result, which has standard output.
            self.note(text);
            return Ok(());
        }
        to_stdout(|stdout| writeln!(stdout, "{text}"))
    }

    /// Lines for people alone, however many, written as they are made.
    pub(crate) fn list(
        &self,
        lines: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.stdout_is_taken {
            return Ok(());
        }
        to_stdout(lines)
    }

    /// A remark for people that is no result.
    pub(crate) fn note(&self, text: impl Display) {
        // Where nobody reads it, nothing is lost.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// The result for programs: one object on one line. People get what `lines` says.
    pub(crate) fn result<T: Serialize>(
        &self,
        result: &T,
        lines: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        self.say(lines(result))?;
        if !self.json {
            return Ok(());
        }
        to_stdout(|stdout| {
            serde_json::to_writer(&mut *stdout, result)?;
            writeln!(stdout)
        })
    }

    /// Tells why the command failed.
    pub(crate) fn fail(&self, failure: &Failure) {
        self.note(format_args!("error: {failure}"));
        if self.json {
            self.fail_as_json(&failure.to_string());
        }
    }

    /// Tells programs why the command failed.
    pub(crate) fn fail_as_json(&self, message: &str) {
        // The exit status tells it where this cannot.
        let _ = writeln!(io::stdout(), "{}", serde_json::json!({ "error": message }));
    }
}

/// Writes to standard output, all of it: what is lost there is an error.
fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    write(&mut stdout)
        .and_then(|()| stdout.flush())
        .map_err(Failure::Stdout)
}
