//! Which handler an event has.

use pyo3::{prelude::*, pyclass::PyVisit, types::PyString};
use roletalk_engine::{Kind, Refusal, Serves};
use rustc_hash::FxHashMap;

/// How a handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is a coroutine function and becomes a task.
    Task,
    /// It is a function that is called right away.
    Inline,
    /// It is a function that a thread of the pool calls.
    Pool,
}

pub(crate) struct Handler {
    event: Py<PyString>,
    function: Py<PyAny>,
    mode: Mode,
    detached: bool,
}

struct Role {
    name: Py<PyString>,
    active: bool,
    /// By kind, then by event. The keys are the application's.
    handlers: [FxHashMap<Box<str>, Handler>; Kind::ALL.len()],
}

impl<'a> Serves for &'a Role {
    type Handler = &'a Handler;

    fn is_active(&self) -> bool {
        self.active
    }

    fn handler(&self, kind: Kind, event: &str) -> Option<&'a Handler> {
        self.handlers[kind as usize].get(event)
    }

    fn events(&self, kind: Kind, most: usize) -> Vec<String> {
        self.handlers[kind as usize].keys().take(most).map(|event| event.to_string()).collect()
    }
}

/// A handler that was found, with the names as objects that are made once.
pub(crate) struct Found {
    pub(crate) role: Py<PyString>,
    pub(crate) event: Py<PyString>,
    pub(crate) function: Py<PyAny>,
    pub(crate) mode: Mode,
    /// It goes on whatever becomes of the requester.
    pub(crate) detached: bool,
}

/// The handlers of all roles.
#[derive(Default)]
pub(crate) struct Routes(FxHashMap<Box<str>, Role>);

impl Routes {
    /// Nothing happens when the role is known.
    pub(crate) fn add_role(&mut self, name: &str, object: Py<PyString>, active: bool) {
        let role = || Role { name: object, active, handlers: Default::default() };
        self.0.entry(name.into()).or_insert_with(role);
    }

    pub(crate) fn set_active(&mut self, name: &str, active: bool) {
        if let Some(role) = self.0.get_mut(name) {
            role.active = active;
        }
    }

    pub(crate) fn is_active(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|role| role.active)
    }

    /// Returns the handler that was there before, to be dropped outside of any lock.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "called from one place")]
    pub(crate) fn set_handler(
        &mut self,
        role: &str,
        kind: Kind,
        event: &str,
        names: Py<PyString>,
        function: Py<PyAny>,
        mode: Mode,
        detached: bool,
    ) -> Option<Handler> {
        let role = self.0.get_mut(role)?;
        let handler = Handler { event: names, function, mode, detached };
        role.handlers[kind as usize].insert(event.into(), handler)
    }

    /// # Errors
    /// What to refuse it with.
    pub(crate) fn find(
        &self,
        py: Python<'_>,
        role: &str,
        kind: Kind,
        event: &str,
    ) -> Result<Found, Refusal> {
        let (known, handler) = roletalk_engine::find(role, self.0.get(role), kind, event)?;
        Ok(Found {
            role: known.name.clone_ref(py),
            event: handler.event.clone_ref(py),
            function: handler.function.clone_ref(py),
            mode: handler.mode,
            detached: handler.detached,
        })
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        for handler in self.0.values().flat_map(|role| &role.handlers).flat_map(FxHashMap::values) {
            visit.call(&handler.function)?;
        }
        Ok(())
    }
}
