//! Names of things, and points in time.

use std::{
    ops::{Add, AddAssign, Sub},
    time::Duration,
};

/// A point in time, by a clock that never goes back: how long ago the host's own epoch was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The host's epoch.
    pub const EPOCH: Moment = Moment(Duration::ZERO);

    /// The moment so long after the epoch.
    pub const fn at(since_epoch: Duration) -> Moment {
        Moment(since_epoch)
    }

    /// How long ago the epoch was then.
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// The time from `earlier` until this; zero when that is later.
    pub const fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// So much earlier; the epoch when there is no such moment.
    pub const fn before(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(time))
    }
}

/// So much later; at most the last moment that can be named, which never comes.
impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

/// As [`Moment::since`].
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.since(earlier)
    }
}

/// A connection of this peer. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// The place of an accepted, unauthenticated connection: see [`Peer::enter`](crate::Peer::enter). Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub u64);

/// A request that came on a connection, a request for a stream included: by the number that its sender has
/// given it, which it may use again once it has the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The connection.
    pub conn: ConnId,
    /// The sender's number.
    pub corr: u64,
}

/// A connected remote peer. Never reused: a unit that comes back is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u64);

/// An address that this peer dials. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressId(pub u64);

/// A stream within a unit. Not used again before four thousand million others were, so an id that is kept
/// beyond [`close_stream`](crate::Unit::close_stream) does not reach another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);
