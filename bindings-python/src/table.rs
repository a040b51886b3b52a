//! The Python objects that wait for something of the engine's.

use std::collections::{BTreeMap, BTreeSet};

use pyo3::{PyVisit, prelude::*};
use roletalk_engine::{Engine, Error, Fields, Moment, Question, StreamId, UnitId, too_many_parked};
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::{
    call::Call,
    context::Ticket,
    request::{Course, Parked, Place, Request, Spot},
    routes::Routes,
};

/// A request that was sent, or is to be.
pub(crate) struct Waiting {
    pub(crate) future: Py<PyAny>,
    pub(crate) request: Request,
    pub(crate) place: Place,
    /// Places are used again, serials are not.
    pub(crate) serial: u64,
    /// It wants an `Answer`.
    pub(crate) full: bool,
    /// The future tells when it is cancelled, see [`Table::watched`].
    pub(crate) watched: bool,
}

/// A request that was sent a short while ago, whose future tells nobody when it is cancelled.
pub(crate) struct Fresh {
    pub(crate) tag: usize,
    pub(crate) serial: u64,
    /// How often it was looked at.
    pub(crate) looks: u8,
}

/// Requests that wait for room or for a unit.
#[derive(Default)]
pub(crate) struct Parking {
    /// Their places in the table by their serial numbers, so in their order.
    spots: FxHashMap<Spot, BTreeMap<u64, usize>>,
    due: BTreeSet<(Moment, usize)>,
    /// How many wait for a unit.
    for_unit: usize,
}

impl Parking {
    #[cold]
    fn add(&mut self, Parked { spot, due, .. }: &Parked, (tag, serial): (usize, u64)) {
        self.spots.entry(spot.clone()).or_default().insert(serial, tag);
        self.due.insert((*due, tag));
        self.for_unit += usize::from(spot.is_role());
    }

    #[cold]
    fn remove(&mut self, Parked { spot, due, .. }: &Parked, (tag, serial): (usize, u64)) {
        self.due.remove(&(*due, tag));
        self.for_unit -= usize::from(spot.is_role());
        if let Some(at_spot) = self.spots.get_mut(spot) {
            at_spot.remove(&serial);
            if at_spot.is_empty() {
                self.spots.remove(spot);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Places and serial numbers of those that wait for something.
    pub(crate) fn at(&self, spot: &Spot) -> Vec<(usize, u64)> {
        let at_spot = self.spots.get(spot).into_iter().flatten();
        at_spot.map(|(serial, tag)| (*tag, *serial)).collect()
    }

    /// When the first one waits no longer.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Places of those that wait no longer than until then.
    pub(crate) fn due(&self, now: Moment) -> Vec<usize> {
        self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, tag)| *tag).collect()
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        self.due.iter().map(|(_, tag)| *tag).collect()
    }
}

/// Something whose handler is running.
pub(crate) struct Running {
    serial: u64,
    pub(crate) unit: UnitId,
    pub(crate) question: Question,
    /// Kept alive by nobody else.
    pub(crate) task: Option<Py<PyAny>>,
    pub(crate) call: Option<Py<Call>>,
    /// Headers of the answer.
    pub(crate) fields: Option<Box<Fields>>,
}

/// The loop's timer for the engine's deadline.
pub(crate) struct Timer {
    pub(crate) at: Moment,
    pub(crate) handle: Py<PyAny>,
}

/// Everything in here that is a Python object has to be taken out before it is dropped: dropping
/// may run Python code, and the table is locked.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) routes: Routes,
    /// By the engine's tag.
    pub(crate) waiting: Slab<Waiting>,
    /// Those of them that no unit has.
    pub(crate) parking: Parking,
    /// Those of them to be looked at, and when.
    pub(crate) fresh: Vec<Fresh>,
    pub(crate) look_at: Option<Moment>,
    /// Where those are whose futures tell when they are cancelled, by the addresses of the futures.
    pub(crate) watched: FxHashMap<usize, (usize, u64)>,
    pub(crate) running: Slab<Running>,
    /// Those of them that may be cancelled.
    pub(crate) requests: roletalk_host::Running<Ticket>,
    serial: u64,
    /// Whose tasks may not have begun, and how often the loop had been asked for a flush by then.
    pub(crate) young: Vec<(Ticket, u64)>,
    pub(crate) units: FxHashMap<UnitId, Py<PyAny>>,
    /// Futures of those who wait for a stream to move.
    pub(crate) streams: FxHashMap<(UnitId, StreamId), Py<PyAny>>,
    /// Futures of those who wait for room in a unit's queue.
    pub(crate) room: FxHashMap<UnitId, Vec<Py<PyAny>>>,
    pub(crate) timer: Option<Timer>,
}

impl Table {
    pub(crate) fn begin(&mut self, unit: UnitId, question: Question) -> Ticket {
        let serial = self.next_serial();
        let running = Running { serial, unit, question, task: None, call: None, fields: None };
        Ticket { index: self.running.insert(running), serial }
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Its handler is to be told when it is cancelled.
    pub(crate) fn may_be_cancelled(&mut self, ticket: Ticket) {
        let Table { running, requests, .. } = self;
        if let Some(Running { unit, question, .. }) = running.get(ticket.index) {
            requests.add(*unit, question, ticket);
        }
    }

    pub(crate) fn waiting(&self, tag: usize, serial: u64) -> Option<&Waiting> {
        self.waiting.get(tag).filter(|waiting| waiting.serial == serial)
    }

    /// Whether a request that was not there may go to a place: at most so many wait for a unit.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`](roletalk_engine::ErrorKind::Overloaded).
    #[inline]
    pub(crate) fn admit(&self, place: &Place, engine: &Engine<u32>) -> Result<(), Error> {
        match place {
            Place::Parked(parked) if parked.spot.is_role() => self.has_place(engine),
            _ => Ok(()),
        }
    }

    /// Whether one more may wait for a unit.
    ///
    /// # Errors
    /// As [`admit`](Table::admit).
    #[cold]
    pub(crate) fn has_place(&self, engine: &Engine<u32>) -> Result<(), Error> {
        let most = engine.peer().limits().waiting_requests;
        if self.parking.for_unit < most { Ok(()) } else { Err(too_many_parked(most)) }
    }

    /// A request that is made again.
    pub(crate) fn course(&mut self, tag: usize) -> Option<&mut Course> {
        match &mut self.waiting.get_mut(tag)?.place {
            Place::Course(course) => Some(course),
            _ => None,
        }
    }

    /// Has a request that is made again wait for something else, or for nothing.
    pub(crate) fn rest(&mut self, tag: usize, parked: Option<Parked>) {
        let Table { waiting, parking, .. } = self;
        if let Some(Waiting { place: Place::Course(course), serial, .. }) = waiting.get_mut(tag) {
            if let Some(before) = &course.parked {
                parking.remove(before, (tag, *serial));
            }
            if let Some(parked) = &parked {
                parking.add(parked, (tag, *serial));
            }
            course.parked = parked;
        }
    }

    /// Has a request be somewhere else, if it [may](Table::admit).
    ///
    /// # Errors
    /// As there; nothing has changed then.
    pub(crate) fn move_to(
        &mut self,
        tag: usize,
        place: Place,
        engine: &Engine<u32>,
    ) -> Result<(), Error> {
        let before = self.waiting.get(tag).map(|waiting| &waiting.place);
        let counts = matches!(before, Some(Place::Parked(parked)) if parked.spot.is_role());
        if !counts {
            self.admit(&place, engine)?;
        }
        self.put(tag, place);
        Ok(())
    }

    /// Has a request be somewhere else.
    fn put(&mut self, tag: usize, place: Place) {
        let Table { waiting, parking, .. } = self;
        if let Some(waiting) = waiting.get_mut(tag) {
            if let Some(parked) = waiting.place.parked() {
                parking.remove(parked, (tag, waiting.serial));
            }
            if let Some(parked) = place.parked() {
                parking.add(parked, (tag, waiting.serial));
            }
            waiting.place = place;
        }
    }

    /// Adds a request. Returns its place in the table and its serial number.
    #[inline]
    pub(crate) fn add_waiting(&mut self, waiting: Waiting) -> (usize, u64) {
        let Table { waiting: table, parking, .. } = self;
        let (tag, serial) = (table.vacant_key(), waiting.serial);
        if let Some(parked) = waiting.place.parked() {
            parking.add(parked, (tag, serial));
        }
        table.insert(waiting);
        (tag, serial)
    }

    /// Takes out a request that waits.
    #[inline]
    pub(crate) fn take_waiting(&mut self, tag: usize) -> Option<Waiting> {
        let waiting = self.waiting.try_remove(tag)?;
        if let Some(parked) = waiting.place.parked() {
            self.parking.remove(parked, (tag, waiting.serial));
        }
        if waiting.watched {
            self.watched.remove(&address(&waiting.future));
        }
        Some(waiting)
    }

    /// Takes out a request for which a function is to choose the unit.
    #[cold]
    pub(crate) fn take_undecided(&mut self, (tag, serial): (usize, u64)) -> Option<Waiting> {
        match self.waiting(tag, serial)?.place {
            Place::Undecided(_) => self.take_waiting(tag),
            _ => None,
        }
    }

    pub(crate) fn running(&mut self, ticket: Ticket) -> Option<&mut Running> {
        running_of(&mut self.running, ticket)
    }

    pub(crate) fn end(&mut self, ticket: Ticket) -> Option<Running> {
        self.running(ticket)?;
        let running = self.running.remove(ticket.index);
        self.requests.remove(&running.question);
        Some(running)
    }

    /// Takes out the running ones that are young no longer when the loop was asked so often.
    pub(crate) fn grow_up(&mut self, py: Python<'_>, armings: u64) -> Vec<(Ticket, Py<PyAny>)> {
        let mut begun = Vec::new();
        for (ticket, at) in std::mem::take(&mut self.young) {
            if at == armings {
                self.young.push((ticket, at));
            } else if let Some(Running { task: Some(task), .. }) = self.running(ticket) {
                begun.push((ticket, task.clone_ref(py)));
            }
        }
        begun
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        self.routes.traverse(visit)?;
        let waiting = self.waiting.iter().map(|(_, waiting)| &waiting.future);
        let tasks = self.running.iter().filter_map(|(_, running)| running.task.as_ref());
        let calls = self.running.iter().filter_map(|(_, running)| running.call.as_ref());
        for call in calls {
            visit.call(call)?;
        }
        let rest = self.units.values().chain(self.streams.values());
        let rest = rest.chain(self.room.values().flatten());
        let timer = self.timer.iter().map(|timer| &timer.handle);
        for (_, waiting) in &self.waiting {
            visit.call(waiting.request.balance())?;
            if let Place::Course(course) = &waiting.place {
                visit.call(&course.context)?;
            }
        }
        for object in waiting.chain(tasks).chain(rest).chain(timer) {
            visit.call(object)?;
        }
        Ok(())
    }
}

/// What a ticket names, if it is still running.
pub(crate) fn running_of(running: &mut Slab<Running>, ticket: Ticket) -> Option<&mut Running> {
    running.get_mut(ticket.index).filter(|running| running.serial == ticket.serial)
}

/// Where an object is, as long as it is.
pub(crate) fn address(object: &Py<PyAny>) -> usize {
    object.as_ptr() as usize
}
