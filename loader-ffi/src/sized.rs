//! Structures that grow in later versions: each says how long the caller's is.

use std::mem::MaybeUninit;
use std::ptr;

use crate::boundary::{invalid, null};
use crate::failure::{Failure, Result, Status};

/// A structure whose first member is its length in the caller's version.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, and all bytes zero are a valid value, as is everything
/// that C may put into it.
pub(crate) unsafe trait Growing: Copy {
    /// Its name in C.
    const NAME: &'static str;
}

/// No version will be as long as this: a length that is was never set.
const IMPLAUSIBLE: usize = 4096;

/// Reads a structure of the caller's. What only later versions have must be zero, that is, choose
/// nothing that this one does not know.
///
/// # Safety
/// `given` is null or points to as many bytes as its first member says.
pub(crate) unsafe fn read<T: Growing>(given: *const T) -> Result<T> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_given(given) }?;
    let known = size_of::<T>().min(size);
    let bytes = given.cast::<u8>();
    for at in known..size {
        // SAFETY: it lies within the structure by the caller's promise.
        let byte = unsafe { bytes.add(at) };
        // SAFETY: as above.
        if unsafe { byte.read() } != 0 {
            return Err(Failure::new(
                Status::Unsupported,
                format!("{} has a member that this version does not know", T::NAME),
            ));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: as many bytes are there on both sides, and ours are our own.
    unsafe { ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: a valid value by the promise of `Growing`.
    Ok(unsafe { value.assume_init() })
}

/// As [`read`], where null stands for a structure that chooses nothing.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_or_default<T: Growing>(given: *const T) -> Result<T> {
    if given.is_null() {
        // SAFETY: a valid value by the promise of `Growing`.
        return Ok(unsafe { MaybeUninit::<T>::zeroed().assume_init() });
    }
    // SAFETY: the caller's promise.
    unsafe { read(given) }
}

/// Checks that an output can be given at all, before anything is done that would have to be undone.
///
/// # Safety
/// As [`write`].
pub(crate) unsafe fn output<T: Growing>(place: *mut T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { size_of_given(place) }.map(|_| ())
}

/// Fills in a structure of the caller's, as far as its version knows the members.
///
/// # Safety
/// `place` is null or points to as many writable bytes as its first member says.
pub(crate) unsafe fn write<T: Growing>(place: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_given(place) }?;
    let head = size_of::<usize>();
    let known = size_of::<T>().min(size) - head;
    // SAFETY: the length is the first member.
    let source = unsafe { ptr::from_ref(value).cast::<u8>().add(head) };
    // SAFETY: the length is the first member there too.
    let target = unsafe { place.cast::<u8>().add(head) };
    // SAFETY: as many bytes are there on both sides, and ours are our own.
    unsafe { ptr::copy_nonoverlapping(source, target, known) };
    Ok(())
}

/// The length that the caller's structure says it has.
///
/// # Safety
/// `given` is null or begins with its length.
unsafe fn size_of_given<T: Growing>(given: *const T) -> Result<usize> {
    if given.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: the caller's promise.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    // All members that there are now were there from the beginning.
    if size < size_of::<T>() || size > IMPLAUSIBLE {
        return Err(invalid(format!(
            "{}.struct_size is {size}, expected {} or a later version's",
            T::NAME,
            size_of::<T>()
        )));
    }
    Ok(size)
}
