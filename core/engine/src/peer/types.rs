//! What a peer tells of, and asks its host for.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    AddressId, ConnId, Denial, Dialect, Identity, Load, PlaceId, UnitId,
    error::{Error, Result},
    wire::{Extensions, Meta},
    ws::FrameWriter,
};

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
    /// What it has shown on the most recently opened connection, as opposed to what it says about itself.
    pub identity: Arc<Identity>,
}

impl UnitInfo {
    /// What to call it in texts for people: its name, or else its id.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }

    #[cfg(test)]
    pub(crate) fn example(dialect: Dialect) -> Arc<UnitInfo> {
        let (name, meta) = ("example".to_owned(), Meta::default());
        let tags = BTreeMap::new();
        let (friendly, identity) = (true, Arc::default());
        Arc::new(UnitInfo { id: "id".into(), name, friendly, meta, tags, dialect, identity })
    }
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
    /// A unit keeps failing, so the destination leaves it out for a while, as its [`Ejection`](crate::Ejection) says. Reported
    /// at the next choice of a unit.
    UnitEjected {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: UnitId,
    },
    /// A unit that was left out has recovered. Reported at the next choice of a unit.
    UnitRestored {
        /// The destination's role.
        role: Arc<str>,
        /// The unit.
        unit: UnitId,
    },
    /// A unit was denied something by the [policy](crate::Policy). At most one a second for what each unit calls.
    Denied {
        /// The unit.
        unit: UnitId,
        /// What it was denied.
        denial: Denial,
    },
    /// A handshake failed, whichever side refused.
    AuthRefused {
        /// The connection.
        conn: ConnId,
        /// The reason, in the original's words.
        reason: String,
    },
    /// Connections could not be accepted, or unauthenticated connections were evicted. Reported at most once a second
    /// for each of the two.
    AcceptFailed {
        /// The cause: [`ErrorKind::Io`](crate::ErrorKind::Io) when the system lacks something,
        /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) when unauthenticated connections were evicted.
        error: Error,
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
    /// A unit has told of an address that is not dialed: see [`AcquaintanceFilter`](crate::AcquaintanceFilter) and
    /// [`Limits`](crate::Limits). For the log, at debug.
    AddressIgnored {
        /// The unit, perhaps gone.
        unit: UnitId,
        /// The address, shortened and without credentials.
        url: String,
        /// Why.
        reason: String,
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
    /// Dial this address, then call [`Peer::open`](crate::Peer::open) or [`Peer::dial_failed`](crate::Peer::dial_failed).
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
    /// Have this connection of the unit [replaced](crate::Unit::retire) by its others.
    Retire {
        /// The unit.
        unit: UnitId,
        /// The connection.
        conn: ConnId,
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
        /// Whether to close the socket at once, without waiting for the other side.
        at_once: bool,
    },
    /// Close the socket of this [place](crate::Peer::enter) at once. Its connection was not opened yet.
    Evict {
        /// The place.
        place: PlaceId,
        /// Whether the handshake timeout has expired; otherwise there were too many connections.
        late: bool,
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
    /// Those in force on the connection, for [`Unit::attach`](crate::Unit::attach).
    pub extensions: Extensions,
    /// For [`Unit::new`](crate::Unit::new).
    pub load: Arc<Load>,
}
