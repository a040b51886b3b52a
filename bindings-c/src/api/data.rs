//! What payloads say: numbers and booleans.

use std::ffi::c_char;

use engine::Data;

use crate::border::{
    enter::enter,
    failure::{Failure, roletalk_status},
    memory::{put, slice},
    values::{ROLETALK_DATA_BOOLEAN, data_error, roletalk_data},
};

/// The text of a number. Use it as a payload with roletalk_data_number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_number {
    /// How many bytes of `text`.
    pub len: usize,
    /// No zero at the end.
    pub text: [c_char; 32],
}

/// # Safety
/// `number` is NULL or points to a `roletalk_number`.
unsafe fn print(data: &Data, number: *mut roletalk_number) -> Result<(), Failure> {
    let bytes = data.bytes();
    let mut text = [0; 32];
    for (to, from) in text.iter_mut().zip(bytes) {
        *to = *from as c_char;
    }
    // SAFETY: the caller's promise.
    unsafe { put(number, roletalk_number { len: bytes.len(), text }, "number") }
}

/// Prints a number as JavaScript does: NaN and the infinities are kept, negative zero loses its sign.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_number_from_double(
    value: f64,
    number: *mut roletalk_number,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { print(&Data::number(value), number) })
}

/// Prints an integer exactly. JavaScript rounds those beyond 2^53 when it reads them.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_number_from_int64(
    value: i64,
    number: *mut roletalk_number,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { print(&Data::integer(value), number) })
}

/// Prints an integer exactly. JavaScript rounds those beyond 2^53 when it reads them.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_number_from_uint64(
    value: u64,
    number: *mut roletalk_number,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { print(&Data::integer(value), number) })
}

/// Reads a boolean: 0 or 1.
///
/// Errors: ROLETALK_STATUS_DATA when it is none. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_data_as_bool(
    data: roletalk_data,
    value: *mut i32,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let bytes = unsafe { slice(data.bytes.cast::<u8>(), data.len, "data") }?;
        if data.kind != ROLETALK_DATA_BOOLEAN {
            return Err(data_error("The data is not a boolean"));
        }
        // A missing byte is true, as it is in JavaScript.
        // SAFETY: as above.
        unsafe { put(value, i32::from(bytes.first() != Some(&0)), "value") }
    })
}

/// Reads a number as JavaScript does: text that is no number is NaN.
///
/// Errors: ROLETALK_STATUS_DATA when the data is of another kind. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_data_as_double(
    data: roletalk_data,
    value: *mut f64,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let number = unsafe { data.number() }?;
        // SAFETY: as above.
        unsafe { put(value, number.as_f64().unwrap_or(f64::NAN), "value") }
    })
}

/// Reads an integer exactly.
///
/// Errors: ROLETALK_STATUS_DATA when it is no number, has a fraction or does not fit. Any thread, also
/// inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_data_as_int64(
    data: roletalk_data,
    value: *mut i64,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let number = unsafe { data.number() }?;
        let number = number.as_i64().ok_or_else(|| data_error("not a 64-bit integer"))?;
        // SAFETY: as above.
        unsafe { put(value, number, "value") }
    })
}

/// Reads an integer exactly.
///
/// Errors: ROLETALK_STATUS_DATA when it is no number, negative, has a fraction or does not fit. Any
/// thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_data_as_uint64(
    data: roletalk_data,
    value: *mut u64,
) -> roletalk_status {
    enter(|| {
        // SAFETY: the contract of pointers in the header's introduction.
        let number = unsafe { data.number() }?;
        let number = number.as_u64().ok_or_else(|| data_error("not an unsigned 64-bit integer"))?;
        // SAFETY: as above.
        unsafe { put(value, number, "value") }
    })
}
