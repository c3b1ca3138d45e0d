//! Streams through memory of the caller's.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use weightloader::StreamOrder;
use weightloader::core::{OwnerProcess, SlotStream, StreamItem, StreamSlot};

use crate::boundary::{elements, give, guarded, guarded_status, invalid, null, output};
use crate::failure::{Failure, Result, Status};
use crate::file::{FileHandle, memory_len};
use crate::operation::{MemoryFlag, check_flags};
use crate::options::Chosen;
use crate::own_thread;
use crate::registry::{self, handle};
use crate::report::{self, ReportHandle};
use crate::sized::{self, Growing};

handle!(
    /// Ranges of files on their way through slots of the caller's.
    StreamHandle,
    Streaming,
    "weightloader_stream"
);

/// A stream, and where its slots begin.
#[derive(Debug)]
pub(crate) struct Streaming {
    owner: OwnerProcess,
    stream: SlotStream,
    slots: Vec<usize>,
}

/// Part of a file. This structure does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The file.
    pub file: *const FileHandle,
    /// Where in it the bytes begin.
    pub offset: u64,
    /// How many bytes; WEIGHTLOADER_TO_END: all that follow.
    pub length: u64,
}

/// Memory of the caller's that is filled again and again: a pinned buffer, say. This structure does
/// not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its first byte; at a multiple of 4096, direct reads need no copy.
    pub memory: *mut c_void,
    /// How many bytes it has, 4096 or more; 4 MiB and more for speed.
    pub size: usize,
}

/// How a stream runs; zero everywhere is the best for most.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// sizeof(weightloader_stream_options).
    pub struct_size: usize,
    /// Bytes a second at most; 0 for what the file of the first range was opened with.
    pub bytes_per_second: u64,
    /// weightloader_memory_flag of the slots.
    pub memory_flags: u32,
    /// 1 to give parts as they land, 0 to give them in the order of the ranges.
    pub as_landed: u32,
}

// SAFETY: numbers, the first of which is the length.
unsafe impl Growing for StreamOptions {
    const NAME: &'static str = "weightloader_stream_options";
}

/// What a slot holds.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// sizeof(weightloader_part).
    pub struct_size: usize,
    /// Which slot: to be given to weightloader_stream_release().
    pub slot: usize,
    /// The bytes, in that slot.
    pub data: *mut c_void,
    /// How many.
    pub size: usize,
    /// Which range they are of.
    pub range: usize,
    /// Where in the range they begin.
    pub offset: u64,
}

// SAFETY: pointers and numbers, the first of which is the length.
unsafe impl Growing for Part {
    const NAME: &'static str = "weightloader_part";
}

/// The stream that `handle` stands for, unless it is a parent process's.
fn find(handle: *const StreamHandle) -> Result<Arc<Streaming>> {
    let streaming = registry::find(handle)?;
    streaming.owner.check()?;
    Ok(streaming)
}

/// Starts to read `ranges` through `slots` in the background. Ranges that are longer than a slot
/// come in parts; empty ones do not come at all, and where there are none the stream is at its end.
/// Close it by weightloader_stream_close().
///
/// What the file of the first range was opened with goes for all; `options` may be null.
///
/// Threads: any, at any time.
///
/// # Safety
/// `ranges` and `slots` have as many elements as their counts say, `options` is null or has its
/// `struct_size` set, `stream` is valid for writes. The memory of the slots is valid for writes
/// until weightloader_stream_close() has returned, and nobody else touches it, except from when
/// weightloader_stream_next() has given a slot until weightloader_stream_release() is called for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_stream_open(
    ranges: *const Range,
    range_count: usize,
    slots: *const Slot,
    slot_count: usize,
    options: *const StreamOptions,
    stream: *mut *mut StreamHandle,
) -> Status {
    guarded(|| {
        output(stream, "stream")?;
        // SAFETY: the caller's promise.
        let ranges = unsafe { elements(ranges, range_count, "ranges") }?;
        // SAFETY: the caller's promise.
        let slots = unsafe { elements(slots, slot_count, "slots") }?;
        // SAFETY: the caller's promise.
        let options = unsafe { sized::read_or_default(options) }?;
        // SAFETY: the caller's promise.
        let opened = unsafe { open(&ranges, &slots, &options) }?;
        let handle = registry::issue(opened)?;
        // SAFETY: the caller's promise.
        unsafe { give(stream, handle, "stream") }
    })
}

/// # Safety
/// As [`weightloader_stream_open`].
unsafe fn open(ranges: &[Range], slots: &[Slot], options: &StreamOptions) -> Result<Streaming> {
    let order = match options.as_landed {
        0 => StreamOrder::Asked,
        1 => StreamOrder::Landed,
        other => return Err(invalid(format!("as_landed is {other}, expected 0 or 1"))),
    };
    check_flags(options.memory_flags)?;
    let chosen = match ranges {
        [] => Chosen::default(),
        [first, ..] => registry::find(first.file)?.chosen,
    };
    let loader = chosen.paced_loader(options.bytes_per_second, order)?;
    let (mut files, mut items): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    let mut last = None;
    for range in ranges {
        let opened = registry::find(range.file)?;
        if last != Some(range.file) {
            files.push(opened.file.clone());
            last = Some(range.file);
        }
        let end = opened.end(range.offset, range.length)?;
        items.push(StreamItem {
            file: files.len() - 1,
            range: opened.file.range(range.offset..end)?,
        });
    }
    let direct = options.memory_flags & MemoryFlag::NoDirect as u32 == 0;
    let slot = |slot: &Slot| {
        memory_len(slot.size)?;
        let start = NonNull::new(slot.memory.cast::<u8>()).ok_or_else(|| null("a slot"))?;
        Ok(StreamSlot::new(start, slot.size, direct))
    };
    let memory = slots.iter().map(slot).collect::<Result<Vec<_>>>()?;
    // SAFETY: the caller's promise.
    let stream =
        unsafe { SlotStream::start(loader.platform(), loader.options(), files, items, memory) }?;
    Ok(Streaming {
        owner: OwnerProcess::current(),
        stream,
        slots: slots
            .iter()
            .map(|slot| slot.memory.expose_provenance())
            .collect(),
    })
}

/// Gives the next part; its slot is the caller's until weightloader_stream_release(). Waits until
/// there is one, and for a slot to be released where the caller has all, so one thread that holds
/// all slots must release one before it asks. WEIGHTLOADER_STATUS_END once everything was given.
///
/// Threads: any, several at once; each part goes to one of them.
///
/// # Safety
/// `part` points to a `weightloader_part` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_stream_next(
    stream: *const StreamHandle,
    part: *mut Part,
) -> Status {
    guarded_status(|| {
        // SAFETY: the caller's promise.
        unsafe { sized::output(part) }?;
        let streaming = find(stream)?;
        own_thread::keep();
        let Some(filled) = streaming.stream.next()? else {
            return Ok(Status::End);
        };
        let start = streaming.slots[filled.slot] + filled.slot_offset;
        let answer = Part {
            struct_size: 0,
            slot: filled.slot,
            data: std::ptr::with_exposed_provenance_mut(start),
            size: filled.len,
            range: filled.item,
            offset: filled.item_offset,
        };
        // SAFETY: the caller's promise.
        unsafe { sized::write(part, &answer) }?;
        Ok(Status::Ok)
    })
}

/// Gives a slot back, to be filled again, in any order.
///
/// Threads: any, one that a device calls back on included.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_stream_release(stream: *const StreamHandle, slot: usize) -> Status {
    guarded(|| Ok(find(stream)?.stream.release(slot)?))
}

/// Stops a stream without waiting; whoever waits in weightloader_stream_next() is told
/// WEIGHTLOADER_STATUS_CANCELLED. It must be closed all the same.
///
/// Threads: any, at any time, several on the same handle too.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_stream_cancel(stream: *const StreamHandle) -> Status {
    guarded(|| {
        find(stream)?.stream.cancel();
        Ok(())
    })
}

/// Tells how a stream went, once weightloader_stream_next() has said that this is the end. Of one
/// that failed or was cancelled, it tells of what had landed by then, and waits until nothing is
/// written to its slots any more. Free the report by weightloader_report_free().
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `report` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_stream_report(
    stream: *const StreamHandle,
    report: *mut *mut ReportHandle,
) -> Status {
    guarded(|| {
        output(report, "report")?;
        let told = find(stream)?.stream.report();
        let told = told.ok_or_else(|| {
            let message = "the stream has not given everything yet";
            Failure::new(Status::InvalidArgument, message)
        })?;
        // SAFETY: the caller's promise.
        unsafe { report::give(report, &told) }
    })
}

/// Stops a stream, waits until nothing is written to its slots any more, and frees it. Afterwards
/// all slots are the caller's. A forked child may close what it has of a stream of its parent, which
/// goes on undisturbed.
///
/// Threads: any; those that wait in weightloader_stream_next() are told
/// WEIGHTLOADER_STATUS_CANCELLED first.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_stream_close(stream: *mut StreamHandle) -> Status {
    guarded(|| {
        let streaming = registry::close(stream.cast_const())?;
        // Another thread may be inside a call on it and drop it later, so this cannot rely on being
        // the last.
        streaming.stream.stop();
        Ok(())
    })
}
