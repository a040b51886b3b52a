//! One connection, from bytes to messages: the upgrade on either side, frames, closing.

use bytes::Bytes;
use http::HeaderMap;
use url::Url;

use crate::config::Limits;
use crate::{
    error::{Error, ErrorKind, Result},
    ws::{Accept, Dial, FrameWriter, Incoming, Side, Socket, UpgradeError, Upgraded},
};

/// What came on a connection.
#[derive(Debug)]
pub enum Received {
    /// The WebSocket is open: call [`Peer::upgraded`](crate::Peer::upgraded).
    Upgraded(Upgraded),
    /// A binary message.
    Message(Bytes),
    /// A text message, which roletalk does not use.
    Text,
    /// A ping with its payload; it has been answered.
    Ping(Bytes),
    /// The answer to a ping, with the ping's payload.
    Pong(Bytes),
    /// The other side closed. Write what is queued, then close the socket.
    Closed {
        /// WebSocket close code.
        code: u16,
        /// Close reason.
        reason: String,
    },
}

enum Phase {
    Accepting(Accept),
    Dialing(Dial),
    Open(Box<Socket>),
    Over,
}

/// The byte side of one connection. It knows nothing of peers and units.
pub struct Connection {
    side: Side,
    phase: Phase,
    handshake_limit: usize,
    mask_seed: u64,
    /// Ours until the connection belongs to a unit.
    writer: Option<FrameWriter>,
}

impl Connection {
    fn new(side: Side, phase: Phase, limits: &Limits, mask_seed: u64) -> Connection {
        let handshake_limit = limits.handshake_message_size;
        let writer = Some(FrameWriter::new(side, mask_seed));
        Connection { side, phase, handshake_limit, mask_seed, writer }
    }

    /// A connection that was accepted and still has to be upgraded; `path` is the only one that is
    /// served, when given.
    pub fn accept(path: Option<String>, limits: &Limits, mask_seed: u64) -> Connection {
        let accept = Accept::new(path, limits.upgrade_size);
        Connection::new(Side::Server, Phase::Accepting(accept), limits, mask_seed)
    }

    /// A connection that was dialed. Its upgrade request is appended to `out`. `random` makes the
    /// key of the upgrade.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the URL or one of the headers cannot be used.
    pub fn dial(
        url: &Url,
        headers: &HeaderMap,
        limits: &Limits,
        random: [u8; 16],
        out: &mut Vec<u8>,
    ) -> Result<Connection> {
        let dial = Dial::new(url, headers, random, limits.upgrade_size, out)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
        let mask_seed =
            random.iter().fold(0u64, |seed, byte| seed.rotate_left(7) ^ u64::from(*byte));
        Ok(Connection::new(Side::Client, Phase::Dialing(dial), limits, mask_seed))
    }

    /// A connection whose upgrade the host has done.
    pub fn upgraded(side: Side, limits: &Limits, mask_seed: u64) -> Connection {
        let socket = Socket::new(side, limits.handshake_message_size);
        Connection::new(side, Phase::Open(Box::new(socket)), limits, mask_seed)
    }

    /// Takes the next thing out of `input`, which is advanced; answers that the protocol demands
    /// are appended to `out`. None: all of `input` was taken.
    ///
    /// # Errors
    /// The connection is over: write what is queued, then close the socket. For a WebSocket
    /// violation, the close code to send first comes with it.
    pub fn receive(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Received>, (Error, Option<u16>)> {
        let upgraded = match &mut self.phase {
            Phase::Accepting(accept) => accept.feed(input, out),
            Phase::Dialing(dial) => dial.feed(input),
            Phase::Open(_) => return self.receive_open(input, out),
            Phase::Over => {
                *input = &[];
                return Ok(None);
            }
        };
        match upgraded {
            Ok(None) => Ok(None),
            Ok(Some(upgraded)) => {
                self.phase = Phase::Open(Box::new(Socket::new(self.side, self.handshake_limit)));
                Ok(Some(Received::Upgraded(upgraded)))
            }
            Err(error) => {
                self.phase = Phase::Over;
                Err((upgrade_error(&error), None))
            }
        }
    }

    fn receive_open(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Received>, (Error, Option<u16>)> {
        let Phase::Open(socket) = &mut self.phase else { return Ok(None) };
        match socket.read(input, out) {
            Ok(None) => Ok(None),
            Ok(Some(incoming)) => Ok(Some(match incoming {
                Incoming::Binary(message) => Received::Message(message),
                Incoming::Text(_) => Received::Text,
                Incoming::Ping(payload) => Received::Ping(payload),
                Incoming::Pong(payload) => Received::Pong(payload),
                Incoming::Close { code, reason } => {
                    self.phase = Phase::Over;
                    Received::Closed { code, reason }
                }
            })),
            Err(error) => {
                self.phase = Phase::Over;
                let code = error.close_code();
                Err((Error::new(ErrorKind::Protocol, error.to_string()), Some(code)))
            }
        }
    }

    /// A close frame was written through the unit: the other side's answer needs none.
    pub fn close_sent(&mut self) {
        if let Phase::Open(socket) = &mut self.phase {
            socket.close_sent();
        }
    }

    /// Whether the WebSocket is open.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Appends a frame of the handshake to `out`.
    pub fn write(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        if let Some(writer) = &mut self.writer {
            writer.binary(out, frame.len(), |out| out.extend_from_slice(frame));
        }
    }

    /// Appends a close frame to `out`, unless the writer was handed over: then the unit closes.
    pub fn close(&mut self, code: u16, reason: &str, out: &mut Vec<u8>) {
        if let (Phase::Open(_) | Phase::Over, Some(mut writer)) = (&self.phase, self.writer.take())
        {
            writer.close(out, code, reason);
            self.close_sent();
        }
    }

    /// The handshake is done: raises the size limit of messages to `message_size` and hands over
    /// the writer, for [`Unit::attach`](crate::Unit::attach).
    pub fn authenticated(&mut self, message_size: usize) -> FrameWriter {
        if let Phase::Open(socket) = &mut self.phase {
            socket.set_max_message(message_size);
        }
        self.writer.take().unwrap_or_else(|| FrameWriter::new(self.side, self.mask_seed))
    }
}

fn upgrade_error(error: &UpgradeError) -> Error {
    Error::new(ErrorKind::ConnectFailed, error.to_string())
}
