//! Every frame recorded from the running originals is understood, and written back as it was: each is a
//! test with the name that it has in the recording. So are those of the extensions, which are computed.

mod extensions;

use std::{collections::BTreeSet, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use roletalk_engine::wire::{Data, DataType, Direction, Frame, Handshake, Num, Payload, StreamOp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const VECTORS: &str = include_str!("../../../../tests/data/vectors.json");

/// JSON with its keys in another order than ours; all others are written back byte for byte.
const REORDERED: [&str; 4] = [
    "acquaint_two_roles_with_address",
    "go_acquaint",
    "go_auth_confirmed_from_client",
    "go_auth_confirmed_from_server",
];

fn main() -> ExitCode {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let names: BTreeSet<String> = vectors.iter().map(name).collect();
    let complete = Trial::test("the_recording_is_complete", move || {
        let missing: Vec<_> = REORDERED.iter().filter(|name| !names.contains(**name)).collect();
        match (names.len(), &missing[..]) {
            (330, []) => Ok(()),
            (count, _) => Err(format!("{count} of 330 names; without {missing:?}").into()),
        }
    });
    let each = vectors.into_iter().map(|vector| {
        Trial::test(name(&vector), move || {
            let (identical, reordered) = (check(&vector)?, REORDERED.contains(&&*name(&vector)));
            match identical != reordered {
                true => Ok(()),
                false => Err(format!("written back byte for byte: {identical}").into()),
            }
        })
    });
    let trials = each.chain([complete]).chain(extensions::trials()).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn name(vector: &Value) -> String {
    vector["name"].as_str().expect("each has a name").to_owned()
}

type Check<T = ()> = Result<T, String>;

/// Decodes the frame and compares all of it. Whether re-encoding gives the same bytes.
fn check(vector: &Value) -> Check<bool> {
    let decoded = &vector["decoded"];
    let bytes = bytes(vector)?;
    same("type", bytes[0], &decoded["type"])?;
    let mut out = Vec::new();
    if bytes[0] <= 3 {
        let handshake = Handshake::decode(&bytes).map_err(|error| error.to_string())?;
        check_handshake(&handshake, decoded)?;
        handshake.encode(&mut out);
    } else {
        let frame = Frame::decode(&bytes).map_err(|error| error.to_string())?;
        same("kind", frame_kind(&frame), &vector["kind"])?;
        check_frame(&frame, decoded)?;
        frame.encode(&mut out);
        same("encoded_len", frame.encoded_len(), &json!(out.len()))?;
    }
    if out == bytes {
        return Ok(true);
    }
    let text = decoded["text"].as_str().ok_or("does not encode to the same bytes")?;
    if text.starts_with(r#"{"id":"#) && vector["from"] == "js-1.1.3" {
        return Err("does not encode to the same bytes".into());
    }
    let mut written: Value = serde_json::from_slice(&out[1..]).map_err(|e| e.to_string())?;
    if decoded["json"].get("tags").is_none() {
        // Go knows no tags; ours are always written.
        if let Some(object) = written.as_object_mut() {
            object.remove("tags");
        }
    }
    same("first byte written", out[0], &json!(bytes[0]))?;
    same("JSON written", written, &decoded["json"])?;
    Ok(false)
}

/// The recorded bytes. Of the eight longest frames the file holds only the head and the hash.
fn bytes(vector: &Value) -> Check<Vec<u8>> {
    if let Some(text) = vector["hex"].as_str() {
        return Ok(unhex(text));
    }
    let mut bytes = unhex(vector["header_hex"].as_str().ok_or("no bytes")?);
    let name = name(vector);
    let left = vector["length"].as_u64().ok_or("no length")? as usize - bytes.len();
    if name.ends_with("_buf_70000") {
        bytes.extend((0..left).map(|at| (at * 31 + (at >> 8)) as u8));
    } else if name.ends_with("_str_70000") {
        bytes.extend("ж".bytes().cycle().take(left));
    } else if name == "message_event_65536_overflow" {
        bytes.extend(std::iter::repeat_n(b'E', left - 2));
        bytes.extend(b"\x041");
    } else {
        bytes.resize(bytes.len() + left, 0);
    }
    same("sha256 of the frame", sha256(&bytes), &vector["sha256"])?;
    Ok(bytes)
}

fn frame_kind(frame: &Frame<'_>) -> &'static str {
    match frame {
        Frame::Message { .. } => "message",
        Frame::Request { .. } => "request",
        Frame::Response { .. } => "response",
        Frame::Reject { .. } => "reject",
        Frame::StreamRequest { direction, .. } => match direction {
            Direction::RequesterReads => "req4readable",
            Direction::RequesterWrites => "req4writable",
        },
        Frame::StreamAccept { .. } => "stream_resolve",
        Frame::StreamRefuse { .. } => "stream_reject",
        Frame::Stream { .. } => "stream_msg",
        Frame::Cancel { .. } => "cancel",
        Frame::Acquaint(_) => "acquaint",
        Frame::Roles(_) => "roles",
    }
}

fn check_frame(frame: &Frame<'_>, decoded: &Value) -> Check {
    match frame {
        Frame::Message { role, event, payload } => {
            check_names(role, event, decoded)?;
            check_payload(*payload, &decoded["payload"])
        }
        Frame::Request { role, event, corr, payload } => {
            check_names(role, event, decoded)?;
            check_number("corr", *corr, decoded)?;
            check_payload(*payload, &decoded["payload"])
        }
        Frame::Response { corr, payload } | Frame::Reject { corr, payload } => {
            check_number("corr", *corr, decoded)?;
            check_payload(*payload, &decoded["payload"])
        }
        Frame::StreamRequest { role, event, corr, chan, payload, .. } => {
            check_names(role, event, decoded)?;
            check_number("corr", *corr, decoded)?;
            check_number("channel", *chan, decoded)?;
            check_payload(*payload, &decoded["payload"])
        }
        Frame::StreamAccept { corr, chan, payload }
        | Frame::StreamRefuse { corr, chan, payload } => {
            check_number("corr", *corr, decoded)?;
            check_number("channel", *chan, decoded)?;
            check_payload(*payload, &decoded["payload"])
        }
        Frame::Stream { chan, op } => {
            check_number("channel", *chan, decoded)?;
            let (flag, name) = match op {
                StreamOp::Chunk(bytes) => {
                    let chunk = &decoded["chunk"];
                    match chunk.get("hex") {
                        Some(hex) => same("chunk", to_hex(bytes), hex)?,
                        None => {
                            same("chunk length", bytes.len(), &chunk["len"])?;
                            same("sha256 of the chunk", sha256(bytes), &chunk["sha256"])?;
                        }
                    }
                    (0, "chunk")
                }
                StreamOp::Finish => (1, "finish"),
                StreamOp::Error(reason) => {
                    same("error", reason.as_ref(), &decoded["error"])?;
                    (2, "error")
                }
                StreamOp::Quota(quota) => {
                    same("quota", quota.value(), &decoded["quota"])?;
                    (3, "quota")
                }
                StreamOp::Unknown(flag) => return Err(format!("unknown flag {flag}")),
            };
            same("flag", flag, &decoded["flag"])?;
            same("flag_name", name, &decoded["flag_name"])
        }
        Frame::Cancel { corr } => check_number("corr", *corr, decoded),
        Frame::Acquaint(acquaint) => {
            let mut json = json!({"id": acquaint.id, "roles": acquaint.roles});
            if let Some(address) = &acquaint.address {
                json["address"] = json!(address);
            }
            same("json", json, &decoded["json"])
        }
        Frame::Roles(roles) => {
            let json = json!({"i": roles.i, "roles": roles.roles});
            same("json", json, &decoded["json"])
        }
    }
}

fn check_handshake(handshake: &Handshake, decoded: &Value) -> Check {
    let mut json = match handshake {
        Handshake::Error(reason) => json!(reason),
        Handshake::Challenge(challenge) => {
            json!({"challenge": challenge.challenge, "ids": challenge.ids})
        }
        Handshake::Proof(proof) => json!({"proof": proof.proof, "id": proof.id}),
        Handshake::Confirm(confirm) => {
            if confirm.window.is_some() {
                return Err("has a window".into());
            }
            json!({
                "id": confirm.id,
                "roles": confirm.roles,
                "friendly": confirm.friendly,
                "name": confirm.name,
                "meta": {
                    "os": confirm.meta.os,
                    "runtime": confirm.meta.runtime,
                    "time": confirm.meta.time,
                    "uptime": confirm.meta.uptime,
                    "protocol": confirm.meta.protocol,
                },
                "tags": confirm.tags,
            })
        }
    };
    if decoded["json"].get("tags").is_none() && json["tags"] == json!({}) {
        json.as_object_mut().unwrap().remove("tags");
    }
    same("json", json, &decoded["json"])
}

fn check_names(role: &str, event: &str, decoded: &Value) -> Check {
    same("role", role, &decoded["role"])?;
    same("event", event, &decoded["event"])?;
    same("role_len", role.len(), &decoded["role_len"])?;
    same("event_len", event.len(), &decoded["event_len"])
}

fn check_number(name: &str, num: Num, decoded: &Value) -> Check {
    match &decoded[name] {
        // What a double cannot hold is recorded as text.
        Value::String(text) => same(name, num.value().to_string(), &json!(text))?,
        number => same(name, num.value(), number)?,
    }
    let hex = decoded[format!("{name}_hex")].as_str().ok_or("no hex")?;
    same("width", usize::from(num.width()), &json!(hex.len() / 2))
}

fn check_payload(payload: Payload<'_>, expected: &Value) -> Check {
    let data = Data::from(payload);
    let kind = match data.kind() {
        DataType::Unknown(byte) => format!("?{byte}"),
        known => known.to_string(),
    };
    same("payload type", kind, &expected["type"])?;
    if let Some(hash) = expected.get("sha256") {
        same("payload length", data.bytes().len(), &expected["len"])?;
        return same("sha256 of the payload", sha256(data.bytes()), hash);
    }
    let value = &expected["value"];
    match data.kind() {
        DataType::Null => same("payload is null", data.is_null(), &json!(value.is_null())),
        DataType::Boolean => {
            same("payload raw", to_hex(data.bytes()), &expected["raw"])?;
            same("payload value", data.as_bool(), value)
        }
        DataType::String => {
            same("payload utf8hex", to_hex(data.bytes()), &expected["utf8hex"])?;
            same("payload value", data.as_str(), value)
        }
        DataType::Number => {
            same("payload text", data.number_text(), &expected["text"])?;
            let read = data.as_f64().ok_or("no number")?;
            match value.as_str() {
                None => {
                    same("payload value", Some(read), &json!(value.as_f64()))?;
                    let parsed: f64 = data.parse().map_err(|error| error.to_string())?;
                    same("payload parsed", parsed, &json!(read))
                }
                Some("Infinity") => same("infinite", read == f64::INFINITY, &json!(true)),
                Some("-Infinity") => same("infinite", read == f64::NEG_INFINITY, &json!(true)),
                Some("NaN" | "+Inf") => same("not a number", read.is_nan(), &json!(true)),
                Some(other) => Err(format!("unexpected number {other}")),
            }
        }
        DataType::Object => {
            let text = std::str::from_utf8(data.bytes()).map_err(|error| error.to_string())?;
            same("payload text", text, &expected["text"])?;
            same("payload value", data.to_json().map_err(|error| error.to_string())?, value)
        }
        DataType::Binary | DataType::Unknown(_) => {
            same("payload value", to_hex(data.bytes()), value)
        }
    }
}

fn same(what: &str, found: impl serde::Serialize, expected: &Value) -> Check {
    let found = json!(found);
    if found == *expected {
        return Ok(());
    }
    Err(format!("{what} is {found}, not {expected}"))
}

/// Bytes in hexadecimal; `(00*64)` is a byte that is there so many times.
fn unhex(text: &str) -> Vec<u8> {
    let plain = |text: &str| -> Vec<u8> {
        let pairs = (0..text.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let mut parts = text.split('(');
    let mut bytes = plain(parts.next().unwrap_or_default());
    for part in parts {
        let (run, rest) = part.split_once(')').unwrap();
        let (byte, count) = run.split_once('*').unwrap();
        bytes.extend(plain(byte).repeat(count.parse().unwrap()));
        bytes.extend(plain(rest));
    }
    bytes
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}
