//! What is asked of other peers, and its way to a unit that takes it.

use std::{mem, sync::Arc, time::Duration};

use pyo3::{prelude::*, types::PyBytes};
use roletalk_engine::{
    Attempts, Bulkhead, Engine, Error, ErrorKind, Fields, Moment, Moves, Order, Outgoing, StreamId,
    TimeLimit, Tried, Unit, UnitId, timed_out, wire::Direction,
};

use crate::{balance::Balance, data::Encoded};

/// A request, or the opening of a stream: kept until it is answered, since it may go on to other units. Asked
/// under locks, so that nothing in here may run Python code.
pub(crate) struct Request {
    pub(crate) role: Arc<str>,
    /// In UTF-8.
    pub(crate) event: Py<PyBytes>,
    pub(crate) data: Encoded,
    pub(crate) order: Order,
    /// Rare, so apart.
    pub(crate) more: Option<Box<More>>,
    /// The way of the stream that it asks for.
    pub(crate) stream: Option<Direction>,
    /// The caller has chosen the unit, and meant that one.
    pub(crate) chosen: bool,
    /// Whether a unit is waited for.
    pub(crate) waits: bool,
    pub(crate) limit: Option<Duration>,
    /// The first attempt.
    pub(crate) since: Moment,
}

#[derive(Default)]
pub(crate) struct More {
    pub(crate) fields: Option<Fields>,
    /// Whether only units are chosen that take fields.
    pub(crate) required: bool,
    /// How the unit is chosen, where the engine is not to do it as ever.
    pub(crate) balance: Option<Py<Balance>>,
    /// The bound of requests in flight that it counts for.
    pub(crate) bulkhead: Option<Bulkhead>,
    pub(crate) tried: Tried,
    /// The request of which it is one attempt: its place in the table and its serial number.
    pub(crate) attempt_of: Option<(usize, u64)>,
}

/// Where a request is.
pub(crate) enum Place {
    /// A unit has it.
    Sent {
        unit: UnitId,
        corr: u64,
        stream: Option<StreamId>,
    },
    Parked(Box<Parked>),
    /// A user function is to say where it goes. It is called without any lock: see
    /// [`Engine::decide`](crate::engine::Engine).
    Undecided(Box<Undecided>),
    /// It is made again where that may help: each attempt is a request of its own.
    Course(Box<Course>),
}

impl Place {
    /// What it waits for, if it does.
    #[inline]
    pub(crate) fn parked(&self) -> Option<&Parked> {
        match self {
            Place::Parked(parked) => Some(parked),
            Place::Course(course) => course.parked.as_ref(),
            Place::Sent { .. } | Place::Undecided(_) => None,
        }
    }
}

/// A request that is made again.
pub(crate) struct Course {
    pub(crate) attempts: Attempts,
    /// Units, and places and serial numbers of the attempts that are under way: two at most.
    pub(crate) under_way: Vec<(UnitId, usize, u64)>,
    pub(crate) parked: Option<Parked>,
    /// The context of the caller, where a function chooses the unit.
    pub(crate) context: Option<Py<PyAny>>,
    /// That function is being called.
    pub(crate) is_choosing: bool,
    /// With what an attempt has failed last, if headers came with that.
    pub(crate) said: Option<Box<(Error, Fields)>>,
}

impl Course {
    pub(crate) fn new(attempts: Attempts, context: Option<Py<PyAny>>) -> Course {
        let (under_way, parked) = (Vec::new(), None);
        Course { attempts, under_way, parked, context, is_choosing: false, said: None }
    }
}

/// It was at `left` before, and has failed there with `error`.
#[derive(Default)]
pub(crate) struct Undecided {
    left: Option<UnitId>,
    error: Option<Error>,
}

/// It waits here, at most until `due`; it was at `left` before.
pub(crate) struct Parked {
    pub(crate) spot: Spot,
    pub(crate) due: Moment,
    pub(crate) left: Option<UnitId>,
}

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Spot {
    /// Room in the queue of a unit.
    Room(UnitId),
    /// A unit that serves a role.
    Role(Arc<str>),
    /// The time of what is to be done next.
    Time,
}

impl Spot {
    pub(crate) fn is_role(&self) -> bool {
        matches!(self, Spot::Role(_))
    }
}

enum Next {
    Unit(UnitId),
    /// It is not sent for now.
    Stay(Place),
}

impl Request {
    /// Sends it to a unit that takes it: to `first`, if that is given.
    ///
    /// # Errors
    /// The outcome, when there is none.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        first: Option<UnitId>,
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        match first {
            Some(unit) => self.go(py, engine, unit, tag, now),
            None => match self.choose(engine, None, now)? {
                Next::Unit(unit) => self.go(py, engine, unit, tag, now),
                Next::Stay(place) => Ok(place),
            },
        }
    }

    /// Sends it to the next unit, after it has failed at one with this error.
    ///
    /// # Errors
    /// The outcome: this error, when something may have been begun, or there is nowhere else to go.
    #[cold]
    pub(crate) fn go_on(
        &mut self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        (unit, error): (UnitId, Error),
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        match self.next(engine, unit, error, now)? {
            Next::Unit(unit) => self.go(py, engine, unit, tag, now),
            Next::Stay(place) => Ok(place),
        }
    }

    /// Sends it to the unit that a function has chosen for it; `choice` may be why there is none.
    ///
    /// # Errors
    /// As [`go_on`](Self::go_on).
    #[cold]
    pub(crate) fn decided(
        &mut self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        undecided: &mut Undecided,
        choice: Result<UnitId, Error>,
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        let Undecided { left, error } = mem::take(undecided);
        // The function may have taken its time.
        if self.due(engine) <= now {
            return Err(timed_out(self.whole_limit(engine)));
        }
        match (self.chosen(engine, left, choice, now), error) {
            (Ok(Next::Unit(unit)), _) => self.go(py, engine, unit, tag, now),
            (Ok(Next::Stay(place)), _) => Ok(place),
            (Err(closed), _) if closed.kind() == ErrorKind::Closed => Err(closed),
            (Err(_), Some(error)) => Err(self.nowhere(error)),
            (Err(error), None) => Err(error),
        }
    }

    /// Whether its future is to tell from the start when it is cancelled: the answer to a stream must not find
    /// nobody, and what is given up leaves room to others at once.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        let is_bounded = || self.more.as_ref().is_some_and(|more| more.bulkhead.is_some());
        self.stream.is_some() || is_bounded()
    }

    /// How the unit is chosen, where the engine is not to do it as ever.
    pub(crate) fn balance(&self) -> Option<&Py<Balance>> {
        self.more.as_ref()?.balance.as_ref()
    }

    /// The same, where a function chooses it.
    pub(crate) fn function(&self) -> Option<&Py<Balance>> {
        self.balance().filter(|balance| balance.get().function().is_some())
    }

    /// The function that is to choose the unit, and what it can choose from.
    pub(crate) fn offered(
        &self,
        py: Python<'_>,
        engine: &Engine<u32>,
        now: Moment,
    ) -> Option<(Py<Balance>, Vec<Offered>)> {
        self.offered_but(py, engine, &self.more.as_ref()?.tried, now)
    }

    /// The same, where that is said apart: it is not to go where it has been.
    pub(crate) fn offered_but(
        &self,
        py: Python<'_>,
        engine: &Engine<u32>,
        tried: &Tried,
        now: Moment,
    ) -> Option<(Py<Balance>, Vec<Offered>)> {
        let (balance, more) = (self.function()?, self.more.as_ref()?);
        let offered = offered(engine, &self.role, balance.get(), more.required, tried, now);
        Some((balance.clone_ref(py), offered))
    }

    /// The unit that the engine chooses for it, where it has not been.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick(
        &self,
        engine: &Engine<u32>,
        tried: &Tried,
        now: Moment,
    ) -> Result<UnitId, Error> {
        let more = self.more.as_ref();
        let balance = self.balance().map(|balance| balance.get().core());
        engine.choose(&self.role, balance, more.is_some_and(|more| more.required), tried, now)
    }

    /// One attempt of it, at a unit that was chosen; the request has this place and serial number.
    pub(crate) fn attempt(&self, py: Python<'_>, attempt_of: (usize, u64)) -> Request {
        let more = self.more.as_ref();
        let more = More {
            fields: more.and_then(|more| more.fields.clone()),
            bulkhead: more.and_then(|more| more.bulkhead.clone()),
            attempt_of: Some(attempt_of),
            ..More::default()
        };
        Request {
            role: self.role.clone(),
            event: self.event.clone_ref(py),
            data: self.data.clone_ref(py),
            order: self.order,
            more: Some(Box::new(more)),
            stream: None,
            chosen: true,
            waits: false,
            limit: self.limit,
            since: self.since,
        }
    }

    /// The request of which it is one attempt.
    #[inline]
    pub(crate) fn attempt_of(&self) -> Option<(usize, u64)> {
        self.more.as_ref()?.attempt_of
    }

    /// Why it goes nowhere, if it can go to none of those that were offered.
    pub(crate) fn no_choice(&self, engine: &Engine<u32>, offered: &[Offered]) -> Error {
        let required = self.more.as_ref().is_some_and(|more| more.required);
        no_choice(engine, &self.role, required, offered)
    }

    /// Tries it again, when what it waited for may be there.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    #[cold]
    pub(crate) fn retry(
        &mut self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        (spot, left): (&Spot, Option<UnitId>),
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        let unit = match spot {
            Spot::Room(unit) => *unit,
            Spot::Role(_) | Spot::Time => match self.choose(engine, left, now)? {
                Next::Unit(unit) => unit,
                Next::Stay(place) => return Ok(place),
            },
        };
        self.go(py, engine, unit, tag, now)
    }

    /// How long it may take.
    pub(crate) fn whole_limit(&self, engine: &Engine<u32>) -> Duration {
        self.limit.unwrap_or(engine.peer().limits().request_timeout)
    }

    fn due(&self, engine: &Engine<u32>) -> Moment {
        self.since + self.whole_limit(engine)
    }

    /// Its outcome when it has waited in vain.
    #[cold]
    pub(crate) fn late(&self, engine: &Engine<u32>, spot: &Spot) -> Error {
        let limit = self.whole_limit(engine);
        match spot {
            Spot::Room(_) | Spot::Time => timed_out(limit),
            Spot::Role(role) => {
                let no_unit = engine.peer().no_unit(role);
                match &self.more {
                    Some(more) => more.tried.late(limit, &no_unit),
                    None => Tried::NONE.late(limit, &no_unit),
                }
            }
        }
    }

    #[inline]
    fn go(
        &mut self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        mut unit: UnitId,
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        loop {
            let error = match self.send(py, engine, unit, tag, now) {
                Err(error) => error,
                place => return place,
            };
            match self.next(engine, unit, error, now)? {
                Next::Unit(next) => unit = next,
                Next::Stay(place) => return Ok(place),
            }
        }
    }

    #[cold]
    fn next(
        &mut self,
        engine: &mut Engine<u32>,
        unit: UnitId,
        error: Error,
        now: Moment,
    ) -> Result<Next, Error> {
        if self.chosen || !self.more.get_or_insert_default().tried.note(unit, &error) {
            return Err(error);
        }
        if self.due(engine) <= now {
            return Err(timed_out(self.whole_limit(engine)));
        }
        if self.function().is_some() {
            let undecided = Undecided { left: Some(unit), error: Some(error) };
            return Ok(Next::Stay(Place::Undecided(Box::new(undecided))));
        }
        let next = self.choose(engine, Some(unit), now);
        next.map_err(|_| self.nowhere(error))
    }

    /// Its outcome when it has failed with this error and there is nowhere else to go.
    fn nowhere(&self, error: Error) -> Error {
        match &self.more {
            Some(more) => more.tried.nowhere(error),
            None => error,
        }
    }

    /// The next unit where it has not been; `left` has not begun it.
    #[inline]
    fn choose(
        &self,
        engine: &mut Engine<u32>,
        left: Option<UnitId>,
        now: Moment,
    ) -> Result<Next, Error> {
        let chosen = match &self.more {
            None => engine.choose(&self.role, None, false, &Tried::NONE, now),
            Some(_) if self.function().is_some() => {
                let undecided = Undecided { left, error: None };
                return Ok(Next::Stay(Place::Undecided(Box::new(undecided))));
            }
            Some(more) => {
                let balance = more.balance.as_ref().map(|balance| balance.get().core());
                engine.choose(&self.role, balance, more.required, &more.tried, now)
            }
        };
        self.chosen(engine, left, chosen, now)
    }

    #[inline]
    fn chosen(
        &self,
        engine: &mut Engine<u32>,
        left: Option<UnitId>,
        chosen: Result<UnitId, Error>,
        now: Moment,
    ) -> Result<Next, Error> {
        match chosen {
            Ok(unit) => {
                if let Some(left) = left {
                    engine.with_unit(left, now, Unit::note_rerouted);
                }
                Ok(Next::Unit(unit))
            }
            Err(error) if self.waits && error.kind() == ErrorKind::NoUnit => {
                let spot = Spot::Role(self.role.clone());
                let parked = Parked { spot, due: self.due(engine), left };
                Ok(Next::Stay(Place::Parked(Box::new(parked))))
            }
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn send(
        &self,
        py: Python<'_>,
        engine: &mut Engine<u32>,
        unit: UnitId,
        tag: u32,
        now: Moment,
    ) -> Result<Place, Error> {
        let outgoing = Outgoing {
            role: &self.role,
            event: std::str::from_utf8(self.event.bind(py).as_bytes()).unwrap_or_default(),
            payload: self.data.payload(py),
            order: self.order,
            fields: self.more.as_ref().and_then(|more| more.fields.as_ref()),
            bulkhead: self.more.as_ref().and_then(|more| more.bulkhead.as_ref()),
            moves: Moves::WithinUnit,
        };
        let limit = TimeLimit { limit: self.limit, since: Some(self.since) };
        let sent = engine.with_unit(unit, now, |machine| {
            if machine.must_wait(now) {
                return Ok(None);
            }
            let sent = match self.stream {
                None => machine.request(outgoing, limit, now, tag).map(|corr| (corr, None)),
                Some(direction) => machine
                    .open_stream(direction, outgoing, limit, now, tag)
                    .map(|(stream, corr)| (corr, Some(stream))),
            };
            sent.map(Some)
        });
        match sent.unwrap_or_else(|| Err(Error::unit_gone()))? {
            Some((corr, stream)) => Ok(Place::Sent { unit, corr, stream }),
            None => {
                let (spot, due) = (Spot::Room(unit), self.due(engine));
                Ok(Place::Parked(Box::new(Parked { spot, due, left: None })))
            }
        }
    }
}

/// A unit that a function can choose, as the engine tells of it.
pub(crate) struct Offered {
    pub(crate) unit: UnitId,
    pub(crate) waiting: usize,
    pub(crate) answer_time: Duration,
}

/// What a function can choose from.
pub(crate) fn offered(
    engine: &Engine<u32>,
    role: &str,
    balance: &Balance,
    required: bool,
    tried: &Tried,
    now: Moment,
) -> Vec<Offered> {
    let all = engine.peer().candidates(role, balance.core(), required, tried, now);
    let offered = all.into_iter().map(|candidate| Offered {
        unit: candidate.unit,
        waiting: candidate.waiting,
        answer_time: candidate.answer_time,
    });
    offered.collect()
}

/// Why there is no unit, when nothing was offered, or a function wants none of what was.
#[cold]
pub(crate) fn no_choice(
    engine: &Engine<u32>,
    role: &str,
    required: bool,
    offered: &[Offered],
) -> Error {
    engine.peer().no_choice(role, required && offered.is_empty())
}
