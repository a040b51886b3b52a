//! From a socket to a connection that belongs to a unit.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc, time::Duration};

use super::{
    PROTOCOL_VERSION, Peer, PeerEffect, PeerEvent, Ready, UnitConn, UnitInfo, UnitState,
    auth::{Dialect, Handshake, Refusal, Step, challenge},
    lobby::Source,
};
use crate::{
    AddressId, Claims, ConnId, Connection, Identity, Load, Moment, Opening, PlaceId, Remote,
    UnitId, check_claims,
    error::{Error, ErrorKind, Result},
    hint::{DialFault, HandshakeFault},
    peer_key,
    wire::{self, Confirm, Meta},
    ws::{Denied, Side, Upgraded},
};

pub(super) struct Pending {
    pub(super) handshake: Handshake,
    pub(super) identity: Identity,
    pub(super) address: Option<AddressId>,
    /// The place in the lobby; none for a dialed connection.
    pub(super) place: Option<PlaceId>,
    pub(super) upgraded: bool,
    /// The version of the roles that our confirmation listed.
    pub(super) announced: u64,
}

impl Pending {
    fn dialed(&self) -> bool {
        self.place.is_none()
    }
}

/// The shortest time between two [`PeerEvent::AcceptFailed`] for the same reason.
const REPORT: Duration = Duration::from_secs(1);
/// Each eviction delays the next accept by `PACE`, all of them together by at most `MOST_PACE`. A backlog of 2,000
/// strangers is accepted within a second.
const PACE: Duration = Duration::from_micros(350);
const MOST_PACE: Duration = Duration::from_millis(20);
/// One in so many unauthenticated connections is evicted when the system has no room for a further one.
const ROOM: usize = 8;

/// When each kind of failure was last reported, and the evictions since.
#[derive(Default)]
pub(super) struct Reports {
    failed: Option<Moment>,
    crowded: Option<Moment>,
    gave_way: u64,
    busy_until: Moment,
}

impl Peer {
    /// A connection was accepted: takes a place for it among the unauthenticated connections. It is to be
    /// [opened](Peer::open) before the handshake timeout, or its place [vacated](Peer::vacate). Beyond a limit, the
    /// oldest connection of the address that has the most is evicted, by [`PeerEffect::Evict`] or
    /// [`PeerEffect::Close`].
    ///
    /// Needed where something precedes [`open`](Peer::open), such as TLS: a connection opened without a place takes
    /// one then.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the peer is closed, [`ErrorKind::Overloaded`] when a limit is 0: drop the socket.
    pub fn enter(&mut self, address: Option<IpAddr>, now: Moment) -> Result<PlaceId> {
        self.check_open()?;
        let source = Source::of(address);
        let place = self.lobby.enter(source, now);
        while let Some(surplus) = self.lobby.surplus(source) {
            if surplus == place {
                self.lobby.leave(place);
                return Err(gave_way());
            }
            self.evict(surplus, now);
        }
        Ok(place)
    }

    /// Frees the place of a connection that ended before it was [opened](Peer::open). No effect on any other place.
    pub fn vacate(&mut self, place: PlaceId) {
        if !self.lobby.is_seated(place) {
            self.lobby.leave(place);
        }
    }

    /// A connection cannot be accepted because the system lacks something, such as file descriptors. Evicts an eighth
    /// of the unauthenticated connections, as [`enter`](Peer::enter) does, so that accepting can be tried again, and
    /// reports [`PeerEvent::AcceptFailed`] with this reason, at most once a second.
    pub fn accept_failed(&mut self, reason: impl fmt::Display, now: Moment) {
        for _ in 0..self.lobby.len().div_ceil(ROOM) {
            if let Some(place) = self.lobby.first_to_go() {
                self.evict(place, now);
            }
        }
        if is_due(&mut self.reports.failed, now) {
            let text = format!("Connections cannot be accepted: {reason}");
            let error = Error::new(ErrorKind::Io, text).with_hint(
                "Raise the limit on file descriptors of this process (ulimit -n), or let fewer units connect to it.",
            );
            self.event(PeerEvent::AcceptFailed { error });
        }
    }

    /// Sets limits on unauthenticated connections: their number, in total and per address, and the handshake
    /// timeout, which also holds for dialed ones. They apply to connections from now on. None stands for the
    /// [configured](crate::Config::limits) value.
    pub fn bound_handshakes(
        &mut self,
        in_all: Option<usize>,
        per_address: Option<usize>,
        timeout: Option<Duration>,
    ) {
        let (limits, configured) = (Arc::make_mut(&mut self.limits), &self.config.limits);
        limits.handshakes = in_all.unwrap_or(configured.handshakes);
        limits.handshakes_per_address = per_address.unwrap_or(configured.handshakes_per_address);
        limits.handshake_timeout = timeout.unwrap_or(configured.handshake_timeout);
        self.lobby.set_bounds(limits);
    }

    /// How long to wait before accepting the next connection, at most 20 ms; zero while nothing is evicted. Otherwise a
    /// flood of connections would take all the time of this peer.
    pub fn accept_pause(&self, now: Moment) -> Duration {
        self.reports.busy_until.since(now)
    }

    /// Evicts the connection of a place, and reports that.
    fn evict(&mut self, place: PlaceId, now: Moment) {
        self.reports.gave_way += 1;
        self.reports.busy_until = (self.reports.busy_until.max(now) + PACE).min(now + MOST_PACE);
        match self.lobby.leave(place) {
            None => self.effects.push_back(PeerEffect::Evict { place, late: false }),
            Some(conn) => {
                self.connection_closed(conn, None, gave_way(), now);
                self.drop_stranger(conn, "too many handshakes");
            }
        }
        if is_due(&mut self.reports.crowded, now) {
            let count = std::mem::take(&mut self.reports.gave_way);
            let text = format!(
                "Too many unauthenticated connections: {count} evicted, the oldest of the address that has the most \
                 first"
            );
            let error = Error::new(ErrorKind::Overloaded, text).with_hint(
                "If they come from one address and never finish their handshakes, look for an attack or a fault there. \
                 If they are many peers that connect at the same time, raise the limits on handshakes.",
            );
            self.event(PeerEvent::AcceptFailed { error });
        }
    }

    fn drop_stranger(&mut self, conn: ConnId, reason: &'static str) {
        let (frames, code) = (Vec::new(), crate::close_code::AUTH);
        self.effects.push_back(PeerEffect::Close { conn, frames, code, reason, at_once: true });
    }

    /// The timeout of a place in the lobby has expired.
    pub(super) fn place_late(&mut self, place: PlaceId, now: Moment) {
        match self.lobby.conn(place) {
            None => self.effects.push_back(PeerEffect::Evict { place, late: true }),
            Some(conn) => self.handshake_late(conn, now),
        }
        self.lobby.leave(place);
    }

    /// The timeout of a handshake has expired.
    pub(super) fn handshake_late(&mut self, conn: ConnId, now: Moment) {
        if self.pending.get(&conn).is_some_and(|pending| !pending.upgraded) {
            let error = Error::new(ErrorKind::ConnectFailed, "The upgrade took too long")
                .with_fault(DialFault::Silent);
            self.connection_closed(conn, None, error, now);
            // Before the upgrade there is no WebSocket to send a reason on.
            self.drop_stranger(conn, "");
        } else if let Some(pending) = self.pending.remove(&conn) {
            let reason = Refusal::Ours(pending.handshake.elapsed(), HandshakeFault::Silent);
            let at_once = !self.may_linger(&pending, now);
            let (frame, _) = self.refused(conn, pending, reason, now);
            let (frames, code, reason) = (frame.into_iter().collect(), crate::close_code::AUTH, "");
            self.effects.push_back(PeerEffect::Close { conn, frames, code, reason, at_once });
        }
    }

    /// Frees the place of a refused connection. Whether its socket may stay open for the reason to be read.
    fn may_linger(&mut self, pending: &Pending, now: Moment) -> bool {
        pending.place.is_none_or(|place| self.lobby.refuse(place, now))
    }

    /// A handshake has ended, whether it succeeded or not.
    pub(super) fn settle(&mut self, conn: ConnId, pending: &Pending) {
        if let Some(challenge) = &pending.handshake.challenge {
            self.challenges.remove(challenge);
        }
        self.deadlines.remove(&(pending.handshake.deadline, conn));
    }

    /// A socket is connected. The handshake timeout starts; with a [place](Peer::enter), it has started when that
    /// was taken.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when the place of an accepted connection was evicted or vacated, or a limit is 0,
    /// [`ErrorKind::Closed`] when the peer is closed or the address is not to be dialed
    /// any more, [`ErrorKind::InvalidArgument`] for unusable headers of an upgrade: drop the socket, and
    /// call [`dial_failed`](Peer::dial_failed) if it was dialed.
    pub fn open(&mut self, opening: Opening, remote: Remote, now: Moment) -> Result<Connection> {
        let (address, dialed) = match &opening {
            Opening::Accept { .. } => (None, false),
            Opening::Upgraded { side, address } => (*address, *side == Side::Client),
            Opening::Dial { address, .. } => (Some(*address), true),
        };
        self.check_opening(address)?;
        let place = match (dialed, remote.place) {
            (true, _) => None,
            (false, Some(place)) if !self.lobby.has(place) => return Err(gave_way()),
            (false, Some(place)) => Some(place),
            (false, None) => Some(self.enter(remote.address.map(|address| address.ip()), now)?),
        };
        let mut random = [0; 16];
        (self.config.entropy)(&mut random);
        let conn = ConnId(self.next_conn);
        let judged = (self.config.origins.clone(), self.config.authenticates);
        let connection = Connection::new(conn, opening, judged, self.limits.clone(), random);
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                place.map(|place| self.lobby.leave(place));
                return Err(error);
            }
        };
        self.begin(conn, address, place, remote, now);
        if connection.is_open() {
            self.upgraded(&mut connection, now);
        }
        Ok(connection)
    }

    fn check_opening(&self, address: Option<AddressId>) -> Result<()> {
        self.check_open()?;
        if address.is_some_and(|address| self.addresses.get(address).is_none()) {
            return Err(Error::new(ErrorKind::Closed, "The address is not to be dialed any more"));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        conn: ConnId,
        address: Option<AddressId>,
        place: Option<PlaceId>,
        remote: Remote,
        now: Moment,
    ) {
        let binding = remote.binding;
        let challenge = (!self.config.keys.is_empty()).then(|| {
            let mut random = [0u8; 32];
            (self.config.entropy)(&mut random);
            challenge(&random, self.config.channel_binding, &binding)
        });
        if let Some(challenge) = &challenge {
            self.challenges.insert(challenge.clone());
        }
        self.next_conn += 1;
        let dialed = place.is_none();
        let deadline = match place.and_then(|place| self.lobby.seat(place, conn)) {
            Some(until) => until,
            None => {
                let until = now + self.limits.handshake_timeout;
                self.deadlines.insert((until, conn));
                until
            }
        };
        let handshake = Handshake::new(challenge, binding, deadline);
        let identity = Identity::of(remote, dialed, &self.config.identity_headers);
        let pending =
            Pending { handshake, identity, address, place, upgraded: false, announced: 0 };
        self.pending.insert(conn, pending);
    }

    /// The number of unauthenticated connections: accepted, [opened](Peer::open) or not, and not through the
    /// handshake.
    pub fn handshakes(&self) -> usize {
        self.lobby.len()
    }

    /// A request for an upgrade was received, whether the application [judges](crate::Received::UpgradeRequest) it or
    /// not. The answer to one that this peer has sent shows nothing.
    pub fn upgrade_requested(&mut self, conn: ConnId, request: &Upgraded) {
        if let Some(pending) = self.pending.get_mut(&conn).filter(|pending| !pending.dialed()) {
            pending.identity.keep_headers(&request.headers, &self.config.identity_headers);
        }
    }

    /// The application has judged a request for an upgrade. Nothing happens when the connection has ended meanwhile.
    ///
    /// # Errors
    /// It is refused: [end](Connection::end) the connection. [`ErrorKind::InvalidArgument`] for claims that are too
    /// large: those count as a refusal, too.
    pub fn judge(
        &mut self,
        connection: &mut Connection,
        verdict: Result<Claims, Denied>,
        now: Moment,
    ) -> Result<()> {
        let verdict = verdict.and_then(|claims| match check_claims(&claims) {
            Ok(()) => Ok(claims),
            Err(error) => Err(Denied { status: 500, reason: error.to_string() }),
        });
        if connection.judge(verdict.as_ref().map(|_| ()))? {
            if let (Some(pending), Ok(claims)) = (self.pending.get_mut(&connection.id()), verdict) {
                pending.identity.claims = claims;
            }
            self.upgraded(connection, now);
        }
        Ok(())
    }

    /// The connection's WebSocket is open: begins the handshake.
    pub fn upgraded(&mut self, connection: &mut Connection, now: Moment) {
        let conn = connection.id();
        let Some(mut pending) = self.pending.remove(&conn) else { return };
        pending.upgraded = true;
        let step = pending.handshake.start(&self.config.keys);
        connection.say(&self.step(&mut pending, step, now));
        self.pending.insert(conn, pending);
    }

    pub(super) fn step(&mut self, pending: &mut Pending, step: Step, now: Moment) -> Vec<Vec<u8>> {
        let frame = match step {
            Step::Wait => return Vec::new(),
            Step::Send(frame) => frame,
            Step::Confirm => {
                pending.handshake.confirmed();
                pending.announced = self.roles_version;
                wire::Handshake::Confirm(Box::new(self.confirmation(pending, now)))
            }
        };
        vec![encode_handshake(&frame)]
    }

    pub(super) fn confirmation(&self, pending: &Pending, now: Moment) -> Confirm {
        let uptime = now.since_epoch().as_millis() as u64;
        let (k, s) = match &self.config.peer_key {
            Some(key) => {
                let (k, s) = key.prove(&self.id, pending.dialed(), &pending.handshake.binding);
                (Some(k), s)
            }
            None => Default::default(),
        };
        Confirm {
            id: self.id.to_string(),
            roles: self.active_roles(),
            friendly: self.config.friendly,
            name: self.config.name.clone(),
            meta: Meta {
                os: self.config.os.clone(),
                runtime: self.config.runtime.clone(),
                time: self.config.wall_clock + uptime,
                uptime,
                protocol: PROTOCOL_VERSION.to_owned(),
            },
            tags: self.config.tags.clone(),
            window: Some((self.limits.stream_window as u64).min(wire::MAX_NUMBER)),
            i: Some(self.roles_counter),
            x: self.config.extensions,
            k,
            s,
        }
    }

    /// Handles a message of a connection that has not finished its handshake; none for a text message. Once
    /// it is finished, the connection [belongs](Connection::unit) to the unit that is returned.
    ///
    /// # Errors
    /// Why the handshake failed: [end](Connection::end) the connection.
    pub fn handshake(
        &mut self,
        connection: &mut Connection,
        message: Option<&[u8]>,
        now: Moment,
    ) -> Result<Option<Ready>> {
        let conn = connection.id();
        let Some(mut pending) = self.pending.remove(&conn) else {
            connection.refused();
            return Err(Error::new(ErrorKind::Closed, "The connection is closed"));
        };
        let step = match message.map(wire::Handshake::decode) {
            Some(Ok(frame)) => {
                let own = pending.handshake.challenge.clone();
                let mode = self.config.channel_binding;
                pending.handshake.receive(frame, &self.config.keys, mode, |challenge| {
                    self.challenges.contains(challenge) || own.as_deref() == Some(challenge)
                })
            }
            Some(Err(error)) => Err(Refusal::broken(error.to_string())),
            None => {
                Err(Refusal::broken("Incorrect event during handshake process: a text message"))
            }
        };
        match step {
            Ok(step) => connection.say(&self.step(&mut pending, step, now)),
            Err(refusal) => return Err(self.refuse(connection, pending, refusal, now)),
        }
        if !pending.handshake.is_done() {
            self.pending.insert(conn, pending);
            return Ok(None);
        }
        match self.admit(connection, &mut pending, now) {
            Ok(ready) => Ok(Some(ready)),
            Err(refusal) => Err(self.refuse(connection, pending, refusal, now)),
        }
    }

    /// Makes the connection part of a unit, or says why not.
    pub(super) fn admit(
        &mut self,
        connection: &mut Connection,
        pending: &mut Pending,
        now: Moment,
    ) -> Result<Ready, Refusal> {
        let conn = connection.id();
        let Some(confirm) = pending.handshake.remote.take() else {
            return Err(Refusal::broken("The confirmation is missing"));
        };
        let mut identity = std::mem::take(&mut pending.identity);
        identity.key = pending.handshake.proved.take();
        let signed = (confirm.k.as_deref(), &confirm.s);
        let peer =
            peer_key::proved(&confirm.id, signed, !pending.dialed(), &pending.handshake.binding);
        let claimed = |text: &str| Refusal::Ours(text.to_owned(), HandshakeFault::Relayed);
        identity.peer = peer.map_err(claimed)?;
        let rights = self.rights_of(std::iter::once(&identity));
        let remote_id: Arc<str> = remote_id(&confirm.id, identity.peer.is_some()).as_ref().into();
        let known = self.by_remote_id.get(&*remote_id).copied();
        let full = |text: &str| Err(Refusal::Ours(text.to_owned(), HandshakeFault::Full));
        match known.and_then(|unit| self.units.get(&unit)) {
            // With each of them: one that shows less must not stand for those that show more.
            Some(unit)
                if !unit.conns.iter().all(|conn| conn.identity.admits(&identity))
                    || unit.load.rights() != rights =>
            {
                let text = "A unit with this id has shown another identity".to_owned();
                return Err(Refusal::Ours(text, HandshakeFault::OtherIdentity));
            }
            Some(unit) if unit.conns.len() >= self.limits.connections_per_unit => {
                return full("Too many connections");
            }
            None if self.units.len() >= self.limits.units => return full("Too many units"),
            _ => {}
        }
        let identity = Arc::new(identity);
        self.settle(conn, pending);
        if let Some(place) = pending.place {
            self.lobby.leave(place);
        }
        let dialect = Dialect::of(&confirm);
        let Confirm { id, roles, friendly, name, meta, tags, window: _, i, x, .. } = *confirm;
        let info =
            Arc::new(UnitInfo { id: id.into(), name, friendly, meta, tags, dialect, identity });
        let remote = info.identity.address.map(|address| address.ip());
        let unit_conn = UnitConn {
            id: conn,
            identity: info.identity.clone(),
            remote,
            address: pending.address,
            announced: self.roles_counter,
        };
        let (unit, first, stale) = match known {
            Some(unit) => {
                // An announcement on another connection may have overtaken the confirmation.
                let mut stale = false;
                if let Some(state) = self.units.get_mut(&unit) {
                    stale = i.is_some_and(|i| i < state.last_update);
                    state.last_update = state.last_update.max(i.unwrap_or(0));
                    state.info = info.clone();
                    state.conns.push(unit_conn);
                }
                (unit, false, stale)
            }
            None => {
                let unit = UnitId(self.next_unit);
                self.next_unit += 1;
                self.by_remote_id.insert(remote_id, unit);
                let load = Load::new(&info);
                load.set_rights(rights);
                let state = UnitState {
                    info: info.clone(),
                    announced: Vec::new(),
                    roles: Vec::new().into(),
                    load: Arc::new(load),
                    last_update: i.unwrap_or(0),
                    conns: vec![unit_conn],
                };
                self.units.insert(unit, state);
                self.event(PeerEvent::UnitOpened { unit, info: info.clone() });
                (unit, true, false)
            }
        };
        if !stale {
            self.set_unit_roles(unit, roles);
        }
        if pending.announced != self.roles_version {
            let frame = self.roles_frame();
            self.effects.push_back(PeerEffect::Send { unit, frame });
        }
        if let Some(address) = pending.address {
            self.dialed(address, Ok((unit, conn)), now);
        }
        self.introduce(unit, pending.address);
        let state = self.units.get(&unit);
        let (roles, load) =
            state.map(|state| (state.roles.clone(), state.load.clone())).unwrap_or_default();
        let extensions = self.config.extensions.agreed(x);
        let writer = connection.belongs_to(unit);
        Ok(Ready { unit, first, info, roles, writer, extensions, load })
    }

    pub(super) fn refuse(
        &mut self,
        connection: &mut Connection,
        pending: Pending,
        refusal: Refusal,
        now: Moment,
    ) -> Error {
        if !self.may_linger(&pending, now) {
            connection.leave_at_once();
        }
        let (frame, error) = self.refused(connection.id(), pending, refusal, now);
        connection.say(frame.as_slice());
        connection.refused();
        error
    }

    /// A handshake has failed. Returns what to tell the other side, and the reason.
    pub(super) fn refused(
        &mut self,
        conn: ConnId,
        pending: Pending,
        refusal: Refusal,
        now: Moment,
    ) -> (Option<Vec<u8>>, Error) {
        self.settle(conn, &pending);
        let hint = refusal.hint();
        let (frame, event, error) = match refusal {
            Refusal::Ours(reason, _) => {
                let frame = encode_handshake(&wire::Handshake::Error(reason.clone()));
                (Some(frame), reason.clone(), format!("Verification error: {reason}"))
            }
            Refusal::Theirs(reason) => (
                None,
                format!("remote peer rejected auth: {reason}"),
                format!("Auth error: {reason}"),
            ),
        };
        let error = Error::new(ErrorKind::AuthRefused, error).with_hint(hint);
        self.event(PeerEvent::AuthRefused { conn, reason: event });
        self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason: error.clone() });
        if let Some(address) = pending.address {
            self.dialed(address, Err(error.clone()), now);
        }
        (frame, error)
    }
}

/// Whether a report is due, given the time of the last one; if so, sets that to `now`.
fn is_due(told: &mut Option<Moment>, now: Moment) -> bool {
    let due = told.is_none_or(|told| now.since(told) >= REPORT);
    if due {
        *told = Some(now);
    }
    due
}

fn gave_way() -> Error {
    Error::new(ErrorKind::Overloaded, "Too many handshakes are under way")
}

/// The id as a key of the table of units. One that could have been proved and was not does not take the place of one
/// that was.
pub(super) fn remote_id(id: &str, is_proved: bool) -> Cow<'_, str> {
    match peer_key::is_provable(id) && !is_proved {
        true => format!("not proved: {id}").into(),
        false => id.into(),
    }
}

fn encode_handshake(frame: &wire::Handshake) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}
