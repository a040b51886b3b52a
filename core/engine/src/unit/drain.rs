//! Leaving without loss: what a unit may have sent before it knows that the roles are withdrawn is waited for.

use std::time::Duration;

use bytes::Bytes;

use super::{Unit, handlers::Work, incoming::Incoming};
use crate::{ConnId, Moment, NoHandler, close_code};

/// What the ping behind the withdrawal carries. Its pong goes behind what the other side had queued when it came.
pub(crate) const FENCE: &[u8] = b"roletalk fence";

/// Whether a pong answers it: a host that parses ahead gives it to the unit behind the messages that came before.
pub fn is_fence(pong: &[u8]) -> bool {
    pong == FENCE
}

/// How the payloads of the engine's own pings begin, but for those of the heartbeat.
pub(crate) const OURS: &[u8] = b"roletalk ";

/// How long that pong is waited for.
const FENCE_LIMIT: Duration = Duration::from_secs(1);

/// How far a unit has got with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    /// What was sent before the withdrawal was known may still come, until then.
    Open(Moment),
    /// It has come. What comes now is turned away.
    Over,
}

impl Drain {
    pub(super) fn is_open(self) -> bool {
        matches!(self, Drain::Open(_))
    }

    #[inline]
    pub(super) fn is_over(self) -> bool {
        self == Drain::Over
    }

    pub(super) fn deadline(self) -> Option<Moment> {
        match self {
            Drain::Open(until) => Some(until),
            Drain::No | Drain::Over => None,
        }
    }
}

impl<R> Unit<R> {
    /// Begins to leave: tells the unit that the roles are [withdrawn](crate::Peer::withdraw), and waits for what
    /// it had sent before it knew, at most a second: handlers are called for it as ever. Requests that come after
    /// that are rejected as not handled; those of originals, which would not go on to another unit, are still handled.
    /// [`busy`](Unit::busy) is zero when the unit may be closed; if no handler runs then, the close frame says that
    /// nothing else was begun.
    pub fn drain(&mut self, withdrawal: &[u8], now: Moment) {
        self.clock = now;
        self.drain = Drain::Open(now + FENCE_LIMIT);
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            if link.closing {
                continue;
            }
            // On each, since the ping on one says nothing of what was read from another.
            let added = link.push(withdrawal.len(), |out| out.extend_from_slice(withdrawal));
            let added = added + link.fence();
            self.budget.add(added);
            self.announce(at);
        }
        self.note_fence(now);
    }

    /// The roles were [withdrawn](crate::Peer::withdraw) before this connection was there, and so the unit was told
    /// of none.
    pub fn withdrawn(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Over;
        }
    }

    /// What keeps a unit that is drained from being closed, besides what it has begun.
    pub(super) fn undrained(&self) -> usize {
        if self.drain == Drain::No {
            return 0;
        }
        let unwritten = self.links.iter().filter(|link| !link.closing && link.queued() > 0);
        usize::from(self.drain.is_open()) + unwritten.count()
    }

    pub(super) fn note_fence(&mut self, now: Moment) {
        if let Drain::Open(until) = self.drain
            && (until <= now || !self.links.iter().any(|link| link.fenced))
        {
            self.drain = Drain::Over;
        }
    }

    /// Rejects what came too late. The other side takes it to another unit.
    #[cold]
    pub(super) fn turn_away(&mut self, at: usize, message: Bytes, work: Work) {
        self.stats.requests_turned_away += 1;
        let Work { layout, way, .. } = work;
        let incoming = Incoming::new(message, layout, self.links[at].conn, None);
        self.reject_unhandled(way, &NoHandler::Disabled.text(incoming.role()));
    }

    /// Whether the other side has surely received all that was sent on a connection before its close frame.
    pub(crate) fn is_delivered(&self, conn: ConnId) -> bool {
        self.at(conn).is_some_and(|at| self.links[at].is_delivered())
    }

    /// Code and reason to close a connection with. Whoever drains says whether all that it has begun is answered.
    pub(crate) fn farewell<'a>(&self, conn: ConnId, close: (u16, &'a str)) -> (u16, &'a str) {
        let agreed = self.at(conn).is_some_and(|at| self.links[at].extensions.drained > 0);
        let nothing_begun = self.stats.running == 0 && self.postponed == 0 && self.is_answered();
        match close.0 == close_code::MANUAL && self.drain != Drain::No && agreed && nothing_begun {
            true => (close_code::DRAINED, close_code::DRAINED_REASON),
            false => close,
        }
    }
}
