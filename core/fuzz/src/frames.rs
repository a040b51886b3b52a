//! Frames and data types.

use bytes::Bytes;
use roletalk_engine::wire::{Data, DataType, Frame, MAX_NAME, Payload};

/// The bytes are a frame; without their first one they are a datum of the type that it names.
///
/// What is decoded encodes to something that decodes to the same, of the length that was promised,
/// and every accessor of a datum agrees with its type.
pub fn frames(bytes: &[u8]) {
    match Frame::decode(bytes) {
        Ok(frame) => reencode(&frame),
        // It becomes the reason of a WebSocket close.
        Err(error) => assert!(error.to_string().len() < 100, "{error}"),
    }
    if let Some((kind, payload)) = bytes.split_first() {
        let kind = DataType::from_byte(*kind);
        assert_eq!(DataType::from_byte(kind.as_byte()), kind);
        datum(&Data::from_raw(kind, Bytes::copy_from_slice(payload)));
        made(payload);
    }
}

fn reencode(frame: &Frame<'_>) {
    let mut names: &[&str] = &[];
    let mut payload = None;
    let held;
    match frame {
        Frame::Message { role, event, payload: data }
        | Frame::Request { role, event, payload: data, .. }
        | Frame::StreamRequest { role, event, payload: data, .. } => {
            held = [&**role, &**event];
            names = &held;
            payload = Some(data);
        }
        Frame::Response { payload: data, .. }
        | Frame::Reject { payload: data, .. }
        | Frame::StreamAccept { payload: data, .. }
        | Frame::StreamRefuse { payload: data, .. } => payload = Some(data),
        Frame::Stream { .. } | Frame::Cancel { .. } | Frame::Acquaint(_) | Frame::Roles(_) => {}
    }
    if let Some(payload) = payload {
        datum(&Data::from(*payload));
    }
    // Mending UTF-8 makes names longer, possibly too long to be sent on.
    if names.iter().any(|name| name.len() > MAX_NAME) {
        return;
    }
    let mut encoded = Vec::new();
    frame.encode(&mut encoded);
    assert_eq!(encoded.len(), frame.encoded_len(), "{frame:?}");
    assert_eq!(Frame::decode(&encoded).as_ref(), Ok(frame));
    let mut again = Vec::new();
    Frame::decode(&encoded).expect("decoded before").encode(&mut again);
    assert_eq!(encoded, again);
}

fn datum(data: &Data) {
    let kind = data.kind();
    assert_eq!(data.is_null(), matches!(kind, DataType::Null | DataType::Unknown(_)));
    assert_eq!(data.as_bool().is_some(), kind == DataType::Boolean);
    assert_eq!(data.as_str().is_some(), kind == DataType::String);
    assert_eq!(data.as_binary().is_some(), kind == DataType::Binary);
    if kind != DataType::Number {
        assert_eq!(data.as_f64(), None);
    }
    if let Some(integer) = data.as_i64() {
        assert_eq!(data.parse::<i64>().ok(), Some(integer), "{data:?}");
        assert_eq!(u64::try_from(integer).ok(), data.as_u64(), "{data:?}");
        assert_eq!(data.as_f64(), Some(integer as f64), "{data:?}");
        let written = Data::integer(integer);
        assert_eq!(written.as_i64(), Some(integer));
    }
    if let Some(number) = data.as_f64() {
        let read = Data::number(number).as_f64();
        assert!(read == Some(number) || number.is_nan(), "{number} reads as {read:?}");
    }
    if let Some(text) = data.as_str() {
        assert_eq!(data.parse::<String>().ok().as_deref(), Some(&*text));
    }
    if kind != DataType::Object {
        assert!(data.to_json().is_ok() || kind == DataType::Number, "{data:?}");
    }
    let _ = data.number_text();
    let _ = data.parse::<bool>();
    let _ = data.parse::<f32>();
    let _ = data.parse::<u8>();
    let _ = data.parse::<i128>();
    let _ = data.parse::<Option<String>>();
    let _ = data.parse::<Vec<u8>>();
    let _ = data.parse::<(i64, String)>();
    let _ = data.parse::<std::collections::BTreeMap<String, Vec<f64>>>();
    let _ = format!("{data:?}");
    let Payload { kind: same, bytes } = data.payload();
    assert_eq!((same, bytes), (kind, &data.bytes()[..]));
}

/// Data that an application makes of the bytes.
fn made(bytes: &[u8]) {
    // Valid JSON may still have numbers that are too large for JSON values.
    if let Ok(value) = Data::raw_json(bytes.to_vec()).and_then(|json| json.to_json()) {
        // Data that is no object, when that exists.
        let again = Data::serialize(&value).expect("a JSON value has a type");
        assert!(again.to_json().is_ok(), "{again:?}");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert_eq!(Data::from(text).as_str().as_deref(), Some(text));
    }
    if let Some(number) = bytes.first_chunk() {
        let number = f64::from_bits(u64::from_be_bytes(*number));
        datum(&Data::number(number));
    }
    if let Some(integer) = bytes.first_chunk() {
        let integer = i128::from_be_bytes(*integer);
        let data = Data::integer(integer);
        assert_eq!(data.parse::<i128>().ok(), Some(integer));
        datum(&data);
    }
}
