//! From a datum that is not JSON to any deserializable value.

use std::borrow::Cow;

use serde::de::value::{BytesDeserializer, CowStrDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Error;

use super::number;

/// What a datum holds, unless it is JSON.
pub(super) enum Scalar<'a> {
    Null,
    Boolean(bool),
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Binary(&'a [u8]),
}

impl<'de> Deserializer<'de> for Scalar<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Scalar::Null => visitor.visit_unit(),
            Scalar::Boolean(value) => visitor.visit_bool(value),
            Scalar::Number(text) => {
                let integer = number::parse_integer(&text);
                if let Some(value) = integer.and_then(|value| i64::try_from(value).ok()) {
                    visitor.visit_i64(value)
                } else if let Some(value) = integer.and_then(|value| u64::try_from(value).ok()) {
                    visitor.visit_u64(value)
                } else {
                    visitor.visit_f64(number::parse(&text))
                }
            }
            Scalar::String(Cow::Borrowed(text)) => visitor.visit_str(text),
            Scalar::String(Cow::Owned(text)) => visitor.visit_string(text),
            Scalar::Binary(bytes) => {
                let mut bytes = SeqDeserializer::<_, Error>::new(bytes.iter().copied());
                let value = visitor.visit_seq(&mut bytes)?;
                bytes.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Scalar::Number(text) => visitor.visit_f64(number::parse(&text)),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self {
            Scalar::Number(text) => match number::parse_integer(text) {
                Some(value) => visitor.visit_i128(value),
                None => self.deserialize_any(visitor),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self {
            // Above the integers that the text is parsed to otherwise.
            Scalar::Number(text) => match text.parse() {
                Ok(value) => visitor.visit_u128(value),
                Err(_) => self.deserialize_i128(visitor),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Scalar::Binary(bytes) => BytesDeserializer::new(bytes).deserialize_bytes(visitor),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Scalar::Null => visitor.visit_none(),
            other => visitor.visit_some(other),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Scalar::String(text) => {
                let variant: CowStrDeserializer<'_, Error> = text.into_deserializer();
                visitor.visit_enum(variant)
            }
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 char str string unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
