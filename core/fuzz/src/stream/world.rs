//! The two peers, what joins them, and what must be true of them.

use std::time::Duration;

use bytes::Bytes;
use roletalk_engine::{
    Chunk, ConnId, Data, DataType, Extensions, Failure, Fields, Kind, Moment, Moves, Opening,
    Order, Outgoing, Remote,
    wire::{Direction, Frame, Payload},
    ws::Side,
};

use super::node::{Happening, Hold, Node, Tag};
use crate::host::{self, Wire};

/// What a connection holds that was written and not yet read, as a socket's buffers would.
const SOCKET: usize = 64 << 10;
/// The most that the queue of a connection may hold: its limit and one message; the stream data that
/// keeps further data waiting, and one chunk; what the remote side has caused, and what one more
/// piece of input can cause.
const QUEUE: usize = (8 << 10) + (96 << 10) + (128 << 10) + (64 << 10) + (8 << 10) + (256 << 10);

/// A connection between the two.
struct Joint {
    conns: [ConnId; 2],
    /// What each has written.
    wires: [Vec<u8>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// A writer that was finished.
    Finished,
    /// A reader that came to the end.
    AtEnd,
    Failed,
    Closed,
}

#[derive(Debug)]
struct End {
    at: usize,
    hold: Hold,
    state: State,
}

/// A stream between the two.
#[derive(Debug, Default)]
struct Stream {
    writer: Option<End>,
    reader: Option<End>,
    written: usize,
    read: usize,
    outcomes: usize,
}

impl Stream {
    fn end(&mut self, writes: bool) -> &mut Option<End> {
        if writes { &mut self.writer } else { &mut self.reader }
    }
}

/// The bytes of a stream are a function of its number and their place.
fn pattern(key: usize, range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ key as u8).collect()
}

pub(super) struct World {
    now: Moment,
    nodes: [Node; 2],
    windows: [usize; 2],
    joints: Vec<Joint>,
    hostile: Option<Wire>,
    streams: Vec<Stream>,
    /// How many outcomes each request had.
    requests: Vec<usize>,
    /// What goes with what is sent now, and the time for what is asked.
    fields: Option<Fields>,
    limit: Option<Duration>,
}

impl World {
    pub(super) fn new(windows: [usize; 2], extensions: [Extensions; 2], joints: u8) -> World {
        let mut world = World {
            now: Moment::EPOCH,
            nodes: [
                Node::new("a", windows[0], extensions[0]),
                Node::new("b", windows[1], extensions[1]),
            ],
            windows,
            joints: Vec::new(),
            hostile: None,
            streams: Vec::new(),
            requests: Vec::new(),
            fields: None,
            limit: None,
        };
        for _ in 0..joints % 3 {
            world.join();
            world.pump_all();
        }
        world
    }

    /// What is sent from now on has fields or not.
    pub(super) fn with_fields(&mut self, has: bool) {
        self.limit = has.then(|| Duration::from_millis(150 * (1 + self.requests.len() as u64 % 9)));
        self.fields = has.then(|| {
            let mut fields = Fields::new();
            let failure = Failure { code: Some("F".to_owned()), ..Failure::default() };
            let parent = format!("00-{:032x}-{:016x}-01", 1, self.requests.len() + 1);
            fields
                .add_header("n", &*"v".repeat(self.streams.len()))
                .and_then(|()| fields.set_trace(&parent, "", ""))
                .and_then(|()| fields.set_failure(&failure))
                .expect("within the limits");
            fields
        });
    }

    // Connections.

    pub(super) fn join(&mut self) {
        if self.joints.len() == 2 {
            return;
        }
        let [a, b] = &mut self.nodes;
        let opening = |side| Opening::Upgraded { side, address: None };
        let dialer = a
            .engine
            .open(opening(Side::Client), Remote::default(), self.now)
            .expect("dialers have room");
        match b.engine.open(opening(Side::Server), Remote::default(), self.now) {
            Ok(listener) => {
                self.joints.push(Joint { conns: [dialer, listener], wires: Default::default() })
            }
            Err(_) => a.engine.closed(dialer, self.now),
        }
        self.judge();
    }

    /// The connection is lost with all that is on its way.
    pub(super) fn cut(&mut self, which: u8) {
        if self.joints.is_empty() {
            return;
        }
        let joint = self.joints.remove(usize::from(which) % self.joints.len());
        for (node, conn) in self.nodes.iter_mut().zip(joint.conns) {
            node.engine.closed(conn, self.now);
        }
        self.judge();
    }

    /// Carries up to `len` bytes from a node to the other one.
    pub(super) fn pump(&mut self, from: usize, which: usize, len: usize) {
        let now = self.now;
        let Some(joint) = self.joints.get_mut(which) else { return };
        let (conn, wire) = (joint.conns[from], &mut joint.wires[from]);
        if wire.len() < SOCKET {
            let mut output = Vec::new();
            self.nodes[from].engine.take_output(conn, &mut output);
            self.nodes[from].engine.written(conn, now);
            wire.append(&mut output);
        }
        let (to, conn) = (&mut self.nodes[1 - from].engine, joint.conns[1 - from]);
        if to.may_read(conn) {
            let carried: Vec<u8> = wire.drain(..len.min(wire.len())).collect();
            to.receive(conn, &carried, now);
        }
        self.judge();
    }

    pub(super) fn pump_all(&mut self) {
        for which in 0..2 {
            for from in [0, 1, 0, 1] {
                self.pump(from, which, usize::MAX);
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in &mut self.nodes {
            node.engine.handle_timeout(self.now);
        }
        self.judge();
    }

    // Streams.

    pub(super) fn open(&mut self, at: usize, direction: Direction, event: u8) {
        let key = self.streams.len();
        let (data, event) = (Data::integer(key as u64), "e".repeat(event.into()));
        let outgoing = Outgoing { fields: self.fields.as_ref(), ..outgoing(&event, &data) };
        let (node, now, limit) = (&mut self.nodes[at], self.now, self.limit);
        let opened = node.unit(node.other, now, |unit| {
            unit.open_stream(direction, outgoing, limit, now, Tag::Stream(key))
        });
        if let (Some(Ok((id, _))), Some(unit)) = (opened, node.other) {
            let end = End { at, hold: Hold { unit, id }, state: State::Open };
            let mut stream = Stream::default();
            *stream.end(direction == Direction::RequesterWrites) = Some(end);
            self.streams.push(stream);
        }
        self.judge();
    }

    pub(super) fn accept(&mut self, at: usize) {
        let Some((unit, mut offer, key)) = self.nodes[at].offers.pop_front() else { return };
        let writes = offer.kind() == Kind::Writable;
        let now = self.now;
        let fields = self.fields.as_ref();
        let accepted = self.nodes[at].unit(Some(unit), now, |unit| {
            let accepted = unit.accept_with(&mut offer, Payload::NULL, fields);
            unit.answer(offer, Ok(Payload::NULL), now);
            accepted
        });
        if let Some(Ok(id)) = accepted {
            let end = End { at, hold: Hold { unit, id }, state: State::Open };
            let before = self.streams[key].end(writes).replace(end);
            assert!(before.is_none(), "stream {key} was offered twice");
        }
        self.judge();
    }

    pub(super) fn refuse(&mut self, at: usize) {
        let Some((unit, offer, _)) = self.nodes[at].offers.pop_front() else { return };
        let (now, fields) = (self.now, self.fields.as_ref());
        self.nodes[at].unit(Some(unit), now, |unit| match fields {
            Some(_) => unit.answer_with(offer, Err("no"), fields, now),
            None => unit.refuse(offer, "no", now),
        });
        self.judge();
    }

    /// The streams of which a node has an end in one of these states.
    fn ends(&mut self, at: usize, writes: bool, states: &[State]) -> Vec<usize> {
        let has = |stream: &mut Stream| {
            stream.end(writes).as_ref().is_some_and(|e| e.at == at && states.contains(&e.state))
        };
        let found = self.streams.iter_mut().enumerate().filter_map(|(n, s)| has(s).then_some(n));
        found.collect()
    }

    fn pick(&mut self, at: usize, writes: bool, states: &[State], which: u8) -> Option<usize> {
        let found = self.ends(at, writes, states);
        (!found.is_empty()).then(|| found[usize::from(which) % found.len()])
    }

    pub(super) fn write(&mut self, at: usize, which: u8, len: usize) {
        let Some(key) = self.pick(at, true, &[State::Open], which) else { return };
        let (now, stream) = (self.now, &mut self.streams[key]);
        let Some(end) = &mut stream.writer else { return };
        let data = pattern(key, stream.written..stream.written + len);
        let written = self.nodes[at]
            .unit(Some(end.hold.unit), now, |unit| unit.write(end.hold.id, &data, now));
        match written {
            Some(Ok(len)) => stream.written += len,
            Some(Err(_)) | None => end.state = State::Failed,
        }
        let window = self.windows[1 - at];
        assert!(stream.written - stream.read <= window, "more than {window} under way: {stream:?}");
        self.judge();
    }

    pub(super) fn finish(&mut self, at: usize, which: u8) {
        if let Some(key) = self.pick(at, true, &[State::Open], which) {
            self.finish_stream(key);
        }
    }

    fn finish_stream(&mut self, key: usize) {
        let now = self.now;
        let Some(end) = &mut self.streams[key].writer else { return };
        let hold = end.hold;
        let finished = self.nodes[end.at].unit(Some(hold.unit), now, |unit| unit.finish(hold.id));
        end.state = match finished {
            Some(Ok(_)) => State::Finished,
            _ => State::Failed,
        };
        self.judge();
    }

    pub(super) fn read(&mut self, at: usize, which: u8) {
        if let Some(key) = self.pick(at, false, &[State::Open], which) {
            self.read_stream(key);
        }
    }

    /// Whether something came.
    fn read_stream(&mut self, key: usize) -> bool {
        let (now, stream) = (self.now, &mut self.streams[key]);
        let Some(end) = &mut stream.reader else { return false };
        let hold = end.hold;
        let chunk = self.nodes[end.at].unit(Some(hold.unit), now, |unit| unit.read(hold.id));
        let mut came = false;
        match chunk {
            Some(Chunk::Data(data)) => {
                let range = stream.read..stream.read + data.len();
                assert!(data == pattern(key, range), "wrong data behind {}", stream.read);
                stream.read += data.len();
                came = true;
            }
            Some(Chunk::Pending) => {}
            Some(Chunk::End) => {
                end.state = State::AtEnd;
                let finished = stream.writer.as_ref().is_some_and(|w| w.state != State::Open);
                assert!(finished && stream.read == stream.written, "ended early: {stream:?}");
            }
            Some(Chunk::Failed(_)) | None => end.state = State::Failed,
        }
        self.judge();
        came
    }

    pub(super) fn close_stream(&mut self, at: usize, which: u8) {
        let states = [State::Open, State::Finished, State::AtEnd, State::Failed];
        let writes = which & 1 == 0;
        if let Some(key) = self.pick(at, writes, &states, which >> 1) {
            self.close_end(key, writes);
        }
    }

    fn close_end(&mut self, key: usize, writes: bool) {
        let (now, stream) = (self.now, &mut self.streams[key]);
        let Some(end) = stream.end(writes) else { return };
        end.state = State::Closed;
        let hold = end.hold;
        self.nodes[end.at].unit(Some(hold.unit), now, |unit| unit.close_stream(hold.id, "bye"));
        self.judge();
    }

    // Requests and messages.

    pub(super) fn request(&mut self, at: usize, len: usize) {
        let (number, now, node) = (self.requests.len(), self.now, &mut self.nodes[at]);
        let data = numbered(number as u64, len);
        let tag = Tag::Request(number);
        let (limit, fields) = (self.limit, self.fields.as_ref());
        let outgoing = Outgoing { fields, ..outgoing("e", &data) };
        let asked = node.unit(node.other, now, |unit| unit.request(outgoing, limit, now, tag));
        if let (Some(Ok(corr)), Some(unit)) = (asked, node.other) {
            self.requests.push(0);
            node.waiting.push((unit, corr, number));
        }
        self.judge();
    }

    pub(super) fn respond(&mut self, at: usize, well: bool) {
        let Some((unit, to, data)) = self.nodes[at].responders.pop_front() else { return };
        let (now, outcome) = (self.now, if well { Ok(data.payload()) } else { Err("no") });
        let fields = self.fields.as_ref();
        self.nodes[at].unit(Some(unit), now, |unit| unit.answer_with(to, outcome, fields, now));
        self.judge();
    }

    pub(super) fn abandon(&mut self, at: usize) {
        let Some((unit, corr, number)) = self.nodes[at].waiting.pop() else { return };
        let abandoned = self.nodes[at].unit(Some(unit), self.now, |unit| unit.abandon(corr));
        if let Some(Some(Tag::Request(same))) = abandoned {
            assert_eq!(same, number);
            self.requests[number] += 1;
        }
    }

    pub(super) fn message(&mut self, at: usize, len: usize) {
        let (now, node) = (self.now, &mut self.nodes[at]);
        let data = numbered(node.sent + 1, len);
        let outgoing = Outgoing { fields: self.fields.as_ref(), ..outgoing("e", &data) };
        let sent = node.unit(node.other, now, |unit| unit.send(outgoing));
        if let Some(Ok(_)) = sent {
            node.sent += 1;
        }
        self.judge();
    }

    // The hostile peer, connected to the first node.

    pub(super) fn hostile_join(&mut self, dialect: u8) {
        if self.hostile.is_none() {
            self.hostile = Wire::open(&mut self.nodes[0].engine, Side::Server, self.now);
            self.hostile_message(&host::confirm(host::HOSTILE, dialect));
        }
    }

    pub(super) fn hostile_cut(&mut self) {
        if let Some(wire) = self.hostile.take() {
            self.nodes[0].engine.closed(wire.conn, self.now);
            self.judge();
        }
    }

    pub(super) fn hostile_hears(&mut self) {
        if let Some(wire) = &mut self.hostile {
            wire.hear(&mut self.nodes[0].engine, self.now);
            self.judge();
        }
    }

    pub(super) fn hostile_raw(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.hostile
            && self.nodes[0].engine.may_read(wire.conn)
        {
            wire.raw(&mut self.nodes[0].engine, bytes, self.now);
            self.judge();
        }
    }

    pub(super) fn hostile_message(&mut self, message: &[u8]) {
        if let Some(wire) = &mut self.hostile
            && self.nodes[0].engine.may_read(wire.conn)
        {
            wire.send(&mut self.nodes[0].engine, message, self.now);
            self.judge();
        }
    }

    pub(super) fn hostile_says(&mut self, frame: &Frame<'_>) {
        let mut message = Vec::new();
        frame.encode(&mut message);
        self.hostile_message(&message);
    }

    pub(super) fn open_to_hostile(&mut self, reads: bool) {
        let (now, node) = (self.now, &mut self.nodes[0]);
        let direction = match reads {
            true => Direction::RequesterReads,
            false => Direction::RequesterWrites,
        };
        let data = Data::null();
        let opened = node.unit(node.hostile, now, |unit| {
            unit.open_stream(direction, outgoing("e", &data), None, now, Tag::Hostile)
        });
        if let (Some(Ok((id, _))), Some(unit)) = (opened, node.hostile) {
            node.hostile_streams.push(Hold { unit, id });
        }
        self.judge();
    }

    pub(super) fn accept_hostile(&mut self) {
        let node = &mut self.nodes[0];
        let Some((unit, mut offer)) = node.hostile_offers.pop_front() else { return };
        let now = self.now;
        let accepted = node.unit(Some(unit), now, |unit| {
            let accepted = unit.accept(&mut offer, Payload::NULL);
            unit.answer(offer, Ok(Payload::NULL), now);
            accepted
        });
        if let Some(Ok(id)) = accepted {
            let used = node.hostile_streams.iter().any(|hold| hold.id == id && hold.unit == unit);
            assert!(!used, "{id:?} belongs to two streams");
            node.hostile_streams.push(Hold { unit, id });
        }
        self.judge();
    }

    /// Does something with a stream with the hostile peer.
    pub(super) fn use_hostile(&mut self, what: u8) {
        let (now, node) = (self.now, &mut self.nodes[0]);
        if node.hostile_streams.is_empty() {
            return;
        }
        let at = usize::from(what >> 2) % node.hostile_streams.len();
        let hold = node.hostile_streams[at];
        node.unit(Some(hold.unit), now, |unit| match what % 4 {
            0 => drop(unit.read(hold.id)),
            1 => drop(unit.write(hold.id, &[0; 5000], now)),
            2 => drop((unit.finish(hold.id), unit.finished(hold.id))),
            _ => unit.close_stream(hold.id, "bye"),
        });
        if what % 4 == 3 {
            node.hostile_streams.remove(at);
        }
        self.judge();
    }

    // What must be true.

    /// Looks at what has happened.
    fn judge(&mut self) {
        loop {
            let now = self.now;
            let [a, b] = &mut self.nodes;
            let happenings = [a.events(now), b.events(now)];
            if happenings.iter().all(Vec::is_empty) {
                return;
            }
            for (at, happening) in happenings
                .into_iter()
                .enumerate()
                .flat_map(|(at, all)| all.into_iter().map(move |h| (at, h)))
            {
                self.happened(at, happening);
            }
        }
    }

    fn happened(&mut self, at: usize, happening: Happening) {
        match happening {
            Happening::Outcome(Tag::Request(number), outcome) => {
                self.requests[number] += 1;
                assert_eq!(self.requests[number], 1, "outcomes of request {number}: {outcome:?}");
                self.nodes[at].waiting.retain(|(_, _, waiting)| *waiting != number);
                if let Ok(data) = outcome {
                    assert_eq!(number_of(&data), number as u64, "the answer to another request");
                }
            }
            Happening::Outcome(Tag::Stream(key), _) => {
                self.streams[key].outcomes += 1;
                assert_eq!(self.streams[key].outcomes, 1, "outcomes of stream {key}");
            }
            Happening::Outcome(Tag::Hostile, _) => {}
            Happening::Message(data) => {
                let (number, node) = (number_of(&data), &mut self.nodes[at]);
                assert!(number > node.received, "message {number} behind {}", node.received);
                node.received = number;
            }
            Happening::Close(conn) if self.is_hostile(at, conn) => self.hostile_cut(),
            Happening::Close(conn) => {
                // What it has said last still arrives.
                let joint = self.joints.iter().position(|joint| joint.conns[at] == conn);
                if let Some(which) = joint {
                    self.pump(at, which, usize::MAX);
                }
                let joint = self.joints.iter().position(|joint| joint.conns[at] == conn);
                if let Some(which) = joint {
                    self.cut(which as u8);
                }
            }
            Happening::Broken(conn, reason) => {
                let own = self.joints.iter().any(|joint| joint.conns[at] == conn);
                assert!(!own, "the two do not understand each other: {reason}");
            }
        }
    }

    fn is_hostile(&self, at: usize, conn: ConnId) -> bool {
        at == 0 && self.hostile.as_ref().is_some_and(|wire| wire.conn == conn)
    }

    pub(super) fn check_bounds(&self) {
        for node in &self.nodes {
            let bound = 3 * QUEUE;
            let queued = node.engine.budget().queued();
            assert!(queued <= bound, "{queued} bytes are queued, more than {bound}");
        }
    }

    /// Lets everything come to its end.
    pub(super) fn settle(&mut self) {
        self.with_fields(false);
        for _ in 0..15 {
            for at in 0..2 {
                while !self.nodes[at].offers.is_empty() {
                    self.accept(at);
                }
                while !self.nodes[at].responders.is_empty() {
                    self.respond(at, true);
                }
                for key in self.ends(at, true, &[State::Open]) {
                    self.finish_stream(key);
                }
            }
            self.pump_all();
            for at in 0..2 {
                for key in self.ends(at, false, &[State::Open]) {
                    while self.read_stream(key) {}
                }
                for key in self.ends(at, false, &[State::AtEnd]) {
                    self.close_end(key, false);
                }
            }
            self.hostile_hears();
            self.pump_all();
            self.pass(Duration::from_secs(2));
        }
    }

    /// Everything has come to its end, and leaves nothing behind.
    pub(super) fn end(mut self) {
        for (number, outcomes) in self.requests.iter().enumerate() {
            assert_eq!(*outcomes, 1, "outcomes of request {number}");
        }
        let now = self.now;
        for (key, stream) in self.streams.iter().enumerate() {
            if let Some(End { at, hold, state: State::Finished }) = &stream.writer {
                let node = &mut self.nodes[*at];
                match node.unit(Some(hold.unit), now, |unit| unit.finished(hold.id)) {
                    Some(Some(Ok(()))) => {
                        assert_eq!(stream.read, stream.written, "stream {key} has lost its end");
                    }
                    Some(None) => panic!("stream {key} is never done: {stream:?}"),
                    Some(Some(Err(_))) | None => {}
                }
            }
            let hangs = stream.reader.as_ref().is_some_and(|end| end.state == State::Open);
            assert!(!hangs, "stream {key} can be read for ever: {stream:?}");
        }
        for node in &self.nodes {
            let machine = node.other.and_then(|unit| node.engine.unit(unit));
            let Some(stats) = machine.map(|machine| machine.stats()) else { continue };
            assert_eq!((stats.running, stats.running_bytes), (0, 0), "handlers that run");
        }
        while !self.joints.is_empty() {
            self.cut(0);
        }
        self.hostile_cut();
        for node in &self.nodes {
            assert_eq!(node.engine.peer().units().count(), 0);
            assert_eq!(node.engine.budget().queued(), 0, "bytes that nobody will write");
        }
    }
}

fn outgoing<'a>(event: &'a str, data: &'a Data) -> Outgoing<'a> {
    Outgoing {
        role: "role",
        event,
        payload: data.payload(),
        order: Order::Kept,
        fields: None,
        bulkhead: None,
        moves: Moves::WithinUnit,
    }
}

/// A number and some ballast.
fn numbered(number: u64, len: usize) -> Data {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(8 + len, 0);
    Data::binary(bytes)
}

fn number_of(data: &Data) -> u64 {
    assert_eq!(data.kind(), DataType::Binary);
    let bytes: &Bytes = data.bytes();
    u64::from_be_bytes(*bytes.first_chunk().expect("a number comes first"))
}
