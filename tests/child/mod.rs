//! What runs in a forked child.

use std::thread;
use std::time::{Duration, Instant};

/// Runs `work` in a forked child. Gives the number it tells: 0 if all is well, `None` where it hangs
/// or was killed by a signal.
///
/// The child has this thread alone. Whatever it does must not wait for any other, which is what
/// these tests are about; so it neither prints nor unwinds, and tells by a number what was wrong.
pub(crate) fn run(work: impl FnOnce() -> Result<(), u8>) -> Option<i32> {
    // SAFETY: the child touches only what `work` does, and then leaves without running anything
    // of its parent's (destructors, the test harness).
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "{}", std::io::Error::last_os_error());
    if process == 0 {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(())) => 0,
            Ok(Err(code)) => i32::from(code),
            Err(_) => 99,
        };
        // SAFETY: it does not return.
        unsafe { libc::_exit(code) };
    }
    exit_code(process)
}

/// Waits for a child; `None` where it hangs or was killed by a signal.
fn exit_code(process: libc::pid_t) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(process, &raw mut status, libc::WNOHANG) };
        if waited == process {
            return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        }
        thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the child was not waited for yet, so the number is still its own.
    unsafe { libc::kill(process, libc::SIGKILL) };
    // SAFETY: a null pointer says that the status is of no interest.
    unsafe { libc::waitpid(process, std::ptr::null_mut(), 0) };
    None
}

pub(crate) fn expect(condition: bool, code: u8) -> Result<(), u8> {
    condition.then_some(()).ok_or(code)
}
