//! Models of the originals' streams, on the bare wire: one connection and one stream each.
//!
//! Only what matters to the flow of a stream is modelled: who is addressed by which number, when
//! the writer stops, and when the reader grants. See docs/PROTOCOL.md, 11 and 12.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderMap;
use roletalk_engine::{
    AddressId, ConnId, Data, DataType, Dialect, Error, ErrorKind, Moment, UnitId,
    wire::{Confirm, Direction, Frame, Handshake, Meta, Num, Payload, StreamOp},
    ws::{Accept, Dial, FrameWriter, Incoming, Side, Socket},
};

use super::{
    host::Task,
    ledger::End,
    world::{Ctx, Effect},
};

const LIMIT: usize = 100 << 20;
const CONN: ConnId = ConnId(0);
/// What the writer's application hands over while it waits becomes one chunk; no more than this.
const GATHERED: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Original {
    JavaScript,
    Go,
}

/// What a script does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) original: Original,
    /// The high-water mark at its end.
    pub(crate) mark: u64,
    pub(crate) writes: bool,
    /// Asks for the stream, of this size; otherwise it waits for the other side to ask.
    pub(crate) asks: Option<usize>,
    /// Dials this URL; otherwise it waits to be dialed.
    pub(crate) dials: Option<String>,
}

enum Phase {
    Idle,
    Dialing(Dial),
    Accepting(Accept),
    Open(Box<Socket>),
    Over,
}

pub(crate) struct Script {
    index: usize,
    plan: Plan,
    phase: Phase,
    writer: FrameWriter,
    out: Vec<u8>,
    told: bool,
    dialed: bool,
    ready: bool,
    number: u64,
    stream: Option<Stream>,
    wake: Option<Moment>,
}

struct Stream {
    id: u64,
    remote: Num,
    open: bool,
    ended: bool,
    /// Of the writer: what it may still send. Of the reader: what is left of its mark.
    quota: i64,
    /// Of the Go reader: what its application has not read yet.
    unread: u64,
    finished: bool,
}

impl Script {
    pub(crate) fn new(index: usize, plan: Plan) -> Script {
        Script {
            index,
            plan,
            phase: Phase::Idle,
            writer: FrameWriter::new(Side::Server, 0),
            out: Vec::new(),
            told: false,
            dialed: false,
            ready: false,
            number: 0,
            stream: None,
            wake: None,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    // Connection.

    pub(crate) fn dialed(&mut self, ctx: &mut Ctx, _: AddressId, url: &str) -> Option<ConnId> {
        let url = url.parse().expect("a URL of ours");
        let mut random = [0; 16];
        ctx.rng.fill(&mut random);
        let dial = Dial::new(&url, &HeaderMap::new(), random, 16 << 10, &mut self.out).unwrap();
        self.phase = Phase::Dialing(dial);
        self.writer = FrameWriter::new(Side::Client, ctx.rng.next());
        Some(CONN)
    }

    pub(crate) fn accepted(&mut self) -> Option<ConnId> {
        self.phase = Phase::Accepting(Accept::new(None, 16 << 10));
        Some(CONN)
    }

    pub(crate) fn closed(&mut self, _: ConnId) {
        self.phase = Phase::Over;
    }

    pub(crate) fn receive(&mut self, ctx: &mut Ctx, _: ConnId, mut input: &[u8]) {
        loop {
            let side = match &mut self.phase {
                Phase::Idle | Phase::Over => return,
                Phase::Dialing(dial) => dial.feed(&mut input).unwrap().map(|_| Side::Client),
                Phase::Accepting(accept) => {
                    accept.feed(&mut input, &mut self.out).unwrap().map(|_| Side::Server)
                }
                Phase::Open(socket) => match socket.read(&mut input, &mut self.out).unwrap() {
                    None => return,
                    Some(Incoming::Binary(message)) if self.ready => {
                        self.frame(ctx, Frame::decode(&message).unwrap());
                        continue;
                    }
                    Some(Incoming::Binary(message)) => {
                        assert!(matches!(Handshake::decode(&message), Ok(Handshake::Confirm(_))));
                        self.ready = true;
                        self.ask(ctx);
                        continue;
                    }
                    Some(Incoming::Close { .. }) => {
                        ctx.effects.push(Effect::Close { conn: CONN });
                        return;
                    }
                    Some(_) => continue,
                },
            };
            let Some(side) = side else { return };
            self.phase = Phase::Open(Box::new(Socket::new(side, LIMIT)));
            self.confirm();
        }
    }

    fn confirm(&mut self) {
        let runtime = match self.plan.original {
            Original::JavaScript => "nodejs v20.20.2",
            Original::Go => "GO",
        };
        let meta = Meta { runtime: runtime.into(), protocol: "2.0.0".into(), ..Meta::default() };
        let confirm = Confirm {
            id: format!("script {}", self.index),
            roles: (0..6).map(|n| format!("r{n}")).collect(),
            name: format!("{}", self.index),
            meta,
            tags: BTreeMap::new(),
            ..Confirm::default()
        };
        let mut bytes = Vec::new();
        Handshake::Confirm(Box::new(confirm)).encode(&mut bytes);
        self.writer.binary(&mut self.out, bytes.len(), |out| out.extend_from_slice(&bytes));
        self.told = false;
    }

    fn send(&mut self, frame: &Frame) {
        self.writer.binary(&mut self.out, frame.encoded_len(), |out| frame.encode(out));
        self.told = false;
    }

    pub(crate) fn drain(&mut self, ctx: &mut Ctx) {
        if let (false, Some(url)) = (self.dialed, &self.plan.dials) {
            self.dialed = true;
            ctx.effects.push(Effect::Dial { address: AddressId(0), url: url.as_str().into() });
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<ConnId> {
        let news = !self.out.is_empty() && !self.told;
        self.told |= news;
        news.then_some(CONN)
    }

    pub(crate) fn take_output(&mut self, _: ConnId, buffer: &mut Vec<u8>) {
        self.told = false;
        std::mem::swap(&mut self.out, buffer);
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.wake
    }

    pub(crate) fn task(&mut self, _: &mut Ctx, _: Task) {}

    // The stream.

    fn ask(&mut self, ctx: &mut Ctx) {
        let Some(size) = self.plan.asks else { return };
        let id = ctx.ledger.number();
        let timeout = Duration::from_secs(60);
        ctx.ledger.stream_planned(id, size);
        ctx.ledger.request_sent(id, self.index, UnitId(0), ctx.now, timeout);
        self.open(ctx, id, Num::new(0), false);
        let (role, event) = ("r0".into(), "s".into());
        let (corr, chan) = (Num::new(1), Num::new(self.number));
        let payload = Payload { kind: DataType::Binary, bytes: &id.to_le_bytes() };
        let direction = match self.plan.writes {
            true => Direction::RequesterWrites,
            false => Direction::RequesterReads,
        };
        self.send(&Frame::StreamRequest { direction, role, event, corr, chan, payload });
    }

    fn open(&mut self, ctx: &mut Ctx, id: u64, remote: Num, open: bool) {
        self.number = match self.plan.original {
            Original::JavaScript => ctx.rng.between(1, 65_535),
            Original::Go => 1,
        };
        match self.plan.writes {
            true => ctx.ledger.writer_opened(id, Dialect::Original { acknowledges: false }),
            false => ctx.ledger.reader_opened(id),
        }
        let quota = match self.plan.original {
            // What every Go writer starts with.
            Original::Go if self.plan.writes => 16_384,
            _ => self.plan.mark as i64,
        };
        let (ended, unread, finished) = (false, 0, false);
        self.stream = Some(Stream { id, remote, open, ended, quota, unread, finished });
    }

    fn frame(&mut self, ctx: &mut Ctx, frame: Frame) {
        match frame {
            Frame::StreamRequest { corr, chan, payload, .. } => {
                let id = u64::from_le_bytes(payload.bytes.try_into().unwrap());
                ctx.ledger.request_handled(id, self.index);
                self.open(ctx, id, chan, true);
                let payload = Payload { kind: DataType::Binary, bytes: &id.to_le_bytes() };
                // Go answers with its own number.
                let chan = Num::new(self.number);
                self.send(&Frame::StreamAccept { corr, chan, payload });
                self.write(ctx);
            }
            Frame::StreamAccept { corr, chan, payload } => {
                if self.plan.original == Original::Go {
                    assert_eq!(corr.width(), chan.width(), "Go misreads this");
                }
                let data = Data::binary(payload.bytes.to_vec());
                let stream = self.stream.as_mut().unwrap();
                (stream.remote, stream.open) = (chan, true);
                ctx.ledger.answered(stream.id, self.index, &Ok(data), ctx.now);
                self.write(ctx);
            }
            Frame::StreamRefuse { .. } | Frame::Reject { .. } => {
                let id = self.stream.as_ref().unwrap().id;
                let error = Error::new(ErrorKind::Rejected, "");
                ctx.ledger.answered(id, self.index, &Err(error), ctx.now);
                self.end(ctx, End::Broken);
            }
            Frame::Stream { chan, op } => {
                assert_eq!(chan.value(), self.number, "addressed by another's number");
                self.stream_op(ctx, op);
            }
            Frame::Roles(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// The number that this end's frames carry.
    fn addressed(&self) -> Num {
        match self.plan.original {
            Original::JavaScript => self.stream.as_ref().unwrap().remote,
            Original::Go => Num::new(self.number),
        }
    }

    fn stream_op(&mut self, ctx: &mut Ctx, op: StreamOp) {
        let Some(stream) = self.stream.as_mut() else { return };
        match op {
            StreamOp::Quota(quota) => {
                assert!(quota.value() > 0, "a quota of nothing");
                match self.plan.original {
                    Original::JavaScript => stream.quota = quota.value() as i64,
                    Original::Go => stream.quota += quota.value() as i64,
                }
                self.write(ctx);
            }
            StreamOp::Chunk(bytes) => {
                ctx.ledger.read(stream.id, bytes);
                stream.unread += bytes.len() as u64;
                match self.plan.original {
                    Original::JavaScript => self.read(ctx.now, u64::MAX),
                    Original::Go => self.wake = Some(ctx.now + ctx.rng.micros(0, 20_000)),
                }
            }
            StreamOp::Finish => {
                stream.finished = true;
                match self.plan.original {
                    Original::JavaScript => {
                        let chan = self.addressed();
                        self.send(&Frame::Stream { chan, op: StreamOp::Error("".into()) });
                    }
                    // It would be for a channel that is over.
                    Original::Go => {}
                }
                self.end(ctx, End::Complete);
            }
            StreamOp::Error(reason) => {
                let over = stream.finished || stream.ended;
                assert!(!over || self.plan.original != Original::Go, "Go breaks off: {reason}");
                assert!(over, "nothing here breaks streams off, but: {reason}");
            }
            StreamOp::Unknown(_) => panic!("an unknown flag"),
        }
    }

    fn write(&mut self, ctx: &mut Ctx) {
        if !self.plan.writes {
            return;
        }
        loop {
            let stream = self.stream.as_mut().unwrap();
            if !stream.open || stream.finished {
                return;
            }
            let state = ctx.ledger.stream(stream.id);
            let (size, sent) = (state.size, state.sent);
            let chan = self.addressed();
            let stream = self.stream.as_mut().unwrap();
            if sent == size {
                stream.finished = true;
                self.send(&Frame::Stream { chan, op: StreamOp::Finish });
                return self.end(ctx, End::Complete);
            }
            if stream.quota <= 0 {
                return;
            }
            let len = (size - sent).min(ctx.rng.size(GATHERED).max(1));
            let (id, mut bytes) = (stream.id, Vec::with_capacity(len));
            while bytes.len() < len {
                let part = (len - bytes.len()).min(60_000);
                bytes.extend_from_slice(ctx.ledger.piece(id, sent + bytes.len(), part));
            }
            stream.quota -= len as i64;
            ctx.ledger.wrote(id, len);
            self.send(&Frame::Stream { chan, op: StreamOp::Chunk(&bytes) });
        }
    }

    /// Up to `len` bytes count as read: grants when there is enough to grant.
    fn read(&mut self, _: Moment, len: u64) {
        let mark = self.plan.mark as i64;
        let chan = self.addressed();
        let stream = self.stream.as_mut().unwrap();
        let len = stream.unread.min(len);
        stream.unread -= len;
        stream.quota -= len as i64;
        let low = match self.plan.original {
            Original::JavaScript => mark / 2,
            Original::Go => mark * 2 / 3,
        };
        if stream.quota <= low && len > 0 {
            let quota = (mark - stream.quota) as u64;
            stream.quota = mark;
            self.send(&Frame::Stream { chan, op: StreamOp::Quota(Num::new(quota)) });
        }
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx) {
        self.wake = None;
        if self.stream.as_ref().is_none_or(|stream| stream.ended) {
            return;
        }
        self.read(ctx.now, ctx.rng.size(100_000) as u64);
        if self.stream.as_ref().is_some_and(|stream| stream.unread > 0) {
            self.wake = Some(ctx.now + ctx.rng.micros(100, 20_000));
        }
    }

    fn end(&mut self, ctx: &mut Ctx, how: End) {
        let stream = self.stream.as_mut().unwrap();
        stream.ended = true;
        let id = stream.id;
        ctx.note(self.index, format_args!("script ends {id} {how:?}"));
        match self.plan.writes {
            true => ctx.ledger.writer_ended(id, how, false),
            false => ctx.ledger.reader_ended(id, how),
        }
    }
}
