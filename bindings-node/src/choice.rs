//! The choice among the units that JavaScript knows of a destination.

use std::sync::Arc;

use napi_derive::napi;
use roletalk_engine::{Balance, Load, Moment, Result, Tried, Turn, Unit, UnitId, Units, Wanted};
use roletalk_host::Host;

use crate::slab::Slab;

/// How the units of a destination are chosen.
pub(crate) struct Destination {
    turn: Arc<Turn>,
    pub(crate) balance: Balance,
}

/// The destinations, numbered.
#[derive(Default)]
pub(crate) struct Destinations(Vec<Destination>);

impl Destinations {
    pub(crate) fn add(&mut self, turn: Arc<Turn>, balance: Balance) -> u32 {
        self.0.push(Destination { turn, balance });
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
            (name, tags) => balance(name.as_deref(), tags.as_deref(), peer)?,
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

/// Where something has been.
#[napi]
#[derive(Default)]
pub struct TriedUnits(pub(crate) Tried);

#[napi]
impl TriedUnits {
    /// Nowhere.
    #[napi(constructor)]
    #[must_use]
    pub fn new() -> TriedUnits {
        TriedUnits::default()
    }
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
        at.turn.choose(self, wanted, &|| now).map_or(-1, |place| place as i32)
    }

    /// See [`NativePeer::candidates`](crate::NativePeer::candidates).
    pub(crate) fn candidates(&self, wanted: Wanted<'_>, now: Moment) -> Vec<f64> {
        let candidates = wanted.candidates(self, &|| now).into_iter().flat_map(|at| {
            let candidate = self.load(at).candidate(self.unit(at), now);
            [at as f64, candidate.waiting as f64, candidate.answer_time.as_secs_f64() * 1e3]
        });
        candidates.collect()
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
