//! Threads that start here.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

use crate::{Mechanism, Refusal};

/// The process in which threads are known to start; none before there was one.
static START_IN: AtomicU32 = AtomicU32::new(0);

/// The last process in which one was waited for in vain.
static MISSED_IN: AtomicU32 = AtomicU32::new(0);

/// How long a thread may take to start. One that takes longer is there for the next operation.
const PATIENCE: Duration = Duration::from_secs(1);

/// What starts a thread named `name`, where threads start.
///
/// Whoever starts one and waits for it goes by way of this, for in a forked child it may never run:
/// a Rust program's threads, as they start and end, hold a lock of the standard library for a moment
/// ([`thread_info.rs`](https://github.com/rust-lang/rust/blob/main/library/std/src/sys/pal/unix/stack_overflow/thread_info.rs)),
/// and if another thread held it at the fork then nobody in the child ever gets it. Programs whose
/// `main` is not Rust's have no such lock.
///
/// # Errors
/// Where a thread was tried in this forked child and has not started. The first call in a child may
/// take a second to find out; all others ask for the number of the process and no more.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// let worker = loader_core::new_thread("worker")?.spawn(|| 6 * 7)?;
/// assert_eq!(worker.join().ok(), Some(42));
/// # Ok(())
/// # }
/// ```
pub fn new_thread(name: &str) -> io::Result<Builder> {
    threads_start()?;
    Ok(Builder::new().name(name.to_owned()))
}

/// Fails as [`new_thread`] does.
pub(crate) fn threads_start() -> io::Result<()> {
    let this = std::process::id();
    let known = START_IN.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire);
    if known.is_err_and(|process| process != this) {
        try_out(this)?;
    }
    Ok(())
}

/// What it means to an operation that a thread was not to be had.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn no_thread(error: io::Error) -> Refusal {
    Refusal::new(Mechanism::new("worker-thread"), error.to_string())
}

/// Sees whether a thread starts in this process, which is a forked child.
fn try_out(this: u32) -> io::Result<()> {
    if MISSED_IN.load(Ordering::Acquire) != this {
        let (starts, started) = mpsc::channel();
        // Not waited for when it never starts; the process ends all the same.
        Builder::new().spawn(move || {
            START_IN.store(this, Ordering::Release);
            // Nobody may be waiting any more.
            let _ = starts.send(());
        })?;
        if started.recv_timeout(PATIENCE).is_ok() {
            return Ok(());
        }
        MISSED_IN.store(this, Ordering::Release);
    }
    Err(io::Error::other(
        "this process was forked while a thread started or ended, and no thread has started in it since",
    ))
}
