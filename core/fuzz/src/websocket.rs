//! The bytes of a connection, cut into pieces in every possible way.

use http::HeaderMap;
use roletalk_engine::ws::{Accept, Dial, FrameWriter, Incoming, Side, Socket, WsError};
use url::Url;

use crate::input::Input;

const MAX_UPGRADE: usize = 1024;
const MAX_MESSAGE: usize = 2048;
/// So that stored inputs can hold the answer that goes with it.
const KEY: [u8; 16] = [7; 16];

/// The first byte says what is read: an upgrade as listener or as dialer, frames as client or as
/// server, or frames of our own making. Then come the sizes of the pieces, then the bytes.
///
/// What is read does not depend on where the bytes are cut, and what we write is what we read.
pub fn websocket(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let cuts = input.chunk();
    let side = if mode & 1 == 0 { Side::Server } else { Side::Client };
    match mode % 6 {
        0 | 1 => same(cuts, input.rest(), |pieces| upgrade(side, pieces)),
        2 | 3 => same(cuts, input.rest(), |pieces| read(side, pieces)),
        _ => roundtrip(side, cuts, input),
    }
}

/// Runs `reader` on the bytes at once, on pieces, and byte by byte.
fn same<T: PartialEq + std::fmt::Debug>(
    cuts: &[u8],
    bytes: &[u8],
    mut reader: impl FnMut(&mut dyn Iterator<Item = &[u8]>) -> T,
) {
    let whole = reader(&mut [bytes].into_iter());
    let pieces = reader(&mut pieces(cuts, bytes));
    assert_eq!(whole, pieces, "in pieces of {cuts:?}");
    let single = reader(&mut bytes.chunks(1));
    assert_eq!(whole, single, "byte by byte");
}

/// Cuts bytes into pieces of these sizes, again and again.
fn pieces<'a>(cuts: &'a [u8], bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let sizes = if cuts.is_empty() { &[3][..] } else { cuts };
    // Two pieces of no bytes in a row teach nothing; an endless row of them would not end.
    let sizes = sizes.iter().chain(&[1]).copied();
    sizes.collect::<Vec<u8>>().into_iter().cycle().map_while(move |size| {
        let (piece, behind) = rest.split_at(usize::from(size).min(rest.len()));
        let done = rest.is_empty();
        rest = behind;
        (!done).then_some(piece)
    })
}

/// How the upgrade ended, what was answered, and what was left for the frames.
fn upgrade(
    side: Side,
    pieces: &mut dyn Iterator<Item = &[u8]>,
) -> (Option<Result<String, String>>, Vec<u8>, Vec<u8>) {
    let mut out = Vec::new();
    let mut rest = Vec::new();
    let mut outcome = None;
    let url = Url::parse("ws://example.org/path?query").expect("a URL");
    let mut accept = Accept::new(None, MAX_UPGRADE);
    let mut dial =
        Dial::new(&url, &HeaderMap::new(), KEY, MAX_UPGRADE, &mut Vec::new()).expect("usable");
    for mut piece in pieces {
        if outcome.is_none() {
            let step = match side {
                Side::Server => accept.feed(&mut piece, &mut out),
                Side::Client => dial.feed(&mut piece),
            };
            outcome = match step {
                Ok(None) => {
                    assert!(piece.is_empty(), "unfinished, but not all was taken");
                    None
                }
                Ok(Some(upgraded)) => Some(Ok(upgraded.path)),
                Err(error) => Some(Err(error.to_string())),
            };
        }
        if matches!(outcome, Some(Ok(_))) {
            rest.extend_from_slice(piece);
        }
    }
    if let Some(Ok(_)) = outcome {
        assert!(dial.feed(&mut &b"x"[..]).is_err() || side == Side::Server);
    }
    (outcome, out, rest)
}

type Read = (Vec<Incoming>, Option<WsError>, Vec<Incoming>);

/// What came, how it ended, and what was answered: unmasked, because tungstenite masks at random.
fn read(side: Side, pieces: &mut dyn Iterator<Item = &[u8]>) -> Read {
    let (messages, error, out) = read_raw(side, pieces);
    let (answers, wrong, _) = read_raw(opposite(side), &mut [&out[..]].into_iter());
    assert_eq!(wrong, None, "wrong answers");
    (messages, error, answers)
}

fn opposite(side: Side) -> Side {
    match side {
        Side::Server => Side::Client,
        Side::Client => Side::Server,
    }
}

fn read_raw(
    side: Side,
    pieces: &mut dyn Iterator<Item = &[u8]>,
) -> (Vec<Incoming>, Option<WsError>, Vec<u8>) {
    let mut socket = Socket::new(side, MAX_MESSAGE);
    let (mut messages, mut out) = (Vec::new(), Vec::new());
    let mut closed = false;
    for mut piece in pieces {
        loop {
            match socket.read(&mut piece, &mut out) {
                Ok(None) => {
                    assert!(piece.is_empty(), "not all was taken");
                    break;
                }
                Ok(Some(message)) => {
                    assert!(!closed, "{message:?} after the end");
                    if let Incoming::Binary(data) = &message {
                        assert!(data.len() <= MAX_MESSAGE);
                    }
                    closed = matches!(message, Incoming::Close { .. });
                    messages.push(message);
                }
                Err(error) => {
                    let again = socket.read(&mut &[][..], &mut out);
                    assert_eq!(again, Err(error.clone()), "an error stays");
                    return (messages, Some(error), out);
                }
            }
        }
    }
    (messages, None, out)
}

/// Writes messages as one side, and reads them as the other.
fn roundtrip(side: Side, cuts: &[u8], mut input: Input<'_>) {
    let mut writer = FrameWriter::new(opposite(side), u64::from(input.byte()));
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    let mut pings = Vec::new();
    while !input.is_empty() {
        let kind = input.byte();
        let data = input.chunk();
        match kind % 5 {
            0 | 1 => {
                // Long ones without long inputs.
                let data = data.repeat(1 + usize::from(kind) / 32);
                let data = &data[..data.len().min(MAX_MESSAGE)];
                writer.binary(&mut bytes, data.len(), |out| out.extend_from_slice(data));
                expected.push(Incoming::Binary(data.to_vec().into()));
            }
            2 => {
                writer.ping(&mut bytes, data);
                let data = &data[..data.len().min(125)];
                expected.push(Incoming::Ping(data.to_vec().into()));
                pings.push(Incoming::Pong(data.to_vec().into()));
            }
            3 => {
                writer.pong(&mut bytes, data);
                let data = &data[..data.len().min(125)];
                expected.push(Incoming::Pong(data.to_vec().into()));
            }
            _ => {
                let reason = String::from_utf8_lossy(data);
                let code = 1000 + u16::from(kind) * 16;
                writer.close(&mut bytes, code, &reason);
                let (messages, error, _) = read(side, &mut pieces(cuts, &bytes));
                assert_eq!(error, None);
                let Some((Incoming::Close { code: read, reason: text }, before)) =
                    messages.split_last()
                else {
                    panic!("no close in {messages:?}");
                };
                assert!(*read == code || *read == 1005, "{code} became {read}");
                assert!(reason.starts_with(text.as_str()));
                assert_eq!(before, expected);
                return;
            }
        }
    }
    let (messages, error, pongs) = read(side, &mut pieces(cuts, &bytes));
    assert_eq!(error, None);
    assert_eq!(messages, expected);
    assert_eq!(pongs, pings, "a pong for every ping");
}
