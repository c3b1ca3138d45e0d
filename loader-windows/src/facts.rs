//! What this machine and a file's volume offer, for people to read.

use std::fs::File;
use std::os::windows::io::AsRawHandle;
use std::thread;

use loader_core::{Fact, WeightFile};
use windows_sys::Win32::Storage::FileSystem::GetVolumeInformationByHandleW;
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};

use crate::system::memory;
use crate::unbuffered_file;

/// What the machine offers.
pub(crate) fn of_machine() -> Vec<Fact> {
    let mut info = SYSTEM_INFO::default();
    // SAFETY: the system writes one `SYSTEM_INFO`.
    unsafe { GetSystemInfo(&raw mut info) };
    let processors = thread::available_parallelism();
    let processors = processors.map_or_else(|_| "unknown".to_owned(), |count| count.to_string());
    let mut facts = vec![
        Fact::new("processors", processors),
        bytes("page_size", info.dwPageSize.into()),
        bytes("mapping_granularity", info.dwAllocationGranularity.into()),
    ];
    if let Some(memory) = memory() {
        facts.push(bytes("memory", memory.ullTotalPhys));
        facts.push(bytes("free_memory", memory.ullAvailPhys));
        facts.push(bytes("commit_left", memory.ullAvailPageFile));
    }
    facts
}

/// What the volume under `file` offers.
pub(crate) fn of_file(file: &WeightFile) -> Vec<Fact> {
    let filesystem = filesystem(file.file()).unwrap_or_else(|| "unknown".to_owned());
    let place = if unbuffered_file::is_remote(file.file()) {
        "another machine"
    } else {
        "this machine"
    };
    let direct = match unbuffered_file::support(file) {
        Ok(support) => support.to_string(),
        Err(refusal) => refusal.reason,
    };
    vec![
        bytes("length", file.disk_len()),
        Fact::new("filesystem", filesystem),
        Fact::new("place", place),
        Fact::new("direct_io", direct),
        Fact::new(
            "residency",
            "estimated: Windows does not tell, so a few buffered reads are timed",
        ),
    ]
}

fn bytes(name: &'static str, bytes: u64) -> Fact {
    Fact::new(name, format!("{bytes} bytes"))
}

/// The name of the filesystem: "NTFS", "ReFS", "exFAT".
fn filesystem(file: &File) -> Option<String> {
    let mut name = [0_u16; 64];
    let room = u32::try_from(name.len()).ok()?;
    let none = std::ptr::null_mut();
    // SAFETY: the handle is open; the call writes at most as many characters as there is room for,
    // the last of them zero, and nothing where it is given no place.
    let told = unsafe {
        GetVolumeInformationByHandleW(
            file.as_raw_handle(),
            none,
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            name.as_mut_ptr(),
            room,
        )
    };
    let len = name.iter().position(|unit| *unit == 0)?;
    (told != 0).then(|| String::from_utf16_lossy(&name[..len]))
}
