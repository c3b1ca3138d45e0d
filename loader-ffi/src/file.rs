//! Files: opened, examined, closed.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use bstr::ByteSlice;
use weightloader::{CachePolicy, Loader, Strategy, WeightFile};

use crate::boundary::{TO_END, give, guarded, invalid, output, text};
use crate::failure::{Failure, Result, Status, c_string};
use crate::options::{Chosen, Options};
use crate::registry::{self, handle};
use crate::sized::{self, Growing};

handle!(
    /// An open file of weights, or a blob inside a larger file.
    FileHandle,
    OpenFile,
    "weightloader_file"
);

/// A file and how it is read.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) chosen: Chosen,
    pub(crate) loader: Loader,
    pub(crate) file: WeightFile,
    direct: OnceLock<DirectState>,
}

/// What is known of direct reads.
#[derive(Debug)]
struct DirectState {
    offset_alignment: u64,
    memory_alignment: u64,
    /// Why not.
    reason: Option<CString>,
}

/// What is known of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FileInfo {
    /// sizeof(weightloader_file_info).
    pub struct_size: usize,
    /// Length from the base on.
    pub size: u64,
    /// Where it begins in the file on disk.
    pub base: u64,
    /// Length of the whole file on disk.
    pub disk_size: u64,
    /// Whether bytes that are not cached will really be read past the page cache, but for reads of
    /// 1 MiB and less, for which it does not pay.
    pub direct_io: bool,
    /// Direct reads need no copy where offsets (from the start of the file on disk) are multiples
    /// of so many bytes; 1 where there are none.
    pub offset_alignment: u64,
    /// As offset_alignment, for addresses in memory.
    pub memory_alignment: u64,
    /// Why there are no direct reads, as a clause for people; null where there are. Valid until the
    /// file is closed.
    pub direct_reason: *const c_char,
}

// SAFETY: pointers, numbers and a truth value that is written only, the first of which is the
// length; zero bytes are a valid value.
unsafe impl Growing for FileInfo {
    const NAME: &'static str = "weightloader_file_info";
}

impl OpenFile {
    pub(crate) fn new(chosen: Chosen, file: WeightFile) -> Result<Self> {
        Ok(Self {
            loader: chosen.loader()?,
            chosen,
            file,
            direct: OnceLock::new(),
        })
    }

    /// The end of the range of `len` bytes at `offset`, which is checked by whoever uses it.
    pub(crate) fn end(&self, offset: u64, len: u64) -> Result<u64> {
        if len == TO_END {
            return Ok(self.file.len().max(offset));
        }
        let end = offset.checked_add(len);
        end.ok_or_else(|| invalid(format!("{len} bytes at offset {offset} overflow")))
    }

    fn direct(&self) -> &DirectState {
        self.direct.get_or_init(|| self.ask_direct())
    }

    /// Whether the automatic strategy has to read through the page cache for want of knowing better.
    fn residency_is_unknown(&self) -> bool {
        const PAGE: u64 = 4096;
        let start = ..self.file.len().min(PAGE);
        let map = self.loader.residency(&self.file, start, PAGE);
        map.is_ok_and(|map| map.resident_bytes().is_none())
    }

    fn ask_direct(&self) -> DirectState {
        let support = match &self.loader.platform().direct {
            Ok(reader) => reader.support(&self.file),
            Err(refusal) => Err(refusal.clone()),
        };
        let options = self.loader.options();
        let chosen_away = match (options.strategy, options.cache) {
            (Strategy::Buffered, _) => Some("the buffered strategy was chosen"),
            (Strategy::Auto, CachePolicy::Keep) => Some("what is read shall stay cached"),
            _ => None,
        };
        match support {
            Err(refusal) => DirectState {
                offset_alignment: 1,
                memory_alignment: 1,
                reason: Some(c_string(refusal.reason.as_bytes())),
            },
            Ok(support) => {
                let forced = options.strategy == Strategy::Direct;
                let discouraged = support.discouraged.as_deref().filter(|_| !forced);
                let untold = (!forced && self.residency_is_unknown())
                    .then_some("the system does not tell what is cached");
                let reason = chosen_away.or(discouraged).or(untold);
                DirectState {
                    offset_alignment: support.offset_alignment,
                    memory_alignment: support.memory_alignment as u64,
                    reason: reason.map(|reason| c_string(reason.as_bytes())),
                }
            }
        }
    }
}

/// A path from C: any bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// `path` is null or points to a string that ends with a zero byte.
pub(crate) unsafe fn path_from(path: *const c_char) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { text(path, "path") }?;
    let path = bytes
        .to_path()
        .map_err(|_| invalid("the path is not UTF-8"))?;
    Ok(path.to_path_buf())
}

/// The part of a file that `base` and `length` name.
fn part(file: WeightFile, base: u64, length: u64) -> Result<WeightFile> {
    let length = match length {
        TO_END => file.len().saturating_sub(base),
        length => length,
    };
    Ok(file.slice(base, length)?)
}

/// Opens the file at `path` for reading; of it, `length` bytes from `base` on
/// (WEIGHTLOADER_TO_END: all that follow). Paths are UTF-8 on Windows. `options` may be null.
/// Close the file by weightloader_close().
///
/// Threads: any, at any time.
///
/// # Safety
/// `path` ends with a zero byte, `options` is null or has its `struct_size` set, `file` is valid
/// for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_open(
    path: *const c_char,
    base: u64,
    length: u64,
    options: *const Options,
    file: *mut *mut FileHandle,
) -> Status {
    guarded(|| {
        output(file, "file")?;
        // SAFETY: the caller's promise.
        let path = unsafe { path_from(path) }?;
        // SAFETY: the caller's promise.
        let chosen = unsafe { Chosen::read(options) }?;
        let opened = part(WeightFile::open(path)?, base, length)?;
        let handle = registry::issue(OpenFile::new(chosen, opened)?)?;
        // SAFETY: the caller's promise.
        unsafe { give(file, handle, "file") }
    })
}

/// As weightloader_open(), for a file that the caller has open already. The descriptor stays the
/// caller's: a duplicate is kept. Its position is neither used nor changed. It must be open for
/// reading; where it is open with O_DIRECT, the file is opened anew without, since direct reads are
/// arranged beside it where they serve.
///
/// On Windows `descriptor` is a HANDLE, with or without FILE_FLAG_OVERLAPPED. `name` is what errors
/// call the file; null for its number.
///
/// Threads: any, but nobody may close the descriptor before this returns.
///
/// # Safety
/// As weightloader_open().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_open_descriptor(
    descriptor: isize,
    name: *const c_char,
    base: u64,
    length: u64,
    options: *const Options,
    file: *mut *mut FileHandle,
) -> Status {
    guarded(|| {
        output(file, "file")?;
        let name = match name.is_null() {
            true => PathBuf::from(format!("descriptor {descriptor}")),
            // SAFETY: the caller's promise.
            false => unsafe { path_from(name) }?,
        };
        // SAFETY: the caller's promise.
        let chosen = unsafe { Chosen::read(options) }?;
        // SAFETY: the caller's promise.
        let opened = unsafe { WeightFile::from_descriptor(descriptor, name) }?;
        let opened = part(opened, base, length)?;
        let handle = registry::issue(OpenFile::new(chosen, opened)?)?;
        // SAFETY: the caller's promise.
        unsafe { give(file, handle, "file") }
    })
}

/// Closes a file. Jobs, streams, mappings and checkpoints made from it live on.
///
/// Threads: any; calls of others that use the handle already go on undisturbed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_close(file: *mut FileHandle) -> Status {
    guarded(|| registry::close(file.cast_const()).map(drop))
}

/// Tells the size of a file, and whether direct I/O is really on for it.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `info` points to a `weightloader_file_info` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_get_file_info(
    file: *const FileHandle,
    info: *mut FileInfo,
) -> Status {
    guarded(|| {
        let opened = registry::find(file)?;
        let direct = opened.direct();
        let reason = direct.reason.as_ref();
        let answer = FileInfo {
            struct_size: 0,
            size: opened.file.len(),
            base: opened.file.base(),
            disk_size: opened.file.disk_len(),
            direct_io: reason.is_none(),
            offset_alignment: direct.offset_alignment,
            memory_alignment: direct.memory_alignment,
            direct_reason: reason.map_or(ptr::null(), |reason| reason.as_ptr()),
        };
        // SAFETY: the caller's promise.
        unsafe { sized::write(info, &answer) }
    })
}

/// The length of a destination as a `u64`; refused where no memory can be so long.
pub(crate) fn memory_len(size: usize) -> Result<u64> {
    if isize::try_from(size).is_err() {
        let message = format!("no memory has {size} bytes");
        return Err(Failure::new(Status::InvalidArgument, message));
    }
    Ok(size as u64)
}
