//! The state machine of one remote peer: everything that is said to it and by it.

mod handlers;
mod incoming;
mod link;
mod stream;
mod streams;
mod waiting;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use self::{
    handlers::Patience,
    link::{Beat, Link},
    stream::Stream,
    waiting::{Waiting, WaitingTable},
};
pub use self::{incoming::Incoming, stream::Chunk};
use crate::{
    ConnId, Dialect, Limits, Moment, StreamId, UnitStats,
    error::{Error, ErrorKind, Result},
    wire::{
        self, Acquaint, Data, DataType, Direction, Frame, MAX_NUMBER, Num, Payload, RolesUpdate,
    },
    ws::FrameWriter,
};

/// Stream data waits when a connection has this much queued, so that messages, requests and pongs
/// get ahead of it.
const BULK_MARK: usize = 128 << 10;
/// The most that counts of one frame that a remote peer has caused, see [`Unit::is_clogged`].
const OWED_MAX: usize = 1 << 10;

/// What the units of a peer share: the count of bytes that wait to be written on all connections,
/// and where correlations go on.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Common>);

#[derive(Debug, Default)]
struct Common {
    queued: AtomicUsize,
    /// No unit that is gone has used this correlation or a later one.
    next_corr: AtomicU64,
}

impl Budget {
    /// Bytes that wait to be written now.
    pub fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.0.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Which of a unit's connections a message or request takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Whatever is sent in this order arrives in this order: one connection carries it all, as long
    /// as what went before may still be on its way. When that connection is lost, what was on its
    /// way is lost or arrives late, while what is sent next takes another connection.
    #[default]
    Kept,
    /// The least loaded connection; may overtake what was sent before on another one.
    Any,
}

/// What is sent, and to which handler.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The role, at most 65 535 bytes.
    pub role: &'a str,
    /// The event, at most 65 535 bytes.
    pub event: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
    /// Which connection it may take. Streams take the least loaded one.
    pub order: Order,
}

/// Where a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The connection.
    pub conn: ConnId,
}

/// The way back for a request's answer. Answer exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responder {
    conn: ConnId,
    corr: Num,
}

/// A stream that the remote peer asks for. Accept or refuse it exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOffer {
    conn: ConnId,
    corr: Num,
    chan: Num,
    direction: Direction,
}

impl StreamOffer {
    /// Whether the remote peer wants to read, so that this peer writes.
    pub fn is_writable_here(&self) -> bool {
        self.direction == Direction::RequesterReads
    }
}

/// Something that a unit said, or that happened to it. `R` is what the host attached to a request.
#[derive(Debug)]
pub enum Event<R> {
    /// A one-way message. Call [`Unit::handled`] when it is done with, and
    /// [`Unit::start_postponed`] when that [can be done](Unit::can_start).
    Message(Incoming),
    /// A request. Call [`Unit::respond`] or [`Unit::reject`], and [`Unit::handled`].
    Request(Incoming, Responder),
    /// A request for a stream. Call [`Unit::accept_stream`] or [`Unit::refuse_stream`], and
    /// [`Unit::handled`].
    StreamRequest(Incoming, StreamOffer),
    /// A request was answered, rejected, or failed.
    Answer {
        /// What the host attached to it.
        tag: R,
        /// The answer's payload.
        outcome: Result<Data>,
        /// What a rejection or refusal came with, from which its error's text is made.
        reason: Option<Data>,
    },
    /// A stream can be read from or written to again, or has ended: try again what had to wait.
    Stream(StreamId),
    /// The unit announced its roles: pass it on to [`Peer::unit_roles`](crate::Peer::unit_roles).
    Roles(RolesUpdate),
    /// The unit told of another: pass it on to [`Peer::acquainted`](crate::Peer::acquainted).
    Acquaint(Acquaint),
    /// [`Unit::has_room`] is true again.
    Room,
    /// A connection's queue has been full for two seconds, or inbound work had to be dropped.
    SlowConsumer {
        /// The connection.
        conn: ConnId,
        /// Bytes queued on it.
        queued: usize,
        /// Messages and requests of this unit that were dropped so far.
        dropped: u64,
    },
    /// The connection is dead: close it with [`close_code::HEARTBEAT`](crate::close_code::HEARTBEAT).
    Dead(ConnId),
}

impl<R> Event<R> {
    /// What a handler is to be called for, if that is what it is.
    pub fn incoming(&self) -> Option<&Incoming> {
        match self {
            Event::Message(incoming)
            | Event::Request(incoming, _)
            | Event::StreamRequest(incoming, _) => Some(incoming),
            _ => None,
        }
    }
}

/// One remote peer's state machine. The host calls it with messages, the time and commands, and
/// takes bytes to write for each of its connections.
pub struct Unit<R> {
    dialect: Dialect,
    limits: Arc<Limits>,
    budget: Budget,
    links: Vec<Link>,
    /// The connection that carries what must stay in order.
    ordered: Option<ConnId>,
    next_corr: u64,
    waiting: WaitingTable<R>,
    streams: FxHashMap<u64, Stream>,
    /// Writers that have ended and were closed, whose reader has yet to say that it is through. By
    /// their number, which tells their age.
    unread: BTreeMap<u64, ConnId>,
    /// Bytes that streams hold unread beyond their windows.
    overrun: usize,
    next_chan: u64,
    /// Connections with output that the host has not been told of.
    fresh: Vec<ConnId>,
    full: bool,
    /// Messages and requests that wait for handlers to end, on all connections.
    postponed: usize,
    patience: Patience,
    stats: UnitStats,
}

impl<R> Unit<R> {
    /// A unit without connections.
    pub fn new(dialect: Dialect, limits: Arc<Limits>, budget: Budget) -> Unit<R> {
        let next_corr = budget.0.next_corr.load(Ordering::Relaxed);
        Unit {
            dialect,
            limits,
            budget,
            links: Vec::new(),
            ordered: None,
            next_corr,
            waiting: WaitingTable::new(),
            streams: FxHashMap::default(),
            unread: BTreeMap::new(),
            overrun: 0,
            next_chan: 0,
            fresh: Vec::new(),
            full: false,
            postponed: 0,
            patience: Patience::default(),
            stats: UnitStats::default(),
        }
    }

    /// A connection finished its handshake and belongs to this unit.
    pub fn attach(&mut self, conn: ConnId, writer: FrameWriter, now: Moment) {
        self.links.push(Link::new(conn, writer, now));
    }

    /// A connection is gone. Its streams fail; when it was the last one, so do the waiting requests.
    /// What was postponed is started or given up.
    pub fn detach(&mut self, conn: ConnId, events: &mut Vec<Event<R>>) {
        let Some(at) = self.at(conn) else { return };
        // Nothing more goes out on it, rejections included.
        self.links[at].closing = true;
        self.start_postponed(conn, events);
        self.give_up_postponed(at, events);
        let link = self.links.remove(at);
        self.budget.sub(link.queued());
        if self.ordered == Some(conn) {
            self.ordered = None;
        }
        self.fail_streams(conn, events);
        if self.links.is_empty() {
            // The remote peer may not have noticed yet, and answer the unit that comes next.
            self.budget.0.next_corr.fetch_max(self.next_corr, Ordering::Relaxed);
            let text = "All unit's sockets have been closed";
            for waiting in self.waiting.drain() {
                if let Some(stream) = waiting.stream {
                    self.streams.remove(&stream.0);
                }
                let outcome = Err(Error::new(ErrorKind::ConnectionLost, text));
                events.push(Event::Answer { tag: waiting.tag, outcome, reason: None });
            }
        }
        self.note_room(events);
    }

    fn at(&self, conn: ConnId) -> Option<usize> {
        self.links.iter().position(|link| link.conn == conn)
    }

    /// Whether nothing is left of the unit: neither a connection nor a stream that is not closed.
    pub(crate) fn is_over(&self) -> bool {
        self.links.is_empty() && self.streams.is_empty()
    }

    /// Whether the unit has a connection that takes messages.
    pub fn is_open(&self) -> bool {
        self.links.iter().any(|link| !link.closing)
    }

    /// How to talk to the remote peer.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    // Output.

    /// Whether more may be sent, in order or not. When it is false, [`Event::Room`] tells when to try
    /// again.
    pub fn has_room(&mut self) -> bool {
        let room = self.route(Order::Kept).is_some_and(|at| self.fits(at));
        // Only the event ends the waiting: somebody else may still wait for it.
        self.full |= !room;
        room
    }

    fn fits(&self, at: usize) -> bool {
        let peer_full = self.budget.queued() >= self.limits.queue_per_peer;
        // A unit with nothing queued gets at least one message through whatever the others do,
        // or nobody would tell it when there is room.
        let idle = || self.links.iter().all(|link| link.queued() == 0);
        self.links[at].queued() < self.limits.queue_per_connection && (!peer_full || idle())
    }

    /// The next connection that has output the host does not know of.
    pub fn poll_output(&mut self) -> Option<ConnId> {
        self.fresh.pop()
    }

    /// Takes what is to be written to a connection, in exchange for an empty buffer. Call
    /// [`written`](Unit::written) when it has been written, before taking more.
    pub fn take_output(&mut self, conn: ConnId, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty());
        if let Some(at) = self.at(conn) {
            self.links[at].take(buffer);
        }
    }

    /// Whether a connection has something to write.
    pub fn has_output(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| !self.links[at].out.is_empty())
    }

    /// Bytes of a connection have been written.
    pub fn written(&mut self, conn: ConnId, bytes: usize, now: Moment, events: &mut Vec<Event<R>>) {
        let Some(at) = self.at(conn) else { return };
        let link = &mut self.links[at];
        link.written(bytes, now);
        self.budget.sub(bytes);
        if link.queued() < BULK_MARK && !link.blocked.is_empty() {
            self.unblock_streams(at, events);
        }
        if self.full {
            let link = &mut self.links[at];
            let full = link.queued() >= self.limits.queue_per_connection;
            if link.note_full(full, now) {
                let queued = link.queued();
                let dropped = self.stats.messages_dropped + self.stats.requests_shed;
                events.push(Event::SlowConsumer { conn, queued, dropped });
            }
            self.note_room(events);
        }
    }

    /// The host has something to send and finds no room. From here on it counts how long a queue has
    /// been full, for [`Event::SlowConsumer`].
    pub fn note_full(&mut self, now: Moment) {
        for link in &mut self.links {
            if link.queued() >= self.limits.queue_per_connection {
                link.full_from(now);
            }
        }
    }

    /// A part of what was taken from a connection has been written, but not all: pings wait behind
    /// it, so that the connection is not dead yet. To be called while something large goes out.
    pub fn writing(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].writing(now);
        }
    }

    /// Bytes came on a connection, perhaps not a whole message: it is not dead.
    pub fn reading(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].reading(now);
        }
    }

    fn note_room(&mut self, events: &mut Vec<Event<R>>) {
        // Without a connection, whoever waits for room must learn that there is none to come.
        if self.full && (self.has_room() || !self.is_open()) {
            self.full = false;
            events.push(Event::Room);
        }
    }

    fn announce(&mut self, at: usize) {
        let link = &mut self.links[at];
        if !link.announced && !link.out.is_empty() {
            link.announced = true;
            self.fresh.push(link.conn);
        }
    }

    fn push(&mut self, at: usize, frame: &Frame<'_>) -> usize {
        let added = self.links[at].push(frame.encoded_len(), |out| frame.encode(out));
        self.budget.add(added);
        self.announce(at);
        added
    }

    /// Queues what the remote peer has caused, and what no limit holds back.
    fn push_owed(&mut self, at: usize, frame: &Frame<'_>) {
        let added = self.push(at, frame);
        // Payloads belong to the application. One that is large must not keep two peers that send
        // such to each other from reading.
        self.links[at].owe(added.min(OWED_MAX));
    }

    /// Whether so much waits to be written to a connection that the remote peer has caused and that
    /// no limit holds back (rejections, answers to streams) that the host reads no more from the
    /// connection before some of it has been written. Otherwise a peer that sends and never reads
    /// could fill the memory.
    pub fn is_clogged(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].owed() >= self.limits.owed())
    }

    /// Queues the close frame of a connection; nothing else goes out behind it.
    pub fn close(&mut self, conn: ConnId, code: u16, reason: &str) {
        if let Some(at) = self.at(conn) {
            let before = self.links[at].out.len();
            self.links[at].close(code, reason);
            self.budget.add(self.links[at].out.len() - before);
            self.announce(at);
        }
    }

    /// Queues a ping beside those of the heartbeat. Of `payload` at most 125 bytes are sent.
    pub fn ping(&mut self, conn: ConnId, payload: &[u8]) {
        if let Some(at) = self.at(conn) {
            let added = self.links[at].ping(payload);
            self.budget.add(added);
            self.announce(at);
        }
    }

    /// The unit's connections.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.links.iter().map(|link| link.conn)
    }

    /// Picks a connection for something that is `len` bytes long.
    fn pick(&mut self, order: Order, len: usize) -> Result<usize> {
        if len > self.limits.message_size {
            let text = format!(
                "The message has {len} bytes, more than the limit of {}",
                self.limits.message_size
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let Some(at) = self.route(order) else {
            return Err(Error::new(ErrorKind::ConnectionLost, "No open sockets left"));
        };
        if !self.fits(at) {
            self.full = true;
            return Err(Error::new(ErrorKind::Overloaded, "The unit's send queue is full"));
        }
        Ok(at)
    }

    /// The connection that something takes, full or not.
    fn route(&self, order: Order) -> Option<usize> {
        if order == Order::Kept
            && let Some(at) = self.ordered.and_then(|conn| self.at(conn))
        {
            let link = &self.links[at];
            let only = self.links.len() == 1;
            if !link.closing && (only || !link.is_quiet() || link.queued() == 0) {
                return Some(at);
            }
        }
        let open = self.links.iter().enumerate().filter(|(_, link)| !link.closing);
        open.min_by_key(|(_, link)| link.queued()).map(|(at, _)| at)
    }

    fn send_frame(&mut self, order: Order, frame: &Frame<'_>) -> Result<Queued> {
        let at = self.pick(order, frame.encoded_len())?;
        if order == Order::Kept {
            self.links[at].ordered += 1;
            self.ordered = Some(self.links[at].conn);
        }
        self.push(at, frame);
        Ok(Queued { conn: self.links[at].conn })
    }

    // Commands.

    /// Sends a one-way message.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when [`has_room`](Unit::has_room) is false,
    /// [`ErrorKind::ConnectionLost`] without an open connection, [`ErrorKind::TooLarge`],
    /// [`ErrorKind::InvalidArgument`] for names over 65 535 bytes.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Queued> {
        let Outgoing { role, event, payload, order } = outgoing;
        check_names(role, event)?;
        let frame = Frame::Message { role: role.into(), event: event.into(), payload };
        let queued = self.send_frame(order, &frame)?;
        self.stats.messages_sent += 1;
        Ok(queued)
    }

    /// Sends a request; [`Event::Answer`] brings `tag` back with the outcome. Returns the number
    /// under which it can be abandoned.
    ///
    /// # Errors
    /// As [`send`](Unit::send), and [`ErrorKind::Overloaded`] when too many requests wait.
    pub fn request(
        &mut self,
        outgoing: Outgoing<'_>,
        timeout: Option<Duration>,
        now: Moment,
        tag: R,
    ) -> Result<u64> {
        let Outgoing { role, event, payload, order } = outgoing;
        check_names(role, event)?;
        self.check_waiting()?;
        let corr = self.free_corr();
        let frame = Frame::Request {
            role: role.into(),
            event: event.into(),
            corr: Num::new(corr),
            payload,
        };
        self.send_frame(order, &frame)?;
        self.wait(corr, timeout, now, None, tag);
        Ok(corr)
    }

    fn check_waiting(&self) -> Result<()> {
        if self.waiting.len() < self.limits.waiting_requests {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Overloaded, "Too many requests wait for an answer of the unit"))
    }

    fn free_corr(&self) -> u64 {
        let mut corr = self.next_corr;
        while self.waiting.contains(corr) {
            corr = (corr + 1) & MAX_NUMBER;
        }
        corr
    }

    fn wait(
        &mut self,
        corr: u64,
        timeout: Option<Duration>,
        now: Moment,
        stream: Option<StreamId>,
        tag: R,
    ) {
        self.next_corr = (corr + 1) & MAX_NUMBER;
        self.stats.requests_sent += 1;
        let timeout = timeout.unwrap_or(self.limits.request_timeout);
        self.waiting.insert(corr, Waiting { tag, sent: now, timeout, stream });
    }

    /// Gives up waiting for an answer; a later one is ignored. Returns the tag when it was waiting.
    pub fn abandon(&mut self, corr: u64) -> Option<R> {
        self.waiting.remove(corr).map(|waiting| waiting.tag)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// As [`send`](Unit::send), but never [`ErrorKind::Overloaded`]: the requests that may be
    /// answered are bounded already. After [`ErrorKind::TooLarge`] it may still be rejected.
    pub fn respond(&mut self, to: Responder, payload: Payload<'_>) -> Result<Queued> {
        let frame = Frame::Response { corr: to.corr, payload };
        let at = self.way_back(to.conn, &frame)?;
        self.push(at, &frame);
        Ok(Queued { conn: self.links[at].conn })
    }

    /// Rejects a request.
    ///
    /// # Errors
    /// As [`respond`](Unit::respond).
    pub fn reject(&mut self, to: Responder, reason: &str) -> Result<Queued> {
        let reason = wire::cut(reason, self.longest_reason());
        self.refuse(to.conn, &Frame::Reject { corr: to.corr, payload: text(reason) })
    }

    /// A reason that does not fit into a message must not keep the requester waiting: longer ones
    /// are cut to this length.
    fn longest_reason(&self) -> usize {
        // What goes before it has two numbers of at most 255 bytes.
        self.limits.message_size.saturating_sub(1024)
    }

    /// The connection that the request came on, or another one when it is gone.
    fn way_back(&mut self, conn: ConnId, frame: &Frame<'_>) -> Result<usize> {
        let len = frame.encoded_len();
        if len > self.limits.message_size {
            return Err(Error::new(ErrorKind::TooLarge, format!("The answer has {len} bytes")));
        }
        match self.at(conn).filter(|at| !self.links[*at].closing) {
            Some(at) => Ok(at),
            None => self
                .route(Order::Any)
                .ok_or_else(|| Error::new(ErrorKind::ConnectionLost, "No open sockets left")),
        }
    }

    fn refuse(&mut self, conn: ConnId, frame: &Frame<'_>) -> Result<Queued> {
        let at = self.way_back(conn, frame)?;
        self.push_owed(at, frame);
        Ok(Queued { conn: self.links[at].conn })
    }

    /// Writes a frame that the peer's state machine made, whatever is queued.
    pub fn send_raw(&mut self, frame: &[u8]) {
        if let Some(at) = self.route(Order::Kept) {
            let added = self.links[at].push(frame.len(), |out| out.extend_from_slice(frame));
            self.budget.add(added);
            self.announce(at);
        }
    }

    /// Writes frames that the peer's state machine made and that the remote peer can do without,
    /// unless its queue is full.
    pub fn introduce(&mut self, frames: &[Vec<u8>]) {
        if self.route(Order::Kept).is_some_and(|at| self.fits(at)) {
            frames.iter().for_each(|frame| self.send_raw(frame));
        }
    }

    // Input.

    /// A message came on a connection.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when it cannot be understood: the host closes that connection with
    /// [`close_code::MALFORMED`](crate::close_code::MALFORMED).
    pub fn receive(
        &mut self,
        conn: ConnId,
        message: &Bytes,
        now: Moment,
        events: &mut Vec<Event<R>>,
    ) -> Result<()> {
        let Some(at) = self.at(conn) else { return Ok(()) };
        self.links[at].heard(message.len(), now);
        if message.len() > self.limits.handshake_message_size && Frame::is_json(message) {
            let text = "the announcement is too large";
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        let frame = Frame::decode(message)
            .map_err(|error| Error::new(ErrorKind::Protocol, error.to_string()))?;
        match frame {
            Frame::Message { .. } => {
                self.stats.messages_received += 1;
                self.work(at, message, frame, now, events);
            }
            Frame::Request { .. } | Frame::StreamRequest { .. } => {
                self.stats.requests_received += 1;
                self.work(at, message, frame, now, events);
            }
            Frame::Response { corr, payload } => {
                let answer = Answer::Response(own(message, payload));
                self.answered(conn, corr, answer, now, events);
            }
            Frame::Reject { corr, payload } => {
                let answer = Answer::Rejection(own(message, payload));
                self.answered(conn, corr, answer, now, events);
            }
            Frame::StreamAccept { corr, chan, payload } => {
                let answer = Answer::Acceptance(own(message, payload), chan);
                self.answered(conn, corr, answer, now, events);
            }
            Frame::StreamRefuse { corr, payload, .. } => {
                let answer = Answer::Refusal(own(message, payload));
                self.answered(conn, corr, answer, now, events);
            }
            Frame::Stream { chan, op } => self.stream_op(conn, chan, op, message, events),
            Frame::Acquaint(acquaint) => events.push(Event::Acquaint(acquaint)),
            Frame::Roles(update) => events.push(Event::Roles(update)),
        }
        Ok(())
    }

    fn answered(
        &mut self,
        conn: ConnId,
        corr: Num,
        answer: Answer,
        now: Moment,
        events: &mut Vec<Event<R>>,
    ) {
        let Some(waiting) = self.waiting.remove(corr.value()) else {
            if let Answer::Acceptance(_, chan) = answer {
                self.stream_opened_late(conn, chan);
            }
            return;
        };
        self.stats.last_answer = Some(now.saturating_sub(waiting.sent));
        let rejected = |text| Err(Error::new(ErrorKind::Rejected, text));
        let (outcome, reason) = match (answer, waiting.stream) {
            (Answer::Response(data) | Answer::Acceptance(data, _), None) => (Ok(data), None),
            (Answer::Acceptance(data, chan), Some(id)) => {
                (self.stream_opened(conn, id, chan).map(|()| data), None)
            }
            (Answer::Response(_), Some(_)) => {
                let text = "The stream was answered as if a request";
                (Err(Error::new(ErrorKind::Protocol, text)), None)
            }
            (Answer::Rejection(data), _) => (rejected(text_of(&data)), Some(data)),
            (Answer::Refusal(data), _) => (rejected(unwrapped(&data)), Some(data)),
        };
        if let Some(id) = waiting.stream {
            if let Err(error) = &outcome {
                self.stream_not_opened(id, error);
            }
            events.push(Event::Stream(id));
        }
        events.push(Event::Answer { tag: waiting.tag, outcome, reason });
    }

    /// A pong came on a connection.
    pub fn pong(&mut self, conn: ConnId, payload: &[u8], now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].pong(payload, now);
        }
    }

    // Time.

    /// When [`handle_timeout`](Unit::handle_timeout) is to be called next. Earlier calls do no harm.
    pub fn deadline(&self) -> Option<Moment> {
        let links = self.links.iter().map(Link::deadline).min();
        let (waiting, patience) = (self.waiting.deadline(), self.patience_deadline());
        [links, waiting, patience, self.probe_deadline()].into_iter().flatten().min()
    }

    /// Does what is due: heartbeats, request timeouts, stream probes, and the end of the patience
    /// with handlers.
    pub fn handle_timeout(&mut self, now: Moment, events: &mut Vec<Event<R>>) {
        for waiting in self.waiting.take_due(now) {
            let error = timed_out(waiting.timeout);
            if let Some(id) = waiting.stream {
                self.stream_not_opened(id, &error);
                events.push(Event::Stream(id));
            }
            events.push(Event::Answer { tag: waiting.tag, outcome: Err(error), reason: None });
        }
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            let full = link.queued() >= self.limits.queue_per_connection;
            if link.note_full(full, now) {
                let dropped = self.stats.messages_dropped + self.stats.requests_shed;
                let (conn, queued) = (link.conn, link.queued());
                events.push(Event::SlowConsumer { conn, queued, dropped });
            }
            let before = link.out.len();
            match link.beat(now) {
                Beat::Nothing => {}
                Beat::Ping => {
                    let added = link.out.len() - before;
                    self.budget.add(added);
                    self.announce(at);
                }
                Beat::Dead => events.push(Event::Dead(link.conn)),
            }
        }
        self.lose_patience(now, events);
        self.probe_streams(now, events);
    }

    /// Requests that wait for an answer, handlers that run or are to run, streams that are open, and
    /// those that were written to their end and that an original, as far as it tells, has not read to
    /// its end: it loses the rest when the connection closes. Zero when nothing is under way.
    pub fn busy(&self) -> usize {
        let handlers = self.stats.running + self.postponed;
        self.waiting.len() + handlers + self.streams.len() + self.unread.len()
    }

    /// Counters.
    pub fn stats(&self) -> UnitStats {
        UnitStats {
            waiting: self.waiting.len(),
            streams: self.streams.len(),
            connections: self.links.iter().map(Link::stats).collect(),
            ..self.stats.clone()
        }
    }
}

impl<R> Drop for Unit<R> {
    fn drop(&mut self) {
        self.budget.sub(self.links.iter().map(Link::queued).sum());
    }
}

/// The error of a request that was not answered within this time.
pub fn timed_out(limit: Duration) -> Error {
    let text = format!("Request timeout exceeded ({} ms)", limit.as_millis());
    Error::new(ErrorKind::Timeout, text)
}

fn text(text: &str) -> Payload<'_> {
    Payload { kind: DataType::String, bytes: text.as_bytes() }
}

fn own(message: &Bytes, payload: Payload<'_>) -> Data {
    Data::from_raw(payload.kind, message.slice_ref(payload.bytes))
}

fn check_names(role: &str, event: &str) -> Result<()> {
    let check = |name| {
        wire::check_name(name)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))
    };
    check(role).and_then(|()| check(event))
}

/// What a remote peer says to a request of ours.
enum Answer {
    Response(Data),
    Rejection(Data),
    /// The stream's channel comes with it.
    Acceptance(Data, Num),
    Refusal(Data),
}

/// The text of a refused stream, which the JavaScript original puts into JSON inside a string.
fn unwrapped(data: &Data) -> String {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        data: String,
    }
    let text = text_of(data);
    serde_json::from_str(&text).map_or(text, |Wrapped { data }| data)
}

/// The text of a rejection. The Go original sends `{}` whatever the reason.
fn text_of(data: &Data) -> String {
    match data.kind() {
        DataType::String => data.as_str().unwrap_or_default().into_owned(),
        DataType::Boolean => data.as_bool().unwrap_or_default().to_string(),
        DataType::Null | DataType::Unknown(_) => "null".to_owned(),
        _ => String::from_utf8_lossy(data.bytes()).into_owned(),
    }
}
