//! Signals whose handlers do not restart system calls arrive all the while: the system interrupts
//! reads and waits, and all bytes come all the same.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use loader_core::testing::{Guarded, Sample, Watchdog};
use weightloader::{Error, Loader, Operation, Strategy};

static ARRIVED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    ARRIVED.fetch_add(1, Ordering::Relaxed);
}

/// Counts signals of this kind, without restarting what they interrupt.
fn handle(signal: libc::c_int) {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = count;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing but an atomic addition, which is allowed in one.
    let outcome = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// Says that it is over also when a test panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_storm_of_signals_disturbs_nothing() {
    let _watchdog = Watchdog::over("reading in a storm of signals");
    handle(libc::SIGUSR1);
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", 4_000_001);
    sample.sync().unwrap();
    let file = sample.open();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let process = libc::pid_t::try_from(std::process::id()).unwrap();
            while !done.load(Ordering::Acquire) {
                // SAFETY: the signal goes to this process, which handles it, on any thread.
                unsafe { libc::kill(process, libc::SIGUSR1) };
                thread::sleep(Duration::from_micros(50));
            }
        });
        let finished = Done(&done);
        for round in 0..30 {
            for strategy in [Strategy::Auto, Strategy::Direct, Strategy::Buffered] {
                let builder = Loader::builder().strategy(strategy);
                let loader = builder.chunk_bytes(32 << 10).build().unwrap();
                if round % 3 == 0 {
                    // Cold where the system can make it so.
                    let _ = loader.evict(&file, ..);
                }
                let ahead = loader.prefetch(&file, ..1_000_000).unwrap();
                let mut memory = Guarded::new(sample.bytes(), round % 2);
                let outcome = loader.read_into(&file, .., memory.destination(), Operation::new());
                match outcome {
                    Err(Error::Unsupported { .. }) if strategy == Strategy::Direct => {}
                    outcome => {
                        outcome.unwrap();
                        memory.check_complete("a read in a storm of signals");
                    }
                }
                ahead.wait(Operation::new()).unwrap();
            }
        }
        drop(finished);
    });
    assert!(
        ARRIVED.load(Ordering::Relaxed) > 100,
        "hardly any signal arrived"
    );
}
