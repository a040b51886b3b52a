//! Messages and requests on their way out, and who waits for answers.

use std::time::Duration;

use pyo3::{intern, prelude::*};
use roletalk_engine::{Error, Moment, Outgoing, Unit, UnitId};

use roletalk_host::{Host, lock};

use super::{Engine, lost, watching::LOOK};
use crate::{
    call::{Call, Heir},
    exit::Inside,
    table::{Fresh, Waiting},
};

/// What there is to know of something that is answered.
pub(crate) struct Asking<'a, 'py> {
    /// How long the caller waits.
    pub(crate) limit: Option<Duration>,
    /// What it is made for.
    pub(crate) call: Option<&'a Bound<'py, Call>>,
    /// Whether the outcome is an `Answer`.
    pub(crate) full: bool,
}

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
        asking: Asking<'_, 'py>,
    ) -> PyResult<Asked<'py>> {
        Engine::ask(slf, pick, asking, |machine, limit, now, tag| {
            machine.request(outgoing, limit, now, tag).map(|corr| (corr, ()))
        })
        .map(|(asked, _)| asked)
    }

    /// Sends something that is answered, if the unit has room.
    pub(super) fn ask<'py, T>(
        slf: &Bound<'py, Engine>,
        pick: impl FnOnce(&Host) -> Result<UnitId, Error>,
        asking: Asking<'_, 'py>,
        ask: impl FnOnce(&mut Unit<u32>, Option<Duration>, Moment, u32) -> Result<(u64, T), Error>,
    ) -> PyResult<(Asked<'py>, Option<(UnitId, T)>)> {
        let (py, this) = (slf.py(), slf.get());
        let now = this.enter(py)?;
        let event_loop = this.event_loop(py)?;
        let _inside = Inside::enter(py);
        let Asking { limit, call, full } = asking;
        let limit = match call {
            Some(call) => call.get().limit(limit),
            None => Ok(limit),
        };
        let future = event_loop.create_future.bind(py).call0()?;
        let kept = future.clone().unbind();
        let outcome = {
            let mut table = lock(&this.table);
            let mut state = lock(&this.state);
            let outcome = limit.and_then(|limit| {
                let unit = pick(&state)?;
                let tag = table.waiting.vacant_key();
                let asked =
                    state.engine.with_unit(unit, now, |machine| match machine.must_wait(now) {
                        true => Ok(None),
                        false => ask(machine, limit, now, tag as u32).map(Some),
                    });
                asked.unwrap_or_else(|| Err(lost())).map(|asked| (unit, asked))
            });
            outcome.map(|(unit, asked)| {
                asked.map_or(Err(unit), |(corr, opened)| {
                    let (serial, watched) = (table.next_serial(), false);
                    let waiting = Waiting { future: kept, unit, corr, serial, full, watched };
                    let tag = table.waiting.insert(waiting);
                    table.fresh.push(Fresh { tag, serial, looks: 0 });
                    table.look_at.get_or_insert(now + LOOK);
                    Ok((unit, opened, tag, serial))
                })
            })
        };
        this.arm(py)?;
        match outcome {
            Ok(Ok((unit, opened, tag, serial))) => {
                if let Some(call) = call {
                    let engine = slf.clone().unbind();
                    call.get().adopt(py, Heir::Request { engine, tag, serial })?;
                }
                Ok((Asked::Sent(future), Some((unit, opened))))
            }
            Ok(Err(unit)) => Ok((Asked::Full(unit), None)),
            Err(error) => {
                let error = this.exception(py, &error);
                future.call_method1(intern!(py, "set_exception"), (error.value(py),))?;
                Ok((Asked::Sent(future), None))
            }
        }
    }
}
