//! Reads into memory of the caller's.

use std::ffi::c_void;
use std::ptr::NonNull;

use weightloader::{Destination, Error, Loader, ReadRequest};

use crate::boundary::{elements, guarded, null, output};
use crate::failure::{Result, Status};
use crate::file::{FileHandle, OpenFile, memory_len};
use crate::operation::{Asked, MemoryFlag, OperationOptions};
use crate::registry;
use crate::report::{self, ReportHandle};

/// Part of a file, and where it shall land. This structure does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyItem {
    /// The file.
    pub file: *const FileHandle,
    /// Where in it the bytes begin.
    pub offset: u64,
    /// How many bytes.
    pub size: usize,
    /// Where they land; may be null where there are none.
    pub destination: *mut c_void,
}

impl OpenFile {
    /// The loader for an operation with a pace of its own, perhaps.
    pub(crate) fn loader_for(&self, asked: &Asked) -> Result<Loader> {
        match asked.bytes_per_second() {
            0 => Ok(self.loader.clone()),
            pace => self
                .chosen
                .paced_loader(pace, weightloader::StreamOrder::Asked),
        }
    }
}

/// Memory of the caller's as a destination.
///
/// # Safety
/// `start` is null or valid for writes of `size` bytes, and nobody else touches them, for all of
/// `'d`.
unsafe fn destination<'d>(start: *mut c_void, size: usize, flags: u32) -> Result<Destination<'d>> {
    memory_len(size)?;
    let start = match NonNull::new(start.cast::<u8>()) {
        Some(start) => start,
        None if size == 0 => NonNull::dangling(),
        None => return Err(null("destination")),
    };
    let direct = flags & MemoryFlag::NoDirect as u32 == 0;
    // SAFETY: the caller's promise.
    let destination = unsafe { Destination::from_raw(start, size, direct) };
    Ok(match flags & MemoryFlag::Fresh as u32 {
        0 => destination,
        _ => destination.fresh(),
    })
}

/// Reads `size` bytes at `offset` into `destination`, and returns when they are there. Nothing
/// writes there any more when this returns, whatever it returns; after an error the memory holds
/// part of the bytes. It is written only, never read.
///
/// `operation` may be null. Where `report` is not, it is given a report that the caller frees by
/// weightloader_report_free().
///
/// Threads: any, several on the same file too; the calling one waits, and progress is told on it.
///
/// # Safety
/// `operation` is null or has its `struct_size` set, `destination` is valid for writes of `size`
/// bytes and touched by nobody else meanwhile, `report` is null or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_read(
    file: *const FileHandle,
    offset: u64,
    destination: *mut c_void,
    size: usize,
    operation: *const OperationOptions,
    report: *mut *mut ReportHandle,
) -> Status {
    let item = CopyItem {
        file,
        offset,
        size,
        destination,
    };
    // SAFETY: the caller's promise.
    guarded(|| unsafe { copy(&[item], operation, report) })
}

/// Reads many ranges of any number of files at once, each to a place of its own, and returns when
/// all are there: bytes are read in the order of the files, with as many reads in flight as if it
/// were one. Destinations must not overlap. Everything else is as for weightloader_read().
///
/// What the file of the first item was opened with goes for all.
///
/// Threads: any, several on the same file too; the calling one waits, and progress is told on it.
///
/// # Safety
/// As weightloader_read(), for each of the `count` items at `items`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_copy(
    items: *const CopyItem,
    count: usize,
    operation: *const OperationOptions,
    report: *mut *mut ReportHandle,
) -> Status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let items = unsafe { elements(items, count, "items") }?;
        // SAFETY: the caller's promise.
        unsafe { copy(&items, operation, report) }
    })
}

/// # Safety
/// As [`weightloader_copy`].
unsafe fn copy(
    items: &[CopyItem],
    operation: *const OperationOptions,
    report: *mut *mut ReportHandle,
) -> Result<()> {
    if !report.is_null() {
        output(report, "report")?;
    }
    // SAFETY: the caller's promise.
    let asked = unsafe { Asked::read(operation) }?;
    check_apart(items)?;
    let loader = match items {
        [] => Loader::new()?,
        [first, ..] => registry::find(first.file)?.loader_for(&asked)?,
    };
    let mut requests = Vec::with_capacity(items.len());
    for item in items {
        let opened = registry::find(item.file)?;
        let end = opened.end(item.offset, memory_len(item.size)?)?;
        // SAFETY: the caller's promise, and no two overlap.
        let destination =
            unsafe { destination(item.destination, item.size, asked.memory_flags()) }?;
        requests.push(ReadRequest::new(
            &opened.file,
            item.offset..end,
            destination,
        ));
    }
    // SAFETY: the caller's promise.
    let done = unsafe { asked.run(|operation| loader.read_many(requests, operation)) }?;
    // SAFETY: the caller's promise.
    unsafe { report::give(report, &done) }
}

/// Checks that no two items land on the same bytes.
fn check_apart(items: &[CopyItem]) -> Result<()> {
    let mut spans = Vec::with_capacity(items.len());
    for item in items.iter().filter(|item| item.size > 0) {
        let start = item.destination.addr() as u64;
        spans.push(start..start.saturating_add(memory_len(item.size)?));
    }
    spans.sort_unstable_by_key(|span| span.start);
    match spans.windows(2).find(|pair| pair[1].start < pair[0].end) {
        None => Ok(()),
        Some(pair) => Err(Error::OverlappingDestinations {
            first: pair[0].start,
            second: pair[1].start,
        }
        .into()),
    }
}
