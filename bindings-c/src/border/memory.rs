//! Memory of the other side's: what it lends for the time of a call, and where it wants results.

use std::ffi::c_char;

use crate::border::failure::{Failure, Status};

/// The bytes that the other side lends for the time of a call.
///
/// # Errors
/// [`Status::InvalidArgument`] for NULL
/// with a length, and for lengths that no memory has.
///
/// # Safety
/// `data` points to `len` readable bytes that stay as they are for `'a`.
pub(crate) unsafe fn slice<'a>(
    data: *const u8,
    len: usize,
    what: &str,
) -> Result<&'a [u8], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::null(what));
    }
    if len > isize::MAX as usize {
        return Err(Failure::invalid(format!("the length of `{what}` is impossible: {len}")));
    }
    // SAFETY: not NULL, a possible length, and the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// The elements that the other side lends for the time of a call.
///
/// # Safety
/// As [`slice`], for `count` elements.
pub(crate) unsafe fn elements<'a, T: Copy>(
    data: *const T,
    count: usize,
    what: &str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() || !data.is_aligned() {
        return Err(Failure::invalid(format!("`{what}` is NULL or not aligned")));
    }
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Failure::invalid(format!("the number of `{what}` is impossible: {count}")));
    }
    // SAFETY: not NULL, aligned, a possible length, and the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// Writes a result to where the other side wants it.
///
/// # Errors
/// [`Status::InvalidArgument`] for NULL:
/// check with [`check_out`] before anything is done.
///
/// # Safety
/// `to` is NULL or points to memory for a `T`.
pub(crate) unsafe fn put<T: Copy>(to: *mut T, value: T, what: &str) -> Result<(), Failure> {
    check_out(to, what)?;
    // SAFETY: not NULL and aligned, and the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

pub(crate) fn check_out<T>(to: *mut T, what: &str) -> Result<(), Failure> {
    match to.is_null() || !to.is_aligned() {
        true => Err(Failure::invalid(format!("`{what}` is NULL or not aligned"))),
        false => Ok(()),
    }
}

/// As [`put`], for a result that the other side need not want: then it is not made.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn put_optional<T: Copy>(
    to: *mut T,
    what: &str,
    make: impl FnOnce() -> T,
) -> Result<(), Failure> {
    check_optional(to, what)?;
    match to.is_null() {
        true => Ok(()),
        // SAFETY: the caller's promise.
        false => unsafe { put(to, make(), what) },
    }
}

pub(crate) fn check_optional<T>(to: *mut T, what: &str) -> Result<(), Failure> {
    match to.is_null() {
        true => Ok(()),
        false => check_out(to, what),
    }
}

/// Copies text to a buffer of the other side's and tells its length, also when the buffer is too
/// small.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` bytes; `len` is NULL or points to a `size_t`.
pub(crate) unsafe fn copy_text(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> Result<(), Failure> {
    if !len.is_null() {
        // SAFETY: not NULL, and the caller's promise.
        unsafe { put(len, text.len(), "len") }?;
    }
    if buffer.is_null() && capacity > 0 {
        return Err(Failure::null("buffer"));
    }
    if text.len() > capacity {
        let text = format!("The buffer has {capacity} bytes, the text {}", text.len());
        return Err(Failure::new(Status::TooLarge, text));
    }
    if !text.is_empty() {
        // SAFETY: the buffer has room for `capacity` bytes, and the text is not longer.
        unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    }
    Ok(())
}
