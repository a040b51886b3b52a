//! Writes the first inputs of the corpus: what was recorded from the originals and what crashed them
//! (tests/data), in the form that the targets take. The fuzzer's own findings lie beside them,
//! under names that are hashes.
//!
//! ```sh
//! cargo run -p roletalk-fuzz --example seed
//! ```

use std::{fs, path::Path};

use roletalk_engine::ws::{FrameWriter, Side};
use serde_json::Value;

/// Longer ones teach the fuzzer nothing and make it slow.
const MAX_LEN: usize = 400;

/// How somebody confirms who understands all extensions.
const ALL_EXTENSIONS: u8 = 0x80;

fn main() {
    let vectors = data("vectors.json");
    for vector in &vectors {
        let name = text(vector, "name");
        let Some(bytes) = vector["hex"].as_str().map(unhex) else { continue };
        if bytes.len() > MAX_LEN {
            continue;
        }
        store("frames", name, &bytes);
        if bytes.first().is_some_and(|frame| *frame <= 3) {
            // As it is for the decoder; and as an operation: send it to a peer without keys.
            let operation = [&[0][..], &[0], &chunk(&bytes)].concat();
            store("handshake", name, &operation);
        }
    }
    for case in &data("bad-inputs.json") {
        let name = format!("crash-{}-{}", text(case, "case"), text(case, "side"));
        crash_case(case, &name);
    }
    for vector in &data("extensions.json") {
        let hex = text(vector, "hex");
        if hex.contains('(') || hex.len() > 2 * MAX_LEN {
            continue;
        }
        let (name, bytes) = (text(vector, "name"), unhex(hex));
        match text(vector, "kind") {
            "confirm" => {
                store("frames", name, &bytes);
                store("handshake", name, &[&[0][..], &[0], &chunk(&bytes)].concat());
            }
            kind => {
                let target = if kind == "cancel" { "frames" } else { "fields" };
                store(target, name, &bytes);
                // From the hostile peer, which has agreed on it.
                let hostile = [&[2, 2, 1, 20, ALL_EXTENSIONS][..], &[24], &chunk(&bytes)].concat();
                store("stream", name, &hostile);
            }
        }
    }
    websocket();
    stream();
    policies();
    extensions();
}

/// Two peers, one of which gives up what it asks, and says how long it waits.
fn extensions() {
    const WITH: u8 = 0x40;
    const OTHER: u8 = 0x80;
    const PUMP: u8 = 13;
    let mut lives = vec![0, 0, 2, PUMP];
    for _ in 0..10 {
        lives.extend([WITH | 14, 9, PUMP, 31]);
    }
    lives.extend([PUMP, OTHER | WITH | 15, 0, PUMP, OTHER | WITH | 15, 1, PUMP, 17, 8, PUMP]);
    lives.extend([WITH | 16, 20, WITH, 1, PUMP, OTHER | 3, WITH | 1, 1, PUMP, 31, PUMP]);
    for windows in [[0, 0], [0, 12], [4, 8], [12, 12]] {
        lives[..2].copy_from_slice(&windows);
        store("stream", &format!("extensions-{}-{}", windows[0], windows[1]), &lives);
    }
    let fields = [
        0, 3, 1, 9, 5, 1, 20, 30, 6, 5, b'[', b'1', b',', b'2', b']', 15, 7, 16, 0, 1, b'n', 2,
        255, 0,
    ];
    store("fields", "set-by-an-application", &fields);
}

fn crash_case(case: &Value, name: &str) {
    if name.starts_with("crash-x-bad-") || name.starts_with("crash-x-cut-") {
        // They are vectors, too.
        return;
    }
    let dialect = if case["x"].is_null() { 0 } else { ALL_EXTENSIONS };
    let before = text(case, "phase") == "before-handshake";
    let keyed = case["keyed"].as_bool().unwrap_or_default();
    // The peer, and (after the handshake) a confirmation of ours.
    let mut operations = vec![u8::from(keyed)];
    let mut hostile = vec![2, 2, 1, 20, dialect];
    if !before {
        operations.extend([3, 0, dialect]);
    }
    for step in case["steps"].as_array().into_iter().flatten() {
        let hex = step["hex"].as_str().unwrap_or_default();
        if hex.contains(['$', '(']) || step.get("times").is_some() || hex.len() > 2 * MAX_LEN {
            return;
        }
        let bytes = unhex(hex);
        match step["send"].as_str() {
            Some("binary") => {
                if !before {
                    store("frames", name, &bytes);
                    hostile.push(24);
                    hostile.extend(chunk(&bytes));
                }
                operations.push(0);
                operations.extend(chunk(&bytes));
            }
            Some("raw") => {
                store("websocket", name, &[&[2, 1, 4][..], &bytes].concat());
                operations.push(1);
                operations.extend(chunk(&bytes));
                hostile.push(23);
                hostile.extend(chunk(&bytes));
            }
            _ => return,
        }
    }
    store("handshake", name, &operations);
    if !before {
        store("stream", name, &hostile);
    }
}

fn websocket() {
    let request = "GET /path HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nrest";
    store("websocket", "request", &[&[0, 2, 5, 1][..], request.as_bytes()].concat());
    // The key that the target dials with.
    let accept = roletalk_engine::ws::accept_key("BwcHBwcHBwcHBwcHBwcHBw==");
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\nrest"
    );
    store("websocket", "response", &[&[1, 1, 7][..], response.as_bytes()].concat());
    for (mode, side) in [(2u8, Side::Client), (3, Side::Server)] {
        let mut writer = FrameWriter::new(side, 5);
        let mut bytes = vec![mode, 2, 1, 9];
        writer.binary(&mut bytes, 5, |out| out.extend_from_slice(b"hello"));
        writer.ping(&mut bytes, b"are you there");
        writer.binary(&mut bytes, 300, |out| out.resize(out.len() + 300, b'x'));
        writer.pong(&mut bytes, b"");
        writer.close(&mut bytes, 4000, "intentionaly closed");
        store("websocket", &format!("frames-{mode}"), &bytes);
    }
    for mode in [4, 5] {
        let bytes =
            [mode, 2, 3, 1, 9, 0, 2, 1, 2, 2, 1, 7, 3, 0, 161, 1, 5, 4, 3, b'b', b'y', b'e'];
        store("websocket", &format!("roundtrip-{mode}"), &bytes);
    }
}

/// Policies, and calls that they allow and deny.
fn policies() {
    let texts = [
        ("nothing-is-allowed", "{}"),
        ("everything", r#"{"default":"allow"}"#),
        ("each", r#"{"default":{"call":"deny","serve":"allow"}}"#),
        (
            "any",
            r#"{"rules":[{"who":"any","call":["role/*",{"role":"a/b","kinds":["request","writable"]}]}]}"#,
        ),
        (
            "who",
            r#"{"comment":"x","rules":[{"who":{"key":["k*"],"address":"10.0.0.0/8"},"call":"*"},
            {"who":{"certificate":"dns:*.example","claim":{"sub":["a"]}},"serve":"*"},
            {"who":{"peer":"key-*","fingerprint":"00:ff"},"deny":{"call":"role/e*","serve":"p"}}]}"#,
        ),
        ("an-empty-list", r#"{"rules":[{"who":{"key":[]},"call":"*"}]}"#),
        ("torn", r#"{"default":"al"#),
    ];
    let call = |kind: u8, role: &str, event: &str| {
        [&[kind][..], &chunk(role.as_bytes()), &chunk(event.as_bytes())].concat()
    };
    for (name, text) in texts {
        let calls =
            [call(0, "role", "e"), call(1, "a/b", ""), call(2, "role", "*"), call(3, "", "e")];
        store("policy", name, &[text.as_bytes(), &[0], &calls.concat()].concat());
    }
}

/// The usual lives of streams, in the operations of the target.
fn stream() {
    const OTHER: u8 = 0x80;
    const PUMP: u8 = 13;
    let write = |len: u8, shift: u8| [4, 0, len, shift];
    let mut download = vec![3, 3, 1, PUMP, OTHER, 0, 1, PUMP, 2, PUMP];
    for _ in 0..4 {
        download.extend(write(200, 7));
        download.extend([PUMP, OTHER | 6, 0, PUMP]);
    }
    download.extend([8, 0, PUMP, OTHER | 6, 0, PUMP]);
    store("stream", "download", &download);
    let mut upload = vec![1, 0, 2, PUMP, 1, 0, PUMP, OTHER | 2, PUMP];
    for _ in 0..4 {
        upload.extend(write(250, 0));
        upload.extend([10, 9, OTHER | 6, 0, OTHER | 12, 30, PUMP]);
    }
    upload.extend([18, 0, 19, PUMP, 9, 0]);
    store("stream", "upload-over-a-lost-connection", &upload);
    let requests = [
        0,
        1,
        2,
        PUMP,
        14,
        9,
        14,
        20,
        16,
        3,
        OTHER | 14,
        1,
        10,
        255,
        OTHER | 15,
        1,
        31,
        PUMP,
        15,
        0,
        17,
        9,
        PUMP,
        17,
        9,
        18,
        1,
        PUMP,
    ];
    store("stream", "requests", &requests);
    for dialect in 0..3 {
        // The third peer writes too much, reads too much, and ends what was never there.
        let hostile = [
            1, 1, 1, PUMP, 20, dialect, 28, 29, 25, 2, 1, 1, 1, 1, 0, 0, 25, 0x82, 2, 1, 2, 1, 0,
            0, 29, 29, 25, 0xf0, 0, 0, 1, 1, 0, 4, 1, 2, 3, 4, 30, 0, 30, 1, 27, 1, 0, 27, 2, 63,
            30, 5, 30, 3, 22,
        ];
        store("stream", &format!("hostile-{dialect}"), &hostile);
    }
}

/// Bytes behind their length, as the targets read them.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len();
    let mut chunk = match len {
        0..=250 => vec![len as u8],
        _ => vec![251, (len >> 8) as u8, len as u8],
    };
    chunk.extend_from_slice(bytes);
    chunk
}

fn store(target: &str, name: &str, bytes: &[u8]) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name: String = name.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).expect("a directory for the corpus");
    fs::write(directory.join(name), bytes).expect("room for the corpus");
}

fn data(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name);
    let text = fs::read_to_string(path).expect("the recorded data");
    serde_json::from_str(&text).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}
