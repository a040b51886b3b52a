//! What the engine has to say, handed out: to futures, to handlers, and to the listener.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::{intern, prelude::*};
use roletalk_engine::{
    Data, EngineEvent, Error, Event, Incoming, Moment, PeerEvent, Question, UnitId, wire::Payload,
};

use roletalk_host::lock;

use super::Engine;
use crate::{
    context::{Context, Ticket},
    data::to_python,
    error::{ends_program, exception, text_of},
    routes::Mode,
};

/// What handing out events has come to.
#[derive(Clone, Copy)]
pub(super) struct Dispatched {
    /// There were events.
    pub(super) any: bool,
    /// Something will run in this turn of the loop that may want to send something.
    pub(super) woken: bool,
    /// There may be more: this was a batch.
    pub(super) full: bool,
}

/// Messages, requests and answers that are handed out before what they have caused is written, so that
/// the other side works on that while this one goes on: with all of a read at a time, the two take turns.
const BATCH: usize = 32;

impl Engine {
    /// Hands out all events.
    pub(super) fn dispatch(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<Dispatched> {
        let this = slf.get();
        let mut dispatched = Dispatched { any: false, woken: false, full: false };
        let mut handled = 0;
        loop {
            let event = {
                let mut state = lock(&this.state);
                // There may be no further turn when the peer is closed.
                if handled == BATCH && !state.is_closed() {
                    dispatched.full = true;
                    return Ok(dispatched);
                }
                state.poll_event()
            };
            let Some(event) = event else { return Ok(dispatched) };
            dispatched.any = true;
            if let EngineEvent::Unit { event: Event::Answer { .. } | Event::Incoming(..), .. } =
                &event
            {
                handled += 1;
            }
            dispatched.woken |= match event {
                EngineEvent::Unit { unit, event } => this.unit_event(slf, unit, event, now)?,
                EngineEvent::Peer(event) => this.peer_event(slf.py(), event)?,
                event => this.connection_event(slf.py(), event)?,
            };
        }
    }

    pub(super) fn unit_event(
        &self,
        slf: &Bound<'_, Engine>,
        unit: UnitId,
        event: Event<u32>,
        now: Moment,
    ) -> PyResult<bool> {
        let py = slf.py();
        match event {
            Event::Answer { tag, outcome, .. } => {
                let waiting = lock(&self.table).waiting.try_remove(tag as usize);
                if let Some(waiting) = waiting {
                    self.settle(waiting.future.bind(py), &outcome);
                }
                Ok(true)
            }
            Event::Incoming(incoming, question) => {
                self.incoming(slf, unit, incoming, question, now)
            }
            Event::Stream(stream) => {
                let waiter = lock(&self.table).streams.remove(&(unit, stream));
                Ok(wake(py, waiter))
            }
            Event::Room => {
                let waiters = lock(&self.table).room.remove(&unit);
                Ok(wake(py, waiters.into_iter().flatten()))
            }
            Event::SlowConsumer { queued, dropped, .. } => {
                let unit = self.unit_object(py, unit);
                self.tell(py, "slow_consumer", (unit, queued, dropped))
            }
            _ => Ok(false),
        }
    }

    /// Gives a future its outcome, unless nobody waits for it any more.
    pub(super) fn settle(&self, future: &Bound<'_, PyAny>, outcome: &Result<Data, Error>) {
        let py = future.py();
        let value = match outcome {
            Ok(data) => to_python(py, data.payload(), &self.codec),
            Err(error) => Err(self.exception(py, error)),
        };
        // It fails when the future was cancelled, or the loop is closed.
        let _ = match value {
            Ok(value) => future.call_method1(intern!(py, "set_result"), (value,)),
            Err(error) => {
                let set = future.call_method1(intern!(py, "set_exception"), (error.value(py),));
                if lock(&self.state).is_closed() {
                    // That a request ends with its own peer is no failure to tell of when nobody asks.
                    let _ = future.call_method0(intern!(py, "exception"));
                }
                set
            }
        };
    }

    /// Finds and starts the handler of something that came.
    pub(super) fn incoming(
        &self,
        slf: &Bound<'_, Engine>,
        unit: UnitId,
        incoming: Incoming,
        question: Question,
        now: Moment,
    ) -> PyResult<bool> {
        let py = slf.py();
        let kind = question.kind();
        let (found, ticket, unit_object) = {
            let mut table = lock(&self.table);
            let found = table.routes.find(py, incoming.role(), kind, incoming.event());
            let object = table.units.get(&unit).map(|unit| unit.clone_ref(py));
            match (found, object) {
                (Ok(found), Some(object)) => (found, table.begin(unit, question), object),
                (found, _) => {
                    drop(table);
                    let reason = found.err().unwrap_or_else(|| "Socket closed".to_owned());
                    lock(&self.state).refuse(unit, question, &reason, now);
                    return self.tell(py, "not_handled", (reason,));
                }
            }
        };
        let payload = Payload { kind: incoming.kind(), bytes: incoming.payload() };
        let data = match to_python(py, payload, &self.codec) {
            Ok(data) => data.unbind(),
            Err(error) => {
                let reason = text_of(error.value(py));
                self.finish(py, ticket, Err(&reason), now);
                let told = self.tell(py, "bad_data", (unit_object, reason));
                return if ends_program(py, &error) { Err(error) } else { told };
            }
        };
        let (mode, names) = (found.mode, (found.role, found.event));
        let context = Context::new(slf.clone().unbind(), kind, ticket, names, data, unit_object);
        let context = Bound::new(py, context)?;
        let function = found.function.bind(py);
        match mode {
            Mode::Task => {
                let event_loop = self.event_loop(py)?;
                let coroutine = event_loop.run.bind(py).call1((function, &context))?;
                let task = match event_loop.spawn.bind(py).call1((coroutine,)) {
                    Ok(task) => task.unbind(),
                    // The loop's task factory has failed, or an eager task is to end the program.
                    Err(error) => {
                        if ends_program(py, &error) {
                            self.finish(py, ticket, Err(&text_of(error.value(py))), now);
                            return Err(error);
                        }
                        return self.tell(py, "handler_failed", (context, error.value(py)));
                    }
                };
                let mut table = lock(&self.table);
                // An eager task may have ended already.
                let ended = match table.running(ticket) {
                    Some(running) => {
                        running.task = Some(task);
                        table.young.push((ticket, self.armings.load(Relaxed)));
                        None
                    }
                    None => Some(task),
                };
                drop(table);
                Ok(ended.is_none())
            }
            Mode::Inline => match self.call_inline(function, &context) {
                Ok(value) => {
                    Engine::answer(slf, &context, &value)?;
                    Ok(false)
                }
                Err(error) => {
                    let told = self.tell(py, "handler_failed", (context, error.value(py)));
                    if ends_program(py, &error) { Err(error) } else { told }
                }
            },
            Mode::Pool => self.tell(py, "submit", (function, context)),
        }
    }

    /// Calls a handler right away, in a context of its own.
    fn call_inline<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        context: &Bound<'py, Context>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let copy = self.event_loop(py)?.copy_context.bind(py).call0()?;
        copy.call_method1(intern!(py, "run"), (function, context))
    }

    /// Answers for handlers whose tasks were cancelled before they began: those cannot do it
    /// themselves. Behind a flush that was asked for later, a task has begun.
    pub(super) fn bury_stillborn(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let armings = self.armings.load(Relaxed);
        let begun = lock(&self.table).grow_up(py, armings);
        for (ticket, task) in begun {
            if task.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                self.finish(py, ticket, Err("The handler was cancelled"), now);
            }
        }
        Ok(())
    }

    /// Answers what a handler was called for, and forgets it.
    pub(super) fn finish(
        &self,
        py: Python<'_>,
        ticket: Ticket,
        outcome: Result<Payload<'_>, &str>,
        now: Moment,
    ) -> bool {
        let Some(running) = lock(&self.table).end(ticket) else { return false };
        lock(&self.state).answer(running.unit, running.question, outcome, None, now);
        // Outside of the locks.
        drop(running.task.map(|task| task.into_bound(py)));
        true
    }

    pub(super) fn unit_object(&self, py: Python<'_>, unit: UnitId) -> Option<Py<PyAny>> {
        lock(&self.table).units.get(&unit).map(|unit| unit.clone_ref(py))
    }

    pub(super) fn unit_objects(&self, py: Python<'_>, units: &[UnitId]) -> Vec<Py<PyAny>> {
        let table = lock(&self.table);
        let objects = units.iter().filter_map(|unit| table.units.get(unit));
        objects.map(|unit| unit.clone_ref(py)).collect()
    }

    /// Tells the listener of something rare.
    pub(super) fn tell<'py>(
        &self,
        py: Python<'py>,
        what: &str,
        arguments: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<bool> {
        if let Some(listener) = self.listener(py) {
            listener.call_method1(what, arguments)?;
        }
        Ok(true)
    }

    pub(super) fn connection_event(
        &self,
        py: Python<'_>,
        event: EngineEvent<u32>,
    ) -> PyResult<bool> {
        match event {
            EngineEvent::Dial { address, url } => self.tell(py, "dial", (address.0, &*url)),
            EngineEvent::Attached { unit, info, roles, .. } => {
                let description = info.describe(&roles);
                let Some(listener) = self.listener(py) else { return Ok(false) };
                let known = self.unit_object(py, unit);
                let arguments = (known, unit.0, description);
                let object = listener.call_method1(intern!(py, "attached"), arguments)?.unbind();
                let before = lock(&self.table).units.insert(unit, object);
                drop(before);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn peer_event(&self, py: Python<'_>, event: PeerEvent) -> PyResult<bool> {
        let object = |unit| self.unit_object(py, unit);
        match event {
            PeerEvent::UnitOpened { unit, .. } => self.tell(py, "unit_opened", (object(unit),)),
            PeerEvent::UnitClosed { unit } => {
                let (object, waiters) = {
                    let mut table = lock(&self.table);
                    (table.units.remove(&unit), table.room.remove(&unit))
                };
                wake(py, waiters.into_iter().flatten());
                self.tell(py, "unit_closed", (object,))
            }
            PeerEvent::UnitRoles { unit, roles } => {
                self.tell(py, "unit_roles", (object(unit), roles.to_vec()))
            }
            PeerEvent::DestinationOpened { role } => self.tell(py, "destination_opened", (&*role,)),
            PeerEvent::DestinationClosed { role } => self.tell(py, "destination_closed", (&*role,)),
            PeerEvent::DestinationGained { role, unit } => {
                self.tell(py, "destination_gained", (&*role, object(unit)))
            }
            PeerEvent::DestinationLost { role, unit } => {
                self.tell(py, "destination_lost", (&*role, object(unit)))
            }
            PeerEvent::AuthRefused { conn, reason } => {
                self.tell(py, "auth_refused", (conn.0, reason))
            }
            PeerEvent::Dialed { address, url, count, outcome, again } => {
                let (unit, error) = match outcome {
                    Ok((unit, _)) => (object(unit), None),
                    Err(error) => (None, Some(exception(py, &error))),
                };
                self.tell(py, "dialed", (address.0, &*url, count, again, unit, error))
            }
            PeerEvent::ConnectionClosed { conn, unit, reason } => {
                let unit = unit.and_then(object);
                self.tell(py, "connection_closed", (conn.0, unit, exception(py, &reason)))
            }
        }
    }
}

/// Wakes who waits with a future. Whether there was anybody.
pub(super) fn wake(py: Python<'_>, futures: impl IntoIterator<Item = Py<PyAny>>) -> bool {
    let mut any = false;
    for future in futures {
        // It fails when the future was cancelled.
        let _ = future.call_method1(py, intern!(py, "set_result"), (py.None(),));
        any = true;
    }
    any
}
