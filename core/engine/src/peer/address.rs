//! The addresses that a peer dials, and when it dials them again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{AddressId, ConnId, Moment, UnitId, config::Reconnect};

/// Why an address is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The application asked for it.
    Application,
    /// A unit told of it.
    Acquaintance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialed at this time.
    Due(Moment),
    /// The host is dialing, or the handshake is under way.
    Dialing,
    /// Connected since.
    Up { conn: ConnId, unit: UnitId, since: Moment },
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

#[derive(Default)]
pub(super) struct Addresses {
    by_id: HashMap<AddressId, Address>,
    next: u64,
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
        self.by_id.values().filter(|address| address.origin == Origin::Acquaintance).count()
    }

    fn learned_dialing(&self) -> usize {
        self.by_id
            .values()
            .filter(|a| a.origin == Origin::Acquaintance && a.state == State::Dialing)
            .count()
    }

    /// Takes the addresses that are due, as many of the learned ones as may be dialed at once.
    pub(super) fn take_due(
        &mut self,
        now: Moment,
        max_learned: usize,
    ) -> Vec<(AddressId, Arc<str>)> {
        let mut free = max_learned.saturating_sub(self.learned_dialing());
        let mut due: Vec<_> = self
            .by_id
            .iter()
            .filter_map(|(id, address)| match address.state {
                State::Due(at) if at <= now => Some((at, *id)),
                _ => None,
            })
            .collect();
        due.sort_unstable_by_key(|(at, id)| (*at, id.0));
        let mut taken = Vec::new();
        for (_, id) in due {
            let Some(address) = self.by_id.get_mut(&id) else { continue };
            if address.origin == Origin::Acquaintance {
                if free == 0 {
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
    pub(super) fn deadline(&self, max_learned: usize) -> Option<Moment> {
        let full = self.learned_dialing() >= max_learned;
        self.by_id
            .values()
            .filter(|address| !(full && address.origin == Origin::Acquaintance))
            .filter_map(|address| match address.state {
                State::Due(at) => Some(at),
                _ => None,
            })
            .min()
    }

    pub(super) fn up(
        &mut self,
        id: AddressId,
        conn: ConnId,
        unit: UnitId,
        now: Moment,
    ) -> Option<u32> {
        let address = self.by_id.get_mut(&id)?;
        address.state = State::Up { conn, unit, since: now };
        address.settled = true;
        Some(address.attempts)
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
        let given_up =
            address.origin == Origin::Acquaintance && now.since(address.down_since) >= patience;
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

    fn seconds(n: u64) -> Moment {
        Moment::at(Duration::from_secs(n))
    }

    #[test]
    fn a_dead_address_is_dialed_on_the_schedule() {
        let schedule = Reconnect::default();
        let mut addresses = Addresses::default();
        let id = addresses.add("ws://x".into(), true, Origin::Application, Moment::EPOCH);
        let mut now = Moment::EPOCH;
        let mut gaps = Vec::new();
        for _ in 0..10 {
            assert_eq!(addresses.take_due(now, 16).len(), 1);
            addresses.down(id, now, PATIENCE, &schedule, 0.0);
            let next = addresses.deadline(16).unwrap();
            gaps.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(gaps, [0, 1, 2, 3, 4, 5, 10, 30, 60, 60]);
    }

    #[test]
    fn a_lost_connection_is_dialed_at_once_unless_it_never_held() {
        let schedule = Reconnect::default();
        let mut addresses = Addresses::default();
        let id = addresses.add("ws://x".into(), true, Origin::Application, Moment::EPOCH);
        addresses.take_due(Moment::EPOCH, 16);
        addresses.up(id, ConnId(1), UnitId(1), Moment::EPOCH);
        addresses.down(id, seconds(100), PATIENCE, &schedule, 0.0);
        assert_eq!(addresses.deadline(16), Some(seconds(100)));
        let mut now = seconds(100);
        for _ in 0..5 {
            addresses.take_due(now, 16);
            addresses.up(id, ConnId(1), UnitId(1), now);
            addresses.down(id, now, PATIENCE, &schedule, 0.0);
            now = addresses.deadline(16).unwrap();
        }
        assert!(now >= seconds(105), "accepted and dropped at once must slow down, got {now:?}");
    }

    #[test]
    fn learned_addresses_are_bounded_and_forgotten() {
        let schedule = Reconnect::default();
        let mut addresses = Addresses::default();
        let ids: Vec<_> = (0..5)
            .map(|n| {
                addresses.add(format!("ws://{n}").into(), true, Origin::Acquaintance, Moment::EPOCH)
            })
            .collect();
        assert_eq!(addresses.take_due(Moment::EPOCH, 2).len(), 2);
        assert_eq!(addresses.deadline(2), None);
        addresses.down(ids[0], seconds(1), PATIENCE, &schedule, 0.0);
        assert_eq!(addresses.take_due(seconds(1), 2).len(), 1);
        assert_eq!(addresses.down(ids[1], seconds(11), PATIENCE, &schedule, 0.0), None);
        assert!(addresses.get(ids[1]).is_none());
    }
}
