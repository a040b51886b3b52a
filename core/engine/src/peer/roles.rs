//! Roles: those of this peer, those of units, and the destinations that follow from these.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use super::{Peer, PeerEvent, UnitState, encode};
use crate::{
    Balance, Candidate, Denial, Load, Moment, NoHandler, Standing, Tried, Turn, UnitId, Units,
    Unsent, Wanted,
    error::{Error, ErrorKind, Result},
    hint,
    wire::{self, Frame, RolesUpdate},
};

pub(super) struct Destination {
    /// Those that serve it, in the order in which they were found.
    pub(super) units: Vec<UnitId>,
    pub(super) turn: Arc<Turn>,
}

pub(super) struct RoleState {
    pub(super) name: Arc<str>,
    pub(super) active: bool,
}

impl Peer {
    /// Adds a role; nothing happens when it exists.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes.
    pub fn add_role(&mut self, name: &str, active: bool, now: Moment) -> Result<()> {
        check_role(name)?;
        if self.role_index.contains_key(name) {
            return Ok(());
        }
        let name: Arc<str> = name.into();
        self.role_index.insert(name.clone(), self.roles.len());
        self.roles.push(RoleState { name, active });
        self.roles_changed(now);
        Ok(())
    }

    /// Disables or enables a role; units are told, even when nothing changes. Unknown roles are ignored.
    pub fn set_role_active(&mut self, name: &str, active: bool, now: Moment) {
        if let Some(&at) = self.role_index.get(name) {
            self.roles[at].active = active;
            self.roles_changed(now);
        }
    }

    /// Disables all roles.
    pub fn disable_roles(&mut self, now: Moment) {
        for role in &mut self.roles {
            role.active = false;
        }
        self.roles_changed(now);
    }

    /// Withdraws all roles: the peer is about to leave. Returns the frame that tells units so, for
    /// [`Unit::drain`](crate::Unit::drain); to those that connect from now on no role is announced.
    /// Handlers go on being called for what units have sent before they know.
    pub fn withdraw(&mut self) -> Vec<u8> {
        self.withdrawn = true;
        self.announce_at = None;
        // Those whose handshake is under way may have been told of roles.
        self.roles_version += 1;
        self.roles_frame()
    }

    /// Those who knew that the roles were withdrawn are gone.
    pub(crate) fn offer_again(&mut self) {
        self.withdrawn = false;
    }

    /// Whether the roles were withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Whether the role is offered, or the text to reject its requests with.
    pub fn check_role(&self, name: &str) -> Result<(), String> {
        match self.role_index.get(name) {
            None => Err(NoHandler::NotRegistered.text(name)),
            Some(&at) if !self.roles[at].active => Err(NoHandler::Disabled.text(name)),
            Some(_) => Ok(()),
        }
    }

    /// All roles in the order in which they were added, and whether each is active.
    pub fn roles(&self) -> impl Iterator<Item = (&Arc<str>, bool)> {
        self.roles.iter().map(|role| (&role.name, role.active))
    }

    pub(super) fn roles_changed(&mut self, now: Moment) {
        self.roles_version += 1;
        self.announce_at.get_or_insert(now);
    }

    pub(super) fn active_roles(&self) -> Vec<String> {
        if self.withdrawn {
            return Vec::new();
        }
        self.roles.iter().filter(|r| r.active).map(|r| r.name.to_string()).collect()
    }

    /// A frame that tells a unit the active roles, with a counter that no frame had before.
    pub(super) fn roles_frame(&mut self) -> Vec<u8> {
        self.roles_counter += 1;
        let update = RolesUpdate { i: Some(self.roles_counter), roles: self.active_roles() };
        encode(&Frame::Roles(update))
    }

    /// Declares interest in a role. Returns the units that serve it now, in the order of arrival.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the name is empty or longer than 65 535 bytes.
    pub fn add_destination(&mut self, role: &str) -> Result<Arc<str>> {
        check_role(role)?;
        if let Some((name, _)) = self.destinations.get_key_value(role) {
            return Ok(name.clone());
        }
        let name: Arc<str> = role.into();
        let destination =
            Destination { units: Vec::new(), turn: Arc::new(Turn::new(self.ejections.clone())) };
        self.destinations.insert(name.clone(), destination);
        let serving: Vec<UnitId> = self
            .units
            .iter()
            .filter(|(_, unit)| unit.roles.iter().any(|r| r == role))
            .map(|(id, _)| *id)
            .collect();
        for unit in serving {
            self.join(&name, unit);
        }
        Ok(name)
    }

    /// The units that serve a destination's role, in the order in which they were found; empty when
    /// there is no such destination.
    pub fn destination(&self, role: &str) -> &[UnitId] {
        self.destinations.get(role).map_or(&[], |destination| &destination.units)
    }

    /// The unit that what is sent to a role next goes to, as the balance says, or else that of the
    /// [configuration](crate::Config::balance); with `takes_fields` one that takes [fields](crate::Fields), and none
    /// where it has been.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`]; [`ErrorKind::NoUnit`] when no unit serves it, or there is no such destination;
    /// [`ErrorKind::Unsupported`] when none of those that serve it takes fields; that of a
    /// [function](Balance::try_custom).
    pub fn choose(
        &self,
        role: &str,
        balance: Option<&Balance>,
        takes_fields: bool,
        tried: &Tried,
        now: Moment,
    ) -> Result<UnitId> {
        self.check_open()?;
        let destination = self.destinations.get(role).ok_or_else(|| self.no_unit(role))?;
        let balance = balance.unwrap_or(&self.config.balance);
        let units = Serving { peer: self, units: &destination.units };
        let wanted = Wanted { balance, takes_fields, tried };
        let chosen = destination.turn.choose(&units, wanted, &|| now)?;
        chosen.map(|at| destination.units[at]).ok_or_else(|| self.no_choice(role, takes_fields))
    }

    /// The unit that takes a message from the queue of one that is lost, by the balance of the
    /// [configuration](crate::Config::balance), or the least loaded where that is a function.
    ///
    /// # Errors
    /// As [`choose`](Peer::choose).
    pub fn choose_for(&self, unsent: &Unsent, now: Moment) -> Result<UnitId> {
        // A function of the user's is not called with this peer's lock, and has not been asked before either.
        let plain = Balance::least_loaded();
        let balance = self.config.balance.means_one().then_some(&plain);
        self.choose(unsent.role(), balance, false, &Tried::NONE, now)
    }

    /// What a function of the caller's can [choose](Peer::choose) from, for hosts that must not call it with this
    /// peer's lock. `balance` says what is preferred.
    pub fn candidates(
        &self,
        role: &str,
        balance: &Balance,
        takes_fields: bool,
        tried: &Tried,
        now: Moment,
    ) -> Vec<Candidate<'_>> {
        let Some(destination) = self.destinations.get(role) else { return Vec::new() };
        let wanted = Wanted { balance, takes_fields, tried };
        let units = Serving { peer: self, units: &destination.units };
        let places = wanted.candidates(&destination.turn, &units, &|| now);
        let load = |unit| self.units.get(&unit).map(|state| (unit, &*state.load));
        let loads = places.into_iter().filter_map(|at| load(destination.units[at]));
        loads.map(|(unit, load)| load.candidate(unit, now)).collect()
    }

    /// How the units that serve a role [stand](Balance::standings); empty when there is no such destination.
    pub fn standings(&self, role: &str, balance: Option<&Balance>, now: Moment) -> Vec<Standing> {
        let Some(destination) = self.destinations.get(role) else { return Vec::new() };
        let units = Serving { peer: self, units: &destination.units };
        balance.unwrap_or(&self.config.balance).standings(&units, now)
    }

    /// The error where nothing could be [chosen](Peer::choose).
    #[cold]
    pub fn no_choice(&self, role: &str, takes_fields: bool) -> Error {
        let units = self.destination(role);
        let takes =
            |unit: &UnitId| self.units.get(unit).is_some_and(|state| state.load.takes_fields());
        // Where one takes them, it was passed over for another reason.
        if !takes_fields || units.is_empty() || units.iter().any(takes) {
            return self.no_unit(role);
        }
        let text = format!("No connected unit with role [{role}] takes headers");
        Error::new(ErrorKind::Unsupported, text)
            .with_hint("Their versions are too old. Do not require headers to leave them out.")
    }

    /// The error of what is sent to a role that no unit serves.
    #[cold]
    pub fn no_unit(&self, role: &str) -> Error {
        // In the order in which they were found, whatever the order of the table.
        let mut units: Vec<_> = self.units.iter().collect();
        units.sort_unstable_by_key(|(id, _)| **id);
        let units = units
            .into_iter()
            .map(|(_, unit)| (unit.info.label(), unit.roles.iter().map(AsRef::as_ref)));
        Error::new(ErrorKind::NoUnit, format!("No connected units with role [{role}]"))
            .with_hint(hint::no_unit(role, units))
    }

    /// Tells of units that are [left out](Balance::eject) since it was called last, or are not any more. To be
    /// called when a choice [has news](Turn::has_news); an [`Engine`](crate::Engine) does so by itself.
    pub fn tell_ejections(&mut self) {
        if !self.ejections.swap(false, Ordering::Relaxed) {
            return;
        }
        let changes = |(role, destination): (&Arc<str>, &Destination)| {
            let role = role.clone();
            let changes = destination.turn.take_changes().into_iter();
            changes.map(move |(unit, out)| (role.clone(), unit, out))
        };
        let changes: Vec<_> = self.destinations.iter().flat_map(changes).collect();
        for (role, unit, out) in changes {
            self.event(match out {
                true => PeerEvent::UnitEjected { role, unit },
                false => PeerEvent::UnitRestored { role, unit },
            });
        }
    }

    /// Whether there is anything to [tell](Peer::tell_ejections).
    #[inline]
    pub(crate) fn has_ejections(&self) -> bool {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Whose turn it is at a destination, for hosts that choose without this peer's lock.
    pub fn turn(&self, role: &str) -> Option<&Arc<Turn>> {
        self.destinations.get(role).map(|destination| &destination.turn)
    }

    /// How destinations choose where nothing else is said.
    pub fn balance(&self) -> &Balance {
        &self.config.balance
    }

    /// The destinations' roles.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<str>> {
        self.destinations.keys()
    }

    pub(super) fn join(&mut self, role: &Arc<str>, unit: UnitId) {
        let Some(Destination { units, .. }) = self.destinations.get_mut(role) else { return };
        if units.contains(&unit) {
            return;
        }
        units.push(unit);
        let first = units.len() == 1;
        if first {
            self.event(PeerEvent::DestinationOpened { role: role.clone() });
        }
        self.event(PeerEvent::DestinationGained { role: role.clone(), unit });
    }

    pub(super) fn leave(&mut self, role: &Arc<str>, unit: UnitId) {
        let Some(Destination { units, .. }) = self.destinations.get_mut(role) else { return };
        let Some(at) = units.iter().position(|known| *known == unit) else { return };
        units.remove(at);
        let last = units.is_empty();
        self.event(PeerEvent::DestinationLost { role: role.clone(), unit });
        if last {
            self.event(PeerEvent::DestinationClosed { role: role.clone() });
        }
    }

    /// Replaces the roles of a unit and moves it between the destinations.
    pub(super) fn set_unit_roles(&mut self, unit: UnitId, mut roles: Vec<String>) {
        let Some(state) = self.units.get_mut(&unit) else { return };
        let mut seen = HashSet::new();
        let repeated: Vec<bool> = roles.iter().map(|role| !seen.insert(role.as_str())).collect();
        let mut repeated = repeated.into_iter();
        roles.retain(|_| !repeated.next().unwrap_or_default());
        let denied = state.keep_allowed(&mut roles);
        let before = std::mem::replace(&mut state.roles, roles.into());
        let after = state.roles.clone();
        if let Some(denial) = denied {
            self.event(PeerEvent::Denied { unit, denial });
        }
        let Some(state) = self.units.get(&unit) else { return };
        if before.is_empty() != after.is_empty() {
            let name = state.info.name.clone();
            self.note_alike(&name);
        }
        let kept: HashSet<&str> = after.iter().map(String::as_str).collect();
        for role in before.iter().filter(|role| !kept.contains(role.as_str())) {
            if let Some((role, _)) = self.destinations.get_key_value(role.as_str()) {
                let role = role.clone();
                self.leave(&role, unit);
            }
        }
        for role in after.iter() {
            if let Some((role, _)) = self.destinations.get_key_value(role.as_str()) {
                let role = role.clone();
                self.join(&role, unit);
            }
        }
    }

    /// Those who serve roles under the same name can be told apart by their ids only.
    fn note_alike(&self, name: &str) {
        let same = self.units.values().filter(|unit| unit.info.name == name);
        let serving: Vec<_> = same.filter(|unit| !unit.roles.is_empty()).collect();
        for unit in &serving {
            unit.load.set_alike(serving.len() > 1);
        }
    }

    /// A unit announced its roles. Announcements that came out of order are ignored.
    pub(super) fn unit_roles(&mut self, unit: UnitId, update: RolesUpdate) {
        let Some(state) = self.units.get_mut(&unit) else { return };
        if let Some(i) = update.i {
            if i <= state.last_update {
                return;
            }
            state.last_update = i;
        }
        self.set_unit_roles(unit, update.roles);
        if let Some(state) = self.units.get(&unit) {
            let roles = state.roles.clone();
            self.event(PeerEvent::UnitRoles { unit, roles });
        }
    }
}

impl UnitState {
    /// Takes away the roles that the unit may not serve: they do not exist for this peer.
    fn keep_allowed(&mut self, roles: &mut Vec<String>) -> Option<Denial> {
        let Some(rights) = self.load.rights() else {
            self.announced = Vec::new();
            return None;
        };
        let before = std::mem::replace(&mut self.announced, roles.clone());
        // Told once, not with each announcement.
        let kept: HashSet<&str> = self.roles.iter().map(String::as_str).collect();
        let told: HashSet<&str> =
            before.iter().map(String::as_str).filter(|role| !kept.contains(role)).collect();
        let mut denial: Option<Denial> = None;
        roles.retain(|role| {
            let may = rights.may_serve(role);
            if !may && !told.contains(role.as_str()) {
                let count = denial.as_ref().map_or(0, |denial| denial.count);
                denial = Some(Denial { count: count + 1, ..Denial::serve(role) });
            }
            may
        });
        denial
    }
}

/// The units that serve a role.
struct Serving<'a> {
    peer: &'a Peer,
    units: &'a [UnitId],
}

impl Units for Serving<'_> {
    fn count(&self) -> usize {
        self.units.len()
    }

    fn unit(&self, at: usize) -> UnitId {
        self.units[at]
    }

    fn load(&self, at: usize) -> &Load {
        self.peer.units.get(&self.units[at]).map_or(Load::none(), |unit| &unit.load)
    }
}

fn check_role(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "Role's name should be a string"));
    }
    wire::check_name(name)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))
}
