use std::fmt;

/// The type byte in front of every payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataType {
    /// 0: bytes as they are.
    Binary,
    /// 1: nothing; bytes that follow are ignored.
    Null,
    /// 2: one byte, zero for false.
    Boolean,
    /// 3: UTF-8 text.
    String,
    /// 4: a number as decimal text.
    Number,
    /// 5: JSON text.
    Object,
    /// Any other byte; reads as null. Never holds a byte that has a name above when it was
    /// obtained from [`DataType::from_byte`].
    Unknown(u8),
}

impl DataType {
    /// The type that `byte` stands for.
    #[inline]
    pub const fn from_byte(byte: u8) -> DataType {
        match byte {
            0 => DataType::Binary,
            1 => DataType::Null,
            2 => DataType::Boolean,
            3 => DataType::String,
            4 => DataType::Number,
            5 => DataType::Object,
            other => DataType::Unknown(other),
        }
    }

    /// The byte that stands for this type on the wire.
    #[inline]
    pub const fn as_byte(self) -> u8 {
        match self {
            DataType::Binary => 0,
            DataType::Null => 1,
            DataType::Boolean => 2,
            DataType::String => 3,
            DataType::Number => 4,
            DataType::Object => 5,
            DataType::Unknown(byte) => byte,
        }
    }

    /// The name that the JavaScript package reports for this type: `binary`, `null`, `boolean`,
    /// `string`, `number`, `object`, or `?` if it is unknown.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Binary => "binary",
            DataType::Null => "null",
            DataType::Boolean => "boolean",
            DataType::String => "string",
            DataType::Number => "number",
            DataType::Object => "object",
            DataType::Unknown(_) => "?",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A payload as it is on the wire, borrowed from its frame or from a [`Data`](super::Data).
///
/// The bytes are not validated: what claims to be text or JSON may be neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload<'a> {
    /// What the bytes are.
    pub kind: DataType,
    /// The bytes after the type byte.
    pub bytes: &'a [u8],
}

impl Payload<'_> {
    /// The payload that says nothing: type null, no bytes.
    pub const NULL: Payload<'static> = Payload { kind: DataType::Null, bytes: &[] };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_round_trips() {
        for byte in 0..=255 {
            let kind = DataType::from_byte(byte);
            assert_eq!(kind.as_byte(), byte);
            assert_eq!(matches!(kind, DataType::Unknown(_)), byte > 5);
        }
    }

    #[test]
    fn names_are_those_of_the_javascript_package() {
        let names: Vec<String> = (0..7).map(|byte| DataType::from_byte(byte).to_string()).collect();
        assert_eq!(names, ["binary", "null", "boolean", "string", "number", "object", "?"]);
    }
}
