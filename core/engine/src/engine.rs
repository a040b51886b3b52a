//! The whole engine for a single-threaded host.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    AddressId, Balance, Budget, Claims, Config, ConnId, Connection, Event, Moment, Opening,
    Parting, Peer, PeerEffect, PeerEvent, PlaceId, Ready, Received, Remote, Tried, Unit, UnitId,
    UnitInfo, close_code,
    error::{Error, ErrorKind, Result},
    hint::DialFault,
    timers::Timers,
    unit::OURS,
    ws::{Denied, Upgraded},
};

/// Something for the host to do or to tell.
#[derive(Debug)]
pub enum EngineEvent<R> {
    /// Something happened to the peer.
    Peer(PeerEvent),
    /// A unit said something.
    Unit {
        /// The unit.
        unit: UnitId,
        /// What it said.
        event: Event<R>,
    },
    /// Dial this address, then call [`Engine::open`] or [`Engine::dial_failed`].
    Dial {
        /// The address.
        address: AddressId,
        /// Its URL.
        url: Arc<str>,
    },
    /// Close the socket of this [place](Engine::enter) at once. Its connection was not opened yet.
    Evict {
        /// The place.
        place: PlaceId,
        /// Whether the handshake timeout has expired; otherwise there were too many connections.
        late: bool,
    },
    /// The handshake of a connection is done: it belongs to this unit from now on. Comes before all
    /// other events that follow from it.
    Attached {
        /// The connection.
        conn: ConnId,
        /// The unit, perhaps a new one.
        unit: UnitId,
        /// What the unit says of itself, also when it is known already.
        info: Arc<UnitInfo>,
        /// All roles that it serves now.
        roles: Arc<[String]>,
    },
    /// Somebody asks for an upgrade, and the application [judges](crate::Config::authenticates) that: call
    /// [`Engine::judge`], soon or later. Nothing is read from the connection until then.
    UpgradeRequest {
        /// The connection.
        conn: ConnId,
        /// What was asked.
        request: Upgraded,
    },
    /// A ping came, and has been answered.
    Ping {
        /// The connection.
        conn: ConnId,
        /// What came with it, at most 125 bytes.
        payload: Bytes,
    },
    /// A ping was answered.
    Pong {
        /// The connection.
        conn: ConnId,
        /// What came with it, at most 125 bytes: the payload of the ping.
        payload: Bytes,
    },
    /// Write what the connection still has to say, then close its socket. The connection is no
    /// longer known otherwise.
    Close {
        /// The connection.
        conn: ConnId,
        /// The WebSocket close code that was received or sent first, 1006 when there was none.
        code: u16,
        /// The reason that came with it.
        reason: String,
    },
}

/// The whole engine for a single-threaded host: connections, the peer, and the units.
///
/// After each call the host drains [`poll_event`](Engine::poll_event) and
/// [`poll_output`](Engine::poll_output), and arms a timer for [`deadline`](Engine::deadline).
pub struct Engine<R> {
    peer: Peer,
    budget: Budget,
    connections: BTreeMap<ConnId, Connection>,
    units: BTreeMap<UnitId, Unit<R>>,
    timers: Timers,
    events: VecDeque<EngineEvent<R>>,
    unit_events: Vec<Event<R>>,
    output: VecDeque<ConnId>,
}

impl<R> Engine<R> {
    /// An engine without connections.
    pub fn new(config: Config) -> Engine<R> {
        Engine {
            peer: Peer::new(config),
            budget: Budget::default(),
            connections: BTreeMap::new(),
            units: BTreeMap::new(),
            timers: Timers::default(),
            events: VecDeque::new(),
            unit_events: Vec::new(),
            output: VecDeque::new(),
        }
    }

    /// The peer's state. Use [`with_peer`](Engine::with_peer) to change it.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Changes the peer's state: roles, destinations, keys, addresses.
    pub fn with_peer<T>(&mut self, now: Moment, change: impl FnOnce(&mut Peer) -> T) -> T {
        let result = change(&mut self.peer);
        self.drain_peer(now);
        result
    }

    /// Sends and receives on a unit; none when it is gone. A unit that has closed stays until its
    /// streams are closed, so that what arrived can be read.
    pub fn with_unit<T>(
        &mut self,
        unit: UnitId,
        now: Moment,
        change: impl FnOnce(&mut Unit<R>) -> T,
    ) -> Option<T> {
        let result = change(self.units.get_mut(&unit)?);
        self.drain_unit(unit, now);
        Some(result)
    }

    /// The state of a unit.
    pub fn unit(&self, unit: UnitId) -> Option<&Unit<R>> {
        self.units.get(&unit)
    }

    /// The unit that what is sent to a role next goes to.
    ///
    /// # Errors
    /// As [`Peer::choose`].
    pub fn choose(
        &self,
        role: &str,
        balance: Option<&Balance>,
        takes_fields: bool,
        tried: &Tried,
        now: Moment,
    ) -> Result<UnitId> {
        self.peer.choose(role, balance, takes_fields, tried, now)
    }

    /// Bytes that wait to be written on all connections.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    // Connections.

    /// A socket is there: accepted, or dialed as [`EngineEvent::Dial`] asked for.
    ///
    /// # Errors
    /// As [`Peer::open`]: drop the socket, and call [`dial_failed`](Engine::dial_failed) if it was dialed,
    /// or the address counts as being dialed for ever.
    pub fn open(&mut self, opening: Opening, remote: Remote, now: Moment) -> Result<ConnId> {
        let connection = match self.peer.open(opening, remote, now) {
            Ok(connection) => connection,
            Err(error) => {
                self.drain_peer(now);
                return Err(error);
            }
        };
        let conn = connection.id();
        self.connections.insert(conn, connection);
        self.output.push_back(conn);
        self.drain_peer(now);
        Ok(conn)
    }

    /// A connection was accepted that cannot be opened yet. [`EngineEvent::Evict`] asks for its socket to be closed.
    ///
    /// # Errors
    /// As [`Peer::enter`].
    pub fn enter(&mut self, address: Option<IpAddr>, now: Moment) -> Result<PlaceId> {
        self.with_peer(now, |peer| peer.enter(address, now))
    }

    /// A connection, and its unit if it has one.
    fn parts(&mut self, conn: ConnId) -> Option<(&mut Connection, Option<&mut Unit<R>>)> {
        let connection = self.connections.get_mut(&conn)?;
        let unit = connection.unit().and_then(|unit| self.units.get_mut(&unit));
        Some((connection, unit))
    }

    /// A connection, and its unit if it has one, to look at.
    fn look(&self, conn: ConnId) -> Option<(&Connection, Option<&Unit<R>>)> {
        let connection = self.connections.get(&conn)?;
        Some((connection, connection.unit().and_then(|unit| self.units.get(&unit))))
    }

    /// The host could not dial an address.
    pub fn dial_failed(&mut self, address: AddressId, error: Error, now: Moment) {
        self.peer.dial_failed(address, error, now);
        self.drain_peer(now);
    }

    /// Bytes were received on a connection that [may be read](Engine::may_read).
    pub fn receive(&mut self, conn: ConnId, mut input: &[u8], now: Moment) {
        let Some((_, unit)) = self.parts(conn) else { return };
        if let Some(unit) = unit {
            unit.reading(conn, now);
        }
        while let Some((connection, unit)) = self.parts(conn) {
            match receive(connection, unit, &mut input, now) {
                Ok(None) => break,
                Ok(Some(received)) => self.received(conn, received, now),
                Err(error) => self.end(conn, None, error, now),
            }
        }
        self.output.push_back(conn);
        if let Some(unit) = self.connections.get(&conn).and_then(Connection::unit) {
            self.drain_unit(unit, now);
        }
    }

    fn received(&mut self, conn: ConnId, received: Received, now: Moment) {
        let Some((connection, unit)) = self.parts(conn) else { return };
        match received {
            Received::UpgradeRequest(request) => {
                self.peer.upgrade_requested(conn, &request);
                self.events.push_back(EngineEvent::UpgradeRequest { conn, request });
            }
            Received::Upgraded(upgraded) => {
                self.peer.upgrade_requested(conn, &upgraded);
                let Some(connection) = self.connections.get_mut(&conn) else { return };
                self.peer.upgraded(connection, now);
                self.drain_peer(now);
            }
            Received::Handshake(message) => {
                let Some(connection) = self.connections.get_mut(&conn) else { return };
                match self.peer.handshake(connection, message.as_deref(), now) {
                    Ok(None) => {}
                    Ok(Some(ready)) => self.attach(conn, ready, now),
                    Err(error) => self.end(conn, None, error, now),
                }
                self.drain_peer(now);
            }
            Received::Message(_) => debug_assert!(connection.unit().is_none()),
            // The application is not told of these.
            Received::Ping(payload) if payload.starts_with(OURS) => {}
            Received::Ping(payload) => self.events.push_back(EngineEvent::Ping { conn, payload }),
            Received::Pong(payload) => {
                if let Some(unit) = unit {
                    unit.pong(conn, &payload, now);
                }
                self.events.push_back(EngineEvent::Pong { conn, payload });
            }
        }
    }

    /// The application has judged a [request for an upgrade](EngineEvent::UpgradeRequest). Nothing happens when the
    /// connection has ended meanwhile.
    pub fn judge(&mut self, conn: ConnId, verdict: Result<Claims, Denied>, now: Moment) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match self.peer.judge(connection, verdict, now) {
            Ok(()) => self.output.push_back(conn),
            Err(error) => self.end(conn, None, error, now),
        }
        self.drain_peer(now);
    }

    fn attach(&mut self, conn: ConnId, ready: Ready, now: Moment) {
        let Ready { unit, info, roles, writer, extensions, load, .. } = ready;
        let new = || Unit::new(info.clone(), self.peer.limits().clone(), self.budget.clone(), load);
        let machine = self.units.entry(unit).or_insert_with(new);
        machine.attach(conn, writer, extensions, now);
        if self.peer.is_withdrawn() {
            machine.withdrawn();
        }
        self.events.push_back(EngineEvent::Attached { conn, unit, info, roles });
        self.drain_unit(unit, now);
    }

    /// The connection serves no longer: forget it everywhere, keep only what it still has to say.
    fn end(&mut self, conn: ConnId, close: Option<(u16, &str)>, error: Error, now: Moment) {
        let Some((connection, unit)) = self.parts(conn) else { return };
        if connection.has_ended() {
            return;
        }
        let unit = connection.end(unit, close);
        let (code, reason) = connection.close_reason();
        let (code, reason) = (code, reason.to_owned());
        if let Some(unit) = unit {
            self.drain_unit(unit, now);
        }
        self.events.push_back(EngineEvent::Close { conn, code, reason });
        self.output.push_back(conn);
        self.peer.connection_closed(conn, unit, error, now);
        self.drain_peer(now);
    }

    /// How the socket of a connection that has ended is to be closed. None when it is not known any more.
    pub fn parting(&self, conn: ConnId) -> Option<Parting> {
        self.connections.get(&conn).map(Connection::parting)
    }

    /// The socket of a connection is closed, by either side or by an error.
    pub fn closed(&mut self, conn: ConnId, now: Moment) {
        self.failed(conn, None, now);
    }

    /// As [`closed`](Engine::closed); the fault says why, in case that it was dialed and is no part of a unit
    /// yet.
    pub fn failed(&mut self, conn: ConnId, fault: Option<DialFault>, now: Moment) {
        let error = Error::new(ErrorKind::ConnectionLost, "Socket closed").with_fault(fault);
        self.end(conn, None, error, now);
        self.connections.remove(&conn);
    }

    /// Closes one connection. Its address, if it was dialed permanently, is dialed again.
    pub fn close_connection(&mut self, conn: ConnId, code: u16, reason: &str, now: Moment) {
        let error = Error::new(ErrorKind::Closed, "Socket closed");
        self.end(conn, Some((code, reason)), error, now);
    }

    /// Sends a ping beside those of the heartbeat. Of `payload` at most 125 bytes are sent, the most
    /// that a ping may carry. Nothing happens before the handshake is done.
    pub fn ping(&mut self, conn: ConnId, payload: &[u8], now: Moment) {
        let Some((connection, Some(unit))) = self.parts(conn) else { return };
        unit.ping(conn, payload);
        if let Some(unit) = connection.unit() {
            self.drain_unit(unit, now);
        }
    }

    /// Begins to leave, in order to [close](Engine::close) when no unit is [busy](Unit::busy) any more: see
    /// [`Unit::drain`].
    pub fn drain(&mut self, now: Moment) {
        let withdrawal = self.peer.withdraw();
        let units: Vec<UnitId> = self.units.keys().copied().collect();
        for id in units {
            if let Some(unit) = self.units.get_mut(&id) {
                unit.drain(&withdrawal, now);
            }
            self.drain_unit(id, now);
        }
    }

    /// Closes a unit: its connections get [`close_code::MANUAL`], its addresses are not dialed again.
    pub fn close_unit(&mut self, unit: UnitId, now: Moment) {
        self.peer.unit_closing(unit);
        let conns: Vec<ConnId> =
            self.units.get(&unit).map(|unit| unit.connections().collect()).unwrap_or_default();
        self.close_all(conns, "The unit was closed", now);
    }

    /// Closes the peer: all connections, all addresses.
    pub fn close(&mut self, now: Moment) {
        self.peer.close();
        self.close_connections(now);
    }

    /// Closes all connections and forgets all addresses. Unlike after [`close`](Engine::close), the
    /// peer can be connected again, with its roles, should it have been [drained](Engine::drain).
    pub fn disconnect(&mut self, now: Moment) {
        self.peer.forget_addresses();
        self.close_connections(now);
        self.peer.offer_again();
    }

    fn close_connections(&mut self, now: Moment) {
        let conns = self.connections.keys().copied().collect();
        self.close_all(conns, "The peer is closed", now);
    }

    fn close_all(&mut self, conns: Vec<ConnId>, why: &str, now: Moment) {
        let close = (close_code::MANUAL, close_code::MANUAL_REASON);
        for conn in conns {
            self.end(conn, Some(close), Error::new(ErrorKind::Closed, why.to_owned()), now);
        }
    }

    // Output.

    /// A connection that has something to write.
    pub fn poll_output(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.output.pop_front() {
            if self.has_output(conn) {
                return Some(conn);
            }
        }
        None
    }

    fn has_output(&self, conn: ConnId) -> bool {
        self.look(conn).is_some_and(|(connection, unit)| connection.has_output(unit))
    }

    /// What is to be written next to a connection; empty when there is nothing. Tell how much of it was
    /// [written](Engine::wrote), then ask again.
    pub fn output(&mut self, conn: ConnId, now: Moment) -> &[u8] {
        let Some((connection, unit)) = self.parts(conn) else { return &[] };
        let tells_unit = connection.has_in_flight();
        connection.output(unit, now);
        if let (true, Some(unit)) = (tells_unit, connection.unit()) {
            self.drain_unit(unit, now);
        }
        self.connections.get(&conn).map_or(&[], Connection::rest)
    }

    /// So many bytes of the [output](Engine::output) have been written.
    pub fn wrote(&mut self, conn: ConnId, len: usize) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.wrote(len);
        }
    }

    /// Takes all that is to be written to a connection, in exchange for an empty buffer: for hosts that
    /// hand buffers over. Call [`written`](Engine::written) when it has been written, before taking more.
    pub fn take_output(&mut self, conn: ConnId, buffer: &mut Vec<u8>) {
        if let Some((connection, unit)) = self.parts(conn) {
            connection.take_output(unit, buffer);
        }
    }

    /// What was [taken](Engine::take_output) from a connection has been written.
    pub fn written(&mut self, conn: ConnId, now: Moment) {
        let Some((connection, unit)) = self.parts(conn) else { return };
        connection.flushed(unit, now);
        if let Some(unit) = connection.unit() {
            self.drain_unit(unit, now);
        }
    }

    /// A part of what was taken from a connection has been written, but not all. A host that writes
    /// something large to a slow network says so at least once a second, or the connection, whose
    /// pings and pongs wait behind it, counts as dead.
    pub fn writing(&mut self, conn: ConnId, now: Moment) {
        if let Some((_, Some(unit))) = self.parts(conn) {
            unit.writing(conn, now);
        }
    }

    /// Whether the host may read from a connection. If not, either so much waits to be written to it that its
    /// remote side has caused and that no limit holds back (pongs, rejections, answers to streams), or it has
    /// brought more than handlers can take. That ends when something is written, when handlers
    /// end, or with [`handle_timeout`](Engine::handle_timeout). A host that reads on all the same has more
    /// of it given up.
    pub fn may_read(&self, conn: ConnId) -> bool {
        self.look(conn).is_none_or(|(connection, unit)| connection.may_read(unit))
    }

    // Events and time.

    /// The next event.
    pub fn poll_event(&mut self) -> Option<EngineEvent<R>> {
        self.events.pop_front()
    }

    /// The number of events that [`poll_event`](Engine::poll_event) would return.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Whether [`poll_event`](Engine::poll_event) has one.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn drain_unit(&mut self, id: UnitId, now: Moment) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        unit.take_events(&mut self.unit_events);
        while let Some(conn) = unit.poll_output() {
            self.output.push_back(conn);
        }
        let mut peer_changed = false;
        let (mut dead, mut unsent) = (Vec::new(), Vec::new());
        for event in self.unit_events.drain(..) {
            match event {
                Event::News(news) => {
                    self.peer.hear(id, news, now);
                    peer_changed = true;
                }
                Event::Dead(conn) => dead.push(conn),
                Event::Unsent(message) => unsent.push(message),
                event => self.events.push_back(EngineEvent::Unit { unit: id, event }),
            }
        }
        for conn in dead {
            let close = (close_code::HEARTBEAT, close_code::HEARTBEAT_REASON);
            let error = Error::new(ErrorKind::HeartbeatTimeout, close_code::HEARTBEAT_REASON);
            self.end(conn, Some(close), error, now);
        }
        match self.units.get(&id) {
            Some(unit) if unit.is_over() => {
                self.units.remove(&id);
                self.timers.set(id, None);
            }
            Some(unit) => self.timers.set(id, unit.deadline()),
            None => {}
        }
        if self.peer.has_ejections() {
            self.peer.tell_ejections();
            peer_changed = true;
        }
        if peer_changed {
            self.drain_peer(now);
        }
        for message in unsent {
            // Without another unit it is lost, as one that is on its way.
            if let Ok(unit) = self.peer.choose_for(&message, now) {
                let _sent = self.with_unit(unit, now, |unit| unit.resend(&message));
            }
        }
    }

    fn drain_peer(&mut self, now: Moment) {
        while let Some(effect) = self.peer.poll_effect() {
            match effect {
                PeerEffect::Event(event) => self.events.push_back(EngineEvent::Peer(event)),
                PeerEffect::Dial { address, url } => {
                    self.events.push_back(EngineEvent::Dial { address, url });
                }
                PeerEffect::Send { unit, frame } => {
                    self.tell(unit, |machine| machine.send_raw(&frame));
                }
                PeerEffect::Retire { unit, conn } => {
                    self.with_unit(unit, now, |machine| machine.retire(conn, now));
                }
                PeerEffect::Introduce { unit, frames } => {
                    self.tell(unit, |machine| machine.introduce(&frames));
                }
                PeerEffect::Evict { place, late } => {
                    self.events.push_back(EngineEvent::Evict { place, late });
                }
                PeerEffect::Close { conn, frames, code, reason, at_once } => {
                    if let Some(connection) = self.connections.get_mut(&conn) {
                        connection.say(&frames);
                        if at_once {
                            connection.leave_at_once();
                        }
                    }
                    let error = Error::new(ErrorKind::AuthRefused, "The handshake failed");
                    self.end(conn, Some((code, reason)), error, now);
                }
            }
        }
    }

    fn tell(&mut self, unit: UnitId, say: impl FnOnce(&mut Unit<R>)) {
        let Some(machine) = self.units.get_mut(&unit) else { return };
        say(machine);
        while let Some(conn) = machine.poll_output() {
            self.output.push_back(conn);
        }
    }

    /// When [`handle_timeout`](Engine::handle_timeout) is to be called next.
    pub fn deadline(&self) -> Option<Moment> {
        [self.peer.deadline(), self.timers.first()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.peer.handle_timeout(now);
        self.drain_peer(now);
        for id in self.timers.due(now) {
            if let Some(unit) = self.units.get_mut(&id) {
                unit.handle_timeout(now);
            }
            self.drain_unit(id, now);
        }
    }
}

/// Gives the messages in `input` to the unit, up to something that is not for it.
fn receive<R>(
    connection: &mut Connection,
    unit: Option<&mut Unit<R>>,
    input: &mut &[u8],
    now: Moment,
) -> Result<Option<Received>> {
    let Some(unit) = unit else { return connection.receive(input) };
    loop {
        match connection.receive(input)? {
            Some(Received::Message(message)) => {
                connection.deliver(unit, message, now)?;
                while let Some(message) = connection.receive_more() {
                    connection.deliver(unit, message, now)?;
                }
            }
            other => return Ok(other),
        }
    }
}
