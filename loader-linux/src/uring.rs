//! Rings: how they are made, and whether this process may have one.

use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};
use loader_core::{Mechanism, Refusal};

/// Makes a ring for one thread.
///
/// Completions are run when the thread asks for them (`IORING_SETUP_DEFER_TASKRUN`, since Linux
/// 6.1), which saves interrupting it; older kernels get what they know. A forked child does not
/// inherit the ring's memory.
pub(crate) fn ring(entries: u32) -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(entries);
    match deferred {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            IoUring::builder().dontfork().build(entries)
        }
        outcome => outcome,
    }
}

/// Hands what was queued to the kernel and lets it finish what has completed. What it does not
/// take now goes with the next call.
pub(crate) fn submit(ring: &mut IoUring) {
    if let Err(error) = ring.submit() {
        tracing::debug!(%error, "io_uring_enter");
    }
}

/// Hands what was queued to the kernel and waits for at least one completion.
pub(crate) fn submit_and_wait(ring: &mut IoUring) {
    match ring.submit_and_wait(1) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => {
            // EAGAIN and EBUSY pass; for any other there is no remedy but to try again, since what
            // is in flight must be waited for.
            tracing::debug!(%error, "io_uring_enter");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The next completion, if one has arrived: the number that its entry was given, and its result.
pub(crate) fn completed(ring: &mut IoUring) -> Option<(usize, i32)> {
    let entry = ring.completion().next()?;
    Some((
        usize::try_from(entry.user_data()).unwrap_or(usize::MAX),
        entry.result(),
    ))
}

/// Whether io_uring serves here; found out once per process.
pub(crate) fn probe(mechanism: Mechanism) -> Result<(), Refusal> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    OUTCOME
        .get_or_init(try_out)
        .clone()
        .map_err(|reason| Refusal::new(mechanism, reason))
}

/// Finds out by using it: versions tell nothing of seccomp filters, of `kernel.io_uring_disabled`,
/// or of opcodes that are forbidden.
fn try_out() -> Result<(), String> {
    // Android's seccomp policy kills the process for trying.
    if cfg!(target_os = "android") {
        return Err("Android does not let applications use io_uring".to_owned());
    }
    let mut ring = ring(4).map_err(|error| reason("io_uring_setup", &error))?;
    let mut known = Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|error| reason("io_uring_register", &error))?;
    for (name, code) in [
        ("read", opcode::Read::CODE),
        ("fadvise", opcode::Fadvise::CODE),
    ] {
        if !known.is_supported(code) {
            return Err(format!("this kernel's io_uring has no {name}"));
        }
    }
    // SAFETY: the operation refers to no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|_| "a ring of this kernel takes no entries".to_owned())?;
    ring.submit_and_wait(1)
        .map_err(|error| reason("io_uring_enter", &error))?;
    match ring.completion().next().map(|entry| entry.result()) {
        Some(0..) => Ok(()),
        Some(failure) => Err(reason("a no-op", &io::Error::from_raw_os_error(-failure))),
        None => Err("io_uring completes nothing".to_owned()),
    }
}

fn reason(step: &str, error: &io::Error) -> String {
    let cause = match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::NOSYS) => {
            "the kernel has no io_uring, or a seccomp filter hides it"
        }
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            "a seccomp filter or kernel.io_uring_disabled forbids it"
        }
        Some(rustix::io::Errno::NOMEM) => "the locked-memory limit is too low",
        _ => "io_uring does not work here",
    };
    format!("{cause} ({step}: {error})")
}
