//! A node that runs the engine, with an application that does at random all that applications do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use http::HeaderMap;
use roletalk_engine::{
    AddressId, CancelReason, Chunk, Config, ConnId, Data, DataType, Dialect, Engine, EngineEvent,
    ErrorKind, Event, Fields, Incoming, Kind, Moment, Moves, Opening, Order, Outgoing, PeerEvent,
    Question, Remote, RequestId, StreamId, TimeLimit, UnitId, close_code,
    wire::{Direction, Payload},
};
use url::Url;

use super::{
    HANDLERS, fields,
    ledger::{End, Runs},
    world::{Ctx, Effect, Profile},
};

/// What the engine may hold beyond the limit of a connection's queue: one message or chunk, and
/// frames that nothing holds back because they are few and small.
const SLACK: usize = (64 << 10) + (32 << 10);
/// Stream data is queued up to this much whatever the limit.
const BULK: usize = 128 << 10;
/// Bytes of the engine's roles that are used.
const ROLES: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "r5"];

pub(crate) fn role(rng: &mut super::rng::Rng) -> &'static str {
    rng.pick(&ROLES)
}

/// Something that the application means to do later.
#[derive(Debug)]
pub(crate) enum Task {
    Do(UnitId, Work),
    Handled(UnitId, Question),
    Abandon(UnitId, u64),
    Step(UnitId, StreamId, u64),
    Break(UnitId, StreamId, u64),
}

/// Something that may have to wait for room.
#[derive(Debug)]
pub(crate) enum Work {
    Message { id: u64, role: &'static str, len: usize, order: Order, sound: bool },
    Answer { id: u64, to: Question, len: usize, reject: bool },
    Accept { id: u64, offer: Question },
}

struct Unit {
    backlog: VecDeque<Work>,
    /// Waiting requests: id to correlation.
    corrs: BTreeMap<u64, u64>,
    streams: BTreeMap<StreamId, Stream>,
    /// Handlers that have not returned.
    running: usize,
    unanswered: Vec<Work>,
    dialect: Dialect,
    /// The handlers of requests that have not ended, each with its request's number.
    begun: BTreeMap<RequestId, u64>,
    /// All that were ever begun.
    ever: BTreeSet<RequestId>,
    /// Requests for which there was no handler.
    refused: u64,
    /// The correlations of requests that were given up, and not begun.
    strays: BTreeSet<u64>,
    /// The last number before it lost a connection. What had arrived on that one may have moved to another one.
    handed_over: u64,
    /// Whether all its handlers were told that it is gone.
    lost: bool,
}

struct Stream {
    /// The number of the request that opens it.
    id: u64,
    writer: bool,
    opening: bool,
    /// The application gives up here.
    break_at: usize,
    /// A task will go on with it.
    pausing: bool,
    slow: bool,
}

pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) engine: Engine<u64>,
    units: BTreeMap<UnitId, Unit>,
    runs: Runs,
    profile: Profile,
    /// How often in a row there was more to do right after all was done.
    overdue: u32,
    acknowledging: bool,
    /// Every request is answered from now on.
    released: bool,
    leaving: bool,
    /// The correlations of requests that were given up on another connection than that on which they were sent, with that
    /// connection. They may never have arrived.
    elsewhere: BTreeSet<(ConnId, u64)>,
}

impl Host {
    pub(crate) fn new(index: usize, config: Config, profile: Profile) -> Host {
        Host {
            index,
            engine: Engine::new(config),
            units: BTreeMap::new(),
            runs: Runs::default(),
            profile,
            overdue: 0,
            acknowledging: true,
            released: false,
            leaving: false,
            elsewhere: BTreeSet::new(),
        }
    }

    // Connections.

    pub(crate) fn dialed(
        &mut self,
        ctx: &mut Ctx,
        address: AddressId,
        url: &str,
    ) -> Option<ConnId> {
        let url = Url::parse(url).expect("a URL of ours");
        let opening = Opening::Dial { address, url, headers: HeaderMap::new() };
        match self.engine.open(opening, Remote::default(), ctx.now) {
            Ok(conn) => Some(conn),
            Err(error) => {
                self.engine.dial_failed(address, error, ctx.now);
                None
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx) {
        self.engine.handle_timeout(ctx.now);
        match self.engine.deadline() {
            Some(at) if at <= ctx.now => self.overdue += 1,
            _ => self.overdue = 0,
        }
        assert!(self.overdue < 5, "busy loop: the deadline {:?} stays", self.engine.deadline());
    }

    /// Handles all that the engine has to tell.
    pub(crate) fn drain(&mut self, ctx: &mut Ctx) {
        while let Some(event) = self.engine.poll_event() {
            self.event(ctx, event);
        }
        self.check();
    }

    /// What holds at any time.
    fn check(&self) {
        let limits = self.engine.peer().limits();
        let (mut sum, mut conns) = (0, 0);
        for (id, unit) in &self.units {
            let Some(machine) = self.engine.unit(*id) else {
                panic!("{id:?} is gone, unannounced")
            };
            let stats = machine.stats();
            // What was queued on others that are lost may have moved to a connection.
            conns += limits.connections_per_unit;
            for conn in &stats.connections {
                let most = limits.queue_per_connection.max(BULK) + SLACK;
                let most = most * limits.connections_per_unit;
                assert!(conn.queued <= most, "{} bytes queued on {:?}", conn.queued, conn.conn);
                sum += conn.queued;
            }
            // Answers that wait for room count as running handlers.
            let late = stats.running - unit.running;
            let queued: usize = stats.connections.iter().map(|conn| conn.queued).sum();
            assert!(late == 0 || queued > 0, "{late} answers of {id:?} wait for nothing");
            assert_eq!(stats.waiting, unit.corrs.len(), "waiting requests of {id:?}");
            assert_eq!(stats.streams, unit.streams.len(), "streams of {id:?}");
            let held = stats.running_bytes;
            assert!(stats.running > 0 || held == 0, "{held} bytes are held for no handler");
        }
        assert_eq!(self.engine.budget().queued(), sum, "the budget is not what is queued");
        assert!(sum <= limits.queue_per_peer + conns * (BULK + SLACK), "{sum} bytes queued");
    }

    // Events.

    fn event(&mut self, ctx: &mut Ctx, event: EngineEvent<u64>) {
        match event {
            EngineEvent::UpgradeRequest { .. } => unreachable!("no application judges upgrades"),
            EngineEvent::Peer(event) => self.peer_event(ctx, event),
            EngineEvent::Unit { unit, event } => {
                assert!(self.units.contains_key(&unit), "{event:?} of the unknown {unit:?}");
                self.unit_event(ctx, unit, event);
            }
            EngineEvent::Dial { address, url } => {
                ctx.note(self.index, format_args!("dials {url}"));
                ctx.effects.push(Effect::Dial { address, url });
            }
            EngineEvent::Close { conn, code, reason } => {
                // A handshake that is refused at its end may look finished to the other side.
                let sound = code != close_code::MALFORMED || reason == "unknown frame type 0";
                assert!(sound, "nobody sends what is bad: {reason}");
                ctx.note(self.index, format_args!("closes {conn:?}"));
                ctx.effects.push(Effect::Close { conn });
            }
            EngineEvent::Attached { conn, unit, .. } => {
                ctx.note(self.index, format_args!("attaches {conn:?} to {unit:?}"));
            }
            EngineEvent::Ping { .. } | EngineEvent::Pong { .. } | EngineEvent::Evict { .. } => {}
        }
    }

    fn peer_event(&mut self, ctx: &mut Ctx, event: PeerEvent) {
        match &event {
            PeerEvent::UnitOpened { unit, info } => {
                ctx.ledger.counts.units += 1;
                let unit_app = Unit {
                    backlog: VecDeque::new(),
                    corrs: BTreeMap::new(),
                    streams: BTreeMap::new(),
                    running: 0,
                    unanswered: Vec::new(),
                    dialect: info.dialect,
                    begun: BTreeMap::new(),
                    ever: BTreeSet::new(),
                    refused: 0,
                    strays: BTreeSet::new(),
                    handed_over: 0,
                    lost: false,
                };
                ctx.note(self.index, format_args!("{unit:?} opened"));
                assert!(self.units.insert(*unit, unit_app).is_none());
                return;
            }
            PeerEvent::ConnectionClosed { conn, unit: Some(unit), reason } => {
                // What is replaced is closed like this when all has arrived.
                let cut = !reason.text().contains("(4000)");
                self.runs.lost(*unit, Some(*conn), cut, ctx.ledger);
                if let Some(unit) = self.units.get_mut(unit) {
                    unit.handed_over = ctx.ledger.last_number();
                }
            }
            PeerEvent::UnitClosed { unit } => {
                ctx.ledger.unit_closed(self.index, *unit);
                let gone = self.units.remove(unit).expect("an unknown unit closed");
                assert!(gone.corrs.is_empty());
                assert!(gone.lost || gone.running == 0, "handlers know nothing of the loss");
                for stream in gone.streams.values() {
                    self.note_end(ctx, stream, End::Broken);
                }
                self.runs.forget(*unit, ctx.ledger);
            }
            _ => {}
        }
        ctx.note(self.index, format_args!("{event:?}"));
    }

    fn unit_event(&mut self, ctx: &mut Ctx, id: UnitId, event: Event<u64>) {
        match event {
            Event::Incoming(incoming, question) => match question.kind() {
                Kind::Message => self.message(ctx, id, &incoming, question),
                Kind::Request => self.request(ctx, id, &incoming, question),
                Kind::Readable | Kind::Writable => {
                    self.stream_request(ctx, id, &incoming, question);
                }
            },
            Event::Answer { tag, outcome, fields, .. } => {
                self.answer(ctx, id, tag, &outcome, fields.as_deref());
            }
            Event::Stream(stream) => {
                if self.unit(id).streams.get(&stream).is_some_and(|stream| !stream.pausing) {
                    self.step(ctx, id, stream);
                }
            }
            Event::Room => {
                ctx.note(self.index, format_args!("{id:?} has room"));
                while let Some(work) = self.unit(id).backlog.pop_front() {
                    if !self.has_room(ctx, id) {
                        self.unit(id).backlog.push_front(work);
                        break;
                    }
                    self.work(ctx, id, work);
                }
            }
            Event::SlowConsumer { conn, queued, dropped } => {
                ctx.note(self.index, format_args!("{conn:?} slow: {queued}, {dropped} dropped"));
            }
            Event::Cancelled { request: Some(request), reason } => {
                self.cancelled(ctx, id, request, reason);
            }
            Event::Cancelled { request: None, reason } => {
                assert_eq!(reason, CancelReason::UnitLost);
                self.unit(id).lost = true;
            }
            other => panic!("not for the application: {other:?}"),
        }
    }

    fn unit(&mut self, id: UnitId) -> &mut Unit {
        self.units.get_mut(&id).expect("an open unit")
    }

    fn give_back(
        &mut self,
        ctx: &mut Ctx,
        id: UnitId,
        question: Question,
        outcome: Result<Payload<'_>, &str>,
        fields: Option<&Fields>,
    ) {
        self.unit(id).running -= 1;
        if let Some(request) = question.request() {
            self.unit(id).begun.remove(&request);
        }
        let now = ctx.now;
        self.engine.with_unit(id, now, |unit| unit.answer_with(question, outcome, fields, now));
    }

    fn handled(&mut self, ctx: &mut Ctx, id: UnitId, question: Question) {
        self.give_back(ctx, id, question, Ok(Payload::NULL), None);
    }

    /// A handler is begun for a request. False when there is none, so that it was refused.
    fn begin(
        &mut self,
        ctx: &mut Ctx,
        unit: UnitId,
        id: u64,
        what: &Incoming,
        to: &Question,
    ) -> bool {
        ctx.ledger.check_limit(id, what.deadline(), ctx.now);
        fields::check(what.fields(), fields::asked(id), ctx.ledger.has_fields(id));
        if self.engine.peer().check_role(what.role()).is_err() {
            return false;
        }
        ctx.ledger.request_handled(id, self.index);
        let request = to.request().expect("its requester waits");
        let state = self.unit(unit);
        state.running += 1;
        state.begun.insert(request, id);
        state.ever.insert(request);
        true
    }

    fn refuse(&mut self, ctx: &mut Ctx, id: UnitId, question: Question) {
        self.unit(id).refused += 1;
        let now = ctx.now;
        self.engine.with_unit(id, now, |unit| unit.refuse(question, "not here", now));
    }

    /// Nobody waits for a request any more.
    /// Whether a connection belongs to a unit.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        let units = self.units.keys().filter_map(|id| self.engine.unit(*id));
        units.flat_map(|unit| unit.connections()).any(|of_unit| of_unit == conn)
    }

    /// Requests of other connections are about to be given up on this one.
    pub(crate) fn given_up_elsewhere(&mut self, conn: ConnId, correlations: Vec<u64>) {
        self.elsewhere.extend(correlations.into_iter().map(|corr| (conn, corr)));
    }

    fn cancelled(&mut self, ctx: &mut Ctx, unit: UnitId, of: RequestId, reason: CancelReason) {
        ctx.note(self.index, format_args!("{unit:?} {of:?} cancelled: {reason:?}"));
        let state = self.unit(unit);
        if let Some(id) = state.begun.get(&of) {
            ctx.ledger.handler_told(*id);
        } else if !state.ever.iter().any(|begun| begun.corr == of.corr) {
            // A unit that this side has closed is gone already.
            let Some(machine) = self.engine.unit(unit) else { return };
            let stats = machine.stats();
            let mut conns = machine.connections();
            let elsewhere = conns.any(|conn| self.elsewhere.contains(&(conn, of.corr)));
            drop(conns);
            let state = self.unit(unit);
            if !elsewhere {
                // One cancel may name it on several connections.
                state.strays.insert(of.corr);
            }
            let strays = state.strays.len() as u64;
            let rejected = stats.requests_shed
                + stats.requests_expired
                + stats.requests_turned_away
                + self.unit(unit).refused;
            assert!(strays <= rejected, "{of:?} was cancelled, and never begun");
        }
        let is_it =
            |work: &Work| matches!(work, Work::Answer { to, .. } if to.request() == Some(of));
        let state = self.unit(unit);
        if let Some(at) = state.unanswered.iter().position(is_it) {
            match state.unanswered.swap_remove(at) {
                Work::Answer { to, .. } if ctx.rng.percent(50) => {
                    state.running -= 1;
                    state.begun.remove(&of);
                    let now = ctx.now;
                    self.engine.with_unit(unit, now, |unit| unit.forget(to, now));
                }
                work => self.work(ctx, unit, work),
            }
        }
    }

    fn message(&mut self, ctx: &mut Ctx, id: UnitId, incoming: &Incoming, question: Question) {
        let unit = self.unit(id);
        unit.running += 1;
        let number = number(incoming.payload());
        let arrived_here = number > unit.handed_over;
        ctx.note(self.index, format_args!("{id:?} message {number}"));
        let conn = arrived_here.then(|| incoming.connection());
        ctx.ledger.message_received(number, self.index, conn);
        assert_eq!(incoming.deadline(), None, "nobody waits for a message");
        let arrives = ctx.ledger.has_fields(number);
        fields::check(incoming.fields(), fields::asked(number), arrives);
        if ctx.rng.percent(20) {
            let at = ctx.now + ctx.rng.millis(0, 500);
            ctx.effects.push(Effect::Task { at, task: Task::Handled(id, question) });
        } else {
            self.handled(ctx, id, question);
        }
    }

    fn request(&mut self, ctx: &mut Ctx, unit: UnitId, incoming: &Incoming, to: Question) {
        let id = number(incoming.payload());
        ctx.note(self.index, format_args!("{unit:?} request {id}"));
        if !self.begin(ctx, unit, id, incoming, &to) {
            return self.refuse(ctx, unit, to);
        }
        let len = 8 + ctx.rng.size(20_000);
        let reject = ctx.rng.percent(15);
        let work = Work::Answer { id, to, len, reject };
        match ctx.rng.below(100) {
            0..70 => self.work(ctx, unit, work),
            70..92 => {
                let at = ctx.now + ctx.rng.millis(0, 3000);
                ctx.effects.push(Effect::Task { at, task: Task::Do(unit, work) });
            }
            // Where they are few, none is kept for ever.
            _ if self.released || self.engine.peer().limits().running_handlers == HANDLERS => {
                let at = ctx.now + ctx.rng.millis(0, 5000);
                ctx.effects.push(Effect::Task { at, task: Task::Do(unit, work) });
            }
            // Not answered, unless it is cancelled.
            _ => self.unit(unit).unanswered.push(work),
        }
    }

    fn stream_request(&mut self, ctx: &mut Ctx, unit: UnitId, what: &Incoming, offer: Question) {
        let id = number(what.payload());
        ctx.note(self.index, format_args!("{unit:?} stream request {id}"));
        if !self.begin(ctx, unit, id, what, &offer) {
            return self.refuse(ctx, unit, offer);
        }
        let dice = if self.profile.stream_mischief { ctx.rng.below(100) } else { 0 };
        match dice {
            0..80 => self.work(ctx, unit, Work::Accept { id, offer }),
            80..90 => {
                let at = ctx.now + ctx.rng.millis(0, 3000);
                let task = Task::Do(unit, Work::Accept { id, offer });
                ctx.effects.push(Effect::Task { at, task });
            }
            90..97 => {
                self.reject(ctx, unit, id, offer);
            }
            _ => self.handled(ctx, unit, offer),
        }
    }

    fn answer(
        &mut self,
        ctx: &mut Ctx,
        unit: UnitId,
        id: u64,
        outcome: &roletalk_engine::Result<Data>,
        with: Option<&Fields>,
    ) {
        let with = with.map(Fields::view).unwrap_or_default();
        let told = with.headers().next().is_some() || with.traceparent().is_some();
        // A twin may have answered what its twin was asked.
        if !ctx.ledger.twins {
            fields::check(with, fields::answered(id), told);
        }
        if let Some(failure) = outcome.as_ref().err().and_then(|error| error.failure()) {
            let given = *failure == fields::failure(id);
            assert!(given || failure.unhandled || ctx.ledger.twins, "{id} failed: {failure:?}");
        }
        match outcome {
            Ok(data) => ctx.note(self.index, format_args!("{id} answered, {}", data.bytes().len())),
            Err(error) => ctx.note(self.index, format_args!("{id} failed: {error:?}")),
        }
        ctx.ledger.answered(id, self.index, outcome, ctx.now);
        assert!(self.unit(unit).corrs.remove(&id).is_some());
        let stream = self.unit(unit).streams.iter_mut().find(|(_, stream)| stream.id == id);
        let Some((&stream, state)) = stream.filter(|(_, stream)| stream.opening) else { return };
        state.opening = false;
        if outcome.is_err() {
            self.end_stream(ctx, unit, stream, End::Broken, "");
        }
    }

    // What may have to wait.

    fn has_room(&mut self, ctx: &mut Ctx, id: UnitId) -> bool {
        self.engine.with_unit(id, ctx.now, |unit| unit.has_room()) == Some(true)
    }

    fn work(&mut self, ctx: &mut Ctx, id: UnitId, work: Work) {
        if !self.units.contains_key(&id) {
            return;
        }
        if !self.has_room(ctx, id) {
            self.unit(id).backlog.push_back(work);
            return;
        }
        match work {
            Work::Message { id: number, role, len, order, sound } => {
                self.send(ctx, id, number, (role, len, order, sound));
            }
            Work::Answer { id: number, to, len, reject } => {
                let mut payload = number.to_le_bytes().to_vec();
                payload.resize(len, 0);
                let payload = Payload { kind: DataType::Binary, bytes: &payload };
                ctx.note(self.index, format_args!("answers {number}, reject: {reject}"));
                if reject {
                    return self.reject(ctx, id, number, to);
                }
                let fields = fields::answered(number);
                self.give_back(ctx, id, to, Ok(payload), fields.as_ref());
            }
            Work::Accept { id: number, offer } => self.accept(ctx, id, number, offer),
        }
    }

    fn reject(&mut self, ctx: &mut Ctx, unit: UnitId, id: u64, to: Question) {
        let mut fields = fields::answered(id).unwrap_or_default();
        fields.set_failure(&fields::failure(id)).expect("it is small");
        self.give_back(ctx, unit, to, Err("no"), Some(&fields));
    }

    fn send(
        &mut self,
        ctx: &mut Ctx,
        id: UnitId,
        number: u64,
        (role, len, order, sound): (&str, usize, Order, bool),
    ) {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + len, 0);
        let payload = Payload { kind: DataType::Binary, bytes: &payload };
        let fields = fields::asked(number);
        let outgoing = Outgoing {
            role,
            event: "e",
            payload,
            order,
            fields: fields.as_ref(),
            bulkhead: None,
            moves: if fields.is_none() { Moves::ToAnyUnit } else { Moves::WithinUnit },
        };
        let takes_fields = self.takes_fields(id);
        let sent = self.engine.with_unit(id, ctx.now, |unit| unit.send(outgoing)).expect("open");
        match sent {
            Ok(queued) => {
                ctx.note(self.index, format_args!("{id:?} sends {number} on {:?}", queued.conn));
                let order = (order == Order::Kept).then(|| {
                    let machine = self.engine.unit(id);
                    let conns = || machine.into_iter().flat_map(|unit| unit.connections());
                    let is_open = |conn| conns().any(|open| open == conn);
                    let place = self.runs.place(id, vec![queued.conn], is_open, ctx.ledger);
                    (self.index, place.0, place.1)
                });
                ctx.ledger.message_sent(number, order, sound);
                if fields.is_some() && takes_fields {
                    ctx.ledger.fields_sent(number);
                }
            }
            // There was room, so that this must not be.
            Err(error) => panic!("a message was refused: {error:?}"),
        }
    }

    // Streams.

    fn accept(&mut self, ctx: &mut Ctx, unit: UnitId, id: u64, mut offer: Question) {
        let request = offer.request().expect("it was not accepted before");
        let fields = fields::answered(id);
        let accepted = self
            .engine
            .with_unit(unit, ctx.now, |unit| {
                let payload = Payload { kind: DataType::Binary, bytes: &id.to_le_bytes() };
                unit.accept_with(&mut offer, payload, fields.as_ref())
            })
            .expect("open");
        self.unit(unit).begun.remove(&request);
        if let Ok(stream) = accepted {
            ctx.note(self.index, format_args!("accepts {id} as {stream:?}"));
            self.new_stream(ctx, unit, stream, id, offer.kind() == Kind::Writable, false);
        }
        self.handled(ctx, unit, offer);
        if let Ok(stream) = accepted {
            self.step(ctx, unit, stream);
        }
    }

    fn new_stream(
        &mut self,
        ctx: &mut Ctx,
        unit: UnitId,
        stream: StreamId,
        id: u64,
        writer: bool,
        opening: bool,
    ) {
        let dialect = self.unit(unit).dialect;
        match writer {
            true => ctx.ledger.writer_opened(id, dialect),
            false => ctx.ledger.reader_opened(id),
        }
        let (break_at, slow) = match self.profile.stream_mischief {
            true => {
                let at = ctx.rng.index(ctx.ledger.stream(id).size + 1);
                (if ctx.rng.percent(15) { at } else { usize::MAX }, ctx.rng.percent(30))
            }
            false => (usize::MAX, ctx.rng.percent(30)),
        };
        let state = Stream { id, writer, opening, break_at, pausing: false, slow };
        let before = self.unit(unit).streams.insert(stream, state);
        assert!(before.is_none(), "the number of {stream:?} was in use");
        if self.profile.stream_mischief && ctx.rng.percent(8) {
            let at = ctx.now + ctx.rng.millis(0, 2000);
            ctx.effects.push(Effect::Task { at, task: Task::Break(unit, stream, id) });
        }
    }

    /// Reads or writes as far as it goes.
    fn step(&mut self, ctx: &mut Ctx, unit: UnitId, stream: StreamId) {
        // The unit was closed by this side, and the event of it is still to come.
        if self.engine.unit(unit).is_none() {
            return;
        }
        let Some(state) = self.unit(unit).streams.get(&stream) else { return };
        match state.writer {
            true => self.write(ctx, unit, stream),
            false => self.read(ctx, unit, stream),
        }
    }

    fn write(&mut self, ctx: &mut Ctx, unit: UnitId, stream: StreamId) {
        loop {
            let state = &self.unit(unit).streams[&stream];
            let (id, break_at) = (state.id, state.break_at);
            let (size, sent) = (ctx.ledger.stream(id).size, ctx.ledger.stream(id).sent);
            if sent >= break_at && sent < size {
                return self.end_stream(ctx, unit, stream, End::Broken, "enough written");
            }
            if sent == size {
                let finished = self.engine.with_unit(unit, ctx.now, |unit| {
                    let _ = unit.finish(stream);
                    unit.finished(stream)
                });
                return match finished.expect("open") {
                    None => {}
                    Some(Ok(())) => self.end_stream(ctx, unit, stream, End::Complete, ""),
                    Some(Err(_)) => self.end_stream(ctx, unit, stream, End::Broken, ""),
                };
            }
            let len = (size - sent).min(60_000);
            let piece = ctx.ledger.piece(id, sent, len);
            let now = ctx.now;
            let written = self.engine.with_unit(unit, now, |unit| unit.write(stream, piece, now));
            match written.expect("open") {
                Ok(0) => return,
                Ok(len) => {
                    ctx.note(self.index, format_args!("wrote {len} to {id}"));
                    ctx.ledger.wrote(id, len);
                }
                Err(_) => return self.end_stream(ctx, unit, stream, End::Broken, ""),
            }
        }
    }

    fn read(&mut self, ctx: &mut Ctx, unit: UnitId, stream: StreamId) {
        loop {
            let state = &self.unit(unit).streams[&stream];
            let (id, slow, break_at) = (state.id, state.slow, state.break_at);
            if ctx.ledger.stream(id).read >= break_at {
                let reason = ctx.rng.pick(&["", "enough read"]);
                return self.end_stream(ctx, unit, stream, End::Broken, reason);
            }
            match self.engine.with_unit(unit, ctx.now, |unit| unit.read(stream)).expect("open") {
                Chunk::Data(bytes) => {
                    ctx.note(self.index, format_args!("read {} of {id}", bytes.len()));
                    ctx.ledger.read(id, &bytes);
                }
                Chunk::Pending => return,
                Chunk::End => return self.end_stream(ctx, unit, stream, End::Complete, ""),
                Chunk::Failed(error) => {
                    ctx.note(self.index, format_args!("stream {id} failed: {error:?}"));
                    return self.end_stream(ctx, unit, stream, End::Broken, "");
                }
            }
            if slow && ctx.rng.percent(50) {
                self.unit(unit).streams.get_mut(&stream).expect("it is read").pausing = true;
                let at = ctx.now + ctx.rng.millis(0, 150);
                ctx.effects.push(Effect::Task { at, task: Task::Step(unit, stream, id) });
                return;
            }
        }
    }

    fn note_end(&self, ctx: &mut Ctx, stream: &Stream, how: End) {
        match stream.writer {
            true => ctx.ledger.writer_ended(stream.id, how, self.acknowledging),
            false => ctx.ledger.reader_ended(stream.id, how),
        }
    }

    fn end_stream(&mut self, ctx: &mut Ctx, unit: UnitId, id: StreamId, how: End, reason: &str) {
        let stream = self.unit(unit).streams.remove(&id).expect("an open stream");
        self.acknowledging = matches!(self.unit(unit).dialect, Dialect::Credit { .. });
        ctx.note(self.index, format_args!("ends {} {how:?} {reason:?}", stream.id));
        self.note_end(ctx, &stream, how);
        let waiting = |host: &Host| host.engine.unit(unit).map_or(0, |unit| unit.stats().waiting);
        let before = waiting(self);
        self.engine.with_unit(unit, ctx.now, |unit| unit.close_stream(id, reason));
        // The engine forgets a request that still waits together with its stream.
        if waiting(self) < before {
            self.unit(unit).corrs.remove(&stream.id);
            ctx.ledger.abandoned(stream.id);
        }
    }

    // Actions.

    pub(crate) fn task(&mut self, ctx: &mut Ctx, task: Task) {
        let now = ctx.now;
        match task {
            Task::Do(unit, work) => self.work(ctx, unit, work),
            Task::Handled(unit, question) if self.units.contains_key(&unit) => {
                self.handled(ctx, unit, question);
            }
            Task::Handled(..) => {}
            Task::Abandon(unit, id) => {
                let Some(state) = self.units.get_mut(&unit) else { return };
                let Some(corr) = state.corrs.remove(&id) else { return };
                let tag = self.engine.with_unit(unit, now, |unit| unit.abandon(corr)).flatten();
                assert_eq!(tag, Some(id), "an abandoned request was not waiting");
                ctx.note(self.index, format_args!("abandons {id}"));
                ctx.ledger.abandoned(id);
                let stream = self.unit(unit).streams.iter().find(|(_, stream)| stream.id == id);
                if let Some((&stream, _)) = stream {
                    self.end_stream(ctx, unit, stream, End::Broken, "");
                }
            }
            Task::Step(unit, stream, id) => {
                let state = self.units.get_mut(&unit).and_then(|u| u.streams.get_mut(&stream));
                if let Some(state) = state.filter(|stream| stream.id == id) {
                    state.pausing = false;
                    self.step(ctx, unit, stream);
                }
            }
            Task::Break(unit, stream, id) => {
                let state = self.units.get(&unit).and_then(|unit| unit.streams.get(&stream));
                if state.is_some_and(|stream| stream.id == id) {
                    let reason = ctx.rng.pick(&["", "broken off"]);
                    self.end_stream(ctx, unit, stream, End::Broken, reason);
                }
            }
        }
    }

    /// Answers what was not answered, now and from now on.
    pub(crate) fn release(&mut self, ctx: &mut Ctx) {
        self.released = true;
        for id in self.units.keys().copied().collect::<Vec<_>>() {
            for work in std::mem::take(&mut self.unit(id).unanswered) {
                self.work(ctx, id, work);
            }
        }
    }

    /// Changes roles, so that they are on their way while connections come and go.
    pub(crate) fn change_roles(&mut self, ctx: &mut Ctx) {
        let (now, role, active) = (ctx.now, role(ctx.rng), ctx.rng.percent(50));
        ctx.note(self.index, format_args!("role {role} active: {active}"));
        self.engine.with_peer(now, |peer| peer.set_role_active(role, active, now));
    }

    /// Requests are answered at once, and the peer leaves when nothing is under way.
    pub(crate) fn leave(&mut self, ctx: &mut Ctx) {
        ctx.note(self.index, format_args!("drains"));
        self.release(ctx);
        self.engine.drain(ctx.now);
        self.leaving = true;
    }

    /// Closes the peer when nothing is under way, or has been for too long. False while it goes on.
    pub(crate) fn has_left(&mut self, ctx: &mut Ctx, too_long: bool) -> bool {
        let units: Vec<UnitId> = self.units.keys().copied().collect();
        let busy = |id: &UnitId| self.engine.unit(*id).is_some_and(|unit| unit.busy() > 0);
        let ready = too_long || !units.iter().any(busy);
        if ready {
            ctx.note(self.index, format_args!("has drained, too long: {too_long}"));
            self.engine.close(ctx.now);
        }
        ready
    }

    /// Does something at random.
    pub(crate) fn act(&mut self, ctx: &mut Ctx) {
        if self.leaving {
            return;
        }
        let now = ctx.now;
        if self.units.is_empty() && ctx.rng.percent(5) || ctx.rng.below(1000) < 3 {
            let url = super::world::url(ctx.rng.index(self.profile.peers));
            let permanent = ctx.rng.percent(70);
            ctx.note(self.index, format_args!("connects to {url}"));
            self.engine.with_peer(now, |peer| peer.connect(&url, permanent, now)).unwrap();
        }
        match ctx.rng.below(100) {
            0..3 => {
                let role = role(ctx.rng);
                ctx.note(self.index, format_args!("adds role {role}"));
                self.engine.with_peer(now, |peer| peer.add_role(role, true, now)).unwrap();
            }
            3..7 => self.change_roles(ctx),
            7..9 => self.add_destination(now, role(ctx.rng)),
            9 if self.profile.close_units => {
                let Some(unit) = self.random_unit(ctx) else { return };
                ctx.note(self.index, format_args!("closes {unit:?}"));
                self.engine.close_unit(unit, now);
            }
            9..45 => {
                let Some(unit) = self.random_unit(ctx) else { return };
                let order = if ctx.rng.percent(70) { Order::Kept } else { Order::Any };
                for _ in 0..ctx.rng.between(1, 8) {
                    let (id, len) = (ctx.ledger.number(), ctx.rng.size(self.profile.message));
                    let role = role(ctx.rng);
                    let work = Work::Message { id, role, len, order, sound: false };
                    self.work(ctx, unit, work);
                }
            }
            45..80 => {
                let Some(unit) = self.random_unit(ctx) else { return };
                for _ in 0..ctx.rng.between(1, 4) {
                    self.ask(ctx, unit);
                }
            }
            _ => {
                let Some(unit) = self.random_unit(ctx) else { return };
                let size = ctx.rng.size(self.profile.stream);
                let writes = ctx.rng.percent(50);
                self.open_stream(ctx, unit, writes, size);
            }
        }
    }

    pub(crate) fn add_destination(&mut self, now: Moment, role: &str) {
        self.engine.with_peer(now, |peer| peer.add_destination(role)).unwrap();
    }

    /// Sends each unit a message, a request and a stream, when nothing can go wrong any more.
    pub(crate) fn prove(&mut self, ctx: &mut Ctx) {
        for unit in self.units.keys().copied().collect::<Vec<_>>() {
            for order in [Order::Kept, Order::Any] {
                let (id, len) = (ctx.ledger.number(), 100);
                let work = Work::Message { id, role: "r0", len, order, sound: true };
                self.work(ctx, unit, work);
            }
            self.ask(ctx, unit);
            self.open_stream(ctx, unit, true, 1000);
        }
    }

    fn random_unit(&self, ctx: &mut Ctx) -> Option<UnitId> {
        let units: Vec<UnitId> = self.units.keys().copied().collect();
        (!units.is_empty()).then(|| ctx.rng.pick(&units))
    }

    fn ask(&mut self, ctx: &mut Ctx, unit: UnitId) {
        let (id, now) = (ctx.ledger.number(), ctx.now);
        let mut limit = TimeLimit::from(Some(ctx.rng.millis(0, 10_000)));
        match ctx.rng.below(10) {
            0..3 => limit = None.into(),
            // It had to wait before it was sent.
            3 => limit.since = Some(now.before(ctx.rng.millis(0, 2000))),
            _ => {}
        }
        let mut fields = fields::asked(id);
        if let Some(fields) = &mut fields {
            fields.set_required(ctx.rng.percent(10));
        }
        let mut payload = id.to_le_bytes().to_vec();
        payload.resize(8 + ctx.rng.size(self.profile.message), 0);
        let payload = Payload { kind: DataType::Binary, bytes: &payload };
        let order = if ctx.rng.percent(50) { Order::Kept } else { Order::Any };
        let role = role(ctx.rng);
        let outgoing = Outgoing {
            role,
            event: "e",
            payload,
            order,
            fields: fields.as_ref(),
            bulkhead: None,
            moves: Moves::WithinUnit,
        };
        let asked = self
            .engine
            .with_unit(unit, now, |unit| unit.request(outgoing, limit, now, id))
            .expect("open");
        match asked {
            Ok(corr) => self.asked(ctx, unit, id, corr, limit, fields.as_ref()),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                assert!(fields.is_some_and(|fields| fields.is_required()));
                assert!(!self.takes_fields(unit), "the fields could have been sent");
            }
            Err(error) => self.overloaded(ctx, unit, &error),
        }
    }

    fn takes_fields(&self, unit: UnitId) -> bool {
        self.engine.unit(unit).is_some_and(|machine| machine.takes_fields())
    }

    fn asked(
        &mut self,
        ctx: &mut Ctx,
        unit: UnitId,
        id: u64,
        corr: u64,
        TimeLimit { limit, since }: TimeLimit,
        fields: Option<&Fields>,
    ) {
        let timeout = limit.unwrap_or(self.engine.peer().limits().request_timeout);
        ctx.note(self.index, format_args!("asks {unit:?} {id} for {timeout:?}"));
        let sent = since.unwrap_or(ctx.now);
        ctx.ledger.request_sent(id, self.index, unit, sent, timeout);
        if self.takes_fields(unit) {
            if limit.is_some() {
                ctx.ledger.limit_told(id);
            }
            if fields.is_some() {
                ctx.ledger.fields_sent(id);
            }
        }
        self.unit(unit).corrs.insert(id, corr);
        if self.profile.stream_mischief && ctx.rng.percent(10) {
            let at = ctx.now + ctx.rng.millis(0, 1000);
            ctx.effects.push(Effect::Task { at, task: Task::Abandon(unit, id) });
        }
    }

    fn overloaded(&mut self, ctx: &mut Ctx, unit: UnitId, error: &roletalk_engine::Error) {
        let is_open = self.engine.unit(unit).is_none_or(roletalk_engine::Unit::is_open);
        // What was to replace its last connection may be lost.
        let is_lost = !is_open && error.kind() == ErrorKind::ConnectionLost;
        assert!(is_lost || error.kind() == ErrorKind::Overloaded, "{error:?}");
        ctx.ledger.counts.overloaded += 1;
    }

    pub(crate) fn open_stream(&mut self, ctx: &mut Ctx, unit: UnitId, writes: bool, size: usize) {
        let (id, now) = (ctx.ledger.number(), ctx.now);
        let limit = TimeLimit::from(match self.profile.stream_mischief {
            true if ctx.rng.percent(30) => None,
            true => Some(ctx.rng.millis(500, 10_000)),
            // Originals are not told of what comes too late.
            false => Some(Duration::from_secs(30)),
        });
        let fields = fields::asked(id);
        let (number, payload) = (id.to_le_bytes(), DataType::Binary);
        let payload = Payload { kind: payload, bytes: &number };
        let outgoing = Outgoing {
            role: role(ctx.rng),
            event: "s",
            payload,
            order: Order::default(),
            fields: fields.as_ref(),
            bulkhead: None,
            moves: Moves::WithinUnit,
        };
        let direction = if writes { Direction::RequesterWrites } else { Direction::RequesterReads };
        let opened = self
            .engine
            .with_unit(unit, now, |unit| unit.open_stream(direction, outgoing, limit, now, id))
            .expect("open");
        match opened {
            Ok((stream, corr)) => {
                ctx.ledger.stream_planned(id, size);
                self.asked(ctx, unit, id, corr, limit, fields.as_ref());
                self.new_stream(ctx, unit, stream, id, writes, true);
                // Nothing can go out yet, but all of this must be allowed.
                self.step(ctx, unit, stream);
            }
            Err(error) => self.overloaded(ctx, unit, &error),
        }
    }

    /// The unit whose peer has this name.
    pub(crate) fn unit_named(&self, name: &str) -> UnitId {
        let peer = self.engine.peer();
        let named = |unit: &UnitId| peer.unit(*unit).is_some_and(|(info, _)| info.name == name);
        peer.units().find(named).expect("a unit of this name")
    }

    // The end.

    /// Whether nothing waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.units.values().all(|unit| {
            unit.backlog.is_empty()
                && unit.streams.is_empty()
                && unit.running == unit.unanswered.len()
        })
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (id, unit) in &self.units {
            let queued: Vec<_> = self
                .engine
                .unit(*id)
                .map(|unit| unit.stats().connections.iter().map(|c| (c.conn, c.queued)).collect())
                .unwrap_or_default();
            text += &format!(
                "{id:?}: backlog {:?}, {} streams, {} running, queued {queued:?}; ",
                unit.backlog,
                unit.streams.len(),
                unit.running
            );
        }
        text
    }

    pub(crate) fn check_closed(&self) {
        assert_eq!(self.units.len(), 0, "units are left");
        assert_eq!(self.engine.peer().units().count(), 0, "units are left");
        assert_eq!(self.engine.peer().handshakes(), 0, "handshakes are left");
        assert_eq!(self.engine.budget().queued(), 0, "queued bytes are left");
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().expect("a payload of the simulation"))
}
