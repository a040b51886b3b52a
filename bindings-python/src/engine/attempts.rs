//! Requests that may be handled more than once, and are made again.
//!
//! Such a request has a place in the table, and each attempt is a request of its own beside it, to a unit that was chosen.
//! What is done next is the decision of the engine's [`Attempts`].

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use pyo3::{intern, prelude::*};
use roletalk_engine::{Attempts, Data, Error, Fields, Moment, Retry, Step, Unit, UnitId};
use roletalk_host::lock;

use super::{
    Engine,
    choosing::{Called, ending},
};
use crate::{
    balance::Balance,
    call::{Call, Heir},
    exit::Inside,
    request::{Course, Offered, Parked, Place, Request, Spot},
    table::Waiting,
};

/// What is to be done without the locks.
enum Turn {
    /// Nothing: it waits for something, or is over.
    Rest,
    Choose(Choosing),
    /// It has failed.
    End(Box<Waiting>, Error),
}

/// A function is to choose a unit of these, in a copy of this context.
struct Choosing {
    balance: Py<Balance>,
    offered: Vec<Offered>,
    context: Option<Py<PyAny>>,
}

/// What a function has chosen of what it was offered.
struct Choice {
    unit: Option<UnitId>,
    offered: Vec<Offered>,
}

impl Engine {
    /// As [`ask`](Engine::ask), for a request that is made again.
    #[cold]
    pub(crate) fn ask_again<'py>(
        slf: &Bound<'py, Engine>,
        mut request: Request,
        retry: Retry,
        call: Option<&Bound<'py, Call>>,
        full: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let event_loop = this.event_loop(py)?;
        let _inside = Inside::enter(py);
        let context = match request.function() {
            Some(_) => Some(py.import(intern!(py, "contextvars"))?.call_method0("copy_context")?),
            None => None,
        };
        let future = event_loop.create_future.bind(py).call0()?;
        let limit = match call {
            Some(call) => call.get().limit(request.limit),
            None => Ok(request.limit),
        };
        match limit {
            Ok(limit) => (request.limit, request.since) = (limit, now),
            Err(error) => {
                let error = this.exception(py, &error);
                future.call_method1(intern!(py, "set_exception"), (error.value(py),))?;
                return Ok(future);
            }
        }
        let kept = future.clone().unbind();
        let (tag, serial) = {
            let mut table = lock(&this.table);
            let whole = request.whole_limit(&lock(&this.state).engine);
            let attempts = Attempts::new(Some(retry), request.waits, whole, now);
            let context = context.map(Bound::unbind);
            let place = Place::Course(Box::new(Course::new(attempts, context)));
            let (serial, watched) = (table.next_serial(), false);
            table.add_waiting(Waiting { future: kept, request, place, serial, full, watched })
        };
        if let Err(end) = this.go(py, (tag, serial), true) {
            // It has failed with that, and nobody will look.
            let _ = future.call_method0(intern!(py, "exception"));
            return Err(end);
        }
        // Its attempts end with it.
        this.watch(py, tag, serial, future.clone().unbind())?;
        if let Some(call) = call {
            let engine = slf.clone().unbind();
            call.get().adopt(py, Heir { engine, tag, serial })?;
        }
        Ok(future)
    }

    /// Does what is next for a request that is made again, until it waits for something or is over. `is_first` when this
    /// is its caller's doing. Whether somebody was told of an outcome.
    ///
    /// # Errors
    /// What is to end the program; the request has failed then.
    pub(super) fn go(
        &self,
        py: Python<'_>,
        (tag, serial): (usize, u64),
        is_first: bool,
    ) -> PyResult<bool> {
        let mut choice = None;
        loop {
            // Dropped behind the locks.
            let mut unsent = Vec::new();
            let turn = self.advance(py, (tag, serial), choice.take(), &mut unsent);
            drop(unsent);
            self.arm(py)?;
            let Choosing { balance, offered, context } = match turn {
                Turn::Rest => return Ok(false),
                Turn::End(waiting, error) => {
                    self.end_course(py, *waiting, Err(error), None);
                    return Ok(true);
                }
                Turn::Choose(choosing) => choosing,
            };
            let called = match &context {
                Some(context) if !is_first => Called::Within(context.bind(py)),
                _ => Called::Here,
            };
            let chosen = self.ask_function(py, balance.get(), &offered, called);
            let now = self.clock();
            let is_wanted = self.is_wanted(py, (tag, serial), now)?;
            match chosen {
                Ok(_) if !is_wanted => return Ok(false),
                Ok(unit) => choice = Some(Choice { unit, offered }),
                Err(error) => {
                    let end = ending(py, &error);
                    let wanted = is_wanted.then(|| lock(&self.table).take_waiting(tag));
                    if let Some(waiting) = wanted.flatten() {
                        self.give_up_attempts(&waiting, now);
                        self.settle_with(py, waiting, Err(error), now);
                    }
                    return end.map_or(Ok(is_wanted), Err);
                }
            }
        }
    }

    /// Goes as far as that can be done under the locks. Requests that were not sent are put aside, as nothing may be dropped
    /// there.
    fn advance(
        &self,
        py: Python<'_>,
        (tag, serial): (usize, u64),
        mut choice: Option<Choice>,
        unsent: &mut Vec<Request>,
    ) -> Turn {
        let mut table = lock(&self.table);
        let mut state = lock(&self.state);
        let (now, is_closed) = (self.clock(), state.is_closed());
        loop {
            let waiting = table.waiting.get_mut(tag).filter(|waiting| waiting.serial == serial);
            let Some(Waiting { request, place: Place::Course(course), future, .. }) = waiting
            else {
                return Turn::Rest;
            };
            // Whoever has called the function goes on behind it.
            if course.is_choosing && choice.is_none() {
                return Turn::Rest;
            }
            course.is_choosing = false;
            let engine = &mut state.engine;
            match course.attempts.step(now) {
                Step::Choose => {
                    let tried = course.attempts.tried();
                    let chosen = match choice.take() {
                        Some(_) if is_closed => Err(Error::peer_closed()),
                        // It has failed there while the function was choosing.
                        Some(Choice { unit: Some(unit), .. }) if tried.contains(unit) => continue,
                        Some(Choice { unit: Some(unit), .. }) => Ok(unit),
                        Some(Choice { unit: None, offered }) => {
                            Err(request.no_choice(engine, &offered))
                        }
                        None => match request.offered_but(py, engine, tried, now) {
                            Some((balance, offered)) => {
                                course.is_choosing = true;
                                let context =
                                    course.context.as_ref().map(|context| context.clone_ref(py));
                                return Turn::Choose(Choosing { balance, offered, context });
                            }
                            None => request.pick(engine, tried, now),
                        },
                    };
                    let unit = match chosen {
                        Ok(unit) if course.attempts.asks(unit, now) => unit,
                        Ok(_) => continue,
                        Err(error) => {
                            course.attempts.nowhere(error, now);
                            continue;
                        }
                    };
                    if let Some(left) = course.attempts.take_rerouted() {
                        engine.with_unit(left, now, Unit::note_rerouted);
                    }
                    let mut attempt = request.attempt(py, (tag, serial));
                    let future = future.clone_ref(py);
                    let place = table.waiting.vacant_key();
                    let begun = attempt.begin(py, engine, Some(unit), place as u32, now);
                    let begun = match begun {
                        Ok(place) => {
                            let (serial, full, watched) = (table.next_serial(), false, false);
                            let request = attempt;
                            Ok(table.add_waiting(Waiting {
                                future,
                                request,
                                place,
                                serial,
                                full,
                                watched,
                            }))
                        }
                        Err(error) => {
                            unsent.push(attempt);
                            Err((future, error))
                        }
                    };
                    let Some(course) = table.course(tag) else { return Turn::Rest };
                    match begun {
                        Ok((tag, serial)) => course.under_way.push((unit, tag, serial)),
                        Err((future, error)) => {
                            // Not the last reference: the request has one.
                            drop(future);
                            course.attempts.failed(unit, error, now, random());
                        }
                    }
                }
                Step::Wait(_) if is_closed && course.attempts.is_idle() => {
                    course.attempts.stop_waiting(Error::peer_closed());
                }
                Step::Wait(until) => {
                    table.rest(tag, until.map(|due| Parked { spot: Spot::Time, due, left: None }));
                    return Turn::Rest;
                }
                Step::Park(_) if is_closed => {
                    course.attempts.stop_waiting(Error::peer_closed());
                }
                Step::Park(due) => {
                    let counts = course.parked.as_ref().is_some_and(|parked| parked.spot.is_role());
                    let spot = Spot::Role(request.role.clone());
                    if !counts && let Err(error) = table.has_place(engine) {
                        if let Some(course) = table.course(tag) {
                            course.attempts.stop_waiting(error);
                        }
                        continue;
                    }
                    table.rest(tag, Some(Parked { spot, due, left: None }));
                    return Turn::Rest;
                }
                Step::End(error) => {
                    return match table.take_waiting(tag) {
                        Some(waiting) => Turn::End(Box::new(waiting), error),
                        None => Turn::Rest,
                    };
                }
            }
        }
    }

    /// What was taken out has this outcome: the request, if it is an attempt, goes on. Whether somebody was told of one.
    ///
    /// # Errors
    /// As [`go`](Engine::go).
    pub(super) fn end(
        &self,
        py: Python<'_>,
        waiting: Waiting,
        outcome: Result<Data, Error>,
        fields: Option<&Fields>,
        now: Moment,
    ) -> PyResult<bool> {
        if waiting.request.attempt_of().is_some() {
            return self.attempt_ended(py, waiting, outcome, fields, now);
        }
        self.settle(py, waiting, outcome, fields, now);
        Ok(true)
    }

    /// An attempt, which was taken out, has this outcome. Whether somebody was told of that of the request.
    ///
    /// # Errors
    /// As [`go`](Engine::go).
    #[cold]
    pub(super) fn attempt_ended(
        &self,
        py: Python<'_>,
        attempt: Waiting,
        outcome: Result<Data, Error>,
        fields: Option<&Fields>,
        now: Moment,
    ) -> PyResult<bool> {
        let Some((tag, serial)) = attempt.request.attempt_of() else { return Ok(false) };
        if !self.is_wanted(py, (tag, serial), now)? {
            return Ok(false);
        }
        let answered = {
            let mut table = lock(&self.table);
            let Some(course) = table.course(tag) else { return Ok(false) };
            let is_it = |(_, _, of): &(UnitId, usize, u64)| *of == attempt.serial;
            let Some(at) = course.under_way.iter().position(is_it) else { return Ok(false) };
            let (unit, ..) = course.under_way.swap_remove(at);
            match outcome {
                Ok(data) => {
                    course.attempts.answered(now);
                    table.take_waiting(tag).map(|waiting| (waiting, data))
                }
                Err(error) => {
                    course.said = fields.map(|fields| Box::new((error.clone(), fields.clone())));
                    course.attempts.failed(unit, error, now, random());
                    None
                }
            }
        };
        match answered {
            Some((waiting, data)) => {
                self.end_course(py, waiting, Ok(data), fields);
                Ok(true)
            }
            None => self.go(py, (tag, serial), false),
        }
    }

    /// A request that is made again, which was taken out, has this outcome.
    fn end_course(
        &self,
        py: Python<'_>,
        mut waiting: Waiting,
        outcome: Result<Data, Error>,
        fields: Option<&Fields>,
    ) {
        let now = self.clock();
        self.give_up_attempts(&waiting, now);
        let said = match &mut waiting.place {
            Place::Course(course) => course.said.take(),
            _ => None,
        };
        let fields = match (&outcome, &said) {
            (Err(error), Some(said)) if said.0 == *error => Some(&said.1),
            _ => fields,
        };
        self.settle(py, waiting, outcome, fields, now);
    }

    /// Gives up what is still under way of a request that was taken out.
    pub(super) fn give_up_attempts(&self, waiting: &Waiting, now: Moment) {
        if let Place::Course(course) = &waiting.place {
            for (_, tag, serial) in &course.under_way {
                self.forget(*tag, *serial, now);
            }
        }
    }
}

/// Any number.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
