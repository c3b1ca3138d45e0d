//! The standard library holds a lock for a moment whenever a thread starts or ends. It is never released
//! in a child forked in that moment, where no thread ever starts then: loads do without.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod child;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use child::expect;
use loader_core::testing::{Sample, Watchdog};
use loader_core::{HostBuffer, Stream, StreamItem};
use weightloader::{Error, Loader, Operation, Strategy};

const LEN: usize = 5_000_000;

/// What the child tells where its threads start.
const NO_SUCH_LOCK: u8 = 100;

/// Whether a thread has done its work and is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether it is held up in that.
static HELD_UP: AtomicBool = AtomicBool::new(false);

/// Its name, of a length that nothing else has.
const NAME: &str = "a thread of these tests that takes its time over being over and done with";

/// Makes the moment long: a thread that ends takes its entry out of the table that the lock is for,
/// and with it a copy of its name.
struct SlowEnds;

// SAFETY: everything is left to the system's allocator; a pause changes nothing.
unsafe impl GlobalAlloc for SlowEnds {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if layout.size() == NAME.len() && ENDING.swap(false, Ordering::AcqRel) {
            HELD_UP.store(true, Ordering::Release);
            thread::sleep(Duration::from_millis(500));
        }
        // SAFETY: the caller's promise: it came from `alloc`, and so from the system.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: SlowEnds = SlowEnds;

#[test]
fn no_child_waits_for_threads_that_never_start() {
    let _watchdog = Watchdog::over("a fork while a thread starts");
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new(folder.path(), "weights.bin", LEN);
    let file = sample.open();
    // This process is known to be one where threads start.
    let loader = |strategy| Loader::builder().strategy(strategy).build().unwrap();
    let auto = loader(Strategy::Auto);
    let direct = loader(Strategy::Direct);
    let mut memory = vec![0; LEN];
    auto.read_into(&file, .., &mut memory, Operation::new())
        .unwrap();
    memory.fill(0);
    let items = vec![StreamItem {
        file: 0,
        range: 0..file.len(),
    }];

    let named = thread::Builder::new().name(NAME.to_owned());
    let slow = named
        .spawn(|| ENDING.store(true, Ordering::Release))
        .unwrap();
    let begun = Instant::now();
    while !HELD_UP.load(Ordering::Acquire) {
        if begun.elapsed() > Duration::from_secs(10) {
            eprintln!("skipped: this standard library keeps no names of threads that end");
            return;
        }
        thread::yield_now();
    }
    let code = child::run(|| {
        // What there is without a thread is done by this one, and the report tells.
        let report = auto
            .read_into(&file, .., &mut memory, Operation::new())
            .map_err(|_| 1)?;
        expect(memory == sample.bytes(), 2)?;
        let told = report
            .fallbacks
            .iter()
            .any(|refusal| refusal.mechanism.name() == "worker-thread");
        expect(told, NO_SUCH_LOCK)?;
        auto.evict(&file, ..).map_err(|_| 3)?;
        memory.fill(0);
        auto.read_into(&file, .., &mut memory, Operation::new())
            .map_err(|_| 4)?;
        expect(memory == sample.bytes(), 5)?;
        // The rest says why it does not go.
        auto.evict(&file, ..).map_err(|_| 6)?;
        let forced = direct.read_into(&file, .., &mut memory, Operation::new());
        expect(matches!(forced, Err(Error::Unsupported { .. })), 7)?;
        let stream = Stream::start(auto.platform(), auto.options(), vec![file.clone()], items);
        expect(matches!(stream, Err(Error::Unsupported { .. })), 8)?;
        let ahead = auto.prefetch(&file, ..).map_err(|_| 9)?;
        let outcome = ahead.wait(Operation::new()).map_err(|_| 10)?;
        expect(outcome.brought == 0, 11)?;
        // Long enough that threads would help to give it back.
        let long = HostBuffer::zeroed(&*auto.platform().memory, 1 << 30);
        long.map(drop).map_err(|_| 12)
    });
    if code == Some(NO_SUCH_LOCK.into()) {
        eprintln!("skipped: this standard library holds no lock while a thread ends");
    } else {
        assert_eq!(code, Some(0), "the child's exit code");
    }
    slow.join().unwrap();
}
