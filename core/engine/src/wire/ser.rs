//! From any serializable value to the datum that fits it best.

use bytes::Bytes;
use serde::ser::{Serialize, Serializer};

use super::data::Data;
use super::payload::DataType;

type JsonSerializer = serde_json::Serializer<Vec<u8>>;
type Json<'a> = &'a mut JsonSerializer;

/// The datum of the type that fits `value` best.
pub(super) fn to_data<T: Serialize + ?Sized>(value: &T) -> Result<Data, serde_json::Error> {
    let mut json = serde_json::Serializer::new(Vec::new());
    let mut scalar = None;
    value.serialize(ToData { scalar: &mut scalar, json: &mut json })?;
    Ok(scalar.unwrap_or_else(|| Data::from_raw(DataType::Object, json.into_inner().into())))
}

/// Keeps a scalar as it is, and writes anything else as JSON.
struct ToData<'a> {
    scalar: &'a mut Option<Data>,
    json: Json<'a>,
}

impl ToData<'_> {
    fn scalar(self, data: Data) -> Result<(), serde_json::Error> {
        *self.scalar = Some(data);
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident($type:ty) => $data:expr;)*) => {
        $(
            fn $method(self, value: $type) -> Result<(), Self::Error> {
                #[allow(clippy::redundant_closure_call)]
                self.scalar($data(value))
            }
        )*
    };
}

impl<'a> Serializer for ToData<'a> {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = <Json<'a> as Serializer>::SerializeSeq;
    type SerializeTuple = <Json<'a> as Serializer>::SerializeTuple;
    type SerializeTupleStruct = <Json<'a> as Serializer>::SerializeTupleStruct;
    type SerializeTupleVariant = <Json<'a> as Serializer>::SerializeTupleVariant;
    type SerializeMap = <Json<'a> as Serializer>::SerializeMap;
    type SerializeStruct = <Json<'a> as Serializer>::SerializeStruct;
    type SerializeStructVariant = <Json<'a> as Serializer>::SerializeStructVariant;

    scalars! {
        serialize_bool(bool) => Data::boolean;
        serialize_i8(i8) => Data::integer;
        serialize_i16(i16) => Data::integer;
        serialize_i32(i32) => Data::integer;
        serialize_i64(i64) => Data::integer;
        serialize_i128(i128) => Data::integer;
        serialize_u8(u8) => Data::integer;
        serialize_u16(u16) => Data::integer;
        serialize_u32(u32) => Data::integer;
        serialize_u64(u64) => Data::integer;
        serialize_u128(u128) => |value: u128| Data::number_text_unchecked(value.to_string());
        serialize_f32(f32) => Data::from;
        serialize_f64(f64) => Data::number;
        serialize_char(char) => Data::string;
        serialize_str(&str) => Data::string;
        serialize_bytes(&[u8]) => |value| Data::binary(Bytes::copy_from_slice(value));
    }

    fn serialize_none(self) -> Result<(), Self::Error> {
        self.scalar(Data::null())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Self::Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Self::Error> {
        self.scalar(Data::null())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Self::Error> {
        self.scalar(Data::null())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Self::Error> {
        self.scalar(Data::string(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        self.json.serialize_newtype_variant(name, index, variant, value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, Self::Error> {
        self.json.serialize_seq(len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Self::Error> {
        self.json.serialize_tuple(len)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, Self::Error> {
        self.json.serialize_tuple_struct(name, len)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Self::Error> {
        self.json.serialize_tuple_variant(name, index, variant, len)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
        self.json.serialize_map(len)
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, Self::Error> {
        self.json.serialize_struct(name, len)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, Self::Error> {
        self.json.serialize_struct_variant(name, index, variant, len)
    }
}
