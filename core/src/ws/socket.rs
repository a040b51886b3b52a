use std::io::{self, Read, Write};

use bytes::Bytes;
use tungstenite::{
    Message,
    error::{CapacityError, Error},
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use super::Side;

/// tungstenite keeps a buffer of this size for as long as the connection lives, and zeroes as much
/// before each read.
const READ_BUFFER: usize = 4 * 1024;

/// A frame above this size makes tungstenite's buffer grow to a size that is worth giving back.
const LARGE_FRAME: u64 = 16 * 1024;

/// Room for a message is reserved when its header arrives, so there has to be some limit.
const MAX_MESSAGE_CEILING: usize = i32::MAX as usize;

/// A message that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// A binary message, whole.
    Binary(Bytes),
    /// A text message, whole. roletalk has no use for it; the engine decides what becomes of it.
    Text(String),
    /// A ping. Its pong has been written already.
    Ping,
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
#[derive(Debug)]
pub struct Socket {
    role: Role,
    context: WebSocketContext,
    fed: Fed,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Closed,
    Failed(WsError),
}

impl Socket {
    /// The reading side for this end of a connection, right behind the HTTP upgrade.
    ///
    /// `max_message` is the longest message accepted, in bytes, see [`Socket::set_max_message`].
    pub fn new(side: Side, max_message: usize) -> Self {
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        let max_message = max_message.min(MAX_MESSAGE_CEILING);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self {
            role,
            context: WebSocketContext::new(role, Some(config)),
            fed: Fed::default(),
            state: State::Open,
        }
    }

    /// Changes the longest message accepted, in bytes; values above 2 GiB - 1 count as that.
    ///
    /// It applies to frames whose header has not been looked at yet, also to those that came in
    /// together with the last message that [`Socket::read`] gave.
    pub fn set_max_message(&mut self, max_message: usize) {
        let max_message = max_message.min(MAX_MESSAGE_CEILING);
        self.context.set_config(|config| {
            config.max_message_size = Some(max_message);
            config.max_frame_size = Some(max_message);
        });
    }

    /// To be called when a close frame was written with
    /// [`FrameWriter::close`](super::FrameWriter::close): the remote's close is then an answer that
    /// is not answered again, and pings get no pong any more. Messages still come.
    pub fn close_sent(&mut self) {
        let mut discarded = Vec::new();
        // It fails only on connections whose end is known already.
        let _ = self.context.close(
            &mut Memory { input: &mut &[][..], out: &mut discarded, fed: &mut self.fed },
            None,
        );
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
    pub fn read(
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
        if input.is_empty() && self.fed.is_settled() {
            if self.fed.saw_large && self.context.can_write() {
                self.fed.saw_large = false;
                self.give_memory_back();
            }
            return Ok(None);
        }

        let stream = &mut Memory { input, out, fed: &mut self.fed };
        let message = match self.context.read(stream) {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => {
                let error = WsError::from(error);
                self.state = State::Failed(error.clone());
                self.give_memory_back();
                return Err(error);
            }
        };
        if matches!(message, Message::Ping(_) | Message::Close(_)) {
            // The answer must not wait for the next read. On the server side this reports that the
            // connection is closed when it has written the reply to a close.
            let _ = self.context.flush(stream);
        }
        self.fed.taken();

        Ok(Some(match message {
            Message::Binary(data) => Incoming::Binary(data),
            Message::Text(text) => Incoming::Text(text.as_str().to_owned()),
            Message::Ping(_) => Incoming::Ping,
            Message::Pong(data) => Incoming::Pong(data),
            Message::Close(close) => {
                self.state = State::Closed;
                self.give_memory_back();
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
        }))
    }

    /// Starts over with an empty context. tungstenite never shrinks its buffer: after a message of
    /// 100 MiB an idle connection would keep as much.
    fn give_memory_back(&mut self) {
        let config = *self.context.get_config();
        self.context = WebSocketContext::new(self.role, Some(config));
    }
}

/// The stream that tungstenite reads from and writes to, for the time of one call.
struct Memory<'a, 'i> {
    input: &'a mut &'i [u8],
    out: &'a mut Vec<u8>,
    fed: &'a mut Fed,
}

impl Read for Memory<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = self.input.len().min(buf.len());
        let (now, later) = self.input.split_at(n);
        buf[..n].copy_from_slice(now);
        self.fed.add(now);
        *self.input = later;
        Ok(n)
    }
}

impl Write for Memory<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Follows the frames in what tungstenite was fed, to know what it does not tell: whether it holds
/// anything. When not, there is no need to ask it for messages (which costs half as much as a small
/// message), and its buffer can be replaced.
///
/// Nothing is judged here. What makes no sense counts as held, so that tungstenite gets to say what
/// is wrong with it.
#[derive(Debug, Default)]
struct Fed {
    /// The beginning of a header that was cut in two.
    head: [u8; MAX_HEADER],
    head_len: usize,
    /// Bytes that are missing of the payload of the present frame.
    missing: u64,
    /// The first byte of the present frame.
    first: u8,
    /// A fragmented message has begun and not ended.
    fragmented: bool,
    /// Messages that tungstenite was fed and has not given.
    untaken: usize,
    saw_large: bool,
}

/// Two bytes and a 64-bit length. The mask counts as payload here.
const MAX_HEADER: usize = 10;

impl Fed {
    fn is_settled(&self) -> bool {
        self.untaken == 0 && self.missing == 0 && self.head_len == 0 && !self.fragmented
    }

    /// tungstenite gave a message.
    fn taken(&mut self) {
        self.untaken = self.untaken.saturating_sub(1);
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing == 0 {
                let Some(header) = self.header(&mut bytes) else {
                    return;
                };
                self.first = header.0;
                self.missing = header.1;
                self.saw_large |= header.1 > LARGE_FRAME;
            }
            let n = usize::try_from(self.missing).map_or(bytes.len(), |n| n.min(bytes.len()));
            bytes = &bytes[n..];
            self.missing -= n as u64;
            if self.missing == 0 {
                let is_final = self.first & 0x80 != 0;
                let is_control = self.first & 0x08 != 0;
                if is_final || is_control {
                    self.untaken += 1;
                }
                if !is_control {
                    self.fragmented = !is_final;
                }
            }
        }
    }

    /// Takes a header off the front of `bytes` and gives its first byte and the length of what
    /// follows. `None` when it is not complete: it is kept then.
    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Option<(u8, u64)> {
        if self.head_len == 0
            && let Some((header, size)) = parse_header(bytes)
        {
            *bytes = &bytes[size..];
            return Some(header);
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            self.head[self.head_len] = byte;
            self.head_len += 1;
            *bytes = rest;
            if let Some((header, _)) = parse_header(&self.head[..self.head_len]) {
                self.head_len = 0;
                return Some(header);
            }
        }
        None
    }
}

/// The first byte of a frame, the length of mask and payload, and the size of these two fields.
#[inline]
fn parse_header(bytes: &[u8]) -> Option<((u8, u64), usize)> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (len, size) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
        len => (u64::from(len), 2),
    };
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    Some(((*first, len.saturating_add(mask)), size))
}
