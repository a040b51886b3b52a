//! The frames that connected peers exchange.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::json::{self, JsonError};
use super::name::check_name;
use super::num::{Num, NumError};
use super::payload::{DataType, Payload};
use super::text;

pub(super) const MESSAGE: u8 = 100;
pub(super) const REQUEST: u8 = 101;
const RESPONSE: u8 = 102;
const STREAM_REQUEST_READ: u8 = 103;
const STREAM_REQUEST_WRITE: u8 = 104;
const REJECT: u8 = 105;
const STREAM: u8 = 106;
const STREAM_ACCEPT: u8 = 107;
const STREAM_REFUSE: u8 = 108;
const CANCEL: u8 = 111;
const ACQUAINT: u8 = 200;
const ROLES: u8 = 201;

const CHUNK: u8 = 0;
const FINISH: u8 = 1;
const ERROR: u8 = 2;
const QUOTA: u8 = 3;

/// One frame between connected peers: the content of one binary WebSocket message.
///
/// `corr` is the correlation that its sender chose to recognise the answer by, `chan` the number
/// that its sender (of a request or an accept) listens on for the frames of a stream, or (in
/// [`Frame::Stream`]) the number that the receiver listens on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// 100: a one-way message.
    Message {
        /// The role it is addressed to.
        role: Cow<'a, str>,
        /// The event, possibly empty.
        event: Cow<'a, str>,
        /// The datum.
        payload: Payload<'a>,
    },
    /// 101: a request, to be answered with a response or a reject.
    Request {
        /// The role it is addressed to.
        role: Cow<'a, str>,
        /// The event, possibly empty.
        event: Cow<'a, str>,
        /// Names the request in its answer.
        corr: Num,
        /// The datum.
        payload: Payload<'a>,
    },
    /// 102: the request was served.
    Response {
        /// The correlation of the request.
        corr: Num,
        /// The answer.
        payload: Payload<'a>,
    },
    /// 105: the request was rejected. Go answers refused stream requests with it too.
    Reject {
        /// The correlation of the request.
        corr: Num,
        /// The reason: a string, except from Go.
        payload: Payload<'a>,
    },
    /// 103 or 104: a request to open a stream.
    StreamRequest {
        /// Which end would write.
        direction: Direction,
        /// The role it is addressed to.
        role: Cow<'a, str>,
        /// The event, possibly empty.
        event: Cow<'a, str>,
        /// Names the request in its answer.
        corr: Num,
        /// The requester's channel.
        chan: Num,
        /// The datum.
        payload: Payload<'a>,
    },
    /// 107: the stream is open.
    StreamAccept {
        /// The correlation of the request.
        corr: Num,
        /// The responder's channel.
        chan: Num,
        /// A datum that goes with the answer.
        payload: Payload<'a>,
    },
    /// 108: the stream was refused.
    StreamRefuse {
        /// The correlation of the request.
        corr: Num,
        /// Of no meaning; JavaScript sends 0.
        chan: Num,
        /// The reason; from JavaScript a string that holds the JSON `{"data": reason}`.
        payload: Payload<'a>,
    },
    /// 106: data of an open stream or its flow control.
    Stream {
        /// The channel of the receiver.
        chan: Num,
        /// What happens on it.
        op: StreamOp<'a>,
    },
    /// 111: the requester gives a request up. An extension of ours.
    Cancel {
        /// The correlation of the request.
        corr: Num,
    },
    /// 200: tells of another peer.
    Acquaint(Acquaint),
    /// 201: the sender's active roles have changed.
    Roles(RolesUpdate),
}

/// Which way the data of a requested stream flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// 103: the requester reads, the responder writes.
    RequesterReads,
    /// 104: the requester writes, the responder reads.
    RequesterWrites,
}

/// What a [`Frame::Stream`] does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamOp<'a> {
    /// 0: the next bytes, from the writer.
    Chunk(&'a [u8]),
    /// 1: the end of the data, from the writer. Bytes that follow are ignored.
    Finish,
    /// 2: the stream has failed, from either end. A JavaScript reader sends an empty reason after
    /// a normal end.
    Error(Cow<'a, str>),
    /// 3: how many bytes the writer may send, from the reader.
    Quota(Num),
    /// Any other flag, to be ignored with all that follows it. Must not hold a flag that has a
    /// name above.
    Unknown(u8),
}

/// Tells of another peer that the sender is connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Acquaint {
    /// The id of that peer.
    pub id: String,
    /// The URL at which it was reached. JavaScript dies on a frame without it: such are received,
    /// and never to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
}

/// The sender's active roles.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RolesUpdate {
    /// The sender's counter of updates: one that is not above the last is stale. An update
    /// without it always counts. A negative counter reads as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i: Option<u64>,
    /// The names of all active roles.
    pub roles: Vec<String>,
}

/// Why bytes are not a [`Frame`].
///
/// Every message is shorter than 100 bytes and quotes nothing of what was received, so it may
/// be used as the reason of a WebSocket close.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are no bytes at all.
    #[error("empty frame")]
    Empty,
    /// No frame starts with this byte.
    #[error("unknown frame type {0}")]
    UnknownFrame(u8),
    /// The frame ends before all of its parts are complete.
    #[error("{frame} frame is cut off in its {field}")]
    Truncated {
        /// Which frame.
        frame: &'static str,
        /// Which part of it.
        field: &'static str,
    },
    /// A number has no bytes.
    #[error("{frame} frame has a {field} of no bytes")]
    EmptyNumber {
        /// Which frame.
        frame: &'static str,
        /// Which number in it.
        field: &'static str,
    },
    /// A number does not fit in 64 bits, or takes more than 255 bytes.
    #[error("{frame} frame has a {field} that is too large")]
    NumberTooLarge {
        /// Which frame.
        frame: &'static str,
        /// Which number in it.
        field: &'static str,
    },
    /// Fields go with a frame that may have none.
    #[error("fields frame goes with a frame of type {0}")]
    NotWrapped(u8),
    /// A control frame does not hold JSON.
    #[error("{frame} frame is not valid JSON (line {line}, column {column})")]
    InvalidJson {
        /// Which frame.
        frame: &'static str,
        /// Where it went wrong, counting from 1.
        line: usize,
        /// Where it went wrong, counting from 1.
        column: usize,
    },
    /// A control frame holds other JSON than an object.
    #[error("{frame} frame is not a JSON object")]
    NotAnObject {
        /// Which frame.
        frame: &'static str,
    },
    /// A field of a control frame is missing or of a wrong type.
    #[error("{frame} frame: \"{field}\" must be {expected}")]
    InvalidField {
        /// Which frame.
        frame: &'static str,
        /// Which field of the JSON object.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl<'a> Frame<'a> {
    /// Whether what begins with this byte may go on any connection of its unit, with fields or without: a message, a
    /// request of any kind, a cancel, or an answer that opens no stream.
    pub(crate) fn may_move(first: u8) -> bool {
        const READ: u8 = STREAM_REQUEST_READ;
        const WRITE: u8 = STREAM_REQUEST_WRITE;
        matches!(first, MESSAGE | REQUEST | READ | WRITE | super::fields::FIELDS)
            || matches!(first, RESPONSE | REJECT | STREAM_REFUSE | CANCEL)
    }

    /// Whether the frame that `bytes` are carries JSON, which takes a multiple of its size when it is
    /// decoded: an acquaintance or an announcement of roles.
    pub(crate) fn is_json(bytes: &[u8]) -> bool {
        matches!(bytes.first(), Some(&(ACQUAINT | ROLES)))
    }

    /// Whether the frame that `bytes` are is an announcement of roles.
    pub(crate) fn is_roles(bytes: &[u8]) -> bool {
        bytes.first() == Some(&ROLES)
    }

    /// Whether the frame that `bytes` are is a one-way message.
    #[inline]
    pub fn is_message(bytes: &[u8]) -> bool {
        bytes.first() == Some(&MESSAGE)
    }

    /// Reads the frame that `bytes` are, borrowing from them.
    ///
    /// Names and texts that are not UTF-8 have the wrong parts replaced by U+FFFD, as JavaScript
    /// does; a name may become longer than 65535 bytes by that. The content of a payload is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// Any [`DecodeError`]: the connection it came from does not speak the protocol.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
        let (&frame, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let mut reader = Reader { frame, rest };
        match frame {
            MESSAGE => {
                let role_len = reader.u16("role")?;
                let event_len = reader.u16("event")?;
                Ok(Frame::Message {
                    role: reader.text(role_len, "role")?,
                    event: reader.text(event_len, "event")?,
                    payload: reader.payload()?,
                })
            }
            REQUEST => {
                let role_len = reader.u16("role")?;
                let event_len = reader.u16("event")?;
                let corr_len = reader.u8("correlation")?;
                Ok(Frame::Request {
                    role: reader.text(role_len, "role")?,
                    event: reader.text(event_len, "event")?,
                    corr: reader.num(corr_len, "correlation")?,
                    payload: reader.payload()?,
                })
            }
            RESPONSE | REJECT => {
                let corr_len = reader.u8("correlation")?;
                let corr = reader.num(corr_len, "correlation")?;
                let payload = reader.payload()?;
                Ok(match frame {
                    RESPONSE => Frame::Response { corr, payload },
                    _ => Frame::Reject { corr, payload },
                })
            }
            STREAM_REQUEST_READ | STREAM_REQUEST_WRITE => {
                let role_len = reader.u16("role")?;
                let event_len = reader.u16("event")?;
                let corr_len = reader.u8("correlation")?;
                let chan_len = reader.u8("channel")?;
                Ok(Frame::StreamRequest {
                    direction: match frame {
                        STREAM_REQUEST_READ => Direction::RequesterReads,
                        _ => Direction::RequesterWrites,
                    },
                    role: reader.text(role_len, "role")?,
                    event: reader.text(event_len, "event")?,
                    corr: reader.num(corr_len, "correlation")?,
                    chan: reader.num(chan_len, "channel")?,
                    payload: reader.payload()?,
                })
            }
            STREAM_ACCEPT | STREAM_REFUSE => {
                let corr_len = reader.u8("correlation")?;
                let chan_len = reader.u8("channel")?;
                let corr = reader.num(corr_len, "correlation")?;
                let chan = reader.num(chan_len, "channel")?;
                let payload = reader.payload()?;
                Ok(match frame {
                    STREAM_ACCEPT => Frame::StreamAccept { corr, chan, payload },
                    _ => Frame::StreamRefuse { corr, chan, payload },
                })
            }
            STREAM => {
                let chan_len = reader.u8("channel")?;
                Ok(Frame::Stream {
                    chan: reader.num(chan_len, "channel")?,
                    op: match reader.u8("flag")? {
                        CHUNK => StreamOp::Chunk(reader.rest),
                        FINISH => StreamOp::Finish,
                        ERROR => StreamOp::Error(text::decode(reader.rest)),
                        QUOTA => StreamOp::Quota(reader.parse_num(reader.rest, "quota")?),
                        flag => StreamOp::Unknown(flag),
                    },
                })
            }
            CANCEL => {
                let corr = reader.parse_num(reader.rest, "correlation")?;
                Ok(Frame::Cancel { corr })
            }
            ACQUAINT => Acquaint::decode(rest).map(Frame::Acquaint),
            ROLES => RolesUpdate::decode(rest).map(Frame::Roles),
            other => Err(DecodeError::UnknownFrame(other)),
        }
    }

    /// How many bytes [`encode`](Frame::encode) appends, exactly.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            Frame::Message { role, event, payload } => message_len(role, event, payload),
            Frame::Request { role, event, corr, payload } => {
                request_len(role, event, *corr, payload)
            }
            Frame::Response { corr, payload } | Frame::Reject { corr, payload } => {
                response_len(*corr, payload)
            }
            Frame::StreamRequest { role, event, corr, chan, payload, .. } => {
                let names = role.len() + event.len();
                1 + 2 + 2 + names + num_len(*corr) + num_len(*chan) + payload_len(payload)
            }
            Frame::StreamAccept { corr, chan, payload }
            | Frame::StreamRefuse { corr, chan, payload } => {
                1 + num_len(*corr) + num_len(*chan) + payload_len(payload)
            }
            Frame::Stream { chan, op } => {
                let rest = match op {
                    StreamOp::Chunk(bytes) => bytes.len(),
                    StreamOp::Error(reason) => reason.len(),
                    StreamOp::Quota(quota) => quota.width().into(),
                    StreamOp::Finish | StreamOp::Unknown(_) => 0,
                };
                1 + num_len(*chan) + 1 + rest
            }
            Frame::Cancel { corr } => 1 + usize::from(corr.width()),
            Frame::Acquaint(acquaint) => 1 + json::encoded_len(acquaint),
            Frame::Roles(roles) => 1 + json::encoded_len(roles),
        }
    }

    /// Appends the frame to `out`.
    ///
    /// # Panics
    ///
    /// If a role or event name is longer than 65535 bytes: [`check_name`] comes first.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            // Most of what is sent: appended in few pieces, for which the writer has reserved the room.
            Frame::Message { role, event, payload } => put_message(role, event, payload, out),
            Frame::Request { role, event, corr, payload } => {
                put_request(role, event, *corr, payload, out);
            }
            Frame::Response { corr, payload } => put_response(*corr, payload, out),
            _ => self.encode_others(out),
        }
    }

    fn encode_others(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Acquaint(acquaint) => {
                out.push(ACQUAINT);
                return json::encode(acquaint, out);
            }
            Frame::Roles(roles) => {
                out.push(ROLES);
                return json::encode(roles, out);
            }
            _ => out.reserve(self.encoded_len()),
        }
        match self {
            Frame::Reject { corr, payload } => put_answer(REJECT, *corr, payload, out),
            Frame::StreamRequest { direction, role, event, corr, chan, payload } => {
                out.push(match direction {
                    Direction::RequesterReads => STREAM_REQUEST_READ,
                    Direction::RequesterWrites => STREAM_REQUEST_WRITE,
                });
                out.extend_from_slice(&name_len(role));
                out.extend_from_slice(&name_len(event));
                out.push(corr.width());
                out.push(chan.width());
                out.extend_from_slice(role.as_bytes());
                out.extend_from_slice(event.as_bytes());
                corr.encode(out);
                chan.encode(out);
                put_payload(payload, out);
            }
            Frame::StreamAccept { corr, chan, payload } => {
                put_stream_answer(STREAM_ACCEPT, *corr, *chan, payload, out)
            }
            Frame::StreamRefuse { corr, chan, payload } => {
                put_stream_answer(STREAM_REFUSE, *corr, *chan, payload, out)
            }
            Frame::Stream { chan, op } => {
                out.push(STREAM);
                out.push(chan.width());
                chan.encode(out);
                match op {
                    StreamOp::Chunk(bytes) => {
                        out.push(CHUNK);
                        out.extend_from_slice(bytes);
                    }
                    StreamOp::Finish => out.push(FINISH),
                    StreamOp::Error(reason) => {
                        out.push(ERROR);
                        out.extend_from_slice(reason.as_bytes());
                    }
                    StreamOp::Quota(quota) => {
                        out.push(QUOTA);
                        quota.encode(out);
                    }
                    StreamOp::Unknown(flag) => {
                        debug_assert!(*flag > QUOTA, "flag {flag} has a name");
                        out.push(*flag);
                    }
                }
            }
            Frame::Cancel { corr } => {
                out.push(CANCEL);
                corr.encode(out);
            }
            Frame::Message { .. } | Frame::Request { .. } | Frame::Response { .. } => {}
            Frame::Acquaint(_) | Frame::Roles(_) => {}
        }
    }
}

/// The length of a [`Frame::Message`].
#[inline]
pub(crate) fn message_len(role: &str, event: &str, payload: &Payload<'_>) -> usize {
    1 + 2 + 2 + role.len() + event.len() + payload_len(payload)
}

/// Appends a [`Frame::Message`], of which there may be millions a second.
///
/// # Panics
/// As [`Frame::encode`].
#[inline]
pub(crate) fn put_message(role: &str, event: &str, payload: &Payload<'_>, out: &mut Vec<u8>) {
    let [[a, b], [c, d]] = [name_len(role), name_len(event)];
    out.extend_from_slice(&[MESSAGE, a, b, c, d]);
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(event.as_bytes());
    put_payload(payload, out);
}

/// The length of a [`Frame::Request`].
#[inline]
pub(crate) fn request_len(role: &str, event: &str, corr: Num, payload: &Payload<'_>) -> usize {
    1 + 2 + 2 + role.len() + event.len() + num_len(corr) + payload_len(payload)
}

/// Appends a [`Frame::Request`], as [`put_message`].
///
/// # Panics
/// As [`Frame::encode`].
#[inline]
pub(crate) fn put_request(
    role: &str,
    event: &str,
    corr: Num,
    payload: &Payload<'_>,
    out: &mut Vec<u8>,
) {
    let [[a, b], [c, d]] = [name_len(role), name_len(event)];
    out.extend_from_slice(&[REQUEST, a, b, c, d, corr.width()]);
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(event.as_bytes());
    corr.encode(out);
    put_payload(payload, out);
}

/// The length of a [`Frame::Response`].
#[inline]
pub(crate) fn response_len(corr: Num, payload: &Payload<'_>) -> usize {
    1 + num_len(corr) + payload_len(payload)
}

/// Appends a [`Frame::Response`].
#[inline]
pub(crate) fn put_response(corr: Num, payload: &Payload<'_>, out: &mut Vec<u8>) {
    put_answer(RESPONSE, corr, payload, out);
}

/// The correlation and the payload of a [`Frame::Response`]. None for everything else, and for what
/// [`Frame::decode`] has an error for.
#[inline]
pub(crate) fn read_response(bytes: &[u8]) -> Option<(Num, Payload<'_>)> {
    let [RESPONSE, corr_len, rest @ ..] = bytes else { return None };
    let (corr, rest) = rest.split_at_checked((*corr_len).into())?;
    let (kind, bytes) = rest.split_first()?;
    Some((Num::decode(corr).ok()?, Payload { kind: DataType::from_byte(*kind), bytes }))
}

#[inline]
fn payload_len(payload: &Payload<'_>) -> usize {
    1 + payload.bytes.len()
}

/// A number with the byte that gives its width.
#[inline]
fn num_len(num: Num) -> usize {
    1 + usize::from(num.width())
}

#[inline]
fn name_len(name: &str) -> [u8; 2] {
    // A wrapped length would turn the rest of the name into somebody else's payload.
    assert!(check_name(name).is_ok(), "unchecked role or event name");
    (name.len() as u16).to_be_bytes()
}

#[inline]
fn put_payload(payload: &Payload<'_>, out: &mut Vec<u8>) {
    out.push(payload.kind.as_byte());
    out.extend_from_slice(payload.bytes);
}

#[inline]
fn put_answer(frame: u8, corr: Num, payload: &Payload<'_>, out: &mut Vec<u8>) {
    out.push(frame);
    out.push(corr.width());
    corr.encode(out);
    put_payload(payload, out);
}

fn put_stream_answer(frame: u8, corr: Num, chan: Num, payload: &Payload<'_>, out: &mut Vec<u8>) {
    out.push(frame);
    out.push(corr.width());
    out.push(chan.width());
    corr.encode(out);
    chan.encode(out);
    put_payload(payload, out);
}

impl Acquaint {
    fn decode(bytes: &[u8]) -> Result<Acquaint, DecodeError> {
        let text = text::decode(bytes);
        let [id, address, roles] = fields(ACQUAINT, &text, &["id", "address", "roles"])?;
        Ok(Acquaint {
            id: id
                .and_then(json::string)
                .ok_or_else(|| invalid_field(ACQUAINT, "id", "a string"))?,
            // Without a usable address or roles it is of no use, but does no harm either: originals
            // send it so.
            address: address.and_then(json::string),
            roles: roles.and_then(json::strings).unwrap_or_default(),
        })
    }
}

impl RolesUpdate {
    fn decode(bytes: &[u8]) -> Result<RolesUpdate, DecodeError> {
        let text = text::decode(bytes);
        let [i, roles] = fields(ROLES, &text, &["i", "roles"])?;
        Ok(RolesUpdate {
            i: i.and_then(json::integer).map(|i| u64::try_from(i.max(0)).unwrap_or(u64::MAX)),
            roles: roles
                .and_then(json::strings)
                .ok_or_else(|| invalid_field(ROLES, "roles", "an array of strings"))?,
        })
    }
}

fn fields<'a, const N: usize>(
    frame: u8,
    text: &'a str,
    names: &[&str; N],
) -> Result<[Option<&'a RawValue>; N], DecodeError> {
    let frame = frame_name(frame);
    json::fields(text, names).map_err(|error| match error {
        JsonError::Syntax { line, column } => DecodeError::InvalidJson { frame, line, column },
        JsonError::NotAnObject => DecodeError::NotAnObject { frame },
    })
}

fn invalid_field(frame: u8, field: &'static str, expected: &'static str) -> DecodeError {
    DecodeError::InvalidField { frame: frame_name(frame), field, expected }
}

fn frame_name(frame: u8) -> &'static str {
    match frame {
        MESSAGE => "message",
        REQUEST => "request",
        RESPONSE => "response",
        STREAM_REQUEST_READ | STREAM_REQUEST_WRITE => "stream request",
        REJECT => "reject",
        STREAM => "stream",
        STREAM_ACCEPT => "stream accept",
        STREAM_REFUSE => "stream refuse",
        CANCEL => "cancel",
        ACQUAINT => "acquaint",
        ROLES => "roles",
        _ => "unknown",
    }
}

/// What is left to read of a frame.
struct Reader<'a> {
    frame: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    #[inline]
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn text(&mut self, len: u16, field: &'static str) -> Result<Cow<'a, str>, DecodeError> {
        self.take(len.into(), field).map(text::decode)
    }

    #[inline]
    fn num(&mut self, len: u8, field: &'static str) -> Result<Num, DecodeError> {
        let bytes = self.take(len.into(), field)?;
        self.parse_num(bytes, field)
    }

    #[inline]
    fn parse_num(&self, bytes: &[u8], field: &'static str) -> Result<Num, DecodeError> {
        Num::decode(bytes).map_err(|error| {
            let frame = frame_name(self.frame);
            match error {
                NumError::Empty => DecodeError::EmptyNumber { frame, field },
                NumError::TooLarge => DecodeError::NumberTooLarge { frame, field },
            }
        })
    }

    #[inline]
    fn payload(&mut self) -> Result<Payload<'a>, DecodeError> {
        let kind = DataType::from_byte(self.u8("payload")?);
        Ok(Payload { kind, bytes: self.rest })
    }

    #[cold]
    fn truncated(&self, field: &'static str) -> DecodeError {
        DecodeError::Truncated { frame: frame_name(self.frame), field }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn encoded(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = b"before".to_vec();
        frame.encode(&mut out);
        let bytes = out.split_off(6);
        assert_eq!(out, b"before");
        bytes
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    fn json_frame(first: u8, json: &str) -> Vec<u8> {
        [&[first], json.as_bytes()].concat()
    }

    #[test]
    fn valid_names_are_borrowed_and_invalid_ones_replaced() {
        let bytes = hex("6400010001616201");
        let Frame::Message { role, event, .. } = Frame::decode(&bytes).unwrap() else {
            panic!("not a message");
        };
        assert!(matches!(role, Cow::Borrowed("a")));
        assert!(matches!(event, Cow::Borrowed("b")));

        let bytes = hex("640002000161ff6201");
        let Frame::Message { role, .. } = Frame::decode(&bytes).unwrap() else {
            panic!("not a message");
        };
        assert_eq!(role, "a\u{fffd}");
        assert!(matches!(role, Cow::Owned(_)));

        let bytes = hex("6a010002ff");
        let Frame::Stream { op, .. } = Frame::decode(&bytes).unwrap() else {
            panic!("not a stream frame");
        };
        assert_eq!(op, StreamOp::Error("\u{fffd}".into()));
    }

    #[test]
    fn unknown_and_empty_frames() {
        assert_eq!(Frame::decode(&[]), Err(DecodeError::Empty));
        for first in (0..100).chain(109..111).chain(112..200).chain(202..=255) {
            assert_eq!(Frame::decode(&[first, 0, 0, 0]), Err(DecodeError::UnknownFrame(first)));
        }
    }

    #[test]
    fn every_cut_before_the_payload_type_is_an_error() {
        for text in [
            "6400010001616200",
            "65000100010161620000",
            "66010000",
            "69010000",
            "6700010001010261620000ff00",
            "6800010001010261620000ff00",
            "6b01010000 00".replace(' ', "").as_str(),
            "6c0101000000",
            "6a010000",
        ] {
            let bytes = hex(text);
            Frame::decode(&bytes).unwrap();
            for len in 1..bytes.len() {
                let error = Frame::decode(&bytes[..len]).unwrap_err();
                assert!(
                    matches!(error, DecodeError::Truncated { .. }),
                    "{text} cut to {len}: {error}"
                );
            }
        }
    }

    #[test]
    fn numbers() {
        // Empty.
        for text in ["650000000000", "660000", "6a000000", "6a010003", "6b000101"] {
            let error = Frame::decode(&hex(text)).unwrap_err();
            assert!(matches!(error, DecodeError::EmptyNumber { .. }), "{text}: {error}");
        }
        // Beyond 64 bits.
        for text in ["660901000000000000000001", "6a010003010000000000000000"] {
            let error = Frame::decode(&hex(text)).unwrap_err();
            assert!(matches!(error, DecodeError::NumberTooLarge { .. }), "{text}: {error}");
        }
        // Leading zeros are kept.
        let bytes = hex("660900ffffffffffffffff01");
        let frame = Frame::decode(&bytes).unwrap();
        assert_eq!(
            frame,
            Frame::Response { corr: Num::padded(u64::MAX, 9), payload: Payload::NULL }
        );
        assert_eq!(encoded(&frame), bytes);
    }

    #[test]
    fn stream_flags() {
        let decode = |text: &str| match Frame::decode(&hex(text)).unwrap() {
            Frame::Stream { op, .. } => format!("{op:?}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(decode("6a010100"), "Chunk([])");
        assert_eq!(decode("6a010101ffff"), "Finish");
        assert_eq!(decode("6a010102"), "Error(\"\")");
        assert_eq!(decode("6a0101030010"), "Quota(Num { value: 16, width: 2 })");
        assert_eq!(decode("6a010104ffff"), "Unknown(4)");
    }

    #[test]
    fn acquaint_json() {
        let decode = |json: &str| {
            Frame::decode(&json_frame(200, json)).map(|frame| match frame {
                Frame::Acquaint(acquaint) => acquaint,
                other => panic!("{other:?}"),
            })
        };
        let full = decode(r#"{"roles":["a","b"],"extra":{},"address":"ws://x","id":"i"}"#).unwrap();
        assert_eq!(
            full,
            Acquaint {
                id: "i".into(),
                address: Some("ws://x".into()),
                roles: vec!["a".into(), "b".into()]
            }
        );
        assert_eq!(
            encoded(&Frame::Acquaint(full)),
            json_frame(200, r#"{"id":"i","address":"ws://x","roles":["a","b"]}"#)
        );
        for json in [
            r#"{"id":"i","roles":[]}"#,
            r#"{"id":"i","address":null,"roles":[]}"#,
            r#"{"id":"i","address":5,"roles":"x"}"#,
            r#"{"id":"i"}"#,
        ] {
            let expected = Acquaint { id: "i".into(), address: None, roles: Vec::new() };
            assert_eq!(decode(json).unwrap(), expected, "{json}");
        }
        for (json, message) in [
            ("", "acquaint frame is not valid JSON (line 1, column 0)"),
            ("{", "acquaint frame is not valid JSON (line 1, column 1)"),
            ("null", "acquaint frame is not a JSON object"),
            ("{}", "acquaint frame: \"id\" must be a string"),
            (r#"{"id":null,"roles":[]}"#, "acquaint frame: \"id\" must be a string"),
        ] {
            assert_eq!(decode(json).unwrap_err().to_string(), message, "{json}");
        }
    }

    #[test]
    fn roles_json() {
        let decode = |json: &str| {
            Frame::decode(&json_frame(201, json)).map(|frame| match frame {
                Frame::Roles(roles) => roles,
                other => panic!("{other:?}"),
            })
        };
        let update = decode(r#"{"roles":["a"],"i":7}"#).unwrap();
        assert_eq!(update, RolesUpdate { i: Some(7), roles: vec!["a".into()] });
        assert_eq!(encoded(&Frame::Roles(update)), json_frame(201, r#"{"i":7,"roles":["a"]}"#));
        for (i, expected) in [
            ("7.0", Some(7)),
            ("-1", Some(0)),
            ("1.5", None),
            ("null", None),
            ("\"7\"", None),
            ("1e300", Some(u64::MAX)),
        ] {
            let json = format!("{{\"i\":{i},\"roles\":[]}}");
            assert_eq!(decode(&json).unwrap().i, expected, "{json}");
        }
        assert_eq!(decode(r#"{"roles":[]}"#).unwrap().i, None);
        for json in [
            "",
            "zzz",
            "null",
            "[]",
            r#"{"i":1}"#,
            r#"{"i":1,"roles":"a"}"#,
            r#"{"i":1,"roles":[1]}"#,
            r#"{"i":1,"roles":null}"#,
        ] {
            assert!(decode(json).is_err(), "{json}");
        }
    }

    #[test]
    fn messages_fit_a_close_reason() {
        let frame = "stream request";
        for error in [
            DecodeError::Empty,
            DecodeError::UnknownFrame(255),
            DecodeError::Truncated { frame, field: "correlation" },
            DecodeError::EmptyNumber { frame, field: "correlation" },
            DecodeError::NumberTooLarge { frame, field: "correlation" },
            DecodeError::InvalidJson { frame, line: usize::MAX, column: 0 },
            DecodeError::NotAnObject { frame },
            invalid_field(ROLES, "roles", "an array of strings"),
        ] {
            assert!(error.to_string().len() < 100, "{error}");
        }
    }

    #[test]
    #[should_panic(expected = "unchecked role or event name")]
    fn a_name_that_does_not_fit_is_not_sent() {
        let name = "x".repeat(65_536);
        encoded(&Frame::Message { role: "r".into(), event: name.into(), payload: Payload::NULL });
    }

    /// A frame that owns everything, to borrow a [`Frame`] from.
    #[derive(Clone, Debug)]
    struct Parts {
        shape: u8,
        role: String,
        event: String,
        corr: Num,
        chan: Num,
        kind: u8,
        bytes: Vec<u8>,
        names: Vec<String>,
        count: Option<u64>,
    }

    impl Parts {
        fn frame(&self) -> Frame<'_> {
            let payload = Payload { kind: DataType::from_byte(self.kind), bytes: &self.bytes };
            let (corr, chan) = (self.corr, self.chan);
            let (role, event) = (Cow::from(&self.role), Cow::from(&self.event));
            let stream = |op| Frame::Stream { chan, op };
            let stream_request = |direction| Frame::StreamRequest {
                direction,
                role: role.clone(),
                event: event.clone(),
                corr,
                chan,
                payload,
            };
            match self.shape {
                0 => Frame::Message { role, event, payload },
                1 => Frame::Request { role, event, corr, payload },
                2 => Frame::Response { corr, payload },
                3 => Frame::Reject { corr, payload },
                4 => stream_request(Direction::RequesterReads),
                5 => stream_request(Direction::RequesterWrites),
                6 => Frame::StreamAccept { corr, chan, payload },
                7 => Frame::StreamRefuse { corr, chan, payload },
                8 => stream(StreamOp::Chunk(&self.bytes)),
                9 => stream(StreamOp::Finish),
                10 => stream(StreamOp::Error(event)),
                11 => stream(StreamOp::Quota(corr)),
                12 => stream(StreamOp::Unknown(self.kind.max(4))),
                13 => Frame::Acquaint(Acquaint {
                    id: self.role.clone(),
                    address: self.count.map(|_| self.event.clone()),
                    roles: self.names.clone(),
                }),
                14 => Frame::Cancel { corr },
                _ => Frame::Roles(RolesUpdate { i: self.count, roles: self.names.clone() }),
            }
        }
    }

    prop_compose! {
        fn num()(value: u64, shift in 0..64u32, width in 0..12u8) -> Num {
            Num::padded(value >> shift, width)
        }
    }

    prop_compose! {
        fn parts()(
            shape in 0..16u8,
            role in ".{0,40}",
            event in ".{0,300}",
            (corr, chan) in (num(), num()),
            kind: u8,
            bytes in vec(any::<u8>(), 0..300),
            names in vec(any::<String>(), 0..5),
            count in option::of(any::<u64>()),
        ) -> Parts {
            Parts { shape, role, event, corr, chan, kind, bytes, names, count }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn round_trips(parts in parts()) {
            let frame = parts.frame();
            let bytes = encoded(&frame);
            prop_assert_eq!(bytes.len(), frame.encoded_len());
            prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            first in prop_oneof![any::<u8>(), 100..=111u8, 200..=201u8],
            rest in prop_oneof![
                vec(any::<u8>(), 0..64),
                vec(0..4u8, 0..64),
                "[{}\\[\\]\":,a-z0-9.]{0,40}".prop_map(String::into_bytes),
            ],
        ) {
            let bytes = [vec![first], rest].concat();
            let response = match Frame::decode(&bytes) {
                Ok(Frame::Response { corr, payload }) => Some((corr, payload)),
                _ => None,
            };
            prop_assert_eq!(read_response(&bytes), response);
            match Frame::decode(&bytes) {
                Ok(frame) => {
                    // Text that was not UTF-8 and ignored bytes do not come back, the meaning does.
                    let again = encoded(&frame);
                    prop_assert_eq!(again.len(), frame.encoded_len());
                    prop_assert_eq!(Frame::decode(&again).unwrap(), frame);
                }
                Err(error) => prop_assert!(error.to_string().len() < 100, "{}", error),
            }
        }

        #[test]
        fn damaged_frames_do_no_harm(parts in parts(), at: prop::sample::Index, byte: u8, cut: bool) {
            let mut bytes = encoded(&parts.frame());
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] = byte;
            }
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert!(frame.encoded_len() > 0);
            }
        }
    }
}
