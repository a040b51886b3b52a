//! Messages and requests that Python sends.

use pyo3::{intern, prelude::*};
use roletalk_engine::{Error, Moment, Outgoing, Tried, UnitId, timed_out};

use roletalk_host::lock;

use super::{
    Engine, lost,
    watching::{LOOK, is_done},
};
use crate::{
    call::{Call, Heir},
    exit::Inside,
    request::{Place, Request, Spot},
    table::{Fresh, Table, Waiting},
};

/// What became of a message.
pub(crate) enum Sent {
    Queued(UnitId),
    Full(UnitId),
    Failed(Error),
}

impl Engine {
    /// Sends a message, if the unit has room: to `unit`, or to the one whose turn it is; to the next one when that
    /// has just gone, unless the caller has `chosen` it.
    pub(crate) fn send(
        slf: &Bound<'_, Engine>,
        outgoing: Outgoing<'_>,
        required: bool,
        (unit, chosen): (Option<UnitId>, bool),
    ) -> PyResult<Sent> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let sent = {
            let engine = &mut lock(&this.state).engine;
            let mut tried = Tried::NONE;
            let first =
                unit.map_or_else(|| engine.choose(outgoing.role, None, required, &tried, now), Ok);
            let mut unit = match first {
                Ok(unit) => unit,
                Err(error) => return Ok(Sent::Failed(error)),
            };
            loop {
                let sent = engine.with_unit(unit, now, |machine| match machine.must_wait(now) {
                    true => Ok(Sent::Full(unit)),
                    false => machine.send(outgoing).map(|_| Sent::Queued(unit)),
                });
                let error = match sent.unwrap_or_else(|| Err(lost())) {
                    Ok(sent) => break sent,
                    Err(error) => error,
                };
                if chosen || !tried.note(unit, &error) {
                    break Sent::Failed(error);
                }
                let Ok(next) = engine.choose(outgoing.role, None, required, &tried, now) else {
                    break Sent::Failed(error);
                };
                engine.with_unit(unit, now, roletalk_engine::Unit::note_rerouted);
                unit = next;
            }
        };
        this.arm(py)?;
        Ok(sent)
    }

    /// Sends something that is answered, to `first` if that is given, or has it wait until it can be sent. `call` is what it is made for; the
    /// outcome is an `Answer` if that is to be `full`. Returns a future, perhaps one that failed already.
    pub(crate) fn ask<'py>(
        slf: &Bound<'py, Engine>,
        mut request: Request,
        first: Option<UnitId>,
        call: Option<&Bound<'py, Call>>,
        full: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let event_loop = this.event_loop(py)?;
        let _inside = Inside::enter(py);
        let limit = match call {
            Some(call) => call.get().limit(request.limit),
            None => Ok(request.limit),
        };
        let future = event_loop.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let is_stream = request.stream.is_some();
        let outcome = {
            let mut table = lock(&this.table);
            let mut state = lock(&this.state);
            let tag = table.waiting.vacant_key();
            let place = limit.and_then(|limit| {
                (request.limit, request.since) = (limit, now);
                request.begin(py, &mut state.engine, first, tag as u32, now)
            });
            // Not with `map`: nothing of Python's may be dropped in here.
            match place {
                Ok(place) => {
                    let (serial, watched) = (table.next_serial(), false);
                    let waiting = Waiting { future: kept, request, place, serial, full, watched };
                    let (tag, serial) = table.add_waiting(waiting);
                    if !is_stream {
                        table.fresh.push(Fresh { tag, serial, looks: 0 });
                        table.look_at.get_or_insert(now + LOOK);
                    }
                    Ok((tag, serial))
                }
                Err(error) => Err(error),
            }
        };
        this.arm(py)?;
        match outcome {
            Ok((tag, serial)) => {
                if is_stream {
                    // Its answer must not find nobody.
                    this.watch(py, tag, serial, future.clone().unbind())?;
                }
                if let Some(call) = call {
                    let engine = slf.clone().unbind();
                    call.get().adopt(py, Heir { engine, tag, serial })?;
                }
            }
            Err(error) => {
                let error = this.exception(py, &error);
                future.call_method1(intern!(py, "set_exception"), (error.value(py),))?;
            }
        }
        Ok(future)
    }

    /// Sends a request that has failed with this error to another unit, if it may go there. None when that has it, or
    /// it waits for one; else the outcome.
    #[cold]
    pub(super) fn go_on(
        &self,
        py: Python<'_>,
        tag: usize,
        error: &Error,
        now: Moment,
    ) -> PyResult<Option<Error>> {
        let future = lock(&self.table).waiting.get(tag).map(|waiting| waiting.future.clone_ref(py));
        let is_wanted = match future {
            Some(future) => !is_done(future.bind(py))?,
            None => false,
        };
        if !is_wanted {
            return Ok(Some(error.clone()));
        }
        let mut table = lock(&self.table);
        let mut state = lock(&self.state);
        let Some(Waiting { request, place: Place::Sent { unit, stream, .. }, .. }) =
            table.waiting.get_mut(tag)
        else {
            return Ok(Some(error.clone()));
        };
        let (engine, unit) = (&mut state.engine, *unit);
        if let Some(stream) = stream.take() {
            engine.with_unit(unit, now, |unit| unit.close_stream(stream, ""));
        }
        let place = request.go_on(py, engine, (unit, error.clone()), tag as u32, now);
        Ok(place.map(|place| table.put(tag, place)).err())
    }

    /// Tries those again that have waited for this. Whether anybody was told of an outcome.
    pub(super) fn retry(&self, py: Python<'_>, spot: &Spot, now: Moment) -> PyResult<bool> {
        let mut told = false;
        let all = lock(&self.table).parking.at(spot);
        for (tag, serial) in all {
            let future = {
                let table = lock(&self.table);
                table.waiting(tag, serial).map(|waiting| waiting.future.clone_ref(py))
            };
            let Some(future) = future else { continue };
            if is_done(future.bind(py))? {
                self.forget(tag, serial, now);
                continue;
            }
            let failed = {
                let mut table = lock(&self.table);
                let mut state = lock(&self.state);
                let Table { waiting, .. } = &mut *table;
                let waiting = waiting.get_mut(tag).filter(|waiting| waiting.serial == serial);
                let Some(Waiting { request, place: Place::Parked(parked), .. }) = waiting else {
                    continue;
                };
                let engine = &mut state.engine;
                match request.retry(py, engine, (spot, parked.left), tag as u32, now) {
                    Ok(place) => {
                        let waits_on =
                            matches!(&place, Place::Parked(parked) if parked.spot == *spot);
                        table.put(tag, place);
                        if waits_on && matches!(spot, Spot::Room(_)) {
                            // There is no more.
                            break;
                        }
                        None
                    }
                    Err(error) => Some((error, table.take_waiting(tag))),
                }
            };
            if let Some((error, Some(waiting))) = failed {
                self.settle(py, waiting, Err(error), None, now);
                told = true;
            }
        }
        Ok(told)
    }

    /// Ends the waiting of those whose time is up.
    pub(super) fn expire(&self, py: Python<'_>, now: Moment) {
        let due = lock(&self.table).parking.due(now);
        for tag in due {
            let waiting = lock(&self.table).take_waiting(tag);
            if let Some(waiting) = waiting {
                let limit = waiting.request.whole_limit(&lock(&self.state).engine);
                let mut error = timed_out(limit);
                if let Place::Parked(parked) = &waiting.place
                    && let Spot::Role(role) = &parked.spot
                {
                    let hint = {
                        let state = lock(&self.state);
                        state.engine.peer().no_unit(role).hint().map(str::to_owned)
                    };
                    if let Some(hint) = hint {
                        error = error.with_hint(hint);
                    }
                }
                self.settle(py, waiting, Err(error), None, now);
            }
        }
    }

    /// Ends the waiting of all that no unit has: the peer is closed.
    pub(super) fn end_parked(&self, py: Python<'_>, now: Moment) {
        let all = lock(&self.table).parking.all();
        for tag in all {
            let waiting = lock(&self.table).take_waiting(tag);
            if let Some(waiting) = waiting {
                self.settle(py, waiting, Err(Error::peer_closed()), None, now);
            }
        }
    }
}
