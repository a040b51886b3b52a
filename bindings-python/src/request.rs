//! What is asked of other peers, and its way to a unit that takes it.

use std::{sync::Arc, time::Duration};

use pyo3::{prelude::*, types::PyBytes};
use roletalk_engine::{
    Engine, Error, ErrorKind, Fields, Moment, Order, Outgoing, StreamId, TimeLimit, Tried, Unit,
    UnitId, timed_out, wire::Direction,
};

use crate::data::Encoded;

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
    pub(crate) tried: Tried,
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
}

enum Next {
    Unit(UnitId),
    Wait(Place),
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
                Next::Wait(place) => Ok(place),
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
            Next::Wait(place) => Ok(place),
        }
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
            Spot::Role(_) => match self.choose(engine, left, now)? {
                Next::Unit(unit) => unit,
                Next::Wait(place) => return Ok(place),
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
                Next::Wait(place) => return Ok(place),
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
        let next = self.choose(engine, Some(unit), now);
        next.map_err(|_| match &self.more {
            Some(more) => more.tried.nowhere(error),
            None => error,
        })
    }

    /// The unit where it has not been whose turn it is; `left` has not begun it.
    #[inline]
    fn choose(
        &self,
        engine: &mut Engine<u32>,
        left: Option<UnitId>,
        now: Moment,
    ) -> Result<Next, Error> {
        let chosen = match &self.more {
            None => engine.choose(&self.role, None, false, &Tried::NONE, now),
            Some(more) => engine.choose(&self.role, None, more.required, &more.tried, now),
        };
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
                Ok(Next::Wait(Place::Parked(Box::new(parked))))
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
            bulkhead: None,
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
