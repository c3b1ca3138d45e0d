//! I/O completion ports: where reads in flight tell that they are over.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::IO::{
    CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED, OVERLAPPED_ENTRY,
};
use windows_sys::Win32::System::Threading::INFINITE;

use crate::handle::is;

/// Completions fetched at once.
const BATCH: usize = 64;

/// A completion port for one thread.
#[derive(Debug)]
pub(crate) struct CompletionPort(OwnedHandle);

impl CompletionPort {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no file, so that a port is made which belongs to nobody yet.
        let port =
            unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, std::ptr::null_mut(), 0, 1) };
        if port.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was made just now.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(port) }))
    }

    /// Lets reads of `file`, which was opened for overlapped ones, complete here.
    pub(crate) fn watch(&self, file: &File) -> io::Result<()> {
        // SAFETY: both handles are open for as long as they are borrowed.
        let port =
            unsafe { CreateIoCompletionPort(file.as_raw_handle(), self.0.as_raw_handle(), 0, 0) };
        if port.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Tells by the addresses of their `OVERLAPPED` what completed, and waits until something has
    /// where `wait` says so.
    pub(crate) fn completed(
        &self,
        wait: bool,
    ) -> io::Result<impl Iterator<Item = *mut OVERLAPPED> + use<>> {
        let mut entries = [OVERLAPPED_ENTRY::default(); BATCH];
        let room = u32::try_from(BATCH).unwrap_or(1);
        let mut count = 0_u32;
        let milliseconds = if wait { INFINITE } else { 0 };
        // SAFETY: the port is open; there is room for as many entries as is said, and the call
        // keeps none of the pointers.
        let told = unsafe {
            GetQueuedCompletionStatusEx(
                self.0.as_raw_handle(),
                entries.as_mut_ptr(),
                room,
                &raw mut count,
                milliseconds,
                0,
            )
        };
        if told == 0 {
            let error = io::Error::last_os_error();
            if !is(&error, WAIT_TIMEOUT) {
                return Err(error);
            }
            count = 0;
        }
        let completed = entries.into_iter().take(count as usize);
        Ok(completed.map(|entry| entry.lpOverlapped))
    }
}
