//! Messages and requests on their way out, and who waits for answers.

use std::time::Duration;

use pyo3::{intern, prelude::*};
use roletalk_engine::{Error, Moment, Outgoing, Unit, UnitId};

use roletalk_host::{Host, lock};

use super::{Engine, lost};
use crate::{exit::Inside, table::Waiting};

/// Cancelled requests are looked for when there are more waiting than this, and twice as many as
/// after the last time.
const SWEEP: usize = 256;

/// What became of a request.
pub(crate) enum Asked<'py> {
    /// It has a future, perhaps one that failed already.
    Sent(Bound<'py, PyAny>),
    /// The unit has no room.
    Full(UnitId),
}

/// What became of a message.
pub(crate) enum Sent {
    Queued(UnitId),
    Full(UnitId),
    Failed(Error),
}

impl Engine {
    pub(crate) fn send(
        slf: &Bound<'_, Engine>,
        outgoing: Outgoing<'_>,
        pick: impl FnOnce(&Host) -> Result<UnitId, Error>,
    ) -> PyResult<Sent> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let sent = {
            let mut state = lock(&this.state);
            let unit = match pick(&state) {
                Ok(unit) => unit,
                Err(error) => return Ok(Sent::Failed(error)),
            };
            let sent = state.engine.with_unit(unit, now, |machine| {
                (!machine.must_wait(now)).then(|| machine.send(outgoing))
            });
            match sent {
                None => Sent::Failed(lost()),
                Some(None) => Sent::Full(unit),
                Some(Some(Ok(_))) => Sent::Queued(unit),
                Some(Some(Err(error))) => Sent::Failed(error),
            }
        };
        this.arm(py)?;
        Ok(sent)
    }

    pub(crate) fn request<'py>(
        slf: &Bound<'py, Engine>,
        outgoing: Outgoing<'_>,
        pick: impl FnOnce(&Host) -> Result<UnitId, Error>,
        limit: Option<Duration>,
    ) -> PyResult<Asked<'py>> {
        Engine::ask(slf, pick, |machine, now, tag| {
            machine.request(outgoing, limit, now, tag).map(|corr| (corr, ()))
        })
        .map(|(asked, _)| asked)
    }

    /// Sends something that is answered, if the unit has room.
    pub(super) fn ask<'py, T>(
        slf: &Bound<'py, Engine>,
        pick: impl FnOnce(&Host) -> Result<UnitId, Error>,
        ask: impl FnOnce(&mut Unit<u32>, Moment, u32) -> Result<(u64, T), Error>,
    ) -> PyResult<(Asked<'py>, Option<(UnitId, T)>)> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let event_loop = this.event_loop(py)?;
        let _inside = Inside::enter(py);
        let future = event_loop.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let (outcome, must_sweep) = {
            let mut table = lock(&this.table);
            let mut state = lock(&this.state);
            let outcome = pick(&state).and_then(|unit| {
                let tag = table.waiting.vacant_key();
                let asked =
                    state.engine.with_unit(unit, now, |machine| match machine.must_wait(now) {
                        true => Ok(None),
                        false => ask(machine, now, tag as u32).map(Some),
                    });
                asked.unwrap_or_else(|| Err(lost())).map(|asked| (unit, asked))
            });
            let outcome = outcome.map(|(unit, asked)| {
                asked.map_or(Err(unit), |(corr, opened)| {
                    table.waiting.insert(Waiting { future: kept, unit, corr });
                    Ok((unit, opened))
                })
            });
            let waiting = table.waiting.len();
            (outcome, waiting > SWEEP && waiting > 2 * table.swept)
        };
        this.arm(py)?;
        if must_sweep {
            this.sweep(py, now)?;
        }
        match outcome {
            Ok(Ok(opened)) => Ok((Asked::Sent(future), Some(opened))),
            Ok(Err(unit)) => Ok((Asked::Full(unit), None)),
            Err(error) => {
                let error = this.exception(py, &error);
                future.call_method1(intern!(py, "set_exception"), (error.value(py),))?;
                Ok((Asked::Sent(future), None))
            }
        }
    }

    /// Abandons requests whose futures were cancelled. Nobody tells of a cancellation: a callback
    /// for each future would cost more than to look at all of them now and then.
    pub(super) fn sweep(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let futures: Vec<(usize, Py<PyAny>)> = {
            let table = lock(&self.table);
            table.waiting.iter().map(|(at, waiting)| (at, waiting.future.clone_ref(py))).collect()
        };
        for (at, future) in futures {
            if future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                let waiting = {
                    let mut table = lock(&self.table);
                    let same = |waiting: &Waiting| waiting.future.is(&future);
                    let Some(true) = table.waiting.get(at).map(same) else { continue };
                    table.waiting.remove(at)
                };
                let mut state = lock(&self.state);
                state.engine.with_unit(waiting.unit, now, |unit| unit.abandon(waiting.corr));
                drop(state);
            }
        }
        let mut table = lock(&self.table);
        table.swept = table.waiting.len();
        Ok(())
    }
}
