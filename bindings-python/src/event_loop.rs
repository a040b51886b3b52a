//! The loop that an engine is bound to, as the engine calls it.

use pyo3::{PyVisit, prelude::*};

/// Bound methods and functions, looked up once. What the loop is asked to call, it calls in the context that
/// the peer was bound in: user code may be running when it is asked, and its context is not for others.
pub(crate) struct EventLoop {
    pub(crate) call_soon: Py<PyAny>,
    pub(crate) call_later: Py<PyAny>,
    pub(crate) create_future: Py<PyAny>,
    /// The loop's clock.
    pub(crate) time: Py<PyAny>,
    /// Makes a copy of the context that the peer was bound in, for a handler that is called right away.
    pub(crate) copy_context: Py<PyAny>,
    /// Makes a task of a coroutine.
    pub(crate) spawn: Py<PyAny>,
    /// Makes a coroutine that calls a handler and answers.
    pub(crate) run: Py<PyAny>,
    /// `Engine.flush` and `Engine.timeout` of the engine itself.
    pub(crate) flush: Py<PyAny>,
    pub(crate) timeout: Py<PyAny>,
    /// `Engine.given_up`, which futures call that are cancelled.
    pub(crate) given_up: Py<PyAny>,
    /// Calls a handler right away that inherits something.
    pub(crate) call_inheriting: Py<PyAny>,
}

impl EventLoop {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        let EventLoop {
            call_soon,
            call_later,
            create_future,
            time,
            copy_context,
            spawn,
            run,
            flush,
            timeout,
            given_up,
            call_inheriting,
        } = self;
        let called = [call_soon, call_later, create_future, time, copy_context, spawn, run];
        let own = [flush, timeout, given_up, call_inheriting];
        for object in called.into_iter().chain(own) {
            visit.call(object)?;
        }
        Ok(())
    }
}
