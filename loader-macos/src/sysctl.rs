//! What sysctl(3) tells.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;

/// An unsigned number that sysctl(3) tells, of 4 or 8 bytes.
pub(crate) fn number(name: &CStr) -> Option<u64> {
    let mut bytes = [0; size_of::<u64>()];
    match read(name, &mut bytes).ok()? {
        // Little-endian on every Mac that Rust runs on.
        4 | 8 => Some(u64::from_le_bytes(bytes)),
        _ => None,
    }
}

/// A line of text that sysctl(3) tells.
pub(crate) fn text(name: &CStr) -> Option<String> {
    let mut bytes = [0; 256];
    let len = read(name, &mut bytes).ok()?;
    let text = CStr::from_bytes_until_nul(&bytes[..len]).ok()?;
    Some(text.to_string_lossy().into_owned())
}

/// Reads what sysctl(3) tells under `name` to the front of `buffer`; returns its length.
fn read(name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = buffer.len();
    // SAFETY: the name ends with a nul; the system writes at most `len` bytes to the buffer and
    // then how many there were to `len`; nothing is set.
    let told = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    match told {
        0 => Ok(len.min(buffer.len())),
        _ => Err(io::Error::last_os_error()),
    }
}
