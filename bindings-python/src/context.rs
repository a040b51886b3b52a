//! What a handler gets.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyNone, PyString},
};

use roletalk_engine::Kind;

use crate::engine::Engine;

/// Names what a handler was called for, in the engine's table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) index: usize,
    /// Numbers are used again, serials are not.
    pub(crate) serial: u64,
}

/// A message, a request or a request for a stream: what a handler is called with.
///
/// Handlers return the answer to a request; a stream is opened with `accept`.
#[pyclass(frozen, module = "roletalk")]
pub struct Context {
    pub(crate) engine: Py<Engine>,
    pub(crate) kind: Kind,
    pub(crate) ticket: Ticket,
    /// The name of the role that it is addressed to.
    #[pyo3(get)]
    role: Py<PyString>,
    /// The name of the action; may be empty.
    #[pyo3(get)]
    event: Py<PyString>,
    /// The payload: bytes, None, bool, str, int, float, or what the codec made of JSON.
    #[pyo3(get)]
    data: Py<PyAny>,
    /// The unit that sent it.
    #[pyo3(get)]
    pub(crate) unit: Py<PyAny>,
}

impl Context {
    pub(crate) fn new(
        engine: Py<Engine>,
        kind: Kind,
        ticket: Ticket,
        (role, event): (Py<PyString>, Py<PyString>),
        data: Py<PyAny>,
        unit: Py<PyAny>,
    ) -> Context {
        Context { engine, kind, ticket, role, event, data, unit }
    }
}

#[pymethods]
impl Context {
    /// `"message"`, `"request"`, `"readable"` or `"writable"`: what this peer does with the stream.
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// The same with another payload, for middleware that changes it before the handler sees it.
    fn with_data(&self, py: Python<'_>, data: Py<PyAny>) -> Context {
        Context {
            engine: self.engine.clone_ref(py),
            kind: self.kind,
            ticket: self.ticket,
            role: self.role.clone_ref(py),
            event: self.event.clone_ref(py),
            data,
            unit: self.unit.clone_ref(py),
        }
    }

    /// Opens the stream that was asked for, with a payload for the requester. Gives a `Readable` or a
    /// `Writable`. To refuse it, raise an exception instead.
    ///
    /// Raises `ConnectionLostError` when the requester is gone, `OverloadedError` when too many
    /// streams are open, `StreamClosedError` when it was answered already, and `TypeError` when this
    /// is no request for a stream.
    #[pyo3(signature = (data=None, /))]
    fn accept<'py>(
        slf: &Bound<'py, Self>,
        data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if !matches!(this.kind, Kind::Readable | Kind::Writable) {
            let text = format!("a {} is not a request for a stream", this.kind.name());
            return Err(PyTypeError::new_err(text));
        }
        let none = PyNone::get(py).to_owned().into_any();
        Engine::accept_stream(this.engine.bind(py), slf, data.unwrap_or(&none))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (role, event) = (self.role.bind(py).repr()?, self.event.bind(py).repr()?);
        let data = self.data.bind(py).repr()?;
        Ok(format!("<Context {} role={role} event={event} data={data}>", self.kind.name()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        visit.call(&self.data)?;
        visit.call(&self.unit)
    }
}
