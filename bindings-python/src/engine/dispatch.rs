//! What the engine has to say, handed out: to futures, to handlers, and to the listener.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::{intern, prelude::*, types::PyNone};
use roletalk_engine::{
    CancelReason, Data, EngineEvent, Error, Event, Failure, Fields, Incoming, Kind, Moment,
    PeerEvent, Question, RequestId, Unit, UnitId, wire::Payload,
};

use roletalk_host::lock;

use super::{Engine, watching::ABANDONED};
use crate::{
    access::pairs_of,
    call::{Call, Due},
    calling::{call_1, call_3, call_method_1, call_method_2},
    context::{Context, Ticket},
    data::to_python,
    error::{ends_program, exception, text_of},
    extras::{answer_of, headers_of},
    request::{Place, Spot},
    routes::Mode,
    table::{Running, Waiting},
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
                EngineEvent::Peer(event) => this.peer_event(slf.py(), event, now)?,
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
            Event::Answer { tag, mut outcome, mut fields, .. } => {
                if let Err(error) = &outcome
                    && error.is_unhandled()
                {
                    match self.go_on(py, tag as usize, error, now)? {
                        Ok(told) => return Ok(told),
                        Err(other) if other != *error => (outcome, fields) = (Err(other), None),
                        Err(_) => {}
                    }
                }
                let waiting = lock(&self.table).take_waiting(tag as usize);
                match waiting {
                    Some(waiting) => self.end(py, waiting, outcome, fields.as_deref(), now),
                    None => Ok(true),
                }
            }
            Event::Cancelled { request, reason } => self.cancelled(py, unit, request, reason),
            Event::Incoming(incoming, question) => {
                self.incoming(slf, unit, incoming, question, now)
            }
            Event::Stream(stream) => {
                let waiter = lock(&self.table).streams.remove(&(unit, stream));
                Ok(wake(py, waiter))
            }
            Event::Room => {
                let told = self.retry(py, &Spot::Room(unit), now)?;
                let waiters = lock(&self.table).room.remove(&unit);
                Ok(wake(py, waiters.into_iter().flatten()) || told)
            }
            Event::SlowConsumer { queued, dropped, .. } => {
                let unit = self.unit_object(py, unit);
                self.tell(py, "slow_consumer", (unit, queued, dropped))
            }
            _ => Ok(false),
        }
    }

    /// Gives a future its outcome, unless nobody waits for it any more.
    pub(super) fn settle(
        &self,
        py: Python<'_>,
        waiting: Waiting,
        outcome: Result<Data, Error>,
        fields: Option<&Fields>,
        now: Moment,
    ) {
        let value = match &outcome {
            Ok(data) => self.answer_to(py, &waiting, data, fields),
            Err(error) => Err(self.exception_with(py, error, fields)),
        };
        self.settle_with(py, waiting, value, now);
    }

    /// The same, with what the future is to have.
    #[inline]
    pub(super) fn settle_with(
        &self,
        py: Python<'_>,
        waiting: Waiting,
        value: PyResult<Bound<'_, PyAny>>,
        now: Moment,
    ) {
        let future = waiting.future.bind(py);
        let event_loop = if waiting.watched { lock(&self.event_loop).clone() } else { None };
        if let Some(event_loop) = event_loop {
            let _ =
                future.call_method1(intern!(py, "remove_done_callback"), (&event_loop.given_up,));
        }
        // It fails when the future was cancelled, or the loop is closed.
        let opened = match value {
            Ok(value) => call_method_1(future, intern!(py, "set_result"), &value).is_ok(),
            Err(error) => {
                let _ = future.call_method1(intern!(py, "set_exception"), (error.value(py),));
                if lock(&self.state).is_closed() {
                    // That a request ends with its own peer is no failure to tell of when nobody asks.
                    let _ = future.call_method0(intern!(py, "exception"));
                }
                false
            }
        };
        if let Place::Sent { unit, stream: Some(stream), .. } = waiting.place
            && !opened
        {
            let close = |unit: &mut Unit<u32>| unit.close_stream(stream, ABANDONED);
            lock(&self.state).engine.with_unit(unit, now, close);
        }
    }

    /// What the future of a request is to have.
    fn answer_to<'py>(
        &self,
        py: Python<'py>,
        waiting: &Waiting,
        data: &Data,
        fields: Option<&Fields>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let value = to_python(py, data.payload(), &self.codec)?;
        if !waiting.full {
            return Ok(value);
        }
        let answer = answer_of(value, fields)?;
        match &waiting.place {
            Place::Sent { unit, stream: Some(stream), .. } => {
                Ok((unit.0, stream.0, answer).into_pyobject(py)?.into_any())
            }
            _ => Ok(answer),
        }
    }

    /// An error with the headers that a rejection came with.
    fn exception_with(&self, py: Python<'_>, error: &Error, fields: Option<&Fields>) -> PyErr {
        let made = self.exception(py, error);
        let Some(fields) = fields.filter(|fields| fields.view().headers().next().is_some()) else {
            return made;
        };
        let set = headers_of(py, fields.view())
            .and_then(|headers| made.value(py).setattr(intern!(py, "headers"), headers));
        set.map_or_else(|failed| failed, |()| made)
    }

    /// Nobody waits any more for what handlers of a unit were called for.
    fn cancelled(
        &self,
        py: Python<'_>,
        unit: UnitId,
        request: Option<RequestId>,
        reason: CancelReason,
    ) -> PyResult<bool> {
        let (cancelled, closed) = {
            let mut table = lock(&self.table);
            let tickets = table.requests.cancelled(unit, request);
            let mut cancelled = Vec::with_capacity(tickets.len());
            for ticket in tickets {
                if let Some(Running { call: Some(call), task, .. }) = table.running(ticket) {
                    let task = task.as_ref().map(|task| task.clone_ref(py));
                    cancelled.push((call.clone_ref(py), task));
                }
            }
            (cancelled, lock(&self.state).is_closed())
        };
        let any = !cancelled.is_empty();
        for (call, task) in cancelled {
            call.get().cancel(py, reason, || {
                // A peer that is closed cancels all of its tasks itself.
                if let Some(task) = task.filter(|_| !closed) {
                    task.call_method1(py, intern!(py, "cancel"), (reason.text(),))?;
                }
                Ok(())
            })?;
        }
        Ok(any)
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
                (Ok(found), Some(object)) => {
                    let ticket = table.begin(unit, question);
                    if found.mode != Mode::Inline && !found.detached {
                        table.may_be_cancelled(ticket);
                    }
                    (found, ticket, object)
                }
                (found, _) => {
                    drop(table);
                    let refusal = found.err().unwrap_or_else(|| "Socket closed".into());
                    let reason = refusal.reason().to_owned();
                    lock(&self.state).refuse(unit, question, refusal, now);
                    return self.tell(py, "not_handled", (reason,));
                }
            }
        };
        let payload = Payload { kind: incoming.kind(), bytes: incoming.payload() };
        let data = match to_python(py, payload, &self.codec) {
            Ok(data) => data.unbind(),
            Err(error) => {
                let reason = text_of(error.value(py));
                let running = lock(&self.table).end(ticket);
                if let Some(running) = running {
                    lock(&self.state).refuse(running.unit, running.question, reason.as_str(), now);
                }
                let told = self.tell(py, "bad_data", (unit_object, reason));
                return if ends_program(py, &error) { Err(error) } else { told };
            }
        };
        let (mode, names) = (found.mode, (found.role, found.event));
        let call = self.call_of(slf, kind, (mode, found.detached), &incoming, now)?;
        drop(incoming);
        let heir = call.as_ref().map(|call| call.clone_ref(py));
        let engine = slf.clone().unbind();
        let context = Context::new(engine, kind, ticket, names, data, unit_object, heir);
        let context = Bound::new(py, context)?;
        let function = found.function.bind(py);
        match mode {
            Mode::Task => {
                let event_loop = self.event_loop(py)?;
                let none = PyNone::get(py).to_owned().into_any();
                let inherited = call.as_ref().map(|call| call.bind(py).as_any());
                let inherited = inherited.unwrap_or(&none);
                let run = event_loop.run.bind(py);
                let coroutine = call_3(run, function, &context, inherited)?;
                let task = match call_1(event_loop.spawn.bind(py), &coroutine) {
                    Ok(task) => task.unbind(),
                    // The loop's task factory has failed, or an eager task is to end the program.
                    Err(error) => {
                        if ends_program(py, &error) {
                            self.finish(py, ticket, Err(&text_of(error.value(py))), None, now);
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
                        running.call = call;
                        table.young.push((ticket, self.armings.load(Relaxed)));
                        None
                    }
                    None => Some((task, call)),
                };
                drop(table);
                Ok(ended.is_none())
            }
            Mode::Inline => match self.call_inline(function, &context, call) {
                Ok(value) => {
                    Engine::answer(slf, &context, &value)?;
                    Ok(false)
                }
                Err(error) => {
                    let told = self.tell(py, "handler_failed", (context, error.value(py)));
                    if ends_program(py, &error) { Err(error) } else { told }
                }
            },
            Mode::Pool => {
                if let Some(call) = &call {
                    let kept = call.clone_ref(py);
                    let mut table = lock(&self.table);
                    if let Some(running) = table.running(ticket) {
                        running.call = Some(kept);
                    }
                }
                self.tell(py, "submit", (function, context, call))
            }
        }
    }

    /// What a handler inherits, if it is anything: what comes without fields and ends right away has nothing.
    fn call_of(
        &self,
        slf: &Bound<'_, Engine>,
        kind: Kind,
        (mode, detached): (Mode, bool),
        incoming: &Incoming,
        now: Moment,
    ) -> PyResult<Option<Py<Call>>> {
        let (py, view) = (slf.py(), incoming.fields());
        let is_request = kind != Kind::Message;
        if view.is_empty() && (!is_request || mode == Mode::Inline) {
            return Ok(None);
        }
        let due = match incoming.deadline() {
            Some(at) => {
                let time: f64 = self.event_loop(py)?.time.call0(py)?.extract(py)?;
                Some(Due { at, loop_time: time + at.since(now).as_secs_f64() })
            }
            None => None,
        };
        let call = Call::new(slf.clone().unbind(), due, view, is_request && !detached);
        Py::new(py, call).map(Some)
    }

    /// Calls a handler right away, in a context of its own.
    fn call_inline<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        context: &Bound<'py, Context>,
        call: Option<Py<Call>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let event_loop = self.event_loop(py)?;
        let copy = event_loop.copy_context.bind(py).call0()?;
        match call {
            None => call_method_2(&copy, intern!(py, "run"), function, context),
            Some(call) => {
                let arguments = (&event_loop.call_inheriting, function, context, call);
                copy.call_method1(intern!(py, "run"), arguments)
            }
        }
    }

    /// Answers for handlers whose tasks were cancelled before they began: those cannot do it
    /// themselves. Behind a flush that was asked for later, a task has begun.
    pub(super) fn bury_stillborn(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let armings = self.armings.load(Relaxed);
        let begun = lock(&self.table).grow_up(py, armings);
        for (ticket, task) in begun {
            if task.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                self.finish(py, ticket, Err("The handler was cancelled"), None, now);
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
        failure: Option<&Failure>,
        now: Moment,
    ) -> bool {
        let Some(running) = lock(&self.table).end(ticket) else { return false };
        let mut fields = running.fields;
        if let Some(failure) = failure {
            // Its size was looked at before.
            let _ = fields.get_or_insert_default().set_failure(failure);
        }
        let fields = fields.as_deref();
        lock(&self.state).answer(running.unit, running.question, outcome, fields, now);
        // Outside of the locks.
        drop(running.task.map(|task| task.into_bound(py)));
        drop(running.call.map(|call| call.into_bound(py)));
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
            EngineEvent::Evict { place, late } => self.tell(py, "evict", (place.0, late)),
            EngineEvent::UpgradeRequest { conn, request } => {
                let headers = pairs_of(&request.headers);
                self.tell(py, "upgrade_requested", (conn.0, request.path, headers))
            }
            EngineEvent::Attached { conn, unit, info, roles } => {
                let description = info.describe(&roles);
                let Some(listener) = self.listener(py) else { return Ok(false) };
                let known = self.unit_object(py, unit);
                let arguments = (known, unit.0, conn.0, description);
                let object = listener.call_method1(intern!(py, "attached"), arguments)?.unbind();
                let before = lock(&self.table).units.insert(unit, object);
                drop(before);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn peer_event(
        &self,
        py: Python<'_>,
        event: PeerEvent,
        now: Moment,
    ) -> PyResult<bool> {
        let object = |unit| self.unit_object(py, unit);
        match event {
            PeerEvent::UnitOpened { unit, .. } => self.tell(py, "unit_opened", (object(unit),)),
            PeerEvent::UnitClosed { unit } => {
                let (object, waiters) = {
                    let mut table = lock(&self.table);
                    (table.units.remove(&unit), table.room.remove(&unit))
                };
                wake(py, waiters.into_iter().flatten());
                self.retry(py, &Spot::Room(unit), now)?;
                self.tell(py, "unit_closed", (object,))
            }
            PeerEvent::UnitRoles { unit, roles } => {
                self.tell(py, "unit_roles", (object(unit), roles.to_vec()))
            }
            PeerEvent::DestinationOpened { role } => self.tell(py, "destination_opened", (&*role,)),
            PeerEvent::DestinationClosed { role } => self.tell(py, "destination_closed", (&*role,)),
            PeerEvent::DestinationGained { role, unit } => {
                self.retry(py, &Spot::Role((&*role).into()), now)?;
                self.tell(py, "destination_gained", (&*role, object(unit)))
            }
            PeerEvent::DestinationLost { role, unit } => {
                self.tell(py, "destination_lost", (&*role, object(unit)))
            }
            PeerEvent::UnitEjected { role, unit } => {
                self.tell(py, "unit_ejected", (&*role, object(unit)))
            }
            PeerEvent::UnitRestored { role, unit } => {
                self.tell(py, "unit_restored", (&*role, object(unit)))
            }
            PeerEvent::Denied { unit, denial } => {
                let (what, role, event) = (denial.what(), denial.role, denial.event);
                self.tell(py, "denied", (object(unit), what, role, event, denial.count))
            }
            PeerEvent::AuthRefused { conn, reason } => {
                self.tell(py, "auth_refused", (conn.0, reason))
            }
            PeerEvent::AcceptFailed { error } => {
                self.tell(py, "accept_failed", (exception(py, &error),))
            }
            PeerEvent::Dialed { address, url, count, outcome, again } => {
                let (unit, error) = match outcome {
                    Ok((unit, _)) => (object(unit), None),
                    Err(error) => (None, Some(exception(py, &error))),
                };
                self.tell(py, "dialed", (address.0, &*url, count, again, unit, error))
            }
            PeerEvent::AddressIgnored { unit, url, reason } => {
                self.tell(py, "address_ignored", (object(unit), url, reason))
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
