//! Strangers: connections that were accepted and have not shown yet who they are. So many have a place, and each of
//! them for a limited time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use crate::{ConnId, Limits, Moment, PlaceId};

/// How long a host waits for one who was refused to read that and to close.
const LINGER: Duration = Duration::from_secs(2);
/// Of the places, one in so many may be held by those.
const LINGERING: usize = 4;

/// Who counts as one. Whoever has one IPv6 address has the rest of its /64 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Behind a socket that has no address, or behind somebody else's server.
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
    /// Until when it may stay.
    until: Moment,
    /// Once the connection is open.
    conn: Option<ConnId>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lobby {
    places: usize,
    per_address: usize,
    patience: Duration,
    /// In the order in which they came.
    guests: BTreeMap<PlaceId, Guest>,
    by_source: BTreeMap<Source, BTreeSet<PlaceId>>,
    by_time: BTreeSet<(Moment, PlaceId)>,
    /// Those who were refused: their sockets stay open for a moment.
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

    /// Changes the bounds, for those who come from now on.
    pub(super) fn set_bounds(&mut self, limits: &Limits) {
        self.places = limits.handshakes;
        self.per_address = limits.handshakes_per_address;
        self.patience = limits.handshake_timeout;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.guests.len()
    }

    /// Somebody has come, and has this place. Who then is one too many is found by [`surplus`](Lobby::surplus).
    pub(super) fn enter(&mut self, source: Source, now: Moment) -> PlaceId {
        let place = PlaceId(self.next);
        self.next += 1;
        let until = now + self.patience;
        self.guests.insert(place, Guest { source, until, conn: None });
        self.by_source.entry(source).or_default().insert(place);
        self.by_time.insert((until, place));
        place
    }

    /// Who has to give way to somebody from there: the oldest of that address when it has too many, the oldest of
    /// the most numerous address when all have.
    pub(super) fn surplus(&self, source: Source) -> Option<PlaceId> {
        let of_source = self.by_source.get(&source)?;
        if of_source.len() > self.per_address {
            return of_source.first().copied();
        }
        if self.guests.len() > self.places { self.first_to_go() } else { None }
    }

    /// The oldest of the most numerous address; of several such addresses, the oldest of all.
    pub(super) fn first_to_go(&self) -> Option<PlaceId> {
        let oldest = |places: &BTreeSet<PlaceId>| {
            let place = places.first()?;
            Some((places.len(), std::cmp::Reverse(*place)))
        };
        let (_, place) = self.by_source.values().filter_map(oldest).max()?;
        Some(place.0)
    }

    /// The connection of a place is open from now on. Until when it may be under way; none when the place is gone.
    pub(super) fn seat(&mut self, place: PlaceId, conn: ConnId) -> Option<Moment> {
        let guest = self.guests.get_mut(&place)?;
        guest.conn = Some(conn);
        Some(guest.until)
    }

    /// Whose place it is, once the connection is open.
    pub(super) fn conn(&self, place: PlaceId) -> Option<ConnId> {
        self.guests.get(&place)?.conn
    }

    /// Whether the connection of a place is open.
    pub(super) fn is_seated(&self, place: PlaceId) -> bool {
        self.conn(place).is_some()
    }

    /// Whether somebody has this place.
    pub(super) fn has(&self, place: PlaceId) -> bool {
        self.guests.contains_key(&place)
    }

    /// Somebody is gone, or is no stranger any more. Returns the connection, if it was open.
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

    /// Somebody is refused and leaves. Whether there is time for him to read why, which holds a socket: not when
    /// many do.
    pub(super) fn dismiss(&mut self, place: PlaceId, now: Moment) -> bool {
        let Some(source) = self.guests.get(&place).map(|guest| guest.source) else { return false };
        self.leave(place);
        while self.lingering.front().is_some_and(|(until, _)| *until <= now) {
            self.lingering.pop_front();
        }
        let same = self.lingering.iter().filter(|(_, other)| *other == source).count();
        let stays = self.lingering.len() < self.places / LINGERING
            && same < self.per_address.min(self.places) / LINGERING;
        if stays {
            self.lingering.push_back((now + LINGER, source));
        }
        stays
    }

    /// When the next place is to be cleared.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.by_time.first().map(|(until, _)| *until)
    }

    /// The next whose time is up.
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

    /// Lets somebody in. Who gives way.
    fn enter(lobby: &mut Lobby, source: Source) -> (PlaceId, Option<PlaceId>) {
        let place = lobby.enter(source, Moment::EPOCH);
        let surplus = lobby.surplus(source);
        if let Some(surplus) = surplus {
            lobby.leave(surplus);
        }
        (place, surplus)
    }

    #[test]
    fn the_oldest_of_the_most_numerous_address_gives_way() {
        let mut lobby = lobby(4, 10);
        let (many, few) = (from("10.0.0.1"), from("10.0.0.2"));
        let (first, _) = enter(&mut lobby, few);
        let places: Vec<_> = (0..3).map(|_| enter(&mut lobby, many).0).collect();
        // However many come, and however old the other one is.
        let (_, gone) = enter(&mut lobby, many);
        assert_eq!(gone, Some(places[0]));
        let (_, gone) = enter(&mut lobby, from("10.0.0.3"));
        assert_eq!(gone, Some(places[1]));
        assert!(lobby.has(first));
        assert_eq!(lobby.len(), 4);
        // Two each from there and from here: then it is the oldest of these four.
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
    fn without_any_place_whoever_comes_goes() {
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
    fn time_runs_from_the_beginning() {
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
    fn few_of_those_who_were_refused_are_waited_for() {
        let mut lobby = lobby(16, 8);
        let dismiss = |lobby: &mut Lobby, source, now| {
            let place = lobby.enter(source, now);
            lobby.dismiss(place, now)
        };
        let now = Moment::EPOCH;
        let stays: Vec<_> = (0..4).map(|_| dismiss(&mut lobby, from("10.0.0.1"), now)).collect();
        assert_eq!(stays, [true, true, false, false]);
        let stays: Vec<_> =
            (2..6).map(|n| dismiss(&mut lobby, from(&format!("10.0.0.{n}")), now)).collect();
        assert_eq!(stays, [true, true, false, false]);
        assert!(dismiss(&mut lobby, from("10.0.0.1"), now + LINGER));
        assert_eq!((lobby.len(), lobby.deadline()), (0, None));
    }
}
