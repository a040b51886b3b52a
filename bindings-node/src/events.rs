//! The batch of events in the memory that is shared with JavaScript.

use std::mem;

use bytes::Bytes;
use roletalk_engine::{DataType, Error};

use crate::protocol::numbers;

numbers! {
    const LAYOUT = "" {
        /// Words at the beginning, see [`Header`].
        EVENT_HEADER: usize = 8,
        /// Words of one event.
        EVENT_WORDS: usize = 8,
        /// Words of one piece of output.
        OUTPUT_WORDS: usize = 4,
        /// Pieces of output that one batch has room for, behind the events.
        OUTPUTS: usize = 64,
        /// Bytes above this are handed over as a buffer of their own, without a copy.
        LARGE: usize = 16 << 10,
        /// Stands for no number.
        NONE: u32 = u32::MAX,
    }
}

/// Output above this is handed over as a buffer of its own, too.
pub(crate) const SMALL_OUTPUT: usize = 16 << 10;

numbers! {
    const OUTPUT_FLAGS = "" {
        /// Flags of a piece of output. The socket ends behind it.
        ENDING: u32 = 1,
        /// It is on a loop-native socket, and what was queued for that has been taken to be written.
        TAKEN: u32 = 2,
        /// It is on a loop-native socket, and all that was taken is written.
        WRITTEN: u32 = 4,
        /// No output: the connection is at its end, or has failed with the system's error whose number is in
        /// place of the offset.
        GONE: u32 = 8,
        /// No output: the socket, which is Node's, is to be read no more for now.
        PAUSE: u32 = 16,
        /// No output: it is to be read again.
        RESUME: u32 = 32,
    }
}

numbers! {
    /// The words at the beginning of a batch.
    enum Header: usize {
        /// Events in this batch.
        Events = 0,
        /// 1 when there are more events or outputs: call again.
        More = 1,
        /// 1 when all bytes of the batch are ASCII.
        Ascii = 2,
        /// Bytes of the batch.
        Bytes = 3,
        /// Milliseconds until `timeout` is to be called, [`NONE`] for never.
        Deadline = 4,
        /// Pieces of output.
        Outputs = 5,
    }
}

numbers! {
    /// What happened.
    enum Op: u8 {
        /// unit, names; the payload.
        Message = 1,
        /// unit, names, responder, generation; the payload.
        Request = 2,
        /// As a request: the remote peer wants to write.
        OfferReadable = 3,
        /// As a request: the remote peer wants to read.
        OfferWritable = 4,
        /// slot, how it went wrong ([`NOT_SENT`], [`REJECTED`] or 0), and with [`NOT_BEGUN`] how long ago it was
        /// sent (microseconds, two words); the payload or the error.
        Answer = 5,
        /// stream: try again what had to wait. Or the error that it broke with.
        Stream = 6,
        /// slot, connection: the message was queued.
        Sent = 7,
        /// slot: nobody waits for its answer any more.
        Abandoned = 8,
        /// connection, code; the reason.
        Closed = 9,
        /// connection, unit; what the unit says of itself, as JSON.
        Attached = 10,
        /// unit.
        UnitClosed = 11,
        /// unit; its roles, as JSON.
        UnitRoles = 12,
        /// The reason.
        AuthRefused = 13,
        /// address (two words), failed attempts before, connection; the error when there is none. The
        /// flag [`AGAIN`] when it was not the first outcome.
        Dialed = 14,
        /// address (two words); the URL.
        Dial = 15,
        /// unit, bytes queued, messages and requests dropped.
        SlowConsumer = 16,
        /// connection; the payload.
        Ping = 17,
        /// connection; the payload.
        Pong = 18,
        /// connection, unit or none, kind of error; its text.
        ConnectionClosed = 19,
        /// unit, messages whose sender does not hear of it, bytes queued; why they could not be queued.
        Unsent = 20,
        /// unit, responder, generation, why: nobody waits any more for the answer to this request; without a
        /// responder, to all of the unit.
        Cancelled = 21,
        /// unit, whether it is left out from now on; the role of the destination.
        Ejected = 22,
        /// unit; what the policy has denied it, as JSON.
        Denied = 23,
        /// unit; an address that it has told and that is not dialed, and why.
        AddressIgnored = 24,
        /// place (two words): its socket is to be closed at once.
        Evict = 25,
        /// The error: why connections were not accepted, or were evicted.
        AcceptFailed = 26,
    }
}

numbers! {
    const FLAGS = "Flag" {
        /// The bytes are ASCII.
        ASCII: u32 = 1 << 16,
        /// The bytes are a buffer of their own: the offset is its number.
        IN_BUFFER: u32 = 1 << 17,
        /// The text is not UTF-8 throughout.
        NOT_UTF8: u32 = 1 << 18,
        /// See [`Op::Dialed`].
        AGAIN: u32 = 1 << 19,
        /// The bytes begin with the names; the last word has their lengths.
        NAMED: u32 = 1 << 20,
        /// The outcome is an error.
        FAILED: u32 = 1 << 21,
        /// The bytes end with fields, see [`Batch::attach`].
        FIELDS: u32 = 1 << 22,
        /// See [`Op::Answer`]: surely no handler was begun, so that it may go to another unit.
        NOT_BEGUN: u32 = 1 << 23,
    }
}

numbers! {
    const OUTCOMES = "" {
        /// See [`Op::Answer`]: the request was not even sent.
        NOT_SENT: u32 = 1,
        /// See [`Op::Answer`]: the payload is what it was rejected with.
        REJECTED: u32 = 2,
    }
}

const BINARY: u8 = DataType::Binary.as_byte();
const TEXT: u8 = DataType::String.as_byte();

/// Writes events into shared memory.
pub(crate) struct Batch<'a> {
    words: &'a mut [u32],
    bytes: &'a mut [u8],
    large: &'a mut Vec<Bytes>,
    events: usize,
    used: usize,
    ascii: bool,
    /// What goes behind the bytes of the next event.
    trailer: Vec<u8>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        words: &'a mut [u32],
        bytes: &'a mut [u8],
        large: &'a mut Vec<Bytes>,
    ) -> Batch<'a> {
        large.clear();
        Batch { words, bytes, large, events: 0, used: 0, ascii: true, trailer: Vec::new() }
    }

    /// Whether any event fits.
    pub(crate) fn has_room(&self) -> bool {
        let capacity = (self.words.len() - EVENT_HEADER - OUTPUTS * OUTPUT_WORDS) / EVENT_WORDS;
        self.events < capacity && self.bytes.len() - self.used >= LARGE
    }

    fn record(&mut self, first: u32, numbers: [u32; 4], rest: [u32; 3]) {
        let at = EVENT_HEADER + self.events * EVENT_WORDS;
        let record = &mut self.words[at..at + EVENT_WORDS];
        record[0] = first;
        record[1..5].copy_from_slice(&numbers);
        record[5..].copy_from_slice(&rest);
        self.events += 1;
    }

    pub(crate) fn plain(&mut self, op: Op, numbers: [u32; 4]) {
        self.record(op as u32, numbers, [0; 3]);
    }

    pub(crate) fn text(&mut self, op: Op, numbers: [u32; 4], flags: u32, text: &str) {
        let text = Bytes::copy_from_slice(text.as_bytes());
        self.data(op, numbers, flags, TEXT, ("", ""), &text);
    }

    pub(crate) fn binary(&mut self, op: Op, numbers: [u32; 4], payload: &Bytes) {
        self.data(op, numbers, 0, BINARY, ("", ""), payload);
    }

    /// An event whose outcome is an error: its kind is in place of a data type.
    pub(crate) fn error(&mut self, op: Op, numbers: [u32; 4], flags: u32, error: &Error) {
        let text = Bytes::copy_from_slice(error.text().as_bytes());
        self.hinted(op, numbers, FAILED | flags, error.kind().code(), error, &text);
    }

    /// An event with a payload, and in front of it the hint of an error, in place of names.
    pub(crate) fn hinted(
        &mut self,
        op: Op,
        numbers: [u32; 4],
        flags: u32,
        kind: u8,
        error: &Error,
        payload: &Bytes,
    ) {
        let hint = error.hint().unwrap_or_default();
        let flags = if hint.is_empty() { flags } else { flags | NAMED };
        self.data(op, numbers, flags, kind, (hint, ""), payload);
    }

    /// Has the next event followed by fields, and by when its request is due: milliseconds of JavaScript's
    /// clock, NaN for never.
    pub(crate) fn attach(&mut self, fields: Vec<u8>, due: f64) {
        let len = fields.len() as u32;
        self.trailer = fields;
        self.trailer.extend_from_slice(&len.to_le_bytes());
        self.trailer.extend_from_slice(&due.to_le_bytes());
    }

    /// An event with a payload, and names in front of it when they are not empty.
    pub(crate) fn data(
        &mut self,
        op: Op,
        numbers: [u32; 4],
        flags: u32,
        kind: u8,
        (role, event): (&str, &str),
        payload: &Bytes,
    ) {
        let mut first = op as u32 | u32::from(kind) << 8 | flags;
        let names = role.len() + event.len();
        let trailer = mem::take(&mut self.trailer);
        if !trailer.is_empty() {
            first |= FIELDS;
        }
        let end = names + payload.len();
        let len = end + trailer.len();
        let lens = (role.len() as u32) << 16 | event.len() as u32;
        if len > LARGE {
            let number = self.large.len() as u32;
            let whole = match len - payload.len() {
                0 => payload.clone(),
                _ => [role.as_bytes(), event.as_bytes(), payload, &trailer].concat().into(),
            };
            self.large.push(whole);
            return self.record(first | IN_BUFFER, numbers, [number, len as u32, lens]);
        }
        let at = self.used;
        let (place, behind) = self.bytes[at..at + len].split_at_mut(end);
        behind.copy_from_slice(&trailer);
        place[..role.len()].copy_from_slice(role.as_bytes());
        place[role.len()..names].copy_from_slice(event.as_bytes());
        place[names..].copy_from_slice(payload);
        let ascii = place.is_ascii();
        if ascii {
            first |= ASCII;
        } else if kind != BINARY && std::str::from_utf8(payload).is_err() {
            first |= NOT_UTF8;
        }
        self.ascii &= ascii;
        self.used += len;
        self.record(first, numbers, [at as u32, len as u32, lens]);
    }

    /// Writes the header. Gives the memory back, for the output.
    pub(crate) fn finish(self) -> (&'a mut [u32], &'a mut Vec<Bytes>) {
        self.words[Header::Events as usize] = self.events as u32;
        self.words[Header::Ascii as usize] = u32::from(self.ascii);
        self.words[Header::Bytes as usize] = self.used as u32;
        (self.words, self.large)
    }
}
