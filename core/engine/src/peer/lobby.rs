//! Strangers: accepted connections that are not authenticated yet. Each occupies a place. The number of places and the
//! time in one are limited.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use crate::{CLOSE_TIMEOUT, ConnId, Limits, Moment, PlaceId};

/// For so many places, in total and per address, the socket of one refused connection may be kept besides, for the
/// other side to read the reason and to close.
const LINGERING: usize = 4;

/// What counts as one address: an IPv4 address, or an IPv6 network (/64), since one host usually has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// The socket has no address, or the host does not know it.
    Unknown,
    Known(IpAddr),
}

impl Source {
    pub(super) fn of(address: Option<IpAddr>) -> Source {
        let Some(address) = address else { return Source::Unknown };
        Source::Known(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

#[derive(Debug)]
struct Guest {
    source: Source,
    /// When its timeout expires.
    until: Moment,
    /// The connection, once it is open.
    conn: Option<ConnId>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lobby {
    places: usize,
    per_address: usize,
    patience: Duration,
    /// In the order of arrival.
    guests: BTreeMap<PlaceId, Guest>,
    by_source: BTreeMap<Source, BTreeSet<PlaceId>>,
    by_time: BTreeSet<(Moment, PlaceId)>,
    /// Refused connections whose sockets are still kept open: until when, and where they came from.
    lingering: VecDeque<(Moment, Source)>,
    next: u64,
}

impl Lobby {
    pub(super) fn new(limits: &Limits) -> Lobby {
        Lobby {
            places: limits.handshakes,
            per_address: limits.handshakes_per_address,
            patience: limits.handshake_timeout,
            guests: BTreeMap::new(),
            by_source: BTreeMap::new(),
            by_time: BTreeSet::new(),
            lingering: VecDeque::new(),
            next: 0,
        }
    }

    /// Changes the limits, for connections from now on.
    pub(super) fn set_bounds(&mut self, limits: &Limits) {
        self.places = limits.handshakes;
        self.per_address = limits.handshakes_per_address;
        self.patience = limits.handshake_timeout;
    }

    /// The number of occupied places.
    pub(super) fn len(&self) -> usize {
        self.guests.len()
    }

    /// Takes a place for a new connection. [`surplus`](Lobby::surplus) tells which one is to be evicted for it.
    pub(super) fn enter(&mut self, source: Source, now: Moment) -> PlaceId {
        let place = PlaceId(self.next);
        self.next += 1;
        let until = now + self.patience;
        self.guests.insert(place, Guest { source, until, conn: None });
        self.by_source.entry(source).or_default().insert(place);
        self.by_time.insert((until, place));
        place
    }

    /// The place to be evicted after a new one from this address, if a limit is exceeded: the oldest of this address
    /// for the per-address limit, the oldest of the address that has the most for the total.
    pub(super) fn surplus(&self, source: Source) -> Option<PlaceId> {
        let of_source = self.by_source.get(&source)?;
        if of_source.len() > self.per_address {
            return of_source.first().copied();
        }
        if self.guests.len() > self.places { self.first_to_go() } else { None }
    }

    /// The oldest place of the address that has the most; among several such addresses, the oldest of all.
    pub(super) fn first_to_go(&self) -> Option<PlaceId> {
        let oldest = |places: &BTreeSet<PlaceId>| {
            let place = places.first()?;
            Some((places.len(), std::cmp::Reverse(*place)))
        };
        let (_, place) = self.by_source.values().filter_map(oldest).max()?;
        Some(place.0)
    }

    /// Notes that the connection of a place is open. Returns when its timeout expires; none when the place is gone.
    pub(super) fn seat(&mut self, place: PlaceId, conn: ConnId) -> Option<Moment> {
        let guest = self.guests.get_mut(&place)?;
        guest.conn = Some(conn);
        Some(guest.until)
    }

    /// The connection of a place, once it is open.
    pub(super) fn conn(&self, place: PlaceId) -> Option<ConnId> {
        self.guests.get(&place)?.conn
    }

    /// Whether the connection of a place is open.
    pub(super) fn is_seated(&self, place: PlaceId) -> bool {
        self.conn(place).is_some()
    }

    /// Whether this place is occupied.
    pub(super) fn has(&self, place: PlaceId) -> bool {
        self.guests.contains_key(&place)
    }

    /// Frees a place: its connection has ended or is authenticated. Returns the connection, if it was open.
    pub(super) fn leave(&mut self, place: PlaceId) -> Option<ConnId> {
        let Guest { source, until, conn } = self.guests.remove(&place)?;
        self.by_time.remove(&(until, place));
        if let Some(places) = self.by_source.get_mut(&source) {
            places.remove(&place);
            if places.is_empty() {
                self.by_source.remove(&source);
            }
        }
        conn
    }

    /// Frees the place of a refused connection. Returns whether its socket may stay open for the reason to be read:
    /// not when many already do.
    pub(super) fn refuse(&mut self, place: PlaceId, now: Moment) -> bool {
        let Some(source) = self.guests.get(&place).map(|guest| guest.source) else { return false };
        self.leave(place);
        while self.lingering.front().is_some_and(|(until, _)| *until <= now) {
            self.lingering.pop_front();
        }
        let same = self.lingering.iter().filter(|(_, other)| *other == source).count();
        let most = |places: usize| (places / LINGERING).max(1);
        let stays = self.lingering.len() < most(self.places)
            && same < most(self.per_address.min(self.places));
        if stays {
            self.lingering.push_back((now + CLOSE_TIMEOUT, source));
        }
        stays
    }

    /// When the next timeout expires.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.by_time.first().map(|(until, _)| *until)
    }

    /// The next place whose timeout has expired.
    pub(super) fn late(&self, now: Moment) -> Option<PlaceId> {
        self.by_time.first().filter(|(until, _)| *until <= now).map(|(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lobby(places: usize, per_address: usize) -> Lobby {
        let mut limits = Limits::default();
        (limits.handshakes, limits.handshakes_per_address) = (places, per_address);
        limits.handshake_timeout = Duration::from_secs(4);
        Lobby::new(&limits)
    }

    fn from(text: &str) -> Source {
        Source::of(Some(text.parse().unwrap()))
    }

    /// Takes a place. Returns it, and the place that is evicted.
    fn enter(lobby: &mut Lobby, source: Source) -> (PlaceId, Option<PlaceId>) {
        let place = lobby.enter(source, Moment::EPOCH);
        let surplus = lobby.surplus(source);
        if let Some(surplus) = surplus {
            lobby.leave(surplus);
        }
        (place, surplus)
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_is_evicted() {
        let mut lobby = lobby(4, 10);
        let (many, few) = (from("10.0.0.1"), from("10.0.0.2"));
        let (first, _) = enter(&mut lobby, few);
        let places: Vec<_> = (0..3).map(|_| enter(&mut lobby, many).0).collect();
        // Regardless of how many arrive, and of the age of the other one.
        let (_, gone) = enter(&mut lobby, many);
        assert_eq!(gone, Some(places[0]));
        let (_, gone) = enter(&mut lobby, from("10.0.0.3"));
        assert_eq!(gone, Some(places[1]));
        assert!(lobby.has(first));
        assert_eq!(lobby.len(), 4);
        // Two from each of two addresses: the oldest of these four.
        let (_, gone) = enter(&mut lobby, few);
        assert_eq!(gone, Some(first), "{lobby:?}");
    }

    #[test]
    fn an_address_has_its_own_bound() {
        let mut lobby = lobby(100, 2);
        let source = from("10.0.0.1");
        let (first, _) = enter(&mut lobby, source);
        assert_eq!(enter(&mut lobby, source).1, None);
        assert_eq!(enter(&mut lobby, from("10.0.0.2")).1, None);
        assert_eq!(enter(&mut lobby, source).1, Some(first));
    }

    #[test]
    fn without_places_a_new_connection_is_evicted() {
        let mut lobby = lobby(0, 10);
        let (place, gone) = enter(&mut lobby, Source::Unknown);
        assert_eq!(gone, Some(place));
        assert_eq!(lobby.len(), 0);
    }

    #[test]
    fn an_address_in_ipv6_is_a_network() {
        assert_eq!(from("2001:db8:1:2::7"), from("2001:db8:1:2:ffff::1"));
        assert_ne!(from("2001:db8:1:2::7"), from("2001:db8:1:3::7"));
        assert_eq!(from("::ffff:10.0.0.1"), from("10.0.0.1"));
        assert_ne!(from("::ffff:10.0.0.1"), from("::ffff:10.0.0.2"));
    }

    #[test]
    fn the_timeout_runs_from_arrival() {
        let mut lobby = lobby(4, 4);
        let place = lobby.enter(Source::Unknown, Moment::at(Duration::from_secs(1)));
        let until = Moment::at(Duration::from_secs(5));
        assert_eq!(lobby.deadline(), Some(until));
        assert_eq!(lobby.seat(place, ConnId(7)), Some(until));
        assert_eq!(lobby.late(Moment::at(Duration::from_millis(4999))), None);
        assert_eq!(lobby.late(until), Some(place));
        assert_eq!(lobby.leave(place), Some(ConnId(7)));
        assert_eq!((lobby.late(until), lobby.deadline()), (None, None));
        assert_eq!(lobby.leave(place), None);
        assert_eq!(lobby.seat(place, ConnId(8)), None);
    }

    #[test]
    fn few_refused_connections_linger() {
        let mut lobby = lobby(16, 8);
        let refuse = |lobby: &mut Lobby, source, now| {
            let place = lobby.enter(source, now);
            lobby.refuse(place, now)
        };
        let now = Moment::EPOCH;
        let stays: Vec<_> = (0..4).map(|_| refuse(&mut lobby, from("10.0.0.1"), now)).collect();
        assert_eq!(stays, [true, true, false, false]);
        let stays: Vec<_> =
            (2..6).map(|n| refuse(&mut lobby, from(&format!("10.0.0.{n}")), now)).collect();
        assert_eq!(stays, [true, true, false, false]);
        assert!(refuse(&mut lobby, from("10.0.0.1"), now + CLOSE_TIMEOUT));
        assert_eq!((lobby.len(), lobby.deadline()), (0, None));
    }
}
