//! Files opened past the system cache, and how reads of them must lie.

use std::fs::File;
use std::io;
use std::os::windows::fs::{FileExt, MetadataExt};

use loader_core::{HostBuffer, Mechanism, Refusal, Support, WeightFile};
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_FUNCTION, ERROR_INVALID_PARAMETER, ERROR_INVALID_USER_BUFFER,
    ERROR_NO_SYSTEM_RESOURCES, ERROR_NOACCESS, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA,
    ERROR_NOT_SUPPORTED, ERROR_WORKING_SET_QUOTA,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ALIGNMENT_INFO, FILE_ATTRIBUTE_COMPRESSED, FILE_ATTRIBUTE_ENCRYPTED,
    FILE_ATTRIBUTE_OFFLINE, FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS, FILE_FLAG_NO_BUFFERING,
    FILE_FLAG_OVERLAPPED, FILE_REMOTE_PROTOCOL_INFO, FILE_STORAGE_INFO,
};

use crate::handle::{information, is, reopen};
use crate::memory::VirtualMemory;

/// Whether and how `file` can be read past the system cache.
pub(crate) fn support(file: &WeightFile) -> Result<Support, Refusal> {
    let path = file.path().display();
    let refuse = |reason: String| Refusal::new(Mechanism::DIRECT, format!("{path}: {reason}"));
    let unbuffered = reopen(file.file(), FILE_FLAG_NO_BUFFERING)
        .map_err(|error| refuse(format!("it cannot be opened without buffering: {error}")))?;
    let mut support = match stated_alignment(&unbuffered) {
        Some(support) => support,
        None => tried_alignment(file, &unbuffered)
            .map_err(|error| refuse(format!("unbuffered reads are refused: {error}")))?,
    };
    support
        .check_blocks()
        .map_err(|error| refuse(format!("unbuffered {error}")))?;
    support.discouraged = discouragement(file.file())
        .map(|kind| format!("{path}: buffered reads serve {kind} better"));
    Ok(support)
}

/// Opens `file` once more, past the system cache and for reads that complete later.
pub(crate) fn open(file: &WeightFile) -> io::Result<File> {
    reopen(file.file(), FILE_FLAG_NO_BUFFERING | FILE_FLAG_OVERLAPPED)
}

/// Whether an error means that unbuffered reads do not serve here, rather than that the device
/// failed: alignment, memory that cannot be locked for the device, no such operation.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    [
        ERROR_INVALID_FUNCTION,
        ERROR_INVALID_PARAMETER,
        ERROR_INVALID_USER_BUFFER,
        ERROR_NOACCESS,
        ERROR_NOT_ENOUGH_MEMORY,
        ERROR_NOT_ENOUGH_QUOTA,
        ERROR_NOT_SUPPORTED,
        ERROR_NO_SYSTEM_RESOURCES,
        ERROR_WORKING_SET_QUOTA,
    ]
    .into_iter()
    .any(|code| is(error, code))
}

/// What the system says of the volume.
fn stated_alignment(file: &File) -> Option<Support> {
    let storage: FILE_STORAGE_INFO = information(file)?;
    let device: FILE_ALIGNMENT_INFO = information(file).unwrap_or_default();
    alignment(
        storage.LogicalBytesPerSector,
        storage.PhysicalBytesPerSectorForPerformance,
        device.AlignmentRequirement,
    )
}

/// The alignment of reads on a volume of these sectors, on a device that wants the bits of `mask`
/// to be zero in addresses.
///
/// Sectors that the device really works in, where they are the longer ones: "file access buffer
/// addresses for read and write operations should be physical sector-aligned"
/// (<https://learn.microsoft.com/en-us/windows/win32/fileio/file-buffering>).
fn alignment(logical: u32, physical: u32, mask: u32) -> Option<Support> {
    let (sector, address) = (logical.max(physical), mask.checked_add(1)?);
    let makes_sense = logical > 0 && sector.is_power_of_two() && address.is_power_of_two();
    let address = usize::try_from(address.max(sector)).ok()?;
    makes_sense.then(|| Support::aligned(sector.into(), address))
}

/// Finds the smallest block that a read works with, where nobody tells it.
fn tried_alignment(file: &WeightFile, unbuffered: &File) -> io::Result<Support> {
    let blocks = [4096, 65536];
    if file.disk_len() == 0 {
        return Ok(Support::aligned(blocks[0] as u64, blocks[0]));
    }
    let mut memory = HostBuffer::zeroed(&VirtualMemory, blocks[1]).map_err(io::Error::other)?;
    let mut outcome = Err(io::ErrorKind::Unsupported.into());
    for block in blocks {
        match unbuffered.seek_read(&mut memory[..block], 0) {
            Ok(_) => return Ok(Support::aligned(block as u64, block)),
            Err(error) if is(&error, ERROR_INVALID_PARAMETER) => outcome = Err(error),
            Err(error) => return Err(error),
        }
    }
    outcome
}

/// What kind of file it is, if of one that the system cache reads ahead of better than unbuffered
/// reads do, which wait for each other there
/// (<https://learn.microsoft.com/en-us/previous-versions/troubleshoot/windows/win32/asynchronous-disk-io-synchronous>).
fn discouragement(file: &File) -> Option<&'static str> {
    let attributes = file
        .metadata()
        .map_or(0, |metadata| metadata.file_attributes());
    let has = |attribute| attributes & attribute != 0;
    if has(FILE_ATTRIBUTE_COMPRESSED) {
        Some("compressed files")
    } else if has(FILE_ATTRIBUTE_ENCRYPTED) {
        Some("encrypted files")
    } else if has(FILE_ATTRIBUTE_OFFLINE) || has(FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS) {
        Some("files that are stored elsewhere")
    } else if is_remote(file) {
        Some("network shares")
    } else {
        None
    }
}

/// Whether the file lies on another machine.
pub(crate) fn is_remote(file: &File) -> bool {
    information::<FILE_REMOTE_PROTOCOL_INFO>(file).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignments_follow_the_longer_sector_and_the_device() {
        let both = |support: Support| (support.offset_alignment, support.memory_alignment);
        assert_eq!(alignment(512, 512, 0).map(both), Some((512, 512)));
        assert_eq!(alignment(512, 4096, 3).map(both), Some((4096, 4096)));
        assert_eq!(alignment(4096, 512, 0).map(both), Some((4096, 4096)));
        assert_eq!(alignment(512, 512, 4095).map(both), Some((512, 4096)));
        for nonsense in [
            (0, 0, 0),
            (0, 4096, 0),
            (520, 520, 0),
            (512, 512, 5),
            (512, 0, u32::MAX),
        ] {
            let (logical, physical, mask) = nonsense;
            assert_eq!(alignment(logical, physical, mask), None, "{nonsense:?}");
        }
    }

    #[test]
    fn files_of_every_length_have_an_alignment() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, 4096, 100_000] {
            let path = folder.path().join(len.to_string());
            std::fs::write(&path, vec![1; len]).unwrap();
            let support = support(&WeightFile::open(&path).unwrap()).unwrap();
            assert!(support.offset_alignment >= 512, "{support:?}");
            assert!(support.memory_alignment >= 512, "{support:?}");
        }
    }

    #[test]
    fn what_the_system_says_of_memory_and_alignment_is_no_failure_of_the_device() {
        let error = |code: u32| io::Error::from_raw_os_error(i32::try_from(code).unwrap());
        assert!(is_refusal(&error(ERROR_INVALID_PARAMETER)));
        assert!(is_refusal(&error(ERROR_WORKING_SET_QUOTA)));
        assert!(!is_refusal(&error(
            windows_sys::Win32::Foundation::ERROR_CRC
        )));
        assert!(!is_refusal(&io::ErrorKind::InvalidInput.into()));
    }
}
