//! The border to C: pointers are checked on the way in, panics are kept in.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::{Failure, Result, Status};

/// `WEIGHTLOADER_TO_END`.
pub(crate) const TO_END: u64 = u64::MAX;

/// `WEIGHTLOADER_UNKNOWN`.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// Runs the body of a function that C calls. Whatever goes wrong becomes a code and a message.
pub(crate) fn guarded(body: impl FnOnce() -> Result<()>) -> Status {
    guarded_status(|| body().map(|()| Status::Ok))
}

/// As [`guarded`], for a body with more to say than that it succeeded.
pub(crate) fn guarded_status(body: impl FnOnce() -> Result<Status>) -> Status {
    // What a panic leaves behind is dropped or behind a lock whose every update is one step.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => failure.tell(),
        Err(panic) => Failure::new(Status::Internal, message_of(&*panic)).tell(),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "the library panicked: {}",
        said.unwrap_or("no reason given")
    )
}

pub(crate) fn null(what: &str) -> Failure {
    Failure::new(Status::NullPointer, format!("{what} is null"))
}

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Status::InvalidArgument, message)
}

/// The bytes of a string that ends with a zero byte.
///
/// # Safety
/// `text` is null or points to such a string, which stays as it is for all of `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a [u8]> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A copy of `count` elements at `first`.
///
/// # Safety
/// `first` is null or points to so many, of a type of which all bytes from C are valid.
pub(crate) unsafe fn elements<T: Copy>(
    first: *const T,
    count: usize,
    what: &str,
) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if first.is_null() {
        return Err(null(what));
    }
    if !first.is_aligned() {
        return Err(invalid(format!("{what} is not aligned")));
    }
    let bytes = count.checked_mul(size_of::<T>());
    if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(invalid(format!("{count} of {what} do not fit any memory")));
    }
    // SAFETY: it is neither null nor misaligned nor too long, and for the rest the caller's
    // promise.
    Ok(unsafe { std::slice::from_raw_parts(first, count) }.to_vec())
}

/// Checks that an output can be given at all, before anything is done that would have to be undone.
pub(crate) fn output<T>(place: *mut T, what: &str) -> Result<()> {
    if place.is_null() {
        return Err(null(what));
    }
    if !place.is_aligned() {
        return Err(invalid(format!("{what} is not aligned")));
    }
    Ok(())
}

/// Gives `value` to the caller.
///
/// # Safety
/// `place` is null or valid for writes.
pub(crate) unsafe fn give<T>(place: *mut T, value: T, what: &str) -> Result<()> {
    output(place, what)?;
    // SAFETY: it is neither null nor misaligned, and for the rest the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}
