//! The rate limit on announcements of roles.
//!
//! Reading an announcement of many roles, moving its unit between destinations and telling the application takes
//! milliseconds, in which no other unit is served. So each announcement costs time, by its size, which adds to a debt
//! that time pays off. The debt that is allowed covers whatever peers usually announce. Beyond it, the last
//! announcement of each connection is kept, unread, until enough of the debt is paid.

use std::time::Duration;

use bytes::Bytes;

use super::{Event, News, Unit, receive::not_understood};
use crate::{Moment, error::Result, wire::Frame};

/// The cost of each byte. A list of roles that takes a peer in another language 20 ms is read once in a few seconds, a
/// list of a few roles a thousand times a second.
const PER_BYTE: Duration = Duration::from_micros(10);
/// The least that an announcement counts as, in bytes.
const LEAST: u32 = 64;
/// The debt up to which an announcement is read at once.
const CREDIT: Duration = Duration::from_millis(200);
/// The largest debt: no announcement waits for longer.
const MOST: Duration = Duration::from_secs(4);
/// The longest announcement that never waits, in bytes. One without roles fits: it is cheap, and a unit that leaves
/// waits for it to take effect.
const WITHDRAWAL: usize = 64;
/// The longest wait, from the one read before, of an announcement shorter than that: it probably withdraws roles.
const SHRINKING: Duration = Duration::from_millis(250);

/// The debt of a unit: it is paid off at `paid`.
#[derive(Debug, Default)]
pub(super) struct Pace {
    paid: Moment,
    /// When the last announcement was read, and its length in bytes.
    told: Moment,
    len: usize,
}

impl Pace {
    /// When an announcement of this length may be read.
    fn due(&self, len: usize) -> Moment {
        if len <= WITHDRAWAL {
            return Moment::EPOCH;
        }
        let due = self.paid.before(CREDIT);
        if len < self.len { due.min(self.told + SHRINKING) } else { due }
    }

    /// Adds the cost of an announcement of this length that is read now.
    fn tell(&mut self, len: usize, now: Moment) {
        let bytes = u32::try_from(len).unwrap_or(u32::MAX).max(LEAST);
        let paid = self.paid.max(now) + PER_BYTE.saturating_mul(bytes);
        self.paid = paid.min(now + MOST);
        (self.told, self.len) = (now, len);
    }
}

impl<R> Unit<R> {
    /// Handles an announcement that has arrived: reads it, or keeps it until it is due.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) when it, or a kept one before it, is malformed.
    pub(super) fn receive_roles(&mut self, at: usize, message: Bytes, now: Moment) -> Result<()> {
        if let Some(error) = self.links[at].broken.take() {
            return Err(error);
        }
        // It replaces the one before: each lists all roles.
        self.links[at].roles = None;
        if self.pace.due(message.len()) > now {
            self.links[at].roles = Some(message);
            return Ok(());
        }
        self.tell_roles(&message, now)
    }

    fn tell_roles(&mut self, message: &[u8], now: Moment) -> Result<()> {
        self.pace.tell(message.len(), now);
        if let Frame::Roles(update) = Frame::decode(message).map_err(not_understood)? {
            self.events.push(Event::News(News::Roles(update)));
        }
        Ok(())
    }

    /// When the next kept announcement is due.
    pub(super) fn roles_deadline(&self) -> Option<Moment> {
        let kept = self.links.iter().filter_map(|link| link.roles.as_ref());
        kept.map(|message| self.pace.due(message.len())).min()
    }

    /// Reads kept announcements that are due. The error of a malformed one is kept, and ends its connection when the
    /// next announcement arrives there.
    pub(super) fn tell_due_roles(&mut self, now: Moment) {
        for at in 0..self.links.len() {
            let kept = self.links[at].roles.take_if(|kept| self.pace.due(kept.len()) <= now);
            if let Some(message) = kept
                && let Err(error) = self.tell_roles(&message, now)
            {
                self.links[at].broken = Some(error);
            }
        }
    }

    /// Reads the kept announcement of a connection that is lost: it holds for the whole unit.
    pub(super) fn tell_kept_roles(&mut self, at: usize) {
        if let Some(message) = self.links[at].roles.take() {
            let _ = self.tell_roles(&message, self.clock);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Budget, ConnId, Dialect, Extensions, Limits, UnitInfo,
        wire::RolesUpdate,
        ws::{FrameWriter, Side},
    };

    const ONE: ConnId = ConnId(1);
    const TWO: ConnId = ConnId(2);

    fn at(millis: u64) -> Moment {
        Moment::at(Duration::from_millis(millis))
    }

    fn unit() -> Unit<u8> {
        let (limits, info) = (Limits::default(), UnitInfo::example(Dialect::Credit { window: 0 }));
        let mut unit = Unit::new(info, Arc::new(limits), Budget::default(), Arc::default());
        for conn in [ONE, TWO] {
            let writer = FrameWriter::new(Side::Server, 0);
            unit.attach(conn, writer, Extensions::NONE, Moment::EPOCH);
        }
        unit
    }

    fn announcement(i: u64, roles: usize) -> Bytes {
        let roles = (0..roles).map(|number| format!("role-{number}")).collect();
        let mut bytes = Vec::new();
        Frame::Roles(RolesUpdate { i: Some(i), roles }).encode(&mut bytes);
        bytes.into()
    }

    /// The counters of the announcements that were told.
    fn told(unit: &mut Unit<u8>) -> Vec<u64> {
        let mut events = Vec::new();
        unit.take_events(&mut events);
        let counters = events.into_iter().filter_map(|event| match event {
            Event::News(News::Roles(update)) => update.i,
            _ => None,
        });
        counters.collect()
    }

    fn announce(unit: &mut Unit<u8>, i: u64, roles: usize, millis: u64) -> Vec<u64> {
        unit.receive(ONE, announcement(i, roles), at(millis)).unwrap();
        told(unit)
    }

    #[test]
    fn usual_announcements_are_read_at_once() {
        let mut unit = unit();
        for i in 1..=100 {
            assert_eq!(announce(&mut unit, i, 10, 1_000), [i]);
        }
        assert_eq!(unit.roles_deadline(), None);
    }

    #[test]
    fn of_many_large_announcements_the_last_is_read_once_the_debt_is_paid() {
        let mut unit = unit();
        assert_eq!(announce(&mut unit, 1, 40_000, 1_000), [1]);
        for i in 2..=50 {
            assert!(announce(&mut unit, i, 40_000, 1_000 + 10 * i).is_empty());
        }
        let due = unit.roles_deadline().expect("one waits");
        assert_eq!(due, (at(1_000) + MOST).before(CREDIT));
        unit.handle_timeout(due.before(Duration::from_millis(1)));
        assert!(told(&mut unit).is_empty());
        unit.handle_timeout(due);
        assert_eq!(told(&mut unit), [50]);
        assert_eq!(unit.roles_deadline(), None);
        // The debt is limited, however many there were.
        assert_eq!(announce(&mut unit, 51, 40_000, 20_000), [51]);
    }

    #[test]
    fn small_announcements_are_limited_as_well() {
        let mut unit = unit();
        let told_of: usize = (1..=10_000).map(|i| announce(&mut unit, i, 10, 1_000).len()).sum();
        assert!((100..1_000).contains(&told_of), "{told_of}");
        assert!(unit.roles_deadline().is_some());
    }

    #[test]
    fn a_withdrawal_does_not_wait() {
        let mut unit = unit();
        announce(&mut unit, 1, 40_000, 1_000);
        assert!(announce(&mut unit, 2, 40_000, 1_010).is_empty());
        assert_eq!(announce(&mut unit, 3, 0, 1_020), [3]);
        unit.handle_timeout(at(10_000));
        assert!(told(&mut unit).is_empty(), "what came before it is forgotten");
        // One that only shrinks waits a little.
        let mut unit = self::unit();
        announce(&mut unit, 1, 40_000, 1_000);
        assert!(announce(&mut unit, 2, 39_999, 1_010).is_empty());
        assert_eq!(unit.roles_deadline(), Some(at(1_000) + SHRINKING));
        unit.handle_timeout(at(1_250));
        assert_eq!(told(&mut unit), [2]);
    }

    #[test]
    fn the_last_announcement_of_each_connection_is_kept() {
        let mut unit = unit();
        announce(&mut unit, 1, 40_000, 1_000);
        // On different connections, the later one may arrive first.
        unit.receive(TWO, announcement(3, 40_001), at(1_010)).unwrap();
        assert!(announce(&mut unit, 2, 40_000, 1_020).is_empty());
        unit.detach(TWO, crate::Ended::Lost);
        assert_eq!(told(&mut unit), [3], "a connection that is lost keeps nothing back");
        unit.handle_timeout(at(20_000));
        assert_eq!(told(&mut unit), [2]);
    }

    #[test]
    fn a_kept_malformed_announcement_ends_its_connection_with_the_next_one() {
        let mut unit = unit();
        announce(&mut unit, 1, 40_000, 1_000);
        let mut broken = announcement(2, 40_000).to_vec();
        broken.truncate(300_000);
        unit.receive(ONE, broken.into(), at(1_010)).unwrap();
        unit.handle_timeout(at(20_000));
        assert!(told(&mut unit).is_empty());
        assert!(unit.receive(ONE, announcement(3, 1), at(20_001)).is_err());
    }
}
