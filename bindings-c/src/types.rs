//! What crosses the border by value: handles, strings, payloads.

use std::{ffi::c_char, os::raw::c_void};

use crate::status::{Failure, Status};

/// Text: UTF-8 with its length in bytes, without a zero at the end. `data` may be NULL when `len` is 0.
/// Make one of a literal with ROLETALK_STR("text"), print one with printf("%.*s", ROLETALK_ARG(string)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_string {
    /// The first byte.
    pub data: *const c_char,
    /// How many bytes.
    pub len: usize,
}

impl roletalk_string {
    /// For the other side to read while `text` lives.
    pub(crate) fn lend(text: &str) -> roletalk_string {
        roletalk_string::lend_bytes(text.as_bytes())
    }

    /// As [`lend`](roletalk_string::lend), for bytes that are known to be UTF-8.
    pub(crate) fn lend_bytes(text: &[u8]) -> roletalk_string {
        roletalk_string { data: text.as_ptr().cast(), len: text.len() }
    }

    /// The text that the other side lends for the time of a call.
    ///
    /// # Safety
    /// `data` points to `len` readable bytes that stay as they are for `'a`.
    pub(crate) unsafe fn get<'a>(self, what: &str) -> Result<&'a str, Failure> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice(self.data.cast(), self.len, what) }?;
        std::str::from_utf8(bytes)
            .map_err(|error| Failure::invalid(format!("`{what}` is not UTF-8: {error}")))
    }
}

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

/// Key and value: a tag, a header, a preshared key with its id.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_pair {
    /// The key.
    pub key: roletalk_string,
    /// The value.
    pub value: roletalk_string,
}

/// A payload: its type, and its bytes as they are on the wire. Make one with roletalk_data_null,
/// roletalk_data_boolean, roletalk_data_text, roletalk_data_binary, roletalk_data_json and
/// roletalk_data_number; read one with its bytes and roletalk_data_as_bool, roletalk_data_as_double,
/// roletalk_data_as_int64, roletalk_data_as_uint64.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_data {
    /// ROLETALK_DATA_BINARY and so on. Other numbers may come from peers of later versions: read those as
    /// null.
    pub kind: i32,
    /// How many bytes.
    pub len: usize,
    /// The first byte; may be NULL when `len` is 0. Text and JSON have no zero at the end.
    pub bytes: *const c_void,
}

/// Bytes.
pub const ROLETALK_DATA_BINARY: i32 = 0;
/// Nothing.
pub const ROLETALK_DATA_NULL: i32 = 1;
/// One byte, 0 or 1.
pub const ROLETALK_DATA_BOOLEAN: i32 = 2;
/// UTF-8.
pub const ROLETALK_DATA_TEXT: i32 = 3;
/// A number as text, as JavaScript prints it.
pub const ROLETALK_DATA_NUMBER: i32 = 4;
/// JSON.
pub const ROLETALK_DATA_JSON: i32 = 5;

/// What a handler is for, from its own side.
pub const ROLETALK_KIND_MESSAGE: i32 = 1;
/// A request: the handler answers.
pub const ROLETALK_KIND_REQUEST: i32 = 2;
/// A stream that this peer reads: another one asked for a writable.
pub const ROLETALK_KIND_READABLE: i32 = 3;
/// A stream that this peer writes: another one asked for a readable.
pub const ROLETALK_KIND_WRITABLE: i32 = 4;

/// The local node. Made by roletalk_peer_new, closed by roletalk_peer_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_peer {
    /// Zero is none.
    pub id: u64,
}

/// An address that is listened on. Closed by roletalk_listener_close, and with its peer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_listener {
    /// Zero is none.
    pub id: u64,
}

/// A service that a peer offers. Belongs to its peer and is valid until that is closed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_role {
    /// Zero is none.
    pub id: u64,
}

/// A role as offered by units. Belongs to its peer and is valid until that is closed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_destination {
    /// Zero is none.
    pub id: u64,
}

/// A connected remote peer. Callbacks borrow it: keep it with roletalk_unit_clone, and free that with
/// roletalk_unit_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_unit {
    /// Zero is none.
    pub id: u64,
}

/// What a handler is to answer. Valid inside the handler; roletalk_context_defer makes one that is valid
/// until it is answered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_context {
    /// Zero is none.
    pub id: u64,
}

/// The answer to a blocking call. Freed by roletalk_answer_free.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_answer {
    /// Zero is none.
    pub id: u64,
}

/// The answers to a survey. Closed by roletalk_survey_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_survey {
    /// Zero is none.
    pub id: u64,
}

/// The reading end of a stream. Closed by roletalk_readable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_readable {
    /// Zero is none.
    pub id: u64,
}

/// The writing end of a stream. Closed by roletalk_writable_close.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_writable {
    /// Zero is none.
    pub id: u64,
}

/// Something under way that will call back. Freed by roletalk_operation_free, which does not end it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_operation {
    /// Zero is none.
    pub id: u64,
}

impl roletalk_unit {
    pub(crate) const NONE: roletalk_unit = roletalk_unit { id: 0 };
}
