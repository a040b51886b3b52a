//! The state machine of one remote peer: everything that is said to it and by it.

mod access;
mod drain;
mod handlers;
mod incoming;
mod link;
mod question;
mod retire;
mod roles;
mod stream;
mod streams;
mod types;
mod unsent;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustc_hash::FxHashMap;

pub use self::drain::is_fence;
use self::{
    access::Allowed,
    drain::Drain,
    handlers::{EXPIRED, Patience, Work},
    incoming::Layout,
    link::{Beat, Link},
    question::Late,
    roles::Pace,
    stream::Stream,
    waiting::{AskedNames, NamesNumber, Waiting, WaitingTable},
};
pub(crate) use self::{
    drain::{FENCE, OURS},
    retire::ORDER,
};
pub use self::{
    incoming::Incoming,
    question::{Kind, Question},
    stream::Chunk,
    types::{Budget, CancelReason, Ended, Event, Moves, News, Order, Outgoing, Queued, TimeLimit},
    unsent::Unsent,
};
use crate::{
    Bulkhead, ConnId, Dialect, Extensions, Failure, Fields, FieldsView, Limits, Load, Moment,
    NoHandler, RequestId, StreamId, UnitInfo, UnitStats,
    error::{Error, ErrorKind, Result},
    hint,
    load::nanos,
    printable,
    wire::{self, Data, DataType, Frame, LastNames, MAX_NUMBER, Num, Payload, Wrapped},
    ws::FrameWriter,
};

/// Stream data waits when a connection has this much queued, so that messages, requests and pongs
/// get ahead of it.
const BULK_MARK: usize = 128 << 10;
/// The most that counts of one frame that a remote peer has caused, see [`Unit::is_clogged`].
const OWED_MAX: usize = 1 << 10;

/// Of how many closed connections requests can still be given up.
const GONE_KEPT: usize = 8;

/// One remote peer's state machine. The host calls it with messages, the time and commands, and
/// takes bytes to write for each of its connections.
pub struct Unit<R> {
    info: Arc<UnitInfo>,
    dialect: Dialect,
    limits: Arc<Limits>,
    budget: Budget,
    load: Arc<Load>,
    links: Vec<Link>,
    /// The connection that carries what must stay in order.
    ordered: Option<ConnId>,
    next_corr: u64,
    waiting: WaitingTable<R>,
    asked: AskedNames,
    streams: FxHashMap<u64, Stream>,
    /// The streams with a Go original, by the numbers that it addresses them by. Empty with others: there
    /// the number is the id.
    go_chans: FxHashMap<u64, StreamId>,
    /// Writers that have ended and were closed, whose reader has yet to say that it is through. By
    /// their number, which tells their age.
    unread: BTreeMap<u64, ConnId>,
    /// Bytes that streams hold unread beyond their windows.
    overrun: usize,
    last_stream: u64,
    /// Connections that are gone, the newest last: handlers of their requests may still run.
    gone: VecDeque<ConnId>,
    /// Connections with output that the host has not been told of.
    fresh: Vec<ConnId>,
    full: bool,
    /// Messages and requests that wait for handlers to end, on all connections.
    postponed: usize,
    /// How many there were in all.
    next_place: u64,
    patience: Patience,
    drain: Drain,
    /// The rate limit on announcements of roles.
    pace: Pace,
    /// Requests below this correlation may have been begun though their answers are lost.
    uncertain: u64,
    /// Running requests whose requesters have said how long they wait.
    expiring: BTreeSet<(Moment, RequestId)>,
    /// The time of the last call that told it.
    clock: Moment,
    late: Late,
    last_names: LastNames,
    allowed: Allowed,
    stats: UnitStats,
    events: Vec<Event<R>>,
}

impl<R> Unit<R> {
    /// A unit without connections, as the handshake has made it known. `load` is
    /// [its](crate::Ready::load).
    pub fn new(
        info: Arc<UnitInfo>,
        limits: Arc<Limits>,
        budget: Budget,
        load: Arc<Load>,
    ) -> Unit<R> {
        let next_corr = budget.next_corr();
        let dialect = info.dialect;
        Unit {
            info,
            dialect,
            limits,
            budget,
            load: load.clone(),
            links: Vec::new(),
            ordered: None,
            next_corr,
            waiting: WaitingTable::new(load),
            asked: AskedNames::default(),
            streams: FxHashMap::default(),
            go_chans: FxHashMap::default(),
            unread: BTreeMap::new(),
            overrun: 0,
            last_stream: 0,
            gone: VecDeque::new(),
            fresh: Vec::new(),
            full: false,
            postponed: 0,
            next_place: 0,
            patience: Patience::default(),
            drain: Drain::No,
            pace: Pace::default(),
            uncertain: 0,
            expiring: BTreeSet::new(),
            clock: Moment::EPOCH,
            late: Late::default(),
            last_names: LastNames::default(),
            allowed: Allowed::default(),
            stats: UnitStats::default(),
            events: Vec::new(),
        }
    }

    /// A connection finished its handshake and belongs to this unit. `extensions` are those in force on it.
    pub fn attach(
        &mut self,
        conn: ConnId,
        writer: FrameWriter,
        extensions: Extensions,
        now: Moment,
    ) {
        self.links.push(Link::new(conn, writer, extensions, now));
        self.note_links();
        for at in 0..self.links.len() {
            // Of several, none takes anything before the other side has answered on it.
            if self.links.len() > 1 && !self.links[at].is_answered() {
                self.links[at].beat_soon(now);
                self.alert(at);
            }
        }
    }

    fn note_links(&self) {
        self.load.set_open(self.is_open());
        self.load.set_fields(self.takes_fields());
    }

    /// Whether all connections take [fields](Fields).
    pub fn takes_fields(&self) -> bool {
        self.links.iter().all(|link| link.extensions.fields > 0) && !self.links.is_empty()
    }

    /// A connection is gone. Its streams fail. Messages, requests and answers in its queue go on another one; when it was
    /// the last one, waiting requests fail. What was postponed is started or given up.
    pub fn detach(&mut self, conn: ConnId, ended: Ended) {
        let Some(at) = self.at(conn) else { return };
        // Nothing more goes out on it, rejections included.
        self.links[at].closing = true;
        self.tell_kept_roles(at);
        self.start_postponed();
        self.hand_over_postponed(at);
        self.give_up_postponed(at);
        let link = self.links.remove(at);
        if self.gone.len() == GONE_KEPT {
            self.gone.pop_front();
        }
        self.gone.push_back(conn);
        self.note_links();
        self.release_followers(conn);
        self.budget.sub(link.queued());
        if self.ordered == Some(conn) {
            // What has waited there for another one waits elsewhere.
            self.ordered = link.behind.map(|hold| hold.conn);
        }
        self.move_on(&link);
        self.fail_streams(conn);
        let may_have_carried_answers = match ended {
            Ended::Lost => true,
            Ended::Closed => !link.has_left(),
            Ended::Drained => !link.has_left() && link.extensions.drained == 0,
        };
        if may_have_carried_answers {
            self.uncertain = self.next_corr;
        }
        let was_sent = |waiting: &Waiting<R>| waiting.conn != conn || waiting.frame <= link.taken();
        for (corr, waiting) in self.waiting.take(self.links.is_empty(), was_sent) {
            let may_be_begun = was_sent(&waiting) && corr < self.uncertain;
            self.lost(waiting, may_be_begun);
        }
        if self.links.is_empty() {
            // The remote peer may not have noticed yet, and answer the unit that comes next.
            self.budget.skip_to_corr(self.next_corr);
            self.expiring.clear();
            if self.stats.running > 0 {
                let reason = CancelReason::UnitLost;
                self.events.push(Event::Cancelled { request: None, reason });
            }
        }
        self.note_fence(self.clock);
        self.note_room();
    }

    /// The connection of a request is lost before its answer.
    fn lost(&mut self, waiting: Waiting<R>, may_be_begun: bool) {
        if let Some(stream) = waiting.stream {
            self.remove_stream(stream);
        }
        let hint = self.asked.hint(waiting.names, &self.info);
        let text = "All unit's sockets have been closed";
        let error = Error::new(ErrorKind::ConnectionLost, text).with_hint(hint);
        let outcome = Err(if may_be_begun { error } else { error.not_begun() });
        self.answer_event(waiting.tag, outcome);
    }

    #[inline]
    fn at(&self, conn: ConnId) -> Option<usize> {
        self.links.iter().position(|link| link.conn == conn)
    }

    /// Whether nothing is left of the unit: neither a connection nor a stream that is not closed.
    pub fn is_over(&self) -> bool {
        self.links.is_empty() && self.streams.is_empty()
    }

    /// Whether the unit has a connection that takes messages.
    pub fn is_open(&self) -> bool {
        self.links.iter().any(|link| !link.closing)
    }

    /// What is known of the unit without its lock.
    pub fn load(&self) -> &Load {
        &self.load
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

    #[inline]
    fn fits(&self, at: usize) -> bool {
        let peer_full = self.budget.queued() >= self.limits.queue_per_peer;
        // A unit with nothing queued gets at least one message through whatever the others do,
        // or nobody would tell it when there is room.
        let idle = || self.links.iter().all(|link| link.queued() == 0);
        self.links[at].queued() < self.limits.queue_per_connection && (!peer_full || idle())
    }

    /// The next connection that has output the host does not know of, or that may be read again after it
    /// was [saturated](Unit::is_saturated).
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
        self.at(conn).is_some_and(|at| self.links[at].has_output())
    }

    /// Whether what is queued on a connection is held.
    pub(crate) fn is_held(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].behind.is_some())
    }

    /// Bytes of a connection have been written.
    pub fn written(&mut self, conn: ConnId, bytes: usize, now: Moment) {
        let Some(at) = self.at(conn) else { return };
        // Handlers may be started by this.
        self.clock = now;
        let link = &mut self.links[at];
        link.written(bytes, now);
        self.budget.sub(bytes);
        if link.queued() < BULK_MARK && !link.blocked.is_empty() {
            self.unblock_streams(at);
        }
        if self.full || !self.is_answered() {
            if !self.is_answered() {
                self.patience.steps = 0;
            }
            let full = self.is_full(at);
            let link = &mut self.links[at];
            if link.note_full(full, now) {
                let queued = link.queued();
                let dropped = self.stats.messages_dropped + self.stats.requests_shed;
                self.events.push(Event::SlowConsumer { conn, queued, dropped });
            }
            self.note_room();
        }
    }

    /// Whether something that is to be sent has to wait for [`Event::Room`]. Not without a connection: then
    /// trying gives the error. From here on it counts how long a queue has been full, for
    /// [`Event::SlowConsumer`].
    pub fn must_wait(&mut self, now: Moment) -> bool {
        let full = self.is_open() && !self.has_room();
        if full {
            self.note_full(now);
        }
        full
    }

    fn note_full(&mut self, now: Moment) {
        for at in 0..self.links.len() {
            if self.is_full(at) {
                self.links[at].full_from(now);
            }
        }
    }

    /// Whether a connection's queue has no room, for messages or for answers.
    fn is_full(&self, at: usize) -> bool {
        self.links[at].queued() >= self.limits.queue_per_connection || self.owes_answers(at)
    }

    /// A part of what was taken from a connection has been written, but not all: pings wait behind
    /// it, so that the connection is not dead yet. To be called while something large goes out.
    pub fn writing(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].writing(now);
            if !self.is_answered() {
                // Handlers have ended whose answers are on their way.
                self.patience.steps = 0;
            }
        }
    }

    /// Bytes came on a connection, perhaps not a whole message: it is not dead.
    pub fn reading(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].reading(now);
        }
    }

    fn note_room(&mut self) {
        self.settle_late();
        // Answers and other units fill queues as well, so this is checked again.
        if self.full && (!self.is_open() || self.has_room()) {
            self.full = false;
            self.events.push(Event::Room);
        }
        self.start_postponed();
    }

    /// Takes what has happened, in order. To be called after everything that changes a unit.
    pub fn take_events(&mut self, events: &mut Vec<Event<R>>) {
        if events.is_empty() {
            std::mem::swap(&mut self.events, events);
        } else {
            events.append(&mut self.events);
        }
    }

    /// Whether nothing has happened that was not [taken](Unit::take_events), and no connection has output
    /// that was not [told](Unit::poll_output).
    pub fn is_settled(&self) -> bool {
        self.events.is_empty() && self.fresh.is_empty()
    }

    /// Whether something has happened that was not [taken](Unit::take_events).
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    #[inline]
    fn announce(&mut self, at: usize) {
        let link = &mut self.links[at];
        if !link.announced && link.has_output() {
            link.announced = true;
            self.fresh.push(link.conn);
        }
    }

    /// Has the host look at a connection again, though there may be nothing to write.
    fn alert(&mut self, at: usize) {
        self.fresh.push(self.links[at].conn);
    }

    #[inline]
    fn push(&mut self, at: usize, frame: &Frame<'_>) -> usize {
        self.push_with(at, frame.encoded_len(), |out| frame.encode(out))
    }

    #[inline(never)]
    fn push_prefixed(&mut self, at: usize, prefix: Prefix<'_>, frame: &Frame<'_>) -> usize {
        self.push_with(at, prefix.len() + frame.encoded_len(), |out| {
            prefix.put(out);
            frame.encode(out);
        })
    }

    /// Queues a frame of this length.
    #[inline]
    fn push_with(&mut self, at: usize, len: usize, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        let added = self.links[at].push(len, body);
        self.budget.add(added);
        self.announce(at);
        added
    }

    /// Queues what the remote peer has caused, and what no limit holds back.
    fn push_owed(&mut self, at: usize, frame: &Frame<'_>) {
        self.push_owed_with(at, Prefix::default(), frame);
    }

    fn push_owed_with(&mut self, at: usize, prefix: Prefix<'_>, frame: &Frame<'_>) {
        let added = self.push_prefixed(at, prefix, frame);
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

    /// Whether the close frame of a connection is queued, or the connection gone.
    pub(crate) fn is_closing(&self, conn: ConnId) -> bool {
        self.at(conn).is_none_or(|at| self.links[at].closing)
    }

    /// Code and reason of the close frame that is queued on a connection.
    pub(crate) fn closed_with(&self, conn: ConnId) -> Option<(u16, String)> {
        self.links[self.at(conn)?].said.clone()
    }

    /// Queues the close frame of a connection; nothing else goes out behind it.
    pub fn close(&mut self, conn: ConnId, code: u16, reason: &str) {
        let (code, reason) = self.farewell(conn, (code, reason));
        if code == crate::close_code::DRAINED {
            // It says that nothing more is begun.
            self.drain = Drain::Over;
        }
        if let Some(at) = self.at(conn) {
            let before = self.links[at].out.len();
            self.links[at].close(code, reason);
            self.load.set_open(self.is_open());
            self.budget.add(self.links[at].out.len() - before);
            self.announce(at);
        }
    }

    /// What is queued on a connection is not written any more, but for a close frame: nobody reads there.
    pub(crate) fn set_aside(&mut self, conn: ConnId) {
        if let Some(at) = self.at(conn) {
            self.links[at].set_aside();
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
    #[inline]
    fn pick(&mut self, order: Order, len: usize) -> Result<usize> {
        if len > self.limits.message_size {
            return Err(too_large(len, self.limits.message_size));
        }
        let Some(at) = self.route(order) else {
            return Err(Error::unit_gone());
        };
        if !self.fits(at) {
            self.full = true;
            return Err(Error::new(ErrorKind::Overloaded, "The unit's send queue is full"));
        }
        Ok(at)
    }

    /// The connection that something takes, full or not.
    #[inline]
    fn route(&self, order: Order) -> Option<usize> {
        if order == Order::Kept
            && let Some(at) = self.ordered.and_then(|conn| self.at(conn))
        {
            let link = &self.links[at];
            let only = self.links.len() == 1;
            let stays = only || !link.has_arrived() || link.queued() == 0;
            if !link.closing && stays && !self.is_let_go(link) {
                return Some(at);
            }
        }
        self.least_loaded()
    }

    fn least_loaded(&self) -> Option<usize> {
        let open = self.links.iter().enumerate().filter(|(_, link)| !link.closing);
        let several = self.links.len() > 1;
        let key = |link: &Link| (if several { self.rank(link) } else { 0 }, link.queued());
        open.min_by_key(|(_, link)| key(link)).map(|(at, _)| at)
    }

    /// What was just queued on a connection.
    #[inline]
    fn queued_at(&self, at: usize) -> Queued {
        let link = &self.links[at];
        Queued { conn: link.conn, frame: link.frames() }
    }

    /// The same behind a prefix.
    #[inline(never)]
    fn send_prefixed(
        &mut self,
        order: Order,
        prefix: Prefix<'_>,
        frame: &Frame<'_>,
    ) -> Result<Queued> {
        let at = self.pick_in_order(order, prefix.len() + frame.encoded_len())?;
        self.push_prefixed(at, prefix, frame);
        Ok(self.queued_at(at))
    }

    /// As [`pick`](Self::pick), and notes what was picked for what must stay in order.
    #[inline]
    fn pick_in_order(&mut self, order: Order, len: usize) -> Result<usize> {
        let at = self.pick(order, len)?;
        if order == Order::Kept {
            self.note_ordered(at);
        }
        Ok(at)
    }

    /// The message queued last, or next, on a connection is one that must stay in order.
    #[inline]
    fn note_ordered(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.ordered += 1;
        let conn = link.conn;
        if self.ordered != Some(conn) {
            self.follow(at);
            self.ordered = Some(conn);
        }
    }

    // Commands.

    /// Sends a one-way message.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when [`has_room`](Unit::has_room) is false,
    /// [`ErrorKind::ConnectionLost`] without an open connection, [`ErrorKind::TooLarge`],
    /// [`ErrorKind::InvalidArgument`] for names over 65 535 bytes.
    pub fn send(&mut self, outgoing: Outgoing<'_>) -> Result<Queued> {
        let Outgoing { role, event, payload, order, fields, moves, .. } = outgoing;
        check_names(role, event)?;
        if fields.is_some() {
            return self.send_with_fields(outgoing);
        }
        let len = wire::message_len(role, event, &payload);
        let at = self.pick_in_order(order, len)?;
        self.push_with(at, len, |out| wire::put_message(role, event, &payload, out));
        if moves != Moves::ToAnyUnit {
            self.links[at].pin(moves);
        }
        self.stats.messages_sent += 1;
        Ok(self.queued_at(at))
    }

    #[inline(never)]
    fn send_with_fields(&mut self, outgoing: Outgoing<'_>) -> Result<Queued> {
        let Outgoing { role, event, payload, order, fields, moves, .. } = outgoing;
        let prefix = self.prefix(fields, None)?;
        let frame = Frame::Message { role: role.into(), event: event.into(), payload };
        let queued = self.send_prefixed(order, prefix, &frame)?;
        // Another unit may not take what is required.
        let moves = match moves {
            Moves::ToAnyUnit if fields.is_some_and(Fields::is_required) => Moves::WithinUnit,
            moves => moves,
        };
        if moves != Moves::ToAnyUnit
            && let Some(at) = self.at(queued.conn)
        {
            self.links[at].pin(moves);
        }
        self.stats.messages_sent += 1;
        Ok(queued)
    }

    /// What goes before a frame to this unit: nothing, when there is nothing to say, or when the unit does
    /// not take it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when it does not take what is required.
    #[inline]
    fn prefix<'a>(
        &mut self,
        fields: Option<&'a Fields>,
        deadline: Option<Duration>,
    ) -> Result<Prefix<'a>> {
        match (fields, deadline) {
            (None, None) => Ok(Prefix::default()),
            _ => self.some_prefix(fields, deadline),
        }
    }

    #[cold]
    fn some_prefix<'a>(
        &mut self,
        fields: Option<&'a Fields>,
        deadline: Option<Duration>,
    ) -> Result<Prefix<'a>> {
        let fields = fields.filter(|fields| !fields.is_empty());
        if self.takes_fields() {
            return Ok(Prefix { fields, deadline });
        }
        // That something is not handled is said whether or not anybody asks for it.
        if let Some(fields) = fields.filter(|fields| !fields.view().is_only_failure()) {
            if fields.is_required() && self.is_open() {
                let text = format!("The unit {} takes no headers", printable(self.info.label()));
                return Err(Error::new(ErrorKind::Unsupported, text).with_hint(
                    "Its version is too old. Do without `required` to leave them out.",
                ));
            }
            self.stats.fields_left_out += 1;
        }
        Ok(Prefix::default())
    }

    /// Sends a request; [`Event::Answer`] brings `tag` back with the outcome. Returns the number
    /// under which it can be abandoned.
    ///
    /// # Errors
    /// As [`send`](Unit::send), and [`ErrorKind::Overloaded`] when too many requests wait.
    pub fn request(
        &mut self,
        outgoing: Outgoing<'_>,
        timeout: impl Into<TimeLimit>,
        now: Moment,
        tag: R,
    ) -> Result<u64> {
        let Outgoing { role, event, payload, order, fields, bulkhead, .. } = outgoing;
        check_names(role, event)?;
        self.check_waiting()?;
        let entered = bulkhead.map(Bulkhead::enter).transpose()?;
        let limit = timeout.into();
        let corr = self.free_corr();
        let Queued { conn, frame } = match (fields, limit.limit) {
            (None, None) => {
                let corr = Num::new(corr);
                let len = wire::request_len(role, event, corr, &payload);
                let at = self.pick_in_order(order, len)?;
                self.push_with(at, len, |out| {
                    wire::put_request(role, event, corr, &payload, out);
                });
                self.queued_at(at)
            }
            _ => {
                let prefix = self.prefix(fields, limit.left(now))?;
                let (role, event, corr) = (role.into(), event.into(), Num::new(corr));
                let request = Frame::Request { role, event, corr, payload };
                self.send_prefixed(order, prefix, &request)?
            }
        };
        let names = self.asked.number(role, event);
        let (sent, timeout) = self.limit(limit, now);
        let waiting = Waiting {
            tag,
            conn,
            frame,
            sent,
            asked: nanos(now),
            timeout,
            stream: None,
            names,
            _entered: entered,
        };
        self.wait(corr, waiting);
        Ok(corr)
    }

    /// Since when a request waits, and how long.
    fn limit(&self, TimeLimit { limit, since }: TimeLimit, now: Moment) -> (Moment, Duration) {
        (since.unwrap_or(now), limit.unwrap_or(self.limits.request_timeout))
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

    fn wait(&mut self, corr: u64, waiting: Waiting<R>) {
        self.next_corr = (corr + 1) & MAX_NUMBER;
        self.stats.requests_sent += 1;
        self.waiting.insert(corr, waiting);
    }

    /// Gives up waiting for an answer; a later one is ignored. The other side is told, if it can be. Returns
    /// the tag when it was waiting.
    pub fn abandon(&mut self, corr: u64) -> Option<R> {
        let waiting = self.waiting.remove(corr)?;
        self.cancel(waiting.conn, corr);
        Some(waiting.tag)
    }

    /// Tells the other side that nobody waits for an answer any more: on the connection of the request, or, when that is
    /// closed, on another one.
    fn cancel(&mut self, conn: ConnId, corr: u64) {
        let at = match self.at(conn).filter(|at| !self.links[*at].closing) {
            Some(at) => Some(at).filter(|at| self.links[*at].extensions.cancel > 0),
            None => self.best_to_cancel(),
        };
        if let Some(at) = at {
            self.push(at, &Frame::Cancel { corr: Num::new(corr) });
            self.stats.cancels_sent += 1;
        }
    }

    #[cold]
    fn best_to_cancel(&self) -> Option<usize> {
        let takes = |at: &usize| !self.links[*at].closing && self.links[*at].extensions.cancel > 0;
        (0..self.links.len()).filter(takes).min_by_key(|at| self.rank(&self.links[*at]))
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
    pub fn receive(&mut self, conn: ConnId, message: Bytes, now: Moment) -> Result<()> {
        let Some(at) = self.at(conn) else { return Ok(()) };
        self.links[at].heard(message.len(), now);
        self.clock = now;
        match self.last_names.read(&message) {
            Some(again) => self.work_again(at, message, again, now),
            None => match wire::read_response(&message) {
                Some((corr, Payload { kind, bytes })) => {
                    let before = message.len() - bytes.len();
                    let mut bytes = message;
                    bytes.advance(before);
                    let data = Data::from_raw(kind, bytes);
                    self.responded(corr, data, FieldsView::default(), now);
                }
                None => self.receive_other(at, message, now)?,
            },
        }
        Ok(())
    }

    fn receive_other(&mut self, at: usize, message: Bytes, now: Moment) -> Result<()> {
        if message.len() > self.limits.handshake_message_size && Frame::is_json(&message) {
            let text = "the announcement is too large";
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        if Frame::is_roles(&message) {
            return self.receive_roles(at, message, now);
        }
        match self.links[at].extensions.fields > 0 && Wrapped::is(&message) {
            true => self.receive_wrapped(at, &message, now),
            false => self.receive_frame(at, &message, &message, None, now),
        }
    }

    #[inline(never)]
    fn receive_wrapped(&mut self, at: usize, message: &Bytes, now: Moment) -> Result<()> {
        match Wrapped::decode(message).map_err(not_understood)? {
            Some(wrapped) => self.receive_frame(at, message, wrapped.inner, Some(wrapped), now),
            None => Ok(()),
        }
    }

    /// `inner` is the frame in the message, behind what it is wrapped in.
    #[inline(always)] // Most are not wrapped, and should not pay for it.
    fn receive_frame(
        &mut self,
        at: usize,
        message: &Bytes,
        inner: &[u8],
        wrapped: Option<Wrapped<'_>>,
        now: Moment,
    ) -> Result<()> {
        let conn = self.links[at].conn;
        let fields = wrapped.map_or_else(FieldsView::default, |wrapped| wrapped.fields);
        let frame = Frame::decode(inner).map_err(not_understood)?;
        match frame {
            Frame::Cancel { .. } if self.links[at].extensions.cancel == 0 => {
                let error = wire::DecodeError::UnknownFrame(inner[0]);
                return Err(not_understood(error));
            }
            Frame::Cancel { corr } => self.given_up(at, corr),
            Frame::Message { .. } | Frame::Request { .. } | Frame::StreamRequest { .. } => {
                let block = wrapped.map_or(0, |wrapped| wrapped.block_len());
                if let Some(mut work) = Work::of(frame, message, conn, block) {
                    if let Some(tag) = wrapped.and_then(|wrapped| wrapped.unknown) {
                        self.needs_more(at, work, tag);
                        return Ok(());
                    }
                    work.due = fields.time_left().map(|left| now + left);
                    let Layout { role, event, ref mended, .. } = work.layout;
                    if mended.is_none() && wrapped.is_none() {
                        self.last_names.note(message, role, event);
                        work.layout.number = self.last_names.serial();
                    }
                    self.work(at, message.clone(), work, now);
                }
            }
            Frame::Response { corr, payload } => {
                let data = own(message, payload);
                self.responded(corr, data, fields, now);
            }
            Frame::Reject { corr, payload } => {
                let answer = Answer::Rejection(own(message, payload));
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::StreamAccept { corr, chan, payload } => {
                let answer = Answer::Acceptance(own(message, payload), chan);
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::StreamRefuse { corr, payload, .. } => {
                let answer = Answer::Refusal(own(message, payload));
                self.answered(conn, corr, answer, fields, now);
            }
            Frame::Stream { chan, op } => self.stream_op(conn, chan, op, message),
            Frame::Acquaint(acquaint) => self.events.push(Event::News(News::Acquaint(acquaint))),
            // Not reached: unwrapped ones go to `receive_roles`, and this frame cannot be wrapped.
            Frame::Roles(update) => self.events.push(Event::News(News::Roles(update))),
        }
        Ok(())
    }

    #[inline(always)] // Nearly all answers are responses.
    fn responded(&mut self, corr: Num, data: Data, fields: FieldsView<'_>, now: Moment) {
        let Some(waiting) = self.waiting.answered(corr.value(), false, now) else { return };
        self.stats.last_answer = Some(now.since(waiting.sent));
        let outcome = match waiting.stream {
            None => Ok(data),
            Some(id) => {
                let text = "The stream was answered as if a request";
                let error = Error::new(ErrorKind::Protocol, text);
                self.stream_not_opened(id, &error);
                self.events.push(Event::Stream(id));
                Err(error)
            }
        };
        let fields = (!fields.is_empty()).then(|| Box::new(Fields::received(fields)));
        self.events.push(Event::Answer { tag: waiting.tag, outcome, reason: None, fields });
    }

    fn answered(
        &mut self,
        conn: ConnId,
        corr: Num,
        answer: Answer,
        fields: FieldsView<'_>,
        now: Moment,
    ) {
        let rejects = !matches!(answer, Answer::Acceptance(..));
        let Some(waiting) = self.waiting.answered(corr.value(), rejects, now) else {
            if let Answer::Acceptance(_, chan) = answer {
                self.stream_opened_late(conn, chan);
            }
            return;
        };
        self.stats.last_answer = Some(now.since(waiting.sent));
        let rejected =
            |text| Err(self.rejection(conn, waiting.names, waiting.timeout, text, fields));
        let (outcome, reason) = match (answer, waiting.stream) {
            (Answer::Acceptance(data, _), None) => (Ok(data), None),
            (Answer::Acceptance(data, chan), Some(id)) => {
                (self.stream_opened(conn, id, chan).map(|()| data), None)
            }
            (Answer::Rejection(data), _) => (rejected(text_of(&data)), Some(data)),
            (Answer::Refusal(data), _) => (rejected(unwrapped(&data)), Some(data)),
        };
        if let Some(id) = waiting.stream {
            if let Err(error) = &outcome {
                self.stream_not_opened(id, error);
            }
            self.events.push(Event::Stream(id));
        }
        let fields = (!fields.is_empty()).then(|| Box::new(Fields::received(fields)));
        self.events.push(Event::Answer { tag: waiting.tag, outcome, reason, fields });
    }

    /// The error of a request that was rejected with this text.
    #[cold]
    fn rejection(
        &self,
        conn: ConnId,
        names: NamesNumber,
        timeout: Duration,
        text: String,
        fields: FieldsView<'_>,
    ) -> Error {
        // Who takes fields says it with them.
        let says_so = self.at(conn).is_some_and(|at| self.links[at].extensions.fields > 0);
        let not_begun = !says_so && self.asked.is_refused(names, &text);
        let failure = fields.failure();
        let mut hint = self.asked.hint(names, &self.info);
        // Whichever side has noticed it first: the requester's time is up.
        let error = match &failure {
            Some(Failure { unhandled: true, .. }) if text == EXPIRED => timed_out(timeout),
            _ => {
                if NoHandler::is_told_by(&text) {
                    let event = self.asked.event(names);
                    hint.push_str(&hint::not_handled(event, &fields.known_events()));
                }
                Error::new(ErrorKind::Rejected, text)
            }
        };
        let error = error.with_hint(hint);
        let error = if not_begun { error.not_begun() } else { error };
        match failure {
            Some(failure) => error.with_failure(failure),
            None => error,
        }
    }

    /// A request that this unit has not begun went on to another one.
    pub fn note_rerouted(&mut self) {
        self.stats.requests_rerouted += 1;
    }

    fn answer_event(&mut self, tag: R, outcome: Result<Data>) {
        self.events.push(Event::Answer { tag, outcome, reason: None, fields: None });
    }

    /// A pong came on a connection.
    pub fn pong(&mut self, conn: ConnId, payload: &[u8], now: Moment) {
        if let Some(at) = self.at(conn) {
            self.clock = now;
            self.links[at].pong(payload, now);
            self.let_follow(at);
            self.note_fence(now);
            if self.full {
                // Messages may take a connection now that they could not take before.
                self.note_room();
            }
        }
    }

    // Time.

    /// When [`handle_timeout`](Unit::handle_timeout) is to be called next. Earlier calls do no harm.
    pub fn deadline(&self) -> Option<Moment> {
        let fence = self.drain.deadline();
        let links = self.links.iter().map(Link::deadline).min();
        let (waiting, patience) = (self.waiting.deadline(), self.patience_deadline());
        let roles = self.roles_deadline();
        let others = [links, waiting, patience, self.probe_deadline(), fence, roles];
        let others = others.into_iter().flatten().min();
        match self.expiring.is_empty() {
            true => others,
            false => self.expiring.first().map(|(due, _)| *due).into_iter().chain(others).min(),
        }
    }

    /// When the first of the requests is due: all of [`deadline`](Unit::deadline) that comes nearer by a request that
    /// was [sent](Unit::request).
    #[inline]
    pub fn request_deadline(&self) -> Option<Moment> {
        self.waiting.deadline()
    }

    /// Does what is due: heartbeats, request timeouts, stream probes, and the end of the patience
    /// with handlers.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.clock = now;
        while let Some((due, request)) = self.expiring.first().copied()
            && due <= now
        {
            self.expiring.pop_first();
            let reason = CancelReason::Deadline;
            self.events.push(Event::Cancelled { request: Some(request), reason });
        }
        for (corr, waiting) in self.waiting.take_due(now) {
            self.cancel(waiting.conn, corr);
            let hint = self.asked.hint(waiting.names, &self.info);
            let error = timed_out(waiting.timeout).with_hint(hint);
            if let Some(id) = waiting.stream {
                self.stream_not_opened(id, &error);
                self.events.push(Event::Stream(id));
            }
            self.answer_event(waiting.tag, Err(error));
        }
        let several = self.links.len() > 1;
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            let full = link.queued() >= self.limits.queue_per_connection;
            if link.note_full(full, now) {
                let dropped = self.stats.messages_dropped + self.stats.requests_shed;
                let (conn, queued) = (link.conn, link.queued());
                self.events.push(Event::SlowConsumer { conn, queued, dropped });
            }
            let before = link.out.len();
            match link.beat(now) {
                Beat::Nothing => {}
                Beat::Ping => {
                    let added = link.out.len() - before;
                    self.budget.add(added);
                    if several {
                        // So that what is to stay in order may take another one.
                        self.ask_whether_arrived(at);
                    }
                    self.announce(at);
                }
                Beat::Dead => self.events.push(Event::Dead(link.conn)),
            }
        }
        self.leave_retired(now);
        self.tell_due_roles(now);
        self.lose_patience(now);
        self.probe_streams(now);
        self.note_fence(now);
        if self.full {
            self.note_room();
        }
    }

    /// Requests that wait for an answer, handlers that run or are to run, streams that are open, and
    /// those that were written to their end and that an original, as far as it tells, has not read to
    /// its end: it loses the rest when the connection closes. While it is being [drained](Unit::drain), also
    /// what may still come, and what is not written. Zero when nothing is under way.
    pub fn busy(&self) -> usize {
        let handlers = self.stats.running + self.postponed + self.undrained();
        self.waiting.len() + handlers + self.streams.len() + self.unread.len()
    }

    /// Counters.
    pub fn stats(&self) -> UnitStats {
        UnitStats {
            waiting: self.waiting.len(),
            answer_time: self.load.answer_time(),
            streams: self.streams.len(),
            connections: self.links.iter().map(Link::stats).collect(),
            ..self.stats.clone()
        }
    }
}

/// What goes before a frame.
#[derive(Clone, Copy, Default)]
struct Prefix<'a> {
    fields: Option<&'a Fields>,
    deadline: Option<Duration>,
}

impl Prefix<'_> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.fields.is_none() && self.deadline.is_none()
    }

    #[inline]
    fn len(&self) -> usize {
        if self.is_empty() { 0 } else { wire::fields_len(self.fields, self.deadline) }
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            wire::put_fields(self.fields, self.deadline, out);
        }
    }
}

impl TimeLimit {
    /// What is left of a time that was given.
    fn left(&self, now: Moment) -> Option<Duration> {
        let gone = now.since(self.since.unwrap_or(now));
        Some(self.limit?.saturating_sub(gone))
    }
}

#[cold]
fn not_understood(error: wire::DecodeError) -> Error {
    Error::new(ErrorKind::Protocol, printable(&error.to_string()))
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

#[cold]
fn too_large(len: usize, limit: usize) -> Error {
    let text = format!("The message has {len} bytes, more than the limit of {limit}");
    Error::new(ErrorKind::TooLarge, text)
        .with_hint("Send it as a stream, in parts, or raise the limit for messages on both sides.")
}

fn text(text: &str) -> Payload<'_> {
    Payload { kind: DataType::String, bytes: text.as_bytes() }
}

fn own(message: &Bytes, payload: Payload<'_>) -> Data {
    Data::from_raw(payload.kind, message.slice_ref(payload.bytes))
}

#[inline]
fn check_names(role: &str, event: &str) -> Result<()> {
    wire::check_name(role).and_then(|()| wire::check_name(event)).map_err(unfit)
}

#[cold]
fn unfit(error: wire::NameTooLong) -> Error {
    Error::new(ErrorKind::InvalidArgument, error.to_string())
}

/// What a remote peer says to a request of ours, but for a response.
enum Answer {
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
