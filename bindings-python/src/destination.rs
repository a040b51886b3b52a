//! Where messages and requests go: the part of destinations that is on the path of each.

use std::time::Duration;

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyNone, PyString, PyTuple},
};
use roletalk_engine::{Error, Order, UnitId};

use crate::{
    data::{utf8, with_payload},
    engine::{Asked, Engine, Sent},
    error::exception,
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

    /// Sends a request to the next unit in turn, or to the unit `to`, and returns an `asyncio.Future`
    /// of the answer: what the handler at the other end returned.
    ///
    /// The request is sent whether or not the future is awaited. Cancelling the future, or the task
    /// that awaits it, gives up waiting; the handler at the other end is not told. Without
    /// `ordered`, the request may overtake others on a less loaded connection of the unit.
    ///
    /// The future raises `RejectedError` with the handler's text, `TimeoutError` when the answer takes
    /// longer than `timeout` seconds (default: `Limits.request_timeout`), `NoUnitError`,
    /// `ConnectionLostError`, `OverloadedError` when too many requests wait, `TooLargeError`, and
    /// `ClosedError`. While the unit's queue is full it waits, which counts for the timeout.
    ///
    /// Raises `DataError` at once when the data cannot be sent.
    #[pyo3(signature = (event, data=None, *, to=None, timeout=None, ordered=true))]
    fn request<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: Option<&Bound<'py, PyAny>>,
        to: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        ordered: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let limit = limit(timeout)?;
        let target = to.map(|unit| this.number_of(unit)).transpose()?;
        let none = PyNone::get(py).to_owned().into_any();
        let data = data.unwrap_or(&none);
        let engine = this.engine.bind(py);
        let name = utf8(event)?;
        let asked = with_payload(data, &engine.get().codec, |payload| {
            let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
            let outgoing = this.outgoing(name, payload, ordered);
            Engine::request(engine, outgoing, |state| this.pick(state, target), limit)
        })??;
        match asked {
            Asked::Sent(future) => Ok(future),
            Asked::Full(unit) => {
                // Rare, so that it may cost a task.
                let arguments: Bound<'_, PyTuple> =
                    (event, data, unit.0, timeout, ordered).into_pyobject(py)?;
                slf.call_method1("_request_later", arguments)
            }
        }
    }

    /// Sends a request to a unit if that has room. Returns the future, or None.
    fn _try_request<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: &Bound<'py, PyAny>,
        unit: u64,
        timeout: Option<f64>,
        ordered: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let this = slf.get();
        let engine = this.engine.bind(slf.py());
        let name = utf8(event)?;
        let limit = limit(timeout)?;
        let asked = with_payload(data, &engine.get().codec, |payload| {
            let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
            let outgoing = this.outgoing(name, payload, ordered);
            Engine::request(engine, outgoing, |_| Ok(UnitId(unit)), limit)
        })??;
        Ok(match asked {
            Asked::Sent(future) => Some(future),
            Asked::Full(_) => None,
        })
    }

    /// Sends a message to the next unit, or to `unit`, if that has room. Returns the unit's number and
    /// whether it had.
    fn _try_send(
        slf: &Bound<'_, Self>,
        event: &Bound<'_, PyString>,
        data: &Bound<'_, PyAny>,
        unit: Option<u64>,
        ordered: bool,
    ) -> PyResult<(u64, bool)> {
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine.bind(py);
        let name = utf8(event)?;
        let sent = with_payload(data, &engine.get().codec, |payload| {
            let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
            let outgoing = this.outgoing(name, payload, ordered);
            Engine::send(engine, outgoing, |state| this.pick(state, unit.map(UnitId)))
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
    fn _next(slf: &Bound<'_, Self>) -> PyResult<u64> {
        let (py, this) = (slf.py(), slf.get());
        let unit = Engine::with_state(this.engine.bind(py), |state, _| this.pick(state, None))?;
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

    fn outgoing<'a>(
        &'a self,
        event: &'a str,
        payload: roletalk_engine::wire::Payload<'a>,
        ordered: bool,
    ) -> roletalk_engine::Outgoing<'a> {
        roletalk_engine::Outgoing {
            role: &self.role,
            event,
            payload,
            order: order(ordered),
            fields: None,
        }
    }

    /// The chosen unit, or the one that the engine chooses.
    fn pick(&self, state: &roletalk_host::Host, chosen: Option<UnitId>) -> Result<UnitId, Error> {
        chosen.map_or_else(|| state.engine.choose(&self.role, false), Ok)
    }
}
