//! The addresses that a peer dials, and when it dials them again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{AddressId, ConnId, Limits, Moment, UnitId, acquaintance::Nearness, config::Reconnect};

/// Why an address is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The application asked for it.
    Application,
    /// This unit told of it, and was so near then.
    Acquaintance(UnitId, Nearness),
}

impl Origin {
    fn is_learned(self) -> bool {
        self != Origin::Application
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialed at this time.
    Due(Moment),
    /// The host is dialing, or the handshake is under way.
    Dialing,
    /// Connected since.
    Up { conn: ConnId, unit: UnitId, since: Moment, renewal: Renewal },
}

/// The next connection to an address, while there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Never,
    /// To be dialed at this time.
    Due(Moment),
    /// The host is dialing, or the handshake is under way.
    Dialing,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) url: Arc<str>,
    pub(super) permanent: bool,
    pub(super) origin: Origin,
    pub(super) state: State,
    /// Attempts since the last loss that did not succeed.
    pub(super) attempts: u32,
    /// Whether there was ever an outcome: only later ones are reconnections.
    pub(super) settled: bool,
    /// Since when there has been no success.
    pub(super) down_since: Moment,
}

/// A connection must have lasted this long for its loss to be dialed from the start of the
/// schedule: a remote that accepts and drops at once must not be dialed in a tight loop.
const STEADY: Duration = Duration::from_secs(1);

/// How long the replacement of a connection waits that may not be replaced yet.
const POSTPONED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Addresses {
    by_id: HashMap<AddressId, Address>,
    next: u64,
    rate: Rate,
}

/// How many learned addresses are dialed in a time: a bucket of as many as may be dialed in a minute.
#[derive(Default)]
struct Rate {
    /// When the bucket is full again.
    full_at: Moment,
}

impl Rate {
    const MINUTE: Duration = Duration::from_secs(60);

    /// What one dial takes out of the bucket, in time; none when nothing may be dialed.
    fn share(per_minute: usize) -> Option<Duration> {
        let share = Rate::MINUTE.as_nanos() as u64;
        share.checked_div(per_minute as u64).map(Duration::from_nanos)
    }

    /// When the next may be dialed.
    fn free_at(&self, per_minute: usize) -> Option<Moment> {
        let room = Rate::MINUTE.saturating_sub(Rate::share(per_minute)?);
        Some(Moment::at(self.full_at.since_epoch().saturating_sub(room)))
    }

    fn take(&mut self, per_minute: usize, now: Moment) -> bool {
        let free = self.free_at(per_minute).is_some_and(|at| at <= now);
        if let (true, Some(share)) = (free, Rate::share(per_minute)) {
            self.full_at = self.full_at.max(now) + share;
        }
        free
    }
}

impl Addresses {
    pub(super) fn add(
        &mut self,
        url: Arc<str>,
        permanent: bool,
        origin: Origin,
        now: Moment,
    ) -> AddressId {
        let id = AddressId(self.next);
        self.next += 1;
        let address = Address {
            url,
            permanent,
            origin,
            state: State::Due(now),
            attempts: 0,
            settled: false,
            down_since: now,
        };
        self.by_id.insert(id, address);
        id
    }

    pub(super) fn get(&self, id: AddressId) -> Option<&Address> {
        self.by_id.get(&id)
    }

    pub(super) fn remove(&mut self, id: AddressId) -> Option<Address> {
        self.by_id.remove(&id)
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressId, &Address)> {
        self.by_id.iter().map(|(id, address)| (*id, address))
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&AddressId, &mut Address) -> bool) {
        self.by_id.retain(keep);
    }

    /// Whether this URL is dialed already.
    pub(super) fn contains(&self, url: &str) -> bool {
        self.by_id.values().any(|address| &*address.url == url)
    }

    pub(super) fn learned(&self) -> usize {
        self.by_id.values().filter(|address| address.origin.is_learned()).count()
    }

    /// Those that a unit has told of and that are not connected.
    pub(super) fn told_by(&self, unit: UnitId) -> usize {
        let told = |a: &&Address| matches!(a.origin, Origin::Acquaintance(by, _) if by == unit);
        let open = |a: &&Address| !matches!(a.state, State::Up { .. });
        self.by_id.values().filter(told).filter(open).count()
    }

    fn learned_dialing(&self) -> usize {
        self.by_id.values().filter(|a| a.origin.is_learned() && a.state == State::Dialing).count()
    }

    /// Takes the addresses that are due, as many of the learned ones as may be dialed at once and in a minute, and those
    /// whose connections are to be replaced and may be.
    pub(super) fn take_due(
        &mut self,
        now: Moment,
        limits: &Limits,
        may_renew: impl Fn(AddressId, ConnId, UnitId) -> bool,
    ) -> Vec<(AddressId, Arc<str>)> {
        let mut free = limits.acquaintance_dials.saturating_sub(self.learned_dialing());
        let mut due: Vec<_> = self
            .by_id
            .iter()
            .filter_map(|(id, address)| match address.state {
                State::Due(at) | State::Up { renewal: Renewal::Due(at), .. } if at <= now => {
                    Some((at, *id))
                }
                _ => None,
            })
            .collect();
        due.sort_unstable_by_key(|(at, id)| (*at, id.0));
        let mut taken = Vec::new();
        for (_, id) in due {
            let Some(address) = self.by_id.get_mut(&id) else { continue };
            if let State::Up { conn, unit, renewal, .. } = &mut address.state {
                if may_renew(id, *conn, *unit) {
                    *renewal = Renewal::Dialing;
                    taken.push((id, address.url.clone()));
                } else {
                    *renewal = Renewal::Due(now + POSTPONED);
                }
                continue;
            }
            if address.origin.is_learned() {
                if free == 0 || !self.rate.take(limits.acquaintance_dials_per_minute, now) {
                    continue;
                }
                free -= 1;
            }
            address.state = State::Dialing;
            taken.push((id, address.url.clone()));
        }
        taken
    }

    /// When the next address is due. Learned ones that must wait for a free place do not count: a
    /// place is freed by an event, not by time.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        let full = self.learned_dialing() >= limits.acquaintance_dials;
        let free_at = self.rate.free_at(limits.acquaintance_dials_per_minute).filter(|_| !full);
        self.by_id
            .values()
            .filter_map(|address| match address.state {
                State::Due(at) if address.origin.is_learned() => Some(at.max(free_at?)),
                State::Due(at) | State::Up { renewal: Renewal::Due(at), .. } => Some(at),
                _ => None,
            })
            .min()
    }

    /// There is a connection, which is to be replaced after the time `age`, if that is given. Returns whether it
    /// replaces another one.
    pub(super) fn up(
        &mut self,
        id: AddressId,
        (conn, unit): (ConnId, UnitId),
        age: Option<Duration>,
        now: Moment,
    ) -> bool {
        let Some(address) = self.by_id.get_mut(&id) else { return false };
        let renewal = match age.filter(|_| address.permanent) {
            Some(age) => Renewal::Due(now + age),
            None => Renewal::Never,
        };
        let up = State::Up { conn, unit, since: now, renewal };
        address.settled = true;
        let is_renewal = matches!(address.state, State::Up { .. });
        if is_renewal {
            address.attempts = 0;
        }
        address.state = up;
        is_renewal
    }

    /// A connection to replace another one could not be had. It is tried again as after other failures. Returns false
    /// where there is none to be replaced.
    pub(super) fn not_renewed(
        &mut self,
        id: AddressId,
        now: Moment,
        schedule: &Reconnect,
        random: f64,
    ) -> bool {
        let Some(address) = self.by_id.get_mut(&id) else { return false };
        let State::Up { renewal, .. } = &mut address.state else { return false };
        // The first try of the schedule comes at once.
        address.attempts = address.attempts.saturating_add(1);
        *renewal = Renewal::Due(now + schedule.wait(address.attempts, random));
        true
    }

    /// A connection is gone. Returns whether the address is down by that: not when another connection has replaced it,
    /// nor when that is on its way.
    pub(super) fn lost(&mut self, id: AddressId, conn: ConnId, now: Moment) -> bool {
        let Some(address) = self.by_id.get_mut(&id) else { return false };
        match address.state {
            State::Up { conn: up, .. } if up != conn => false,
            State::Up { renewal: Renewal::Dialing, .. } => {
                address.down_since = now;
                address.attempts = 0;
                address.state = State::Dialing;
                false
            }
            State::Up { .. } => true,
            State::Due(_) | State::Dialing => false,
        }
    }

    /// An attempt failed, or the connection was lost. Returns the number of failed attempts so far,
    /// or none when the address is not dialed again and has been forgotten.
    pub(super) fn down(
        &mut self,
        id: AddressId,
        now: Moment,
        patience: Duration,
        schedule: &Reconnect,
        random: f64,
    ) -> Option<u32> {
        let address = self.by_id.get_mut(&id)?;
        let mut steady = false;
        if let State::Up { since, .. } = address.state {
            address.down_since = now;
            steady = now.since(since) >= STEADY;
        }
        let given_up = address.origin.is_learned() && now.since(address.down_since) >= patience;
        if !address.permanent || given_up {
            self.by_id.remove(&id);
            return None;
        }
        // The first try after a loss comes at once; each failed one waits by the schedule.
        let wait = if steady {
            address.attempts = 0;
            Duration::ZERO
        } else {
            let wait = schedule.wait(address.attempts, random);
            address.attempts = address.attempts.saturating_add(1);
            wait
        };
        address.settled = true;
        address.state = State::Due(now + wait);
        Some(address.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const TOLD: Origin = Origin::Acquaintance(UnitId(0), Nearness::Machine);

    fn limits(dials: usize, per_minute: usize) -> Limits {
        Limits {
            acquaintance_dials: dials,
            acquaintance_dials_per_minute: per_minute,
            ..Limits::default()
        }
    }

    fn seconds(n: u64) -> Moment {
        Moment::at(Duration::from_secs(n))
    }

    #[test]
    fn a_dead_address_is_dialed_on_the_schedule() {
        let (schedule, limits) = (Reconnect::default(), limits(16, 600));
        let mut addresses = Addresses::default();
        let id = addresses.add("ws://x".into(), true, Origin::Application, Moment::EPOCH);
        let mut now = Moment::EPOCH;
        let mut gaps = Vec::new();
        for _ in 0..10 {
            assert_eq!(addresses.take_due(now, &limits, |_, _, _| false).len(), 1);
            addresses.down(id, now, PATIENCE, &schedule, 0.0);
            let next = addresses.deadline(&limits).unwrap();
            gaps.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(gaps, [0, 1, 2, 3, 4, 5, 10, 30, 60, 60]);
    }

    #[test]
    fn a_lost_connection_is_dialed_at_once_unless_it_never_held() {
        let (schedule, limits) = (Reconnect::default(), limits(16, 600));
        let mut addresses = Addresses::default();
        let id = addresses.add("ws://x".into(), true, Origin::Application, Moment::EPOCH);
        addresses.take_due(Moment::EPOCH, &limits, |_, _, _| false);
        addresses.up(id, (ConnId(1), UnitId(1)), None, Moment::EPOCH);
        addresses.down(id, seconds(100), PATIENCE, &schedule, 0.0);
        assert_eq!(addresses.deadline(&limits), Some(seconds(100)));
        let mut now = seconds(100);
        for _ in 0..5 {
            addresses.take_due(now, &limits, |_, _, _| false);
            addresses.up(id, (ConnId(1), UnitId(1)), None, now);
            addresses.down(id, now, PATIENCE, &schedule, 0.0);
            now = addresses.deadline(&limits).unwrap();
        }
        assert!(now >= seconds(105), "accepted and dropped at once must slow down, got {now:?}");
    }

    #[test]
    fn learned_addresses_are_bounded_and_forgotten() {
        let (schedule, limits) = (Reconnect::default(), limits(2, 600));
        let mut addresses = Addresses::default();
        let ids: Vec<_> = (0..5)
            .map(|n| addresses.add(format!("ws://{n}").into(), true, TOLD, Moment::EPOCH))
            .collect();
        assert_eq!(addresses.take_due(Moment::EPOCH, &limits, |_, _, _| false).len(), 2);
        assert_eq!(addresses.deadline(&limits), None);
        addresses.down(ids[0], seconds(1), PATIENCE, &schedule, 0.0);
        assert_eq!(addresses.take_due(seconds(1), &limits, |_, _, _| false).len(), 1);
        assert_eq!(addresses.down(ids[1], seconds(11), PATIENCE, &schedule, 0.0), None);
        assert!(addresses.get(ids[1]).is_none());
    }
    #[test]
    fn learned_addresses_are_dialed_so_often_in_a_minute() {
        let limits = limits(1000, 6);
        let mut addresses = Addresses::default();
        let mut add = |n: usize, origin| {
            addresses.add(format!("ws://{n}").into(), true, origin, Moment::EPOCH);
        };
        (0..20).for_each(|n| add(n, TOLD));
        add(20, Origin::Application);
        // A minute's worth at once; what the application asks for does not count.
        assert_eq!(addresses.take_due(Moment::EPOCH, &limits, |_, _, _| false).len(), 7);
        assert_eq!(addresses.deadline(&limits), Some(seconds(10)));
        assert_eq!(addresses.take_due(seconds(9), &limits, |_, _, _| false).len(), 0);
        assert_eq!(addresses.take_due(seconds(10), &limits, |_, _, _| false).len(), 1);
        assert_eq!(addresses.take_due(seconds(35), &limits, |_, _, _| false).len(), 2);
        assert_eq!(addresses.deadline(&limits), Some(seconds(40)));
        // No more than a minute's worth is saved up.
        assert_eq!(addresses.take_due(seconds(1000), &limits, |_, _, _| false).len(), 6);
        let none = Limits { acquaintance_dials_per_minute: 0, ..limits };
        assert_eq!(addresses.take_due(seconds(2000), &none, |_, _, _| false).len(), 0);
        assert_eq!(addresses.deadline(&none), None);
    }

    #[test]
    fn what_a_unit_has_told_counts_until_it_is_connected() {
        let mut addresses = Addresses::default();
        let of = |unit| Origin::Acquaintance(UnitId(unit), Nearness::Machine);
        let first = addresses.add("ws://1".into(), true, of(1), Moment::EPOCH);
        addresses.add("ws://2".into(), true, of(1), Moment::EPOCH);
        addresses.add("ws://3".into(), true, of(2), Moment::EPOCH);
        addresses.add("ws://4".into(), true, Origin::Application, Moment::EPOCH);
        assert_eq!((addresses.told_by(UnitId(1)), addresses.told_by(UnitId(2))), (2, 1));
        addresses.up(first, (ConnId(1), UnitId(9)), None, Moment::EPOCH);
        assert_eq!((addresses.told_by(UnitId(1)), addresses.learned()), (1, 3));
    }
}
