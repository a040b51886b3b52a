//! The engine: everything that a peer decides, without sockets, threads, clocks or randomness.
//!
//! A *host* feeds it bytes per connection, commands and the time, and takes from it bytes to write,
//! events, and the time of the next deadline. There are three state machines and one composition:
//!
//! - [`Connection`] turns bytes into messages: upgrade, WebSocket frames, pings, closing.
//! - [`Peer`] knows roles, destinations, units and addresses, and runs the handshakes.
//! - [`Unit`] carries the traffic of one remote peer: requests, streams, heartbeats, output queues.
//! - [`Engine`] puts the three together for a single-threaded host. The tokio host in
//!   [`crate::Peer`] drives the three itself, so that units do not share a lock.
//!
//! Time is a [`Moment`]: how long ago the host's own epoch was, by a clock that never goes back.

mod address;
mod auth;
mod config;
mod connection;
mod endpoint;
mod incoming;
mod link;
mod peer;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod unit;
mod waiting;

pub use auth::Dialect;
pub use config::{Config, Entropy, Keys, Limits, Reconnect};
pub use connection::{Connection, Received};
pub use endpoint::{Engine, EngineEvent};
pub use incoming::Incoming;
pub use peer::{
    HandshakeReply, HandshakeState, PROTOCOL_VERSION, Peer, PeerEffect, PeerEvent, Ready, UnitInfo,
    event_not_handled, role_disabled, role_not_registered,
};
pub use stats::{ConnectionStats, UnitStats};
pub use stream::Chunk;
#[cfg(feature = "net")]
pub(crate) use unit::timed_out;
pub use unit::{Budget, Event, Order, Outgoing, Queued, Responder, StreamOffer, Unit};

/// A point in time: the time since the host's own epoch, by a monotonic clock.
pub type Moment = std::time::Duration;

/// A connection of this peer. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A connected remote peer. Never reused: a unit that comes back is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u64);

/// An address that this peer dials. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressId(pub u64);

/// A stream within a unit, by the number under which the remote addresses it. Unique among the
/// unit's open streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// WebSocket close codes of roletalk.
pub mod close_code {
    /// The application closed the unit or the peer.
    pub const MANUAL: u16 = 4000;
    /// The reason that goes with [`MANUAL`]: the original's, spelling included, since applications
    /// compare it.
    pub const MANUAL_REASON: &str = "intentionaly closed";
    /// A ping was not answered in time.
    pub const HEARTBEAT: u16 = 4001;
    /// The reason that goes with [`HEARTBEAT`].
    pub const HEARTBEAT_REASON: &str = "PING TIMEOUT";
    /// Authentication failed.
    pub const AUTH: u16 = 4002;
    /// A frame could not be understood.
    pub const MALFORMED: u16 = 4006;
}
