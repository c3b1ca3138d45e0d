//! Progress bars by bytes, for those who watch.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use weightloader::Operation;

/// A bar on standard error; none where that is not a terminal.
#[derive(Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

const BYTES: &str =
    "{msg} {bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
const STEPS: &str = "{bar:32} {pos}/{len} {msg}";

impl Bar {
    /// A bar of bytes.
    pub(crate) fn bytes(action: &'static str, total: u64) -> Self {
        Self::styled(BYTES, action, total)
    }

    /// A bar of so many steps, each of which has a name.
    pub(crate) fn steps(total: u64) -> Self {
        Self::styled(STEPS, "", total)
    }

    fn styled(template: &str, action: &'static str, total: u64) -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▉▊▋▌▍▎▏ ");
        let bar = ProgressBar::new(total).with_style(style);
        bar.set_message(action);
        Self(Some(bar))
    }

    /// An operation that moves the bar; without one it need not report.
    pub(crate) fn operation(&self) -> Operation<'_> {
        match &self.0 {
            Some(bar) => Operation::new().on_progress(|progress| {
                bar.set_length(progress.total);
                bar.set_position(progress.bytes);
            }),
            None => Operation::new(),
        }
    }

    /// An operation that moves the bar on from `done`, one of several that share it.
    pub(crate) fn operation_after(&self, done: u64) -> Operation<'_> {
        match &self.0 {
            Some(bar) => Operation::new()
                .on_progress(move |progress| bar.set_position(done + progress.bytes)),
            None => Operation::new(),
        }
    }

    /// Shows that so many bytes or steps are done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }

    /// Shows that one more step begins, by its name.
    pub(crate) fn step(&self, name: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(name);
            bar.inc(1);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
