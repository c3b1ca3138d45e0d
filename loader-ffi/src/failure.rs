//! What went wrong: codes, and the message of the last failure on this thread.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;

use weightloader::Error;

use crate::boundary::UNKNOWN;
use crate::sized::{self, Growing};

/// What a function has to say. Later versions may have more codes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It was done.
    Ok = 0,
    /// Not an error: a stream has given everything.
    End = 1,
    /// A pointer is null that must not be.
    NullPointer = 2,
    /// A handle was closed, is of another type or was never given.
    BadHandle = 3,
    /// An argument, an option or an environment variable makes no sense.
    InvalidArgument = 4,
    /// The system, the filesystem or this build cannot do it.
    Unsupported = 5,
    /// A file cannot be opened or examined.
    Io = 6,
    /// The path names a directory, a device or another thing that is no regular file.
    NotRegular = 7,
    /// A read failed.
    Read = 8,
    /// The file is shorter than it was when it was opened.
    UnexpectedEof = 9,
    /// A range reaches outside its file.
    OutOfBounds = 10,
    /// A header does not hold what its format says.
    Format = 11,
    /// The checkpoint has no tensor of that name.
    NoSuchTensor = 12,
    /// Memory is too small for what shall land in it, or two pieces would land on the same bytes.
    Destination = 13,
    /// The memory is not there, or a limit forbids to take it.
    OutOfMemory = 14,
    /// It was cancelled.
    Cancelled = 15,
    /// The handle belongs to the parent process.
    Forked = 16,
    /// A fault of the library itself.
    Internal = 17,
}

/// What went wrong last on this thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ErrorDetails {
    /// sizeof(weightloader_error).
    pub struct_size: usize,
    /// The code that was returned.
    pub status: Status,
    /// The system's number for it (errno, GetLastError), or 0.
    pub system_code: i32,
    /// What happened, as a line for people; never null.
    pub message: *const c_char,
    /// The file, or null where it is about none.
    pub path: *const c_char,
    /// Where in the file, from its start on disk; WEIGHTLOADER_UNKNOWN where that does not apply.
    pub offset: u64,
}

// SAFETY: pointers and numbers; a status of zero is `Ok`.
unsafe impl Growing for ErrorDetails {
    const NAME: &'static str = "weightloader_error";
}

/// Why a call fails.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    path: Option<CString>,
    offset: Option<u64>,
    system_code: i32,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            path: None,
            offset: None,
            system_code: 0,
        }
    }

    /// Keeps it for the caller to ask, and gives its code. A thread that ends, and calls from the
    /// destructor of a variable of its own, may have no place for it any more.
    pub(crate) fn tell(self) -> Status {
        let status = self.status;
        let _ = LAST.try_with(|last| last.replace(Some(Told::from(self))));
        status
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Self::new(status_of(&error), error.to_string());
        match &error {
            Error::Io { path, source, .. } => {
                failure.path = Some(c_path(path));
                failure.system_code = source.raw_os_error().unwrap_or(0);
            }
            Error::Read {
                path,
                offset,
                source,
                ..
            } => {
                failure.path = Some(c_path(path));
                failure.offset = Some(*offset);
                failure.system_code = source.raw_os_error().unwrap_or(0);
            }
            Error::NotRegular { path, .. } => failure.path = Some(c_path(path)),
            Error::UnexpectedEof { path, offset, .. } | Error::OutOfBounds { path, offset, .. } => {
                failure.path = Some(c_path(path));
                failure.offset = Some(*offset);
            }
            Error::Format { path, offset, .. } => {
                failure.path = Some(c_path(path));
                failure.offset = *offset;
            }
            _ => {}
        }
        failure
    }
}

fn status_of(error: &Error) -> Status {
    match error {
        Error::Io { .. } => Status::Io,
        Error::NotRegular { .. } => Status::NotRegular,
        Error::Read { .. } => Status::Read,
        Error::UnexpectedEof { .. } => Status::UnexpectedEof,
        Error::OutOfBounds { .. } => Status::OutOfBounds,
        Error::Format { .. } => Status::Format,
        Error::NoSuchTensor { .. } => Status::NoSuchTensor,
        Error::Destination { .. } | Error::OverlappingDestinations { .. } => Status::Destination,
        Error::OutOfMemory { .. } => Status::OutOfMemory,
        Error::Unsupported { .. } => Status::Unsupported,
        Error::InvalidOption { .. } => Status::InvalidArgument,
        Error::Cancelled => Status::Cancelled,
        Error::Forked => Status::Forked,
        _ => Status::Internal,
    }
}

/// A path for C: its bytes on Unix, UTF-8 elsewhere.
fn c_path(path: &Path) -> CString {
    c_string(path.as_os_str().as_encoded_bytes())
}

/// A string for C, up to the first zero byte.
pub(crate) fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0);
    CString::new(&bytes[..end.unwrap_or(bytes.len())]).unwrap_or_default()
}

/// A failure as it is told: strings that C can read.
#[derive(Debug)]
struct Told {
    status: Status,
    message: CString,
    path: Option<CString>,
    offset: Option<u64>,
    system_code: i32,
}

impl From<Failure> for Told {
    fn from(failure: Failure) -> Self {
        Self {
            status: failure.status,
            message: c_string(failure.message.as_bytes()),
            path: failure.path,
            offset: failure.offset,
            system_code: failure.system_code,
        }
    }
}

impl Told {
    fn details(&self) -> ErrorDetails {
        ErrorDetails {
            struct_size: 0,
            status: self.status,
            system_code: self.system_code,
            message: self.message.as_ptr(),
            path: self.path.as_deref().map_or(ptr::null(), CStr::as_ptr),
            offset: self.offset.unwrap_or(UNKNOWN),
        }
    }
}

/// Nothing has gone wrong.
const NOTHING: ErrorDetails = ErrorDetails {
    struct_size: 0,
    status: Status::Ok,
    system_code: 0,
    message: c"".as_ptr(),
    path: ptr::null(),
    offset: UNKNOWN,
};

thread_local! {
    static LAST: RefCell<Option<Told>> = const { RefCell::new(None) };
}

/// What went wrong last on this thread, as a line for people: the file, the offset, what was
/// expected and what the system said. Empty where nothing has, and where the thread ends and its
/// messages are gone already.
///
/// The string belongs to the thread and stays as it is until another call fails on it.
///
/// Threads: any; tells of calls on the calling one.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_error_message() -> *const c_char {
    let message = LAST.try_with(|last| Some(last.borrow().as_ref()?.message.as_ptr()));
    message.ok().flatten().unwrap_or(c"".as_ptr())
}

/// What went wrong last on this thread, in parts. Its strings belong to the thread and stay as they
/// are until another call fails on it.
///
/// Threads: any; tells of calls on the calling one.
///
/// # Safety
/// `error` points to a `weightloader_error` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_last_error(error: *mut ErrorDetails) -> Status {
    crate::boundary::guarded(|| {
        let told = LAST.try_with(|last| last.borrow().as_ref().map(Told::details));
        let details = told.ok().flatten().unwrap_or(NOTHING);
        // SAFETY: the caller's promise.
        unsafe { sized::write(error, &details) }
    })
}

/// The name of a code, such as "out of bounds"; "unknown" where it is none.
///
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"ok",
        1 => c"end",
        2 => c"null pointer",
        3 => c"bad handle",
        4 => c"invalid argument",
        5 => c"unsupported",
        6 => c"cannot open",
        7 => c"not a regular file",
        8 => c"read failed",
        9 => c"unexpected end of file",
        10 => c"out of bounds",
        11 => c"bad format",
        12 => c"no such tensor",
        13 => c"bad destination",
        14 => c"out of memory",
        15 => c"cancelled",
        16 => c"forked",
        17 => c"internal",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The version of the library, as "0.1.0". Compare with `WEIGHTLOADER_VERSION_MAJOR` and so on,
/// which are those of the header.
///
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
