//! Where messages and requests go: the part of destinations that is on the path of each.

use std::time::Duration;

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyNone, PyString, PyTuple},
};
use roletalk_engine::{Error, Fields, Order, Outgoing, Tried, UnitId, wire::Payload};

use crate::{
    call::{Call, current_call, traced_call},
    data::{utf8, with_payload},
    engine::{Asked, Asking, Engine, Sent},
    error::exception,
    extras::{Extras, fields_of},
};

/// The base of `Destination`.
#[pyclass(frozen, subclass, module = "roletalk._engine")]
pub struct DestinationBase {
    engine: Py<Engine>,
    role: String,
    /// The role's name.
    #[pyo3(get)]
    name: Py<PyString>,
}

/// The time that an argument says in seconds.
pub(crate) fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| {
        PyValueError::new_err(format!("{name} must be a positive number of seconds"))
    })
}

/// The limit of a request.
pub(crate) fn limit(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    timeout.map(|timeout| seconds("timeout", timeout)).transpose()
}

fn order(ordered: bool) -> Order {
    if ordered { Order::Kept } else { Order::Any }
}

#[pymethods]
impl DestinationBase {
    #[new]
    fn new(engine: Py<Engine>, name: Py<PyString>, py: Python<'_>) -> PyResult<DestinationBase> {
        let role = String::from_utf8_lossy(utf8(name.bind(py))?.as_bytes()).into_owned();
        Ok(DestinationBase { engine, role, name })
    }

    /// Sends a request to the next unit in turn, or to the unit `to`.
    ///
    /// The request is sent whether or not the future is awaited. Cancelling the future, or the task
    /// that awaits it, gives the request up, and the handler at the other end is cancelled. Without
    /// `ordered`, the request may overtake others on a less loaded connection of the unit. While the unit's
    /// queue is full it waits, which counts for the timeout.
    ///
    /// In a handler, and in tasks that it has started, a request has no more time than is left of the one that is
    /// being handled, is given up with that, and goes with its trace context, unless `inherit` is False.
    ///
    /// Args:
    ///     event: The name of the action.
    ///     data: The payload.
    ///     to: The unit to ask; the next one in turn without.
    ///     timeout: Seconds that the answer may take; default `Limits.request_timeout`. One that is given travels
    ///         with the request: the handler is cancelled when it is over.
    ///     ordered: Whether what is sent to the unit in this order arrives in this order.
    ///     headers: A mapping, or pairs of a name and a value. Names are of a to z, 0 to 9, `-`, `_` and `.`;
    ///         values are str or bytes; all together have at most 8 KiB.
    ///     headers_required: Whether only units are chosen that take headers. Without, they are left out where a
    ///         unit does not take them, and counted (`UnitStats.fields_left_out`).
    ///     traceparent: W3C trace context, in place of that of the request that is being handled.
    ///     tracestate: Belongs to `traceparent`.
    ///     baggage: Likewise.
    ///     inherit: Whether it is bound to the request that is being handled.
    ///
    /// Returns:
    ///     An `asyncio.Future` of what the handler at the other end returned; `call` gives the headers of the
    ///     answer, too.
    ///
    /// Raises:
    ///     DataError: At once, when the data cannot be sent.
    ///     InvalidArgumentError: At once, for the name of a header or a trace context of another form.
    ///     TooLargeError: At once, for more headers than are allowed; from the future, for the message.
    ///     RejectedError: From the future, as are all below; with the handler's text, code and data.
    ///     TimeoutError: When the answer takes too long, or no time is left for it.
    ///     CancelledError: When the request that is being handled was cancelled.
    ///     NoUnitError: When no unit serves the role.
    ///     UnsupportedError: When no unit takes headers that are required.
    ///     ConnectionLostError: When the unit is gone.
    ///     OverloadedError: When too many requests wait.
    ///     ClosedError: When the peer is closed.
    #[pyo3(signature = (
        event, data=None, *, to=None, timeout=None, ordered=true, headers=None, headers_required=false,
        traceparent=None, tracestate=None, baggage=None, inherit=true
    ))]
    #[expect(clippy::too_many_arguments, reason = "called from Python, by keyword")]
    fn request<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: Option<&Bound<'py, PyAny>>,
        to: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        ordered: bool,
        headers: Option<&Bound<'py, PyAny>>,
        headers_required: bool,
        traceparent: Option<&str>,
        tracestate: Option<String>,
        baggage: Option<String>,
        inherit: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let extras = Extras::of(headers, headers_required, traceparent, tracestate, baggage, py)?;
        let call = if inherit { current_call(py)? } else { None };
        DestinationBase::ask(slf, event, data, (to, timeout, ordered), extras, call, false)
    }

    /// As `request`, for those who want the headers of the answer, too.
    ///
    /// Args:
    ///     event: As there, as are the others.
    ///
    /// Returns:
    ///     An `asyncio.Future` of an `Answer`.
    ///
    /// Raises:
    ///     Error: As `request`.
    #[pyo3(signature = (
        event, data=None, *, to=None, timeout=None, ordered=true, headers=None, headers_required=false,
        traceparent=None, tracestate=None, baggage=None, inherit=true
    ))]
    #[expect(clippy::too_many_arguments, reason = "called from Python, by keyword")]
    fn call<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: Option<&Bound<'py, PyAny>>,
        to: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        ordered: bool,
        headers: Option<&Bound<'py, PyAny>>,
        headers_required: bool,
        traceparent: Option<&str>,
        tracestate: Option<String>,
        baggage: Option<String>,
        inherit: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let extras = Extras::of(headers, headers_required, traceparent, tracestate, baggage, py)?;
        let call = if inherit { current_call(py)? } else { None };
        DestinationBase::ask(slf, event, data, (to, timeout, ordered), extras, call, true)
    }

    /// The same for one unit, with an `Extras`.
    fn _ask_unit<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: &Bound<'py, PyAny>,
        to: &Bound<'py, PyAny>,
        timeout: Option<f64>,
        extras: Option<&Bound<'py, Extras>>,
        call: Option<Bound<'py, Call>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let extras = extras.map(|extras| extras.get().clone());
        DestinationBase::ask(slf, event, Some(data), (Some(to), timeout, true), extras, call, true)
    }

    /// Sends a request to a unit if that has room. Returns the future, or None.
    #[expect(clippy::too_many_arguments, reason = "called from one place")]
    fn _try_request<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: &Bound<'py, PyAny>,
        unit: u64,
        timeout: Option<f64>,
        ordered: bool,
        extras: Option<&Bound<'py, Extras>>,
        call: Option<&Bound<'py, Call>>,
        full: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let asking = Asking { limit: limit(timeout)?, call, full };
        let extras = extras.map(|extras| extras.get());
        let unit = Some(UnitId(unit));
        match DestinationBase::try_ask(slf, event, data, unit, ordered, extras, asking)? {
            Asked::Sent(future) => Ok(Some(future)),
            Asked::Full(_) => Ok(None),
        }
    }

    /// Sends a message to the next unit, or to `unit`, if that has room. Returns the unit's number and
    /// whether it had.
    fn _try_send(
        slf: &Bound<'_, Self>,
        event: &Bound<'_, PyString>,
        data: &Bound<'_, PyAny>,
        unit: Option<u64>,
        ordered: bool,
        extras: Option<&Bound<'_, Extras>>,
        inherit: bool,
    ) -> PyResult<(u64, bool)> {
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine.bind(py);
        let name = utf8(event)?;
        let extras = extras.map(|extras| extras.get());
        let call = if inherit { traced_call(py)? } else { None };
        let fields = fields_of(extras, call.as_ref().map(|call| call.get()))
            .map_err(|error| exception(py, &error))?;
        let required = extras.is_some_and(Extras::are_required);
        let sent = with_payload(data, &engine.get().codec, |payload| {
            let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
            let outgoing = this.outgoing(name, payload, ordered, fields.as_deref());
            Engine::send(engine, outgoing, |state| this.pick(state, unit.map(UnitId), required))
        })??;
        match sent {
            Sent::Queued(unit) => Ok((unit.0, true)),
            Sent::Full(unit) => Ok((unit.0, false)),
            Sent::Failed(error) => Err(engine.get().exception(py, &error)),
        }
    }

    /// The number of a unit that was chosen.
    fn _number_of(&self, unit: &Bound<'_, PyAny>) -> PyResult<u64> {
        self.number_of(unit).map(|unit| unit.0)
    }

    /// The number of the unit whose turn it is.
    fn _next(slf: &Bound<'_, Self>, required: bool) -> PyResult<u64> {
        let (py, this) = (slf.py(), slf.get());
        let pick = |state: &mut roletalk_host::Host, _| this.pick(state, None, required);
        let unit = Engine::with_state(this.engine.bind(py), pick)?;
        unit.map(|unit| unit.0).map_err(|error| exception(py, &error))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)
    }
}

impl DestinationBase {
    /// The number of a `Unit`. Other peers have other units by the same number.
    fn number_of(&self, unit: &Bound<'_, PyAny>) -> PyResult<UnitId> {
        let py = unit.py();
        let Some(engine) = unit.getattr_opt(intern!(py, "_engine"))? else {
            let text = format!("`to` must be a Unit, not {}", unit.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        };
        if !engine.is(&self.engine) {
            return Err(PyValueError::new_err("the unit is one of another peer"));
        }
        Ok(UnitId(unit.getattr(intern!(py, "_number"))?.extract()?))
    }

    fn ask<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: Option<&Bound<'py, PyAny>>,
        (to, timeout, ordered): (Option<&Bound<'py, PyAny>>, Option<f64>, bool),
        extras: Option<Extras>,
        call: Option<Bound<'py, Call>>,
        full: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let asking = Asking { limit: limit(timeout)?, call: call.as_ref(), full };
        let target = to.map(|unit| this.number_of(unit)).transpose()?;
        let none = PyNone::get(py).to_owned().into_any();
        let data = data.unwrap_or(&none);
        let asked = Self::try_ask(slf, event, data, target, ordered, extras.as_ref(), asking)?;
        match asked {
            Asked::Sent(future) => Ok(future),
            Asked::Full(unit) => {
                // Rare, so that it may cost a task.
                let arguments: Bound<'_, PyTuple> =
                    (event, data, unit.0, timeout, ordered, extras, call, full)
                        .into_pyobject(py)?;
                slf.call_method1("_request_later", arguments)
            }
        }
    }

    fn try_ask<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: &Bound<'py, PyAny>,
        unit: Option<UnitId>,
        ordered: bool,
        extras: Option<&Extras>,
        asking: Asking<'_, 'py>,
    ) -> PyResult<Asked<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine.bind(py);
        let name = utf8(event)?;
        let fields = fields_of(extras, asking.call.map(|call| call.get()))
            .map_err(|error| exception(py, &error))?;
        let required = extras.is_some_and(Extras::are_required);
        with_payload(data, &engine.get().codec, |payload| {
            let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
            let outgoing = this.outgoing(name, payload, ordered, fields.as_deref());
            Engine::request(engine, outgoing, |state| this.pick(state, unit, required), asking)
        })?
    }

    fn outgoing<'a>(
        &'a self,
        event: &'a str,
        payload: Payload<'a>,
        ordered: bool,
        fields: Option<&'a Fields>,
    ) -> Outgoing<'a> {
        Outgoing { role: &self.role, event, payload, order: order(ordered), fields }
    }

    /// The chosen unit, or the one that the engine chooses: where `required` is set, among those that take
    /// headers.
    fn pick(
        &self,
        state: &roletalk_host::Host,
        chosen: Option<UnitId>,
        required: bool,
    ) -> Result<UnitId, Error> {
        chosen.map_or_else(|| state.engine.choose(&self.role, required, &Tried::NONE), Ok)
    }
}
