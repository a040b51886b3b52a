//! What is said to a unit and by it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Incoming, Question, Unsent};
use crate::{
    Bulkhead, ConnId, Denial, Moment, RequestId, StreamId,
    error::Result,
    wire::{Acquaint, Data, Fields, Payload, RolesUpdate},
};

/// What the units of a peer share: the count of bytes that wait to be written on all connections,
/// and where correlations go on.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Common>);

#[derive(Debug, Default)]
struct Common {
    queued: AtomicUsize,
    next_corr: AtomicU64,
}

impl Budget {
    /// Bytes that wait to be written now.
    #[inline]
    pub fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed)
    }

    /// No unit that is gone has used this correlation or a later one.
    pub(super) fn next_corr(&self) -> u64 {
        self.0.next_corr.load(Ordering::Relaxed)
    }

    /// A unit is gone, whose next correlation would have been this one.
    pub(super) fn skip_to_corr(&self, corr: u64) {
        self.0.next_corr.fetch_max(corr, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn add(&self, bytes: usize) {
        self.0.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.0.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Which of a unit's connections a message or request takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Whatever is sent in this order arrives in this order: one connection carries it all while what went before may
    /// still be on its way. When that connection is replaced, what is sent later waits until it has arrived, at most
    /// 5 s. When it is lost, what was on its way is lost or arrives late, while what was still queued and what is sent
    /// next take another connection.
    #[default]
    Kept,
    /// The least loaded connection; may overtake what was sent before on another one.
    Any,
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side may have sent more than was received.
    Lost,
    /// The other side has closed it, and all that it had sent before was received.
    Closed,
    /// The same, with [`close_code::DRAINED`](crate::close_code::DRAINED).
    Drained,
}

/// What is sent, and to which handler.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The role, at most 65 535 bytes.
    pub role: &'a str,
    /// The event, at most 65 535 bytes.
    pub event: &'a str,
    /// The payload.
    pub payload: Payload<'a>,
    /// Which connection it may take. Streams take the least loaded one.
    pub order: Order,
    /// What goes with it besides.
    pub fields: Option<&'a Fields>,
    /// What a request, or the opening of a stream, has to find room in.
    pub bulkhead: Option<&'a Bulkhead>,
    /// What becomes of a message whose connection is lost before it was written. Requests go on another connection of
    /// the unit, or fail.
    pub moves: Moves,
}

/// Where a message goes from the queue of a connection that is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moves {
    /// Nowhere: it is lost, and its sender may have been told so.
    Nowhere,
    /// To another connection of the unit.
    #[default]
    WithinUnit,
    /// Likewise, and from the last one to any unit that serves the role, as an [`Event::Unsent`].
    ToAnyUnit,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeLimit {
    /// The time. One that is given travels with the request, as what is left of it; without, it is
    /// [`Limits::request_timeout`](crate::Limits), of which the other side is not told.
    pub limit: Option<Duration>,
    /// Since when it runs: since the request is sent, unless it is given.
    pub since: Option<Moment>,
}

impl From<Option<Duration>> for TimeLimit {
    fn from(limit: Option<Duration>) -> TimeLimit {
        TimeLimit { limit, since: None }
    }
}

/// Why a handler's requester no longer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// It has given up.
    Requester,
    /// Its time is up.
    Deadline,
    /// The unit is gone.
    UnitLost,
}

impl CancelReason {
    /// Every reason.
    pub const ALL: [CancelReason; 3] =
        [CancelReason::Requester, CancelReason::Deadline, CancelReason::UnitLost];

    /// Its name: `requester`, `deadline` or `unit_lost`.
    pub fn name(self) -> &'static str {
        match self {
            CancelReason::Requester => "requester",
            CancelReason::Deadline => "deadline",
            CancelReason::UnitLost => "unit_lost",
        }
    }

    /// A text for people.
    pub fn text(self) -> &'static str {
        match self {
            CancelReason::Requester => "The requester has given up",
            CancelReason::Deadline => "The time of the request is up",
            CancelReason::UnitLost => "The unit that has sent the request is gone",
        }
    }
}

/// Where a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The connection.
    pub conn: ConnId,
    /// Its place among the frames of that connection.
    pub(super) frame: u64,
}

/// Something that a unit said, or that happened to it. `R` is what the host attached to a request.
#[derive(Debug)]
pub enum Event<R> {
    /// A message, a request or a request for a stream: find and call its handler, then give the
    /// question back with [`Unit::answer`](crate::Unit::answer), whatever came of it.
    Incoming(Incoming, Question),
    /// A request was answered, rejected, or failed.
    Answer {
        /// What the host attached to it.
        tag: R,
        /// The answer's payload.
        outcome: Result<Data>,
        /// What a rejection or refusal came with, from which its error's text is made.
        reason: Option<Data>,
        /// What came with either besides.
        fields: Option<Box<Fields>>,
    },
    /// Nobody waits any more for what handlers were called for: for one, or for all of the unit. To be looked
    /// at in order: the handler may have been called for by an event just before. One that has ended meanwhile, or
    /// that never began, is not worth a word.
    Cancelled {
        /// Which; none for all.
        request: Option<RequestId>,
        /// Why.
        reason: CancelReason,
    },
    /// A stream can be read from or written to again, or has ended: try again what had to wait.
    Stream(StreamId),
    /// News of the unit: pass it on to [`Peer::hear`](crate::Peer::hear).
    News(News),
    /// [`Unit::has_room`](crate::Unit::has_room) is true again.
    Room,
    /// A connection's queue has been full for two seconds, or inbound work had to be dropped.
    SlowConsumer {
        /// The connection.
        conn: ConnId,
        /// Bytes queued on it.
        queued: usize,
        /// Messages and requests of this unit that were dropped so far.
        dropped: u64,
    },
    /// A message was in the queue of the last connection when that was lost, and may go to [any](Moves::ToAnyUnit) unit:
    /// [choose](crate::Peer::choose) one, and [`resend`](crate::Unit::resend) it there.
    Unsent(Box<Unsent>),
    /// The connection is dead: close it with [`close_code::HEARTBEAT`](crate::close_code::HEARTBEAT).
    Dead(ConnId),
}

/// What a unit says that concerns the peer as a whole.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// It announced its roles.
    Roles(RolesUpdate),
    /// It told of another peer.
    Acquaint(Acquaint),
    /// It has called what the [policy](crate::Policy) does not let it call. Of many, one a second is told.
    Denied(Denial),
}
