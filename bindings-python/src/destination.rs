//! Where messages and requests go: the part of destinations that is on the path of each.

use std::{
    borrow::Cow,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyNone, PyString},
};
use roletalk_engine::{
    Bulkhead, Moment, Moves, Order, Outgoing, Retry, Tried, UnitId, wire::Direction,
};
use roletalk_host::lock;

use crate::{
    balance::{Balance, Given, bulkhead_of},
    call::{Call, current_call, traced_call},
    data::{Encoded, encode, utf8},
    engine::{Engine, Sent},
    error::exception,
    extras::{Extras, fields_of},
    request::{More, Request},
    retry::retry_of,
};

/// The base of `Destination`.
#[pyclass(frozen, subclass, module = "roletalk._engine")]
pub struct DestinationBase {
    engine: Py<Engine>,
    role: Arc<str>,
    /// The role's name.
    #[pyo3(get)]
    name: Py<PyString>,
    /// Whether requests and streams wait for a unit that do not say it themselves.
    waits: AtomicBool,
    /// How units are chosen where a call does not say it.
    balance: Mutex<Py<Balance>>,
    /// Whether that is not what the engine does by itself.
    chooses: AtomicBool,
    /// The bound of requests in flight, if there is one.
    bulkhead: Mutex<Option<Bulkhead>>,
    /// Whether there is one.
    is_bounded: AtomicBool,
    /// How requests are made again that do not say it themselves, if they are.
    retry: Mutex<Option<Retry>>,
    /// Whether they are.
    retries: AtomicBool,
}

/// How a unit stands, as `roletalk.Standing` has it: the unit, `waiting`, `answer_time`, `unanswered`, `rejected` and
/// `ejected`.
type StandingParts = (Py<PyAny>, usize, f64, usize, usize, Option<f64>);

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
        let role = String::from_utf8_lossy(utf8(name.bind(py))?.as_bytes()).into();
        let balance = engine.get().balance.clone_ref(py);
        let chooses = AtomicBool::new(balance.get().function().is_some());
        let (waits, balance) = (AtomicBool::new(false), Mutex::new(balance));
        let (bulkhead, is_bounded) = (Mutex::new(None), AtomicBool::new(false));
        let (retry, retries) = (Mutex::new(None), AtomicBool::new(false));
        Ok(DestinationBase {
            engine,
            role,
            name,
            waits,
            balance,
            chooses,
            bulkhead,
            is_bounded,
            retry,
            retries,
        })
    }

    /// Sends a request to the unit that the balance chooses, or to the unit `to`.
    ///
    /// The request is sent whether or not the future is awaited. Cancelling the future, or the task
    /// that awaits it, gives the request up, and the handler at the other end is cancelled. Without
    /// `ordered`, the request may overtake others on a less loaded connection of the unit. While the unit's
    /// queue is full it waits, which counts for the timeout.
    ///
    /// What a unit has surely not begun goes on to the next one, to each once, unless `to` was given.
    ///
    /// In a handler, and in tasks that it has started, a request has no more time than is left of the one that is
    /// being handled, is given up with that, and goes with its trace context, unless `inherit` is False.
    ///
    /// Args:
    ///     event: The name of the action.
    ///     data: The payload.
    ///     to: The unit to ask, whatever the last three of these say; without, it is chosen.
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
    ///     wait_for_unit: Whether it waits for a unit, within the timeout, when none serves the role, or a function
    ///         chooses none; default is what `Peer.destination` was told.
    ///     balance: How the unit is chosen, as in `Peer`; default is what `Peer.destination` was told.
    ///     prefer: Tags: only units that have all of these are asked as long as one of them can be; default is what
    ///         `Peer.destination` was told.
    ///     key: A str or bytes in place of `balance`: the same unit for the same key, as long as it is there,
    ///         whoever asks. Units are told apart by their names. Only the keys of a unit that leaves or comes move.
    ///     retry: A `Retry` says that the request may be handled more than once, and how it is made again: after a failure
    ///         that need not happen again, and, if so told, when its answer takes long. All attempts have the one timeout
    ///         and one outcome, and are given up together. Nothing that may have begun is made again without. False:
    ///         not at all; default is what `Peer.destination` was told. It means nothing with `to`.
    ///
    /// Returns:
    ///     An `asyncio.Future` of what the handler at the other end returned; `call` gives the headers of the
    ///     answer, too.
    ///
    /// Raises:
    ///     DataError: At once, when the data cannot be sent.
    ///     InvalidArgumentError: At once, for the name of a header or a trace context of another form, for a
    ///         balance that there is not, and for a key beside a balance; from the future, for a function that fails,
    ///         with its exception as the cause, or chooses what it was not offered.
    ///     TooLargeError: At once, for more headers than are allowed; from the future, for the message.
    ///     RejectedError: From the future, as are all below; with the handler's text, code and data.
    ///     TimeoutError: When the answer, or a unit that is waited for, takes too long, or no time is left for it.
    ///     CancelledError: When the request that is being handled was cancelled.
    ///     NoUnitError: When no unit serves the role.
    ///     UnsupportedError: When no unit takes headers that are required.
    ///     ConnectionLostError: When the unit is gone.
    ///     OverloadedError: When too many requests wait, for answers or for a unit, or are in flight to the destination
    ///         (`max_in_flight`).
    ///     ClosedError: When the peer is closed.
    #[pyo3(signature = (
        event, data=None, *, to=None, timeout=None, ordered=true, headers=None, headers_required=false,
        traceparent=None, tracestate=None, baggage=None, inherit=true, wait_for_unit=None,
        balance=None, prefer=None, key=None, retry=None
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
        wait_for_unit: Option<bool>,
        balance: Option<&Bound<'py, PyAny>>,
        prefer: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        retry: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let extras = Extras::of(headers, headers_required, traceparent, tracestate, baggage, py)?;
        let call = if inherit { current_call(py)? } else { None };
        let given = Given { balance, prefer, key, ..Given::default() };
        let bulkhead = slf.get().bulkhead();
        let retry = slf.get().retry(retry)?;
        let how = How { to, timeout, ordered, waits: wait_for_unit, given, bulkhead, retry };
        DestinationBase::ask(slf, event, data, how, extras, call, false)
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
        traceparent=None, tracestate=None, baggage=None, inherit=true, wait_for_unit=None,
        balance=None, prefer=None, key=None, retry=None
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
        wait_for_unit: Option<bool>,
        balance: Option<&Bound<'py, PyAny>>,
        prefer: Option<&Bound<'py, PyAny>>,
        key: Option<&Bound<'py, PyAny>>,
        retry: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let extras = Extras::of(headers, headers_required, traceparent, tracestate, baggage, py)?;
        let call = if inherit { current_call(py)? } else { None };
        let given = Given { balance, prefer, key, ..Given::default() };
        let bulkhead = slf.get().bulkhead();
        let retry = slf.get().retry(retry)?;
        let how = How { to, timeout, ordered, waits: wait_for_unit, given, bulkhead, retry };
        DestinationBase::ask(slf, event, data, how, extras, call, true)
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
        let given = Given::default();
        let (to, waits, bulkhead, retry) = (Some(to), None, None, None);
        let how = How { to, timeout, ordered: true, waits, given, bulkhead, retry };
        DestinationBase::ask(slf, event, Some(data), how, extras, call, true)
    }

    /// Asks for a stream: of `unit` first, or of that alone when it was `chosen`. Returns a future of the unit's
    /// number, the stream's, and the answer.
    #[expect(clippy::too_many_arguments, reason = "called from one place")]
    fn _open_stream<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: &Bound<'py, PyAny>,
        unit: Option<u64>,
        chosen: bool,
        timeout: Option<f64>,
        writable: bool,
        extras: Option<&Bound<'py, Extras>>,
        inherit: bool,
        waits: bool,
        balance: Option<&Bound<'py, Balance>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let call = if inherit { current_call(py)? } else { None };
        let extras = extras.map(|extras| extras.get().clone());
        let balance = slf.get().or_own(py, balance);
        let bulkhead = slf.get().bulkhead();
        let limit = limit(timeout)?;
        let mut request =
            slf.get().request_of(py, event, data, limit, extras, (balance, bulkhead), &call)?;
        request.stream = Some(match writable {
            true => Direction::RequesterWrites,
            false => Direction::RequesterReads,
        });
        request.order = Order::Any;
        (request.chosen, request.waits) = (chosen, waits);
        let first = unit.map(UnitId);
        Engine::ask(slf.get().engine.bind(py), request, first, call.as_ref(), true)
    }

    /// Sends a message to `unit` first, or to that alone when it was `chosen`, or to the next unit, if that has
    /// room. Otherwise returns the unit's number, and what is to be sent.
    #[expect(clippy::too_many_arguments, reason = "called from one place")]
    fn _try_send(
        slf: &Bound<'_, Self>,
        event: &Bound<'_, PyString>,
        data: &Bound<'_, PyAny>,
        unit: Option<u64>,
        chosen: bool,
        ordered: bool,
        extras: Option<&Bound<'_, Extras>>,
        inherit: bool,
        balance: Option<&Bound<'_, Balance>>,
    ) -> PyResult<Option<(u64, Encoded)>> {
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine.bind(py);
        let name = utf8(event)?;
        let extras = extras.map(|extras| extras.get());
        let call = if inherit { traced_call(py)? } else { None };
        let fields = fields_of(extras, call.as_ref().map(|call| call.get()))
            .map_err(|error| exception(py, &error))?;
        let required = extras.is_some_and(Extras::are_required);
        let data = encode(data, &engine.get().codec)?;
        let balance = this.or_own(py, balance);
        let balance = balance.as_ref().map(Py::get);
        let means_one = balance.is_some_and(Balance::means_one);
        let outgoing = Outgoing {
            role: &this.role,
            event: std::str::from_utf8(name.as_bytes()).unwrap_or_default(),
            payload: data.payload(py),
            order: order(ordered),
            fields: fields.as_deref(),
            bulkhead: None,
            moves: if chosen || means_one { Moves::WithinUnit } else { Moves::ToAnyUnit },
        };
        let how = (required, balance);
        match Engine::send(engine, outgoing, how, (unit.map(UnitId), chosen))? {
            Sent::Queued => Ok(None),
            Sent::Full(unit) => Ok(Some((unit.0, data))),
            Sent::Failed(error) => Err(engine.get().exception(py, &error)),
        }
    }

    /// The number of a unit that was chosen.
    fn _number_of(&self, unit: &Bound<'_, PyAny>) -> PyResult<u64> {
        self.number_of(unit).map(|unit| unit.0)
    }

    /// The number of the next unit.
    fn _next(
        slf: &Bound<'_, Self>,
        required: bool,
        balance: Option<&Bound<'_, Balance>>,
    ) -> PyResult<u64> {
        let (py, this) = (slf.py(), slf.get());
        let (engine, role) = (this.engine.bind(py), &this.role);
        let balance = this.or_own(py, balance);
        let unit = match balance.as_ref().map(Py::get) {
            Some(balance) if balance.function().is_some() => {
                engine.get().choose_by_function(py, role, (balance, required), &Tried::NONE)
            }
            balance => Engine::with_state(engine, |state, now| {
                let balance = balance.map(Balance::core);
                state.engine.choose(role, balance, required, &Tried::NONE, now)
            }),
        };
        unit?.map(|unit| unit.0).map_err(|error| exception(py, &error))
    }

    /// How the unit is chosen for a call with these options.
    fn _balance(
        &self,
        py: Python<'_>,
        balance: Option<&Bound<'_, PyAny>>,
        prefer: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Balance>> {
        self.balance_with(py, Given { balance, prefer, key, ..Given::default() })
    }

    /// Sets what holds where a call does not say it. What is None stays as it is, and so does everything when
    /// something is wrong.
    fn _set(
        &self,
        py: Python<'_>,
        balance: Option<&Bound<'_, PyAny>>,
        prefer: Option<&Bound<'_, PyAny>>,
        eject: Option<&Bound<'_, PyAny>>,
        max_in_flight: Option<&Bound<'_, PyAny>>,
        retry: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let given = Given { balance, prefer, eject, ..Given::default() };
        let changed = match given.is_nothing() {
            true => None,
            false => Some(self.balance_with(py, given)?),
        };
        let bulkhead = max_in_flight.map(bulkhead_of).transpose()?;
        let retry = retry.map(retry_of).transpose()?;
        if let Some(bulkhead) = bulkhead {
            self.set_bulkhead(bulkhead);
        }
        if let Some(retry) = retry {
            self.retries.store(retry.is_some(), Relaxed);
            *lock(&self.retry) = retry;
        }
        if let Some(changed) = changed {
            let before = mem::replace(&mut *lock(&self.balance), changed);
            self.chooses.store(true, Relaxed);
            drop(before);
        }
        Ok(())
    }

    /// How the units stand that serve it.
    fn _standings(slf: &Bound<'_, Self>) -> PyResult<Vec<StandingParts>> {
        let (py, this) = (slf.py(), slf.get());
        let balance = this.or_own(py, None);
        let balance = balance.as_ref().map(Py::get);
        let standings = this.engine.get().standings(py, &this.role, balance)?;
        let parts = standings.into_iter().map(|(unit, standing)| {
            let (answer_time, ejected) = (standing.answer_time, standing.ejected);
            (
                unit,
                standing.waiting,
                answer_time.as_secs_f64(),
                standing.unanswered,
                standing.rejected,
                ejected.map(|time| time.as_secs_f64()),
            )
        });
        Ok(parts.collect())
    }

    /// Whether requests and streams wait for a unit unless they say otherwise.
    #[getter]
    fn _waits(&self) -> bool {
        self.waits.load(Relaxed)
    }

    #[setter(_waits)]
    fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Relaxed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        match self.balance.try_lock() {
            Ok(balance) => visit.call(&*balance),
            Err(_) => Ok(()),
        }
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

    /// The same bound again leaves what is in flight counted.
    fn set_bulkhead(&self, bulkhead: Option<Bulkhead>) {
        let mut own = lock(&self.bulkhead);
        let limit = |bulkhead: &Option<Bulkhead>| bulkhead.as_ref().map(Bulkhead::limit);
        if limit(&own) != limit(&bulkhead) {
            self.is_bounded.store(bulkhead.is_some(), Relaxed);
            *own = bulkhead;
        }
    }

    /// The bound of requests in flight that what is asked counts for.
    #[inline]
    fn bulkhead(&self) -> Option<Bulkhead> {
        if self.is_bounded.load(Relaxed) { lock(&self.bulkhead).clone() } else { None }
    }

    /// How what is asked is made again, if it is: as it says, or else as the destination does.
    #[inline]
    fn retry(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Retry>> {
        match given {
            Some(given) => retry_of(given),
            None if self.retries.load(Relaxed) => Ok(lock(&self.retry).clone()),
            None => Ok(None),
        }
    }

    fn balance_with(&self, py: Python<'_>, given: Given<'_, '_>) -> PyResult<Py<Balance>> {
        let own = lock(&self.balance).clone_ref(py);
        Py::new(py, own.get().with(py, given)?)
    }

    /// How the unit is chosen for something, if the call has its own way; None when the engine knows.
    #[inline]
    fn or_own(&self, py: Python<'_>, balance: Option<&Bound<'_, Balance>>) -> Option<Py<Balance>> {
        match balance {
            Some(balance) => Some(balance.clone().unbind()),
            None if self.chooses.load(Relaxed) => Some(lock(&self.balance).clone_ref(py)),
            None => None,
        }
    }

    fn ask<'py>(
        slf: &Bound<'py, Self>,
        event: &Bound<'py, PyString>,
        data: Option<&Bound<'py, PyAny>>,
        How { to, timeout, ordered, waits, given, bulkhead, retry }: How<'_, 'py>,
        extras: Option<Extras>,
        call: Option<Bound<'py, Call>>,
        full: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let limit = limit(timeout)?;
        let unit = to.map(|unit| this.number_of(unit)).transpose()?;
        let none = PyNone::get(py).to_owned().into_any();
        let balance = match given.is_nothing() {
            true => this.or_own(py, None),
            false => Some(this.balance_with(py, given)?),
        };
        let (data, by) = (data.unwrap_or(&none), (balance, bulkhead));
        let mut request = this.request_of(py, event, data, limit, extras, by, &call)?;
        request.chosen = unit.is_some();
        request.order = order(ordered);
        request.waits = waits.unwrap_or_else(|| this.waits.load(Relaxed));
        let engine = this.engine.bind(py);
        match (retry, unit) {
            (Some(retry), None) => Engine::ask_again(engine, request, retry, call.as_ref(), full),
            (_, unit) => Engine::ask(engine, request, unit, call.as_ref(), full),
        }
    }

    /// A request to any unit, which waits for none.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "called from two places")]
    fn request_of(
        &self,
        py: Python<'_>,
        event: &Bound<'_, PyString>,
        data: &Bound<'_, PyAny>,
        limit: Option<Duration>,
        extras: Option<Extras>,
        (balance, bulkhead): (Option<Py<Balance>>, Option<Bulkhead>),
        call: &Option<Bound<'_, Call>>,
    ) -> PyResult<Request> {
        let event = utf8(event)?.unbind();
        let required = extras.as_ref().is_some_and(Extras::are_required);
        let made = match fields_of(extras.as_ref(), call.as_ref().map(|call| call.get())) {
            Ok(Some(Cow::Owned(fields))) => Some(fields),
            Ok(_) => None,
            Err(error) => return Err(exception(py, &error)),
        };
        let data = encode(data, &self.engine.get().codec)?;
        let fields = made.or_else(|| extras.map(Extras::into_fields));
        let is_more = fields.is_some() || balance.is_some() || bulkhead.is_some();
        let more = || Box::new(More { fields, required, balance, bulkhead, ..More::default() });
        let more = is_more.then(more);
        Ok(Request {
            role: self.role.clone(),
            event,
            data,
            order: Order::Kept,
            more,
            stream: None,
            chosen: false,
            waits: false,
            limit,
            since: Moment::EPOCH,
        })
    }
}

/// How a request is sent.
struct How<'a, 'py> {
    to: Option<&'a Bound<'py, PyAny>>,
    timeout: Option<f64>,
    ordered: bool,
    waits: Option<bool>,
    given: Given<'a, 'py>,
    bulkhead: Option<Bulkhead>,
    retry: Option<Retry>,
}
