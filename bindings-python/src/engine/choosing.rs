//! User functions that choose units.
//!
//! They run without any lock and may do anything: send something themselves, give up what they are asked for, close
//! the peer. So whatever they choose for is looked up again behind them.

use std::cell::Cell;

use pyo3::{intern, prelude::*, types::PyTuple};
use roletalk_engine::{Error, ErrorKind, Moment, Standing, Tried, UnitId};
use roletalk_host::lock;

use super::{Engine, watching::is_done};
use crate::{
    balance::{Balance, Candidate},
    error::{ends_program, exception, text_of},
    exit::Inside,
    request::{Offered, Place, no_choice, offered},
    table::Waiting,
};

/// How deep functions that choose may be called within each other. Who goes on for ever would use up the stack.
const DEEPEST: u32 = 32;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A function that is called, perhaps within another one.
struct Nested(());

impl Nested {
    fn enter(py: Python<'_>) -> PyResult<Nested> {
        let depth = DEPTH.get();
        if depth == DEEPEST {
            let text =
                "The function that chooses the unit sends what it has to choose for, without end";
            let error = Error::new(ErrorKind::InvalidArgument, text)
                .with_hint("Give what it sends `to=` or another balance.");
            return Err(exception(py, &error));
        }
        DEPTH.set(depth + 1);
        Ok(Nested(()))
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Where a function is called.
#[derive(Clone, Copy)]
pub(super) enum Called<'a, 'py> {
    /// In the context of whoever sends something.
    Here,
    /// In a copy of the one that the peer was bound in: who has sent it is not here.
    Apart,
    /// In a copy of this one.
    Within(&'a Bound<'py, PyAny>),
}

impl Engine {
    /// Has a function say where a request goes, until that is somewhere. Whether somebody was told of an outcome.
    ///
    /// # Errors
    /// What is to end the program; the request has failed then.
    #[cold]
    pub(super) fn decide(
        &self,
        py: Python<'_>,
        (tag, serial): (usize, u64),
        called: Called<'_, '_>,
    ) -> PyResult<bool> {
        loop {
            let asked = {
                let table = lock(&self.table);
                let state = lock(&self.state);
                let now = self.clock();
                match table.waiting(tag, serial) {
                    Some(Waiting { request, place: Place::Undecided(_), .. }) => {
                        request.offered(py, &state.engine, now)
                    }
                    _ => None,
                }
            };
            let Some((balance, offered)) = asked else { return Ok(false) };
            let choice = self.ask_function(py, balance.get(), &offered, called);
            let now = self.clock();
            let is_wanted = self.is_wanted(py, (tag, serial), now)?;
            let choice = match choice {
                Ok(_) if !is_wanted => return Ok(false),
                Ok(choice) => choice,
                Err(error) => {
                    let end = ending(py, &error);
                    let waiting = lock(&self.table).take_undecided((tag, serial));
                    if let Some(waiting) = waiting {
                        self.settle_with(py, waiting, Err(error), now);
                    }
                    return end.map_or(Ok(is_wanted), Err);
                }
            };
            let failed = {
                let mut table = lock(&self.table);
                let mut state = lock(&self.state);
                let waiting = table.waiting.get_mut(tag).filter(|waiting| waiting.serial == serial);
                let Some(Waiting { request, place: Place::Undecided(undecided), .. }) = waiting
                else {
                    return Ok(false);
                };
                let choice = match choice {
                    _ if state.is_closed() => Err(Error::peer_closed()),
                    Some(unit) => Ok(unit),
                    None => Err(request.no_choice(&state.engine, &offered)),
                };
                let engine = &mut state.engine;
                let decided = request.decided(py, engine, undecided, choice, tag as u32, now);
                let moved = decided.and_then(|place| table.move_to(tag, place, &state.engine));
                moved.err().map(|error| (error, table.take_waiting(tag)))
            };
            self.arm(py)?;
            if let Some((error, Some(waiting))) = failed {
                self.settle(py, waiting, Err(error), None, now);
                return Ok(true);
            }
        }
    }

    /// Whether somebody still waits for a request, which is taken out otherwise.
    pub(super) fn is_wanted(
        &self,
        py: Python<'_>,
        (tag, serial): (usize, u64),
        now: Moment,
    ) -> PyResult<bool> {
        let future = {
            let table = lock(&self.table);
            table.waiting(tag, serial).map(|waiting| waiting.future.clone_ref(py))
        };
        let Some(future) = future else { return Ok(false) };
        if is_done(future.bind(py))? {
            self.forget(tag, serial, now);
            return Ok(false);
        }
        Ok(true)
    }

    /// What a function chooses among the units that serve a role, for what is sent right away.
    ///
    /// # Errors
    /// What the function has failed with.
    #[cold]
    pub(crate) fn choose_by_function(
        &self,
        py: Python<'_>,
        role: &str,
        (balance, required): (&Balance, bool),
        tried: &Tried,
    ) -> PyResult<Result<UnitId, Error>> {
        let now = self.enter(py)?;
        let offered = offered(&lock(&self.state).engine, role, balance, required, tried, now);
        let choice = self
            .ask_function(py, balance, &offered, Called::Here)
            .map_err(|error| ending(py, &error).unwrap_or(error))?;
        let state = lock(&self.state);
        Ok(match choice {
            _ if state.is_closed() => Err(Error::peer_closed()),
            Some(unit) => Ok(unit),
            None => Err(no_choice(&state.engine, role, required, &offered)),
        })
    }

    /// How the units stand that serve a role: each with the object that Python has of it.
    pub(crate) fn standings(
        &self,
        py: Python<'_>,
        role: &str,
        balance: Option<&Balance>,
    ) -> PyResult<Vec<(Py<PyAny>, Standing)>> {
        let now = self.enter(py)?;
        self.sweep(py, now)?;
        let table = lock(&self.table);
        let standings =
            lock(&self.state).engine.peer().standings(role, balance.map(Balance::core), now);
        let known =
            |standing: Standing| Some((table.units.get(&standing.unit)?.clone_ref(py), standing));
        Ok(standings.into_iter().filter_map(known).collect())
    }

    /// Which of the units a function chooses. It is not called when there are none.
    ///
    /// # Errors
    /// `InvalidArgumentError` when it fails, which is the cause then, or returns something else.
    pub(super) fn ask_function<'py>(
        &self,
        py: Python<'py>,
        balance: &Balance,
        offered: &[Offered],
        called: Called<'_, 'py>,
    ) -> PyResult<Option<UnitId>> {
        let Some(function) = balance.function() else { return Ok(None) };
        let _inside = Inside::enter(py);
        let known: Vec<(UnitId, Candidate)> = {
            let table = lock(&self.table);
            let candidate = |offered: &Offered| {
                let object = table.units.get(&offered.unit)?.clone_ref(py);
                let answer_time = offered.answer_time.as_secs_f64();
                Some((offered.unit, Candidate::new(object, offered.waiting, answer_time)))
            };
            offered.iter().filter_map(candidate).collect()
        };
        if known.is_empty() {
            return Ok(None);
        }
        let candidates: Vec<(UnitId, Bound<'py, Candidate>)> = known
            .into_iter()
            .map(|(unit, candidate)| Ok((unit, Bound::new(py, candidate)?)))
            .collect::<PyResult<_>>()?;
        let shown = PyTuple::new(py, candidates.iter().map(|(_, candidate)| candidate))?;
        let function = function.bind(py);
        let _nested = Nested::enter(py)?;
        let context = match called {
            Called::Here => None,
            Called::Apart => Some(self.event_loop(py)?.copy_context.bind(py).call0()?),
            Called::Within(context) => Some(context.call_method0(intern!(py, "copy"))?),
        };
        let returned = match context {
            None => function.call1((shown,)),
            Some(context) => context.call_method1(intern!(py, "run"), (function, shown)),
        };
        let chosen = returned.map_err(|error| failed(py, error))?;
        if chosen.is_none() {
            return Ok(None);
        }
        let is_chosen = |(_, candidate): &&(UnitId, Bound<'_, Candidate>)| {
            candidate.get().unit.bind(py).is(&chosen)
        };
        match candidates.iter().find(is_chosen) {
            Some((unit, _)) => Ok(Some(*unit)),
            None => Err(not_offered(&chosen)),
        }
    }
}

fn failed(py: Python<'_>, error: PyErr) -> PyErr {
    let text = format!("The function that chooses the unit failed: {}", text_of(error.value(py)));
    let made = exception(py, &Error::new(ErrorKind::InvalidArgument, text));
    made.set_cause(py, Some(error));
    made
}

/// What is to end the program, if the function has failed with that.
pub(super) fn ending(py: Python<'_>, error: &PyErr) -> Option<PyErr> {
    error.cause(py).filter(|cause| ends_program(py, cause))
}

fn not_offered(chosen: &Bound<'_, PyAny>) -> PyErr {
    let py = chosen.py();
    let shown = chosen.repr().map(|text| text.to_string_lossy().into_owned());
    let shown = shown.unwrap_or_else(|_| "something".to_owned());
    let text =
        format!("The function that chooses the unit returned {shown}, which it was not offered");
    let error = Error::new(ErrorKind::InvalidArgument, text)
        .with_hint("Return the `unit` of one of the candidates, or None for none of them.");
    exception(py, &error)
}
