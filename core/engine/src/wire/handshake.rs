//! The messages that introduce two peers to each other, before any [`Frame`](super::Frame).

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

use super::extensions::Extensions;
use super::json::{self, JsonError};
use super::num::MAX_NUMBER;
use super::text;

const ERROR: u8 = 0;
const CHALLENGE: u8 = 1;
const PROOF: u8 = 2;
const CONFIRM: u8 = 3;

/// The longest peer id that is accepted, in bytes of UTF-8.
pub const MAX_ID: usize = 1024;

/// How much of a wrong value is repeated to the peer that sent it, in characters.
const MAX_QUOTED: usize = 64;

/// One handshake message: the content of one binary WebSocket message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// 0: the reason why the sender is about to close the connection.
    Error(String),
    /// 1: the sender wants proof of a preshared key.
    Challenge(Challenge),
    /// 2: the answer to a challenge.
    Proof(Proof),
    /// 3: the sender accepts the connection and says who it is.
    Confirm(Box<Confirm>),
}

/// A demand for proof that the other side holds a preshared key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Challenge {
    /// What is to be signed: opaque text, signed as it is.
    pub challenge: String,
    /// The ids of the keys that the sender holds, in its order of preference.
    pub ids: Vec<String>,
}

/// The answer to a [`Challenge`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Proof {
    /// The signature of the challenge, in lowercase hexadecimal.
    pub proof: String,
    /// The id of the key that was used.
    pub id: String,
}

/// How a peer introduces itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Confirm {
    /// Identifies the peer for its lifetime: opaque, not empty, at most [`MAX_ID`] bytes.
    pub id: String,
    /// The names of its roles. JavaScript peers list inactive ones too.
    pub roles: Vec<String>,
    /// Whether it wants to be told of other peers. False if absent or no boolean.
    pub friendly: bool,
    /// Its name for humans. Empty if absent or no string.
    pub name: String,
    /// What it runs on.
    pub meta: Meta,
    /// What its owner labelled it with. Values that are no strings are left out.
    pub tags: BTreeMap<String, String>,
    /// How many bytes a stream may have under way towards this peer before it grants more. An
    /// extension of ours: absent from the originals, which ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// The counter of the last [`RolesUpdate`](super::RolesUpdate) that the sender had made: tells
    /// whether `roles` are newer than those of an update that came on another connection. An
    /// extension of ours, as `window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i: Option<u64>,
    /// What it understands beyond the protocol of the originals. An extension of ours, as `window`.
    #[serde(skip_serializing_if = "Extensions::is_none")]
    pub x: Extensions,
    /// The public key that its id belongs to, in hexadecimal. An extension of ours, as `window`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<String>,
    /// Signatures with that key, in hexadecimal, by what names the connection. An extension of ours, as `window`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub s: BTreeMap<String, String>,
}

/// What a peer runs on. Whatever was absent or of a wrong type is empty or zero.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Meta {
    /// The operating system, as in `linux`.
    pub os: String,
    /// The runtime: `nodejs v20.20.2` and the like, or `GO`.
    pub runtime: String,
    /// The peer's clock, in milliseconds since the Unix epoch. Go counts in units of 10 ms.
    pub time: u64,
    /// How long the peer has been running, in milliseconds. Go counts in units of 10 ms.
    pub uptime: u64,
    /// The version of the protocol, as in `2.0.0`.
    pub protocol: String,
}

/// Why bytes are not a [`Handshake`] message.
///
/// The message is meant to be sent to the peer as the reason of the refusal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeDecodeError {
    /// No handshake message starts with this byte, or there is none.
    #[error("Incorrect event during handshake process: {}", JsByte(*.0))]
    Unexpected(Option<u8>),
    /// The message does not hold JSON.
    #[error("Handshake {message} is not valid JSON (line {line}, column {column})")]
    InvalidJson {
        /// Which message.
        message: &'static str,
        /// Where it went wrong, counting from 1.
        line: usize,
        /// Where it went wrong, counting from 1.
        column: usize,
    },
    /// The message holds other JSON than an object.
    #[error("Handshake {message} is not a JSON object")]
    NotAnObject {
        /// Which message.
        message: &'static str,
    },
    /// The key ids of a challenge are not an array of strings. The text is that of the JavaScript
    /// package, spelling included.
    #[error("Wrond data received: list of verification id`s should be an array. Got: {got}")]
    InvalidIds {
        /// The beginning of what was received instead, as JavaScript prints it.
        got: String,
    },
    /// A field that must be there is missing or of a wrong type.
    #[error("Handshake {message}: \"{field}\" must be {expected}")]
    InvalidField {
        /// Which message.
        message: &'static str,
        /// Which field of the JSON object.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// A byte beyond the end of a buffer is `undefined` in JavaScript.
struct JsByte(Option<u8>);

impl fmt::Display for JsByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(byte) => byte.fmt(f),
            None => f.write_str("undefined"),
        }
    }
}

impl Handshake {
    /// Reads the handshake message that `bytes` are.
    ///
    /// Text that is not UTF-8 has the wrong parts replaced by U+FFFD. Unknown fields are ignored.
    /// An error message may hold any text; other messages need their fields, save those of
    /// [`Confirm`] that are documented to have defaults.
    ///
    /// # Errors
    ///
    /// Any [`HandshakeDecodeError`]: the peer is to be refused.
    pub fn decode(bytes: &[u8]) -> Result<Handshake, HandshakeDecodeError> {
        let (&first, rest) = bytes.split_first().ok_or(HandshakeDecodeError::Unexpected(None))?;
        let text = text::decode(rest);
        match first {
            ERROR => {
                let reason = serde_json::from_str(&text).unwrap_or_else(|_| text.into_owned());
                Ok(Handshake::Error(reason))
            }
            CHALLENGE => Challenge::decode(&text).map(Handshake::Challenge),
            PROOF => Proof::decode(&text).map(Handshake::Proof),
            CONFIRM => Confirm::decode(&text).map(|confirm| Handshake::Confirm(Box::new(confirm))),
            other => Err(HandshakeDecodeError::Unexpected(Some(other))),
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Handshake::Error(reason) => {
                out.push(ERROR);
                json::encode(reason, out);
            }
            Handshake::Challenge(challenge) => {
                out.push(CHALLENGE);
                json::encode(challenge, out);
            }
            Handshake::Proof(proof) => {
                out.push(PROOF);
                json::encode(proof, out);
            }
            Handshake::Confirm(confirm) => {
                out.push(CONFIRM);
                json::encode(confirm, out);
            }
        }
    }
}

impl Challenge {
    fn decode(text: &str) -> Result<Challenge, HandshakeDecodeError> {
        const MESSAGE: &str = "challenge";
        let [challenge, ids] = fields(MESSAGE, text, &["challenge", "ids"])?;
        Ok(Challenge {
            ids: ids
                .and_then(json::strings)
                .ok_or_else(|| HandshakeDecodeError::InvalidIds { got: quoted(ids) })?,
            challenge: required_string(MESSAGE, "challenge", challenge)?,
        })
    }
}

impl Proof {
    fn decode(text: &str) -> Result<Proof, HandshakeDecodeError> {
        const MESSAGE: &str = "proof";
        let [proof, id] = fields(MESSAGE, text, &["proof", "id"])?;
        Ok(Proof {
            proof: required_string(MESSAGE, "proof", proof)?,
            id: required_string(MESSAGE, "id", id)?,
        })
    }
}

impl Confirm {
    fn decode(text: &str) -> Result<Confirm, HandshakeDecodeError> {
        const MESSAGE: &str = "confirmation";
        let invalid = |field, expected| HandshakeDecodeError::InvalidField {
            message: MESSAGE,
            field,
            expected,
        };
        let names =
            ["id", "roles", "friendly", "name", "meta", "tags", "window", "i", "x", "k", "s"];
        let [id, roles, friendly, name, meta, tags, window, i, x, k, s] =
            fields(MESSAGE, text, &names)?;
        Ok(Confirm {
            id: id
                .and_then(json::string)
                .filter(|id| (1..=MAX_ID).contains(&id.len()))
                .ok_or_else(|| invalid("id", "a string of 1 to 1024 bytes"))?,
            roles: roles
                .and_then(json::strings)
                .ok_or_else(|| invalid("roles", "an array of strings"))?,
            friendly: friendly.is_some_and(|raw| raw.get() == "true"),
            name: name.and_then(json::string).unwrap_or_default(),
            meta: meta.map(Meta::decode).unwrap_or_default(),
            tags: tags.map(decode_tags).unwrap_or_default(),
            window: window
                .and_then(json::integer)
                .and_then(|window| window.try_into().ok())
                .filter(|window| (1..=MAX_NUMBER).contains(window)),
            i: i.and_then(json::integer).and_then(|i| i.try_into().ok()),
            x: x.map(Extensions::decode).unwrap_or_default(),
            k: k.and_then(json::string),
            s: s.map(decode_tags).unwrap_or_default(),
        })
    }
}

impl Meta {
    fn decode(raw: &RawValue) -> Meta {
        let names = ["os", "runtime", "time", "uptime", "protocol"];
        let Ok([os, runtime, time, uptime, protocol]) = json::fields(raw.get(), &names) else {
            return Meta::default();
        };
        Meta {
            os: os.and_then(json::string).unwrap_or_default(),
            runtime: runtime.and_then(json::string).unwrap_or_default(),
            time: time.and_then(json::truncated).unwrap_or_default(),
            uptime: uptime.and_then(json::truncated).unwrap_or_default(),
            protocol: protocol.and_then(json::string).unwrap_or_default(),
        }
    }
}

fn decode_tags(raw: &RawValue) -> BTreeMap<String, String> {
    let tags: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    tags.into_iter().filter_map(|(tag, raw)| Some((tag, json::string(raw)?))).collect()
}

fn fields<'a, const N: usize>(
    message: &'static str,
    text: &'a str,
    names: &[&str; N],
) -> Result<[Option<&'a RawValue>; N], HandshakeDecodeError> {
    json::fields(text, names).map_err(|error| match error {
        JsonError::Syntax { line, column } => {
            HandshakeDecodeError::InvalidJson { message, line, column }
        }
        JsonError::NotAnObject => HandshakeDecodeError::NotAnObject { message },
    })
}

fn required_string(
    message: &'static str,
    field: &'static str,
    raw: Option<&RawValue>,
) -> Result<String, HandshakeDecodeError> {
    raw.and_then(json::string).ok_or(HandshakeDecodeError::InvalidField {
        message,
        field,
        expected: "a string",
    })
}

/// A wrong value, cut short, as JavaScript puts it into a text. Arrays stay JSON.
fn quoted(raw: Option<&RawValue>) -> String {
    let Some(raw) = raw else {
        return "undefined".to_owned();
    };
    if raw.get().starts_with('{') {
        return "[object Object]".to_owned();
    }
    let mut text = json::string(raw).unwrap_or_else(|| raw.get().to_owned());
    if let Some((end, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn message(first: u8, json: &str) -> Vec<u8> {
        [&[first], json.as_bytes()].concat()
    }

    fn encoded(handshake: &Handshake) -> Vec<u8> {
        let mut out = Vec::new();
        handshake.encode(&mut out);
        out
    }

    fn refusal(first: u8, json: &str) -> String {
        Handshake::decode(&message(first, json)).unwrap_err().to_string()
    }

    fn confirm(json: &str) -> Confirm {
        match Handshake::decode(&message(3, json)).unwrap() {
            Handshake::Confirm(confirm) => *confirm,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unexpected_first_bytes() {
        assert_eq!(
            Handshake::decode(&[]).unwrap_err().to_string(),
            "Incorrect event during handshake process: undefined"
        );
        for byte in 4..=255 {
            assert_eq!(
                refusal(byte, "{}"),
                format!("Incorrect event during handshake process: {byte}")
            );
        }
    }

    #[test]
    fn errors_hold_any_text() {
        for (text, reason) in [
            (&b"\"a \\\"reason\\\"\""[..], "a \"reason\""),
            (b"plain", "plain"),
            (b"{\"a\":1}", "{\"a\":1}"),
            (b"5", "5"),
            (b"", ""),
            (b"\"open", "\"open"),
            (b"bad \xff", "bad \u{fffd}"),
        ] {
            assert_eq!(
                Handshake::decode(&[&[0], text].concat()),
                Ok(Handshake::Error(reason.into()))
            );
        }
        assert_eq!(encoded(&Handshake::Error("a \"b\"\n".into())), message(0, r#""a \"b\"\n""#));
    }

    #[test]
    fn challenges() {
        let challenge = Handshake::Challenge(Challenge {
            challenge: "c".into(),
            ids: vec!["a".into(), "b".into()],
        });
        let bytes = message(1, r#"{"challenge":"c","ids":["a","b"]}"#);
        assert_eq!(Handshake::decode(&bytes), Ok(challenge.clone()));
        assert_eq!(encoded(&challenge), bytes);

        let ids = "Wrond data received: list of verification id`s should be an array. Got: ";
        for (json, got) in [
            ("{}", "undefined"),
            (r#"{"ids":{"a":1}}"#, "[object Object]"),
            (r#"{"ids":null}"#, "null"),
            (r#"{"ids":5}"#, "5"),
            (r#"{"ids":"one"}"#, "one"),
            (r#"{"ids":[1,2]}"#, "[1,2]"),
        ] {
            assert_eq!(refusal(1, json), format!("{ids}{got}"), "{json}");
        }
        let long = format!("{{\"ids\":\"{}\"}}", "ж".repeat(5000));
        assert_eq!(refusal(1, &long), format!("{ids}{}…", "ж".repeat(64)));

        for json in [r#"{"ids":["k"]}"#, r#"{"ids":["k"],"challenge":5}"#] {
            assert_eq!(refusal(1, json), "Handshake challenge: \"challenge\" must be a string");
        }
        assert_eq!(refusal(1, "null"), "Handshake challenge is not a JSON object");
        assert_eq!(refusal(1, "zzz"), "Handshake challenge is not valid JSON (line 1, column 1)");
    }

    #[test]
    fn proofs() {
        let proof = Handshake::Proof(Proof { proof: "00ff".into(), id: "a".into() });
        let bytes = message(2, r#"{"proof":"00ff","id":"a"}"#);
        assert_eq!(Handshake::decode(&bytes), Ok(proof.clone()));
        assert_eq!(encoded(&proof), bytes);
        for (json, text) in [
            ("null", "Handshake proof is not a JSON object"),
            ("{}", "Handshake proof: \"proof\" must be a string"),
            (r#"{"proof":"x"}"#, "Handshake proof: \"id\" must be a string"),
            (r#"{"proof":"x","id":null}"#, "Handshake proof: \"id\" must be a string"),
        ] {
            assert_eq!(refusal(2, json), text, "{json}");
        }
    }

    #[test]
    fn a_confirmation_in_full() {
        let json = concat!(
            r#"{"id":"i","roles":["a","b"],"friendly":true,"name":"n","#,
            r#""meta":{"os":"linux","runtime":"r","time":1795355691085,"uptime":32,"#,
            r#""protocol":"2.0.0"},"tags":{"k":"v"},"window":65536,"i":3,"x":{"fields":1,"cancel":2},"k":"ab","s":{"exp":"cd"}}"#
        );
        let expected = Confirm {
            id: "i".into(),
            roles: vec!["a".into(), "b".into()],
            friendly: true,
            name: "n".into(),
            meta: Meta {
                os: "linux".into(),
                runtime: "r".into(),
                time: 1_795_355_691_085,
                uptime: 32,
                protocol: "2.0.0".into(),
            },
            tags: [("k".into(), "v".into())].into(),
            window: Some(65_536),
            i: Some(3),
            x: Extensions { fields: 1, cancel: 2, drained: 0 },
            k: Some("ab".into()),
            s: [("exp".into(), "cd".into())].into(),
        };
        assert_eq!(confirm(json), expected);
        assert_eq!(encoded(&Handshake::Confirm(Box::new(expected))), message(3, json));
    }

    #[test]
    fn a_confirmation_with_little_in_it() {
        let least = Confirm { id: "i".into(), ..Confirm::default() };
        for rest in [
            "",
            r#","friendly":1,"name":5,"meta":null,"tags":null,"window":null"#,
            r#","friendly":"true","name":null,"meta":[],"tags":[],"window":-1,"more":[{}]"#,
            r#","meta":{},"tags":{},"window":1.5"#,
            r#","window":0"#,
            r#","window":9007199254740992"#,
            r#","meta":{"os":1,"runtime":null,"time":"1","uptime":{},"protocol":2},"tags":"x""#,
            r#","meta":{"time":-5,"uptime":-0.5},"tags":{"a":1,"b":null,"c":["x"]},"window":"1""#,
        ] {
            let json = format!("{{\"id\":\"i\",\"roles\":[]{rest}}}");
            assert_eq!(confirm(&json), least, "{json}");
        }
        let json = r#"{"id":"i","roles":[],"meta":{"time":12.9,"uptime":1e3},
            "tags":{"a":1,"b":"x"},"window":1e3}"#;
        let read = confirm(json);
        assert_eq!((read.meta.time, read.meta.uptime), (12, 1000));
        assert_eq!(read.tags, [("b".into(), "x".into())].into());
        assert_eq!(read.window, Some(1000));
    }

    #[test]
    fn confirmations_that_are_refused() {
        let id = "Handshake confirmation: \"id\" must be a string of 1 to 1024 bytes";
        let roles = "Handshake confirmation: \"roles\" must be an array of strings";
        let long = format!("{{\"id\":\"{}\",\"roles\":[]}}", "x".repeat(MAX_ID + 1));
        for (json, text) in [
            ("{}", id),
            (r#"{"id":"","roles":[]}"#, id),
            (r#"{"id":5,"roles":[]}"#, id),
            (&long, id),
            (r#"{"id":"i"}"#, roles),
            (r#"{"id":"i","roles":"a"}"#, roles),
            (r#"{"id":"i","roles":[null]}"#, roles),
            ("null", "Handshake confirmation is not a JSON object"),
            ("[]", "Handshake confirmation is not a JSON object"),
            ("", "Handshake confirmation is not valid JSON (line 1, column 0)"),
            ("zzz", "Handshake confirmation is not valid JSON (line 1, column 1)"),
        ] {
            assert_eq!(refusal(3, json), text, "{json}");
        }
        let longest = format!("{{\"id\":\"{}\",\"roles\":[]}}", "x".repeat(MAX_ID));
        assert_eq!(confirm(&longest).id.len(), MAX_ID);
    }

    prop_compose! {
        fn handshakes()(
            first in 0..4u8,
            (id, text) in ("[^\\p{Cc}]{1,40}", any::<String>()),
            names in vec(any::<String>(), 0..4),
            friendly: bool,
            (time, uptime) in (any::<u64>(), any::<u64>()),
            tags in btree_map(any::<String>(), any::<String>(), 0..4),
            window in option::of(1..=MAX_NUMBER),
            i in option::of(any::<u64>()),
            k in option::of(any::<String>()),
            s in btree_map(any::<String>(), any::<String>(), 0..3),
            [fields, cancel, drained] in [0..3u8, 0..3u8, 0..3u8],
        ) -> Handshake {
            match first {
                0 => Handshake::Error(text),
                1 => Handshake::Challenge(Challenge { challenge: text, ids: names }),
                2 => Handshake::Proof(Proof { proof: text, id }),
                _ => Handshake::Confirm(Box::new(Confirm {
                    id,
                    roles: names,
                    friendly,
                    name: text.clone(),
                    meta: Meta {
                        os: text.clone(),
                        runtime: text.clone(),
                        time,
                        uptime,
                        protocol: text,
                    },
                    tags,
                    window,
                    i,
                    x: Extensions { fields, cancel, drained },
                    k,
                    s,
                })),
            }
        }
    }

    proptest! {
        #[test]
        fn round_trips(handshake in handshakes()) {
            prop_assert_eq!(Handshake::decode(&encoded(&handshake)), Ok(handshake));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            first in prop_oneof![any::<u8>(), 0..4u8],
            rest in prop_oneof![
                vec(any::<u8>(), 0..64),
                "\\{(\"(id|ids|roles|meta|tags|proof|challenge)\":[{}\\[\\]\",a-z0-9.]{0,9},?){0,5}\\}"
                    .prop_map(String::into_bytes),
            ],
        ) {
            let bytes = [vec![first], rest].concat();
            match Handshake::decode(&bytes) {
                Ok(handshake) => {
                    prop_assert_eq!(Handshake::decode(&encoded(&handshake)), Ok(handshake));
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }

        #[test]
        fn damaged_messages_do_no_harm(
            handshake in handshakes(),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut bytes = encoded(&handshake);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Handshake::decode(&bytes);
        }
    }
}
