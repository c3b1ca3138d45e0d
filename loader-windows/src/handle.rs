//! Files opened once more, by their handle, and what the system tells of open files.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle};

use windows_sys::Win32::Foundation::{GENERIC_READ, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ALIGNMENT_INFO, FILE_FLAGS_AND_ATTRIBUTES, FILE_ID_INFO, FILE_INFO_BY_HANDLE_CLASS,
    FILE_REMOTE_PROTOCOL_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_STORAGE_INFO, FileAlignmentInfo, FileIdInfo, FileRemoteProtocolInfo, FileStorageInfo,
    GetFileInformationByHandleEx, ReOpenFile,
};

/// Opens `file` once more for reading, with other flags.
///
/// By its handle, since its name may mean another file by now; Wine goes by the name all the same,
/// so it is made sure that the file is the same one. Fails where the file was deleted, or where
/// whoever opened it shares it with nobody.
pub(crate) fn reopen(file: &File, flags: FILE_FLAGS_AND_ATTRIBUTES) -> io::Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    // SAFETY: the handle is open for as long as `file` is borrowed.
    let handle = unsafe { ReOpenFile(file.as_raw_handle(), GENERIC_READ, share, flags) };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now and belongs to nobody else.
    let reopened = unsafe { File::from_raw_handle(handle) };
    if number(file) != number(&reopened) {
        return Err(io::Error::other("its name means another file by now"));
    }
    Ok(reopened)
}

/// The number of the volume and of the file there, where the filesystem numbers files.
fn number(file: &File) -> Option<(u64, [u8; 16])> {
    let info: FILE_ID_INFO = information(file)?;
    Some((info.VolumeSerialNumber, info.FileId.Identifier))
}

/// Whether `error` is the system's error of this number.
pub(crate) fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error().map(u32::try_from) == Some(Ok(code))
}

/// What the system tells of an open file in one call: plain numbers, for which all zeros are a
/// value.
///
/// # Safety
/// It is the structure that `CLASS` makes the system write.
pub(crate) unsafe trait Information: Default {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS;
}

// SAFETY: the structure that the documentation names for the class.
unsafe impl Information for FILE_STORAGE_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileStorageInfo;
}

// SAFETY: the structure that the documentation names for the class.
unsafe impl Information for FILE_ALIGNMENT_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileAlignmentInfo;
}

// SAFETY: the structure that the documentation names for the class.
unsafe impl Information for FILE_REMOTE_PROTOCOL_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileRemoteProtocolInfo;
}

// SAFETY: the structure that the documentation names for the class.
unsafe impl Information for FILE_ID_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileIdInfo;
}

/// What the system tells of an open file, where it tells it.
pub(crate) fn information<T: Information>(file: &File) -> Option<T> {
    let mut information = T::default();
    let room = u32::try_from(size_of::<T>()).ok()?;
    // SAFETY: the handle is open for as long as `file` is borrowed, and the system writes at most
    // as many bytes as it is told there is room for.
    let told = unsafe {
        let information = (&raw mut information).cast();
        GetFileInformationByHandleEx(file.as_raw_handle(), T::CLASS, information, room)
    };
    (told != 0).then_some(information)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::windows::fs::{FileExt, OpenOptionsExt};
    use windows_sys::Win32::Foundation::ERROR_SHARING_VIOLATION;

    #[test]
    fn a_renamed_file_is_still_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, b"old").unwrap();
        let file = File::open(&old).unwrap();
        if let Err(error) = std::fs::rename(&old, &new) {
            return println!("skipped: an open file cannot be renamed here: {error}");
        }
        std::fs::write(&old, b"new").unwrap();
        let reopened = match reopen(&file, 0) {
            Ok(reopened) => reopened,
            Err(error) => return println!("skipped: renamed files are not reopened here: {error}"),
        };
        let mut found = [0; 3];
        reopened.seek_read(&mut found, 0).unwrap();
        assert_eq!(&found, b"old");
    }

    #[test]
    fn a_file_that_is_not_shared_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own");
        std::fs::write(&path, b"own").unwrap();
        let file = OpenOptions::new()
            .read(true)
            .share_mode(0)
            .open(&path)
            .unwrap();
        let refused = reopen(&file, 0).unwrap_err();
        assert!(is(&refused, ERROR_SHARING_VIOLATION), "{refused}");
    }
}
