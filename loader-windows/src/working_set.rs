//! Room for locked pages in the process's working set.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_NO_SYSTEM_RESOURCES, ERROR_PRIVILEGE_NOT_HELD,
    ERROR_WORKING_SET_QUOTA,
};
use windows_sys::Win32::System::Memory::{GetProcessWorkingSetSizeEx, SetProcessWorkingSetSizeEx};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::handle::is;

/// What the process needs beside its locked pages: "the maximum number of pages that a process can
/// lock is equal to the number of pages in its minimum working set minus a small overhead"
/// (<https://learn.microsoft.com/en-us/windows/win32/api/memoryapi/nf-memoryapi-virtuallock>).
const OVERHEAD: usize = 64 * 4096;

/// Room made in the working set, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: usize,
}

impl Room {
    /// Makes the working set so much larger that `bytes` can be locked.
    pub(crate) fn for_locked(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.saturating_add(OVERHEAD);
        let _alone = alone();
        let sizes = sizes()?;
        let minimum = sizes.minimum.saturating_add(bytes);
        let maximum = sizes.maximum.max(minimum.saturating_add(OVERHEAD));
        let larger = Sizes {
            minimum,
            maximum,
            ..sizes
        };
        larger.set().map_err(|error| explain(error, bytes))?;
        Ok(Self { bytes })
    }

    /// Says what a failure to lock means.
    pub(crate) fn explain(&self, error: io::Error) -> io::Error {
        explain(error, self.bytes)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _alone = alone();
        let restored = sizes().and_then(|sizes| {
            let minimum = sizes.minimum.saturating_sub(self.bytes).max(OVERHEAD);
            Sizes { minimum, ..sizes }.set()
        });
        if let Err(error) = restored {
            tracing::debug!(%error, "the working set keeps its size");
        }
    }
}

/// The bounds of the working set in bytes, and whether they are hard ones.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    minimum: usize,
    maximum: usize,
    flags: u32,
}

/// Sizes are asked for and set in two calls, which two threads must not mix.
fn alone() -> MutexGuard<'static, ()> {
    static SIZES: Mutex<()> = Mutex::new(());
    SIZES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sizes() -> io::Result<Sizes> {
    let (mut minimum, mut maximum, mut flags) = (0, 0, 0);
    // SAFETY: a pseudo handle, which needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the call writes the three numbers.
    let told = unsafe {
        GetProcessWorkingSetSizeEx(process, &raw mut minimum, &raw mut maximum, &raw mut flags)
    };
    if told == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Sizes {
        minimum,
        maximum,
        flags,
    })
}

impl Sizes {
    fn set(self) -> io::Result<()> {
        // SAFETY: a pseudo handle, which needs no closing.
        let process = unsafe { GetCurrentProcess() };
        // SAFETY: the call takes numbers alone and changes no memory.
        let set =
            unsafe { SetProcessWorkingSetSizeEx(process, self.minimum, self.maximum, self.flags) };
        if set == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Says in words what the system's refusals mean.
fn explain(error: io::Error, bytes: usize) -> io::Error {
    let privilege = [ERROR_PRIVILEGE_NOT_HELD, ERROR_ACCESS_DENIED];
    let room = [ERROR_WORKING_SET_QUOTA, ERROR_NO_SYSTEM_RESOURCES];
    let among = |codes: [u32; 2]| codes.into_iter().any(|code| is(&error, code));
    let reason = if among(privilege) {
        "this user may not increase a process working set (SeIncreaseWorkingSetPrivilege)"
    } else if among(room) {
        "that much of the working set cannot be locked"
    } else {
        "the working set cannot be made large enough"
    };
    io::Error::new(error.kind(), format!("{error}; {reason}: {bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privileges_are_named() {
        let error = |code: u32| io::Error::from_raw_os_error(i32::try_from(code).unwrap());
        let told = explain(error(ERROR_PRIVILEGE_NOT_HELD), 5).to_string();
        assert!(told.contains("SeIncreaseWorkingSetPrivilege"), "{told}");
        let told = explain(error(ERROR_WORKING_SET_QUOTA), 5).to_string();
        assert!(told.contains("cannot be locked"), "{told}");
    }

    #[test]
    fn room_is_given_back() {
        let before = match sizes() {
            Ok(sizes) => sizes.minimum,
            Err(error) => return println!("skipped: the working set's size is not told: {error}"),
        };
        match Room::for_locked(1 << 20) {
            Ok(room) if sizes().unwrap().minimum == before => {
                drop(room);
                println!("skipped: this system lets every process lock as much as it likes");
            }
            Ok(room) => {
                assert!(sizes().unwrap().minimum >= before + (1 << 20));
                drop(room);
                assert_eq!(sizes().unwrap().minimum, before);
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
}
