//! What a peer understands beyond the protocol of the originals (docs/PROTOCOL.md, section 14.3).

use serde::Serialize;
use serde_json::value::RawValue;

use super::json;

/// More than this in a confirmation counts as absent.
const MAX: usize = 4 << 10;

/// The highest version of each extension that a peer understands; 0 for none. On a connection those are in
/// force that both sides understand, each in the lower version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extensions {
    /// Frame 110: deadlines, headers, trace context, failures.
    #[serde(skip_serializing_if = "is_zero")]
    pub fields: u8,
    /// Frame 111: requests that are given up.
    #[serde(skip_serializing_if = "is_zero")]
    pub cancel: u8,
    /// Close code 4010: what has no answer was never begun.
    #[serde(skip_serializing_if = "is_zero")]
    pub drained: u8,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(version: &u8) -> bool {
    *version == 0
}

impl Extensions {
    /// None at all, as with the originals.
    pub const NONE: Extensions = Extensions { fields: 0, cancel: 0, drained: 0 };

    /// All that this engine knows.
    pub const ALL: Extensions = Extensions { fields: 1, cancel: 1, drained: 1 };

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Extensions::NONE
    }

    /// Those that both sides understand.
    #[must_use]
    pub fn agreed(self, other: Extensions) -> Extensions {
        Extensions {
            fields: self.fields.min(other.fields),
            cancel: self.cancel.min(other.cancel),
            drained: self.drained.min(other.drained),
        }
    }

    /// Reads the member of a confirmation. Whatever is of another type counts as absent.
    pub(super) fn decode(raw: &RawValue) -> Extensions {
        if raw.get().len() > MAX {
            return Extensions::NONE;
        }
        let names = &["fields", "cancel", "drained"];
        let Ok([fields, cancel, drained]) = json::fields(raw.get(), names) else {
            return Extensions::NONE;
        };
        let version = |raw: Option<&RawValue>| {
            let version = raw.and_then(json::integer).unwrap_or(0);
            u8::try_from(version.clamp(0, 255)).unwrap_or(0)
        };
        Extensions { fields: version(fields), cancel: version(cancel), drained: version(drained) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(json: &str) -> Extensions {
        Extensions::decode(serde_json::from_str(json).unwrap())
    }

    fn versions([fields, cancel, drained]: [u8; 3]) -> Extensions {
        Extensions { fields, cancel, drained }
    }

    #[test]
    fn what_is_not_understood_counts_as_absent() {
        for (json, known) in [
            ("{}", [0, 0, 0]),
            ("[]", [0, 0, 0]),
            ("null", [0, 0, 0]),
            (r#"{"fields":1,"cancel":1,"drained":1,"more":{"a":1}}"#, [1, 1, 1]),
            (r#"{"fields":7,"cancel":-1,"drained":null}"#, [7, 0, 0]),
            (r#"{"fields":1000,"cancel":"1","drained":2}"#, [255, 0, 2]),
            (r#"{"fields":1.5,"cancel":[1],"drained":true}"#, [0, 0, 0]),
        ] {
            assert_eq!(decode(json), versions(known), "{json}");
        }
        let long = format!(r#"{{"fields":1,"more":"{}"}}"#, "x".repeat(MAX));
        assert_eq!(decode(&long), Extensions::NONE);
    }

    #[test]
    fn the_lower_version_is_in_force() {
        let newer = versions([3, 0, 2]);
        assert_eq!(newer.agreed(Extensions::ALL), versions([1, 0, 1]));
        assert_eq!(Extensions::ALL.agreed(newer), versions([1, 0, 1]));
        let all = serde_json::to_string(&Extensions::ALL).unwrap();
        assert_eq!(all, r#"{"fields":1,"cancel":1,"drained":1}"#);
        assert_eq!(serde_json::to_string(&newer).unwrap(), r#"{"fields":3,"drained":2}"#);
    }

    proptest! {
        #[test]
        fn both_sides_agree_on_the_same(a: [u8; 3], b: [u8; 3], more in "[a-z]{1,8}") {
            let [a, b] = [a, b].map(versions);
            prop_assert_eq!(a.agreed(b), b.agreed(a));
            prop_assert_eq!(a.agreed(b).agreed(a), a.agreed(b));
            let json = serde_json::to_string(&a).unwrap();
            prop_assert_eq!(decode(&json), a);
            // What others add changes nothing.
            let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
            value[format!("{more}_")] = serde_json::json!([b.fields, {"fields": b.cancel}]);
            prop_assert_eq!(decode(&value.to_string()), a);
        }
    }
}
