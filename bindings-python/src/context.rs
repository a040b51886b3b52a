//! What a handler gets.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyNone, PyString},
};

use roletalk_engine::Kind;

use crate::{call::Call, engine::Engine, extras::headers_of};

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
    /// None when there is nothing to say of it: what comes without fields and cannot be given up.
    call: Option<Py<Call>>,
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
        call: Option<Py<Call>>,
    ) -> Context {
        Context { engine, kind, ticket, call, role, event, data, unit }
    }

    pub(crate) fn call(&self) -> Option<&Call> {
        self.call.as_ref().map(Py::get)
    }

    /// Nothing is bound to it any more.
    pub(crate) fn end(&self) {
        if let Some(call) = self.call() {
            call.end();
        }
    }
}

#[pymethods]
impl Context {
    /// `"message"`, `"request"`, `"readable"` or `"writable"`: what this peer does with the stream.
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// When the requester's time is up, in the loop's time (`loop.time()`); None when it gave no timeout.
    /// A handler that waits is cancelled then.
    #[getter]
    fn deadline(&self) -> Option<f64> {
        Some(self.call()?.due()?.loop_time)
    }

    /// The seconds that are left until `deadline`, never less than 0; None when the requester gave no timeout.
    #[getter]
    fn remaining(&self) -> Option<f64> {
        self.call()?.remaining()
    }

    /// The headers that came with it: a `Headers`, which is a mapping of str to str or bytes. Of a name that
    /// came more than once, it has the first value; `headers.get_all(name)` has all.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.call() {
            Some(call) => call.headers(py),
            None => headers_of(py, roletalk_engine::FieldsView::default()),
        }
    }

    /// The `traceparent` of the W3C trace context that came with it; None when none came.
    #[getter]
    fn traceparent(&self) -> Option<String> {
        self.call()?.fields().traceparent()
    }

    /// The `tracestate` that came with it; None when none came.
    #[getter]
    fn tracestate(&self) -> Option<&str> {
        self.call()?.fields().tracestate()
    }

    /// The `baggage` that came with it; None when none came.
    #[getter]
    fn baggage(&self) -> Option<&str> {
        self.call()?.fields().baggage()
    }

    /// Whether the requester waits no longer: it has given up, its time is up, or its unit is gone. Plain
    /// functions may look at it now and then; the task of a handler that waits is cancelled besides. Never true
    /// of messages, of streams that were accepted, and in handlers that are `detached`.
    #[getter]
    fn cancelled(&self) -> bool {
        self.call().is_some_and(|call| call.reason().is_some())
    }

    /// Why it was cancelled: `"requester"`, which has given up, `"deadline"`, or `"unit_lost"`; None when it was
    /// not.
    #[getter]
    fn cancel_reason(&self) -> Option<&'static str> {
        Some(self.call()?.reason()?.name())
    }

    /// Sets a header of the answer, of the acceptance of a stream, or of the rejection: in place of what
    /// was set by this name before.
    ///
    /// Args:
    ///     name: Of a to z, 0 to 9, `-`, `_` and `.`, at most 128 characters, not beginning with `rt-`.
    ///     value: A str, or bytes. It arrives as what it was. Names and values of all headers have at most
    ///         8 KiB together.
    ///
    /// Raises:
    ///     InvalidArgumentError: For another name.
    ///     TooLargeError: For more than 8 KiB, or more than 128 headers.
    ///     RuntimeError: When it was answered already.
    ///     TypeError: For another type, and for a message, which nobody answers.
    fn set_header(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if self.kind == Kind::Message {
            return Err(PyTypeError::new_err("a message has no answer"));
        }
        self.engine.get().set_header(py, self.ticket, name, value)
    }

    /// The same with another payload, for middleware that changes it before the handler sees it.
    ///
    /// Args:
    ///     data: The payload in its place.
    ///
    /// Returns:
    ///     Another `Context`, which is the same in all else.
    fn with_data(&self, py: Python<'_>, data: Py<PyAny>) -> Context {
        Context {
            engine: self.engine.clone_ref(py),
            kind: self.kind,
            ticket: self.ticket,
            call: self.call.as_ref().map(|call| call.clone_ref(py)),
            role: self.role.clone_ref(py),
            event: self.event.clone_ref(py),
            data,
            unit: self.unit.clone_ref(py),
        }
    }

    /// Opens the stream that was asked for. To refuse it, raise an exception instead. From then on, the
    /// requester's timeout and its cancellation mean nothing any more: the stream tells of its own end.
    ///
    /// Args:
    ///     data: A payload for the requester.
    ///
    /// Returns:
    ///     A `Readable` or a `Writable`, as `kind` says.
    ///
    /// Raises:
    ///     ConnectionLostError: When the requester is gone.
    ///     OverloadedError: When too many streams are open.
    ///     StreamClosedError: When it was answered already.
    ///     TypeError: When this is no request for a stream.
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
        visit.call(&self.call)?;
        visit.call(&self.unit)
    }
}
