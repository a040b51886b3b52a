//! What crosses the border by value besides handles: strings and payloads.

use std::{ffi::c_char, os::raw::c_void};

use bytes::Bytes;
use engine::{Data, DataType, Payload};

use crate::border::{
    failure::{Failure, Status},
    memory::slice,
};

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

pub(crate) fn data_error(text: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
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
    pub(crate) unsafe fn number(self) -> Result<Data, Failure> {
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
