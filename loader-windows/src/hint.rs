//! The call `PrefetchVirtualMemory`.

use std::io;

use windows_sys::Win32::System::Memory::{PrefetchVirtualMemory, WIN32_MEMORY_RANGE_ENTRY};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Asks the system to bring `ranges` of memory, each an address and a length in bytes, in with few
/// large reads.
///
/// The system need not obey, and what it brings in is not added to the working set: each page still
/// costs a soft fault where it is touched.
pub(crate) fn prefetch(ranges: &[(*const u8, usize)]) -> io::Result<()> {
    let entries: Vec<_> = ranges
        .iter()
        .filter(|(_, len)| *len > 0)
        .map(|(start, len)| WIN32_MEMORY_RANGE_ENTRY {
            VirtualAddress: start.cast_mut().cast(),
            NumberOfBytes: *len,
        })
        .collect();
    if entries.is_empty() {
        return Ok(());
    }
    // SAFETY: a pseudo handle, which needs no closing.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the entries are as many as is said and live until the call returns; the call only
    // reads them, changes no memory, and fails for addresses that are not mapped.
    let asked = unsafe { PrefetchVirtualMemory(process, entries.len(), entries.as_ptr(), 0) };
    match asked {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
