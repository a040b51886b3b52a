//! What goes out, and when: see [`super`].

use std::sync::atomic::Ordering::Relaxed;

use pyo3::{intern, prelude::*, types::PyBytes};
use roletalk_engine::Moment;

use roletalk_host::{Action, lock};

use super::{Engine, dispatch::Dispatched};
use crate::{exit::Inside, table::Timer};

/// How far writing and what follows has come.
pub(super) enum Progress {
    /// Nothing is left.
    Complete,
    /// The rest is for another turn of the loop.
    Suspended,
}

impl Engine {
    /// Something came in: hands it out, and writes what follows, unless somebody was woken who may
    /// have more to write.
    pub(super) fn after_input(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<()> {
        let this = slf.get();
        let _inside = Inside::enter(slf.py());
        // What handlers send now goes out in any case.
        let armed = this.armed.swap(true, Relaxed);
        let dispatched = Engine::dispatch(slf, now);
        let written = match &dispatched {
            Ok(Dispatched { woken: false, .. }) => Engine::write_all(slf, now),
            _ => Ok(Progress::Suspended),
        };
        this.armed.store(armed, Relaxed);
        if !matches!(written, Ok(Progress::Complete)) {
            this.arm(slf.py())?;
        }
        dispatched.and(written).map(drop)
    }

    /// Writes, and does what follows, until there is nothing left, or until those that were woken
    /// are to run first.
    pub(super) fn write_all(slf: &Bound<'_, Engine>, now: Moment) -> PyResult<Progress> {
        let (py, this) = (slf.py(), slf.get());
        loop {
            let actions: Vec<Action> = {
                let mut state = lock(&this.state);
                state.write(now);
                std::iter::from_fn(|| state.poll_action()).collect()
            };
            let idle = actions.is_empty();
            for action in actions {
                this.act(py, action)?;
            }
            let dispatched = Engine::dispatch(slf, now)?;
            if dispatched.full && dispatched.woken {
                return Ok(Progress::Suspended);
            }
            if !dispatched.any && idle {
                this.tell_idle(py)?;
                this.arm_timer(py, now)?;
                return Ok(Progress::Complete);
            }
        }
    }

    /// Tells a draining peer when nothing is under way any more.
    pub(super) fn tell_idle(&self, py: Python<'_>) -> PyResult<()> {
        if self.draining.load(Relaxed) && lock(&self.state).busy() == 0 {
            self.draining.store(false, Relaxed);
            self.tell(py, "idle", ())?;
        }
        Ok(())
    }

    pub(super) fn act(&self, py: Python<'_>, action: Action) -> PyResult<()> {
        let Some(listener) = self.listener(py) else { return Ok(()) };
        let (what, conn) = match action {
            Action::Write(conn, bytes) => {
                listener.call_method1("write", (conn.0, PyBytes::new(py, &bytes)))?;
                return Ok(());
            }
            Action::AwaitWritable(conn) => ("await_writable", conn),
            Action::StopWriting(conn) => ("stop_writing", conn),
            Action::Pause(conn) => ("pause", conn),
            Action::Resume(conn) => ("resume", conn),
            Action::Part(conn, limit) => {
                listener.call_method1("part", (conn.0, limit.as_secs_f64()))?;
                return Ok(());
            }
            Action::Leave(conn) => ("leave", conn),
            Action::Gone(conn, _) => ("gone", conn),
            Action::Taken(_) | Action::Written(_) => return Ok(()),
        };
        listener.call_method1(what, (conn.0,))?;
        Ok(())
    }

    /// Sets the loop's timer for the engine's deadline, unless one comes before that.
    pub(super) fn arm_timer(&self, py: Python<'_>, now: Moment) -> PyResult<()> {
        let deadline = lock(&self.state).deadline();
        let (armed, look_at, parked) = {
            let table = lock(&self.table);
            let armed = table.timer.as_ref().map(|timer| timer.at);
            (armed, table.look_at, table.parking.deadline())
        };
        let deadline = [deadline, look_at, parked].into_iter().flatten().min();
        let Some(deadline) = deadline else {
            if armed.is_some() {
                self.cancel_timer(py)?;
            }
            return Ok(());
        };
        if armed.is_some_and(|at| at <= deadline) {
            return Ok(());
        }
        self.cancel_timer(py)?;
        let Some(event_loop) = lock(&self.event_loop).clone() else { return Ok(()) };
        let delay = deadline.since(now).as_secs_f64();
        let handle = event_loop.call_later.bind(py).call1((delay, &event_loop.timeout))?.unbind();
        let before = lock(&self.table).timer.replace(Timer { at: deadline, handle });
        drop(before);
        Ok(())
    }

    pub(super) fn cancel_timer(&self, py: Python<'_>) -> PyResult<()> {
        let timer = lock(&self.table).timer.take();
        if let Some(timer) = timer {
            timer.handle.call_method0(py, intern!(py, "cancel"))?;
        }
        Ok(())
    }
}
