//! What becomes of uploaders and their buffers when the process forks: they are inert in the child,
//! where nobody drives the device, and go on undisturbed in the parent.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod machine;
mod weights;

use std::thread;
use std::time::{Duration, Instant};

use loader_core::testing::Watchdog;
use loader_core::{Error, HeapMemory, Operation, Placement, Result, Uploader};
use loader_vulkan::{DeviceBuffer, VulkanUploader, VulkanUploaderBuilder, Way};
use machine::Machine;
use weights::Weights;

const WAYS: [Way; 3] = [Way::Import, Way::InPlace, Way::Staged];

/// Runs `child` in a forked child, and expects that it returns 0.
///
/// The child has this thread alone and must not wait for any other; so it neither prints nor
/// unwinds, and tells by another number what was wrong.
fn in_a_child(child: impl FnOnce() -> u8) {
    // SAFETY: the child touches only what `child` does, and then leaves without running anything
    // of its parent's (destructors, the test harness).
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "{}", std::io::Error::last_os_error());
    if process == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: it does not return.
        unsafe { libc::_exit(i32::from(code)) };
    }
    assert_eq!(exit_code(process), Some(0), "the child's exit code");
}

/// Waits for a child; `None` where it hangs or was killed by a signal.
fn exit_code(process: libc::pid_t) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
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

fn is_forked<T>(outcome: Result<T>) -> bool {
    matches!(outcome, Err(Error::Forked))
}

fn weights() -> Weights {
    Weights::new(&[vec![(100, 300_000), (0, 5)]], Placement::File)
}

fn builder(way: Way) -> VulkanUploaderBuilder {
    let builder = VulkanUploader::builder().way(way);
    builder.ring(64, 64 << 10).without_waiting()
}

#[test]
fn copies_on_their_way_are_the_parents() {
    let _watchdog = Watchdog::over("a fork while copies are on their way");
    let Some(machine) = Machine::open() else {
        return;
    };
    let weights = weights();
    let mut uploader = builder(Way::Staged).build_on(machine.share()).unwrap();
    let gate = machine.gate();
    weights.upload(&mut uploader, Operation::new()).unwrap();

    in_a_child(|| {
        // SAFETY: the child leaves without using or dropping the parent's.
        let mut inherited = unsafe { std::ptr::read(&raw const uploader) };
        if !is_forked(inherited.wait()) {
            return 1;
        }
        if !is_forked(inherited.prepare(&[1], &HeapMemory)) {
            return 2;
        }
        if !is_forked(inherited.finish()) {
            return 3;
        }
        if !is_forked(inherited.acquire(true)) {
            return 4;
        }
        inherited.abort();
        drop(inherited);
        0
    });
    in_a_child(|| {
        // SAFETY: as above.
        let inherited = unsafe { std::ptr::read(&raw const uploader) };
        u8::from(!is_forked(inherited.into_buffers()))
    });

    gate.open();
    uploader.wait().unwrap();
    weights.check(&[machine.read(&uploader.buffers()[0], None)]);
    drop(uploader);
    drop(gate);
    machine.assert_clean();
}

#[test]
fn an_upload_under_way_is_the_parents() {
    let _watchdog = Watchdog::over("a fork during an upload");
    let Some(machine) = Machine::open() else {
        return;
    };
    for way in WAYS {
        let mut uploader = builder(way).build_on(machine.share()).unwrap();
        uploader.prepare(&[5000], &HeapMemory).unwrap();
        in_a_child(|| {
            // SAFETY: the child leaves without using or dropping the parent's.
            let mut inherited = unsafe { std::ptr::read(&raw const uploader) };
            let refused = match way {
                Way::Import => is_forked(inherited.import(Vec::new())),
                Way::InPlace => is_forked(inherited.destinations()),
                _ => is_forked(inherited.acquire(false)),
            };
            drop(inherited);
            u8::from(!refused)
        });
        uploader.finish().unwrap();
    }
    machine.assert_clean();
}

#[test]
fn a_device_of_its_own_is_the_parents() {
    let _watchdog = Watchdog::over("a fork beside a device of the uploader's own");
    let weights = weights();
    for way in WAYS {
        let mut uploader = match builder(way).build() {
            Ok(uploader) => uploader,
            Err(Error::Unsupported { reason, .. }) => {
                println!("skipped: {reason}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        match weights.upload(&mut uploader, Operation::new()) {
            Ok(_) => {}
            Err(Error::Unsupported { reason, .. }) => {
                println!("skipped: {reason}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        in_a_child(|| {
            // SAFETY: the child leaves without using or dropping the parent's.
            drop(unsafe { std::ptr::read(&raw const uploader) });
            0
        });
        weights.upload(&mut uploader, Operation::new()).unwrap();
        let buffers = uploader.into_buffers().unwrap();
        in_a_child(|| {
            // SAFETY: as above. The last of them would take the device along.
            drop::<Vec<DeviceBuffer>>(unsafe { std::ptr::read(&raw const buffers) });
            0
        });
    }
}
