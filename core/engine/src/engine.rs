//! The whole engine for a single-threaded host.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use http::HeaderMap;
use url::Url;

use crate::{
    AddressId, Budget, Config, ConnId, Connection, Event, HandshakeState, Limits, Moment, Peer,
    PeerEffect, PeerEvent, Received, Unit, UnitId, UnitInfo, close_code, timers::Timers,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ws::Side,
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
    /// Dial this address, then call [`Engine::dialed`] or [`Engine::dial_failed`].
    Dial {
        /// The address.
        address: AddressId,
        /// Its URL.
        url: Arc<str>,
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

struct Slot {
    connection: Connection,
    unit: Option<UnitId>,
    /// Output from before, beside and after the unit's queue: upgrade, handshake, pongs.
    out: Vec<u8>,
    /// Bytes of the unit's queue that the host has taken.
    taken: usize,
    /// Told the host to close.
    over: bool,
    /// Code and reason of the first close frame, in either direction.
    close: Option<(u16, String)>,
}

/// The close code of a connection that ended without a close frame.
const ABNORMAL: u16 = 1006;

/// The whole engine for a single-threaded host: connections, the peer, and the units.
///
/// After each call the host drains [`poll_event`](Engine::poll_event) and
/// [`poll_output`](Engine::poll_output), and arms a timer for [`deadline`](Engine::deadline).
pub struct Engine<R> {
    peer: Peer,
    limits: Arc<Limits>,
    budget: Budget,
    slots: BTreeMap<ConnId, Slot>,
    units: BTreeMap<UnitId, Unit<R>>,
    timers: Timers,
    events: VecDeque<EngineEvent<R>>,
    unit_events: Vec<Event<R>>,
    output: VecDeque<ConnId>,
}

impl<R> Engine<R> {
    /// An engine without connections.
    pub fn new(config: Config) -> Engine<R> {
        let limits = Arc::new(config.limits.clone());
        Engine {
            peer: Peer::new(config),
            limits,
            budget: Budget::default(),
            slots: BTreeMap::new(),
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

    /// Bytes that wait to be written on all connections.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    // Connections.

    /// A socket was accepted; its upgrade is still to come. `path` is the only one served, if given.
    ///
    /// # Errors
    /// As [`Peer::begin`]: drop the socket.
    pub fn accepted(&mut self, path: Option<String>, now: Moment) -> Result<ConnId> {
        let conn = self.peer.begin(None, false, now)?;
        let seed = self.peer.entropy();
        self.open(conn, Connection::accept(path, &self.limits, seed));
        Ok(conn)
    }

    /// A socket is connected that [`EngineEvent::Dial`] asked for. `headers` go into the upgrade.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for unusable headers, [`ErrorKind::Closed`]: drop the socket and
    /// call [`dial_failed`](Engine::dial_failed), or the address counts as being dialed for ever.
    pub fn dialed(
        &mut self,
        address: AddressId,
        url: &str,
        headers: &HeaderMap,
        now: Moment,
    ) -> Result<ConnId> {
        let url = Url::parse(url)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
        let random = (u128::from(self.peer.entropy()) << 64) | u128::from(self.peer.entropy());
        let mut out = Vec::new();
        let connection =
            Connection::dial(&url, headers, &self.limits, random.to_ne_bytes(), &mut out)?;
        let conn = self.peer.begin(Some(address), true, now)?;
        self.open(conn, connection);
        self.append(conn, &out);
        Ok(conn)
    }

    /// A socket whose upgrade the host has done; `address` when it was dialed for it.
    ///
    /// # Errors
    /// As [`Peer::begin`]: drop the socket.
    pub fn upgraded(
        &mut self,
        side: Side,
        address: Option<AddressId>,
        now: Moment,
    ) -> Result<ConnId> {
        let conn = self.peer.begin(address, side == Side::Client, now)?;
        let seed = self.peer.entropy();
        self.open(conn, Connection::upgraded(side, &self.limits, seed));
        self.start_handshake(conn, now);
        Ok(conn)
    }

    fn open(&mut self, conn: ConnId, connection: Connection) {
        let slot =
            Slot { connection, unit: None, out: Vec::new(), taken: 0, over: false, close: None };
        self.slots.insert(conn, slot);
    }

    fn append(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Some(slot) = self.slots.get_mut(&conn) {
            slot.out.extend_from_slice(bytes);
            self.output.push_back(conn);
        }
    }

    fn start_handshake(&mut self, conn: ConnId, now: Moment) {
        let frames = self.peer.upgraded(conn, now);
        self.write_frames(conn, &frames);
        self.drain_peer(now);
    }

    fn write_frames(&mut self, conn: ConnId, frames: &[Vec<u8>]) {
        let Some(slot) = self.slots.get_mut(&conn) else { return };
        for frame in frames {
            slot.connection.write(frame, &mut slot.out);
        }
        if !frames.is_empty() {
            self.output.push_back(conn);
        }
    }

    /// The host could not dial an address.
    pub fn dial_failed(&mut self, address: AddressId, error: Error, now: Moment) {
        self.peer.dial_failed(address, error, now);
        self.drain_peer(now);
    }

    /// Bytes came on a connection. Not to be called while it [is clogged](Engine::is_clogged).
    pub fn receive(&mut self, conn: ConnId, mut input: &[u8], now: Moment) {
        if let Some(unit) = self.slots.get(&conn).and_then(|slot| slot.unit)
            && let Some(unit) = self.units.get_mut(&unit)
        {
            unit.reading(conn, now);
        }
        loop {
            let Some(slot) = self.slots.get_mut(&conn).filter(|slot| !slot.over) else { return };
            let unit = slot.unit;
            let before = slot.out.len();
            let received = slot.connection.receive(&mut input, &mut slot.out);
            if slot.out.len() > before {
                self.output.push_back(conn);
            }
            match received {
                Ok(None) => break,
                Ok(Some(received)) => self.received(conn, unit, received, now),
                Err((error, code)) => {
                    if let Some(code) = code {
                        let reason = error.text().to_owned();
                        self.say_close(conn, unit, code, &reason, now);
                    }
                    self.over(conn, unit, error, now);
                }
            }
        }
        if let Some(unit) = self.slots.get(&conn).and_then(|slot| slot.unit) {
            self.drain_unit(unit, now);
        }
    }

    fn received(&mut self, conn: ConnId, unit: Option<UnitId>, received: Received, now: Moment) {
        match (received, unit) {
            (Received::Upgraded(_), _) => self.start_handshake(conn, now),
            (Received::Message(message), Some(id)) => {
                let Some(unit) = self.units.get_mut(&id) else { return };
                if let Err(error) = unit.receive(conn, &message, now, &mut self.unit_events) {
                    self.say_close(conn, Some(id), close_code::MALFORMED, error.text(), now);
                    self.over(conn, Some(id), error, now);
                }
            }
            (Received::Message(message), None) => self.handshake(conn, Some(&message), now),
            (Received::Text, Some(id)) => {
                let error = Error::new(ErrorKind::Protocol, "A text message was received");
                self.say_close(conn, Some(id), close_code::MALFORMED, error.text(), now);
                self.over(conn, Some(id), error, now);
            }
            (Received::Text, None) => self.handshake(conn, None, now),
            (Received::Pong(payload), unit) => {
                if let Some(unit) = unit.and_then(|unit| self.units.get_mut(&unit)) {
                    unit.pong(conn, &payload, now);
                }
                self.events.push_back(EngineEvent::Pong { conn, payload });
            }
            (Received::Ping(payload), _) => {
                self.events.push_back(EngineEvent::Ping { conn, payload });
            }
            (Received::Closed { code, reason }, unit) => {
                if let Some(slot) = self.slots.get_mut(&conn) {
                    slot.close.get_or_insert_with(|| (code, reason.clone()));
                }
                // The close frame has been answered: nothing may go out behind the answer.
                if let Some(unit) = unit.and_then(|unit| self.units.get_mut(&unit)) {
                    unit.take_output(conn, &mut Vec::new());
                }
                let text = format!("Socket closed ({code}) {reason}");
                let error = Error::new(ErrorKind::ConnectionLost, text.trim_end().to_owned());
                self.over(conn, unit, error, now);
            }
        }
    }

    fn handshake(&mut self, conn: ConnId, message: Option<&[u8]>, now: Moment) {
        let reply = self.peer.handshake(conn, message, now);
        self.write_frames(conn, &reply.frames);
        match reply.state {
            HandshakeState::Pending => {}
            HandshakeState::Ready(ready) => {
                let Some(slot) = self.slots.get_mut(&conn) else { return };
                let writer = slot.connection.authenticated(self.limits.message_size);
                slot.unit = Some(ready.unit);
                let dialect = ready.info.dialect;
                let (limits, budget) = (self.limits.clone(), self.budget.clone());
                self.units
                    .entry(ready.unit)
                    .or_insert_with(|| Unit::new(dialect, limits, budget))
                    .attach(conn, writer, now);
                let roles = self.peer.unit(ready.unit).map(|(_, roles)| roles.clone());
                self.events.push_back(EngineEvent::Attached {
                    conn,
                    unit: ready.unit,
                    info: ready.info,
                    roles: roles.unwrap_or_default(),
                });
                self.drain_unit(ready.unit, now);
            }
            HandshakeState::Refused(_) => {
                self.say_close(conn, None, close_code::AUTH, "", now);
                self.end(conn);
            }
        }
        self.drain_peer(now);
    }

    fn say_close(
        &mut self,
        conn: ConnId,
        unit: Option<UnitId>,
        code: u16,
        reason: &str,
        now: Moment,
    ) {
        let Some(slot) = self.slots.get_mut(&conn) else { return };
        slot.close.get_or_insert_with(|| (code, reason.to_owned()));
        match unit.and_then(|unit| self.units.get_mut(&unit)) {
            Some(machine) => {
                machine.close(conn, code, reason);
                slot.connection.close_sent();
                if let Some(unit) = unit {
                    self.drain_unit(unit, now);
                }
            }
            None => slot.connection.close(code, reason, &mut slot.out),
        }
        self.output.push_back(conn);
    }

    /// The connection serves no longer: forget it everywhere, keep only what it still has to say.
    fn over(&mut self, conn: ConnId, unit: Option<UnitId>, error: Error, now: Moment) {
        if let (Some(id), Some(slot)) = (unit, self.slots.get_mut(&conn))
            && let Some(unit) = self.units.get_mut(&id)
        {
            let mut rest = Vec::new();
            unit.take_output(conn, &mut rest);
            slot.out.extend_from_slice(&rest);
            unit.detach(conn, &mut self.unit_events);
            slot.unit = None;
            self.drain_unit(id, now);
        }
        self.peer.connection_closed(conn, unit, error, now);
        self.end(conn);
        self.drain_peer(now);
    }

    fn end(&mut self, conn: ConnId) {
        if let Some(slot) = self.slots.get_mut(&conn)
            && !slot.over
        {
            slot.over = true;
            let (code, reason) = slot.close.take().unwrap_or((ABNORMAL, String::new()));
            self.events.push_back(EngineEvent::Close { conn, code, reason });
        }
    }

    /// The socket of a connection is closed, by either side or by an error.
    pub fn closed(&mut self, conn: ConnId, now: Moment) {
        if let Some(slot) = self.slots.get(&conn)
            && !slot.over
        {
            let unit = slot.unit;
            let error = Error::new(ErrorKind::ConnectionLost, "Socket closed");
            self.over(conn, unit, error, now);
        }
        self.slots.remove(&conn);
    }

    /// Closes one connection. Its address, if it was dialed permanently, is dialed again.
    pub fn close_connection(&mut self, conn: ConnId, code: u16, reason: &str, now: Moment) {
        let Some(slot) = self.slots.get(&conn).filter(|slot| !slot.over) else { return };
        let unit = slot.unit;
        self.say_close(conn, unit, code, reason, now);
        self.over(conn, unit, Error::new(ErrorKind::Closed, "Socket closed"), now);
    }

    /// Sends a ping beside those of the heartbeat. Of `payload` at most 125 bytes are sent, the most
    /// that a ping may carry. Nothing happens before the handshake is done.
    pub fn ping(&mut self, conn: ConnId, payload: &[u8], now: Moment) {
        let Some(unit) = self.slots.get(&conn).and_then(|slot| slot.unit) else { return };
        if let Some(machine) = self.units.get_mut(&unit) {
            machine.ping(conn, payload);
            self.drain_unit(unit, now);
        }
    }

    /// Closes a unit: its connections get [`close_code::MANUAL`], its addresses are not dialed again.
    pub fn close_unit(&mut self, unit: UnitId, now: Moment) {
        self.peer.unit_closing(unit);
        let conns: Vec<ConnId> =
            self.units.get(&unit).map(|unit| unit.connections().collect()).unwrap_or_default();
        for conn in conns {
            self.say_close(conn, Some(unit), close_code::MANUAL, close_code::MANUAL_REASON, now);
            let error = Error::new(ErrorKind::Closed, "The unit was closed");
            self.over(conn, Some(unit), error, now);
        }
    }

    /// Closes the peer: all connections, all addresses.
    pub fn close(&mut self, now: Moment) {
        self.peer.close();
        self.close_connections(now);
    }

    /// Closes all connections and forgets all addresses. Unlike after [`close`](Engine::close), the
    /// peer can be connected again.
    pub fn disconnect(&mut self, now: Moment) {
        self.peer.forget_addresses();
        self.close_connections(now);
    }

    fn close_connections(&mut self, now: Moment) {
        let conns: Vec<(ConnId, Option<UnitId>)> =
            self.slots.iter().map(|(conn, slot)| (*conn, slot.unit)).collect();
        for (conn, unit) in conns {
            self.say_close(conn, unit, close_code::MANUAL, close_code::MANUAL_REASON, now);
            self.over(conn, unit, Error::new(ErrorKind::Closed, "The peer was closed"), now);
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
        self.slots.get(&conn).is_some_and(|slot| {
            !slot.out.is_empty()
                || slot.unit.and_then(|u| self.units.get(&u)).is_some_and(|u| u.has_output(conn))
        })
    }

    /// Takes all that is to be written to a connection, in exchange for an empty buffer. Call
    /// [`written`](Engine::written) when it has been written, before taking more.
    pub fn take_output(&mut self, conn: ConnId, buffer: &mut Vec<u8>) {
        let Some(slot) = self.slots.get_mut(&conn) else { return };
        if let Some(unit) = slot.unit.and_then(|unit| self.units.get_mut(&unit)) {
            unit.take_output(conn, buffer);
            slot.taken += buffer.len();
        }
        // What the connection itself says (handshake, pongs) goes first: it was made before, or is
        // more urgent.
        if !slot.out.is_empty() {
            buffer.splice(0..0, slot.out.drain(..));
        }
    }

    /// Whether so much waits to be written to a connection that its remote side has caused and that
    /// no limit holds back (pongs, rejections, answers to streams) that the host reads no more from
    /// it before some of that has been written.
    pub fn is_clogged(&self, conn: ConnId) -> bool {
        let Some(slot) = self.slots.get(&conn) else { return false };
        let unit = slot.unit.and_then(|unit| self.units.get(&unit));
        slot.out.len() >= self.limits.owed() || unit.is_some_and(|unit| unit.is_clogged(conn))
    }

    /// Whether so much has come on a connection for which too many handlers are running that the host
    /// reads no more from it for now: until handlers end, or until [`Engine::handle_timeout`] has
    /// given up what waits for that. A host that reads on has more of it given up.
    pub fn is_saturated(&self, conn: ConnId) -> bool {
        let unit = self.slots.get(&conn).and_then(|slot| slot.unit);
        unit.and_then(|unit| self.units.get(&unit)).is_some_and(|unit| unit.is_saturated(conn))
    }

    /// A part of what was taken from a connection has been written, but not all. A host that writes
    /// something large to a slow network says so at least once a second, or the connection, whose
    /// pings and pongs wait behind it, counts as dead.
    pub fn writing(&mut self, conn: ConnId, now: Moment) {
        if let Some(unit) = self.slots.get(&conn).and_then(|slot| slot.unit)
            && let Some(unit) = self.units.get_mut(&unit)
        {
            unit.writing(conn, now);
        }
    }

    /// What was taken from a connection has been written.
    pub fn written(&mut self, conn: ConnId, now: Moment) {
        let Some(slot) = self.slots.get_mut(&conn) else { return };
        let taken = std::mem::take(&mut slot.taken);
        if let (Some(unit), true) = (slot.unit, taken > 0) {
            if let Some(machine) = self.units.get_mut(&unit) {
                machine.written(conn, taken, now, &mut self.unit_events);
            }
            self.drain_unit(unit, now);
        }
    }

    // Events and time.

    /// The next event.
    pub fn poll_event(&mut self) -> Option<EngineEvent<R>> {
        self.events.pop_front()
    }

    fn drain_unit(&mut self, id: UnitId, now: Moment) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        unit.start_all_postponed(&mut self.unit_events);
        while let Some(conn) = unit.poll_output() {
            self.output.push_back(conn);
        }
        let mut peer_changed = false;
        let mut dead = Vec::new();
        for event in self.unit_events.drain(..) {
            match event {
                Event::Roles(update) => {
                    self.peer.unit_roles(id, update);
                    peer_changed = true;
                }
                Event::Acquaint(told) => {
                    self.peer.acquainted(told, now);
                    peer_changed = true;
                }
                Event::Dead(conn) => dead.push(conn),
                event => self.events.push_back(EngineEvent::Unit { unit: id, event }),
            }
        }
        for conn in dead {
            self.say_close(
                conn,
                Some(id),
                close_code::HEARTBEAT,
                close_code::HEARTBEAT_REASON,
                now,
            );
            let error = Error::new(ErrorKind::HeartbeatTimeout, close_code::HEARTBEAT_REASON);
            self.over(conn, Some(id), error, now);
        }
        match self.units.get(&id) {
            Some(unit) if unit.is_over() => {
                self.units.remove(&id);
                self.timers.set(id, None);
            }
            Some(unit) => self.timers.set(id, unit.deadline()),
            None => {}
        }
        if peer_changed {
            self.drain_peer(now);
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
                PeerEffect::Introduce { unit, frames } => {
                    self.tell(unit, |machine| machine.introduce(&frames));
                }
                PeerEffect::Close { conn, frames, code, reason } => {
                    self.write_frames(conn, &frames);
                    self.say_close(conn, None, code, reason, now);
                    self.end(conn);
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
                unit.handle_timeout(now, &mut self.unit_events);
            }
            self.drain_unit(id, now);
        }
    }
}
