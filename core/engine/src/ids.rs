//! Names of things, and points in time.

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
