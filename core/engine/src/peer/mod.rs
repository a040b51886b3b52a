//! The state machine of the peer: who is connected, who serves what, whom to dial.
//!
//! It sees connections open, shake hands and close, and roles change; it never sees a message.

mod address;
mod auth;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use url::Url;

pub use self::auth::Dialect;
use self::{
    address::{Addresses, Origin, State},
    auth::{Handshake, Refusal, Step},
};
use crate::{
    AddressId, Config, ConnId, Connection, Keys, Limits, Load, Moment, News, NoHandler, Opening,
    Policy, UnitId,
    error::{Error, ErrorKind, Result},
    no_unit, policy,
    wire::{self, Acquaint, Confirm, Frame, Meta, RolesUpdate},
    ws::{FrameWriter, Side},
};

/// The version of the protocol that peers tell each other.
pub const PROTOCOL_VERSION: &str = "2.0.0";

/// The longest address that is learned by acquaintance, in bytes.
const MAX_ADDRESS: usize = 4 << 10;

/// What a unit said of itself when it connected.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UnitInfo {
    /// The remote peer's id, unique for its lifetime. Opaque.
    pub id: Arc<str>,
    /// Its name, possibly empty.
    pub name: String,
    /// Whether it wants to be told of other peers.
    pub friendly: bool,
    /// What it runs on.
    pub meta: Meta,
    /// Its static tags.
    pub tags: BTreeMap<String, String>,
    /// How to talk to it.
    pub dialect: Dialect,
}

/// Something that happened to the peer as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerEvent {
    /// A unit connected.
    UnitOpened {
        /// The unit.
        unit: UnitId,
        /// What it said of itself.
        info: Arc<UnitInfo>,
    },
    /// A unit's last connection closed.
    UnitClosed {
        /// The unit.
        unit: UnitId,
    },
    /// A unit changed its roles.
    UnitRoles {
        /// The unit.
        unit: UnitId,
        /// All roles that it serves now.
        roles: Arc<[String]>,
    },
    /// The first unit that serves a destination's role is there.
    DestinationOpened {
        /// The destination's role.
        role: Arc<str>,
    },
    /// No unit serves a destination's role any more.
    DestinationClosed {
        /// The destination's role.
        role: Arc<str>,
    },
    /// A destination gained a unit.
    DestinationGained {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: UnitId,
    },
    /// A destination lost a unit.
    DestinationLost {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: UnitId,
    },
    /// A handshake failed, whichever side refused.
    AuthRefused {
        /// The connection.
        conn: ConnId,
        /// The reason, in the original's words.
        reason: String,
    },
    /// An address that the application dialed came to its first outcome, or to a later one.
    Dialed {
        /// The address.
        address: AddressId,
        /// Its URL.
        url: Arc<str>,
        /// Attempts before this one that failed; 0 for the first.
        count: u32,
        /// The unit and connection, or why there is none.
        outcome: Result<(UnitId, ConnId)>,
        /// Whether there was an outcome before: a reconnection.
        again: bool,
    },
    /// A connection closed.
    ConnectionClosed {
        /// The connection.
        conn: ConnId,
        /// The unit that it belonged to, when its handshake had been done.
        unit: Option<UnitId>,
        /// Why.
        reason: Error,
    },
}

/// What the host has to do for the peer.
#[derive(Debug)]
pub enum PeerEffect {
    /// Dial this address, then call [`Peer::open`] or [`Peer::dial_failed`].
    Dial {
        /// The address.
        address: AddressId,
        /// Its URL, `ws` or `wss`.
        url: Arc<str>,
    },
    /// Write this frame to any connection of the unit.
    Send {
        /// The unit.
        unit: UnitId,
        /// The whole frame.
        frame: Vec<u8>,
    },
    /// Write these frames to any connection of the unit, or none of them when its queue is full: it
    /// can do without.
    Introduce {
        /// The unit.
        unit: UnitId,
        /// Whole frames.
        frames: Vec<Vec<u8>>,
    },
    /// Close this connection with this code and reason.
    Close {
        /// The connection.
        conn: ConnId,
        /// Frames to write first.
        frames: Vec<Vec<u8>>,
        /// WebSocket close code.
        code: u16,
        /// Close reason.
        reason: &'static str,
    },
    /// Tell the application.
    Event(PeerEvent),
}

/// A connection that has finished its handshake.
pub struct Ready {
    /// The unit it belongs to.
    pub unit: UnitId,
    /// Whether this is the unit's first connection.
    pub first: bool,
    /// What the unit said of itself.
    pub info: Arc<UnitInfo>,
    /// All roles that it serves now.
    pub roles: Arc<[String]>,
    /// For [`Unit::attach`](crate::Unit::attach).
    pub writer: FrameWriter,
    /// For [`Unit::new`](crate::Unit::new).
    pub load: Arc<Load>,
}

struct Pending {
    handshake: Handshake,
    address: Option<AddressId>,
    dialed: bool,
    upgraded: bool,
    /// The version of the roles that our confirmation listed.
    announced: u64,
}

struct UnitState {
    info: Arc<UnitInfo>,
    roles: Arc<[String]>,
    load: Arc<Load>,
    last_update: u64,
    conns: Vec<UnitConn>,
}

struct UnitConn {
    id: ConnId,
    address: Option<AddressId>,
    /// The counter of the last announcement that cannot have been lost with this connection.
    announced: u64,
}

struct Destination {
    /// Those that serve it, in the order in which they were found.
    units: Vec<UnitId>,
    policy: Arc<dyn Policy>,
}

struct RoleState {
    name: Arc<str>,
    active: bool,
}

/// The peer's state machine. The host calls it with connections, the time and commands, then drains
/// [`poll_effect`](Peer::poll_effect).
pub struct Peer {
    id: Arc<str>,
    config: Config,
    limits: Arc<Limits>,
    roles: Vec<RoleState>,
    role_index: HashMap<Arc<str>, usize>,
    /// Counts changes of the roles.
    roles_version: u64,
    /// The counter of the last 201.
    roles_counter: u64,
    announce_at: Option<Moment>,
    destinations: HashMap<Arc<str>, Destination>,
    units: BTreeMap<UnitId, UnitState>,
    by_remote_id: HashMap<Arc<str>, UnitId>,
    pending: HashMap<ConnId, Pending>,
    challenges: HashSet<String>,
    addresses: Addresses,
    next_conn: u64,
    next_unit: u64,
    effects: VecDeque<PeerEffect>,
    closed: bool,
}

impl Peer {
    /// A peer with a new random id and no roles.
    pub fn new(mut config: Config) -> Peer {
        let mut id = [0u8; 16];
        (config.entropy)(&mut id);
        Peer {
            id: hex(&id).into(),
            limits: Arc::new(config.limits.clone()),
            config,
            roles: Vec::new(),
            role_index: HashMap::new(),
            roles_version: 0,
            roles_counter: 0,
            announce_at: None,
            destinations: HashMap::new(),
            units: BTreeMap::new(),
            by_remote_id: HashMap::new(),
            pending: HashMap::new(),
            challenges: HashSet::new(),
            addresses: Addresses::default(),
            next_conn: 0,
            next_unit: 0,
            effects: VecDeque::new(),
            closed: false,
        }
    }

    /// This peer's id: 32 hexadecimal digits.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The bounds this peer keeps to.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The name shown to units that connect from now on.
    pub fn set_name(&mut self, name: String) {
        self.config.name = name;
    }

    /// Sets a tag shown to units that connect from now on.
    pub fn set_tag(&mut self, key: String, value: String) {
        self.config.tags.insert(key, value);
    }

    /// This peer's tags.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.config.tags
    }

    /// Whether this peer dials the addresses that others tell it. Takes effect for new connections.
    pub fn set_friendly(&mut self, friendly: bool) {
        self.config.friendly = friendly;
    }

    /// The preshared keys. Connections that are already authenticated stay.
    pub fn keys_mut(&mut self) -> &mut Keys {
        &mut self.config.keys
    }

    /// Random bytes from the host.
    fn entropy(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        (self.config.entropy)(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Adds a role; nothing happens when it exists.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes.
    pub fn add_role(&mut self, name: &str, active: bool, now: Moment) -> Result<()> {
        check_role(name)?;
        if self.role_index.contains_key(name) {
            return Ok(());
        }
        let name: Arc<str> = name.into();
        self.role_index.insert(name.clone(), self.roles.len());
        self.roles.push(RoleState { name, active });
        self.roles_changed(now);
        Ok(())
    }

    /// Disables or enables a role; units are told, even when nothing changes. Unknown roles are ignored.
    pub fn set_role_active(&mut self, name: &str, active: bool, now: Moment) {
        if let Some(&at) = self.role_index.get(name) {
            self.roles[at].active = active;
            self.roles_changed(now);
        }
    }

    /// Disables all roles.
    pub fn disable_roles(&mut self, now: Moment) {
        for role in &mut self.roles {
            role.active = false;
        }
        self.roles_changed(now);
    }

    /// Whether the role is offered, or the text to reject its requests with.
    pub fn check_role(&self, name: &str) -> Result<(), String> {
        match self.role_index.get(name) {
            None => Err(NoHandler::NotRegistered.text(name)),
            Some(&at) if !self.roles[at].active => Err(NoHandler::Disabled.text(name)),
            Some(_) => Ok(()),
        }
    }

    /// All roles in the order in which they were added, and whether each is active.
    pub fn roles(&self) -> impl Iterator<Item = (&Arc<str>, bool)> {
        self.roles.iter().map(|role| (&role.name, role.active))
    }

    fn roles_changed(&mut self, now: Moment) {
        self.roles_version += 1;
        self.announce_at.get_or_insert(now);
    }

    fn active_roles(&self) -> Vec<String> {
        self.roles.iter().filter(|r| r.active).map(|r| r.name.to_string()).collect()
    }

    /// A frame that tells a unit the active roles, with a counter that no frame had before.
    fn roles_frame(&mut self) -> Vec<u8> {
        self.roles_counter += 1;
        let update = RolesUpdate { i: Some(self.roles_counter), roles: self.active_roles() };
        encode(&Frame::Roles(update))
    }

    /// Declares interest in a role. Returns the units that serve it now, in the order of arrival.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes.
    pub fn add_destination(&mut self, role: &str) -> Result<Arc<str>> {
        check_role(role)?;
        if let Some((name, _)) = self.destinations.get_key_value(role) {
            return Ok(name.clone());
        }
        let name: Arc<str> = role.into();
        let destination = Destination { units: Vec::new(), policy: policy().into() };
        self.destinations.insert(name.clone(), destination);
        let serving: Vec<UnitId> = self
            .units
            .iter()
            .filter(|(_, unit)| unit.roles.iter().any(|r| r == role))
            .map(|(id, _)| *id)
            .collect();
        for unit in serving {
            self.join(&name, unit);
        }
        Ok(name)
    }

    /// The units that serve a destination's role, in the order in which they were found; empty when
    /// there is no such destination.
    pub fn destination(&self, role: &str) -> &[UnitId] {
        self.destinations.get(role).map_or(&[], |destination| &destination.units)
    }

    /// The unit that what is sent to a role next goes to.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`]; [`ErrorKind::NoUnit`] when no unit serves it, or there is no such destination.
    pub fn choose(&self, role: &str) -> Result<UnitId> {
        self.check_open()?;
        let Destination { units, policy } =
            self.destinations.get(role).ok_or_else(|| no_unit(role))?;
        let closed = Load::default();
        let load = |at: usize| self.units.get(&units[at]).map_or(&closed, |unit| &*unit.load);
        let chosen = policy.choose(units.len(), &load).map(|at| units[at]);
        chosen.ok_or_else(|| no_unit(role))
    }

    /// How a destination chooses, for hosts that do it without this peer's lock.
    pub fn policy(&self, role: &str) -> Option<&Arc<dyn Policy>> {
        self.destinations.get(role).map(|destination| &destination.policy)
    }

    /// The destinations' roles.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<str>> {
        self.destinations.keys()
    }

    /// What a unit said of itself, and its roles.
    pub fn unit(&self, unit: UnitId) -> Option<(&Arc<UnitInfo>, &Arc<[String]>)> {
        self.units.get(&unit).map(|state| (&state.info, &state.roles))
    }

    /// All connected units.
    pub fn units(&self) -> impl Iterator<Item = UnitId> {
        self.units.keys().copied()
    }

    /// Accepted connections whose handshake is under way.
    pub fn handshakes(&self) -> usize {
        self.pending.values().filter(|pending| !pending.dialed).count()
    }

    fn join(&mut self, role: &Arc<str>, unit: UnitId) {
        let Some(Destination { units, .. }) = self.destinations.get_mut(role) else { return };
        if units.contains(&unit) {
            return;
        }
        units.push(unit);
        let first = units.len() == 1;
        if first {
            self.event(PeerEvent::DestinationOpened { role: role.clone() });
        }
        self.event(PeerEvent::DestinationGained { role: role.clone(), unit });
    }

    fn leave(&mut self, role: &Arc<str>, unit: UnitId) {
        let Some(Destination { units, .. }) = self.destinations.get_mut(role) else { return };
        let Some(at) = units.iter().position(|known| *known == unit) else { return };
        units.remove(at);
        let last = units.is_empty();
        self.event(PeerEvent::DestinationLost { role: role.clone(), unit });
        if last {
            self.event(PeerEvent::DestinationClosed { role: role.clone() });
        }
    }

    /// Replaces the roles of a unit and moves it between the destinations.
    fn set_unit_roles(&mut self, unit: UnitId, mut roles: Vec<String>) {
        let Some(state) = self.units.get_mut(&unit) else { return };
        let mut seen = HashSet::new();
        let repeated: Vec<bool> = roles.iter().map(|role| !seen.insert(role.as_str())).collect();
        let mut repeated = repeated.into_iter();
        roles.retain(|_| !repeated.next().unwrap_or_default());
        let before = std::mem::replace(&mut state.roles, roles.into());
        let after = state.roles.clone();
        let kept: HashSet<&str> = after.iter().map(String::as_str).collect();
        for role in before.iter().filter(|role| !kept.contains(role.as_str())) {
            if let Some((role, _)) = self.destinations.get_key_value(role.as_str()) {
                let role = role.clone();
                self.leave(&role, unit);
            }
        }
        for role in after.iter() {
            if let Some((role, _)) = self.destinations.get_key_value(role.as_str()) {
                let role = role.clone();
                self.join(&role, unit);
            }
        }
    }

    /// Dials an address. The first outcome, and every later one of a permanent address, is reported
    /// as [`PeerEvent::Dialed`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the address is not a `ws` or `wss` URL with a host;
    /// [`ErrorKind::Closed`] after [`close`](Peer::close).
    pub fn connect(&mut self, url: &str, permanent: bool, now: Moment) -> Result<AddressId> {
        self.check_open()?;
        parse_address(url)?;
        Ok(self.addresses.add(url.into(), permanent, Origin::Application, now))
    }

    /// Whether an address is still dialed, or its connection is up.
    pub fn is_dialed(&self, address: AddressId) -> bool {
        self.addresses.get(address).is_some()
    }

    /// Stops dialing a URL, as it was given to [`connect`](Peer::connect). Its connection, if it is
    /// up, stays; one whose handshake is under way is closed. Returns the addresses that were
    /// forgotten.
    pub fn forget_url(&mut self, url: &str) -> Vec<AddressId> {
        let known = self.addresses.iter().filter(|(_, address)| &*address.url == url);
        let mut ids: Vec<AddressId> = known.map(|(id, _)| id).collect();
        ids.sort_unstable();
        for id in &ids {
            self.addresses.remove(*id);
        }
        let half_open = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.address.is_some_and(|address| ids.contains(&address)));
        let mut half_open: Vec<ConnId> = half_open.map(|(conn, _)| *conn).collect();
        half_open.sort_unstable();
        for conn in half_open {
            if let Some(challenge) =
                self.pending.remove(&conn).and_then(|pending| pending.handshake.challenge)
            {
                self.challenges.remove(&challenge);
            }
            let reason = Error::new(ErrorKind::Closed, "The address is not to be dialed any more");
            self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason });
            let (code, reason) = (crate::close_code::MANUAL, crate::close_code::MANUAL_REASON);
            self.effects.push_back(PeerEffect::Close { conn, frames: Vec::new(), code, reason });
        }
        ids
    }

    /// A socket is there. The time for upgrade and handshake begins to run.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when too many accepted connections have not finished their
    /// handshake, [`ErrorKind::Closed`] when the peer is closed or the address is not to be dialed
    /// any more, [`ErrorKind::InvalidArgument`] for unusable headers of an upgrade: drop the socket, and
    /// call [`dial_failed`](Peer::dial_failed) if it was dialed.
    pub fn open(&mut self, opening: Opening, now: Moment) -> Result<Connection> {
        let (address, dialed) = match &opening {
            Opening::Accept { .. } => (None, false),
            Opening::Upgraded { side, address } => (*address, *side == Side::Client),
            Opening::Dial { address, .. } => (Some(*address), true),
        };
        self.check_opening(address, dialed)?;
        let mut random = [0; 16];
        (self.config.entropy)(&mut random);
        let conn = ConnId(self.next_conn);
        let mut connection = Connection::new(conn, opening, self.limits.clone(), random)?;
        self.begin(conn, address, dialed, now);
        if connection.is_open() {
            self.upgraded(&mut connection, now);
        }
        Ok(connection)
    }

    fn check_opening(&self, address: Option<AddressId>, dialed: bool) -> Result<()> {
        self.check_open()?;
        if !dialed && self.handshakes() >= self.limits.handshakes {
            return Err(Error::new(ErrorKind::Overloaded, "Too many handshakes are under way"));
        }
        if address.is_some_and(|address| self.addresses.get(address).is_none()) {
            return Err(Error::new(ErrorKind::Closed, "The address is not to be dialed any more"));
        }
        Ok(())
    }

    fn begin(&mut self, conn: ConnId, address: Option<AddressId>, dialed: bool, now: Moment) {
        let challenge = (!self.config.keys.is_empty()).then(|| {
            let mut random = [0u8; 32];
            (self.config.entropy)(&mut random);
            hex(&random)
        });
        if let Some(challenge) = &challenge {
            self.challenges.insert(challenge.clone());
        }
        self.next_conn += 1;
        let deadline = now.saturating_add(self.limits.handshake_timeout);
        let handshake = Handshake::new(challenge, deadline);
        let pending = Pending { handshake, address, dialed, upgraded: false, announced: 0 };
        self.pending.insert(conn, pending);
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

    fn step(&mut self, pending: &mut Pending, step: Step, now: Moment) -> Vec<Vec<u8>> {
        let frame = match step {
            Step::Wait => return Vec::new(),
            Step::Send(frame) => frame,
            Step::Confirm => {
                pending.handshake.confirmed();
                pending.announced = self.roles_version;
                wire::Handshake::Confirm(Box::new(self.confirmation(now)))
            }
        };
        vec![encode_handshake(&frame)]
    }

    fn confirmation(&self, now: Moment) -> Confirm {
        let uptime = now.as_millis() as u64;
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
                pending.handshake.receive(frame, &self.config.keys, |challenge| {
                    self.challenges.contains(challenge) || own.as_deref() == Some(challenge)
                })
            }
            Some(Err(error)) => Err(Refusal::Ours(error.to_string())),
            None => Err(Refusal::Ours(
                "Incorrect event during handshake process: a text message".to_owned(),
            )),
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
            Err(reason) => Err(self.refuse(connection, pending, Refusal::Ours(reason), now)),
        }
    }

    /// Makes the connection part of a unit, or says why not.
    fn admit(
        &mut self,
        connection: &mut Connection,
        pending: &mut Pending,
        now: Moment,
    ) -> Result<Ready, String> {
        let conn = connection.id();
        let Some(confirm) = pending.handshake.remote.take() else {
            return Err("The confirmation is missing".to_owned());
        };
        let known = self.by_remote_id.get(confirm.id.as_str()).copied();
        match known.and_then(|unit| self.units.get(&unit)) {
            Some(unit) if unit.conns.len() >= self.limits.connections_per_unit => {
                return Err("Too many connections".to_owned());
            }
            None if self.units.len() >= self.limits.units => {
                return Err("Too many units".to_owned());
            }
            _ => {}
        }
        if let Some(challenge) = &pending.handshake.challenge {
            self.challenges.remove(challenge);
        }
        let dialect = Dialect::of(&confirm);
        let Confirm { id, roles, friendly, name, meta, tags, window: _, i } = *confirm;
        let info = Arc::new(UnitInfo { id: id.into(), name, friendly, meta, tags, dialect });
        let unit_conn =
            UnitConn { id: conn, address: pending.address, announced: self.roles_counter };
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
                self.by_remote_id.insert(info.id.clone(), unit);
                let state = UnitState {
                    info: info.clone(),
                    roles: Vec::new().into(),
                    load: Arc::default(),
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
        Ok(Ready { unit, first, info, roles, writer: connection.belongs_to(unit), load })
    }

    fn refuse(
        &mut self,
        connection: &mut Connection,
        pending: Pending,
        refusal: Refusal,
        now: Moment,
    ) -> Error {
        let (frame, error) = self.refused(connection.id(), pending, refusal, now);
        connection.say(frame.as_slice());
        connection.refused();
        error
    }

    /// A handshake has failed. Returns what to tell the other side, and the reason.
    fn refused(
        &mut self,
        conn: ConnId,
        pending: Pending,
        refusal: Refusal,
        now: Moment,
    ) -> (Option<Vec<u8>>, Error) {
        if let Some(challenge) = &pending.handshake.challenge {
            self.challenges.remove(challenge);
        }
        let (frame, event, error) = match refusal {
            Refusal::Ours(reason) => {
                let frame = encode_handshake(&wire::Handshake::Error(reason.clone()));
                (Some(frame), reason.clone(), format!("Verification error: {reason}"))
            }
            Refusal::Theirs(reason) => (
                None,
                format!("remote peer rejected auth: {reason}"),
                format!("Auth error: {reason}"),
            ),
        };
        let error = Error::new(ErrorKind::AuthRefused, error);
        self.event(PeerEvent::AuthRefused { conn, reason: event });
        self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason: error.clone() });
        if let Some(address) = pending.address {
            self.dialed(address, Err(error.clone()), now);
        }
        (frame, error)
    }

    /// Tells a unit of those that this peer has dialed, and the others of it when it was dialed.
    fn introduce(&mut self, newcomer: UnitId, address: Option<AddressId>) {
        if !self.config.friendly {
            return;
        }
        let Some(state) = self.units.get(&newcomer) else { return };
        let mut introductions = Vec::new();
        if state.info.friendly {
            let known = self.addresses.iter().filter_map(|(id, known)| match known.state {
                State::Up { unit, .. } if unit != newcomer => Some((id, unit, &known.url)),
                _ => None,
            });
            let mut known: Vec<_> = known.collect();
            known.sort_unstable_by_key(|(id, ..)| *id);
            let frames = known.into_iter().filter_map(|(_, unit, url)| {
                let other = self.units.get(&unit)?;
                Some(acquaint(&other.info.id, url, &other.roles))
            });
            introductions.push((newcomer, frames.collect()));
        }
        if let Some(url) = address.and_then(|id| self.addresses.get(id)).map(|a| &a.url) {
            let frame = acquaint(&state.info.id, url, &state.roles);
            let friends = self.units.iter().filter(|(id, u)| **id != newcomer && u.info.friendly);
            introductions.extend(friends.map(|(id, _)| (*id, vec![frame.clone()])));
        }
        let introductions = introductions.into_iter().filter(|(_, frames)| !frames.is_empty());
        self.effects
            .extend(introductions.map(|(unit, frames)| PeerEffect::Introduce { unit, frames }));
    }

    /// Records the outcome of dialing.
    fn dialed(&mut self, id: AddressId, outcome: Result<(UnitId, ConnId)>, now: Moment) {
        let Some(address) = self.addresses.get(id) else { return };
        let (url, again, origin) = (address.url.clone(), address.settled, address.origin);
        let count = address.attempts;
        match &outcome {
            Ok((unit, conn)) => {
                self.addresses.up(id, *conn, *unit, now);
            }
            Err(_) => self.address_down(id, now),
        }
        // What the application did not ask for is no business of its own callbacks.
        if origin == Origin::Application {
            self.event(PeerEvent::Dialed { address: id, url, count, outcome, again });
        }
    }

    fn address_down(&mut self, id: AddressId, now: Moment) {
        let random = self.entropy() as f64 / u64::MAX as f64;
        let patience = self.limits.acquaintance_patience;
        self.addresses.down(id, now, patience, &self.config.reconnect, random);
    }

    /// The host could not dial an address.
    pub fn dial_failed(&mut self, address: AddressId, error: Error, now: Moment) {
        self.dialed(address, Err(error), now);
    }

    /// A connection is gone, whether its handshake was done or not. To be called once for each.
    pub fn connection_closed(
        &mut self,
        conn: ConnId,
        unit: Option<UnitId>,
        reason: Error,
        now: Moment,
    ) {
        if let Some(pending) = self.pending.remove(&conn) {
            if let Some(challenge) = &pending.handshake.challenge {
                self.challenges.remove(challenge);
            }
            self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason: reason.clone() });
            if let Some(address) = pending.address {
                self.dialed(address, Err(reason), now);
            }
            return;
        }
        let Some((unit, state)) = unit.and_then(|u| self.units.get_mut(&u).map(|s| (u, s))) else {
            return;
        };
        let Some(at) = state.conns.iter().position(|known| known.id == conn) else { return };
        let UnitConn { address, announced, .. } = state.conns.remove(at);
        let last = state.conns.is_empty();
        if let Some(address) = address {
            self.address_down(address, now);
        }
        self.event(PeerEvent::ConnectionClosed { conn, unit: Some(unit), reason });
        if last {
            self.set_unit_roles(unit, Vec::new());
            if let Some(state) = self.units.remove(&unit) {
                self.by_remote_id.remove(&state.info.id);
            }
            self.event(PeerEvent::UnitClosed { unit });
        } else if self.roles_counter > announced {
            // The last announcement may have been lost with the connection.
            let frame = self.roles_frame();
            self.effects.push_back(PeerEffect::Send { unit, frame });
        }
    }

    /// A unit had [news](crate::Event::News).
    pub fn hear(&mut self, unit: UnitId, news: News, now: Moment) {
        match news {
            News::Roles(update) => self.unit_roles(unit, update),
            News::Acquaint(told) => self.acquainted(told, now),
        }
    }

    /// A unit announced its roles. Announcements that came out of order are ignored.
    fn unit_roles(&mut self, unit: UnitId, update: RolesUpdate) {
        let Some(state) = self.units.get_mut(&unit) else { return };
        if let Some(i) = update.i {
            if i <= state.last_update {
                return;
            }
            state.last_update = i;
        }
        self.set_unit_roles(unit, update.roles);
        if let Some(state) = self.units.get(&unit) {
            let roles = state.roles.clone();
            self.event(PeerEvent::UnitRoles { unit, roles });
        }
    }

    /// A unit told of another peer. It is dialed when this peer is friendly, does not know the other
    /// yet, and has a destination among its roles.
    fn acquainted(&mut self, told: Acquaint, now: Moment) {
        let wanted = self.config.friendly
            && !self.closed
            && !self.by_remote_id.contains_key(told.id.as_str())
            && told.id != *self.id
            && told.roles.iter().any(|role| self.destinations.contains_key(role.as_str()));
        let usable = |address: &String| {
            wanted && address.len() <= MAX_ADDRESS && parse_address(address).is_ok()
        };
        let Some(address) = told.address.filter(usable) else { return };
        let room = self.addresses.learned() < self.limits.acquaintance_addresses;
        if room && !self.addresses.contains(&address) {
            self.addresses.add(address.into(), true, Origin::Acquaintance, now);
        }
    }

    /// The application closes a unit: its addresses are not dialed again. The host closes its
    /// connections.
    pub fn unit_closing(&mut self, unit: UnitId) {
        self.addresses
            .retain(|_, address| !matches!(address.state, State::Up { unit: u, .. } if u == unit));
    }

    /// Closes the peer: nothing is dialed or accepted any more. The host closes its connections.
    pub fn close(&mut self) {
        self.closed = true;
        self.forget_addresses();
    }

    /// Stops dialing. The host closes the connections.
    pub fn forget_addresses(&mut self) {
        self.addresses.clear();
    }

    fn check_open(&self) -> Result<()> {
        match self.closed {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Closed, "The peer is closed")),
        }
    }

    /// When [`handle_timeout`](Peer::handle_timeout) is to be called next. Earlier calls do no harm.
    pub fn deadline(&self) -> Option<Moment> {
        let handshakes = self.pending.values().map(|pending| pending.handshake.deadline).min();
        let dials = self.addresses.deadline(self.limits.acquaintance_dials);
        [self.announce_at, handshakes, dials].into_iter().flatten().min()
    }

    /// Does what is due: announces roles, ends handshakes that take too long, dials.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            let frame = self.roles_frame();
            let units = self.units.keys();
            let sends = units.map(|unit| PeerEffect::Send { unit: *unit, frame: frame.clone() });
            self.effects.extend(sends);
        }
        let mut late: Vec<ConnId> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.handshake.deadline <= now)
            .map(|(conn, _)| *conn)
            .collect();
        // In an order that does not depend on how the table hashes.
        late.sort_unstable();
        for conn in late {
            if self.pending.get(&conn).is_some_and(|pending| !pending.upgraded) {
                let error = Error::new(ErrorKind::ConnectFailed, "The upgrade took too long");
                self.connection_closed(conn, None, error, now);
                let (frames, code, reason) = (Vec::new(), crate::close_code::AUTH, "");
                self.effects.push_back(PeerEffect::Close { conn, frames, code, reason });
            } else if let Some(pending) = self.pending.remove(&conn) {
                let reason = Refusal::Ours(pending.handshake.elapsed());
                let (frame, _) = self.refused(conn, pending, reason, now);
                let (frames, code, reason) =
                    (frame.into_iter().collect(), crate::close_code::AUTH, "");
                self.effects.push_back(PeerEffect::Close { conn, frames, code, reason });
            }
        }
        for (address, url) in self.addresses.take_due(now, self.limits.acquaintance_dials) {
            self.effects.push_back(PeerEffect::Dial { address, url });
        }
    }

    fn event(&mut self, event: PeerEvent) {
        self.effects.push_back(PeerEffect::Event(event));
    }

    /// The next thing for the host to do.
    pub fn poll_effect(&mut self) -> Option<PeerEffect> {
        self.effects.pop_front()
    }
}

fn check_role(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "Role's name should be a string"));
    }
    wire::check_name(name)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))
}

/// Checks that an address is a `ws` or `wss` URL with a host.
fn parse_address(address: &str) -> Result<Url> {
    let invalid = |why: &str| {
        Error::new(ErrorKind::InvalidArgument, format!("The address `{address}` {why}"))
    };
    let url = Url::parse(address)
        .map_err(|error| invalid(&format!("must begin with ws:// or wss://: {error}")))?;
    match url.scheme() {
        "ws" | "wss" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(url),
        "ws" | "wss" => Err(invalid("has no host")),
        _ => Err(invalid("must begin with ws:// or wss://")),
    }
}

fn acquaint(id: &str, url: &str, roles: &[String]) -> Vec<u8> {
    // Credentials in an address are for the one who dials, not for those who are told of it.
    let address = match Url::parse(url) {
        Ok(mut public) if !public.username().is_empty() || public.password().is_some() => {
            let _ = public.set_username("").and_then(|()| public.set_password(None));
            String::from(public)
        }
        _ => url.to_owned(),
    };
    let frame = Acquaint { id: id.to_owned(), address: Some(address), roles: roles.to_vec() };
    encode(&Frame::Acquaint(frame))
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.encoded_len());
    frame.encode(&mut bytes);
    bytes
}

fn encode_handshake(frame: &wire::Handshake) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
