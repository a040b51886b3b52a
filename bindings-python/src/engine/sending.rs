//! Messages and requests that Python sends.

use pyo3::{intern, prelude::*};
use roletalk_engine::{Engine as Core, Error, Moment, Outgoing, Tried, Unit, UnitId, timed_out};

use roletalk_host::lock;

use super::{
    Engine,
    choosing::Called,
    lost,
    watching::{LOOK, is_done},
};
use crate::{
    balance::Balance,
    call::{Call, Heir},
    exit::Inside,
    request::{Course, Place, Request, Spot},
    table::{Fresh, Waiting},
};

/// What became of a message.
pub(crate) enum Sent {
    Queued,
    Full(UnitId),
    Failed(Error),
}

impl Engine {
    /// Sends a message, if the unit has room: to `unit`, or to the one whose turn it is; to the next one when that
    /// has just gone, unless the caller has `chosen` it.
    pub(crate) fn send(
        slf: &Bound<'_, Engine>,
        outgoing: Outgoing<'_>,
        (required, balance): (bool, Option<&Balance>),
        (unit, chosen): (Option<UnitId>, bool),
    ) -> PyResult<Sent> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(balance) = balance
            && balance.function().is_some()
            && !chosen
        {
            return Engine::send_by_function(slf, outgoing, (required, balance), unit);
        }
        let now = this.enter(py)?;
        let balance = balance.map(Balance::core);
        let sent = {
            let engine = &mut lock(&this.state).engine;
            let mut tried = Tried::NONE;
            let choose = |engine: &Core<u32>, tried: &Tried| {
                engine.choose(outgoing.role, balance, required, tried, now)
            };
            let first = unit.map_or_else(|| choose(engine, &tried), Ok);
            let mut unit = match first {
                Ok(unit) => unit,
                Err(error) => return Ok(Sent::Failed(error)),
            };
            loop {
                let error = match send_to(engine, unit, outgoing, now) {
                    Ok(sent) => break sent,
                    Err(error) => error,
                };
                if chosen || !tried.note(unit, &error) {
                    break Sent::Failed(error);
                }
                let Ok(next) = choose(engine, &tried) else {
                    break Sent::Failed(error);
                };
                engine.with_unit(unit, now, Unit::note_rerouted);
                unit = next;
            }
        };
        this.arm(py)?;
        Ok(sent)
    }

    /// The same, where a function chooses the units.
    #[cold]
    fn send_by_function(
        slf: &Bound<'_, Engine>,
        outgoing: Outgoing<'_>,
        (required, balance): (bool, &Balance),
        first: Option<UnitId>,
    ) -> PyResult<Sent> {
        let (py, this) = (slf.py(), slf.get());
        let (mut tried, mut failed) = (Tried::NONE, None);
        let mut choice = first.map(Ok);
        loop {
            let chosen = match choice.take() {
                Some(first) => first,
                None => this.choose_by_function(py, outgoing.role, (balance, required), &tried)?,
            };
            let unit = match (chosen, failed) {
                (Ok(unit), None) => unit,
                (Ok(unit), Some((left, _))) => {
                    Engine::with_unit(slf, left, |unit, _| unit.note_rerouted())?;
                    unit
                }
                (Err(_), Some((_, error))) | (Err(error), None) => {
                    return Ok(Sent::Failed(error));
                }
            };
            let sent = Engine::with_state(slf, |state, now| {
                send_to(&mut state.engine, unit, outgoing, now)
            })?;
            match sent {
                Ok(sent) => return Ok(sent),
                Err(error) if tried.note(unit, &error) => failed = Some((unit, error)),
                Err(error) => return Ok(Sent::Failed(error)),
            }
        }
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
        let is_watched = request.is_watched();
        let outcome = {
            let mut table = lock(&this.table);
            let mut state = lock(&this.state);
            let tag = table.waiting.vacant_key();
            let place = limit.and_then(|limit| {
                (request.limit, request.since) = (limit, now);
                let place = request.begin(py, &mut state.engine, first, tag as u32, now)?;
                table.admit(&place, &state.engine).map(|()| place)
            });
            // Not with `map`: nothing of Python's may be dropped in here.
            match place {
                Ok(place) => {
                    let undecided = matches!(place, Place::Undecided(_));
                    let (serial, watched) = (table.next_serial(), false);
                    let waiting = Waiting { future: kept, request, place, serial, full, watched };
                    let (tag, serial) = table.add_waiting(waiting);
                    if !is_watched {
                        table.fresh.push(Fresh { tag, serial, looks: 0 });
                        table.look_at.get_or_insert(now + LOOK);
                    }
                    Ok((tag, serial, undecided))
                }
                Err(error) => Err(error),
            }
        };
        this.arm(py)?;
        match outcome {
            Ok((tag, serial, undecided)) => {
                if undecided && let Err(end) = this.decide(py, (tag, serial), Called::Here) {
                    // It has failed with that, and nobody will look.
                    let _ = future.call_method0(intern!(py, "exception"));
                    return Err(end);
                }
                if is_watched {
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

    /// Sends a request that has failed with this error to another unit, if it may go there. The error is its outcome;
    /// without, it is elsewhere, or has another outcome, and true says that somebody was told of that.
    #[cold]
    pub(super) fn go_on(
        &self,
        py: Python<'_>,
        tag: usize,
        error: &Error,
        now: Moment,
    ) -> PyResult<Result<bool, Error>> {
        let future = lock(&self.table).waiting.get(tag).map(|waiting| waiting.future.clone_ref(py));
        let is_wanted = match future {
            Some(future) => !is_done(future.bind(py))?,
            None => false,
        };
        if !is_wanted {
            return Ok(Err(error.clone()));
        }
        let serial = {
            let mut table = lock(&self.table);
            let mut state = lock(&self.state);
            let Some(Waiting { request, place: Place::Sent { unit, stream, .. }, serial, .. }) =
                table.waiting.get_mut(tag)
            else {
                return Ok(Err(error.clone()));
            };
            let (engine, unit, serial) = (&mut state.engine, *unit, *serial);
            if let Some(stream) = stream.take() {
                engine.with_unit(unit, now, |unit| unit.close_stream(stream, ""));
            }
            let moved = request.go_on(py, engine, (unit, error.clone()), tag as u32, now).and_then(
                |place| {
                    let undecided = matches!(place, Place::Undecided(_));
                    table.move_to(tag, place, &state.engine)?;
                    Ok(undecided.then_some(serial))
                },
            );
            match moved {
                Ok(serial) => serial,
                Err(error) => return Ok(Err(error)),
            }
        };
        match serial {
            Some(serial) => self.decide(py, (tag, serial), Called::Apart).map(Ok),
            None => Ok(Ok(false)),
        }
    }

    /// Tries those again that have waited for this. Whether anybody was told of an outcome.
    pub(super) fn retry(&self, py: Python<'_>, spot: &Spot, now: Moment) -> PyResult<bool> {
        let (mut told, mut ended) = (false, Ok(()));
        let all = lock(&self.table).parking.at(spot);
        for (tag, serial) in all {
            if !self.is_wanted(py, (tag, serial), now)? {
                continue;
            }
            let (mut undecided, mut goes_on) = (false, false);
            let failed = {
                let mut table = lock(&self.table);
                let mut state = lock(&self.state);
                let waiting = table.waiting.get_mut(tag).filter(|waiting| waiting.serial == serial);
                match waiting {
                    // A function that was called for another one may have changed anything.
                    Some(waiting) if waiting.place.parked().is_none_or(|at| at.spot != *spot) => {
                        continue;
                    }
                    Some(Waiting { place: Place::Course(course), .. }) => {
                        course.attempts.look();
                        goes_on = true;
                        None
                    }
                    Some(Waiting { request, place: Place::Parked(parked), .. }) => {
                        let (engine, mut waits_on) = (&mut state.engine, false);
                        let moved = request.retry(py, engine, (spot, parked.left), tag as u32, now);
                        let moved = moved.and_then(|place| {
                            undecided = matches!(place, Place::Undecided(_));
                            waits_on = place.parked().is_some_and(|parked| parked.spot == *spot);
                            table.move_to(tag, place, &state.engine)
                        });
                        match moved {
                            // There is no more.
                            Ok(()) if waits_on && !spot.is_role() => break,
                            Ok(()) => None,
                            Err(error) => Some((error, table.take_waiting(tag))),
                        }
                    }
                    _ => continue,
                }
            };
            let went = match failed {
                Some((error, Some(waiting))) => self.end(py, waiting, Err(error), None, now),
                _ if undecided => self.decide(py, (tag, serial), Called::Apart),
                _ if goes_on => self.go(py, (tag, serial), false),
                _ => Ok(false),
            };
            match went {
                Ok(settled) => told |= settled,
                // The others go on before that.
                Err(end) => ended = Err(end),
            }
        }
        ended.map(|()| told)
    }

    /// Ends the waiting of those whose time is up, or has them go on.
    ///
    /// # Errors
    /// What is to end the program.
    pub(super) fn expire(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let (due, mut ended) = (lock(&self.table).parking.due(now), Ok(()));
        for tag in due {
            let went = match self.take_parked(tag, |_| {}) {
                Taken::Nothing => continue,
                Taken::Course(serial) => self.go(py, (tag, serial), false),
                Taken::Waiting(waiting) => {
                    let error = {
                        let engine = &lock(&self.state).engine;
                        match &waiting.place {
                            Place::Parked(parked) => waiting.request.late(engine, &parked.spot),
                            _ => timed_out(waiting.request.whole_limit(engine)),
                        }
                    };
                    self.end(py, *waiting, Err(error), None, now)
                }
            };
            ended = ended.and(went.map(drop));
        }
        ended
    }

    /// Ends the waiting of all that no unit has: the peer is closed.
    ///
    /// # Errors
    /// What is to end the program.
    pub(super) fn end_parked(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let (all, mut ended) = (lock(&self.table).parking.all(), Ok(()));
        for tag in all {
            let stop = |course: &mut Course| course.attempts.stop_waiting(Error::peer_closed());
            let went = match self.take_parked(tag, stop) {
                Taken::Nothing => continue,
                Taken::Course(serial) => self.go(py, (tag, serial), false),
                Taken::Waiting(waiting) => {
                    self.end(py, *waiting, Err(Error::peer_closed()), None, now)
                }
            };
            ended = ended.and(went.map(drop));
        }
        ended
    }

    /// Takes out a request that waits; one that is made again stays, with a change.
    fn take_parked(&self, tag: usize, change: impl FnOnce(&mut Course)) -> Taken {
        let mut table = lock(&self.table);
        match table.waiting.get_mut(tag) {
            Some(Waiting { place: Place::Course(course), serial, .. }) => {
                change(course);
                Taken::Course(*serial)
            }
            Some(Waiting { place: Place::Parked(_), .. }) => {
                let waiting = table.take_waiting(tag);
                waiting.map_or(Taken::Nothing, |waiting| Taken::Waiting(Box::new(waiting)))
            }
            // What was done for another one has changed that.
            _ => Taken::Nothing,
        }
    }
}

/// What waited.
enum Taken {
    Nothing,
    /// One that is made again, and its serial number.
    Course(u64),
    Waiting(Box<Waiting>),
}

/// Sends a message to a unit, if that has room.
#[inline]
fn send_to(
    engine: &mut Core<u32>,
    unit: UnitId,
    outgoing: Outgoing<'_>,
    now: Moment,
) -> Result<Sent, Error> {
    let sent = engine.with_unit(unit, now, |machine| match machine.must_wait(now) {
        true => Ok(Sent::Full(unit)),
        false => machine.send(outgoing).map(|_| Sent::Queued),
    });
    sent.unwrap_or_else(|| Err(lost()))
}
