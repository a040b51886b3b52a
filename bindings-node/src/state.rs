//! The engine and the numbers under which JavaScript knows what is in it: commands in, events and
//! output out.

use std::{collections::VecDeque, io, rc::Rc};

use bytes::Bytes;
use roletalk_engine::{
    ConnId, Engine, EngineEvent, Error, ErrorKind, Event, Incoming, Kind, Moment, PeerEvent,
    Question, Queued, StreamId, Unit, UnitId, wire::Payload,
};
use rustc_hash::FxHashMap;

use crate::{
    commands::{self, Asked},
    events::{
        AGAIN, Batch, ENDING, IN_BUFFER, NAMED, NONE, NOT_SENT, OUTPUT_WORDS, OUTPUTS, Op,
        REJECTED, SMALL_OUTPUT, TAKEN, WRITTEN,
    },
    names::{Names, Routes, Told},
    slab::Slab,
    socket::Socket,
};

pub(crate) struct Conn {
    pub(crate) id: ConnId,
    /// None when JavaScript reads and writes.
    pub(crate) socket: Option<Rc<Socket>>,
    /// What was taken is not written yet.
    writing: bool,
    /// JavaScript does not know yet that it is written.
    written: bool,
    /// It is in the list of those that may have output.
    fresh: bool,
    /// The engine is through with it: its socket ends behind what is taken next.
    ending: bool,
}

/// A buffer that is larger than this is not used again.
const KEPT: usize = 256 << 10;

/// What became of a command.
enum Outcome {
    Failed { slot: u32, error: Error },
    Sent { slot: u32, conn: u32 },
    NotSent { slot: u32, error: Error },
    Abandoned { slot: u32 },
    Pinged { conn: u32 },
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
    pub(crate) engine: Engine<u32>,
    pub(crate) units: Slab<UnitId>,
    unit_numbers: FxHashMap<UnitId, u32>,
    pub(crate) conns: Slab<Conn>,
    conn_numbers: FxHashMap<ConnId, u32>,
    streams: Slab<(UnitId, StreamId)>,
    stream_numbers: FxHashMap<(UnitId, StreamId), u32>,
    /// What waits for this peer's answer.
    questions: Slab<(UnitId, Question)>,
    /// Messages that JavaScript was handed: they are handled as soon as it has them.
    messages: Vec<(UnitId, Question)>,
    /// Under which correlation each slot waits.
    waiting: Vec<Option<(UnitId, u64)>>,
    outcomes: VecDeque<Outcome>,
    unsent: FxHashMap<(UnitId, ErrorKind), Unsent>,
    names: Names,
    /// Connections that may have output.
    fresh: VecDeque<u32>,
    /// What output is taken in; empty.
    buffer: Vec<u8>,
}

impl State {
    pub(crate) fn new(engine: Engine<u32>) -> State {
        State {
            engine,
            units: Slab::default(),
            unit_numbers: FxHashMap::default(),
            conns: Slab::default(),
            conn_numbers: FxHashMap::default(),
            streams: Slab::default(),
            stream_numbers: FxHashMap::default(),
            questions: Slab::default(),
            messages: Vec::new(),
            waiting: Vec::new(),
            outcomes: VecDeque::new(),
            unsent: FxHashMap::default(),
            names: Names::default(),
            fresh: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    pub(crate) fn add_conn(&mut self, id: ConnId) -> u32 {
        let conn =
            Conn { id, socket: None, writing: false, written: false, fresh: false, ending: false };
        let (number, _) = self.conns.insert(conn);
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
        match question.kind() {
            Kind::Readable | Kind::Writable => self.questions.remove(number),
            Kind::Message | Kind::Request => None,
        }
    }

    pub(crate) fn waits(&mut self, slot: u32, unit: UnitId, corr: u64) {
        wait(&mut self.waiting, slot, unit, corr);
    }

    pub(crate) fn failed(&mut self, slot: u32, error: Error) {
        self.outcomes.push_back(Outcome::Failed { slot, error });
    }

    // Commands.

    pub(crate) fn run(&mut self, words: &[u32], payload: &[u8], routes: &Routes, now: Moment) {
        let mut asked =
            commands::parse(words, payload).filter_map(|command| command.asked(routes)).peekable();
        while let Some(first) = asked.next() {
            let State { engine, units, questions, waiting, outcomes, unsent, conn_numbers, .. } =
                self;
            let unit = unit_of(units, questions, waiting, &first);
            let Some(unit) = unit.filter(|unit| engine.unit(*unit).is_some()) else {
                self.run_alone(first, now);
                continue;
            };
            // All commands in a row for one unit are one visit.
            engine.with_unit(unit, now, |machine| {
                let mut next = Some(first);
                while let Some(command) = next {
                    let tables = Tables { questions, waiting, outcomes, unsent, conn_numbers };
                    run_on(machine, unit, command, tables, now);
                    next = asked
                        .next_if(|next| unit_of(units, questions, waiting, next) == Some(unit));
                }
            });
        }
    }

    /// A command that is for no unit, or for one that is gone.
    fn run_alone(&mut self, asked: Asked<'_>, now: Moment) {
        let lost = || Error::new(ErrorKind::ConnectionLost, "No open sockets left");
        match asked {
            Asked::Send { slot: NONE, .. } => {}
            Asked::Send { slot, .. } => {
                self.outcomes.push_back(Outcome::NotSent { slot, error: lost() });
            }
            Asked::Request { slot, .. } => self.failed(slot, lost()),
            Asked::Respond { responder, generation, .. }
            | Asked::Reject { responder, generation, .. } => {
                if self.questions.checked(responder, generation).is_some() {
                    self.questions.remove(responder);
                }
            }
            Asked::Abandon { .. } => {}
            Asked::Written { conn, millis } => {
                // JavaScript tells of it with the next call, which may be much later.
                let age = (now.as_millis() as u32).wrapping_sub(millis) as i32;
                let age = Moment::from_millis(age.max(0) as u64);
                self.written(conn, now.saturating_sub(age));
            }
            Asked::ReleaseUnit { unit } => {
                self.units.remove(unit);
            }
        }
    }

    fn written(&mut self, number: u32, now: Moment) {
        let Some(conn) = self.conns.get_mut(number) else { return };
        conn.writing = false;
        self.engine.written(conn.id, now);
        if conn.fresh {
            self.fresh.push_back(number);
        }
    }

    // Events.

    /// Writes events until the batch is full. True when all were written.
    pub(crate) fn write_events(&mut self, batch: &mut Batch<'_>, now: Moment) -> bool {
        let mut all = true;
        loop {
            if !batch.has_room() {
                all = false;
                break;
            }
            if let Some(event) = self.engine.poll_event() {
                self.write_event(event, batch);
            } else if let Some(outcome) = self.outcomes.pop_front() {
                write_outcome(outcome, batch);
            } else if !self.messages.is_empty() {
                self.handed(now);
            } else if let Some(&(unit, kind)) = self.unsent.keys().next()
                && let Some(Unsent { silent, error }) = self.unsent.remove(&(unit, kind))
            {
                let queued = u32::try_from(self.queued(unit)).unwrap_or(u32::MAX);
                let numbers = [self.unit_number(unit), silent, queued, 0];
                batch.error(Op::Unsent, numbers, 0, &error);
            } else {
                break;
            }
        }
        self.handed(now);
        all
    }

    /// JavaScript has the messages.
    fn handed(&mut self, now: Moment) {
        let mut messages = self.messages.drain(..).peekable();
        while let Some((unit, question)) = messages.next() {
            self.engine.with_unit(unit, now, |machine| {
                machine.answer(question, Ok(Payload::NULL), now);
                while let Some((_, question)) = messages.next_if(|(next, _)| *next == unit) {
                    machine.answer(question, Ok(Payload::NULL), now);
                }
            });
        }
    }

    fn write_event(&mut self, event: EngineEvent<u32>, batch: &mut Batch<'_>) {
        match event {
            EngineEvent::Unit { unit, event } => self.write_unit_event(unit, event, batch),
            EngineEvent::Peer(event) => self.write_peer_event(event, batch),
            EngineEvent::Dial { address, url } => {
                batch.text(Op::Dial, [address.0 as u32, (address.0 >> 32) as u32, 0, 0], 0, &url);
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
            EngineEvent::Ping { conn, payload } => {
                batch.binary(Op::Ping, [self.conn_number(conn), 0, 0, 0], &payload);
            }
            EngineEvent::Pong { conn, payload } => {
                batch.binary(Op::Pong, [self.conn_number(conn), 0, 0, 0], &payload);
            }
            EngineEvent::Close { conn, code, reason } => {
                let number = self.conn_number(conn);
                batch.text(Op::Closed, [number, code.into(), 0, 0], 0, &reason);
                if let Some(conn) = self.conns.get_mut(number) {
                    conn.ending = true;
                    if !std::mem::replace(&mut conn.fresh, true) || conn.writing {
                        self.fresh.push_back(number);
                    }
                }
            }
        }
    }

    pub(crate) fn number_of(&self, conn: ConnId) -> Option<u32> {
        self.conn_numbers.get(&conn).copied()
    }

    fn conn_number(&self, conn: ConnId) -> u32 {
        self.number_of(conn).unwrap_or(NONE)
    }

    /// Bytes that wait to be written to a unit.
    fn queued(&self, unit: UnitId) -> usize {
        let stats = self.engine.unit(unit).map(Unit::stats);
        stats.iter().flat_map(|stats| &stats.connections).map(|conn| conn.queued).sum()
    }

    fn unit_number(&self, unit: UnitId) -> u32 {
        self.unit_numbers.get(&unit).copied().unwrap_or(NONE)
    }

    fn write_unit_event(&mut self, id: UnitId, event: Event<u32>, batch: &mut Batch<'_>) {
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
                self.write_incoming(op, [unit, 0, number, generation], incoming, batch);
            }
            Event::Answer { tag, outcome, reason } => {
                let rejected = u32::from(reason.is_some()) * REJECTED;
                match reason.map_or(outcome, Ok) {
                    Ok(data) => {
                        let kind = data.kind().as_byte();
                        let numbers = [tag, rejected, 0, 0];
                        batch.data(Op::Answer, numbers, 0, kind, ("", ""), data.bytes());
                    }
                    Err(error) => batch.error(Op::Answer, [tag, 0, 0, 0], 0, &error),
                }
            }
            Event::Stream(stream) => {
                if let Some(number) = self.stream_numbers.get(&(id, stream)) {
                    match self.engine.unit(id).and_then(|unit| unit.failure(stream)) {
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

    fn write_peer_event(&mut self, event: PeerEvent, batch: &mut Batch<'_>) {
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
            PeerEvent::AuthRefused { reason, .. } => {
                batch.text(Op::AuthRefused, [0; 4], 0, &reason);
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

    // Sockets.

    /// Pings that were answered before the engine has seen them.
    pub(crate) fn pinged(&mut self, conn: u32, count: u32) {
        if count == 0 {
            return;
        }
        self.outcomes.extend((0..count).map(|_| Outcome::Pinged { conn }));
    }

    /// The socket of a connection can be written to again.
    ///
    /// # Errors
    /// When that is not so.
    pub(crate) fn flush(&mut self, number: u32, now: Moment) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(number) else { return Ok(()) };
        let Some(socket) = &conn.socket else { return Ok(()) };
        let (any, all) = socket.flush()?;
        if any && conn.writing {
            // A connection over which something large goes out slowly is alive.
            self.engine.writing(conn.id, now);
        }
        if all && conn.writing {
            conn.writing = false;
            conn.written = true;
            self.engine.written(conn.id, now);
            self.fresh.push_back(number);
        }
        Ok(())
    }

    /// JavaScript reads and writes a connection from now on. Returns what waits to be written: it counts
    /// as taken.
    pub(crate) fn release(&mut self, number: u32, now: Moment) -> Vec<u8> {
        let Some(conn) = self.conns.get_mut(number) else { return Vec::new() };
        let Some(socket) = conn.socket.take() else { return Vec::new() };
        let rest = socket.release();
        if rest.is_empty() && conn.writing {
            // The guard has written it.
            conn.writing = false;
            conn.written = true;
            self.engine.written(conn.id, now);
            self.fresh.push_back(number);
        }
        rest
    }

    /// Reads from a connection only as long as it may.
    pub(crate) fn settle(&self, number: u32) {
        let Some(conn) = self.conns.get(number) else { return };
        if let Some(socket) = &conn.socket {
            socket.set_paused(!self.engine.may_read(conn.id));
            socket.settle();
        }
    }

    // Output.

    /// Takes what connections have to say. What is on sockets of this addon is written; of the rest,
    /// small pieces go into `small`, large ones into `large`. Returns how many records there are,
    /// and whether to call again: there are more, or so much was written that more may follow.
    pub(crate) fn take_output(
        &mut self,
        records: &mut [u32],
        small: &mut [u8],
        large: &mut Vec<Bytes>,
        now: Moment,
    ) -> (usize, bool) {
        while let Some(id) = self.engine.poll_output() {
            let number = self.conn_number(id);
            if let Some(conn) = self.conns.get_mut(number)
                && !std::mem::replace(&mut conn.fresh, true)
            {
                self.fresh.push_back(number);
            }
        }
        let (mut count, mut used, mut bulk) = (0, 0, false);
        while let Some(number) = self.fresh.pop_front() {
            if count == OUTPUTS || small.len() - used < SMALL_OUTPUT {
                self.fresh.push_front(number);
                return (count, true);
            }
            let Some(conn) = self.conns.get_mut(number) else { continue };
            if conn.writing && !conn.ending {
                // `written` or `flush` brings it back.
                continue;
            }
            let record = &mut records[count * OUTPUT_WORDS..(count + 1) * OUTPUT_WORDS];
            if std::mem::take(&mut conn.written) {
                record.copy_from_slice(&[number, 0, 0, WRITTEN]);
                count += 1;
                self.fresh.push_front(number);
                continue;
            }
            let socket = if conn.ending { conn.socket.take() } else { None };
            let rest = socket.map_or_else(Vec::new, |socket| socket.release());
            let gives_back = !rest.is_empty();
            let mut taken = rest;
            if gives_back {
                // What is half out goes to Node's socket first.
                self.fresh.push_front(number);
            } else {
                conn.fresh = false;
                taken = std::mem::take(&mut self.buffer);
                self.engine.take_output(conn.id, &mut taken);
            }
            if conn.socket.is_some() {
                let len = taken.len();
                if len > 0 {
                    let written = write(&mut self.engine, conn, &mut taken, now);
                    let flags = if written { TAKEN | WRITTEN } else { TAKEN };
                    record.copy_from_slice(&[number, 0, 0, flags]);
                    count += 1;
                    bulk |= len > SMALL_OUTPUT;
                }
                if taken.capacity() <= KEPT {
                    self.buffer = taken;
                }
                continue;
            }
            let ends = conn.ending && !gives_back;
            if taken.is_empty() && !ends {
                continue;
            }
            conn.writing = true;
            let len = taken.len();
            let (at, flags) = if len <= SMALL_OUTPUT {
                small[used..used + len].copy_from_slice(&taken);
                used += len;
                (used - len, 0)
            } else {
                large.push(taken.into());
                (large.len() - 1, IN_BUFFER)
            };
            let ending = if ends { ENDING } else { 0 };
            record.copy_from_slice(&[number, at as u32, len as u32, flags | ending]);
            count += 1;
            if ends {
                let id = conn.id;
                self.engine.closed(id, Moment::ZERO);
                self.conn_numbers.remove(&id);
                self.conns.remove(number);
            }
        }
        (count, bulk)
    }
}

/// Writes what was taken, as far as that goes. Returns whether that is all.
fn write(engine: &mut Engine<u32>, conn: &mut Conn, taken: &mut Vec<u8>, now: Moment) -> bool {
    let Some(socket) = &conn.socket else { return false };
    if !socket.write(taken) {
        conn.writing = true;
        return false;
    }
    engine.written(conn.id, now);
    if socket.is_paused() && engine.may_read(conn.id) {
        socket.set_paused(false);
    }
    true
}

/// The parts of [`State`] that commands for a unit change.
struct Tables<'a> {
    questions: &'a mut Slab<(UnitId, Question)>,
    waiting: &'a mut Vec<Option<(UnitId, u64)>>,
    outcomes: &'a mut VecDeque<Outcome>,
    unsent: &'a mut FxHashMap<(UnitId, ErrorKind), Unsent>,
    conn_numbers: &'a FxHashMap<ConnId, u32>,
}

impl Tables<'_> {
    /// Notes that something could not be queued.
    fn unsent(&mut self, unit: UnitId, silent: bool, error: &Error) {
        let first = || Unsent { silent: 0, error: error.clone() };
        let unsent = self.unsent.entry((unit, error.kind())).or_insert_with(first);
        unsent.silent = unsent.silent.saturating_add(silent.into());
    }
}

fn run_on(
    machine: &mut Unit<u32>,
    unit: UnitId,
    asked: Asked<'_>,
    mut tables: Tables<'_>,
    now: Moment,
) {
    match asked {
        Asked::Send { slot, outgoing, .. } => {
            let sent = machine.send(outgoing);
            if let Err(error) = &sent {
                tables.unsent(unit, slot == NONE, error);
            }
            if slot != NONE {
                tables.outcomes.push_back(match sent {
                    Ok(Queued { conn }) => {
                        let conn = tables.conn_numbers.get(&conn).copied().unwrap_or(NONE);
                        Outcome::Sent { slot, conn }
                    }
                    Err(error) => Outcome::NotSent { slot, error },
                });
            }
        }
        Asked::Request { slot, outgoing, timeout, .. } => {
            match machine.request(outgoing, timeout, now, slot) {
                Ok(corr) => wait(tables.waiting, slot, unit, corr),
                Err(error) => {
                    tables.unsent(unit, false, &error);
                    tables.outcomes.push_back(Outcome::Failed { slot, error });
                }
            }
        }
        Asked::Respond { responder, payload, .. } => {
            if let Some((_, question)) = tables.questions.remove(responder) {
                machine.answer(question, Ok(payload), now);
            }
        }
        Asked::Reject { responder, reason, .. } => {
            if let Some((_, question)) = tables.questions.remove(responder) {
                machine.answer(question, Err(reason), now);
            }
        }
        Asked::Abandon { slot } => {
            let waits = tables.waiting.get_mut(slot as usize).and_then(Option::take);
            if waits.and_then(|(_, corr)| machine.abandon(corr)).is_some() {
                tables.outcomes.push_back(Outcome::Abandoned { slot });
            }
        }
        Asked::Written { .. } | Asked::ReleaseUnit { .. } => {}
    }
}

fn wait(waiting: &mut Vec<Option<(UnitId, u64)>>, slot: u32, unit: UnitId, corr: u64) {
    let at = slot as usize;
    if waiting.len() <= at {
        waiting.resize(at + 1, None);
    }
    waiting[at] = Some((unit, corr));
}

/// The unit that a command is for.
fn unit_of(
    units: &Slab<UnitId>,
    questions: &Slab<(UnitId, Question)>,
    waiting: &[Option<(UnitId, u64)>],
    asked: &Asked<'_>,
) -> Option<UnitId> {
    match *asked {
        Asked::Send { unit, .. } | Asked::Request { unit, .. } => units.get(unit).copied(),
        Asked::Respond { responder, generation, .. }
        | Asked::Reject { responder, generation, .. } => {
            questions.checked(responder, generation).map(|(unit, _)| *unit)
        }
        Asked::Abandon { slot } => {
            waiting.get(slot as usize).copied().flatten().map(|(unit, _)| unit)
        }
        Asked::Written { .. } | Asked::ReleaseUnit { .. } => None,
    }
}

fn write_outcome(outcome: Outcome, batch: &mut Batch<'_>) {
    match outcome {
        Outcome::Failed { slot, error } => {
            batch.error(Op::Answer, [slot, NOT_SENT, 0, 0], 0, &error)
        }
        Outcome::Sent { slot, conn } => batch.plain(Op::Sent, [slot, conn, 0, 0]),
        Outcome::NotSent { slot, error } => batch.error(Op::Sent, [slot, NONE, 0, 0], 0, &error),
        Outcome::Abandoned { slot } => batch.plain(Op::Abandoned, [slot, 0, 0, 0]),
        Outcome::Pinged { conn } => batch.plain(Op::Ping, [conn, 0, 0, 0]),
    }
}
