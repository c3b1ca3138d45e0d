//! Positional reads, descriptors and file identity: the one file of this crate that knows operating
//! systems.

use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

/// The most bytes that one call asks for. macOS refuses reads over `INT_MAX` with EINVAL
/// (XNU, `bsd/kern/sys_generic.c`), Windows takes 32-bit lengths, Linux stops at 2 GiB - 4 KiB
/// (read(2)).
pub(crate) const LARGEST_READ: usize = 1 << 30;

/// Opens a file for reading, and does not wait for anybody should it be a fifo.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    system::open(path)
}

/// Reads at most `buffer.len()` bytes at `offset` bytes from the start of the file, leaving any
/// file position alone or unused.
///
/// Returns how many bytes at the start of `buffer` are now initialised: zero at the end of the
/// file, possibly fewer than asked for anywhere.
pub(crate) fn read_at(
    file: &File,
    buffer: &mut [MaybeUninit<u8>],
    offset: u64,
) -> io::Result<usize> {
    let len = buffer.len().min(LARGEST_READ);
    system::read_at(file, &mut buffer[..len], offset)
}

/// A descriptor of our own for the file that `descriptor` (on Windows: the handle of that value)
/// refers to.
///
/// # Safety
/// Nobody closes `descriptor` meanwhile.
pub(crate) unsafe fn duplicate(descriptor: isize) -> io::Result<File> {
    // SAFETY: the caller's promise.
    unsafe { system::duplicate(descriptor) }
}

/// `file`, which is a regular one, as buffered reads of any alignment need it: open for reading and
/// not for direct I/O; where it is open for that, the same file opened anew.
pub(crate) fn for_buffered_reads(file: File) -> io::Result<File> {
    system::for_buffered_reads(file)
}

/// What tells two open files apart, where the system gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileId {
    /// Device and inode.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has inodes"))]
    Inode(u64, u64),
    /// Volume and the file's number there.
    #[cfg_attr(not(windows), expect(dead_code, reason = "only Windows has these"))]
    Volume(u64, u128),
    /// The path it was opened by.
    #[cfg_attr(unix, expect(dead_code, reason = "Unix has inodes"))]
    Path(std::path::PathBuf),
}

impl FileId {
    pub(crate) fn of(file: &File, metadata: &Metadata, path: &Path) -> Self {
        system::file_id(file, metadata, path)
    }
}

#[cfg(unix)]
mod system {
    use super::{File, FileId, MaybeUninit, Metadata, Path, io};
    use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use rustix::fs::OFlags;

    pub(super) fn open(path: &Path) -> io::Result<File> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
        let opened = File::options().read(true).custom_flags(flags).open(path);
        match opened {
            Ok(file) => {
                // It would make reads through io_uring fail rather than wait, where a filesystem
                // cannot say whether it would have to (Linux, `io_uring/rw.c`).
                rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
                Ok(file)
            }
            // Whoever holds a lease on the file is asked to give it up, which takes a while:
            // fcntl(2). Fifos are not leased.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => File::open(path),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read_at(
        file: &File,
        buffer: &mut [MaybeUninit<u8>],
        offset: u64,
    ) -> io::Result<usize> {
        let (filled, _) = rustix::io::pread(file, buffer, offset)?;
        Ok(filled.len())
    }

    pub(super) unsafe fn duplicate(descriptor: isize) -> io::Result<File> {
        let descriptor = RawFd::try_from(descriptor)
            .ok()
            .filter(|descriptor| *descriptor >= 0)
            .ok_or_else(|| io::Error::from(rustix::io::Errno::BADF))?;
        // SAFETY: it is not negative, and the caller keeps it open; if it is not open at all,
        // duplicating it is a plain error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        Ok(File::from(borrowed.try_clone_to_owned()?))
    }

    /// With it, reads pass by the page cache and must be aligned.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const DIRECT: OFlags = OFlags::DIRECT;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const DIRECT: OFlags = OFlags::empty();

    /// With it, a descriptor names a file and reads nothing.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const NAME_ALONE: OFlags = OFlags::PATH;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const NAME_ALONE: OFlags = OFlags::empty();

    pub(super) fn for_buffered_reads(file: File) -> io::Result<File> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        let mode = flags & OFlags::RWMODE;
        let readable = mode == OFlags::RDONLY || mode == OFlags::RDWR;
        if !readable || flags.intersects(NAME_ALONE) {
            let message = "expected a file that is open for reading";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if flags.intersects(DIRECT) {
            return reopen(&file);
        }
        Ok(file)
    }

    /// Opens a file anew rather than taking the flag away, which would take it from whoever shares
    /// the open file.
    fn reopen(file: &File) -> io::Result<File> {
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        File::open(name).map_err(|error| {
            let message = format!("it is open with O_DIRECT and cannot be opened anew: {error}");
            io::Error::new(error.kind(), message)
        })
    }

    pub(super) fn file_id(_file: &File, metadata: &Metadata, _path: &Path) -> FileId {
        FileId::Inode(metadata.dev(), metadata.ino())
    }
}

#[cfg(windows)]
mod system {
    use super::{File, FileId, MaybeUninit, Metadata, Path, io};
    use std::cell::Cell;
    use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
    use std::sync::atomic::{Ordering, fence};
    use std::thread;
    use std::time::Duration;

    use windows_sys::Win32::Foundation::{
        ERROR_HANDLE_EOF, ERROR_IO_PENDING, STATUS_PENDING, WAIT_OBJECT_0,
    };
    use windows_sys::Win32::Storage::FileSystem::{
        FILE_ID_INFO, FileIdInfo, GetFileInformationByHandleEx, ReadFile,
    };
    use windows_sys::Win32::System::IO::{
        GetOverlappedResult, OVERLAPPED, OVERLAPPED_0, OVERLAPPED_0_0,
    };
    use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, WaitForSingleObject};

    pub(super) fn open(path: &Path) -> io::Result<File> {
        // Opening a named pipe is heard at its other end.
        if std::fs::metadata(path)?.is_file() {
            File::open(path)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    thread_local! {
        /// Signalled when this thread's read is over; none while one uses it.
        static OVER: Cell<Option<OwnedHandle>> = const { Cell::new(None) };
    }

    pub(super) fn read_at(
        file: &File,
        buffer: &mut [MaybeUninit<u8>],
        offset: u64,
    ) -> io::Result<usize> {
        let kept = OVER.try_with(Cell::take).ok().flatten();
        let over = kept.map_or_else(event, Ok)?;
        let outcome = read(file, buffer, offset, &over);
        // A thread that ends keeps nothing any more.
        let _ = OVER.try_with(|kept| kept.set(Some(over)));
        outcome
    }

    /// An event that stays signalled until a read that has it begins.
    fn event() -> io::Result<OwnedHandle> {
        // SAFETY: it needs neither attributes nor a name.
        let event = unsafe { CreateEventW(std::ptr::null(), 1, 0, std::ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was made just now and belongs to nobody else.
        Ok(unsafe { OwnedHandle::from_raw_handle(event) })
    }

    /// Reads through any handle. One that somebody opened with `FILE_FLAG_OVERLAPPED` tells by
    /// itself only that some read is over, perhaps another thread's, so the read has an event.
    fn read(
        file: &File,
        buffer: &mut [MaybeUninit<u8>],
        offset: u64,
        over: &OwnedHandle,
    ) -> io::Result<usize> {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let mut filled = 0_u32;
        // The offset travels in two halves of 32 bits.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the offset"
        )]
        let position = OVERLAPPED_0_0 {
            Offset: offset as u32,
            OffsetHigh: (offset >> 32) as u32,
        };
        let mut overlapped = OVERLAPPED {
            Internal: 0,
            InternalHigh: 0,
            Anonymous: OVERLAPPED_0 {
                Anonymous: position,
            },
            // With its lowest bit set, a completion port that the handle belongs to is not told:
            // "A valid event handle whose low-order bit is set keeps I/O completion from being
            // queued to the completion port" (documentation of `GetQueuedCompletionStatus`).
            hEvent: over.as_raw_handle().map_addr(|address| address | 1),
        };
        let overlapped = &raw mut overlapped;
        // SAFETY: the handle is open for as long as `file` is borrowed; `buffer` is valid for
        // writes of `len` bytes. Neither it nor `overlapped` is used any more once the read is
        // over, which is waited for below where the call does not.
        let done = unsafe {
            ReadFile(
                file.as_raw_handle(),
                buffer.as_mut_ptr().cast(),
                len,
                &raw mut filled,
                overlapped,
            )
        };
        if done != 0 {
            return Ok(filled as usize);
        }
        let error = io::Error::last_os_error();
        if !is(&error, ERROR_IO_PENDING) {
            return none_at_end(error);
        }
        // SAFETY: a read has begun with it, which signals that event.
        unsafe { wait(overlapped, over) };
        // SAFETY: the handle is open, and `overlapped` is that of the read that is over.
        let done =
            unsafe { GetOverlappedResult(file.as_raw_handle(), overlapped, &raw mut filled, 0) };
        if done != 0 {
            return Ok(filled as usize);
        }
        none_at_end(io::Error::last_os_error())
    }

    /// Waits until the system writes neither to `overlapped` nor to the memory of its read.
    ///
    /// # Safety
    /// A read has begun with it, and signals `over` when it is over.
    unsafe fn wait(overlapped: *const OVERLAPPED, over: &OwnedHandle) {
        // SAFETY: the caller's promise.
        let status = unsafe { &raw const (*overlapped).Internal };
        // SAFETY: as above; volatile, since the system writes to it.
        while i32::try_from(unsafe { status.read_volatile() }) == Ok(STATUS_PENDING) {
            // SAFETY: the handle is open for as long as it is borrowed.
            let signalled = unsafe { WaitForSingleObject(over.as_raw_handle(), INFINITE) };
            if signalled != WAIT_OBJECT_0 {
                // There is no remedy but to look again, since the memory is not ours yet.
                thread::sleep(Duration::from_millis(1));
            }
        }
        // What the system wrote before the status is seen from here on.
        fence(Ordering::Acquire);
    }

    /// Behind the end of a file there are no bytes, which is no error.
    fn none_at_end(error: io::Error) -> io::Result<usize> {
        if is(&error, ERROR_HANDLE_EOF) {
            Ok(0)
        } else {
            Err(error)
        }
    }

    fn is(error: &io::Error, code: u32) -> bool {
        error.raw_os_error().map(u32::try_from) == Some(Ok(code))
    }

    pub(super) unsafe fn duplicate(handle: isize) -> io::Result<File> {
        let handle =
            std::ptr::with_exposed_provenance_mut(usize::from_ne_bytes(handle.to_ne_bytes()));
        // SAFETY: the caller keeps the handle open; if it is none at all, duplicating it is a plain
        // error.
        let borrowed = unsafe { BorrowedHandle::borrow_raw(handle) };
        Ok(File::from(borrowed.try_clone_to_owned()?))
    }

    /// Handles that are not open for reading, or open without buffers, are found out by the reads.
    pub(super) fn for_buffered_reads(file: File) -> io::Result<File> {
        Ok(file)
    }

    pub(super) fn file_id(file: &File, _metadata: &Metadata, path: &Path) -> FileId {
        let mut id = FILE_ID_INFO::default();
        let room = u32::try_from(size_of::<FILE_ID_INFO>()).unwrap_or_default();
        // SAFETY: the handle is open for as long as `file` is borrowed, and the system writes at
        // most as many bytes as it is told there is room for.
        let told = unsafe {
            let id = (&raw mut id).cast();
            GetFileInformationByHandleEx(file.as_raw_handle(), FileIdInfo, id, room)
        };
        if told != 0 {
            let number = u128::from_le_bytes(id.FileId.Identifier);
            return FileId::Volume(id.VolumeSerialNumber, number);
        }
        // Some network filesystems number no files.
        FileId::Path(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()))
    }
}
