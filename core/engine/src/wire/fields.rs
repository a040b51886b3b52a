//! Fields: what goes with a frame besides its payload (docs/PROTOCOL.md, section 14.4).

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    DecodeError, Frame,
    num::{Num, NumError},
};
use crate::error::{Error, ErrorKind, Result};

/// The most that names and values of all headers of a frame may have together, in bytes.
pub const MAX_HEADERS: usize = 8 << 10;
/// The most headers of a frame.
pub const MAX_HEADER_COUNT: usize = 128;
/// The longest name of a header, in bytes.
pub const MAX_HEADER_NAME: usize = 128;
/// The most that the JSON of a failure may have, in bytes.
pub const MAX_FAILURE: usize = 8 << 10;
/// The most names of events that go with a rejection.
pub(crate) const MAX_KNOWN: usize = 16;
/// The longest block that is received.
const MAX_BLOCK: usize = 32 << 10;
const MAX_TRACESTATE: usize = 512;
const MAX_BAGGAGE: usize = 8 << 10;

/// The first byte of a frame with fields.
pub(crate) const FIELDS: u8 = 110;

const DEADLINE: u8 = 1;
const TRACE: u8 = 2;
const TRACESTATE: u8 = 3;
const BAGGAGE: u8 = 4;
const FAILURE: u8 = 5;
const TRACE_CONTEXT: [u8; 3] = [TRACE, TRACESTATE, BAGGAGE];
const TEXT_HEADER: u8 = 16;
const BINARY_HEADER: u8 = 17;
/// Of a tag: whoever does not know it must not act on the frame.
const MUST: u8 = 0x80;

const FRAME: &str = "fields";

/// Fields to send with a frame, or that were received with one: headers, trace context, how a handler
/// failed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    block: Vec<u8>,
    headers: u16,
    header_bytes: u16,
    required: bool,
}

/// The value of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderValue<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes that are no text, or need not be.
    Bytes(&'a [u8]),
}

impl<'a> HeaderValue<'a> {
    /// The bytes of either.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            HeaderValue::Text(text) => text.as_bytes(),
            HeaderValue::Bytes(bytes) => bytes,
        }
    }

    /// The text, if it is one.
    pub fn text(self) -> Option<&'a str> {
        match self {
            HeaderValue::Text(text) => Some(text),
            HeaderValue::Bytes(_) => None,
        }
    }
}

impl<'a> From<&'a str> for HeaderValue<'a> {
    fn from(text: &'a str) -> HeaderValue<'a> {
        HeaderValue::Text(text)
    }
}

impl<'a> From<&'a [u8]> for HeaderValue<'a> {
    fn from(bytes: &'a [u8]) -> HeaderValue<'a> {
        HeaderValue::Bytes(bytes)
    }
}

impl Fields {
    /// No fields.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// To look at.
    pub fn view(&self) -> FieldsView<'_> {
        FieldsView { block: &self.block }
    }

    /// Whether they are not to be left out: what they are sent with goes only to units that take fields.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Sets whether they are required.
    pub fn set_required(&mut self, required: bool) {
        self.required = required;
    }

    /// Adds a header. A name may be there more than once.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a name that has no characters or others than `a` to `z`, digits,
    /// `-`, `_` and `.`, that begins with `rt-`, or that has more than [`MAX_HEADER_NAME`] of them;
    /// [`ErrorKind::TooLarge`] for more than [`MAX_HEADERS`] bytes in names and values, or more than
    /// [`MAX_HEADER_COUNT`] headers, or when it is too much with all the rest, which only what was received
    /// can bring about. Nothing is added then.
    pub fn add_header<'a>(&mut self, name: &str, value: impl Into<HeaderValue<'a>>) -> Result<()> {
        let value = value.into();
        if let Some(wrong) = name_fault(name) {
            let text = format!("The header name \"{}\" {wrong}", cut_name(name));
            return Err(Error::new(ErrorKind::InvalidArgument, text)
                .with_hint("Use a to z, 0 to 9, \"-\", \"_\" and \".\"."));
        }
        let bytes = usize::from(self.header_bytes) + name.len() + value.bytes().len();
        if bytes > MAX_HEADERS {
            let text =
                format!("The headers have {bytes} bytes, more than the limit of {MAX_HEADERS}");
            return Err(too_large(text));
        }
        if usize::from(self.headers) == MAX_HEADER_COUNT {
            let text = format!("There are more than {MAX_HEADER_COUNT} headers");
            return Err(too_large(text));
        }
        let tag = match value {
            HeaderValue::Text(_) => TEXT_HEADER,
            HeaderValue::Bytes(_) => BINARY_HEADER,
        };
        let name_len = [name.len() as u8];
        self.put(tag, &[&name_len, name.as_bytes(), value.bytes()])?;
        self.headers += 1;
        self.header_bytes = bytes as u16;
        Ok(())
    }

    /// Sets a header in the place of all that have this name.
    ///
    /// # Errors
    /// As [`add_header`](Fields::add_header): nothing is changed then.
    pub fn set_header<'a>(&mut self, name: &str, value: impl Into<HeaderValue<'a>>) -> Result<()> {
        let mut others = Fields { required: self.required, ..Fields::default() };
        for (tag, value) in self.view().entries() {
            let named =
                |value: &[u8]| value.get(1..).is_some_and(|rest| rest.starts_with(name.as_bytes()));
            let is_header = matches!(tag, TEXT_HEADER | BINARY_HEADER);
            let same = is_header && value.first() == Some(&(name.len() as u8)) && named(value);
            if !same {
                others.headers += u16::from(is_header);
                others.header_bytes += if is_header { value.len() as u16 - 1 } else { 0 };
                others.put(tag, &[value])?;
            }
        }
        others.add_header(name, value)?;
        *self = others;
        Ok(())
    }

    /// Sets the trace context, in the form of the W3C headers `traceparent`, `tracestate` and `baggage`; the
    /// latter may be empty.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a `traceparent` of another form; [`ErrorKind::TooLarge`] for more
    /// than 512 bytes of `tracestate` or 8 KiB of `baggage`. Nothing is changed then.
    pub fn set_trace(&mut self, traceparent: &str, tracestate: &str, baggage: &str) -> Result<()> {
        let parent = parse_traceparent(traceparent).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "traceparent is not of the form of W3C Trace Context",
            )
            .with_hint("It looks like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.")
        })?;
        for (name, text, max) in
            [("tracestate", tracestate, MAX_TRACESTATE), ("baggage", baggage, MAX_BAGGAGE)]
        {
            if text.len() > max {
                let text = format!("{name} has {} bytes, more than the limit of {max}", text.len());
                return Err(too_large(text));
            }
        }
        let texts = [(TRACESTATE, tracestate), (BAGGAGE, baggage)];
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
        let entries = texts.map(|(tag, text)| (tag, text.as_bytes()));
        self.replace(&TRACE_CONTEXT, [(TRACE, &parent[..])].into_iter().chain(entries))
    }

    /// Takes over the trace context of what was received. What is longer than
    /// [`set_trace`](Fields::set_trace) takes is left out.
    pub fn inherit_trace(&mut self, from: FieldsView<'_>) {
        let limits = TRACE_CONTEXT.into_iter().zip([26, MAX_TRACESTATE, MAX_BAGGAGE]);
        let first = limits.filter_map(|(tag, max)| Some((tag, from.get(tag)?, max)));
        let fits = first.filter(|(_, value, max)| value.len() <= *max);
        // Without room for it, which only what was received can lack, it is not needed.
        let _ = self.replace(&TRACE_CONTEXT, fits.map(|(tag, value, _)| (tag, value)));
    }

    /// Sets how a handler failed.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for more than [`MAX_FAILURE`] bytes of code and data as JSON. Nothing is changed
    /// then.
    pub fn set_failure(&mut self, failure: &Failure) -> Result<()> {
        self.put_outcome(&failure.to_json(&[]))
    }

    /// Of something that no handler was begun for: sets that, and the events that there are instead.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for more than [`MAX_FAILURE`] bytes. Nothing is changed then.
    pub(crate) fn set_unhandled(&mut self, known: &[String]) -> Result<()> {
        self.put_outcome(&Failure::unhandled().to_json(known))
    }

    fn put_outcome(&mut self, json: &str) -> Result<()> {
        if json.len() > MAX_FAILURE {
            let text = format!(
                "The code and data of the error have {} bytes, more than the limit of {MAX_FAILURE}",
                json.len()
            );
            return Err(too_large(text));
        }
        self.replace(&[FAILURE], [(FAILURE, json.as_bytes())].into_iter())
    }

    /// Appends `frame` with these fields before it, and with how much time is left for it. Without either, it
    /// is the frame alone. [`Wrapped::decode`] takes it apart.
    ///
    /// # Panics
    /// For a frame that goes with no fields: all but messages, requests, requests for streams, and what answers
    /// these.
    pub fn encode(&self, time_left: Option<Duration>, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let fields = Some(self).filter(|fields| !fields.is_empty());
        let start = out.len();
        if fields.is_some() || time_left.is_some() {
            put_fields(fields, time_left, out);
        }
        let inner = out.len();
        frame.encode(out);
        assert!(inner == start || takes_fields(out[inner]), "the frame goes with no fields");
    }

    /// Puts entries in the place of those with these tags.
    fn replace<'a>(
        &mut self,
        tags: &[u8],
        entries: impl Iterator<Item = (u8, &'a [u8])>,
    ) -> Result<()> {
        let mut block = Vec::with_capacity(self.block.len());
        for (tag, value) in self.view().entries() {
            if !tags.contains(&tag) {
                put(&mut block, tag, &[value]);
            }
        }
        for (tag, value) in entries {
            put(&mut block, tag, &[value]);
        }
        check_block(block.len())?;
        self.block = block;
        Ok(())
    }

    fn put(&mut self, tag: u8, parts: &[&[u8]]) -> Result<()> {
        let before = self.block.len();
        put(&mut self.block, tag, parts);
        check_block(self.block.len()).inspect_err(|_| self.block.truncate(before))
    }

    /// Of what was received: it was looked through before. What cannot be sent on is not in it: the time that
    /// was left, and what is not known.
    pub(crate) fn received(view: FieldsView<'_>) -> Fields {
        let block = Vec::with_capacity(view.block.len());
        let mut fields = Fields { block, ..Fields::default() };
        for (tag, value) in view.entries() {
            match tag {
                TEXT_HEADER | BINARY_HEADER => {
                    // It was checked how many they are.
                    fields.headers += 1;
                    fields.header_bytes += (value.len() - 1) as u16;
                }
                TRACE | TRACESTATE | BAGGAGE | FAILURE => {}
                _ => continue,
            }
            put(&mut fields.block, tag, &[value]);
        }
        fields
    }
}

/// A copy of what was received, to keep or to send on. What cannot be sent on is not in it: the time that was left,
/// and what is not known.
impl From<FieldsView<'_>> for Fields {
    fn from(view: FieldsView<'_>) -> Fields {
        Fields::received(view)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

fn put(block: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    block.push(tag);
    match u8::try_from(len) {
        Ok(len) if len < u8::MAX => block.push(len),
        _ => {
            block.push(u8::MAX);
            block.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| block.extend_from_slice(part));
}

fn check_block(len: usize) -> Result<()> {
    // The time that is left is added to it.
    let max = MAX_BLOCK - 16;
    if len <= max {
        return Ok(());
    }
    Err(too_large(format!("The fields have {len} bytes, more than the limit of {max}")))
}

#[cold]
fn too_large(text: String) -> Error {
    Error::new(ErrorKind::TooLarge, text).with_hint("Send what is large as the payload.")
}

/// What is wrong with the name of a header that is to be sent.
fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > MAX_HEADER_NAME {
        return Some("is too long");
    }
    if name.starts_with("rt-") {
        return Some("is reserved");
    }
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (!name.bytes().all(fits)).then_some("has other characters than are allowed")
}

fn cut_name(name: &str) -> &str {
    super::cut(name, 64)
}

/// The fields of a frame, to look at.
#[derive(Clone, Copy, Default)]
pub struct FieldsView<'a> {
    block: &'a [u8],
}

impl<'a> FieldsView<'a> {
    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.block.is_empty()
    }

    /// All headers, in the order in which they were added.
    pub fn headers(self) -> impl Iterator<Item = (&'a str, HeaderValue<'a>)> {
        self.entries().filter_map(|(tag, value)| {
            let (&name_len, rest) = value.split_first()?;
            let (name, value) = rest.split_at_checked(name_len.into())?;
            let name = std::str::from_utf8(name).ok()?;
            match tag {
                TEXT_HEADER => Some((name, HeaderValue::Text(std::str::from_utf8(value).ok()?))),
                BINARY_HEADER => Some((name, HeaderValue::Bytes(value))),
                _ => None,
            }
        })
    }

    /// The first header of this name.
    pub fn header(self, name: &str) -> Option<HeaderValue<'a>> {
        self.headers().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// How much time there was for the request when it was sent.
    pub fn time_left(self) -> Option<Duration> {
        let value = self.get(DEADLINE)?;
        Some(Duration::from_millis(Num::decode(value).ok()?.value()))
    }

    /// The trace context's `traceparent`.
    pub fn traceparent(self) -> Option<String> {
        let bytes = self.get(TRACE)?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (version, rest) = bytes.split_at_checked(1)?;
        let (trace, rest) = rest.split_at_checked(16)?;
        let (span, flags) = rest.split_at_checked(8)?;
        Some(format!("{}-{}-{}-{}", hex(version), hex(trace), hex(span), hex(flags)))
    }

    /// The trace context's `tracestate`.
    pub fn tracestate(self) -> Option<&'a str> {
        std::str::from_utf8(self.get(TRACESTATE)?).ok()
    }

    /// The trace context's `baggage`.
    pub fn baggage(self) -> Option<&'a str> {
        std::str::from_utf8(self.get(BAGGAGE)?).ok()
    }

    /// How the handler failed.
    pub fn failure(self) -> Option<Failure> {
        Failure::from_json(std::str::from_utf8(self.get(FAILURE)?).ok()?)
    }

    /// Names of events of the kind that was asked for, which the other side has told because it does not handle the
    /// one that was. A stranger may have chosen them; of more than 16, these are the first.
    pub fn known_events(self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Known {
            known: Vec<String>,
        }
        let json = self.get(FAILURE).filter(|json| json.starts_with(b"{"));
        let known = json.and_then(|json| serde_json::from_slice(json).ok());
        let Known { mut known } = known.unwrap_or(Known { known: Vec::new() });
        known.truncate(MAX_KNOWN);
        known
    }

    /// Whether nothing is said but how the handler failed.
    pub(crate) fn is_only_failure(self) -> bool {
        self.entries().all(|(tag, _)| tag == FAILURE)
    }

    fn get(self, tag: u8) -> Option<&'a [u8]> {
        self.entries().find(|(known, _)| *known == tag).map(|(_, value)| value)
    }

    fn entries(self) -> Entries<'a> {
        Entries { rest: self.block }
    }
}

impl fmt::Debug for FieldsView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        let names: Vec<_> = self.headers().map(|(name, _)| name).collect();
        f.debug_struct("Fields")
            .field("headers", &names)
            .field("time_left", &self.time_left())
            .field("traceparent", &self.traceparent())
            .field("failure", &self.failure())
            .finish()
    }
}

/// The entries of a block. Ends where it is broken.
struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, len], rest) = self.rest.split_first_chunk()?;
        let (len, rest) = match len {
            u8::MAX => {
                let (len, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*len)), rest)
            }
            len => (len.into(), rest),
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some((tag, value))
    }
}

/// A frame with fields, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Wrapped<'a> {
    /// The fields.
    pub fields: FieldsView<'a>,
    /// The frame that they go with.
    pub inner: &'a [u8],
    /// A tag that is not known, and without which nobody may act on the frame.
    pub unknown: Option<u8>,
}

impl<'a> Wrapped<'a> {
    /// Where the block of a frame with fields begins.
    pub(crate) const HEAD: usize = 3;

    /// Whether the frame that `bytes` are has fields.
    #[inline]
    pub(crate) fn is(bytes: &[u8]) -> bool {
        bytes.first() == Some(&FIELDS)
    }

    /// Takes a frame with fields apart; none when `bytes` are another frame.
    ///
    /// # Errors
    /// Any [`DecodeError`], when the fields are broken. The frame that they go with is not looked at, but for
    /// its first byte.
    pub fn decode(bytes: &'a [u8]) -> std::result::Result<Option<Wrapped<'a>>, DecodeError> {
        let Some(rest) = bytes.strip_prefix(&[FIELDS]) else { return Ok(None) };
        let truncated = |field| DecodeError::Truncated { frame: FRAME, field };
        let (len, rest) = rest.split_first_chunk().ok_or(truncated("length"))?;
        let len = usize::from(u16::from_be_bytes(*len));
        if len > MAX_BLOCK {
            return Err(DecodeError::NumberTooLarge { frame: FRAME, field: "length" });
        }
        let (block, inner) = rest.split_at_checked(len).ok_or(truncated("block"))?;
        let first = *inner.first().ok_or(truncated("frame"))?;
        if !takes_fields(first) {
            return Err(DecodeError::NotWrapped(first));
        }
        let mut unknown = None;
        let mut entries = Entries { rest: block };
        let (mut headers, mut header_bytes) = (0, 0);
        while !entries.rest.is_empty() {
            let (tag, value) = entries.next().ok_or(truncated("block"))?;
            match check(tag, value)? {
                Checked::Known => {}
                Checked::Header => {
                    headers += 1;
                    header_bytes += value.len() - 1;
                }
                Checked::Unknown if tag & MUST != 0 => unknown = unknown.or(Some(tag)),
                Checked::Unknown => {}
            }
        }
        if headers > MAX_HEADER_COUNT || header_bytes > MAX_HEADERS {
            return Err(DecodeError::NumberTooLarge { frame: FRAME, field: "header section" });
        }
        Ok(Some(Wrapped { fields: FieldsView { block }, inner, unknown }))
    }

    /// The fields of a frame that was taken apart before.
    #[inline]
    pub(crate) fn fields_of(frame: &'a [u8], block: u16) -> FieldsView<'a> {
        let end = Self::HEAD + usize::from(block);
        FieldsView { block: frame.get(Self::HEAD..end).unwrap_or_default() }
    }

    pub(crate) fn block_len(&self) -> u16 {
        self.fields.block.len() as u16
    }
}

/// Whether frames of this type may have fields.
fn takes_fields(frame: u8) -> bool {
    matches!(frame, 100..=105 | 107 | 108)
}

enum Checked {
    Known,
    Header,
    Unknown,
}

fn check(tag: u8, value: &[u8]) -> std::result::Result<Checked, DecodeError> {
    let invalid = |field, expected| DecodeError::InvalidField { frame: FRAME, field, expected };
    let text = |field| match std::str::from_utf8(value) {
        Ok(_) => Ok(Checked::Known),
        Err(_) => Err(invalid(field, "text")),
    };
    match tag {
        DEADLINE => match Num::decode(value) {
            Ok(_) => Ok(Checked::Known),
            Err(NumError::Empty) => {
                Err(DecodeError::EmptyNumber { frame: FRAME, field: "deadline" })
            }
            Err(NumError::TooLarge) => {
                Err(DecodeError::NumberTooLarge { frame: FRAME, field: "deadline" })
            }
        },
        TRACE if value.len() == 26 => Ok(Checked::Known),
        TRACE => Err(invalid("trace", "26 bytes")),
        TRACESTATE => text("tracestate"),
        BAGGAGE => text("baggage"),
        FAILURE => text("outcome"),
        TEXT_HEADER | BINARY_HEADER => {
            let parts =
                value.split_first().and_then(|(&len, rest)| rest.split_at_checked(len.into()));
            let (name, value) = parts.ok_or(invalid("header", "a name and a value"))?;
            if !name.first().is_some_and(u8::is_ascii) || !name.is_ascii() {
                return Err(invalid("header", "a name in ASCII"));
            }
            if tag == TEXT_HEADER && std::str::from_utf8(value).is_err() {
                return Err(invalid("header", "text"));
            }
            Ok(Checked::Header)
        }
        _ => Ok(Checked::Unknown),
    }
}

/// How long a frame's fields are, with what marks them.
#[inline]
pub(crate) fn fields_len(fields: Option<&Fields>, deadline: Option<Duration>) -> usize {
    let deadline = deadline.map_or(0, |left| 2 + usize::from(millis(left).width()));
    Wrapped::HEAD + fields.map_or(0, |fields| fields.block.len()) + deadline
}

/// Appends what goes before a frame with these fields.
pub(crate) fn put_fields(fields: Option<&Fields>, deadline: Option<Duration>, out: &mut Vec<u8>) {
    let block = fields_len(fields, deadline) - Wrapped::HEAD;
    out.push(FIELDS);
    out.extend_from_slice(&(block as u16).to_be_bytes());
    if let Some(left) = deadline {
        let left = millis(left);
        out.extend_from_slice(&[DEADLINE, left.width()]);
        left.encode(out);
    }
    if let Some(fields) = fields {
        out.extend_from_slice(&fields.block);
    }
}

/// Never more than is left.
fn millis(left: Duration) -> Num {
    Num::new(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(super::MAX_NUMBER))
}

fn parse_traceparent(text: &str) -> Option<[u8; 26]> {
    let mut parts = text.split('-');
    let mut bytes = [0; 26];
    let mut at = 0;
    for len in [1, 16, 8, 1] {
        let part = parts.next()?.as_bytes();
        if part.len() != 2 * len {
            return None;
        }
        for pair in part.chunks(2) {
            let digit = |byte: u8| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            };
            bytes[at] = digit(pair[0])? << 4 | digit(pair[1])?;
            at += 1;
        }
    }
    let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
    // Version ff is not allowed, and of version 00 nothing follows.
    let fits = bytes[0] != 0xff && !zero(1..17) && !zero(17..25);
    let ends = parts.next().is_none() || bytes[0] != 0;
    (fits && ends).then_some(bytes)
}

/// How a handler failed, besides the text of its error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// A name for programs, such as `NOT_FOUND`.
    pub code: Option<String>,
    /// What belongs to the error, as JSON.
    pub data: Option<String>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// Whether surely nothing was done: no handler has begun.
    pub unhandled: bool,
}

#[derive(Serialize, Deserialize)]
struct FailureJson<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    code: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unhandled: bool,
    /// Read apart: whatever it is, the others count.
    #[serde(skip_deserializing, skip_serializing_if = "<[String]>::is_empty")]
    known: &'a [String],
}

impl Failure {
    /// Of something that no handler was begun for.
    pub fn unhandled() -> Failure {
        Failure { unhandled: true, ..Failure::default() }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Failure::default()
    }

    fn to_json(&self, known: &[String]) -> String {
        let json = FailureJson {
            code: self.code.as_deref().map(Cow::Borrowed),
            data: self.data.as_deref().and_then(|data| serde_json::from_str(data).ok()),
            retry: self.retry_after.map(|time| millis(time).value()),
            unhandled: self.unhandled,
            known,
        };
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// None for JSON of another form: it counts as absent.
    fn from_json(text: &str) -> Option<Failure> {
        let json: FailureJson<'_> = match text.starts_with('{') {
            true => serde_json::from_str(text).ok()?,
            false => return None,
        };
        Some(Failure {
            code: json.code.map(Cow::into_owned),
            data: json.data.map(|data| data.get().to_owned()),
            retry_after: json.retry.map(Duration::from_millis),
            unhandled: json.unhandled,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const INNER: &[u8] = b"\x64\x00\x01\x00\x01re\x00";

    fn encoded(fields: &Fields, deadline: Option<Duration>) -> Vec<u8> {
        let mut out = Vec::new();
        put_fields(Some(fields), deadline, &mut out);
        assert_eq!(out.len(), fields_len(Some(fields), deadline));
        out.extend_from_slice(INNER);
        out
    }

    #[test]
    fn all_fields_come_back() {
        let mut fields = Fields::new();
        fields.add_header("tenant", "blue").unwrap();
        fields.add_header("raw", &b"\xff\0"[..]).unwrap();
        fields.add_header("tenant", "ж").unwrap();
        fields.set_trace(PARENT, "a=b", "").unwrap();
        fields.set_trace(PARENT, "a=c", "k=v").unwrap();
        let failure = Failure {
            code: Some("NOT_FOUND".into()),
            data: Some(r#"{"id":[1,2.50]}"#.into()),
            retry_after: Some(Duration::from_millis(1500)),
            unhandled: true,
        };
        fields.set_failure(&Failure::unhandled()).unwrap();
        fields.set_failure(&failure).unwrap();
        let bytes = encoded(&fields, Some(Duration::from_micros(70_999)));
        let Wrapped { fields: view, inner, unknown } = Wrapped::decode(&bytes).unwrap().unwrap();
        assert_eq!((inner, unknown), (INNER, None));
        let headers: Vec<_> = view.headers().collect();
        let text = HeaderValue::Text;
        let raw = HeaderValue::Bytes(b"\xff\0");
        assert_eq!(headers, [("tenant", text("blue")), ("raw", raw), ("tenant", text("ж"))]);
        assert_eq!(view.header("tenant"), Some(text("blue")));
        assert_eq!(view.time_left(), Some(Duration::from_millis(70)), "never more than is left");
        assert_eq!(view.traceparent().as_deref(), Some(PARENT));
        assert_eq!((view.tracestate(), view.baggage()), (Some("a=c"), Some("k=v")));
        assert_eq!(view.failure(), Some(failure));
        let mut inherited = Fields::new();
        inherited.add_header("own", "x").unwrap();
        inherited.inherit_trace(view);
        assert_eq!(inherited.view().traceparent().as_deref(), Some(PARENT));
        assert_eq!(inherited.view().headers().count(), 1);
        assert!(inherited.view().failure().is_none() && inherited.view().time_left().is_none());
    }

    #[test]
    fn a_header_that_is_set_takes_the_place_of_others() {
        let mut fields = Fields::new();
        for (name, value) in [("a", "1"), ("ab", "2"), ("a", "3"), ("b", "4")] {
            fields.add_header(name, value).unwrap();
        }
        fields.set_trace(PARENT, "", "").unwrap();
        fields.set_header("a", &b"5"[..]).unwrap();
        let headers: Vec<_> = fields.view().headers().collect();
        let five = HeaderValue::Bytes(b"5");
        assert_eq!(headers, [("ab", "2".into()), ("b", "4".into()), ("a", five)]);
        assert!(fields.view().traceparent().is_some());
        let before = fields.clone();
        assert!(fields.set_header("a", &vec![0; MAX_HEADERS][..]).is_err() && fields == before);
        // What it has had counts no more.
        fields.set_header("a", &vec![0; MAX_HEADERS - 6][..]).unwrap();
        fields.set_header("a", "").unwrap();
        fields.add_header("c", &vec![0; MAX_HEADERS - 7][..]).unwrap();
    }

    #[test]
    fn headers_are_bounded_at_the_sender() {
        let mut fields = Fields::new();
        fields.add_header("n", &vec![0; MAX_HEADERS - 1][..]).unwrap();
        let error = fields.add_header("a", "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.text(), "The headers have 8193 bytes, more than the limit of 8192");
        let bytes = encoded(&fields, None);
        assert_eq!(Wrapped::decode(&bytes).unwrap().unwrap().fields.headers().count(), 1);
        let mut fields = Fields::new();
        for _ in 0..MAX_HEADER_COUNT {
            fields.add_header("n", "").unwrap();
        }
        assert_eq!(fields.add_header("n", "").unwrap_err().kind(), ErrorKind::TooLarge);
        for name in ["", "A", "a b", "rt-x", "ж", &"x".repeat(129)] {
            let error = fields.add_header(name, "").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        }
        assert_eq!(fields.view().headers().count(), MAX_HEADER_COUNT);
    }

    /// A block as long as a receiver takes, of which only part may be sent on.
    #[test]
    fn what_was_received_can_be_sent_on_within_the_limits() {
        let mut block = Vec::new();
        put(&mut block, DEADLINE, &[&[7]]);
        put(&mut block, 0x89, &[b"?"]);
        put(&mut block, TRACE, &[&parse_traceparent(PARENT).unwrap()]);
        put(&mut block, TRACESTATE, &[b"a=b"]);
        for _ in 0..2 {
            put(&mut block, BAGGAGE, &[&[b'x'; MAX_BAGGAGE + 1]]);
        }
        put(&mut block, TEXT_HEADER, &[b"\x01n", &[b'v'; MAX_HEADERS - 1]]);
        let bytes = [&[FIELDS], &(block.len() as u16).to_be_bytes()[..], &block, INNER].concat();
        let view = Wrapped::decode(&bytes).unwrap().unwrap().fields;
        let mut fields = Fields::new();
        fields.inherit_trace(view);
        assert_eq!(fields.view().traceparent().as_deref(), Some(PARENT));
        assert_eq!((fields.view().tracestate(), fields.view().baggage()), (Some("a=b"), None));
        let mut fields = Fields::received(view);
        let sent = encoded(&fields, None);
        let wrapped = Wrapped::decode(&sent).unwrap().unwrap();
        assert_eq!((wrapped.unknown, wrapped.fields.time_left()), (None, None));
        assert_eq!(wrapped.fields.baggage().map(str::len), Some(MAX_BAGGAGE + 1));
        assert_eq!(fields.add_header("a", "").unwrap_err().kind(), ErrorKind::TooLarge);
        let data = Some(format!("\"{}\"", "x".repeat(MAX_FAILURE - 20)));
        let failure = Failure { data, ..Failure::default() };
        assert_eq!(fields.set_failure(&failure).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(encoded(&fields, None), sent, "nothing has changed");
        fields.inherit_trace(FieldsView::default());
        fields.set_failure(&failure).unwrap();
        let sent = encoded(&fields, Some(Duration::MAX));
        assert_eq!(Wrapped::decode(&sent).unwrap().unwrap().fields.failure(), Some(failure));
    }

    #[test]
    fn traceparents_of_another_form_are_refused() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let mut fields = Fields::new();
            assert!(fields.set_trace(text, "", "").is_err() && fields.is_empty(), "{text}");
        }
        let mut fields = Fields::new();
        let newer = PARENT.replacen("00", "01", 1);
        fields.set_trace(&format!("{newer}-more"), "", "").unwrap();
        assert_eq!(fields.view().traceparent(), Some(newer));
        assert!(fields.set_trace(PARENT, &"x".repeat(513), "").is_err());
        assert!(fields.set_trace(PARENT, "", &"x".repeat(8193)).is_err());
        assert!(fields.view().traceparent().is_some_and(|text| text.starts_with("01")));
    }

    #[test]
    fn what_is_broken_is_refused() {
        let wrap = |block: &[u8]| {
            [&[FIELDS], &(block.len() as u16).to_be_bytes()[..], block, INNER].concat()
        };
        assert!(Wrapped::decode(INNER).unwrap().is_none());
        for (bytes, text) in [
            (vec![FIELDS], "fields frame is cut off in its length"),
            (vec![FIELDS, 0, 1], "fields frame is cut off in its block"),
            (vec![FIELDS, 0, 0], "fields frame is cut off in its frame"),
            (vec![FIELDS, 0xff, 0xff], "fields frame has a length that is too large"),
            (vec![FIELDS, 0, 0, 106], "fields frame goes with a frame of type 106"),
            (vec![FIELDS, 0, 0, 110], "fields frame goes with a frame of type 110"),
            (wrap(&[1]), "fields frame is cut off in its block"),
            (wrap(&[1, 2, 0]), "fields frame is cut off in its block"),
            (wrap(&[1, 0xff, 0]), "fields frame is cut off in its block"),
            (wrap(&[1, 0]), "fields frame has a deadline of no bytes"),
            (
                wrap(&[1, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
                "fields frame has a deadline that is too large",
            ),
            (wrap(&[2, 1, 0]), "fields frame: \"trace\" must be 26 bytes"),
            (wrap(&[3, 1, 0xff]), "fields frame: \"tracestate\" must be text"),
            (wrap(&[16, 0]), "fields frame: \"header\" must be a name and a value"),
            (wrap(&[16, 1, 1]), "fields frame: \"header\" must be a name and a value"),
            (wrap(&[16, 1, 0]), "fields frame: \"header\" must be a name in ASCII"),
            (wrap(&[16, 3, 1, b'a', 0xff]), "fields frame: \"header\" must be text"),
            (
                wrap(&[16, 2, 1, b'a'].repeat(129)),
                "fields frame has a header section that is too large",
            ),
        ] {
            let error = Wrapped::decode(&bytes).unwrap_err().to_string();
            assert_eq!(error, text, "{bytes:?}");
        }
        for (block, unknown) in [(&[9, 1, 0][..], None), (&[0x89, 1, 0, 0x8a, 0], Some(0x89))] {
            assert_eq!(Wrapped::decode(&wrap(block)).unwrap().unwrap().unknown, unknown);
        }
        // JSON of another form counts as absent.
        let bytes = wrap(b"\x05\x02[]");
        assert_eq!(Wrapped::decode(&bytes).unwrap().unwrap().fields.failure(), None);
    }

    /// An entry that is probably well-formed.
    fn entry() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let header = (0..4u8, vec(any::<u8>(), 0..12))
            .prop_map(|(len, rest)| [&[len][..], &b"abc"[..len.into()], &rest].concat());
        prop_oneof![
            (Just(DEADLINE), vec(any::<u8>(), 1..9)),
            (Just(TRACE), vec(any::<u8>(), 26)),
            (prop_oneof![Just(TRACESTATE), Just(BAGGAGE), Just(FAILURE)], "[a-zж{}:\"]{0,300}")
                .prop_map(|(tag, text)| (tag, text.into_bytes())),
            (prop_oneof![Just(TEXT_HEADER), Just(BINARY_HEADER)], header),
            (any::<u8>(), vec(any::<u8>(), 0..30)),
        ]
    }

    proptest! {
        #[test]
        fn entries_are_taken_in_any_order(entries in vec(entry(), 0..12), cut in any::<prop::sample::Index>()) {
            let mut block = Vec::new();
            entries.iter().for_each(|(tag, value)| put(&mut block, *tag, &[value]));
            let head = [&[FIELDS][..], &(block.len() as u16).to_be_bytes()].concat();
            let bytes = [&head[..], &block, INNER].concat();
            let checked: std::result::Result<Vec<_>, _> =
                entries.iter().map(|(tag, value)| check(*tag, value)).collect();
            match (Wrapped::decode(&bytes), checked) {
                (Ok(Some(wrapped)), Ok(_)) => {
                    prop_assert_eq!(wrapped.inner, INNER);
                    let values = |tag| entries.iter().find(|(known, _)| *known == tag);
                    prop_assert_eq!(wrapped.fields.time_left().is_some(), values(DEADLINE).is_some());
                    prop_assert_eq!(wrapped.fields.traceparent().is_some(), values(TRACE).is_some());
                    let baggage = values(BAGGAGE).map(|(_, value)| &value[..]);
                    prop_assert_eq!(wrapped.fields.baggage().map(str::as_bytes), baggage);
                    let headers = entries.iter().filter(|(tag, _)| matches!(tag, 16 | 17));
                    prop_assert_eq!(wrapped.fields.headers().count(), headers.count());
                    let known = |tag: u8| matches!(tag, 1..=5 | 16 | 17);
                    let must = entries.iter().map(|(tag, _)| *tag).find(|tag| !known(*tag) && tag & MUST != 0);
                    prop_assert_eq!(wrapped.unknown, must);
                }
                (Err(error), Err(first)) => prop_assert_eq!(error, first),
                (found, expected) => prop_assert!(false, "{:?} {:?}", found, expected.is_ok()),
            }
            // A frame that ends anywhere does no harm.
            let cut = cut.index(bytes.len());
            if let Ok(Some(wrapped)) = Wrapped::decode(&bytes[..cut]) {
                prop_assert!(wrapped.inner.len() < INNER.len());
            }
        }

        #[test]
        fn no_bytes_panic(block in vec(any::<u8>(), 0..200), cut in 0usize..300) {
            let mut bytes = vec![FIELDS];
            bytes.extend_from_slice(&(block.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&block);
            bytes.extend_from_slice(INNER);
            bytes.truncate(cut);
            if let Ok(Some(Wrapped { fields, .. })) = Wrapped::decode(&bytes) {
                let _ = format!("{fields:?} {:?} {:?}", fields.tracestate(), fields.baggage());
                let copy = Fields::received(fields);
                let again = encoded(&copy, fields.time_left());
                let again = Wrapped::decode(&again).unwrap().unwrap();
                prop_assert_eq!(again.unknown, None);
                prop_assert!(again.fields.headers().eq(fields.headers()));
                prop_assert_eq!(again.fields.traceparent(), fields.traceparent());
                prop_assert_eq!(again.fields.tracestate(), fields.tracestate());
                prop_assert_eq!(again.fields.baggage(), fields.baggage());
                prop_assert_eq!(again.fields.failure(), fields.failure());
            }
        }

        #[test]
        fn headers_come_back(headers in vec(("[a-z0-9_.]{1,20}", any::<Result<String, Vec<u8>>>()), 0..20)) {
            let mut fields = Fields::new();
            for (name, value) in &headers {
                let value = match value {
                    Ok(text) => HeaderValue::Text(text),
                    Err(bytes) => HeaderValue::Bytes(bytes),
                };
                fields.add_header(name, value).unwrap();
            }
            let bytes = encoded(&fields, None);
            let view = Wrapped::decode(&bytes).unwrap().unwrap().fields;
            let seen: Vec<_> = view.headers().map(|(name, value)| {
                let value = value.text().map(str::to_owned).ok_or(value.bytes().to_vec());
                (name.to_owned(), value)
            }).collect();
            prop_assert_eq!(seen, headers);
        }
    }
}
