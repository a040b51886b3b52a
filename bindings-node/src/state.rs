//! The numbers under which JavaScript knows what is in the engine: commands in, events and output out.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use roletalk_engine::{
    ConnId, EngineEvent, Error, ErrorKind, Event, Failure, Fields, Incoming, Kind, Moment, Moves,
    Outgoing, PeerEvent, Question, Queued, StreamId, Tried, Unit, UnitId, wire::Payload,
};
use roletalk_host::{Action, Host};
use rustc_hash::FxHashMap;

use crate::{
    access,
    choice::{Destination, Destinations},
    commands::{self, Asked},
    course::Course,
    events::{
        AGAIN, Batch, ENDING, GONE, IN_BUFFER, NAMED, NONE, NOT_BEGUN, NOT_SENT, OUTPUT_WORDS,
        OUTPUTS, Op, PAUSE, REJECTED, RESUME, SMALL_OUTPUT, TAKEN, WRITTEN,
    },
    fields,
    names::{Names, Routes, Told},
    running::Running,
    slab::Slab,
    socket::Socket,
};

pub(crate) struct Conn {
    pub(crate) id: ConnId,
    /// None when JavaScript reads and writes.
    pub(crate) socket: Option<Rc<Socket>>,
}

/// What became of a command.
enum Outcome {
    Failed { slot: u32, error: Error },
    Sent { slot: u32, conn: u32 },
    NotSent { slot: u32, error: Error },
    Abandoned { slot: u32 },
}

/// The request that a slot waits for the answer of.
#[derive(Clone, Copy, Debug)]
struct Waits {
    unit: UnitId,
    corr: u64,
    /// When it was sent.
    since: Moment,
}

/// A message whose unit has gone, and that another one is to have.
struct Returned<'a> {
    outgoing: Outgoing<'a>,
    slot: u32,
    /// What chooses that.
    destination: u32,
    error: Error,
}

/// What could not be queued for one unit and one kind of reason, since this was last told. One
/// entry, however much it is.
struct Unsent {
    /// Messages whose sender does not hear of it.
    silent: u32,
    /// The first error.
    error: Error,
}

/// See the module.
pub(crate) struct State {
    pub(crate) units: Slab<UnitId>,
    unit_numbers: FxHashMap<UnitId, u32>,
    pub(crate) conns: Slab<Conn>,
    conn_numbers: FxHashMap<ConnId, u32>,
    streams: Slab<(UnitId, StreamId)>,
    stream_numbers: FxHashMap<(UnitId, StreamId), u32>,
    /// What waits for this peer's answer.
    questions: Slab<(UnitId, Question)>,
    running: Running,
    /// Messages that JavaScript was handed: they are handled as soon as it has them.
    messages: Vec<(UnitId, Question)>,
    /// What each slot waits for.
    waiting: Vec<Option<Waits>>,
    outcomes: VecDeque<Outcome>,
    unsent: FxHashMap<(UnitId, ErrorKind), Unsent>,
    names: Names,
    pub(crate) destinations: Destinations,
    /// What is on its way to a unit.
    pub(crate) courses: Slab<Course>,
    /// What connections have to say and the last batch had no room for. It comes before further events.
    crowded: usize,
    /// JavaScript's clock, in milliseconds, at the beginning of the engine's.
    epoch: f64,
}

impl State {
    pub(crate) fn new(epoch: f64) -> State {
        State {
            units: Slab::default(),
            unit_numbers: FxHashMap::default(),
            conns: Slab::default(),
            conn_numbers: FxHashMap::default(),
            streams: Slab::default(),
            stream_numbers: FxHashMap::default(),
            questions: Slab::default(),
            running: Running::default(),
            messages: Vec::new(),
            waiting: Vec::new(),
            outcomes: VecDeque::new(),
            unsent: FxHashMap::default(),
            names: Names::default(),
            destinations: Destinations::default(),
            courses: Slab::default(),
            crowded: 0,
            epoch,
        }
    }

    pub(crate) fn add_conn(&mut self, id: ConnId) -> u32 {
        let (number, _) = self.conns.insert(Conn { id, socket: None });
        self.conn_numbers.insert(id, number);
        number
    }

    pub(crate) fn add_stream(&mut self, unit: UnitId, stream: StreamId) -> u32 {
        let (number, _) = self.streams.insert((unit, stream));
        self.stream_numbers.insert((unit, stream), number);
        number
    }

    pub(crate) fn stream(&self, number: u32) -> Option<(UnitId, StreamId)> {
        self.streams.get(number).copied()
    }

    pub(crate) fn remove_stream(&mut self, number: u32) -> Option<(UnitId, StreamId)> {
        let stream = self.streams.remove(number)?;
        self.stream_numbers.remove(&stream);
        Some(stream)
    }

    /// Takes a request for a stream out of those that wait for an answer.
    pub(crate) fn take_offer(
        &mut self,
        number: u32,
        generation: u32,
    ) -> Option<(UnitId, Question)> {
        let (_, question) = self.questions.checked(number, generation)?;
        if !matches!(question.kind(), Kind::Readable | Kind::Writable) {
            return None;
        }
        self.questions.remove(number)
    }

    /// Takes what a handler was to be called for.
    pub(crate) fn take_question(
        &mut self,
        number: u32,
        generation: u32,
    ) -> Option<(UnitId, Question)> {
        self.questions.checked(number, generation)?;
        self.questions.remove(number)
    }

    pub(crate) fn waits(&mut self, slot: u32, unit: UnitId, corr: u64, since: Moment) {
        wait(&mut self.waiting, slot, Waits { unit, corr, since });
    }

    pub(crate) fn failed(&mut self, slot: u32, error: Error) {
        self.outcomes.push_back(Outcome::Failed { slot, error });
    }

    // Commands.

    /// Does commands; all of them with these fields.
    pub(crate) fn run(
        &mut self,
        host: &mut Host,
        words: &[u32],
        payload: &[u8],
        fields: Option<&Fields>,
        routes: &Routes,
        now: Moment,
    ) {
        let mut asked = commands::parse(words, payload)
            .filter_map(|command| command.asked(routes, fields))
            .peekable();
        while let Some(first) = asked.next() {
            let State { units, questions, waiting, outcomes, unsent, conn_numbers, .. } = self;
            let unit = unit_of(units, questions, waiting, &first);
            let Some(unit) = unit.filter(|unit| host.engine.unit(*unit).is_some()) else {
                self.run_alone(host, first, now);
                continue;
            };
            let mut returned = Vec::new();
            // All commands in a row for one unit are one visit.
            host.engine.with_unit(unit, now, |machine| {
                let mut next = Some(first);
                while let Some(command) = next {
                    let tables = Tables { questions, waiting, outcomes, unsent, conn_numbers };
                    returned.extend(run_on(machine, unit, command, tables, now));
                    next = asked
                        .next_if(|next| unit_of(units, questions, waiting, next) == Some(unit));
                }
            });
            for returned in returned {
                let mut tried = Tried::NONE;
                tried.note(unit, &returned.error);
                self.send_elsewhere(host, returned, tried, now);
            }
        }
    }

    /// Sends one message. Returns the error when its unit has gone and another one may have it, which the caller
    /// chooses.
    pub(crate) fn send_to(
        &mut self,
        host: &mut Host,
        words: &[u32],
        payload: &[u8],
        fields: Option<&Fields>,
        routes: &Routes,
        now: Moment,
    ) -> Option<Error> {
        let mut asked = commands::parse(words, payload).next()?.asked(routes, fields)?;
        // The unit was chosen for this one message.
        if let Asked::Send { outgoing, .. } = &mut asked
            && outgoing.moves == Moves::ToAnyUnit
        {
            outgoing.moves = Moves::WithinUnit;
        }
        let State { units, questions, waiting, outcomes, unsent, conn_numbers, .. } = self;
        let Some(unit) = unit_of(units, questions, waiting, &asked) else {
            return Some(Error::unit_gone());
        };
        let sent = host.engine.with_unit(unit, now, |machine| {
            let tables = Tables { questions, waiting, outcomes, unsent, conn_numbers };
            run_on(machine, unit, asked, tables, now)
        });
        match sent {
            None => Some(Error::unit_gone()),
            Some(returned) => returned.map(|returned| returned.error),
        }
    }

    /// Sends a message to another unit, chosen as its destination does. The sender hears the first error when there is
    /// none that takes it.
    #[cold]
    fn send_elsewhere(
        &mut self,
        host: &mut Host,
        Returned { outgoing, slot, destination, error }: Returned<'_>,
        mut tried: Tried,
        now: Moment,
    ) {
        let required = outgoing.fields.is_some_and(Fields::is_required);
        let balance = self.destinations.get(destination).map(Destination::balance);
        let outcome = loop {
            let Ok(unit) = host.engine.choose(outgoing.role, balance, required, &tried, now) else {
                break Err(error);
            };
            let sent = host.engine.with_unit(unit, now, |machine| machine.send(outgoing));
            match sent.unwrap_or_else(|| Err(Error::unit_gone())) {
                Ok(queued) => break Ok(queued),
                Err(error) if tried.note(unit, &error) => {}
                Err(error) => {
                    note_unsent(&mut self.unsent, unit, slot == NONE, &error);
                    break Err(error);
                }
            }
        };
        if slot != NONE {
            self.outcomes.push_back(sent(slot, outcome, &self.conn_numbers));
        }
    }

    /// A command that is for no unit, or for one that is gone.
    fn run_alone(&mut self, host: &mut Host, asked: Asked<'_>, now: Moment) {
        let lost = || Error::unit_gone();
        match asked {
            Asked::Send { slot, outgoing, destination: Some(destination), .. } => {
                let returned = Returned { outgoing, slot, destination, error: lost() };
                self.send_elsewhere(host, returned, Tried::NONE, now);
            }
            Asked::Send { slot: NONE, .. } => {}
            Asked::Send { slot, .. } => {
                self.outcomes.push_back(Outcome::NotSent { slot, error: lost() });
            }
            Asked::Request { slot, .. } => self.failed(slot, lost()),
            Asked::Respond { responder, generation, .. }
            | Asked::Reject { responder, generation, .. }
            | Asked::Forget { responder, generation } => {
                if self.questions.checked(responder, generation).is_some() {
                    self.questions.remove(responder);
                }
            }
            Asked::Abandon { .. } => {}
            Asked::Written { conn, millis } => {
                // JavaScript tells of it with the next call, which may be much later.
                let age = (now.since_epoch().as_millis() as u32).wrapping_sub(millis) as i32;
                let age = Duration::from_millis(age.max(0) as u64);
                if let Some(conn) = self.conns.get(conn) {
                    host.written(conn.id, now.before(age));
                }
            }
            Asked::ReleaseUnit { unit } => {
                self.units.remove(unit);
            }
        }
    }

    // Events.

    /// Writes events until the batch is full. True when all were written.
    pub(crate) fn write_events(
        &mut self,
        host: &mut Host,
        batch: &mut Batch<'_>,
        now: Moment,
    ) -> bool {
        if self.crowded > 0 {
            return true;
        }
        let mut all = true;
        loop {
            if !batch.has_room() {
                all = false;
                break;
            }
            if let Some(event) = host.poll_event() {
                self.write_event(host, event, batch, now);
            } else if let Some(outcome) = self.outcomes.pop_front() {
                write_outcome(outcome, batch);
            } else if !self.messages.is_empty() {
                self.handed(host, now);
            } else if let Some(&(unit, kind)) = self.unsent.keys().next()
                && let Some(Unsent { silent, error }) = self.unsent.remove(&(unit, kind))
            {
                let queued = u32::try_from(queued(host, unit)).unwrap_or(u32::MAX);
                let numbers = [self.unit_number(unit), silent, queued, 0];
                batch.error(Op::Unsent, numbers, 0, &error);
            } else {
                break;
            }
        }
        self.handed(host, now);
        all
    }

    /// JavaScript has the messages.
    fn handed(&mut self, host: &mut Host, now: Moment) {
        let mut messages = self.messages.drain(..).peekable();
        while let Some((unit, question)) = messages.next() {
            host.engine.with_unit(unit, now, |machine| {
                machine.answer(question, Ok(Payload::NULL), now);
                while let Some((_, question)) = messages.next_if(|(next, _)| *next == unit) {
                    machine.answer(question, Ok(Payload::NULL), now);
                }
            });
        }
    }

    fn write_event(
        &mut self,
        host: &Host,
        event: EngineEvent<u32>,
        batch: &mut Batch<'_>,
        now: Moment,
    ) {
        match event {
            EngineEvent::Unit { unit, event } => {
                self.write_unit_event(host, unit, event, batch, now);
            }
            EngineEvent::Peer(event) => self.write_peer_event(host, event, batch),
            EngineEvent::Dial { address, url } => {
                batch.text(Op::Dial, [address.0 as u32, (address.0 >> 32) as u32, 0, 0], 0, &url);
            }
            EngineEvent::Evict { place, late } => {
                batch
                    .plain(Op::Evict, [place.0 as u32, (place.0 >> 32) as u32, u32::from(late), 0]);
            }
            EngineEvent::Attached { conn, unit, info, roles } => {
                let number = match self.unit_numbers.get(&unit) {
                    Some(number) => *number,
                    None => {
                        let (number, _) = self.units.insert(unit);
                        self.unit_numbers.insert(unit, number);
                        number
                    }
                };
                let description = info.describe(&roles);
                let numbers = [self.conn_number(conn), number, 0, 0];
                batch.text(Op::Attached, numbers, 0, &description);
            }
            // Node's server does the upgrades.
            EngineEvent::UpgradeRequest { .. } => {}
            EngineEvent::Ping { conn, payload } => {
                batch.binary(Op::Ping, [self.conn_number(conn), 0, 0, 0], &payload);
            }
            EngineEvent::Pong { conn, payload } => {
                batch.binary(Op::Pong, [self.conn_number(conn), 0, 0, 0], &payload);
            }
            EngineEvent::Close { conn, code, reason } => {
                let number = self.conn_number(conn);
                batch.text(Op::Closed, [number, code.into(), 0, 0], 0, &reason);
            }
        }
    }

    pub(crate) fn number_of(&self, conn: ConnId) -> Option<u32> {
        self.conn_numbers.get(&conn).copied()
    }

    fn conn_number(&self, conn: ConnId) -> u32 {
        self.number_of(conn).unwrap_or(NONE)
    }

    fn unit_number(&self, unit: UnitId) -> u32 {
        self.unit_numbers.get(&unit).copied().unwrap_or(NONE)
    }

    fn write_unit_event(
        &mut self,
        host: &Host,
        id: UnitId,
        event: Event<u32>,
        batch: &mut Batch<'_>,
        now: Moment,
    ) {
        let unit = self.unit_number(id);
        match event {
            Event::Incoming(incoming, question) => {
                let op = match question.kind() {
                    Kind::Message => {
                        self.messages.push((id, question));
                        return self.write_incoming(Op::Message, [unit, 0, 0, 0], incoming, batch);
                    }
                    Kind::Request => Op::Request,
                    Kind::Readable => Op::OfferReadable,
                    Kind::Writable => Op::OfferWritable,
                };
                let (number, generation) = self.questions.insert((id, question));
                self.running.note((number, generation), &self.questions);
                self.write_incoming(op, [unit, 0, number, generation], incoming, batch);
            }
            Event::Answer { tag, outcome, reason, fields } => {
                let failure = outcome.as_ref().err().and_then(Error::failure);
                if fields.is_some() || failure.is_some() {
                    attach_answer(batch, fields.as_deref(), failure);
                }
                let rejected = u32::from(reason.is_some()) * REJECTED;
                let mut numbers = [tag, rejected, 0, 0];
                let flags = not_begun(outcome.as_ref().err());
                if flags != 0 {
                    let waits = self.waiting.get(tag as usize).copied().flatten();
                    let age = waits.map_or(0, |waits| now.since(waits.since).as_micros() as u64);
                    [numbers[2], numbers[3]] = [age as u32, (age >> 32) as u32];
                }
                match (outcome, reason) {
                    (Ok(data), _) => {
                        let kind = data.kind().as_byte();
                        batch.data(Op::Answer, numbers, 0, kind, ("", ""), data.bytes());
                    }
                    // It came as a rejection, but may be told as something else.
                    (Err(error), Some(reason)) if error.kind() == ErrorKind::Rejected => {
                        let kind = reason.kind().as_byte();
                        batch.hinted(Op::Answer, numbers, flags, kind, &error, reason.bytes());
                    }
                    (Err(error), _) => {
                        // Told at once: no end of the unit comes behind it that it could wait for.
                        let stays = host.engine.unit(id).is_some_and(Unit::is_open);
                        numbers[1] = u32::from(stays) * NOT_SENT;
                        batch.error(Op::Answer, numbers, flags, &error);
                    }
                }
            }
            Event::Cancelled { request, reason } => {
                let found = match request {
                    Some(request) => self.running.find(request, &self.questions),
                    None => Some((NONE, 0)),
                };
                let Some((number, generation)) = found else { return };
                batch.plain(Op::Cancelled, [unit, number, generation, reason as u32]);
            }
            Event::Stream(stream) => {
                if let Some(number) = self.stream_numbers.get(&(id, stream)) {
                    match host.engine.unit(id).and_then(|unit| unit.failure(stream)) {
                        Some(error) => batch.error(Op::Stream, [*number, 0, 0, 0], 0, error),
                        None => batch.plain(Op::Stream, [*number, 0, 0, 0]),
                    }
                }
            }
            Event::SlowConsumer { queued, dropped, .. } => {
                let queued = u32::try_from(queued).unwrap_or(u32::MAX);
                let dropped = u32::try_from(dropped).unwrap_or(u32::MAX);
                batch.plain(Op::SlowConsumer, [unit, queued, dropped, 0]);
            }
            _ => {}
        }
    }

    fn write_incoming(
        &mut self,
        op: Op,
        mut numbers: [u32; 4],
        incoming: Incoming,
        batch: &mut Batch<'_>,
    ) {
        let kind = incoming.kind().as_byte();
        let (fields, deadline) = (incoming.fields(), incoming.deadline());
        if !fields.is_empty() || deadline.is_some() {
            let due =
                deadline.map_or(f64::NAN, |due| self.epoch + due.since_epoch().as_secs_f64() * 1e3);
            batch.attach(fields::write(fields, None), due);
        }
        let told = self.names.tell(incoming.role(), incoming.event());
        if let Told::Known(number) = told {
            numbers[1] = number;
            let data = incoming.into_data();
            return batch.data(op, numbers, 0, kind, ("", ""), data.bytes());
        }
        numbers[1] = if let Told::New(number) = told { number } else { NONE };
        let names = (incoming.role(), incoming.event());
        batch.data(op, numbers, NAMED, kind, names, incoming.data().bytes());
    }

    fn write_peer_event(&mut self, host: &Host, event: PeerEvent, batch: &mut Batch<'_>) {
        match event {
            PeerEvent::UnitClosed { unit } => {
                if let Some(number) = self.unit_numbers.remove(&unit) {
                    let gone =
                        |(at, (of, _)): (u32, &(UnitId, Question))| (*of == unit).then_some(at);
                    let questions: Vec<u32> = self.questions.iter().filter_map(gone).collect();
                    for question in questions {
                        self.questions.remove(question);
                    }
                    batch.plain(Op::UnitClosed, [number, 0, 0, 0]);
                }
            }
            PeerEvent::UnitRoles { unit, roles } => {
                let roles = serde_json::json!(&*roles).to_string();
                batch.text(Op::UnitRoles, [self.unit_number(unit), 0, 0, 0], 0, &roles);
            }
            PeerEvent::UnitEjected { role, unit } => {
                batch.text(Op::Ejected, [self.unit_number(unit), 1, 0, 0], 0, &role);
            }
            PeerEvent::UnitRestored { role, unit } => {
                batch.text(Op::Ejected, [self.unit_number(unit), 0, 0, 0], 0, &role);
            }
            PeerEvent::Denied { unit, denial } => {
                let numbers = [self.unit_number(unit), 0, 0, 0];
                let info = host.engine.peer().unit(unit).map(|(info, _)| info);
                let identity = info.map(|info| &*info.identity);
                batch.text(Op::Denied, numbers, 0, &access::denied(&denial, identity));
            }
            PeerEvent::AddressIgnored { unit, url, reason } => {
                let text = format!("{url}: {reason}");
                batch.text(Op::AddressIgnored, [self.unit_number(unit), 0, 0, 0], 0, &text);
            }
            PeerEvent::AuthRefused { reason, .. } => {
                batch.text(Op::AuthRefused, [0; 4], 0, &reason);
            }
            PeerEvent::AcceptFailed { error } => {
                batch.error(Op::AcceptFailed, [0; 4], 0, &error);
            }
            PeerEvent::Dialed { address, count, outcome, again, .. } => {
                let flags = if again { AGAIN } else { 0 };
                let address = [address.0 as u32, (address.0 >> 32) as u32];
                match outcome {
                    Ok((_, conn)) => {
                        let numbers = [address[0], address[1], count, self.conn_number(conn)];
                        batch.text(Op::Dialed, numbers, flags, "");
                    }
                    Err(error) => {
                        let numbers = [address[0], address[1], count, NONE];
                        batch.error(Op::Dialed, numbers, flags, &error);
                    }
                }
            }
            PeerEvent::ConnectionClosed { conn, unit, reason } => {
                let unit = unit.map_or(NONE, |unit| self.unit_number(unit));
                let numbers = [self.conn_number(conn), unit, 0, 0];
                batch.error(Op::ConnectionClosed, numbers, 0, &reason);
            }
            _ => {}
        }
    }

    // Output.

    /// Polls for what is wanted of a loop-native socket: to be called after what was found was handled.
    pub(crate) fn settle(&self, number: u32) {
        if let Some(Conn { socket: Some(socket), .. }) = self.conns.get(number) {
            socket.settle();
        }
    }

    /// Writes what connections have to say to their loop-native sockets, and takes the rest: small pieces
    /// go into `small`, large ones into `large`. Returns how many records there are, and whether to call
    /// again.
    pub(crate) fn take_output(
        &mut self,
        host: &mut Host,
        records: &mut [u32],
        small: &mut [u8],
        large: &mut Vec<Bytes>,
        now: Moment,
    ) -> (usize, bool) {
        let was_crowded = self.crowded > 0;
        if !was_crowded {
            host.write(now);
            self.crowded = host.actions();
        }
        let (mut count, mut used) = (0, 0);
        while count < OUTPUTS
            && small.len() - used >= SMALL_OUTPUT
            && self.crowded > 0
            && let Some(action) = host.poll_action()
        {
            self.crowded -= 1;
            let (conn, at, len, flags) = match action {
                Action::Write(conn, bytes) if bytes.len() <= SMALL_OUTPUT => {
                    let at = used;
                    used += bytes.len();
                    small[at..used].copy_from_slice(&bytes);
                    (conn, at as u32, bytes.len() as u32, 0)
                }
                Action::Write(conn, bytes) => {
                    let len = bytes.len() as u32;
                    large.push(bytes.into());
                    (conn, (large.len() - 1) as u32, len, IN_BUFFER)
                }
                Action::AwaitWritable(conn) => {
                    self.with_socket(conn, |socket| socket.set_writes(true));
                    continue;
                }
                Action::StopWriting(conn) => {
                    self.with_socket(conn, |socket| socket.set_writes(false));
                    continue;
                }
                Action::Pause(conn) => {
                    if self.with_socket(conn, |socket| socket.set_paused(true)) {
                        continue;
                    }
                    (conn, 0, 0, PAUSE)
                }
                Action::Resume(conn) => {
                    if self.with_socket(conn, |socket| socket.set_paused(false)) {
                        continue;
                    }
                    (conn, 0, 0, RESUME)
                }
                Action::Taken(conn) => (conn, 0, 0, TAKEN),
                Action::Written(conn) => {
                    let number = self.conn_number(conn);
                    let before = count.checked_sub(1).map(|last| last * OUTPUT_WORDS);
                    if let Some(at) = before
                        && (records[at], records[at + 3]) == (number, TAKEN)
                    {
                        records[at + 3] |= WRITTEN;
                        continue;
                    }
                    (conn, 0, 0, WRITTEN)
                }
                Action::Part(conn, limit) => (conn, limit.as_millis() as u32, 0, ENDING),
                Action::Leave(conn) => (conn, 0, 0, ENDING),
                Action::Gone(conn, error) => {
                    let errno = error.and_then(|error| error.raw_os_error()).unwrap_or(0);
                    (conn, errno as u32, 0, GONE)
                }
            };
            let number = self.conn_number(conn);
            if flags & (ENDING | GONE) != 0 {
                self.remove_conn(host, conn, now);
            }
            if number != NONE {
                records[count * OUTPUT_WORDS..][..OUTPUT_WORDS]
                    .copy_from_slice(&[number, at, len, flags]);
                count += 1;
            }
        }
        // Events may have come of what was written.
        (count, was_crowded || self.crowded > 0 || host.engine.has_events())
    }

    /// Whether a connection has a loop-native socket.
    fn with_socket(&self, conn: ConnId, change: impl FnOnce(&Socket)) -> bool {
        let conn = self.number_of(conn).and_then(|number| self.conns.get(number));
        let socket = conn.and_then(|conn| conn.socket.as_ref());
        socket.is_some_and(|socket| {
            change(socket);
            true
        })
    }

    /// Nothing more is done here with a connection. Its socket is polled no more before it is closed.
    fn remove_conn(&mut self, host: &mut Host, id: ConnId, now: Moment) {
        let number = self.conn_numbers.remove(&id);
        let conn = number.and_then(|number| self.conns.remove(number));
        if let Some(Conn { socket: Some(socket), .. }) = conn {
            socket.close();
        }
        host.release(id, now);
    }
}

/// Bytes that wait to be written to a unit.
fn queued(host: &Host, unit: UnitId) -> usize {
    let stats = host.engine.unit(unit).map(Unit::stats);
    stats.iter().flat_map(|stats| &stats.connections).map(|conn| conn.queued).sum()
}

/// The parts of [`State`] that commands for a unit change.
struct Tables<'a> {
    questions: &'a mut Slab<(UnitId, Question)>,
    waiting: &'a mut Vec<Option<Waits>>,
    outcomes: &'a mut VecDeque<Outcome>,
    unsent: &'a mut FxHashMap<(UnitId, ErrorKind), Unsent>,
    conn_numbers: &'a FxHashMap<ConnId, u32>,
}

impl Tables<'_> {
    /// Notes that something could not be queued.
    fn unsent(&mut self, unit: UnitId, silent: bool, error: &Error) {
        note_unsent(self.unsent, unit, silent, error);
    }
}

fn note_unsent(
    unsent: &mut FxHashMap<(UnitId, ErrorKind), Unsent>,
    unit: UnitId,
    silent: bool,
    error: &Error,
) {
    let first = || Unsent { silent: 0, error: error.clone() };
    let unsent = unsent.entry((unit, error.kind())).or_insert_with(first);
    unsent.silent = unsent.silent.saturating_add(silent.into());
}

/// What the slot of a message is told.
fn sent(slot: u32, sent: Result<Queued, Error>, conn_numbers: &FxHashMap<ConnId, u32>) -> Outcome {
    match sent {
        Ok(Queued { conn, .. }) => {
            Outcome::Sent { slot, conn: conn_numbers.get(&conn).copied().unwrap_or(NONE) }
        }
        Err(error) => Outcome::NotSent { slot, error },
    }
}

/// Returns the message when it is to go to another unit.
fn run_on<'a>(
    machine: &mut Unit<u32>,
    unit: UnitId,
    asked: Asked<'a>,
    mut tables: Tables<'_>,
    now: Moment,
) -> Option<Returned<'a>> {
    match asked {
        Asked::Send { slot, outgoing, destination, .. } => {
            let outcome = machine.send(outgoing);
            if let Err(error) = &outcome
                && let Some(destination) = destination
                && error.is_unhandled()
            {
                return Some(Returned { outgoing, slot, destination, error: error.clone() });
            }
            if let Err(error) = &outcome {
                tables.unsent(unit, slot == NONE, error);
            }
            if slot != NONE {
                tables.outcomes.push_back(sent(slot, outcome, tables.conn_numbers));
            }
        }
        Asked::Request { slot, outgoing, timeout, .. } => {
            match machine.request(outgoing, timeout, now, slot) {
                Ok(corr) => wait(tables.waiting, slot, Waits { unit, corr, since: now }),
                Err(error) => {
                    tables.unsent(unit, false, &error);
                    tables.outcomes.push_back(Outcome::Failed { slot, error });
                }
            }
        }
        Asked::Respond { responder, payload, fields, .. } => {
            if let Some((_, question)) = tables.questions.remove(responder) {
                machine.answer_with(question, Ok(payload), fields, now);
            }
        }
        Asked::Reject { responder, reason, fields, .. } => {
            if let Some((_, question)) = tables.questions.remove(responder) {
                machine.answer_with(question, Err(reason), fields, now);
            }
        }
        Asked::Forget { responder, .. } => {
            if let Some((_, question)) = tables.questions.remove(responder) {
                machine.forget(question, now);
            }
        }
        Asked::Abandon { slot } => {
            let waits = tables.waiting.get_mut(slot as usize).and_then(Option::take);
            if waits.and_then(|waits| machine.abandon(waits.corr)).is_some() {
                tables.outcomes.push_back(Outcome::Abandoned { slot });
            }
        }
        Asked::Written { .. } | Asked::ReleaseUnit { .. } => {}
    }
    None
}

fn wait(waiting: &mut Vec<Option<Waits>>, slot: u32, waits: Waits) {
    let at = slot as usize;
    if waiting.len() <= at {
        waiting.resize(at + 1, None);
    }
    waiting[at] = Some(waits);
}

/// The unit that a command is for.
fn unit_of(
    units: &Slab<UnitId>,
    questions: &Slab<(UnitId, Question)>,
    waiting: &[Option<Waits>],
    asked: &Asked<'_>,
) -> Option<UnitId> {
    match *asked {
        Asked::Send { unit, .. } | Asked::Request { unit, .. } => units.get(unit).copied(),
        Asked::Respond { responder, generation, .. }
        | Asked::Reject { responder, generation, .. }
        | Asked::Forget { responder, generation } => {
            questions.checked(responder, generation).map(|(unit, _)| *unit)
        }
        Asked::Abandon { slot } => {
            waiting.get(slot as usize).copied().flatten().map(|waits| waits.unit)
        }
        Asked::Written { .. } | Asked::ReleaseUnit { .. } => None,
    }
}

/// Has the next event followed by what came with an answer.
#[cold]
fn attach_answer(batch: &mut Batch<'_>, fields: Option<&Fields>, failure: Option<&Failure>) {
    let view = fields.map(Fields::view).unwrap_or_default();
    batch.attach(fields::write(view, failure), f64::NAN);
}

/// The flag of an error that says that surely no handler was begun.
fn not_begun(error: Option<&Error>) -> u32 {
    if error.is_some_and(Error::is_unhandled) { NOT_BEGUN } else { 0 }
}

fn write_outcome(outcome: Outcome, batch: &mut Batch<'_>) {
    match outcome {
        Outcome::Failed { slot, error } => {
            batch.error(Op::Answer, [slot, NOT_SENT, 0, 0], not_begun(Some(&error)), &error);
        }
        Outcome::Sent { slot, conn } => batch.plain(Op::Sent, [slot, conn, 0, 0]),
        Outcome::NotSent { slot, error } => batch.error(Op::Sent, [slot, NONE, 0, 0], 0, &error),
        Outcome::Abandoned { slot } => batch.plain(Op::Abandoned, [slot, 0, 0, 0]),
    }
}
