use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::de::Scalar;
use super::payload::{DataType, Payload};
use super::{number, ser, text};

/// One datum: what a message carries, what a request asks with and is answered with.
///
/// It holds the bytes of the wire, so making one from a received frame or sending it again
/// converts nothing, and a clone shares them. Two are equal if they are the same on the wire:
/// the numbers `5` and `5.` are not.
///
/// What a peer sent is checked only when it is read. Reading is as tolerant as in JavaScript:
/// text that is not UTF-8 has the wrong parts replaced by U+FFFD, a number that is none is NaN,
/// and a datum of an unknown type is null.
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    kind: DataType,
    bytes: Bytes,
}

/// A value cannot be made into a [`Data`], or a [`Data`] into the wanted value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The value refused to be serialized.
    #[error("cannot serialize the value: {0}")]
    Serialize(serde_json::Error),
    /// The text is not JSON.
    #[error("not valid JSON: {0}")]
    InvalidJson(serde_json::Error),
    /// The datum is of another type, or its JSON of another shape, than was asked for.
    #[error("cannot read {kind} data: {error}")]
    Parse {
        /// The type of the datum.
        kind: DataType,
        /// What was wrong.
        error: serde_json::Error,
    },
}

impl Data {
    /// The datum that says nothing.
    pub const fn null() -> Data {
        Data { kind: DataType::Null, bytes: Bytes::new() }
    }

    /// True or false.
    pub const fn boolean(value: bool) -> Data {
        Data { kind: DataType::Boolean, bytes: Bytes::from_static(if value { &[1] } else { &[0] }) }
    }

    /// Text.
    pub fn string(text: impl Into<String>) -> Data {
        Data::from_raw(DataType::String, text.into().into())
    }

    /// Bytes.
    pub fn binary(bytes: impl Into<Bytes>) -> Data {
        Data::from_raw(DataType::Binary, bytes.into())
    }

    /// A number, printed as JavaScript prints it. Negative zero loses its sign; NaN and the
    /// infinities stay what they are.
    pub fn number(value: f64) -> Data {
        let mut buffer = ryu_js::Buffer::new();
        let text = number::print(value, &mut buffer);
        Data::from_raw(DataType::Number, Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A number without a fraction, printed exactly. JavaScript rounds those beyond 2^53 when it
    /// reads them.
    pub fn integer(value: impl Into<i128>) -> Data {
        let value = value.into();
        Data::number_text_unchecked(match i64::try_from(value) {
            Ok(value) => value.to_string(),
            Err(_) => value.to_string(),
        })
    }

    pub(super) fn number_text_unchecked(text: String) -> Data {
        Data::from_raw(DataType::Number, text.into())
    }

    /// Any serializable value as JSON: always of the type object, also if it is a string, a
    /// number or nothing. NaN and the infinities become null.
    ///
    /// # Errors
    ///
    /// [`DataError::Serialize`] if its `Serialize` fails, or a map has keys that are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Data, DataError> {
        let json = serde_json::to_vec(value).map_err(DataError::Serialize)?;
        Ok(Data::from_raw(DataType::Object, json.into()))
    }

    /// JSON text as it is.
    ///
    /// # Errors
    ///
    /// [`DataError::InvalidJson`] if it is not exactly one JSON value.
    pub fn raw_json(json: impl Into<Bytes>) -> Result<Data, DataError> {
        let json = json.into();
        Data::check_json(&json)?;
        Ok(Data::from_raw(DataType::Object, json))
    }

    /// Whether [`raw_json`](Data::raw_json) would take it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_json(json: &[u8]) -> Result<(), DataError> {
        let text = std::str::from_utf8(json)
            .map_err(|error| DataError::InvalidJson(serde::de::Error::custom(error)))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(DataError::InvalidJson)?;
        Ok(())
    }

    /// Any serializable value as the type that fits it best: nothing as null, then booleans,
    /// numbers (integers exactly), strings (also characters and enum variants that hold nothing)
    /// and bytes as what they are, everything else as JSON.
    ///
    /// `Vec<u8>` and slices serialize as lists of numbers, not as bytes: pass those to
    /// [`Data::binary`].
    ///
    /// # Errors
    ///
    /// [`DataError::Serialize`] if its `Serialize` fails, or a map has keys that are no strings.
    pub fn serialize<T: Serialize + ?Sized>(value: &T) -> Result<Data, DataError> {
        ser::to_data(value).map_err(DataError::Serialize)
    }

    /// What a frame carried, or is to carry. Nothing is checked: a peer will read the bytes as
    /// `kind` says, and an original one dies of JSON that is none.
    pub const fn from_raw(kind: DataType, bytes: Bytes) -> Data {
        Data { kind, bytes }
    }

    /// The type.
    #[inline]
    pub const fn kind(&self) -> DataType {
        self.kind
    }

    /// The bytes as they are on the wire.
    #[inline]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes as they are on the wire.
    #[inline]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The datum as a frame carries it.
    #[inline]
    pub fn payload(&self) -> Payload<'_> {
        Payload { kind: self.kind, bytes: &self.bytes }
    }

    /// Whether it is null, or of an unknown type. The JSON text `null` is an object.
    #[inline]
    pub const fn is_null(&self) -> bool {
        matches!(self.kind, DataType::Null | DataType::Unknown(_))
    }

    /// The boolean. A missing byte is true, as it is in JavaScript.
    pub fn as_bool(&self) -> Option<bool> {
        (self.kind == DataType::Boolean).then(|| self.bytes.first() != Some(&0))
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<Cow<'_, str>> {
        (self.kind == DataType::String).then(|| text::decode(&self.bytes))
    }

    /// The text of a number, unless it is not UTF-8. It may be anything that a peer sent.
    pub fn number_text(&self) -> Option<&str> {
        if self.kind != DataType::Number {
            return None;
        }
        std::str::from_utf8(&self.bytes).ok()
    }

    /// The number, read from its text as by JavaScript's `Number(text)`, except that hexadecimal,
    /// octal and binary digits are not known. No text is 0, text that is no number is NaN.
    pub fn as_f64(&self) -> Option<f64> {
        match self.number_text() {
            Some(text) => Some(number::parse(text)),
            None => (self.kind == DataType::Number).then_some(f64::NAN),
        }
    }

    /// The number, exactly, if it is an integer of this range.
    pub fn as_i64(&self) -> Option<i64> {
        number::parse_integer(self.number_text()?)?.try_into().ok()
    }

    /// The number, exactly, if it is an integer of this range.
    pub fn as_u64(&self) -> Option<u64> {
        number::parse_integer(self.number_text()?)?.try_into().ok()
    }

    /// The bytes of a binary.
    pub fn as_binary(&self) -> Option<&Bytes> {
        (self.kind == DataType::Binary).then_some(&self.bytes)
    }

    /// The datum as any deserializable value, whatever its type: null as `()` or `None`, binary
    /// as bytes or a list of numbers, a string also as an enum variant that holds nothing, an
    /// object as what its JSON says. An integer is read exactly.
    ///
    /// # Errors
    ///
    /// [`DataError::Parse`] if the datum is of another type than the value, or its JSON is
    /// invalid or of another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match self.kind {
            DataType::Object => serde_json::from_slice(&self.bytes),
            DataType::Binary => T::deserialize(Scalar::Binary(&self.bytes)),
            DataType::Boolean => T::deserialize(Scalar::Boolean(self.bytes.first() != Some(&0))),
            DataType::String => T::deserialize(Scalar::String(text::decode(&self.bytes))),
            DataType::Number => T::deserialize(Scalar::Number(text::decode(&self.bytes))),
            DataType::Null | DataType::Unknown(_) => T::deserialize(Scalar::Null),
        }
        .map_err(|error| DataError::Parse { kind: self.kind, error })
    }

    /// The datum as a JSON value, whatever its type: binary as an array of numbers, NaN and the
    /// infinities as null.
    ///
    /// # Errors
    ///
    /// [`DataError::Parse`] if it is an object and its JSON is invalid.
    pub fn to_json(&self) -> Result<serde_json::Value, DataError> {
        self.parse()
    }
}

impl Default for Data {
    fn default() -> Data {
        Data::null()
    }
}

/// The type and the beginning of the content.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TEXT: usize = 64;
        const BYTES: usize = 16;
        let limit = match self.kind {
            DataType::String | DataType::Number | DataType::Object => TEXT,
            _ => BYTES,
        };
        let preview = &self.bytes[..self.bytes.len().min(limit)];
        let more = if preview.len() < self.bytes.len() { "…" } else { "" };
        write!(f, "Data({}", self.kind)?;
        match self.kind {
            DataType::Null => {}
            DataType::Boolean => write!(f, " {}", self.bytes.first() != Some(&0))?,
            DataType::String => write!(f, " {:?}{more}", text::decode(preview))?,
            DataType::Number | DataType::Object => {
                write!(f, " {}{more}", text::decode(preview))?;
            }
            DataType::Binary | DataType::Unknown(_) => {
                if let DataType::Unknown(byte) = self.kind {
                    write!(f, "{byte}")?;
                }
                write!(f, " [{} bytes]", self.bytes.len())?;
                if !preview.is_empty() {
                    f.write_str(" ")?;
                }
                for byte in preview {
                    write!(f, "{byte:02x}")?;
                }
                f.write_str(more)?;
            }
        }
        f.write_str(")")
    }
}

/// Null.
impl From<()> for Data {
    fn from((): ()) -> Data {
        Data::null()
    }
}

/// A boolean.
impl From<bool> for Data {
    fn from(value: bool) -> Data {
        Data::boolean(value)
    }
}

/// A string.
impl From<&str> for Data {
    fn from(text: &str) -> Data {
        Data::string(text)
    }
}

/// A string.
impl From<String> for Data {
    fn from(text: String) -> Data {
        Data::string(text)
    }
}

/// A number.
impl From<f64> for Data {
    fn from(value: f64) -> Data {
        Data::number(value)
    }
}

/// A number: the exact value, hence with more digits than Rust prints it with.
impl From<f32> for Data {
    fn from(value: f32) -> Data {
        Data::number(value.into())
    }
}

macro_rules! from_integers {
    ($($type:ty)*) => {
        $(
            /// A number.
            impl From<$type> for Data {
                fn from(value: $type) -> Data {
                    Data::integer(value)
                }
            }
        )*
    };
}

from_integers!(i8 i16 i32 i64 u8 u16 u32 u64);

/// A number.
impl From<usize> for Data {
    fn from(value: usize) -> Data {
        Data::integer(value as u64)
    }
}

/// A number.
impl From<isize> for Data {
    fn from(value: isize) -> Data {
        Data::integer(value as i64)
    }
}

/// A binary.
impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Data {
        Data::binary(bytes)
    }
}

/// A binary.
impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::binary(bytes)
    }
}

/// A binary: a copy of the bytes.
impl From<&[u8]> for Data {
    fn from(bytes: &[u8]) -> Data {
        Data::binary(Bytes::copy_from_slice(bytes))
    }
}

/// The type that fits the value best: null, boolean, number, string, or object for the rest.
impl From<serde_json::Value> for Data {
    fn from(value: serde_json::Value) -> Data {
        use serde_json::Value;
        match value {
            Value::String(text) => Data::string(text),
            other => ser::to_data(&other).expect("a JSON value is always JSON"),
        }
    }
}

/// Null, or what the value is.
impl<T: Into<Data>> From<Option<T>> for Data {
    fn from(value: Option<T>) -> Data {
        value.map_or_else(Data::null, Into::into)
    }
}

/// A copy of the payload.
impl From<Payload<'_>> for Data {
    fn from(payload: Payload<'_>) -> Data {
        Data::from_raw(payload.kind, Bytes::copy_from_slice(payload.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    /// As bytes in serde's sense, which `Vec<u8>` is not.
    #[derive(Debug, PartialEq)]
    struct AsBytes(Vec<u8>);

    impl Serialize for AsBytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for AsBytes {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;

            impl serde::de::Visitor<'_> for Visitor {
                type Value = AsBytes;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("bytes")
                }

                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<AsBytes, E> {
                    Ok(AsBytes(bytes.to_vec()))
                }
            }

            deserializer.deserialize_byte_buf(Visitor)
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: i32,
        y: Option<f64>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Empty,
        Circle(f64),
        Line { from: i32, to: i32 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(u64);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Unit;

    fn raw(kind: DataType, bytes: &'static [u8]) -> Data {
        Data::from_raw(kind, Bytes::from_static(bytes))
    }

    fn number(text: &'static str) -> Data {
        raw(DataType::Number, text.as_bytes())
    }

    #[track_caller]
    fn assert_data(data: Data, kind: DataType, bytes: &[u8]) {
        assert_eq!((data.kind(), &data.bytes()[..]), (kind, bytes), "{data:?}");
    }

    #[test]
    fn constructors() {
        use DataType::*;
        assert_data(Data::null(), Null, b"");
        assert_data(Data::default(), Null, b"");
        assert_data(Data::boolean(true), Boolean, &[1]);
        assert_data(Data::boolean(false), Boolean, &[0]);
        assert_data(Data::string("ж\0"), String, "ж\0".as_bytes());
        assert_data(Data::binary(vec![1, 2]), Binary, &[1, 2]);
        assert_data(Data::binary(&b"ab"[..]), Binary, b"ab");
        assert_data(Data::number(-0.0), Number, b"0");
        assert_data(Data::number(1e21), Number, b"1e+21");
        assert_data(Data::number(f64::NAN), Number, b"NaN");
        assert_data(Data::integer(u64::MAX), Number, b"18446744073709551615");
        assert_data(Data::integer(i128::MIN), Number, b"-170141183460469231731687303715884105728");
    }

    #[test]
    fn json_is_always_an_object() {
        use DataType::Object;
        assert_data(Data::json(&()).unwrap(), Object, b"null");
        assert_data(Data::json("a").unwrap(), Object, b"\"a\"");
        assert_data(Data::json(&1.5).unwrap(), Object, b"1.5");
        assert_data(Data::json(&f64::NAN).unwrap(), Object, b"null");
        assert_data(Data::json(&Point { x: 1, y: None }).unwrap(), Object, br#"{"x":1,"y":null}"#);
        let wrong_keys: HashMap<Option<Vec<u8>>, u8> = [(Some(vec![1]), 1)].into();
        assert!(matches!(Data::json(&wrong_keys), Err(DataError::Serialize(_))));
        assert!(matches!(Data::serialize(&wrong_keys), Err(DataError::Serialize(_))));
    }

    #[test]
    fn raw_json_is_checked() {
        for text in ["null", " {\"a\":[1, 2.50]} ", "\"\\ud800\"", "1e999"] {
            let data = Data::raw_json(text).unwrap();
            assert_data(data, DataType::Object, text.as_bytes());
        }
        for text in [&b""[..], b"{", b"[1,]", b"{} {}", b"nul", b"\"\xff\"", b"\xff"] {
            let error = Data::raw_json(text).unwrap_err();
            assert!(error.to_string().starts_with("not valid JSON: "), "{error}");
        }
    }

    #[test]
    fn serialize_picks_the_natural_type() {
        use DataType::*;
        #[track_caller]
        fn check<T: Serialize + ?Sized>(value: &T, kind: DataType, bytes: &[u8]) {
            assert_data(Data::serialize(value).unwrap(), kind, bytes);
        }
        check(&(), Null, b"");
        check(&None::<u8>, Null, b"");
        check(&Unit, Null, b"");
        check(&Some(Some(true)), Boolean, &[1]);
        check("text", String, b"text");
        check(&'ж', String, "ж".as_bytes());
        check(&Shape::Empty, String, b"Empty");
        check(&-7i8, Number, b"-7");
        check(&9_007_199_254_740_993u64, Number, b"9007199254740993");
        check(&u128::MAX, Number, u128::MAX.to_string().as_bytes());
        check(&i128::MIN, Number, i128::MIN.to_string().as_bytes());
        check(&Wrapped(5), Number, b"5");
        check(&1.0, Number, b"1");
        check(&1e-7, Number, b"1e-7");
        check(&f64::NEG_INFINITY, Number, b"-Infinity");
        check(&0.5f32, Number, b"0.5");
        check(&AsBytes(vec![0, 255]), Binary, &[0, 255]);
        check(&vec![1u8, 2], Object, b"[1,2]");
        check(&(1, "a"), Object, b"[1,\"a\"]");
        check(&Point { x: 1, y: Some(0.5) }, Object, br#"{"x":1,"y":0.5}"#);
        check(&Shape::Circle(1.5), Object, br#"{"Circle":1.5}"#);
        check(&Shape::Line { from: 1, to: 2 }, Object, br#"{"Line":{"from":1,"to":2}}"#);
        check(&BTreeMap::from([(1, "a")]), Object, br#"{"1":"a"}"#);
        check(&json!({"a": [null]}), Object, br#"{"a":[null]}"#);
        check(&json!("a"), String, b"a");
        let raw: &serde_json::value::RawValue = serde_json::from_str(" [ 1 ] ").unwrap();
        check(raw, Object, b"[ 1 ]");
    }

    #[test]
    fn conversions() {
        use DataType::*;
        assert_data(().into(), Null, b"");
        assert_data(true.into(), Boolean, &[1]);
        assert_data("a".into(), String, b"a");
        assert_data(std::string::String::from("a").into(), String, b"a");
        assert_data(1.5.into(), Number, b"1.5");
        assert_data(0.1f32.into(), Number, b"0.10000000149011612");
        assert_data((-1i8).into(), Number, b"-1");
        assert_data(i64::MIN.into(), Number, b"-9223372036854775808");
        assert_data(u64::MAX.into(), Number, b"18446744073709551615");
        assert_data(Bytes::from_static(b"b").into(), Binary, b"b");
        assert_data(vec![1u8].into(), Binary, &[1]);
        assert_data(b"b"[..].into(), Binary, b"b");
        assert_data(json!(null).into(), Null, b"");
        assert_data(json!(1.5).into(), Number, b"1.5");
        assert_data(json!("a").into(), String, b"a");
        assert_data(json!([1]).into(), Object, b"[1]");
        assert_data(None::<bool>.into(), Null, b"");
        assert_data(Some("a").into(), String, b"a");
        let data = Data::string("a");
        assert_eq!(Data::from(data.payload()), data);
    }

    #[test]
    fn accessors_answer_for_their_type_only() {
        let all = [
            Data::null(),
            Data::boolean(true),
            Data::string("5"),
            Data::number(5.0),
            Data::binary(&b"5"[..]),
            Data::json(&5).unwrap(),
            raw(DataType::Unknown(9), b"5"),
        ];
        let which = |test: fn(&Data) -> bool| -> Vec<usize> {
            (0..all.len()).filter(|&at| test(&all[at])).collect()
        };
        assert_eq!(which(Data::is_null), [0, 6]);
        assert_eq!(which(|data| data.as_bool().is_some()), [1]);
        assert_eq!(which(|data| data.as_str().is_some()), [2]);
        assert_eq!(which(|data| data.number_text().is_some()), [3]);
        assert_eq!(which(|data| data.as_f64().is_some()), [3]);
        assert_eq!(which(|data| data.as_i64().is_some()), [3]);
        assert_eq!(which(|data| data.as_u64().is_some()), [3]);
        assert_eq!(which(|data| data.as_binary().is_some()), [4]);
        assert_eq!(all[6].clone().into_bytes(), "5");
        assert_eq!(all[6].payload(), Payload { kind: DataType::Unknown(9), bytes: b"5" });
    }

    #[test]
    fn reading_is_as_tolerant_as_javascript() {
        assert_eq!(raw(DataType::Boolean, &[7]).as_bool(), Some(true));
        assert_eq!(raw(DataType::Boolean, &[]).as_bool(), Some(true));
        assert_eq!(raw(DataType::Boolean, &[0, 1]).as_bool(), Some(false));
        assert_eq!(raw(DataType::String, b"a\xff").as_str().unwrap(), "a\u{fffd}");
        assert!(raw(DataType::Null, b"extra").is_null());
        assert_eq!(number("").as_f64(), Some(0.0));
        assert_eq!(number("5.").as_f64(), Some(5.0));
        assert_eq!(number("5.").as_i64(), Some(5));
        assert_eq!(number("0.1").as_f64(), Some(0.1));
        assert_eq!(number("0.1").as_i64(), None);
        assert_eq!(number("-1").as_u64(), None);
        assert_eq!(number("18446744073709551615").as_u64(), Some(u64::MAX));
        assert_eq!(number("18446744073709551615").as_i64(), None);
        for text in ["NaN", "+Inf", "abc"] {
            assert!(number(text).as_f64().unwrap().is_nan(), "{text}");
        }
        let no_text = raw(DataType::Number, b"\xff");
        assert_eq!(no_text.number_text(), None);
        assert!(no_text.as_f64().unwrap().is_nan());
        assert_eq!(no_text.as_i64(), None);
    }

    #[test]
    fn parse_scalars() {
        Data::null().parse::<()>().unwrap();
        raw(DataType::Unknown(69), b"junk").parse::<()>().unwrap();
        assert_eq!(Data::null().parse::<Unit>().unwrap(), Unit);
        assert_eq!(Data::null().parse::<Option<Point>>().unwrap(), None);
        assert!(Data::boolean(true).parse::<bool>().unwrap());
        assert_eq!(Data::string("a").parse::<String>().unwrap(), "a");
        assert_eq!(Data::string("ж").parse::<char>().unwrap(), 'ж');
        assert_eq!(Data::string("Empty").parse::<Shape>().unwrap(), Shape::Empty);
        assert_eq!(number("5.").parse::<u8>().unwrap(), 5);
        assert_eq!(number("5").parse::<f64>().unwrap(), 5.0);
        assert_eq!(number("5").parse::<Option<i64>>().unwrap(), Some(5));
        assert_eq!(number("5").parse::<Wrapped>().unwrap(), Wrapped(5));
        assert_eq!(number("1e+21").parse::<f64>().unwrap(), 1e21);
        assert!(number("+Inf").parse::<f32>().unwrap().is_nan());
        let big = Data::integer(u64::MAX);
        assert_eq!(big.parse::<u64>().unwrap(), u64::MAX);
        for big in [u128::MAX, u128::MAX - 1, 1] {
            let data = Data::serialize(&big).unwrap();
            assert_eq!(data.parse::<u128>().unwrap(), big);
        }
        assert_eq!(Data::integer(i128::MIN).parse::<i128>().unwrap(), i128::MIN);
        assert_eq!(Data::integer(1i128 << 100).parse::<f64>().unwrap(), 2f64.powi(100));
    }

    #[test]
    fn parse_binary() {
        let data = Data::binary(vec![1, 2, 255]);
        assert_eq!(data.parse::<Vec<u8>>().unwrap(), [1, 2, 255]);
        assert_eq!(data.parse::<[u8; 3]>().unwrap(), [1, 2, 255]);
        assert_eq!(data.parse::<AsBytes>().unwrap(), AsBytes(vec![1, 2, 255]));
        assert!(data.parse::<[u8; 2]>().is_err());
        assert!(data.parse::<String>().is_err());
        assert_eq!(data.to_json().unwrap(), json!([1, 2, 255]));
    }

    #[test]
    fn parse_objects() {
        let point = Point { x: -1, y: Some(0.5) };
        let data = Data::json(&point).unwrap();
        assert_eq!(data.parse::<Point>().unwrap(), point);
        assert_eq!(data.to_json().unwrap(), json!({"x": -1, "y": 0.5}));
        let line = Shape::Line { from: 1, to: 2 };
        assert_eq!(Data::serialize(&line).unwrap().parse::<Shape>().unwrap(), line);
        assert!(raw(DataType::Object, b"{").to_json().is_err());
        assert!(raw(DataType::Object, b"{} 1").to_json().is_err());
    }

    #[test]
    fn parse_errors_name_the_type() {
        for (data, message) in [
            (Data::null(), "cannot read null data: invalid type: null, expected u8"),
            (Data::string("x"), "cannot read string data: invalid type: string \"x\", expected u8"),
            (number("300"), "cannot read number data: invalid value: integer `300`, expected u8"),
            (
                number("1.5"),
                "cannot read number data: invalid type: floating point `1.5`, expected u8",
            ),
        ] {
            assert_eq!(data.parse::<u8>().unwrap_err().to_string(), message);
        }
        assert!(Data::string("Circle").parse::<Shape>().is_err());
        assert!(Data::string("Square").parse::<Shape>().is_err());
        assert!(Data::null().parse::<Shape>().is_err());
    }

    #[test]
    fn every_type_as_json() {
        assert_eq!(Data::null().to_json().unwrap(), Value::Null);
        assert_eq!(Data::boolean(false).to_json().unwrap(), json!(false));
        assert_eq!(Data::string("a").to_json().unwrap(), json!("a"));
        assert_eq!(number("5.").to_json().unwrap(), json!(5));
        assert_eq!(number("1.5").to_json().unwrap(), json!(1.5));
        assert_eq!(number("NaN").to_json().unwrap(), Value::Null);
        assert_eq!(number("1e+21").to_json().unwrap(), json!(1e21));
        assert_eq!(number("18446744073709551615").to_json().unwrap(), json!(u64::MAX));
    }

    #[test]
    fn debug_is_short() {
        for (data, text) in [
            (Data::null(), "Data(null)"),
            (Data::boolean(true), "Data(boolean true)"),
            (Data::string("a\n"), "Data(string \"a\\n\")"),
            (Data::number(1.5), "Data(number 1.5)"),
            (Data::json(&[1]).unwrap(), "Data(object [1])"),
            (Data::binary(vec![0, 255]), "Data(binary [2 bytes] 00ff)"),
            (Data::binary(vec![]), "Data(binary [0 bytes])"),
            (raw(DataType::Unknown(9), b"5"), "Data(?9 [1 bytes] 35)"),
        ] {
            assert_eq!(format!("{data:?}"), text);
        }
        let long = format!("{:?}", Data::string("ж".repeat(1000)));
        assert!(long.len() < 100 && long.ends_with("…)"), "{long}");
        let long = format!("{:?}", Data::binary(vec![0; 1000]));
        assert!(long.len() < 100 && long.ends_with("…)"), "{long}");
    }

    proptest! {
        #[test]
        fn numbers_survive(value: f64, integer: i64, unsigned: u64) {
            prop_assert_eq!(Data::number(value).as_f64(), Some(value));
            prop_assert_eq!(Data::number(value).parse::<f64>().unwrap(), value);
            prop_assert_eq!(Data::from(integer).as_i64(), Some(integer));
            prop_assert_eq!(Data::from(integer).parse::<i64>().unwrap(), integer);
            prop_assert_eq!(Data::from(unsigned).as_u64(), Some(unsigned));
            prop_assert_eq!(Data::from(unsigned).parse::<u64>().unwrap(), unsigned);
        }

        #[test]
        fn what_is_serialized_parses(x: i32, y in prop::option::of(any::<i32>()), text: String) {
            let point = Point { x, y: y.map(f64::from) };
            prop_assert_eq!(Data::serialize(&point).unwrap().parse::<Point>().unwrap(), point);
            prop_assert_eq!(Data::serialize(&text).unwrap().parse::<String>().unwrap(), text);
        }

        #[test]
        fn any_bytes_can_be_read(kind: u8, bytes in vec(any::<u8>(), 0..32)) {
            let data = Data::from_raw(DataType::from_byte(kind), bytes.into());
            let _ = (data.as_bool(), data.as_str(), data.as_f64(), data.as_i64(), data.as_u64());
            let _ = (data.parse::<Point>(), data.parse::<Shape>(), data.parse::<Vec<u8>>());
            let json = data.to_json();
            prop_assert!(json.is_ok() || data.kind() == DataType::Object);
            let debug = format!("{data:?}");
            prop_assert!(debug.len() < 600, "{}", debug);
        }
    }
}
