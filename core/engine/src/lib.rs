//! The engine of roletalk: everything that a peer decides, without sockets, threads, clocks or
//! randomness.
//!
//! This crate is for hosts, such as the bindings of other languages. Applications in Rust use the
//! crate `roletalk`, which is its host for tokio; this one follows no semantic versioning of its own.
//!
//! A *host* feeds the engine bytes per connection, commands and the time, and takes from it bytes to
//! write, events, and the time of the next deadline. There are three state machines and one
//! composition:
//!
//! - [`Connection`] turns bytes into messages: upgrade, WebSocket frames, pings, closing.
//! - [`Peer`] knows roles, destinations, units and addresses, and runs the handshakes.
//! - [`Unit`] carries the traffic of one remote peer: requests, streams, heartbeats, output queues.
//! - [`Engine`] puts the three together for a single-threaded host. The host for tokio drives the
//!   three itself, so that units do not share a lock.
//!
//! Time is a [`Moment`]: how long ago the host's own epoch was, by a clock that never goes back.

mod acquaintance;
mod attempts;
mod balance;
mod bulkhead;
mod certificate;
mod config;
mod connection;
mod destination;
mod engine;
mod error;
mod handler;
pub mod hint;
mod identity;
mod ids;
mod limits;
mod load;
mod peer;
mod peer_key;
mod policy;
mod quantity;
mod retry;
mod stats;
#[cfg(test)]
mod tests;
mod text;
mod timers;
mod unit;
pub mod wire;
pub mod ws;

pub use bytes::Bytes;

pub use acquaintance::AcquaintanceFilter;
pub use attempts::{Attempts, Step};
pub use balance::{Balance, Candidate, Ejection, Standing, Turn, Units, Wanted};
pub use bulkhead::Bulkhead;
pub use certificate::Validity;
pub use config::{ChannelBinding, Config, Entropy, Keys, Reconnect};
pub use connection::{CLOSE_TIMEOUT, Connection, Opening, Parting, Received};
pub use destination::{Tried, too_many_parked};
pub use engine::{Engine, EngineEvent};
pub use error::{Error, ErrorKind, Result};
pub use handler::{NoHandler, Refusal, Serves, find};
pub use identity::{
    Binding, Certificate, Claims, Identity, Origins, Remote, check_claims, check_header, end_point,
    parse_claims,
};
pub use ids::{AddressId, ConnId, Moment, PlaceId, RequestId, StreamId, UnitId};
pub use limits::{LimitValue, Limits};
pub use load::Load;
pub use peer::{Dialect, PROTOCOL_VERSION, Peer, PeerEffect, PeerEvent, Ready, UnitInfo};
pub use peer_key::PeerKey;
pub use policy::{Denial, Policy, PolicyFile};
pub use quantity::{Measure, Quantity};
pub use retry::{Hedge, Retry};
pub use stats::{ConnectionStats, CounterValue, UnitStats};
pub use text::printable;
pub use unit::{
    Budget, CancelReason, Chunk, Ended, Event, Incoming, Kind, Moves, News, Order, Outgoing,
    Question, Queued, TimeLimit, Unit, Unsent, is_fence, timed_out,
};
pub use wire::{Data, DataType, Extensions, Failure, Fields, FieldsView, HeaderValue};

/// How long peers that serve until a signal drain after it, unless they are told otherwise.
pub const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

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
    /// The peer was drained: no request that has no answer was begun. Only where this was
    /// [agreed](crate::Extensions::drained).
    pub const DRAINED: u16 = 4010;
    /// The reason that goes with [`DRAINED`].
    pub const DRAINED_REASON: &str = "drained";
}
