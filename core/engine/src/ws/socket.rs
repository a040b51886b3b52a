use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use bytes::{Buf, Bytes};
use tungstenite::{
    Message,
    error::{CapacityError, Error},
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use super::{
    Side,
    header::{
        BINARY, CONTINUATION, CONTROL, FINAL, Header, MAX_CONTROL, MAX_HEADER, OPCODE, PING, PLAIN,
        PONG, apply_mask,
    },
};

/// tungstenite keeps a buffer of this size for as long as the connection lives. It gets control
/// frames, which are small, and what is an error in roletalk.
const READ_BUFFER: usize = 256;

/// A frame above this size makes tungstenite's buffer grow to a size that is worth giving back.
const LARGE_FRAME: u64 = 16 << 10;

/// Small messages that came together share one buffer, which lives as long as any of them: so many
/// bytes at most, or somebody who keeps one of them would keep too much.
const SHARED: usize = 4 << 10;

/// Room for a message of which only the beginning is there, before more of it comes.
const ROOM: usize = 256 << 10;

/// Room for a message is reserved when its header arrives, so there has to be some limit.
const MAX_MESSAGE_CEILING: usize = i32::MAX as usize;

/// Pings and pongs that are read one by one until the input is used up: far more than well-behaved peers send at once.
/// Of further ones only the last is read, which is all that must be answered (RFC 6455, 5.5.3).
const CONTROLS: usize = 16;

pub(super) const INSIDE_FRAGMENTED: &str = "a message began inside a fragmented one";

/// A message that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// A binary message, whole.
    Binary(Bytes),
    /// A text message, whole. roletalk has no use for it; the engine decides what becomes of it.
    Text(String),
    /// A ping, with its payload of at most 125 bytes. Its pong has been written already.
    Ping(Bytes),
    /// A pong, asked for or not, with its payload of at most 125 bytes.
    Pong(Bytes),
    /// The remote closes the connection, or answers our close. Nothing comes after it.
    ///
    /// The reply that the protocol demands has been written already. A close frame with a code
    /// that must not appear on the wire is answered with, and reported as, 1002.
    Close {
        /// The close code; 1005 when there was none.
        code: u16,
        /// The reason, often empty.
        reason: String,
    },
}

/// Why a connection can be read no further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// The remote broke the rules of RFC 6455.
    #[error("WebSocket protocol violation: {0}")]
    Protocol(String),
    /// A text message or the reason of a close frame is not UTF-8.
    #[error("invalid UTF-8 in a WebSocket text or close frame")]
    InvalidUtf8,
    /// The remote sends a message over the limit. It is refused as soon as its header, or the
    /// header of the fragment that is too much, arrives.
    #[error("message of {size} bytes exceeds the limit of {limit} bytes")]
    TooBig {
        /// The size in bytes as far as it is known.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl WsError {
    /// The code for the close frame that tells the remote what it did: 1002, 1007 or 1009.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::InvalidUtf8 => 1007,
            Self::TooBig { .. } => 1009,
        }
    }
}

impl From<Error> for WsError {
    fn from(error: Error) -> Self {
        match error {
            Error::Protocol(error) => Self::Protocol(error.to_string()),
            Error::Utf8(_) => Self::InvalidUtf8,
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                Self::TooBig { size, limit: max_size }
            }
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// The reading side of an established WebSocket.
///
/// Binary messages are cut out here, which costs a third of what tungstenite takes for small ones.
/// All other frames, and whatever is wrong with a frame, are tungstenite's.
#[derive(Debug)]
pub struct Socket {
    side: Side,
    max_message: usize,
    context: WebSocketContext,
    state: State,
    /// The beginning of a header that was cut in two.
    head: [u8; MAX_HEADER],
    head_len: usize,
    /// The frame that is being read.
    frame: Frame,
    /// Whose message is in fragments, if one is.
    fragmented: Option<Owner>,
    /// The beginning of a binary message.
    partial: Vec<u8>,
    /// Plain frames, whole and without masks, headers included.
    whole: Bytes,
    /// The lengths of the headers and the payloads in there.
    lengths: VecDeque<(u32, u32)>,
    /// How many pings and pongs have arrived since all input was last consumed.
    controls: usize,
    /// The last ping and the last pong beyond that number, as raw frames.
    last_ping: Vec<u8>,
    last_pong: Vec<u8>,
    /// How many of them are read one by one, and how the payloads begin of those that are always read.
    most_controls: usize,
    matters: &'static [u8],
}

#[derive(Debug)]
enum State {
    Open,
    Closed,
    Failed(WsError),
}

/// Who reads a frame or a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Ours,
    Tungstenite,
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    /// Between two frames.
    None,
    /// A part of a binary message. The mask is that of the next byte.
    Ours {
        missing: usize,
        mask: Option<[u8; 4]>,
        last: bool,
    },
    Theirs {
        missing: u64,
        header: Header,
    },
}

impl Socket {
    /// The reading side for this end of a connection, right behind the HTTP upgrade.
    ///
    /// `max_message` is the longest message accepted, in bytes, see [`Socket::set_max_message`].
    pub fn new(side: Side, max_message: usize) -> Self {
        let max_message = max_message.min(MAX_MESSAGE_CEILING);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            side,
            max_message,
            context: WebSocketContext::new(role(side), Some(config)),
            state: State::Open,
            head: [0; MAX_HEADER],
            head_len: 0,
            frame: Frame::None,
            fragmented: None,
            partial: Vec::new(),
            whole: Bytes::new(),
            lengths: VecDeque::new(),
            controls: 0,
            last_ping: Vec::new(),
            last_pong: Vec::new(),
            most_controls: usize::MAX,
            matters: &[],
        }
    }

    /// From now on, of many pings and pongs that arrive together, only the first 16 and the last are read, besides all
    /// whose payloads begin so.
    pub(crate) fn skip_controls_but(&mut self, prefix: &'static [u8]) {
        self.most_controls = CONTROLS;
        self.matters = prefix;
    }

    /// Changes the longest message accepted, in bytes; values above 2 GiB - 1 count as that.
    ///
    /// It applies to frames whose header has not been looked at yet, also to those that came in
    /// together with the last message that [`Socket::read`] gave.
    pub fn set_max_message(&mut self, max_message: usize) {
        self.max_message = max_message.min(MAX_MESSAGE_CEILING);
        let max_message = Some(self.max_message);
        self.context.set_config(|config| {
            config.max_message_size = max_message;
            config.max_frame_size = max_message;
        });
    }

    /// To be called when a close frame was written with
    /// [`FrameWriter::close`](super::FrameWriter::close): the remote's close is then an answer that
    /// is not answered again, and pings get no pong any more. Messages still come.
    pub fn close_sent(&mut self) {
        let mut discarded = Vec::new();
        // It fails only on connections whose end is known already.
        let _ = self.context.close(&mut Memory { input: [&[], &[]], out: &mut discarded }, None);
    }

    /// Gives the next message.
    ///
    /// `input` is advanced past the bytes that were taken, which may be more than those of the
    /// message: call again until it gives `None`, also when `input` is empty. `None` means that all
    /// of `input` is consumed; a partial message is kept inside. What the protocol demands as an
    /// answer, a pong for every ping and the reply to a close, is appended to `out`.
    ///
    /// After [`Incoming::Close`] all input is ignored.
    ///
    /// # Errors
    /// Whatever the remote did wrong. The connection is dead then: the host should send
    /// [`WsError::close_code`] and close it. Further calls give the same error.
    #[inline]
    pub fn read(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Incoming>, WsError> {
        if let Some(message) = self.next_whole() {
            return Ok(Some(Incoming::Binary(message)));
        }
        self.read_on(input, out)
    }

    fn read_on(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Incoming>, WsError> {
        let read = self.read_frames(input, out)?;
        if read.is_some() {
            return Ok(read);
        }
        self.controls = 0;
        self.read_last(input, out)
    }

    /// Takes excess pings and pongs off the input, and keeps the last of each.
    fn put_aside(&mut self, input: &mut &[u8]) {
        while let Some(header) = Header::parse(input)
            && (header.first == PING || header.first == PONG)
            && self.is_fine(&header, MAX_CONTROL)
            && let Some(frame) = input.get(..header.size + to_usize(header.len))
        {
            self.controls += 1;
            if self.controls <= self.most_controls
                || self.is_to_be_read(&header, &frame[header.size..])
            {
                return;
            }
            let last = if header.first == PING { &mut self.last_ping } else { &mut self.last_pong };
            last.clear();
            last.extend_from_slice(frame);
            *input = &input[frame.len()..];
        }
    }

    fn is_to_be_read(&self, header: &Header, payload: &[u8]) -> bool {
        let mask = header.mask.unwrap_or_default().into_iter().cycle();
        let same = |((byte, mask), matters): ((&u8, u8), &u8)| byte ^ mask == *matters;
        payload.len() >= self.matters.len() && payload.iter().zip(mask).zip(self.matters).all(same)
    }

    /// Reads the last ping and the last pong that were put aside, one with each call.
    fn read_last(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Incoming>, WsError> {
        if self.last_ping.is_empty() && self.last_pong.is_empty() {
            return Ok(None);
        }
        // tungstenite has the beginning of another frame.
        if matches!(self.frame, Frame::Theirs { .. }) || !matches!(self.state, State::Open) {
            return Ok(None);
        }
        let last =
            if self.last_ping.is_empty() { &mut self.last_pong } else { &mut self.last_ping };
        let frame = std::mem::take(last);
        match self.pass([&frame, &[]], out) {
            Ok(message) => Ok(message.map(|message| self.incoming(message, input))),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn read_frames(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Incoming>, WsError> {
        match &self.state {
            State::Open => {}
            State::Closed => {
                *input = &[];
                return Ok(None);
            }
            State::Failed(error) => return Err(error.clone()),
        }
        loop {
            match self.frame {
                Frame::None => {
                    self.take_whole(input);
                    if let Some(message) = self.next_whole() {
                        return Ok(Some(Incoming::Binary(message)));
                    }
                    if self.head_len == 0 {
                        let before = input.len();
                        self.put_aside(input);
                        if input.len() < before {
                            continue;
                        }
                    }
                    let Some(header) = self.header(input) else { return Ok(None) };
                    if let Err(error) = self.begin(header) {
                        return Err(self.fail(error));
                    }
                }
                Frame::Ours { missing, mask, last } => {
                    let came = missing.min(input.len());
                    let start = self.partial.len();
                    self.partial.extend_from_slice(take(input, came));
                    let mask = mask.map(|mut mask| {
                        apply_mask(&mut self.partial[start..], mask);
                        mask.rotate_left(came % 4);
                        mask
                    });
                    let missing = missing - came;
                    if missing > 0 {
                        self.frame = Frame::Ours { missing, mask, last };
                        return Ok(None);
                    }
                    self.frame = Frame::None;
                    self.fragmented = (!last).then_some(Owner::Ours);
                    if last {
                        let message = std::mem::take(&mut self.partial).into();
                        return Ok(Some(Incoming::Binary(message)));
                    }
                }
                Frame::Theirs { missing, header } => {
                    let came = usize::try_from(missing).map_or(input.len(), |n| n.min(input.len()));
                    let bytes = take(input, came);
                    let message = match self.feed(bytes, out) {
                        Ok(message) => message,
                        Err(error) => return Err(self.fail(error)),
                    };
                    let missing = missing - came as u64;
                    if missing > 0 {
                        self.frame = Frame::Theirs { missing, header };
                        return Ok(None);
                    }
                    self.end_theirs(header);
                    if let Some(message) = message {
                        return Ok(Some(self.incoming(message, input)));
                    }
                }
            }
        }
    }

    // Messages that came whole.

    /// Copies the plain frames at the front of `input` in one piece, as far as they are whole.
    fn take_whole(&mut self, input: &mut &[u8]) {
        if self.head_len > 0 || self.fragmented.is_some() {
            return;
        }
        let mut end = 0;
        while let Some(header) = self.plain(&input[end..]) {
            let next = end + header.size + header.len as usize;
            if end > 0 && next > SHARED || next > input.len() {
                break;
            }
            end = next;
            self.lengths.push_back((header.size as u32, header.len as u32));
        }
        if end == 0 {
            return;
        }
        // With room to spare, it is shared from the start: otherwise each split would have to find out.
        let spare = usize::from(self.lengths.len() > 1);
        let mut frames = Vec::with_capacity(end + spare);
        frames.extend_from_slice(take(input, end));
        if self.side == Side::Server {
            let mut rest = &mut frames[..];
            for (size, len) in &self.lengths {
                let (header, payload) = rest.split_at_mut(*size as usize);
                let (payload, next) = payload.split_at_mut(*len as usize);
                if let Some(mask) = header.last_chunk() {
                    apply_mask(payload, *mask);
                }
                rest = next;
            }
        }
        self.whole = frames.into();
    }

    /// The header at the front, when it begins a whole message that nothing is wrong with.
    #[inline]
    fn plain(&self, bytes: &[u8]) -> Option<Header> {
        Header::parse(bytes)
            .filter(|header| header.first == PLAIN && self.is_fine(header, self.max_message))
    }

    /// Whether the mask is as it must be, and the payload no longer than allowed.
    #[inline]
    fn is_fine(&self, header: &Header, max: usize) -> bool {
        header.mask.is_some() == (self.side == Side::Server) && header.len <= max as u64
    }

    /// The next of the messages that came whole together with the last one: what [`read`](Socket::read)
    /// would give, for less.
    #[inline]
    pub(crate) fn next_whole(&mut self) -> Option<Bytes> {
        let (size, len) = self.lengths.pop_front()?;
        self.whole.advance(size as usize);
        Some(self.whole.split_to(len as usize))
    }

    // Frames that came in pieces, and all others.

    /// Takes a header off the front of `input`, which may have begun before.
    fn header(&mut self, input: &mut &[u8]) -> Option<Header> {
        loop {
            let header = Header::parse(&self.head[..self.head_len]);
            if header.is_some() {
                return header;
            }
            let (byte, rest) = input.split_first()?;
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            *input = rest;
        }
    }

    /// Decides who reads the frame whose header is in `head`.
    fn begin(&mut self, header: Header) -> Result<(), WsError> {
        let last = header.first & FINAL != 0;
        let opcode = header.first & OPCODE;
        let goes_on = self.fragmented == Some(Owner::Ours) && opcode == CONTINUATION;
        let begins = self.fragmented.is_none() && opcode == BINARY;
        // tungstenite does not know of our fragments.
        if self.fragmented == Some(Owner::Ours) && opcode & CONTROL == 0 {
            if !goes_on {
                return Err(WsError::Protocol(INSIDE_FRAGMENTED.to_owned()));
            }
            let size = self.partial.len().saturating_add(to_usize(header.len));
            if size > self.max_message {
                return Err(WsError::TooBig { size, limit: self.max_message });
            }
        }
        let extended = header.first & !(FINAL | OPCODE) != 0;
        if (goes_on || begins) && !extended && self.is_fine(&header, self.max_message) {
            let missing = to_usize(header.len);
            self.partial.reserve_exact(missing.min(ROOM));
            self.frame = Frame::Ours { missing, mask: header.mask, last };
            self.head_len = 0;
        } else {
            self.frame = Frame::Theirs { missing: header.len, header };
        }
        Ok(())
    }

    /// Gives tungstenite bytes of one frame, behind its header, if it has not had that yet.
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Message>, WsError> {
        let (head, head_len) = (self.head, std::mem::take(&mut self.head_len));
        self.pass([&head[..head_len], bytes], out)
    }

    /// Gives tungstenite a frame, or a piece of one, in two parts.
    fn pass(&mut self, input: [&[u8]; 2], out: &mut Vec<u8>) -> Result<Option<Message>, WsError> {
        let memory = &mut Memory { input, out };
        let message = match self.context.read(memory) {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if matches!(message, Message::Ping(_) | Message::Close(_)) {
            // The answer must not wait for the next read. On the server side this reports that the
            // connection is closed when it has written the reply to a close.
            let _ = self.context.flush(memory);
        }
        Ok(Some(message))
    }

    fn end_theirs(&mut self, header: Header) {
        self.frame = Frame::None;
        if header.first & CONTROL == 0 {
            let last = header.first & FINAL != 0;
            self.fragmented = (!last).then_some(Owner::Tungstenite);
            if last && header.len > LARGE_FRAME && self.context.can_write() {
                self.give_memory_back();
            }
        }
    }

    fn incoming(&mut self, message: Message, input: &mut &[u8]) -> Incoming {
        match message {
            Message::Binary(data) => Incoming::Binary(data),
            Message::Text(text) => Incoming::Text(text.as_str().to_owned()),
            Message::Ping(data) => Incoming::Ping(data),
            Message::Pong(data) => Incoming::Pong(data),
            Message::Close(close) => {
                self.state = State::Closed;
                self.partial = Vec::new();
                *input = &[];
                match close {
                    Some(close) => Incoming::Close {
                        code: close.code.into(),
                        reason: close.reason.as_str().to_owned(),
                    },
                    None => Incoming::Close { code: 1005, reason: String::new() },
                }
            }
            Message::Frame(_) => unreachable!("tungstenite never reads raw frames"),
        }
    }

    fn fail(&mut self, error: WsError) -> WsError {
        self.state = State::Failed(error.clone());
        self.partial = Vec::new();
        self.give_memory_back();
        error
    }

    /// Starts over with an empty context. tungstenite never shrinks its buffer: after a message of
    /// 100 MiB an idle connection would keep as much.
    fn give_memory_back(&mut self) {
        let config = *self.context.get_config();
        self.context = WebSocketContext::new(role(self.side), Some(config));
    }
}

fn role(side: Side) -> Role {
    match side {
        Side::Client => Role::Client,
        Side::Server => Role::Server,
    }
}

/// A length that is compared with what there is, or with what is allowed.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Takes bytes off the front.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(len);
    *input = rest;
    taken
}

/// The stream that tungstenite reads from and writes to, for the time of one call.
struct Memory<'a> {
    /// A header, and what comes behind it.
    input: [&'a [u8]; 2],
    out: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(input) = self.input.iter_mut().find(|input| !input.is_empty()) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let now = take(input, input.len().min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        Ok(now.len())
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
