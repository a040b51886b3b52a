//! Replacing a connection by another one of the same unit, without loss.

use std::time::Duration;

use super::{Drain, Link, Unit};
use crate::{CLOSE_TIMEOUT, ConnId, Dialect, Moment, close_code};

/// How often to check whether a connection is still needed.
const LOOK: Duration = Duration::from_millis(200);
/// How the payload of a ping begins that asks whether the messages sent before it have arrived; their number follows. The
/// pong is sent when all of them have been given to the unit, so that later ones cannot overtake them.
pub(crate) const ORDER: &[u8] = b"roletalk order";

/// How long a connection that is to be replaced goes on taking messages that must stay in order, if there is no moment
/// in which none is on its way. When nothing is queued after that, the next ones wait on another connection until those
/// have arrived.
const ORDERED: Duration = Duration::from_secs(1);
/// From then on, its queue need not be empty for that, and answers take others, too.
const QUEUED: Duration = Duration::from_secs(10);
/// How long they wait there, at most: then order is lost.
const HELD: Duration = Duration::from_secs(5);

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

/// What holds a connection's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// The connection on which others are to arrive first.
    pub(super) conn: ConnId,
    /// When it ends in any case.
    pub(super) until: Moment,
}

impl Link {
    /// Whether it is being closed because it was replaced.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.retiring, Some(Retiring::Leaving { .. }))
    }

    /// Whether it is neither closing nor to be replaced.
    fn is_fresh(&self) -> bool {
        !self.closing && self.retiring.is_none()
    }

    /// Whether it can replace others: the other side has answered on it. Before that, it may still be refused.
    fn can_replace(&self) -> bool {
        self.is_fresh() && self.is_answered()
    }

    /// Whether it was to be replaced so long ago that its queue need not be empty for that.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        let Some(Retiring::InUse { since, .. }) = self.retiring else { return false };
        now >= since + QUEUED
    }

    /// Whether messages may take another connection, though they are to stay in order.
    fn lets_go(&self, now: Moment) -> bool {
        match self.retiring {
            Some(Retiring::InUse { since, .. }) => {
                self.has_arrived()
                    || (now >= since + ORDERED && self.queued() == 0)
                    || self.is_overdue(now)
            }
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
                // Pongs tell that there is somebody.
                self.links[at].beat_soon(now);
                self.alert(at);
            }
        }
    }

    /// What must stay in order goes on with this connection: it waits there until all that was sent on the one before has
    /// arrived, if that is being replaced.
    #[cold]
    pub(super) fn follow(&mut self, at: usize) {
        let Some(before) = self.ordered.and_then(|conn| self.at(conn)) else { return };
        let is_open = !self.links[before].closing;
        if self.links[before].retiring.is_some() && is_open && !self.links[before].has_arrived() {
            let (conn, until) = (self.links[before].conn, self.clock + HELD);
            self.links[at].hold(Hold { conn, until });
            self.ask_whether_arrived(before);
        }
    }

    /// A pong was received on a connection: what waits for all that was sent on it to have arrived may be next.
    pub(super) fn let_follow(&mut self, at: usize) {
        if self.links[at].has_arrived() {
            self.release_followers(self.links[at].conn);
        }
    }

    pub(super) fn ask_whether_arrived(&mut self, at: usize) {
        let added = self.links[at].ask_whether_arrived();
        self.budget.add(added);
        self.announce(at);
    }

    fn has_followers(&self, conn: ConnId) -> bool {
        self.links.iter().any(|link| link.behind.is_some_and(|hold| hold.conn == conn))
    }

    /// Sends what waits on other connections for this one.
    pub(super) fn release_followers(&mut self, conn: ConnId) {
        self.release_if(|hold| hold.conn == conn);
    }

    fn release_if(&mut self, is_over: impl Fn(Hold) -> bool) {
        for at in 0..self.links.len() {
            if self.links[at].behind.is_some_and(&is_over) {
                self.links[at].release(self.clock);
                self.announce(at);
                // For its ping.
                self.alert(at);
            }
        }
    }

    /// How well one of several connections suits what may take any: less is better. As long as the other side has not
    /// answered on one, it may still be refused, and what it carries would be lost.
    pub(super) fn rank(&self, link: &Link) -> u8 {
        match link.retiring {
            _ if link.queued() >= self.limits.queue_per_connection => 4,
            _ if !link.is_answered() => 3,
            None if link.behind.is_none() => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    /// Whether messages that must stay in order go on with another connection.
    pub(super) fn is_let_go(&self, link: &Link) -> bool {
        link.retiring.is_some() && link.lets_go(self.clock) && {
            let next = self.least_loaded().map(|at| &self.links[at]);
            next.is_some_and(|next| next.can_replace() && next.behind.is_none())
        }
    }

    /// Closes connections that are replaced and not needed any more.
    pub(super) fn leave_retired(&mut self, now: Moment) {
        self.release_if(|hold| hold.until <= now);
        for at in 0..self.links.len() {
            let Some(Retiring::InUse { since, look_at }) = self.links[at].retiring else {
                continue;
            };
            if look_at > now {
                continue;
            }
            if self.is_needed(at) {
                let look_at = now + LOOK;
                let since = if self.links.iter().any(Link::can_replace) { since } else { now };
                self.links[at].retiring = Some(Retiring::InUse { since, look_at });
                // Again, if an answer may have been left out. Not into a queue that does not move.
                if self.links[at].queued() == 0 || !self.links[at].has_asked() {
                    self.ask_whether_arrived(at);
                }
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

    fn is_needed(&self, at: usize) -> bool {
        let link = &self.links[at];
        let conn = link.conn;
        // Streams of originals are bound to the connection on which they were asked for, and may be so yet.
        let may_accept = !matches!(self.dialect, Dialect::Credit { .. }) && self.stats.running > 0;
        !self.links.iter().any(Link::can_replace)
            || self.drain != Drain::No
            || may_accept
            || link.queued() > 0
            || (self.ordered == Some(conn) && !link.has_arrived())
            || self.has_followers(conn)
            || !link.postponed.is_empty()
            || self.waiting.any_on(conn)
            || self.streams.values().any(|stream| stream.conn == Some(conn))
            || self.unread.values().any(|carrier| *carrier == conn)
    }
}
