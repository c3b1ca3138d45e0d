//! Progress bars by bytes, for those who watch.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use weightloader::Operation;

use crate::units;

/// A bar on standard error; none where that is not a terminal.
#[derive(Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

const BYTES: &str = "{msg} {bar:32} {binary_bytes}/{binary_total_bytes} {speed}";
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
            .with_key("speed", |state: &ProgressState, out: &mut dyn Write| {
                let left = state.len().unwrap_or(0).saturating_sub(state.pos());
                // Nowhere else to tell of an error; the bar goes on without.
                let _ = out.write_str(&speed(state.pos(), left, state.elapsed()));
            })
            .progress_chars("█▉▊▋▌▍▎▏ ");
        let bar = ProgressBar::new(total).with_style(style);
        bar.set_message(action);
        Self(Some(bar))
    }

    /// An operation that moves the bar; without one it need not report.
    pub(crate) fn operation(&self) -> Operation<'_> {
        match &self.0 {
            Some(bar) => {
                // Until now headers were read, which is not what its speed is about.
                bar.reset_elapsed();
                Operation::new().on_progress(|progress| {
                    bar.set_length(progress.total);
                    bar.set_position(progress.bytes);
                })
            }
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

/// How fast so many bytes came on average, and how long those `left` will take at that; nothing in
/// the first moments, in which what comes at once says little: a pace lets its first piece through.
///
/// An average, since the bar's own estimate believes its first looks for many seconds.
fn speed(done: u64, left: u64, elapsed: Duration) -> String {
    const TELLING: Duration = Duration::from_secs(1);
    // No clock of ours runs for longer than can be counted in milliseconds.
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let per_second = done.saturating_mul(1000) / millis.max(1);
    if elapsed < TELLING || per_second == 0 {
        return String::new();
    }
    let rest = HumanDuration(Duration::from_secs(left / per_second));
    format!("{}/s {rest:#} left", units::bytes(per_second))
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_an_average_that_waits_until_it_means_something() {
        assert_eq!(speed(1 << 20, 1 << 20, Duration::from_millis(3)), "");
        assert_eq!(speed(0, 1 << 20, Duration::from_secs(9)), "");
        let later = speed(10 << 20, 60 << 20, Duration::from_secs(2));
        assert_eq!(later, "5.0 MiB/s 12s left");
        // A clock that stands still.
        assert_eq!(speed(1, 1, Duration::ZERO), "");
    }
}
