//! What the targets share: an engine whose randomness repeats, and a raw connection to it.

use std::time::Duration;

use bytes::Bytes;
use roletalk_engine::{
    Config, ConnId, Engine, Limits, Moment, Opening, Remote,
    wire::{Confirm, Extensions, Handshake, Meta},
    ws::{FrameWriter, Incoming, Side, Socket},
};

/// An engine with small limits, so that short inputs come to them.
pub(crate) fn engine<R>(name: &str, seed: u64, change: impl FnOnce(&mut Config)) -> Engine<R> {
    let mut state = seed;
    let mut config = Config::new(Box::new(move |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
            *byte = (state >> 56) as u8;
        }
    }));
    config.name = name.to_owned();
    config.limits = limits();
    change(&mut config);
    Engine::new(config)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.message_size = 96 << 10;
    limits.handshake_message_size = 4096;
    limits.handshakes = 4;
    limits.units = 4;
    limits.connections_per_unit = 2;
    limits.waiting_requests = 8;
    limits.running_handlers = 8;
    limits.queue_per_connection = 8 << 10;
    limits.queue_per_peer = 24 << 10;
    limits.streams = 8;
    limits.stream_overrun = 8 << 10;
    limits.request_timeout = Duration::from_secs(20);
    limits.acquaintance_addresses = 4;
    limits
}

/// A connection whose other end is in the fuzzer's hand.
pub(crate) struct Wire {
    pub(crate) conn: ConnId,
    writer: FrameWriter,
    socket: Socket,
    /// The messages that the engine sent.
    pub(crate) heard: Vec<Bytes>,
}

impl Wire {
    /// Connects to an engine, which is on this side of the connection. None when it does not want
    /// that, because it has enough connections.
    pub(crate) fn open<R>(engine: &mut Engine<R>, side: Side, now: Moment) -> Option<Wire> {
        let conn =
            engine.open(Opening::Upgraded { side, address: None }, Remote::default(), now).ok()?;
        let ours = match side {
            Side::Server => Side::Client,
            Side::Client => Side::Server,
        };
        Some(Wire {
            conn,
            writer: FrameWriter::new(ours, 1),
            socket: Socket::new(ours, 1 << 20),
            heard: Vec::new(),
        })
    }

    /// Sends a binary message.
    pub(crate) fn send<R>(&mut self, engine: &mut Engine<R>, message: &[u8], now: Moment) {
        let mut frame = Vec::new();
        self.writer.binary(&mut frame, message.len(), |out| out.extend_from_slice(message));
        engine.receive(self.conn, &frame, now);
    }

    /// Sends these bytes as they are.
    pub(crate) fn raw<R>(&mut self, engine: &mut Engine<R>, bytes: &[u8], now: Moment) {
        engine.receive(self.conn, bytes, now);
    }

    /// Takes what the engine has to say, and gives it back as bytes.
    pub(crate) fn hear<R>(&mut self, engine: &mut Engine<R>, now: Moment) -> Vec<u8> {
        let mut bytes = Vec::new();
        engine.take_output(self.conn, &mut bytes);
        engine.written(self.conn, now);
        let mut rest = &bytes[..];
        loop {
            let read = self.socket.read(&mut rest, &mut Vec::new());
            match read.expect("an engine writes WebSocket frames") {
                Some(Incoming::Binary(message)) => self.heard.push(message),
                Some(Incoming::Text(text)) => panic!("an engine has no use for text: {text}"),
                Some(_) => {}
                None => return bytes,
            }
        }
    }
}

/// The id of the peer that keeps to no rule.
pub(crate) const HOSTILE: &str = "hostile";

/// A confirmation that every peer without keys accepts. `dialect` decides how the sender is to be
/// talked to; with bit 7 it understands all extensions.
pub(crate) fn confirm(id: &str, dialect: u8) -> Vec<u8> {
    let x = if dialect & 0x80 != 0 { Extensions::ALL } else { Extensions::NONE };
    let runtime = if dialect % 3 == 1 { "GO" } else { "fuzz" };
    let confirm = Confirm {
        id: id.to_owned(),
        roles: vec!["role".to_owned()],
        friendly: true,
        meta: Meta { runtime: runtime.to_owned(), ..Meta::default() },
        x,
        window: (dialect % 3 == 2).then_some(1 << (dialect / 3 % 20)),
        ..Confirm::default()
    };
    let mut bytes = Vec::new();
    Handshake::Confirm(Box::new(confirm)).encode(&mut bytes);
    bytes
}
