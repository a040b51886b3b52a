//! Headers, in both directions.

use engine::{Fields, HeaderValue};

use crate::border::{
    failure::Failure,
    memory::elements,
    values::{ROLETALK_DATA_BINARY, ROLETALK_DATA_TEXT, roletalk_data, roletalk_string},
};

/// A header: what goes with a message, a request, a stream or an answer besides its payload.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_header {
    /// Up to 128 characters of `a` to `z`, digits, `-`, `_` and `.`; not beginning with `rt-`.
    pub name: roletalk_string,
    /// Text or bytes: ROLETALK_DATA_TEXT or ROLETALK_DATA_BINARY.
    pub value: roletalk_data,
}

impl roletalk_header {
    /// For the other side to read while both live.
    pub(crate) fn lend(name: &str, value: HeaderValue<'_>) -> roletalk_header {
        roletalk_header { name: roletalk_string::lend(name), value: lend_value(value) }
    }
}

/// For the other side to read while the value lives.
pub(crate) fn lend_value(value: HeaderValue<'_>) -> roletalk_data {
    let kind = match value {
        HeaderValue::Text(_) => ROLETALK_DATA_TEXT,
        HeaderValue::Bytes(_) => ROLETALK_DATA_BINARY,
    };
    let bytes = value.bytes();
    roletalk_data { kind, len: bytes.len(), bytes: bytes.as_ptr().cast() }
}

/// The value that the other side lends for the time of a call.
///
/// # Errors
/// `Status::Data` for text that is not UTF-8, `Status::InvalidArgument` for what is neither text nor bytes.
///
/// # Safety
/// `bytes` points to `len` readable bytes that stay as they are for `'a`.
pub(crate) unsafe fn value<'a>(value: roletalk_data) -> Result<HeaderValue<'a>, Failure> {
    if !matches!(value.kind, ROLETALK_DATA_TEXT | ROLETALK_DATA_BINARY) {
        return Err(Failure::invalid("The value of a header is text or bytes"));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { value.payload() }?.bytes;
    match std::str::from_utf8(bytes) {
        Ok(text) if value.kind == ROLETALK_DATA_TEXT => Ok(HeaderValue::Text(text)),
        _ => Ok(HeaderValue::Bytes(bytes)),
    }
}

/// Adds the headers that the other side lends for the time of a call.
///
/// # Errors
/// As [`value`], and as [`Fields::add_header`].
///
/// # Safety
/// `headers` points to `count` headers, which are as the header file demands.
pub(crate) unsafe fn add(
    fields: &mut Fields,
    headers: *const roletalk_header,
    count: usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    for header in unsafe { elements(headers, count, "headers") }? {
        // SAFETY: as above.
        let (name, value) = unsafe { (header.name.get("headers.name")?, value(header.value)?) };
        fields.add_header(name, value)?;
    }
    Ok(())
}

/// Headers that the other side looks at.
pub(crate) struct Headers {
    list: Box<[roletalk_header]>,
    /// What the list points into.
    _bytes: Box<[u8]>,
}

// SAFETY: the pointers are into the bytes, which belong to it and do not change.
unsafe impl Send for Headers {}
// SAFETY: as above.
unsafe impl Sync for Headers {}

impl Headers {
    /// A copy; none of none.
    pub(crate) fn of<'a>(
        headers: impl Iterator<Item = (&'a str, HeaderValue<'a>)>,
    ) -> Option<Box<Headers>> {
        let (mut bytes, mut lens) = (Vec::new(), Vec::new());
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value.bytes());
            lens.push((name.len(), value.bytes().len(), lend_value(value).kind));
        }
        if lens.is_empty() {
            return None;
        }
        let bytes = bytes.into_boxed_slice();
        let mut rest = &*bytes;
        let list = lens.into_iter().map(|(name_len, value_len, kind)| {
            let (name, behind) = rest.split_at(name_len);
            let (value, behind) = behind.split_at(value_len);
            rest = behind;
            let value = roletalk_data { kind, len: value_len, bytes: value.as_ptr().cast() };
            roletalk_header { name: roletalk_string::lend_bytes(name), value }
        });
        let list = list.collect();
        Some(Box::new(Headers { list, _bytes: bytes }))
    }

    pub(crate) fn list(&self) -> &[roletalk_header] {
        &self.list
    }
}
