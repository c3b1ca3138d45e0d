//! What happened during an operation.

use std::ffi::{CString, c_char};

use weightloader::Report;

use crate::boundary::{UNKNOWN, give as give_value, guarded, invalid, output};
use crate::failure::{Result, Status, c_string};
use crate::registry::{self, handle};
use crate::sized::{self, Growing};

handle!(
    /// What happened during an operation.
    ReportHandle,
    Told,
    "weightloader_report"
);

/// A report, with its strings for C.
#[derive(Debug)]
pub(crate) struct Told {
    report: Report,
    mechanisms: Vec<(CString, u64)>,
    fallbacks: Vec<(CString, CString)>,
}

/// What happened during an operation, in numbers. WEIGHTLOADER_UNKNOWN stands for what the system
/// does not tell, or was not asked: of small operations little is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ReportInfo {
    /// sizeof(weightloader_report_info).
    pub struct_size: usize,
    /// Bytes that are in place.
    pub bytes: u64,
    /// From the start of the operation to the last byte in place.
    pub nanoseconds: u64,
    /// Bytes that were in the page cache when it began.
    pub resident_bytes: u64,
    /// Page faults of the process without I/O meanwhile.
    pub minor_faults: u64,
    /// Page faults of the process with I/O meanwhile.
    pub major_faults: u64,
    /// The most memory that the process has had so far, in bytes.
    pub peak_memory: u64,
    /// How many mechanisms weightloader_report_mechanism() can tell of.
    pub mechanisms: usize,
    /// How many fallbacks weightloader_report_fallback() can tell of.
    pub fallbacks: usize,
}

// SAFETY: numbers, the first of which is the length.
unsafe impl Growing for ReportInfo {
    const NAME: &'static str = "weightloader_report_info";
}

impl Told {
    fn new(report: &Report) -> Self {
        let mechanisms = report
            .chunks
            .iter()
            .map(|(mechanism, chunks)| (c_string(mechanism.name().as_bytes()), *chunks));
        let fallbacks = report.fallbacks.iter().map(|refusal| {
            let mechanism = c_string(refusal.mechanism.name().as_bytes());
            (mechanism, c_string(refusal.reason.as_bytes()))
        });
        Self {
            mechanisms: mechanisms.collect(),
            fallbacks: fallbacks.collect(),
            report: report.clone(),
        }
    }
}

/// Gives a handle of `report` to a caller who wants one.
///
/// # Safety
/// `place` is null or valid for writes.
pub(crate) unsafe fn give(place: *mut *mut ReportHandle, report: &Report) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { give_with(place, report, || Ok(())) }
}

/// As [`give`], where `rest` gives all other outputs: either all are given or none.
///
/// # Safety
/// `place` is null or valid for writes.
pub(crate) unsafe fn give_with(
    place: *mut *mut ReportHandle,
    report: &Report,
    rest: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if place.is_null() {
        return rest();
    }
    output(place, "report")?;
    let handle: *mut ReportHandle = registry::issue(Told::new(report))?;
    if let Err(failure) = rest() {
        registry::close(handle)?;
        return Err(failure);
    }
    // SAFETY: the caller's promise.
    unsafe { give_value(place, handle, "report") }
}

/// Tells a report's numbers.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `info` points to a `weightloader_report_info` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_get_report_info(
    report: *const ReportHandle,
    info: *mut ReportInfo,
) -> Status {
    guarded(|| {
        let told = registry::find(report)?;
        let Report {
            bytes,
            elapsed,
            resident_bytes,
            minor_faults,
            major_faults,
            peak_memory,
            ..
        } = told.report;
        let answer = ReportInfo {
            struct_size: 0,
            bytes,
            nanoseconds: u64::try_from(elapsed.as_nanos()).unwrap_or(UNKNOWN),
            resident_bytes: resident_bytes.unwrap_or(UNKNOWN),
            minor_faults: minor_faults.unwrap_or(UNKNOWN),
            major_faults: major_faults.unwrap_or(UNKNOWN),
            peak_memory: peak_memory.unwrap_or(UNKNOWN),
            mechanisms: told.mechanisms.len(),
            fallbacks: told.fallbacks.len(),
        };
        // SAFETY: the caller's promise.
        unsafe { sized::write(info, &answer) }
    })
}

/// Tells how many chunks one mechanism brought: "buffered", "direct", "direct-bounced" and so on.
/// The string is valid until the report is freed.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `mechanism` and `chunks` are valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_report_mechanism(
    report: *const ReportHandle,
    index: usize,
    mechanism: *mut *const c_char,
    chunks: *mut u64,
) -> Status {
    guarded(|| {
        output(mechanism, "mechanism")?;
        output(chunks, "chunks")?;
        let told = registry::find(report)?;
        let (name, count) = entry(&told.mechanisms, index, "mechanisms")?;
        // SAFETY: the caller's promise.
        unsafe { give_value(mechanism, name.as_ptr(), "mechanism") }?;
        // SAFETY: the caller's promise.
        unsafe { give_value(chunks, *count, "chunks") }
    })
}

/// Tells what was passed over, and why. The strings are valid until the report is freed.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `mechanism` and `reason` are valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_report_fallback(
    report: *const ReportHandle,
    index: usize,
    mechanism: *mut *const c_char,
    reason: *mut *const c_char,
) -> Status {
    guarded(|| {
        output(mechanism, "mechanism")?;
        output(reason, "reason")?;
        let told = registry::find(report)?;
        let (name, why) = entry(&told.fallbacks, index, "fallbacks")?;
        // SAFETY: the caller's promise.
        unsafe { give_value(mechanism, name.as_ptr(), "mechanism") }?;
        // SAFETY: the caller's promise.
        unsafe { give_value(reason, why.as_ptr(), "reason") }
    })
}

/// Frees a report.
///
/// Threads: any; calls of others that use the handle already go on undisturbed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_report_free(report: *mut ReportHandle) -> Status {
    guarded(|| registry::close(report.cast_const()).map(drop))
}

fn entry<'t, T>(entries: &'t [T], index: usize, what: &str) -> Result<&'t T> {
    let count = entries.len();
    let entry = entries.get(index);
    entry.ok_or_else(|| invalid(format!("index {index} where there are {count} {what}")))
}
