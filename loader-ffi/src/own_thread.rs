//! The handles that Rust's standard library makes of C's threads, kept where leak checkers see them.
//!
//! A thread that starts others and waits for them gets a handle of itself, which is freed when the
//! thread ends. The main thread never does, and the standard library points to the middle of what it
//! made, which Valgrind tells of as possibly lost. One that we keep points to the start.

use std::sync::Mutex;
use std::thread::{self, Thread};

thread_local! {
    static OWN: OwnThread = OwnThread(Some(thread::current()));
}

/// The handle of the thread that ended last. That of the main thread comes when the process exits,
/// and stays; of all others this is one at most, however many there were.
static ENDED_LAST: Mutex<Option<Thread>> = Mutex::new(None);

/// A thread's handle of itself, until it ends.
struct OwnThread(Option<Thread>);

impl Drop for OwnThread {
    fn drop(&mut self) {
        // Another thread may have held the lock when this process was forked, so it is not waited for.
        if let Ok(mut ended_last) = ENDED_LAST.try_lock() {
            std::mem::swap(&mut *ended_last, &mut self.0);
        }
    }
}

/// Keeps the handle of the calling thread, which is about to wait for others. One that ends already
/// has nothing to keep any more.
pub(crate) fn keep() {
    let _ = OWN.try_with(|_| ());
}
