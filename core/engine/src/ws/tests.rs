use std::io::{self, Read, Write};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proptest::{collection::vec, prelude::*};
use tungstenite::{HandshakeError, Message, WebSocket, handshake};
use url::Url;

use super::{socket::INSIDE_FRAGMENTED, *};

const LIMIT: usize = 100 * 1024 * 1024;
const SIDES: [Side; 2] = [Side::Client, Side::Server];

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}

/// A frame by hand, right for a reader on `side` if the other arguments are.
fn frame(reader: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(first, reader == Side::Server, payload)
}

fn raw_frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = header(first, masked, payload.len() as u64);
    if masked {
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    } else {
        bytes.extend(payload);
    }
    bytes
}

fn header(first: u8, masked: bool, len: u64) -> Vec<u8> {
    let flag = u8::from(masked) << 7;
    match len {
        0..126 => vec![first, flag | len as u8],
        126..65536 => [&[first, flag | 126][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[first, flag | 127][..], &len.to_be_bytes()].concat(),
    }
}

struct Got {
    messages: Vec<Incoming>,
    out: Vec<u8>,
    error: Option<WsError>,
}

/// Feeds pieces, each until nothing more comes of it.
fn feed<'a>(socket: &mut Socket, pieces: impl IntoIterator<Item = &'a [u8]>) -> Got {
    let mut got = Got { messages: Vec::new(), out: Vec::new(), error: None };
    for mut input in pieces {
        loop {
            match socket.read(&mut input, &mut got.out) {
                Ok(Some(message)) => got.messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    got.error = Some(error);
                    return got;
                }
            }
        }
        assert!(input.is_empty());
    }
    got
}

fn feed_all(side: Side, bytes: &[u8]) -> Got {
    feed(&mut Socket::new(side, LIMIT), [bytes])
}

fn split<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn binary(data: &[u8]) -> Incoming {
    Incoming::Binary(Bytes::copy_from_slice(data))
}

fn ping(payload: &[u8]) -> Incoming {
    Incoming::Ping(Bytes::copy_from_slice(payload))
}

fn pong(payload: &[u8]) -> Incoming {
    Incoming::Pong(Bytes::copy_from_slice(payload))
}

fn close(code: u16, reason: &str) -> Incoming {
    Incoming::Close { code, reason: reason.into() }
}

#[test]
fn every_size_in_one_piece_and_in_bytes() {
    for side in SIDES {
        let mut writer = FrameWriter::new(side, 7);
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for len in [0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 1 << 20] {
            let payload = pattern(len);
            writer.binary(&mut bytes, len, |out| out.extend_from_slice(&payload));
            expected.push(binary(&payload));
        }
        for piece in [usize::MAX, 4096, 1] {
            let mut reader = Socket::new(other(side), LIMIT);
            let got = feed(&mut reader, split(&bytes, &[piece]));
            assert!(got.error.is_none() && got.out.is_empty());
            assert!(got.messages == expected, "{side:?} {piece}");
        }
    }
}

#[test]
fn written_frames_are_the_shortest_form() {
    for (len, header) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
        for (side, mask) in [(Side::Server, 0), (Side::Client, 4)] {
            let mut out = b"before".to_vec();
            FrameWriter::new(side, 1).binary(&mut out, len, |out| out.resize(out.len() + len, 9));
            assert_eq!(out.len(), 6 + header + mask + len);
            assert!(out.starts_with(b"before\x82"));
        }
    }
}

#[test]
#[should_panic = "another length"]
fn a_body_of_another_length_is_refused() {
    FrameWriter::new(Side::Server, 0).binary(&mut Vec::new(), 3, |out| out.extend([1, 2]));
}

#[test]
fn masks_differ() {
    let mut writer = FrameWriter::new(Side::Client, 0);
    let mut masks = std::collections::HashSet::new();
    for _ in 0..1000 {
        let mut out = Vec::new();
        writer.binary(&mut out, 0, |_| {});
        assert_eq!(out[..2], [0x82, 0x80]);
        masks.insert(out[2..].to_vec());
    }
    assert_eq!(masks.len(), 1000);
}

#[test]
fn control_frames() {
    for side in SIDES {
        let mut writer = FrameWriter::new(side, 3);
        let mut bytes = Vec::new();
        writer.ping(&mut bytes, b"");
        writer.pong(&mut bytes, b"abc");
        writer.pong(&mut bytes, &[1; 200]);
        writer.close(&mut bytes, 4000, "intentionaly closed");
        let got = feed_all(other(side), &bytes);
        assert!(got.error.is_none());
        assert_eq!(
            got.messages,
            [ping(b""), pong(b"abc"), pong(&[1; 125]), close(4000, "intentionaly closed"),]
        );
    }
}

#[test]
fn close_reason_is_cut_between_characters() {
    let written = |code, reason: &str| {
        let mut bytes = Vec::new();
        FrameWriter::new(Side::Server, 0).close(&mut bytes, code, reason);
        feed_all(Side::Client, &bytes).messages
    };
    assert_eq!(written(4001, &"x".repeat(200)), [close(4001, &"x".repeat(123))]);
    // 41 characters of 3 bytes are 123 bytes; with one byte before them the last does not fit.
    assert_eq!(written(4001, &"€".repeat(50)), [close(4001, &"€".repeat(41))]);
    let shifted = format!("x{}", "€".repeat(50));
    assert_eq!(written(4001, &shifted), [close(4001, &shifted[..121])]);
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(written(code, "no"), [close(1005, "")]);
    }
}

#[test]
fn every_ping_gets_its_pong_at_once() {
    for side in SIDES {
        let bytes = [
            frame(side, 0x89, b"one"),
            frame(side, 0x82, b"data"),
            frame(side, 0x89, b"two"),
            frame(side, 0x89, b"three"),
        ]
        .concat();
        let mut socket = Socket::new(side, LIMIT);
        let (mut input, mut out) = (&bytes[..], Vec::new());
        assert_eq!(socket.read(&mut input, &mut out), Ok(Some(ping(b"one"))));
        assert_eq!(feed_all(other(side), &out).messages, [pong(b"one")]);
        out.extend(feed(&mut socket, [input]).out);
        let pongs = feed_all(other(side), &out).messages;
        assert_eq!(pongs, [pong(b"one"), pong(b"two"), pong(b"three")]);
    }
}

#[test]
fn fragments_with_control_frames_between() {
    for side in SIDES {
        let bytes = [
            frame(side, 0x02, b"ab"),
            frame(side, 0x89, b"?"),
            frame(side, 0x00, b""),
            frame(side, 0x8a, b"!"),
            frame(side, 0x80, b"cd"),
            // roletalk-go: everything, then an empty end
            frame(side, 0x02, &pattern(20004)),
            frame(side, 0x80, b""),
            // a character cut in two
            frame(side, 0x01, b"\xe2\x82"),
            frame(side, 0x80, b"\xac"),
        ]
        .concat();
        let expected = [
            ping(b"?"),
            pong(b"!"),
            binary(b"abcd"),
            binary(&pattern(20004)),
            Incoming::Text("€".into()),
        ];
        for piece in [usize::MAX, 3, 1] {
            let got = feed(&mut Socket::new(side, LIMIT), split(&bytes, &[piece]));
            assert!(got.error.is_none());
            assert_eq!(got.messages, expected);
        }
    }
}

#[test]
fn violations() {
    for side in SIDES {
        let long = [7; 126];
        let wrong_mask = raw_frame(0x82, side == Side::Client, b"x");
        let cases: Vec<(&str, u16, Vec<u8>)> = vec![
            ("wrong masking", 1002, wrong_mask),
            ("rsv1", 1002, frame(side, 0xc2, b"x")),
            ("rsv2", 1002, frame(side, 0xa2, b"x")),
            ("rsv3", 1002, frame(side, 0x92, b"x")),
            ("rsv on a ping", 1002, frame(side, 0xc9, b"x")),
            ("opcode 3", 1002, frame(side, 0x83, b"x")),
            ("opcode 7", 1002, frame(side, 0x07, b"")),
            ("opcode 11", 1002, frame(side, 0x8b, b"x")),
            ("opcode 15", 1002, frame(side, 0x8f, b"")),
            ("long ping", 1002, frame(side, 0x89, &long)),
            ("long pong", 1002, frame(side, 0x8a, &long)),
            ("long close", 1002, frame(side, 0x88, &long)),
            ("fragmented ping", 1002, frame(side, 0x09, b"x")),
            ("fragmented close", 1002, frame(side, 0x08, b"")),
            ("stray continuation", 1002, frame(side, 0x80, b"x")),
            ("stray fragment", 1002, frame(side, 0x00, b"x")),
            (
                "message inside a message",
                1002,
                [frame(side, 0x02, b"x"), frame(side, 0x82, b"y")].concat(),
            ),
            ("close of one byte", 1002, frame(side, 0x88, b"\x03")),
            ("reason not UTF-8", 1007, frame(side, 0x88, b"\x03\xe8\xff")),
            ("text not UTF-8", 1007, frame(side, 0x81, b"\xff")),
            (
                "fragmented text not UTF-8",
                1007,
                [frame(side, 0x01, b"\xe2\x82"), frame(side, 0x80, b"x")].concat(),
            ),
            ("too long", 1009, header(0x82, side == Side::Server, LIMIT as u64 + 1)),
            ("absurdly long", 1009, header(0x82, side == Side::Server, u64::MAX)),
        ];
        for (name, code, mut bad) in cases {
            if code == 1009 && side == Side::Server {
                bad.extend([0; 4]);
            }
            for before in [vec![], frame(side, 0x82, b"fine")] {
                let bytes = [&before[..], &bad].concat();
                for piece in [usize::MAX, 1] {
                    let mut socket = Socket::new(side, LIMIT);
                    let got = feed(&mut socket, split(&bytes, &[piece]));
                    let error = got.error.unwrap_or_else(|| panic!("{name} was accepted"));
                    assert_eq!(error.close_code(), code, "{name}: {error}");
                    assert_eq!(got.messages.len(), usize::from(!before.is_empty()), "{name}");
                    assert!(got.out.is_empty());

                    let again = feed(&mut socket, [&frame(side, 0x82, b"more")[..], &[]]);
                    assert_eq!(again.error, Some(error));
                    assert!(again.messages.is_empty());
                }
            }
        }
    }
}

#[test]
fn close_is_answered_once_and_ends_everything() {
    for side in SIDES {
        for (payload, code, reason) in [
            (&b""[..], 1005, ""),
            (b"\x03\xe8", 1000, ""),
            (b"\x0f\xa1PING TIMEOUT", 4001, "PING TIMEOUT"),
        ] {
            let bytes =
                [frame(side, 0x88, payload), frame(side, 0x82, b"late"), frame(side, 0x83, b"bad")]
                    .concat();
            let mut socket = Socket::new(side, LIMIT);
            let got = feed(&mut socket, [&bytes[..], b"\xff\xff\xff"]);
            assert!(got.error.is_none());
            assert_eq!(got.messages, [close(code, reason)]);
            let reply = feed_all(other(side), &got.out);
            assert_eq!(reply.messages, [close(code, reason)]);
            assert_eq!(got.out.len(), reply_len(side, payload));
        }
    }
}

fn reply_len(side: Side, payload: &[u8]) -> usize {
    2 + payload.len() + if side == Side::Client { 4 } else { 0 }
}

#[test]
fn close_codes_not_for_the_wire_become_1002() {
    for side in SIDES {
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let got = feed_all(side, &frame(side, 0x88, &code.to_be_bytes()));
            assert_eq!(got.messages, [close(1002, "Protocol violation")]);
            let reply = feed_all(other(side), &got.out);
            assert_eq!(reply.messages, [close(1002, "Protocol violation")]);
        }
    }
}

#[test]
fn answer_to_our_close_is_not_answered() {
    for side in SIDES {
        let mut socket = Socket::new(side, LIMIT);
        socket.close_sent();
        let bytes = [
            frame(side, 0x82, b"on its way"),
            frame(side, 0x89, b""),
            frame(side, 0x88, b"\x0f\xa0"),
            frame(side, 0x82, b"late"),
        ]
        .concat();
        let got = feed(&mut socket, split(&bytes, &[5]));
        assert!(got.error.is_none() && got.out.is_empty());
        let expected = [binary(b"on its way"), ping(b""), close(4000, "")];
        assert_eq!(got.messages, expected);
    }
}

#[test]
fn message_limit_is_exact() {
    let max = 1000;
    for side in SIDES {
        let fits = pattern(max);
        let over = pattern(max + 1);
        let fragmented = |payload: &[u8]| {
            let (start, end) = payload.split_at(600);
            [frame(side, 0x02, start), frame(side, 0x80, end)].concat()
        };
        for bytes in [frame(side, 0x82, &fits), fragmented(&fits)] {
            let got = feed(&mut Socket::new(side, max), [&bytes[..]]);
            assert_eq!(got.messages, [binary(&fits)]);
        }
        for bytes in [frame(side, 0x82, &over), fragmented(&over)] {
            let got = feed(&mut Socket::new(side, max), [&bytes[..]]);
            let error = WsError::TooBig { size: 1001, limit: 1000 };
            assert_eq!(got.error, Some(error));
        }
    }
}

#[test]
fn the_default_limit_is_100_mib_exactly() {
    let max = 104_857_600;
    assert_eq!(max, 104_857_600);
    for (size, fits) in [(max, true), (max + 1, false)] {
        let (mut socket, mut messages) = (Socket::new(Side::Client, max), Vec::new());
        let chunk = vec![0; 64 * 1024];
        let got = feed(&mut socket, [&header(0x82, false, size as u64)[..]]);
        assert_eq!(got.error.is_none(), fits);
        if fits {
            let whole = vec![&chunk[..]; size / chunk.len()];
            messages.extend(feed(&mut socket, whole).messages);
            assert!(matches!(&messages[..], [Incoming::Binary(data)] if data.len() == size));
        }
    }
}

#[test]
fn limit_raised_between_two_messages_of_one_piece() {
    let side = Side::Server;
    let bytes = [frame(side, 0x82, b"hello"), frame(side, 0x82, &[1; 500])].concat();
    let mut socket = Socket::new(side, 10);
    let mut input = &bytes[..];
    let first = socket.read(&mut input, &mut Vec::new());
    assert_eq!(first, Ok(Some(binary(b"hello"))));
    socket.set_max_message(usize::MAX);
    assert_eq!(feed(&mut socket, [input]).messages, [binary(&[1; 500])]);
    let absurd = [&header(0x82, true, 1 << 62)[..], &[0; 4]].concat();
    assert_eq!(feed(&mut socket, [&absurd[..]]).error.map(|e| e.close_code()), Some(1009));
}

/// What `/proc` says is resident, in KiB.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a Linux");
    let line = status.lines().find(|line| line.starts_with("Rss:")).expect("Rss");
    let digits = line.split_whitespace().nth(1).expect("a number");
    digits.parse().expect("a number")
}

/// Alone in its process this would hold to a few KiB; other tests run beside it.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "measures the whole process: run alone"]
fn announced_bytes_take_no_memory_and_large_messages_leave_none() {
    let before = resident();
    let mut sockets: Vec<_> = (0..20).map(|_| Socket::new(Side::Client, LIMIT)).collect();
    for socket in &mut sockets {
        feed(socket, [&header(0x82, false, LIMIT as u64)[..]]);
    }
    assert!(resident() < before + 2000, "announced: {} KiB", resident() - before);
    drop(sockets);

    // Above what glibc would keep for itself.
    let payload = vec![1; 40 << 20];
    let whole = frame(Side::Client, 0x82, &payload);
    let fragmented = [frame(Side::Client, 0x02, &payload), frame(Side::Client, 0x80, b"")].concat();
    drop(payload);
    let before = resident();
    let mut sockets: Vec<_> = (0..10).map(|_| Socket::new(Side::Client, LIMIT)).collect();
    for socket in &mut sockets {
        for bytes in [&whole, &fragmented] {
            assert_eq!(feed(socket, split(bytes, &[65536])).messages.len(), 1);
            let pinged = feed(socket, [&frame(Side::Client, 0x89, b"")[..]]);
            assert_eq!(pinged.messages, [ping(b"")]);
        }
    }
    assert!(resident() < before + 2000, "left: {} KiB", resident() - before);
}

// Upgrade

const KEY: [u8; 16] = *b"the sample nonce";

fn url(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

fn dial(target: &str, headers: &HeaderMap) -> (Dial, String) {
    let mut out = Vec::new();
    let dial = Dial::new(&url(target), headers, KEY, 16384, &mut out).expect("a request");
    (dial, String::from_utf8(out).expect("text"))
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs
        .map(|&(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        })
        .collect()
}

fn accept(path: Option<&str>, request: &str) -> (Result<Option<Upgraded>, UpgradeError>, String) {
    let mut out = Vec::new();
    let mut accept = Accept::new(path.map(Into::into), 16384);
    let result = accept.feed(&mut request.as_bytes(), &mut out);
    if !matches!(result, Ok(None)) {
        let again = accept.feed(&mut request.as_bytes(), &mut out);
        assert_eq!(again.err(), Some(UpgradeError::Over));
    }
    (result, String::from_utf8(out).expect("text"))
}

#[test]
fn request_is_what_rfc_6455_asks_for() {
    let (_, request) = dial("ws://example.org:8080/chat/x?a=b&c#d", &HeaderMap::new());
    assert_eq!(
        request,
        "GET /chat/x?a=b&c HTTP/1.1\r\n\
         Host: example.org:8080\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         \r\n"
    );
    for (target, host) in [
        ("ws://example.org", "example.org"),
        ("ws://example.org:80/", "example.org"),
        ("ws://example.org:443/", "example.org:443"),
        ("wss://example.org:443/", "example.org"),
        ("wss://[::1]:9/", "[::1]:9"),
        ("wss://[::1]", "[::1]"),
    ] {
        let (_, request) = dial(target, &HeaderMap::new());
        assert!(request.starts_with("GET / HTTP/1.1\r\n"));
        assert!(request.contains(&format!("\r\nHost: {host}\r\n")), "{request}");
    }
}

#[test]
fn request_headers_of_the_user() {
    let (_, request) = dial("ws://us%3aer:p%40ss@h/", &HeaderMap::new());
    // us:er:p@ss
    assert!(request.contains("\r\nAuthorization: Basic dXM6ZXI6cEBzcw==\r\n"));

    let own = headers(&[
        ("host", "virtual"),
        ("authorization", "Bearer x"),
        ("origin", "http://o"),
        ("x-y", "z"),
    ]);
    let (_, request) = dial("ws://user@h/", &own);
    for line in ["host: virtual", "authorization: Bearer x", "origin: http://o", "x-y: z"] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{request}");
    }
    assert!(!request.contains("Host: ") && !request.contains("Authorization: "));

    for name in ["upgrade", "connection", "sec-websocket-key", "sec-websocket-protocol"] {
        let mut out = Vec::new();
        let own = headers(&[("x-y", "z"), (name, "x")]);
        let error = Dial::new(&url("ws://h/"), &own, KEY, 16384, &mut out).err();
        assert_eq!(error, Some(UpgradeError::ReservedHeader(name.into())));
        assert!(out.is_empty());
    }
    for target in ["http://h/", "unix:/x"] {
        let error = Dial::new(&url(target), &HeaderMap::new(), KEY, 16384, &mut Vec::new());
        assert!(matches!(error.err(), Some(UpgradeError::BadUrl(_))));
    }
}

#[test]
fn upgrade_of_both_sides() {
    for piece in [usize::MAX, 1, 7] {
        let extra = headers(&[("x-tag", "5")]);
        let (mut dial, request) = dial("ws://h:1/a/b?q", &extra);
        let request = [request.as_bytes(), b"behind"].concat();
        let mut accept = Accept::new(Some("/a/b".into()), 16384);

        let mut answer = Vec::new();
        let mut rest = &request[..];
        let upgraded = loop {
            let n = piece.min(rest.len());
            let mut input = &rest[..n];
            let done = accept.feed(&mut input, &mut answer).expect("a good request");
            rest = &rest[n - input.len()..];
            if let Some(upgraded) = done {
                break upgraded;
            }
        };
        assert_eq!(rest, b"behind");
        assert_eq!(upgraded.path, "/a/b");
        assert_eq!(upgraded.headers["x-tag"], "5");

        answer.extend(b"data");
        let mut rest = &answer[..];
        let upgraded = loop {
            let n = piece.min(rest.len());
            let mut input = &rest[..n];
            let done = dial.feed(&mut input).expect("a good answer");
            rest = &rest[n - input.len()..];
            if let Some(upgraded) = done {
                break upgraded;
            }
        };
        assert_eq!(rest, b"data");
        assert_eq!(upgraded.path, "/a/b");
        assert_eq!(upgraded.headers["upgrade"], "websocket");
        assert_eq!(dial.feed(&mut rest).err(), Some(UpgradeError::Over));
    }
}

const REQUEST: &str = "GET /p?q HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn answer_is_what_rfc_6455_asks_for() {
    let (result, answer) = accept(None, REQUEST);
    assert_eq!(result.expect("an upgrade").expect("all of it").path, "/p");
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         \r\n"
    );
}

#[test]
fn offers_of_the_client() {
    let offers = REQUEST.replace(
        "Host: h\r\n",
        "Host: h\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Sec-WebSocket-Protocol: one , two\r\n",
    );
    let (result, answer) = accept(None, &offers);
    assert!(result.is_ok());
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: one\r\n"));
    assert!(!answer.contains("Extensions"));

    let (result, _) = accept(None, &REQUEST.replace("Version: 13", "Version: 8"));
    assert!(result.is_ok());
    let (result, _) = accept(None, &REQUEST.replace("\r\n", "\n"));
    assert!(result.is_ok());
}

#[test]
fn refused_requests() {
    let many = "a: b\r\n".repeat(130);
    let cases = [
        (426, "GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        (426, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned()),
        (426, "GET / HTTP/1.0\r\n\r\n".to_owned()),
        (426, REQUEST.replace("WebSocket\r\n", "h2c\r\n")),
        (426, REQUEST.replace("Upgrade\r\n", "close\r\n")),
        (426, REQUEST.replace("Version: 13", "Version: 12")),
        (426, REQUEST.replace("Sec-WebSocket-Version: 13\r\n", "")),
        (400, REQUEST.replace("dGhl", "")),
        (400, REQUEST.replace("Sec-WebSocket-Key", "Nothing")),
        (400, REQUEST.replace("Host: h", "Ho st: h")),
        (400, REQUEST.replace("GET /p", "GET p /p")),
        (400, "hello\r\n\r\n".to_owned()),
        (400, "\r\n\r\n".to_owned()),
        (400, "\x16\x03\x01 a TLS client".to_owned()),
        (431, REQUEST.replace("Host", &format!("a: {}\r\nHost", "x".repeat(17000)))),
        (431, "x".repeat(16385)),
        (431, REQUEST.replace("Host: h\r\n", &many)),
    ];
    for (status, request) in cases {
        let (result, answer) = accept(None, &request);
        assert!(result.is_err(), "{request}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer} to {request}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a blank line");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("close"));
        if status == 426 {
            assert!(head.contains("\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"));
        }
    }

    for path in ["/", "/p/", "/P"] {
        let (result, answer) = accept(Some(path), REQUEST);
        assert_eq!(result.err(), Some(UpgradeError::WrongPath { path: "/p".into() }));
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    }
    assert!(accept(Some("/p"), REQUEST).0.is_ok());
}

#[test]
fn the_limit_of_a_head_is_exact() {
    for piece in [usize::MAX, 1] {
        for (max, fits) in [(REQUEST.len(), true), (REQUEST.len() - 1, false)] {
            let mut accept = Accept::new(None, max);
            let mut last = Ok(None);
            for mut piece in split(REQUEST.as_bytes(), &[piece]) {
                last = accept.feed(&mut piece, &mut Vec::new());
            }
            assert_eq!(matches!(last, Ok(Some(_))), fits);
            assert_eq!(matches!(last, Err(UpgradeError::TooLarge { .. })), !fits);
        }
    }
    let endless = b"GET / HTTP/1.1\r\na: b\r\n".repeat(1000);
    let mut accept = Accept::new(None, 100);
    let refused = accept.feed(&mut &endless[..], &mut Vec::new()).err();
    assert_eq!(refused, Some(UpgradeError::TooLarge { limit: 100 }));
}

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
    Connection: keep-alive, upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn answered(answer: &str) -> Result<Option<Upgraded>, UpgradeError> {
    let (mut dial, _) = dial("ws://h/", &HeaderMap::new());
    dial.feed(&mut answer.as_bytes())
}

#[test]
fn refused_answers() {
    assert!(answered(ANSWER).expect("an upgrade").is_some());

    for (answer, status) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad", 400),
        ("HTTP/1.1 200 OK\r\n\r\n", 200),
        ("HTTP/1.1 503\r\n\r\n", 503),
        ("HTTP/1.0 501 Unsupported method\r\n\r\n", 501),
    ] {
        let error = answered(answer).expect_err("a refusal");
        assert_eq!(error.to_string(), format!("Unexpected server response: {status}"));
        assert!(matches!(error, UpgradeError::Refused { status: s, .. } if s == status));
    }

    for (old, new) in [
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Upgrade: WebSocket\r\n", ""),
        ("keep-alive, upgrade", "keep-alive"),
        ("xOo=", "xOp="),
        ("Sec-WebSocket-Accept", "Nothing"),
        ("Upgrade:", "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:"),
        ("Upgrade:", "Sec-WebSocket-Protocol: x\r\nUpgrade:"),
    ] {
        let error = answered(&ANSWER.replacen(old, new, 1));
        assert!(matches!(error, Err(UpgradeError::BadResponse(_))), "{new}");
    }
    for junk in ["SSH-2.0-OpenSSH_9.6\r\n\r\n", "\0\0", "\r\n\r\n"] {
        assert!(matches!(answered(junk), Err(UpgradeError::Malformed(_))), "{junk}");
    }
    let long = format!("HTTP/1.1 101 X\r\na: {}", "x".repeat(16384));
    assert!(matches!(answered(&long), Err(UpgradeError::TooLarge { limit: 16384 })));
}

// Against tungstenite itself

/// One end of a pipe in memory, for tungstenite.
#[derive(Default)]
struct Pipe {
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = buf.len().min(self.input.len());
        buf[..n].copy_from_slice(&self.input[..n]);
        self.input.drain(..n);
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages both ways, then a close from our side.
fn converse(side: Side, mut theirs: WebSocket<Pipe>) {
    let mut socket = Socket::new(side, LIMIT);
    let mut writer = FrameWriter::new(side, 5);
    for len in [0, 1, 125, 126, 65535, 65536, 300_000] {
        let payload = pattern(len);
        writer.binary(&mut theirs.get_mut().input, len, |out| out.extend_from_slice(&payload));
        let message = theirs.read().expect("a message");
        assert_eq!(message, Message::binary(payload.clone()));
        theirs.send(message).expect("to send");
        let bytes = std::mem::take(&mut theirs.get_mut().out);
        assert_eq!(feed(&mut socket, [&bytes[..]]).messages, [binary(&payload)]);
    }
    writer.ping(&mut theirs.get_mut().input, b"beat");
    writer.close(&mut theirs.get_mut().input, 4000, "bye");
    socket.close_sent();
    assert_eq!(theirs.read().expect("a ping"), Message::Ping("beat".into()));
    assert!(matches!(theirs.read(), Ok(Message::Close(Some(close))) if close.reason == "bye"));
    let _ = theirs.flush();
    let bytes = std::mem::take(&mut theirs.get_mut().out);
    let got = feed(&mut socket, [&bytes[..]]);
    assert_eq!(got.messages, [pong(b"beat"), close(4000, "bye")]);
    assert!(got.out.is_empty());
}

#[test]
fn tungstenite_dials() {
    let pipe = Pipe::default();
    let Err(HandshakeError::Interrupted(mut theirs)) = tungstenite::client("ws://h:1/x", pipe)
    else {
        panic!("the request is not waited for");
    };
    let mut accept = Accept::new(Some("/x".into()), 16384);
    let pipe = theirs.get_mut().get_mut();
    let upgraded = accept.feed(&mut &std::mem::take(&mut pipe.out)[..], &mut pipe.input);
    assert!(matches!(upgraded, Ok(Some(_))));
    let (theirs, _) = theirs.handshake().map_err(|e| e.to_string()).expect("an upgrade");
    converse(Side::Server, theirs);
}

#[test]
fn tungstenite_listens() {
    let (mut dial, request) = dial("ws://user:password@h:1/x?y", &headers(&[("x-y", "z")]));
    let pipe = Pipe { input: request.into_bytes(), ..Pipe::default() };
    #[expect(clippy::result_large_err, reason = "tungstenite's type")]
    let callback = |request: &handshake::server::Request, response| {
        assert_eq!(request.uri(), "/x?y");
        assert_eq!(request.headers()["x-y"], "z");
        Ok(response)
    };
    let theirs = tungstenite::accept_hdr(pipe, callback);
    let mut theirs = theirs.map_err(|e| e.to_string()).expect("an upgrade");
    let answer = std::mem::take(&mut theirs.get_mut().out);
    assert!(matches!(dial.feed(&mut &answer[..]), Ok(Some(_))));
    converse(Side::Client, theirs);
}

/// Frames that are mostly right, with the reader's side left to chance.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => Just(0x82u8),
        2 => Just(0x02u8),
        2 => Just(0x80u8),
        2 => Just(0x00u8),
        2 => Just(0x89u8),
        1 => Just(0x8au8),
        1 => Just(0x81u8),
        1 => any::<u8>(),
    ];
    (first, prop::bool::weighted(0.9), vec(any::<u8>(), 0..300))
        .prop_map(|(first, masked, payload)| raw_frame(first, masked, &payload))
}

/// What tungstenite's own `WebSocket` makes of the same bytes.
fn tungstenite_reads(bytes: &[u8]) -> (Vec<Incoming>, bool) {
    let pipe = Pipe { input: bytes.to_vec(), ..Pipe::default() };
    let mut theirs = WebSocket::from_raw_socket(pipe, tungstenite::protocol::Role::Server, None);
    let mut messages = Vec::new();
    loop {
        messages.push(match theirs.read() {
            Ok(Message::Binary(data)) => Incoming::Binary(data),
            Ok(Message::Text(text)) => Incoming::Text(text.to_string()),
            Ok(Message::Ping(data)) => Incoming::Ping(data),
            Ok(Message::Pong(data)) => Incoming::Pong(data),
            Ok(Message::Close(frame)) => {
                messages.push(match frame {
                    Some(frame) => close(frame.code.into(), &frame.reason),
                    None => close(1005, ""),
                });
                return (messages, false);
            }
            Ok(Message::Frame(_)) => unreachable!(),
            Err(tungstenite::Error::Io(_)) => return (messages, false),
            Err(_) => return (messages, true),
        });
    }
}

#[test]
fn a_message_inside_a_fragmented_one_is_refused_by_its_header() {
    for side in SIDES {
        let begun = frame(side, 0x02, b"begun");
        let header_of_text = header(0x81, side == Side::Server, 5);
        let mask = if side == Side::Server { &[0; 4][..] } else { &[] };
        let got = feed_all(side, &[&begun, &header_of_text, mask].concat());
        assert_eq!(got.error, Some(WsError::Protocol(INSIDE_FRAGMENTED.to_owned())));
    }
}

proptest! {
    #[test]
    fn any_payloads_in_any_pieces(
        payloads in vec(vec(any::<u8>(), 0..400), 0..20),
        sizes in vec(1usize..600, 1..8),
        seed: u64,
        client: bool,
    ) {
        let side = if client { Side::Client } else { Side::Server };
        let mut writer = FrameWriter::new(side, seed);
        let mut bytes = Vec::new();
        for payload in &payloads {
            writer.binary(&mut bytes, payload.len(), |out| out.extend_from_slice(payload));
        }
        let got = feed(&mut Socket::new(other(side), LIMIT), split(&bytes, &sizes));
        prop_assert!(got.error.is_none());
        let expected: Vec<_> = payloads.iter().map(|payload| binary(payload)).collect();
        prop_assert_eq!(got.messages, expected);
    }

    /// The shortcuts around tungstenite change nothing.
    #[test]
    fn reads_what_tungstenite_reads(
        frames in vec(any_frame(), 0..12),
        tail in vec(any::<u8>(), 0..8),
        sizes in vec(1usize..200, 1..8),
    ) {
        let bytes = [frames.concat(), tail].concat();
        let mut socket = Socket::new(Side::Server, 16 << 20);
        let got = feed(&mut socket, split(&bytes, &sizes));
        let (messages, failed) = tungstenite_reads(&bytes);
        prop_assert_eq!(got.messages, messages);
        match got.error {
            // tungstenite waits for the payload before it judges a frame of this kind.
            Some(WsError::Protocol(text)) if text == INSIDE_FRAGMENTED => {}
            error => prop_assert_eq!(error.is_some(), failed),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..2000),
        sizes in vec(1usize..300, 1..8),
    ) {
        for side in SIDES {
            feed(&mut Socket::new(side, LIMIT), split(&bytes, &sizes));
        }
        let mut accept = Accept::new(None, 1000);
        let (mut dial, _) = dial("ws://h/", &HeaderMap::new());
        for piece in split(&bytes, &sizes) {
            let _ = accept.feed(&mut &piece[..], &mut Vec::new());
            let _ = dial.feed(&mut &piece[..]);
        }
    }

    #[test]
    fn broken_http_never_panics(
        at in 0usize..180,
        junk in vec(any::<u8>(), 0..10),
        sizes in vec(1usize..50, 1..4),
    ) {
        for text in [REQUEST, ANSWER] {
            let at = at.min(text.len());
            let bytes = [&text.as_bytes()[..at], &junk, &text.as_bytes()[at..]].concat();
            let mut accept = Accept::new(None, 16384);
            let (mut dial, _) = dial("ws://h/", &HeaderMap::new());
            for piece in split(&bytes, &sizes) {
                let _ = accept.feed(&mut &piece[..], &mut Vec::new());
                let _ = dial.feed(&mut &piece[..]);
            }
        }
    }
}
