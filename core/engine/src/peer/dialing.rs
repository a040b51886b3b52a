//! Whom to dial: what the application asks for, and what other units tell.

use std::{net::IpAddr, time::Duration};

use url::{ParseError, Url};

use super::{
    Peer, PeerEffect, PeerEvent, UnitConn, UnitState,
    address::{Address, Origin, State},
    encode,
    handshake::remote_id,
};
use crate::{
    AddressId, ConnId, Moment, UnitId,
    acquaintance::{Nearness, Refused},
    error::{Error, ErrorKind, Result},
    hint::{self, DialFault},
    printable,
    wire::{Acquaint, Frame},
};

/// The longest address that is learned by acquaintance, in bytes.
const MAX_ADDRESS: usize = 4 << 10;

impl Peer {
    /// Dials an address. The first outcome, and every later one of a permanent address, is reported
    /// as [`PeerEvent::Dialed`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the address is not a `ws` or `wss` URL with a host;
    /// [`ErrorKind::Closed`] after [`close`](Peer::close).
    pub fn connect(&mut self, url: &str, permanent: bool, now: Moment) -> Result<AddressId> {
        self.check_open()?;
        parse_address(url)?;
        Ok(self.addresses.add(url.into(), permanent, Origin::Application, now))
    }

    /// Whether an address is still dialed, or its connection is up.
    pub fn is_dialed(&self, address: AddressId) -> bool {
        self.addresses.get(address).is_some()
    }

    /// Those that stand for a URL, as it was given to [`connect`](Peer::connect), the oldest first.
    pub fn addresses_of(&self, url: &str) -> Vec<AddressId> {
        let known = self.addresses.iter().filter(|(_, address)| &*address.url == url);
        let mut ids: Vec<AddressId> = known.map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Stops dialing a URL, as it was given to [`connect`](Peer::connect). Its connection, if it is
    /// up, stays; one whose handshake is under way is closed. Returns the addresses that were
    /// forgotten.
    pub fn forget_url(&mut self, url: &str) -> Vec<AddressId> {
        let ids = self.addresses_of(url);
        for id in &ids {
            self.addresses.remove(*id);
        }
        self.close_half_open(&ids);
        ids
    }

    /// Closes the connections of these addresses whose handshake is under way.
    fn close_half_open(&mut self, ids: &[AddressId]) {
        let half_open = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.address.is_some_and(|address| ids.contains(&address)));
        let mut half_open: Vec<ConnId> = half_open.map(|(conn, _)| *conn).collect();
        half_open.sort_unstable();
        for conn in half_open {
            if let Some(pending) = self.pending.remove(&conn) {
                self.settle(conn, &pending);
            }
            let reason = Error::new(ErrorKind::Closed, "The address is not to be dialed any more");
            self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason });
            let (code, reason) = (crate::close_code::MANUAL, crate::close_code::MANUAL_REASON);
            let (frames, at_once) = (Vec::new(), false);
            self.effects.push_back(PeerEffect::Close { conn, frames, code, reason, at_once });
        }
    }

    /// Records the outcome of dialing.
    pub(super) fn dialed(&mut self, id: AddressId, outcome: Result<(UnitId, ConnId)>, now: Moment) {
        let Some(address) = self.addresses.get(id) else { return };
        let outcome = outcome.map_err(|error| explained(error, &address.url));
        let (url, again, origin) = (address.url.clone(), address.settled, address.origin);
        let count = address.attempts;
        match &outcome {
            Ok((unit, conn)) => {
                let age = self.age();
                let is_renewal = self.addresses.up(id, (*conn, *unit), age, now);
                self.retire_others(id, *unit, *conn);
                if is_renewal {
                    return;
                }
            }
            Err(_) if self.not_renewed(id, now) => return,
            Err(_) => self.address_down(id, now),
        }
        // What the application did not ask for is no business of its own callbacks.
        if origin == Origin::Application {
            self.event(PeerEvent::Dialed { address: id, url, count, outcome, again });
        }
    }

    /// After which time a connection is to be replaced: up to a tenth less than the limit, so that many that began
    /// together are not replaced together.
    fn age(&mut self) -> Option<Duration> {
        let most = self.limits.connection_age;
        if most.is_zero() {
            return None;
        }
        let random = self.entropy() as f64 / u64::MAX as f64;
        Some(most - most.mul_f64(random / 10.0))
    }

    /// Whether a failed attempt was to replace a connection, which stays. Nobody need hear of that.
    fn not_renewed(&mut self, id: AddressId, now: Moment) -> bool {
        let random = self.entropy() as f64 / u64::MAX as f64;
        self.addresses.not_renewed(id, now, &self.config.reconnect, random)
    }

    /// A connection replaces those of the same unit that the address had before. An address may lead to another
    /// process meanwhile: then the old connection stays as long as it lasts, or until the address leads there again.
    fn retire_others(&mut self, id: AddressId, unit: UnitId, new: ConnId) {
        let Some(state) = self.units.get(&unit) else { return };
        let old = state.conns.iter().filter(|conn| conn.address == Some(id) && conn.id != new);
        self.effects.extend(old.map(|conn| PeerEffect::Retire { unit, conn: conn.id }));
    }

    /// Takes the addresses that are to be dialed.
    pub(super) fn dial_due(&mut self, now: Moment) {
        let Peer { addresses, units, limits, withdrawn, .. } = self;
        // Not while the connection before is still in use, for example by a stream, nor when this peer leaves.
        let may_renew = |id, conn, unit| {
            let others = |conns: &[UnitConn]| {
                conns.iter().any(|other| other.address == Some(id) && other.id != conn)
            };
            !*withdrawn
                && units.get(&unit).is_some_and(|UnitState { conns, .. }| {
                    conns.len() < limits.connections_per_unit && !others(conns)
                })
        };
        for (address, url) in addresses.take_due(now, limits, may_renew) {
            self.effects.push_back(PeerEffect::Dial { address, url });
        }
    }

    /// A connection that was dialed is lost.
    pub(super) fn dialed_lost(&mut self, id: AddressId, conn: ConnId, now: Moment) {
        if self.addresses.lost(id, conn, now) {
            self.address_down(id, now);
        }
    }

    fn address_down(&mut self, id: AddressId, now: Moment) {
        let random = self.entropy() as f64 / u64::MAX as f64;
        let patience = self.limits.acquaintance_patience;
        self.addresses.down(id, now, patience, &self.config.reconnect, random);
    }

    /// The host could not dial an address.
    pub fn dial_failed(&mut self, address: AddressId, error: Error, now: Moment) {
        self.dialed(address, Err(error), now);
    }

    /// Tells a unit of those that this peer has dialed, and the others of it when it was dialed.
    pub(super) fn introduce(&mut self, newcomer: UnitId, address: Option<AddressId>) {
        if !self.config.friendly {
            return;
        }
        let Some(state) = self.units.get(&newcomer) else { return };
        let mut introductions = Vec::new();
        if state.info.friendly {
            let known = self.addresses.iter().filter_map(|(id, known)| match known.state {
                State::Up { unit, .. } if unit != newcomer => Some((id, unit, &known.url)),
                _ => None,
            });
            let mut known: Vec<_> = known.collect();
            known.sort_unstable_by_key(|(id, ..)| *id);
            let frames = known.into_iter().filter_map(|(_, unit, url)| {
                let other = self.units.get(&unit)?;
                Some(acquaint(&other.info.id, url, &other.roles))
            });
            introductions.push((newcomer, frames.collect()));
        }
        if let Some(url) = address.and_then(|id| self.addresses.get(id)).map(|a| &a.url) {
            let frame = acquaint(&state.info.id, url, &state.roles);
            let friends = self.units.iter().filter(|(id, u)| **id != newcomer && u.info.friendly);
            introductions.extend(friends.map(|(id, _)| (*id, vec![frame.clone()])));
        }
        let introductions = introductions.into_iter().filter(|(_, frames)| !frames.is_empty());
        self.effects
            .extend(introductions.map(|(unit, frames)| PeerEffect::Introduce { unit, frames }));
    }

    /// A unit told of another peer. It is dialed when this peer is friendly, does not know the other
    /// yet, has a destination among its roles, and the address is one that this unit may tell.
    pub(super) fn acquainted(&mut self, teller: UnitId, told: Acquaint, now: Moment) {
        let wanted = self.config.friendly
            && !self.closed
            && ![true, false]
                .iter()
                .any(|is_proved| self.by_remote_id.contains_key(&*remote_id(&told.id, *is_proved)))
            && told.id != *self.id
            && told.roles.iter().any(|role| self.destinations.contains_key(role.as_str()));
        let Some(address) = told.address.filter(|address| wanted && !address.is_empty()) else {
            return;
        };
        let near = self.nearness(teller);
        match self.check_told(teller, near, &address) {
            Ok(None) => {}
            Ok(Some(url)) => {
                self.addresses.add(url.into(), true, Origin::Acquaintance(teller, near), now);
            }
            Err(refused) => {
                self.ignore(teller, printable(&public(&address)), refused.to_string());
            }
        }
    }

    /// The address as it is dialed; none when it is dialed already.
    fn check_told(
        &self,
        teller: UnitId,
        near: Nearness,
        address: &str,
    ) -> Result<Option<String>, Refused> {
        if address.len() > MAX_ADDRESS {
            return Err(Refused::Address);
        }
        let mut url = parse_address(address).map_err(|_| Refused::Address)?;
        // Whoever tells an address gives no credentials to use there.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.set_fragment(None);
        // As the parser has understood it, so that no host reads another one out of it. The slash is no matter, and
        // applications leave it out.
        let whole = String::from(url.clone());
        let short = match url.path() == "/" && url.query().is_none() {
            true => whole.trim_end_matches('/'),
            false => &whole,
        };
        if [address, &whole, short].iter().any(|known| self.addresses.contains(known)) {
            return Ok(None);
        }
        self.config.acquaintance.check(&url, near)?;
        let most = self.limits.acquaintance_addresses_per_unit;
        if self.addresses.told_by(teller) >= most {
            return Err(Refused::Unit(most));
        }
        let most = self.limits.acquaintance_addresses;
        if self.addresses.learned() >= most {
            return Err(Refused::Full(most));
        }
        Ok(Some(short.to_owned()))
    }

    /// Filters the addresses that a name has resolved to: returns those that may be connected to. For addresses of the
    /// application these are all. Call it at each attempt, after the lookup and before connecting.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when the address is not to be dialed any more, and
    /// [`ErrorKind::ConnectFailed`] when it is none: [dialing has failed](Peer::dial_failed).
    pub fn admit_found(&mut self, address: AddressId, found: Vec<IpAddr>) -> Result<Vec<IpAddr>> {
        let Some(known) = self.addresses.get(address) else {
            return Err(Error::new(ErrorKind::Closed, "The address is not to be dialed any more"));
        };
        let Origin::Acquaintance(teller, near) = known.origin else { return Ok(found) };
        let mut refused = None;
        let check = |ip: &IpAddr| {
            let checked = self.config.acquaintance.check_ip(*ip, near);
            checked.map_err(|why| refused.get_or_insert(why)).is_ok()
        };
        let admitted: Vec<IpAddr> = found.into_iter().filter(check).collect();
        let Some(reason) = refused else { return Ok(admitted) };
        let (url, reason) = (known.url.to_string(), reason.to_string());
        let error = admitted.is_empty().then(|| {
            let text = format!("Socket errored: `{url}` is not dialed: {reason}");
            Error::new(ErrorKind::ConnectFailed, text)
        });
        self.ignore(teller, printable(&url), reason);
        error.map_or(Ok(admitted), Err)
    }

    /// How many told addresses were not dialed because of the [filter](crate::AcquaintanceFilter) or the
    /// [limits](crate::Limits). One whose name resolves to such addresses counts for each attempt.
    pub fn addresses_ignored(&self) -> u64 {
        self.ignored
    }

    fn ignore(&mut self, unit: UnitId, url: String, reason: String) {
        self.ignored += 1;
        self.event(PeerEvent::AddressIgnored { unit, url, reason });
    }

    /// Where a unit is that tells an address. Whoever gets in may claim the id of another and join its
    /// connections, so that the farthest one counts.
    fn nearness(&self, unit: UnitId) -> Nearness {
        let conns = self.units.get(&unit).map(|state| &state.conns);
        let remotes = conns.into_iter().flatten().map(|conn| Nearness::of(conn.remote));
        remotes.max().unwrap_or(Nearness::Elsewhere)
    }

    /// The application closes a unit: its addresses are not dialed again. The host closes its
    /// connections.
    pub fn unit_closing(&mut self, unit: UnitId) {
        let of_unit =
            |address: &Address| matches!(address.state, State::Up { unit: u, .. } if u == unit);
        let ids = self.addresses.iter().filter(|(_, address)| of_unit(address));
        let ids: Vec<AddressId> = ids.map(|(id, _)| id).collect();
        self.addresses.retain(|_, address| !of_unit(address));
        // A connection that is to replace one of the unit.
        self.close_half_open(&ids);
    }

    /// Stops dialing. The host closes the connections.
    pub fn forget_addresses(&mut self) {
        self.addresses.clear();
    }
}

/// The error of an address with what to try, unless it has that already.
fn explained(error: Error, url: &str) -> Error {
    let fault = error.fault().or(match error.kind() {
        ErrorKind::ConnectionLost => Some(DialFault::HungUp),
        _ => None,
    });
    match fault {
        Some(fault) if error.hint().is_none() => {
            let hint = fault.hint(&public(url));
            error.with_hint(hint)
        }
        _ => error,
    }
}

/// Checks that an address is a `ws` or `wss` URL with a host.
fn parse_address(address: &str) -> Result<Url> {
    let invalid = |why: &str| {
        Error::new(ErrorKind::InvalidArgument, format!("The address `{address}` {why}"))
            .with_hint(hint::ADDRESS)
    };
    let url = Url::parse(address).map_err(|error| match error {
        ParseError::InvalidPort => invalid("has no port from 1 to 65535"),
        ParseError::EmptyHost => invalid("has no host"),
        ParseError::RelativeUrlWithoutBase => invalid("must begin with ws:// or wss://"),
        error => invalid(&format!("cannot be parsed: {error}")),
    })?;
    match url.scheme() {
        "ws" | "wss" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(url),
        "ws" | "wss" => Err(invalid("has no host")),
        _ => Err(invalid("must begin with ws:// or wss://")),
    }
}

/// An address without credentials: these are for the one who dials, not for those who are told of it, nor for
/// logs.
fn public(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut public) if !public.username().is_empty() || public.password().is_some() => {
            let _ = public.set_username("").and_then(|()| public.set_password(None));
            String::from(public)
        }
        _ => url.to_owned(),
    }
}

fn acquaint(id: &str, url: &str, roles: &[String]) -> Vec<u8> {
    let address = public(url);
    let frame = Acquaint { id: id.to_owned(), address: Some(address), roles: roles.to_vec() };
    encode(&Frame::Acquaint(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_hold_no_credentials() {
        let error = Error::new(ErrorKind::ConnectionLost, "Socket closed");
        let error = explained(error, "ws://name:password@example.org:9000/");
        let hint = error.hint().unwrap();
        assert!(hint.contains("ws://example.org:9000/"), "{hint}");
        assert!(!hint.contains("password") && !hint.contains("name:"), "{hint}");
    }
}
