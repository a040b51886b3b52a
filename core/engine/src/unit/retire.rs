//! Replacing a connection by another one of the same unit, without loss.

use std::time::Duration;

use super::{Drain, Link, Unit};
use crate::{CLOSE_TIMEOUT, ConnId, Dialect, Moment, close_code};

/// How often to check whether a connection is still needed.
const LOOK: Duration = Duration::from_millis(200);
/// How long messages that must stay in order go on taking a connection that is to be replaced, if there is no moment in
/// which none is on its way: others could arrive before those on another one.
const ORDERED: Duration = Duration::from_secs(3);

/// The longest time in which the other side may go on sending after the close frame is queued.
const LEAVING: Duration = Duration::from_secs(30);

/// How far the replacement of a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retiring {
    /// What is under way on it goes on. New things take other connections, once there is one that can replace it:
    /// since this time.
    InUse { since: Moment, look_at: Moment },
    /// The close frame is queued. What the other side has sent before it closes, too, is still taken, at least until
    /// this time, and at most until `at_most`.
    Leaving { until: Moment, at_most: Moment },
}

impl Link {
    /// Whether it is neither closing nor to be replaced.
    fn is_fresh(&self) -> bool {
        !self.closing && self.retiring.is_none()
    }

    /// Whether it can replace others: the other side has answered on it. Before that, it may still be refused.
    fn can_replace(&self) -> bool {
        self.is_fresh() && self.is_answered()
    }

    /// Whether messages may take another connection, though they are to stay in order.
    fn lets_go(&self, now: Moment) -> bool {
        match self.retiring {
            Some(Retiring::InUse { since, .. }) => self.is_quiet() || now >= since + ORDERED,
            Some(Retiring::Leaving { .. }) => true,
            None => false,
        }
    }
}

impl<R> Unit<R> {
    /// Has a connection replaced by the unit's others: new requests, messages and streams take those, as far as order
    /// permits. As soon as nothing of ours is under way on it, it is closed; what the other side sends until it has
    /// read that is handled as ever, and answered on another connection. Without another connection, it stays.
    pub fn retire(&mut self, conn: ConnId, now: Moment) {
        self.clock = now;
        if let Some(at) = self.at(conn)
            && self.links[at].is_fresh()
        {
            self.links[at].retiring = Some(Retiring::InUse { since: now, look_at: now });
            for at in 0..self.links.len() {
                // Pongs tell what has arrived, and that there is somebody.
                self.links[at].beat_soon(now);
                self.alert(at);
            }
        }
    }

    /// Whether one of the connections is to be replaced.
    #[inline]
    pub(super) fn is_replacing(&self) -> bool {
        self.links.iter().any(|link| link.retiring.is_some())
    }

    /// How well a connection suits what may take any, while one is to be replaced: less is better.
    pub(super) fn rank(&self, link: &Link) -> u8 {
        match link.retiring {
            _ if link.queued() >= self.limits.queue_per_connection => 3,
            None if link.is_answered() => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    /// Whether messages that must stay in order go on with another connection.
    pub(super) fn is_let_go(&self, link: &Link) -> bool {
        link.retiring.is_some()
            && link.lets_go(self.clock)
            && self.links.iter().any(Link::can_replace)
    }

    /// Closes connections that are replaced and not needed any more.
    pub(super) fn leave_retired(&mut self, now: Moment) {
        for at in 0..self.links.len() {
            let Some(Retiring::InUse { since, look_at }) = self.links[at].retiring else {
                continue;
            };
            if look_at > now {
                continue;
            }
            if self.is_needed(at, now) {
                let look_at = now + LOOK;
                let since = if self.links.iter().any(Link::can_replace) { since } else { now };
                self.links[at].retiring = Some(Retiring::InUse { since, look_at });
                // Whether what was sent in order has arrived.
                self.links[at].beat_soon(now);
            } else {
                let until = now + CLOSE_TIMEOUT;
                // roletalk-go does not close, and goes on with its pings.
                let at_most = if self.dialect == Dialect::Go { until } else { now + LEAVING };
                self.links[at].retiring = Some(Retiring::Leaving { until, at_most });
                let conn = self.links[at].conn;
                self.close(conn, close_code::MANUAL, close_code::MANUAL_REASON);
            }
        }
    }

    fn is_needed(&self, at: usize, now: Moment) -> bool {
        let link = &self.links[at];
        let conn = link.conn;
        // Streams of originals are bound to the connection on which they were asked for, and may be so yet.
        let may_accept = !matches!(self.dialect, Dialect::Credit { .. }) && self.stats.running > 0;
        !self.links.iter().any(Link::can_replace)
            || self.drain != Drain::No
            || may_accept
            || link.queued() > 0
            || (self.ordered == Some(conn) && !link.lets_go(now))
            || !link.postponed.is_empty()
            || self.waiting.any_on(conn)
            || self.streams.values().any(|stream| stream.conn == Some(conn))
            || self.unread.values().any(|carrier| *carrier == conn)
    }
}
