//! Memory of ours that the caller holds for a while: mapped, or filled by reads.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use weightloader::{Checkpoint, HostBuffer, Mapping, Model};

use crate::boundary::{guarded, output};
use crate::failure::{Failure, Result, Status};
use crate::file::{FileHandle, OpenFile};
use crate::operation::{Asked, OperationOptions};
use crate::registry::{self, handle};
use crate::report::{self, ReportHandle};
use crate::sized::{self, Growing};

handle!(
    /// Memory that the caller holds; C knows it as the context of its release function.
    MemoryHandle,
    Held,
    "memory of weightloader_map() or weightloader_load()"
);

/// Memory that the caller holds.
#[derive(Debug)]
pub(crate) enum Held {
    /// Mapped.
    Mapped {
        /// The bytes.
        mapping: Mapping,
        /// Where they are from.
        opened: Arc<OpenFile>,
        /// Which, from the base of the file.
        range: Range<u64>,
    },
    /// Filled by reads, and the caller's to write to: no reference is made to these bytes.
    Loaded {
        /// The memory.
        buffer: HostBuffer,
        /// Which of its bytes.
        place: Range<usize>,
    },
}

impl Held {
    /// The one tensor of `model`.
    fn loaded(model: Model) -> Result<Self> {
        let blob = model.checkpoint().tensors().first();
        let place = blob.map(|blob| model.place(blob.name())).transpose()?;
        let (file, place) = place.unwrap_or_default();
        let buffer = model.into_buffers().into_iter().nth(file);
        let buffer =
            buffer.ok_or_else(|| Failure::new(Status::Internal, "no memory was filled"))?;
        Ok(Self::Loaded { buffer, place })
    }

    /// Its first byte, null where it has none, and how many it has.
    fn span(&self) -> (*mut u8, usize) {
        let (start, len) = match self {
            Self::Mapped { mapping, .. } => (mapping.as_ptr().cast_mut(), mapping.len()),
            Self::Loaded { buffer, place } => {
                let start = buffer.start().as_ptr().wrapping_add(place.start);
                (start, place.len())
            }
        };
        match len {
            0 => (ptr::null_mut(), 0),
            len => (start, len),
        }
    }
}

/// Gives memory back. It may be called once, from any thread.
pub type ReleaseCallback =
    Option<unsafe extern "C" fn(context: *mut c_void, data: *mut c_void, size: usize)>;

/// Memory that is the caller's until it calls release(context, data, size).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// sizeof(weightloader_memory).
    pub struct_size: usize,
    /// Its first byte; null where it has none.
    pub data: *mut c_void,
    /// How many bytes it has.
    pub size: usize,
    /// Gives it back: weightloader_release().
    pub release: ReleaseCallback,
    /// For release.
    pub context: *mut c_void,
}

// SAFETY: pointers and a number, which comes first; a null function is `None`.
unsafe impl Growing for Memory {
    const NAME: &'static str = "weightloader_memory";
}

/// The file and range of our own mapping that holds these addresses, if any.
pub(crate) fn behind(address: usize, length: usize) -> Result<Option<(Arc<OpenFile>, Range<u64>)>> {
    use crate::registry::Handle;
    MemoryHandle::registry().search(|held| {
        let Held::Mapped {
            mapping,
            opened,
            range,
        } = held
        else {
            return None;
        };
        let within = address.checked_sub(mapping.as_ptr().addr())?;
        let end = within
            .checked_add(length)
            .filter(|end| *end <= mapping.len())?;
        let found = range.start + within as u64..range.start + end as u64;
        Some((Arc::clone(opened), found))
    })
}

/// Hands memory over to the caller.
///
/// # Safety
/// `memory` points to as many writable bytes as its first member says.
unsafe fn hand_over(memory: *mut Memory, held: Held) -> Result<()> {
    let (data, size) = held.span();
    let context: *mut MemoryHandle = registry::issue(held)?;
    let answer = Memory {
        struct_size: 0,
        data: data.cast(),
        size,
        release: Some(weightloader_release),
        context: context.cast(),
    };
    // SAFETY: the caller's promise.
    unsafe { sized::write(memory, &answer) }
}

/// Maps `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into memory, without
/// reading anything yet. The memory is read-only; it lives until it is released, also when the file
/// is closed. Its first byte lies within a page as it does within the file on disk.
///
/// Bytes are read as they are touched, a page fault at a time: weightloader_prefetch() brings them
/// in ahead; weightloader_read() and weightloader_load() are faster.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `memory` points to a `weightloader_memory` whose `struct_size` is set. Nobody may change or
/// truncate the file while it is mapped: touching bytes beyond a new end, or bytes that the device
/// fails to deliver, kills the process (SIGBUS).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_map(
    file: *const FileHandle,
    offset: u64,
    length: u64,
    memory: *mut Memory,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { sized::output(memory) }?;
        let opened = registry::find(file)?;
        let range = offset..opened.end(offset, length)?;
        // SAFETY: the caller's promise.
        let mapping = unsafe { weightloader::map(&opened.file, range.clone()) }?;
        let held = Held::Mapped {
            mapping,
            opened,
            range,
        };
        // SAFETY: the caller's promise.
        unsafe { hand_over(memory, held) }
    })
}

/// Reads `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into memory of the
/// library's: on huge pages where the system offers them, and so that direct reads go straight into
/// it. Its first byte lies within a block of 4096 bytes as it does within the file on disk. The
/// caller may write to it.
///
/// `operation` and `report` may be null; see weightloader_read().
///
/// Threads: any, several on the same file too; the calling one waits, and progress is told on it.
///
/// # Safety
/// `operation` is null or has its `struct_size` set, `memory` has its `struct_size` set, `report`
/// is null or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_load(
    file: *const FileHandle,
    offset: u64,
    length: u64,
    operation: *const OperationOptions,
    memory: *mut Memory,
    report: *mut *mut ReportHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { sized::output(memory) }?;
        if !report.is_null() {
            output(report, "report")?;
        }
        let opened = registry::find(file)?;
        // SAFETY: the caller's promise.
        let asked = unsafe { Asked::read(operation) }?;
        let loader = opened.loader_for(&asked)?;
        let range = opened.file.range(offset..opened.end(offset, length)?)?;
        let offset = range.start - opened.file.base();
        let blob = opened.file.slice(offset, range.end - range.start)?;
        let checkpoint = Checkpoint::raw(blob);
        // SAFETY: the caller's promise.
        let model = unsafe { asked.run(|operation| loader.load(&checkpoint, operation)) }?;
        let done = model.report().clone();
        let held = Held::loaded(model)?;
        // SAFETY: the caller's promise.
        let hand_over = || unsafe { hand_over(memory, held) };
        // SAFETY: the caller's promise.
        unsafe { report::give_with(report, &done, hand_over) }
    })
}

/// Gives memory of weightloader_map() or weightloader_load() back; the release member of
/// weightloader_memory. Where `context` is none of theirs, or was given back already, nothing
/// happens, and weightloader_error_message() says so.
///
/// Threads: any, once for each memory.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_release(context: *mut c_void, data: *mut c_void, size: usize) {
    // What was given with it tells nothing that is not known.
    let _ = (data, size);
    let handle = context.cast_const().cast::<MemoryHandle>();
    guarded(|| registry::close(handle).map(drop));
}
