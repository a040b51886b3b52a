//! The state machine of the peer: who is connected, who serves what, whom to dial.
//!
//! It sees connections open, shake hands and close, and roles change; it never sees a message.

mod address;
mod auth;
mod description;
mod dialing;
mod handshake;
mod lobby;
mod roles;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
};

use self::{
    address::Addresses,
    handshake::{Pending, Reports, remote_id},
    lobby::Lobby,
    roles::{Destination, RoleState},
};
pub use self::{
    auth::Dialect,
    types::{PeerEffect, PeerEvent, Ready, UnitInfo},
};
use crate::{
    AddressId, Config, ConnId, Identity, Keys, Limits, Load, Moment, News, Policy, UnitId,
    error::{Error, Result},
    identity::hex,
    policy::Rights,
    wire::Frame,
};

/// The version of the protocol that peers tell each other.
pub const PROTOCOL_VERSION: &str = "2.0.0";

struct UnitState {
    info: Arc<UnitInfo>,
    /// The roles that it has announced, when there is a policy.
    announced: Vec<String>,
    /// Those of them that it may serve.
    roles: Arc<[String]>,
    load: Arc<Load>,
    last_update: u64,
    conns: Vec<UnitConn>,
}

struct UnitConn {
    id: ConnId,
    /// What the other end has shown on it.
    identity: Arc<Identity>,
    /// Where it comes from or leads to, if that is known.
    remote: Option<IpAddr>,
    address: Option<AddressId>,
    /// The counter of the last announcement that cannot have been lost with this connection.
    announced: u64,
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
    withdrawn: bool,
    destinations: HashMap<Arc<str>, Destination>,
    /// Whether destinations leave out others than before.
    ejections: Arc<AtomicBool>,
    units: BTreeMap<UnitId, UnitState>,
    by_remote_id: HashMap<Arc<str>, UnitId>,
    pending: HashMap<ConnId, Pending>,
    /// When the handshakes of dialed connections time out. Accepted ones have their timeouts in the lobby.
    deadlines: BTreeSet<(Moment, ConnId)>,
    lobby: Lobby,
    reports: Reports,
    challenges: HashSet<String>,
    addresses: Addresses,
    /// Told addresses that were not dialed.
    ignored: u64,
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
            id: match &config.peer_key {
                Some(key) => key.id(&id).into(),
                None => hex(&id).into(),
            },
            limits: Arc::new(config.limits.clone()),
            lobby: Lobby::new(&config.limits),
            reports: Reports::default(),
            deadlines: BTreeSet::new(),
            config,
            roles: Vec::new(),
            role_index: HashMap::new(),
            roles_version: 0,
            roles_counter: 0,
            announce_at: None,
            withdrawn: false,
            destinations: HashMap::new(),
            ejections: Arc::default(),
            units: BTreeMap::new(),
            by_remote_id: HashMap::new(),
            pending: HashMap::new(),
            challenges: HashSet::new(),
            addresses: Addresses::default(),
            ignored: 0,
            next_conn: 0,
            next_unit: 0,
            effects: VecDeque::new(),
            closed: false,
        }
    }

    /// This peer's id: 32 hexadecimal digits, or `key-`, 40 of the hash of its [key](crate::Config::peer_key), `-` and 16 others.
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

    /// Who may call and serve what, from now on: units that are connected may do what this policy gives to them.
    /// Without one, everyone everything.
    pub fn set_policy(&mut self, policy: Option<Arc<Policy>>) {
        self.config.policy = policy;
        let units: Vec<UnitId> = self.units.keys().copied().collect();
        for unit in units {
            let Some(state) = self.units.get(&unit) else { continue };
            let shown = state.conns.iter().map(|conn| &*conn.identity);
            state.load.set_rights(self.rights_of(shown));
            let announced = match &state.announced {
                announced if announced.is_empty() => state.roles.to_vec(),
                announced => announced.clone(),
            };
            let before = state.roles.clone();
            self.set_unit_roles(unit, announced);
            if let Some(roles) = self.units.get(&unit).map(|state| state.roles.clone())
                && roles != before
            {
                self.event(PeerEvent::UnitRoles { unit, roles });
            }
        }
    }

    /// Who may call and serve what.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.config.policy.as_ref()
    }

    /// What the policy gives to a unit that has shown this on its connections.
    fn rights_of<'a>(
        &self,
        shown: impl Iterator<Item = &'a Identity> + Clone,
    ) -> Option<Arc<Rights>> {
        self.config.policy.as_ref().map(|policy| Arc::new(policy.rights(shown)))
    }

    /// Random bytes from the host.
    fn entropy(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        (self.config.entropy)(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// What a unit said of itself, and its roles.
    pub fn unit(&self, unit: UnitId) -> Option<(&Arc<UnitInfo>, &Arc<[String]>)> {
        self.units.get(&unit).map(|state| (&state.info, &state.roles))
    }

    /// All connected units.
    pub fn units(&self) -> impl Iterator<Item = UnitId> {
        self.units.keys().copied()
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
            self.settle(conn, &pending);
            if let Some(place) = pending.place {
                self.lobby.leave(place);
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
            self.dialed_lost(address, conn, now);
        }
        self.event(PeerEvent::ConnectionClosed { conn, unit: Some(unit), reason });
        if last {
            self.set_unit_roles(unit, Vec::new());
            if let Some(state) = self.units.remove(&unit) {
                let id = remote_id(&state.info.id, state.info.identity.peer.is_some());
                self.by_remote_id.remove(&*id);
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
            News::Acquaint(told) => self.acquainted(unit, told, now),
            News::Denied(denial) => self.event(PeerEvent::Denied { unit, denial }),
        }
    }

    /// Closes the peer: nothing is dialed or accepted any more. The host closes its connections.
    pub fn close(&mut self) {
        self.closed = true;
        self.forget_addresses();
    }

    fn check_open(&self) -> Result<()> {
        match self.closed {
            false => Ok(()),
            true => Err(Error::peer_closed()),
        }
    }

    /// When [`handle_timeout`](Peer::handle_timeout) is to be called next. Earlier calls do no harm.
    pub fn deadline(&self) -> Option<Moment> {
        let dialed = self.deadlines.first().map(|(at, _)| *at);
        let handshakes = [dialed, self.lobby.deadline()].into_iter().flatten().min();
        let dials = self.addresses.deadline(&self.limits);
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
        while let Some(&(at, conn)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.handshake_late(conn, now);
        }
        while let Some(place) = self.lobby.late(now) {
            self.place_late(place, now);
        }
        self.dial_due(now);
    }

    fn event(&mut self, event: PeerEvent) {
        self.effects.push_back(PeerEffect::Event(event));
    }

    /// The next thing for the host to do.
    pub fn poll_effect(&mut self) -> Option<PeerEffect> {
        self.effects.pop_front()
    }
}

fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.encoded_len());
    frame.encode(&mut bytes);
    bytes
}
