//! Reading the JSON that control frames and handshakes carry.
//!
//! Fields are picked out of the text one by one: extra ones are skipped without being built, so
//! that a large message from a stranger costs no more memory than itself, and of duplicates the
//! last one counts, as in JavaScript.

use std::{fmt, io};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum JsonError {
    Syntax { line: usize, column: usize },
    NotAnObject,
}

/// The raw values of the named fields of the object that `text` holds.
pub(super) fn fields<'a, const N: usize>(
    text: &'a str,
    names: &[&str; N],
) -> Result<[Option<&'a RawValue>; N], JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Fields(names)
        .deserialize(&mut deserializer)
        .and_then(|found| deserializer.end().map(|()| found))
        .map_err(|error| {
            if error.is_data() {
                JsonError::NotAnObject
            } else {
                JsonError::Syntax { line: error.line(), column: error.column() }
            }
        })
}

pub(super) fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

pub(super) fn strings(raw: &RawValue) -> Option<Vec<String>> {
    serde_json::from_str(raw.get()).ok()
}

/// The number, if it is one without a fraction. `1.0` and `1e3` are such numbers in JavaScript.
pub(super) fn integer(raw: &RawValue) -> Option<i128> {
    let text = raw.get();
    if let Ok(integer) = text.parse() {
        return Some(integer);
    }
    let float: f64 = text.parse().ok()?;
    (float.fract() == 0.0).then_some(float as i128)
}

/// The number with its fraction cut off; what is below zero is zero.
pub(super) fn truncated(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    if let Ok(integer) = text.parse() {
        return Some(integer);
    }
    text.parse().ok().map(|float: f64| float as u64)
}

/// Appends `value` as JSON.
pub(super) fn encode(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("strings, numbers and flags are always JSON");
}

/// How many bytes [`encode`] appends.
pub(super) fn encoded_len(value: &impl Serialize) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("strings, numbers and flags are always JSON");
    count.0
}

struct Fields<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(index) = map.next_key_seed(FieldName(self.0))? {
            match index {
                Some(index) => found[index] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

struct FieldName<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|known| *known == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn picks_fields_and_takes_the_last_of_duplicates() {
        let found =
            fields(r#" {"x":[{"a":1}],"a":1,"\u0061":"two","c":null} "#, &["a", "b", "c"]).unwrap();
        assert_eq!(found.map(|raw| raw.map(RawValue::get)), [Some("\"two\""), None, Some("null")]);
    }

    #[test]
    fn tells_other_json_from_no_json() {
        for text in ["null", "[]", "5", "\"a\"", "true"] {
            let error = fields(text, &["a"]).unwrap_err();
            assert_eq!(error, JsonError::NotAnObject, "{text}");
        }
        for text in ["", "{", "{}x", "{\"a\":}", "{\"a\":1,}", "zzz"] {
            let error = fields(text, &["a"]).unwrap_err();
            assert!(matches!(error, JsonError::Syntax { .. }), "{text}");
        }
        // Depth must not become recursion.
        let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
        assert!(fields(&deep, &["a"]).is_err());
        assert!(fields(&deep, &["x"]).is_err());
    }

    #[test]
    fn integers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("18446744073709551615", Some(u64::MAX.into())),
            ("1.5", None),
            ("null", None),
            ("\"1\"", None),
            ("true", None),
            ("[1]", None),
        ] {
            assert_eq!(integer(raw(text)), expected, "{text}");
        }
    }

    #[test]
    fn truncation() {
        for (text, expected) in [
            ("12.9", Some(12)),
            ("-5", Some(0)),
            ("-0.5", Some(0)),
            ("1e400", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("\"1\"", None),
            ("null", None),
        ] {
            assert_eq!(truncated(raw(text)), expected, "{text}");
        }
    }
}
