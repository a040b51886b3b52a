//! The choice among the units that JavaScript knows of a destination.

use std::{sync::Arc, time::Duration};

use napi_derive::napi;
use roletalk_engine::{
    Balance, Bulkhead, Ejection, Load, Moment, Result, Turn, Unit, UnitId, Units, Wanted,
};
use roletalk_host::Host;

use crate::slab::Slab;

/// How the units of a destination are chosen.
pub(crate) struct Destination {
    turn: Arc<Turn>,
    balance: Balance,
    eject: Option<Ejection>,
    /// The bound of requests in flight, if there is one.
    pub(crate) bulkhead: Option<Bulkhead>,
}

impl Destination {
    /// See [`Turn`].
    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(crate) fn balance(&self) -> &Balance {
        &self.balance
    }

    pub(crate) fn set_balance(&mut self, balance: Balance, eject: Option<Ejection>) {
        self.balance = with_ejection(balance, eject);
        self.eject = eject;
    }

    /// Whether the choice depends on what was sent before, so that all of it has to be counted.
    pub(crate) fn counts_requests(&self) -> bool {
        self.eject.is_some() || self.balance.counts_requests()
    }
}

fn with_ejection(balance: Balance, eject: Option<Ejection>) -> Balance {
    match eject {
        Some(eject) => balance.eject(eject),
        None => balance,
    }
}

/// When units that keep failing are left out. What is not given is as the engine has it.
#[napi(object)]
pub struct EjectionSettings {
    /// So many failures in a row.
    pub failures: Option<u32>,
    /// Whether rejections are failures.
    pub rejections: Option<bool>,
    /// Milliseconds that a unit is left out at first.
    pub time: Option<f64>,
    /// The most of these.
    pub most: Option<f64>,
}

impl From<EjectionSettings> for Ejection {
    fn from(settings: EjectionSettings) -> Ejection {
        let EjectionSettings { failures, rejections, time, most } = settings;
        let mut ejection = Ejection::default();
        ejection.failures = failures.unwrap_or(ejection.failures);
        ejection.rejections = rejections.unwrap_or(ejection.rejections);
        ejection.time = time.map_or(ejection.time, millis);
        ejection.most = most.map_or(ejection.most, millis);
        ejection
    }
}

/// A duration of JavaScript's. What is below zero is none, what is too long the longest that there is.
pub(crate) fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis.max(0.0) / 1e3).unwrap_or(Duration::MAX)
}

/// The destinations, numbered.
#[derive(Default)]
pub(crate) struct Destinations(Vec<Destination>);

impl Destinations {
    pub(crate) fn add(&mut self, turn: Arc<Turn>, balance: Balance) -> u32 {
        self.0.push(Destination { turn, balance, eject: None, bulkhead: None });
        (self.0.len() - 1) as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Destination> {
        self.0.get(number as usize)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Destination> {
        self.0.get_mut(number as usize)
    }
}

/// What is to be sent, as far as the choice hangs on it.
#[napi(object)]
pub struct WantedSettings {
    /// The destination's number.
    pub destination: u32,
    /// Whether only units will do that take headers.
    pub takes_fields: bool,
    /// The name of another balance than that of the destination.
    pub balance: Option<String>,
    /// Other tags than the destination prefers: names and values in turn.
    pub prefer: Option<Vec<String>>,
}

impl WantedSettings {
    /// How to choose at this destination of the peer.
    pub(crate) fn balance(
        &self,
        destination: &Destination,
        peer: &Balance,
        key: Option<&[u8]>,
    ) -> Result<Balance> {
        let balance = match (&self.balance, &self.prefer) {
            (None, None) => destination.balance.clone(),
            (name, tags) => {
                let balance = balance(name.as_deref(), tags.as_deref(), peer)?;
                with_ejection(balance, destination.eject)
            }
        };
        Ok(key.map(|key| balance.with_key(key)).unwrap_or(balance))
    }
}

/// The balance with this name, or else this one, and with these tags.
pub(crate) fn balance(
    name: Option<&str>,
    tags: Option<&[String]>,
    otherwise: &Balance,
) -> Result<Balance> {
    let balance = name.map_or_else(|| Ok(otherwise.clone()), Balance::named)?;
    let tags = tags.unwrap_or_default().chunks_exact(2);
    Ok(tags.fold(balance, |balance, tag| balance.prefer(&*tag[0], &*tag[1])))
}

/// The units with these numbers.
pub(crate) struct Numbered<'a> {
    pub(crate) host: &'a Host,
    pub(crate) known: &'a Slab<UnitId>,
    pub(crate) numbers: &'a [u32],
}

impl Numbered<'_> {
    /// The place of the unit that what is wanted goes to, -1 for none.
    pub(crate) fn choose(&self, at: &Destination, wanted: Wanted<'_>, now: Moment) -> i32 {
        // Functions, which alone can fail, are not called here.
        let chosen = at.turn.choose(self, wanted, &|| now).ok().flatten();
        chosen.map_or(-1, |place| place as i32)
    }

    /// See [`NativePeer::candidates`](crate::NativePeer::candidates).
    pub(crate) fn candidates(&self, turn: &Turn, wanted: Wanted<'_>, now: Moment) -> Vec<f64> {
        let candidates = wanted.candidates(turn, self, &|| now).into_iter().flat_map(|at| {
            let candidate = self.load(at).candidate(self.unit(at), now);
            [at as f64, candidate.waiting as f64, candidate.answer_time.as_secs_f64() * 1e3]
        });
        candidates.collect()
    }

    /// See [`NativePeer::standings`](crate::NativePeer::standings).
    pub(crate) fn standings(&self, at: &Destination, now: Moment) -> Vec<f64> {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let standings = at.balance.standings(self, now).into_iter().flat_map(|standing| {
            let ejected = standing.ejected.map_or(-1.0, millis);
            let counts = [standing.waiting, standing.unanswered, standing.rejected];
            let [waiting, unanswered, rejected] = counts.map(|count| count as f64);
            [waiting, millis(standing.answer_time), unanswered, rejected, ejected]
        });
        standings.collect()
    }
}

impl Units for Numbered<'_> {
    fn count(&self) -> usize {
        self.numbers.len()
    }

    fn unit(&self, at: usize) -> UnitId {
        unit_of(self.known, self.numbers[at])
    }

    fn load(&self, at: usize) -> &Load {
        self.host.engine.unit(self.unit(at)).map_or(Load::none(), Unit::load)
    }
}

/// The unit with this number. For one that JavaScript has forgotten, one that there is not.
pub(crate) fn unit_of(known: &Slab<UnitId>, number: u32) -> UnitId {
    known.get(number).copied().unwrap_or(UnitId(u64::MAX))
}
