//! Fields as JavaScript has them: one record after the other, each with its [`Field`], the lengths of name
//! and value as numbers of 32 bits, name and value. So JavaScript need not know the wire.

use std::time::Duration;

use roletalk_engine::{Error, ErrorKind, Failure, Fields, FieldsView, HeaderValue, Result};

use crate::protocol::numbers;

numbers! {
    /// What a record is.
    enum Field: u8 {
        /// A header that is text.
        Text = 1,
        /// A header that is bytes.
        Bytes = 2,
        Traceparent = 3,
        Tracestate = 4,
        Baggage = 5,
        /// The code of a failure.
        Code = 6,
        /// What belongs to it, as JSON.
        Data = 7,
        /// After how many milliseconds it is worth trying again, in digits.
        Retry = 8,
        /// No handler has begun. No value.
        Unhandled = 9,
        /// The fields are not to be left out. No value.
        Required = 10,
    }
}

numbers! {
    const LAYOUT = "" {
        /// Bytes of a record before its name.
        FIELD_HEADER: usize = 9,
        /// Bytes behind the fields of an event: their length, and when its request is due.
        FIELDS_TRAILER: usize = 12,
    }
}

/// Reads what JavaScript has written.
///
/// # Errors
/// As those of [`Fields`]; [`ErrorKind::Data`] for what makes no sense.
pub(crate) fn read(mut records: &[u8]) -> Result<Fields> {
    let mut fields = Fields::new();
    let mut failure = Failure::default();
    let mut trace = [None; 3];
    while !records.is_empty() {
        let Record { field, name, value } = next(&mut records).ok_or_else(broken)?;
        match field {
            Field::Text => fields.add_header(text(name)?, text(value)?)?,
            Field::Bytes => fields.add_header(text(name)?, value)?,
            Field::Traceparent => trace[0] = Some(text(value)?),
            Field::Tracestate => trace[1] = Some(text(value)?),
            Field::Baggage => trace[2] = Some(text(value)?),
            Field::Code => failure.code = Some(text(value)?.to_owned()),
            Field::Data => failure.data = Some(text(value)?.to_owned()),
            Field::Retry => {
                let millis = text(value)?.parse().map_err(|_| broken())?;
                failure.retry_after = Some(Duration::from_millis(millis));
            }
            Field::Unhandled => failure.unhandled = true,
            Field::Required => fields.set_required(true),
        }
    }
    if trace.iter().any(Option::is_some) {
        let Some(parent) = trace[0] else {
            let text = "tracestate and baggage need a traceparent to go with";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        };
        let [_, state, baggage] = trace.map(Option::unwrap_or_default);
        fields.set_trace(parent, state, baggage)?;
    }
    if !failure.is_empty() {
        fields.set_failure(&failure)?;
    }
    Ok(fields)
}

struct Record<'a> {
    field: Field,
    name: &'a [u8],
    value: &'a [u8],
}

/// Takes the first record.
fn next<'a>(records: &mut &'a [u8]) -> Option<Record<'a>> {
    let (&first, rest) = records.split_first()?;
    let (name_len, rest) = rest.split_first_chunk()?;
    let (value_len, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*name_len) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    *records = rest;
    Some(Record { field: Field::try_from(u32::from(first)).ok()?, name, value })
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| broken())
}

fn broken() -> Error {
    Error::new(ErrorKind::Data, "The fields cannot be read")
}

/// Writes what has come, for JavaScript. It may take over the trace for what it sends itself, so that one that
/// cannot be sent is left out.
pub(crate) fn write(view: FieldsView<'_>, failure: Option<&Failure>) -> Vec<u8> {
    let mut records = Vec::new();
    for (name, value) in view.headers() {
        let field = match value {
            HeaderValue::Text(_) => Field::Text,
            HeaderValue::Bytes(_) => Field::Bytes,
        };
        put(&mut records, field, name, value.bytes());
    }
    if let Some(parent) = view.traceparent() {
        let (state, baggage) = (view.tracestate(), view.baggage());
        let mut sent = Fields::new();
        if sent.set_trace(&parent, state.unwrap_or(""), baggage.unwrap_or("")).is_ok() {
            put(&mut records, Field::Traceparent, "", parent.as_bytes());
            for (field, value) in [(Field::Tracestate, state), (Field::Baggage, baggage)] {
                if let Some(value) = value {
                    put(&mut records, field, "", value.as_bytes());
                }
            }
        }
    }
    if let Some(Failure { code, data, retry_after, unhandled }) = failure {
        if let Some(code) = code {
            put(&mut records, Field::Code, "", code.as_bytes());
        }
        if let Some(data) = data {
            put(&mut records, Field::Data, "", data.as_bytes());
        }
        if let Some(after) = retry_after {
            put(&mut records, Field::Retry, "", after.as_millis().to_string().as_bytes());
        }
        if *unhandled {
            put(&mut records, Field::Unhandled, "", b"");
        }
    }
    records
}

fn put(records: &mut Vec<u8>, field: Field, name: &str, value: &[u8]) {
    records.push(field as u8);
    records.extend_from_slice(&(name.len() as u32).to_le_bytes());
    records.extend_from_slice(&(value.len() as u32).to_le_bytes());
    records.extend_from_slice(name.as_bytes());
    records.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read() {
        let mut fields = Fields::new();
        fields.add_header("a", "b").unwrap();
        fields.add_header("raw", &b"\xff"[..]).unwrap();
        fields.add_header("a", "").unwrap();
        fields.set_trace(PARENT, "s=1", "k=v").unwrap();
        let failure = Failure {
            code: Some("CODE".into()),
            data: Some("[1]".into()),
            retry_after: Some(Duration::from_millis(5)),
            unhandled: true,
        };
        let read = read(&write(fields.view(), Some(&failure))).unwrap();
        assert_eq!(read.view().headers().count(), 3);
        assert_eq!(read.view().tracestate(), Some("s=1"));
        assert_eq!(read.view().failure(), Some(failure));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let mut whole = Vec::new();
        put(&mut whole, Field::Text, "a", b"b");
        assert!(read(&whole).is_ok());
        for len in 1..whole.len() {
            assert_eq!(read(&whole[..len]).unwrap_err().kind(), ErrorKind::Data, "{len}");
        }
        whole[0] = 99;
        assert_eq!(read(&whole).unwrap_err().kind(), ErrorKind::Data);
    }
}
