//! The Python objects that wait for something of the engine's.

use pyo3::{PyVisit, prelude::*};
use roletalk_engine::{Moment, Question, StreamId, UnitId};
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::{context::Ticket, routes::Routes};

/// A request that was sent.
pub(crate) struct Waiting {
    pub(crate) future: Py<PyAny>,
    pub(crate) unit: UnitId,
    pub(crate) corr: u64,
}

/// Something whose handler is running.
pub(crate) struct Running {
    serial: u64,
    pub(crate) unit: UnitId,
    pub(crate) question: Question,
    /// Kept alive by nobody else.
    pub(crate) task: Option<Py<PyAny>>,
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
    /// How many waited after the last sweep.
    pub(crate) swept: usize,
    pub(crate) running: Slab<Running>,
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
        self.serial += 1;
        let running = Running { serial: self.serial, unit, question, task: None };
        Ticket { index: self.running.insert(running), serial: self.serial }
    }

    pub(crate) fn running(&mut self, ticket: Ticket) -> Option<&mut Running> {
        self.running.get_mut(ticket.index).filter(|running| running.serial == ticket.serial)
    }

    pub(crate) fn end(&mut self, ticket: Ticket) -> Option<Running> {
        self.running(ticket)?;
        Some(self.running.remove(ticket.index))
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
        let rest = self.units.values().chain(self.streams.values());
        let rest = rest.chain(self.room.values().flatten());
        let timer = self.timer.iter().map(|timer| &timer.handle);
        for object in waiting.chain(tasks).chain(rest).chain(timer) {
            visit.call(object)?;
        }
        Ok(())
    }
}
