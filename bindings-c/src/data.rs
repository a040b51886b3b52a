//! Payloads.

use std::ffi::c_char;

use bytes::Bytes;
use engine::{Data, DataType, Payload};

use crate::{
    status::{Failure, Status, enter, roletalk_status},
    types::*,
};

fn data_error(text: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(Status::Data, text)
}

fn kind_of(kind: DataType) -> i32 {
    match kind {
        DataType::Binary => ROLETALK_DATA_BINARY,
        DataType::Null => ROLETALK_DATA_NULL,
        DataType::Boolean => ROLETALK_DATA_BOOLEAN,
        DataType::String => ROLETALK_DATA_TEXT,
        DataType::Number => ROLETALK_DATA_NUMBER,
        DataType::Object => ROLETALK_DATA_JSON,
        DataType::Unknown(byte) => i32::from(byte),
    }
}

impl roletalk_data {
    /// For the other side to read while `data` lives.
    pub(crate) fn lend(data: &Data) -> roletalk_data {
        roletalk_data::lend_parts(data.kind(), data.bytes())
    }

    /// For the other side to read while `bytes` live.
    pub(crate) fn lend_parts(kind: DataType, bytes: &[u8]) -> roletalk_data {
        roletalk_data { kind: kind_of(kind), len: bytes.len(), bytes: bytes.as_ptr().cast() }
    }

    /// What the other side wants to send, checked.
    ///
    /// # Safety
    /// `bytes` points to `len` readable bytes that stay as they are for `'a`.
    pub(crate) unsafe fn payload<'a>(self) -> Result<Payload<'a>, Failure> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice(self.bytes.cast(), self.len, "data") }?;
        let kind = match self.kind {
            ROLETALK_DATA_BINARY => DataType::Binary,
            ROLETALK_DATA_NULL if bytes.is_empty() => DataType::Null,
            ROLETALK_DATA_BOOLEAN if matches!(bytes, [0 | 1]) => DataType::Boolean,
            ROLETALK_DATA_TEXT => match std::str::from_utf8(bytes) {
                Ok(_) => DataType::String,
                Err(error) => return Err(data_error(format!("The text is not UTF-8: {error}"))),
            },
            ROLETALK_DATA_NUMBER => {
                let data = Data::from_raw(DataType::Number, Bytes::copy_from_slice(bytes));
                let number = !data.as_f64().is_none_or(f64::is_nan) && !bytes.is_empty();
                match number || bytes == b"NaN" {
                    true => DataType::Number,
                    false => return Err(data_error("The number's text is no number")),
                }
            }
            ROLETALK_DATA_JSON => {
                Data::check_json(bytes).map_err(|error| data_error(error.to_string()))?;
                DataType::Object
            }
            ROLETALK_DATA_NULL => return Err(data_error("null has no bytes")),
            ROLETALK_DATA_BOOLEAN => return Err(data_error("a boolean is one byte, 0 or 1")),
            kind => return Err(Failure::invalid(format!("there is no kind of data {kind}"))),
        };
        Ok(Payload { kind, bytes })
    }

    /// A copy of what the other side wants to send, checked.
    ///
    /// # Safety
    /// `bytes` points to `len` readable bytes.
    pub(crate) unsafe fn get(self) -> Result<Data, Failure> {
        // SAFETY: the caller's promise; the bytes are copied before this function returns.
        let Payload { kind, bytes } = unsafe { self.payload() }?;
        Ok(Data::from_raw(kind, Bytes::copy_from_slice(bytes)))
    }

    /// What was lent to the other side, to read a value from.
    ///
    /// # Safety
    /// `bytes` points to `len` readable bytes.
    unsafe fn number(self) -> Result<Data, Failure> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { slice(self.bytes.cast(), self.len, "data") }?;
        match self.kind {
            ROLETALK_DATA_NUMBER => {
                Ok(Data::from_raw(DataType::Number, Bytes::copy_from_slice(bytes)))
            }
            _ => Err(data_error("The data is not a number")),
        }
    }
}

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
