//! Who has given up waiting.
//!
//! Futures tell nobody when they are cancelled, unless they have a callback for that, which would cost each
//! request more than all the rest of this table. So requests that were sent a short while ago are looked at
//! now and then; the few that still wait behind that get a callback.

use std::time::Duration;

use pyo3::{intern, prelude::*};
use roletalk_engine::Moment;
use roletalk_host::lock;

use super::Engine;
use crate::{
    request::Place,
    table::{Fresh, Table, Waiting, address},
};

/// How soon a request that was given up is noticed at the latest.
pub(super) const LOOK: Duration = Duration::from_millis(4);
/// How often a future is looked at before it gets a callback.
const LOOKS: u8 = 8;
/// What the other end of a stream is told that nobody waits for any more.
pub(super) const ABANDONED: &str = "Request was abandoned";

impl Engine {
    /// Whether a request still waits.
    pub(crate) fn is_waiting(&self, tag: usize, serial: u64) -> bool {
        lock(&self.table).waiting(tag, serial).is_some()
    }

    /// Looks at the requests that were sent a short while ago, when that is due.
    pub(super) fn look_at_fresh(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let fresh: Vec<(Fresh, Py<PyAny>)> = {
            let mut table = lock(&self.table);
            if table.look_at.is_none_or(|at| now < at) {
                return Ok(());
            }
            table.look_at = None;
            let fresh = std::mem::take(&mut table.fresh);
            let waiting = |fresh: Fresh| {
                let waiting = table.waiting(fresh.tag, fresh.serial)?;
                Some((fresh, waiting.future.clone_ref(py)))
            };
            fresh.into_iter().filter_map(waiting).collect()
        };
        let mut still_fresh = Vec::new();
        for (Fresh { tag, serial, looks }, future) in fresh {
            if is_done(future.bind(py))? {
                self.forget(tag, serial, now);
            } else if looks + 1 == LOOKS {
                self.watch(py, tag, serial, future)?;
            } else {
                still_fresh.push(Fresh { tag, serial, looks: looks + 1 });
            }
        }
        let mut table = lock(&self.table);
        table.fresh.append(&mut still_fresh);
        if !table.fresh.is_empty() {
            table.look_at.get_or_insert(now + LOOK);
        }
        Ok(())
    }

    /// From now on, the future tells when it is cancelled.
    pub(super) fn watch(
        &self,
        py: Python<'_>,
        tag: usize,
        serial: u64,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        {
            let mut table = lock(&self.table);
            let Table { waiting, watched, .. } = &mut *table;
            let Some(waiting) = waiting.get_mut(tag).filter(|waiting| waiting.serial == serial)
            else {
                return Ok(());
            };
            waiting.watched = true;
            watched.insert(address(&future), (tag, serial));
        }
        let given_up = self.event_loop(py)?.given_up.clone_ref(py);
        self.tell(py, "watch", (future, given_up))?;
        Ok(())
    }

    /// A future that is watched is done.
    pub(super) fn watched_is_done(&self, future: &Py<PyAny>, now: Moment) {
        let place = lock(&self.table).watched.get(&address(future)).copied();
        if let Some((tag, serial)) = place {
            self.forget(tag, serial, now);
        }
    }

    /// Looks at all requests that wait, for those who want to know exactly.
    pub(super) fn sweep(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let all: Vec<(usize, u64, Py<PyAny>)> = {
            let table = lock(&self.table);
            let each = |(tag, waiting): (usize, &Waiting)| {
                (tag, waiting.serial, waiting.future.clone_ref(py))
            };
            table.waiting.iter().map(each).collect()
        };
        for (tag, serial, future) in all {
            if is_done(future.bind(py))? {
                self.forget(tag, serial, now);
            }
        }
        Ok(())
    }

    /// Takes a request out that nobody waits for, and has the other side told.
    pub(super) fn forget(&self, tag: usize, serial: u64, now: Moment) -> Option<Waiting> {
        let waiting = {
            let mut table = lock(&self.table);
            table.waiting(tag, serial)?;
            table.take_waiting(tag)?
        };
        match &waiting.place {
            Place::Sent { unit, corr, stream } => {
                lock(&self.state).engine.with_unit(*unit, now, |unit| match stream {
                    None => drop(unit.abandon(*corr)),
                    // It is given up with its stream.
                    Some(stream) => unit.close_stream(*stream, ABANDONED),
                });
            }
            Place::Course(_) => self.give_up_attempts(&waiting, now),
            Place::Parked(_) | Place::Undecided(_) => {}
        }
        Some(waiting)
    }
}

pub(super) fn is_done(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    future.call_method0(intern!(future.py(), "done"))?.is_truthy()
}

/// Fails a future, and nobody is told when none looks at that.
pub(super) fn fail_quietly(future: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>) {
    let py = future.py();
    // It fails when the future is done, or the loop is closed.
    if future.call_method1(intern!(py, "set_exception"), (error,)).is_ok() {
        let _ = future.call_method0(intern!(py, "exception"));
    }
}
