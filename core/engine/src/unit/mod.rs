//! The state machine of one remote peer: everything that is said to it and by it.

mod access;
mod drain;
mod handlers;
mod incoming;
mod link;
mod output;
mod question;
mod receive;
mod retire;
mod roles;
mod send;
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

use rustc_hash::FxHashMap;

pub use self::drain::is_fence;
use self::{
    access::Allowed,
    drain::Drain,
    handlers::Patience,
    link::{Beat, Link},
    question::Late,
    roles::Pace,
    stream::Stream,
    waiting::{AskedNames, Waiting, WaitingTable},
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
    ConnId, Dialect, Extensions, Limits, Load, Moment, RequestId, StreamId, UnitInfo, UnitStats,
    error::{Error, ErrorKind},
    wire::{DataType, LastNames, Payload},
    ws::FrameWriter,
};

/// Stream data waits when a connection has this much queued, so that messages, requests and pongs
/// get ahead of it.
const BULK_MARK: usize = 128 << 10;
/// The most that counts of one frame that a remote peer has caused, see [`Unit::is_clogged`].
const OWED_MAX: usize = 1 << 10;

/// The most connections that are gone whose requests can be given up, whatever the limit for connections.
const GONE_MAX: usize = 64;

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
    /// Connections that are gone, as many as there may be, the newest last: handlers of their requests may still run.
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

    /// Whether all connections take [fields](crate::Fields).
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
        if self.gone.len() >= self.limits.connections_per_unit.min(GONE_MAX) {
            self.gone.pop_front();
        }
        self.gone.push_back(conn);
        self.forget_gone();
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

    /// The unit's connections.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.links.iter().map(|link| link.conn)
    }

    /// Bytes came on a connection, perhaps not a whole message: it is not dead.
    pub fn reading(&mut self, conn: ConnId, now: Moment) {
        if let Some(at) = self.at(conn) {
            self.links[at].reading(now);
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
