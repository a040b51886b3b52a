//! The vectors of the extensions: confirmations with `x`, fields, requests that are given up, and what is
//! broken.

use std::collections::BTreeSet;

use libtest_mimic::Trial;
use roletalk_engine::wire::{
    Extensions, Failure, Fields, FieldsView, Frame, Handshake, HeaderValue, Wrapped,
};
use serde_json::{Value, json};

use super::{Check, check_frame, frame_kind, name, same, to_hex, unhex};

const VECTORS: &str = include_str!("../../../../tests/data/extensions.json");
const COUNT: usize = 158;

pub(super) fn trials() -> Vec<Trial> {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let names: BTreeSet<String> = vectors.iter().map(name).collect();
    let complete =
        Trial::test("the_vectors_of_extensions_are_complete", move || match names.len() {
            COUNT => Ok(()),
            count => Err(format!("{count} of {COUNT} names").into()),
        });
    let each =
        vectors.into_iter().map(|vector| Trial::test(name(&vector), move || Ok(check(&vector)?)));
    each.chain([complete]).collect()
}

/// Decodes the frame, compares all of it, and compares what is written for the same.
fn check(vector: &Value) -> Check {
    let bytes = unhex(vector["hex"].as_str().ok_or("no bytes")?);
    let decoded = &vector["decoded"];
    match vector["kind"].as_str() {
        Some("malformed") => {
            let error = decode(&bytes).err().ok_or("it is understood")?;
            same("error", error, &vector["error"])
        }
        Some("confirm") => check_confirm(&bytes, vector),
        Some("cancel") => {
            same("type", bytes[0], &decoded["type"])?;
            let (_, frame) = decode(&bytes)?;
            same("kind", frame_kind(&frame), &vector["kind"])?;
            check_frame(&frame, decoded)?;
            let mut out = Vec::new();
            frame.encode(&mut out);
            same("written", to_hex(&out), &json!(to_hex(&bytes)))
        }
        Some("fields") => check_fields(&bytes, vector),
        kind => Err(format!("{kind:?} is no kind")),
    }
}

/// As a connection with all extensions does it.
fn decode(bytes: &[u8]) -> Check<(Option<Wrapped<'_>>, Frame<'_>)> {
    let wrapped = Wrapped::decode(bytes).map_err(|error| error.to_string())?;
    let inner = wrapped.map_or(bytes, |wrapped| wrapped.inner);
    let frame = Frame::decode(inner).map_err(|error| error.to_string())?;
    Ok((wrapped, frame))
}

fn check_confirm(bytes: &[u8], vector: &Value) -> Check {
    let decoded = &vector["decoded"];
    same("type", bytes[0], &decoded["type"])?;
    same("text", std::str::from_utf8(&bytes[1..]).map_err(|e| e.to_string())?, &decoded["text"])?;
    let handshake = Handshake::decode(bytes).map_err(|error| error.to_string())?;
    let Handshake::Confirm(confirm) = &handshake else { return Err("no confirmation".into()) };
    let both =
        |Extensions { fields, cancel, .. }: Extensions| json!({"fields": fields, "cancel": cancel});
    same("x", both(confirm.x), &decoded["x"])?;
    same("agreed", both(Extensions::ALL.agreed(confirm.x)), &decoded["agreed"])?;
    same("the same the other way", both(confirm.x.agreed(Extensions::ALL)), &decoded["agreed"])?;
    let mut out = Vec::new();
    handshake.encode(&mut out);
    same("written back byte for byte", out == bytes, &vector["identical"])
}

fn check_fields(bytes: &[u8], vector: &Value) -> Check {
    let decoded = &vector["decoded"];
    let (wrapped, frame) = decode(bytes)?;
    let Wrapped { fields, inner, unknown } = wrapped.ok_or("no frame with fields")?;
    same("type", bytes[0], &decoded["type"])?;
    let length = bytes.len() - inner.len() - 3;
    same("length", length, &decoded["length"])?;
    same("entries", entries(&bytes[3..3 + length])?, &unfolded(&decoded["entries"])?)?;
    same("fields", shown(fields), &decoded["fields"])?;
    same("unknown", unknown, &decoded["unknown"])?;
    same("kind", frame_kind(&frame), &decoded["kind"])?;
    same("type of the frame", inner[0], &decoded["frame"]["type"])?;
    check_frame(&frame, &decoded["frame"])?;
    let mut out = Vec::new();
    again(fields, &decoded["entries"])?.encode(fields.time_left(), &frame, &mut out);
    let written = match vector["written_hex"].as_str() {
        Some(hex) => unhex(hex),
        None => bytes.to_vec(),
    };
    same("written", to_hex(&out), &json!(to_hex(&written)))
}

/// The tags and values of a block, taken apart as the description says.
fn entries(mut block: &[u8]) -> Check<Value> {
    let mut entries = Vec::new();
    while let [tag, len, rest @ ..] = block {
        let (len, rest) = match (len, rest) {
            (0xff, [high, low, rest @ ..]) => (u16::from_be_bytes([*high, *low]).into(), rest),
            (len, rest) => (usize::from(*len), rest),
        };
        let (value, rest) = rest.split_at_checked(len).ok_or("an entry that is cut off")?;
        entries.push(json!([tag, to_hex(value)]));
        block = rest;
    }
    Ok(json!(entries))
}

fn unfolded(entries: &Value) -> Check<Value> {
    let entries = entries.as_array().ok_or("no entries")?.iter().map(|entry| {
        let value = entry[1].as_str().ok_or("no value")?;
        Ok(json!([entry[0], to_hex(&unhex(value))]))
    });
    Ok(json!(entries.collect::<Check<Vec<_>>>()?))
}

/// All that can be seen of fields.
fn shown(fields: FieldsView<'_>) -> Value {
    let mut shown = json!({});
    let mut show = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown[name] = value;
        }
    };
    show("time_left", fields.time_left().map(|left| json!(left.as_millis() as u64)));
    show("traceparent", fields.traceparent().map(Value::from));
    show("tracestate", fields.tracestate().map(Value::from));
    show("baggage", fields.baggage().map(Value::from));
    show(
        "outcome",
        fields.failure().map(|failure| {
            let Failure { code, data, retry_after, unhandled } = failure;
            let retry = retry_after.map(|time| time.as_millis() as u64);
            json!({"code": code, "data": data, "retry": retry, "unhandled": unhandled})
        }),
    );
    let known = fields.known_events();
    show("known", (!known.is_empty()).then(|| json!(known)));
    let headers: Vec<_> = fields
        .headers()
        .map(|(name, value)| match value {
            HeaderValue::Text(text) => json!([name, "text", text]),
            HeaderValue::Bytes(bytes) => json!([name, "bytes", to_hex(bytes)]),
        })
        .collect();
    show("headers", (!headers.is_empty()).then(|| json!(headers)));
    shown
}

/// The same fields, set one after the other as an application would.
fn again(seen: FieldsView<'_>, entries: &Value) -> Check<Fields> {
    let mut fields = Fields::new();
    let mut headers = seen.headers();
    let said = |error: roletalk_engine::Error| error.to_string();
    for entry in entries.as_array().ok_or("no entries")? {
        match entry[0].as_u64() {
            Some(2) => {
                let state = seen.tracestate().unwrap_or_default();
                let parent = seen.traceparent().ok_or("no traceparent")?;
                let baggage = seen.baggage().unwrap_or_default();
                fields.set_trace(&parent, state, baggage).map_err(said)?;
            }
            Some(3 | 4) if seen.traceparent().is_none() => fields.inherit_trace(seen),
            Some(5) => {
                if let Some(failure) = seen.failure().filter(|failure| !failure.is_empty()) {
                    fields.set_failure(&failure).map_err(said)?;
                }
            }
            Some(16 | 17) => {
                let (name, value) = headers.next().ok_or("no header")?;
                // Others may send names that this engine does not.
                if name.bytes().all(|byte| !byte.is_ascii_uppercase()) {
                    fields.add_header(name, value).map_err(said)?;
                }
            }
            _ => {}
        }
    }
    Ok(fields)
}
