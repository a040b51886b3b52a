//! Whom to dial: what the application asks for, and what other units tell.

use url::{ParseError, Url};

use super::{
    Peer, PeerEffect, PeerEvent,
    address::{Origin, State},
    encode,
};
use crate::{
    AddressId, ConnId, Moment, UnitId,
    error::{Error, ErrorKind, Result},
    hint::{self, DialFault},
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

    /// Stops dialing a URL, as it was given to [`connect`](Peer::connect). Its connection, if it is
    /// up, stays; one whose handshake is under way is closed. Returns the addresses that were
    /// forgotten.
    pub fn forget_url(&mut self, url: &str) -> Vec<AddressId> {
        let known = self.addresses.iter().filter(|(_, address)| &*address.url == url);
        let mut ids: Vec<AddressId> = known.map(|(id, _)| id).collect();
        ids.sort_unstable();
        for id in &ids {
            self.addresses.remove(*id);
        }
        let half_open = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.address.is_some_and(|address| ids.contains(&address)));
        let mut half_open: Vec<ConnId> = half_open.map(|(conn, _)| *conn).collect();
        half_open.sort_unstable();
        for conn in half_open {
            if let Some(challenge) =
                self.pending.remove(&conn).and_then(|pending| pending.handshake.challenge)
            {
                self.challenges.remove(&challenge);
            }
            let reason = Error::new(ErrorKind::Closed, "The address is not to be dialed any more");
            self.event(PeerEvent::ConnectionClosed { conn, unit: None, reason });
            let (code, reason) = (crate::close_code::MANUAL, crate::close_code::MANUAL_REASON);
            self.effects.push_back(PeerEffect::Close { conn, frames: Vec::new(), code, reason });
        }
        ids
    }

    /// Records the outcome of dialing.
    pub(super) fn dialed(&mut self, id: AddressId, outcome: Result<(UnitId, ConnId)>, now: Moment) {
        let Some(address) = self.addresses.get(id) else { return };
        let outcome = outcome.map_err(|error| explained(error, &address.url));
        let (url, again, origin) = (address.url.clone(), address.settled, address.origin);
        let count = address.attempts;
        match &outcome {
            Ok((unit, conn)) => {
                self.addresses.up(id, *conn, *unit, now);
            }
            Err(_) => self.address_down(id, now),
        }
        // What the application did not ask for is no business of its own callbacks.
        if origin == Origin::Application {
            self.event(PeerEvent::Dialed { address: id, url, count, outcome, again });
        }
    }

    pub(super) fn address_down(&mut self, id: AddressId, now: Moment) {
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
    /// yet, and has a destination among its roles.
    pub(super) fn acquainted(&mut self, told: Acquaint, now: Moment) {
        let wanted = self.config.friendly
            && !self.closed
            && !self.by_remote_id.contains_key(told.id.as_str())
            && told.id != *self.id
            && told.roles.iter().any(|role| self.destinations.contains_key(role.as_str()));
        let usable = |address: &String| {
            wanted && address.len() <= MAX_ADDRESS && parse_address(address).is_ok()
        };
        let Some(address) = told.address.filter(usable) else { return };
        let room = self.addresses.learned() < self.limits.acquaintance_addresses;
        if room && !self.addresses.contains(&address) {
            self.addresses.add(address.into(), true, Origin::Acquaintance, now);
        }
    }

    /// The application closes a unit: its addresses are not dialed again. The host closes its
    /// connections.
    pub fn unit_closing(&mut self, unit: UnitId) {
        self.addresses
            .retain(|_, address| !matches!(address.state, State::Up { unit: u, .. } if u == unit));
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
