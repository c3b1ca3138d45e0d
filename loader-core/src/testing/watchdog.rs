//! Hangs become failures.

use std::process;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long anything here may take: far longer than it does on a slow machine under a sanitizer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Aborts the process, saying what hung, unless it is dropped in time.
///
/// A test that hangs cannot be stopped otherwise: the threads it waits for are stuck.
#[derive(Debug)]
#[must_use = "it watches for as long as it lives"]
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Watches over `what`.
    pub fn over(what: impl Into<String>) -> Self {
        let what = what.into();
        let (alive, gone) = channel();
        thread::spawn(move || {
            if gone.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{what} hangs: still not done after {PATIENCE:?}");
                process::abort();
            }
        });
        Self { _alive: alive }
    }
}
