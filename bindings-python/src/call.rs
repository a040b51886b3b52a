//! What a handler was called for, as what it does while it runs inherits it.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU8, Ordering::Relaxed, Ordering::SeqCst},
};
use std::{mem, time::Duration};

use pyo3::{PyTraverseError, PyVisit, intern, prelude::*, sync::PyOnceLock};
use roletalk_engine::{CancelReason, Error, ErrorKind, Fields, FieldsView, Moment, timed_out};
use roletalk_host::lock;

use crate::{
    engine::{Engine, this_thread},
    error::exception,
    extras::headers_of,
};

/// Whether any handler has inherited anything in this process, and whether any trace context: who serves
/// nothing need not look.
static ANY: AtomicBool = AtomicBool::new(false);
static TRACED: AtomicBool = AtomicBool::new(false);

/// How many heirs there are before those that have ended are looked for.
const HEIRS: usize = 16;

const INHERITED: &str = "It was made for a request that is being handled, whose requester waits no longer: with \
    inherit=False it is not bound to that.";

/// The context variable that has the call that is being handled: None outside of handlers.
pub(crate) fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = VARIABLE.get_or_try_init(py, || {
        let options = pyo3::types::PyDict::new(py);
        options.set_item("default", py.None())?;
        let class = py.import("contextvars")?.getattr("ContextVar")?;
        class.call(("roletalk_call",), Some(&options)).map(Bound::unbind)
    })?;
    Ok(made.bind(py))
}

/// The call that is being handled here.
#[pyfunction]
pub(crate) fn current_call(py: Python<'_>) -> PyResult<Option<Bound<'_, Call>>> {
    if !ANY.load(Relaxed) {
        return Ok(None);
    }
    let value = variable(py)?.call_method0(intern!(py, "get"))?;
    Ok(value.cast_into::<Call>().ok())
}

/// The same, for what inherits nothing but trace context.
pub(crate) fn traced_call(py: Python<'_>) -> PyResult<Option<Bound<'_, Call>>> {
    if TRACED.load(Relaxed) { current_call(py) } else { Ok(None) }
}

/// When a request's time is up.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    pub(crate) at: Moment,
    /// The same as the loop's time.
    pub(crate) loop_time: f64,
}

/// A request, or a message with fields, that a handler was called for. Not more than what has to be known of
/// it: tasks that the handler starts keep it as long as they live.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Call {
    engine: Py<Engine>,
    due: Option<Due>,
    /// What came with it.
    fields: Option<Box<Fields>>,
    traced: bool,
    /// Nothing is bound to it any more: it was answered, or never could be given up.
    over: AtomicBool,
    /// Why it was cancelled: the place in [`CancelReason::ALL`] plus one.
    cancelled: AtomicU8,
    heirs: Mutex<Heirs>,
    headers: OnceLock<Py<PyAny>>,
}

/// Who is given up together with a call.
struct Heirs {
    all: Vec<Heir>,
    /// Those that have ended are looked for when there are so many.
    sweep: usize,
}

/// A request that was made because of a call, by its place and serial number in its engine's table.
pub(crate) struct Heir {
    pub(crate) engine: Py<Engine>,
    pub(crate) tag: usize,
    pub(crate) serial: u64,
}

impl Heir {
    fn waits(&self) -> bool {
        self.engine.get().is_waiting(self.tag, self.serial)
    }

    /// Ends it, in its loop's thread.
    fn give_up(self, py: Python<'_>, error: &PyErr) -> PyResult<()> {
        let Heir { engine, tag, serial } = self;
        if engine.get().is_thread(this_thread()) {
            return Engine::give_up(engine.bind(py), tag, serial, error.value(py));
        }
        let arguments = (tag, serial, error.value(py)).into_pyobject(py)?;
        engine.get().hand_over(py, engine.bind(py), "give_up", arguments)
    }
}

impl Call {
    /// `bound` is whether what it is made for can be given up.
    pub(crate) fn new(
        engine: Py<Engine>,
        due: Option<Due>,
        view: FieldsView<'_>,
        bound: bool,
    ) -> Call {
        let fields = (!view.is_empty()).then(|| Box::new(Fields::from(view)));
        let traced = fields.is_some() && view.traceparent().is_some();
        if !ANY.load(Relaxed) {
            ANY.store(true, Relaxed);
        }
        if traced {
            TRACED.store(true, Relaxed);
        }
        Call {
            engine,
            due,
            fields,
            traced,
            over: AtomicBool::new(!bound),
            cancelled: AtomicU8::new(0),
            heirs: Mutex::new(Heirs { all: Vec::new(), sweep: HEIRS }),
            headers: OnceLock::new(),
        }
    }

    pub(crate) fn due(&self) -> Option<Due> {
        self.due
    }

    /// The seconds that are left.
    pub(crate) fn remaining(&self) -> Option<f64> {
        Some(self.due?.at.since(self.engine.get().clock()).as_secs_f64())
    }

    pub(crate) fn fields(&self) -> FieldsView<'_> {
        self.fields.as_deref().map(Fields::view).unwrap_or_default()
    }

    /// Whether it has a trace context.
    pub(crate) fn is_traced(&self) -> bool {
        self.traced
    }

    /// Its headers, as a `Headers`.
    pub(crate) fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(headers) = self.headers.get() {
            return Ok(headers.bind(py).clone());
        }
        let made = headers_of(py, self.fields())?;
        // Another thread may have been faster.
        let _ = self.headers.set(made.clone().unbind());
        Ok(made)
    }

    /// Why it was cancelled.
    pub(crate) fn reason(&self) -> Option<CancelReason> {
        let place = usize::from(self.cancelled.load(SeqCst));
        CancelReason::ALL.get(place.checked_sub(1)?).copied()
    }

    /// Its handler has ended, or its stream was accepted: nothing is bound to it any more.
    pub(crate) fn end(&self) {
        self.over.store(true, SeqCst);
        let heirs = mem::take(&mut lock(&self.heirs).all);
        drop(heirs);
    }

    /// Whether what is made for it now ends with it.
    pub(crate) fn binds(&self) -> bool {
        !self.over.load(SeqCst)
    }

    /// How long something may take that is made for it, if its own limit is this.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when no time is left, [`ErrorKind::Cancelled`] when it was cancelled.
    pub(crate) fn limit(&self, own: Option<Duration>) -> Result<Option<Duration>, Error> {
        if !self.binds() {
            return Ok(own);
        }
        let left = self.due.map(|due| due.at.since(self.engine.get().clock()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(timed_out(Duration::ZERO).with_hint(INHERITED));
        }
        if let Some(reason) = self.reason() {
            return Err(given_up(reason));
        }
        Ok(match (own, left) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (own, left) => own.or(left),
        })
    }

    /// Something waits that ends with it.
    pub(crate) fn adopt(&self, py: Python<'_>, heir: Heir) -> PyResult<()> {
        if !self.binds() {
            return Ok(());
        }
        let all = {
            let mut heirs = lock(&self.heirs);
            heirs.all.push(heir);
            let is_full = heirs.all.len() >= heirs.sweep;
            if is_full { mem::take(&mut heirs.all) } else { Vec::new() }
        };
        if !all.is_empty() {
            let (mut waiting, ended): (Vec<Heir>, Vec<Heir>) =
                all.into_iter().partition(Heir::waits);
            drop(ended);
            let mut heirs = lock(&self.heirs);
            heirs.all.append(&mut waiting);
            heirs.sweep = HEIRS.max(2 * heirs.all.len());
        }
        // Another thread may have cancelled it meanwhile.
        match self.reason() {
            Some(reason) => self.give_up_heirs(py, reason),
            None => Ok(()),
        }
    }

    /// Nobody waits for its answer any more. What was made for it ends with it, behind what
    /// `tell_handler` does.
    pub(crate) fn cancel(
        &self,
        py: Python<'_>,
        reason: CancelReason,
        tell_handler: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<()> {
        let place = CancelReason::ALL.iter().position(|known| *known == reason);
        self.cancelled.store(place.unwrap_or_default() as u8 + 1, SeqCst);
        tell_handler()?;
        self.give_up_heirs(py, reason)
    }

    fn give_up_heirs(&self, py: Python<'_>, reason: CancelReason) -> PyResult<()> {
        let heirs = mem::take(&mut lock(&self.heirs).all);
        for heir in heirs {
            heir.give_up(py, &exception(py, &given_up(reason)))?;
        }
        Ok(())
    }
}

fn given_up(reason: CancelReason) -> Error {
    let text = format!("Given up with its handler: {}", reason.text());
    Error::new(ErrorKind::Cancelled, text).with_hint(INHERITED)
}

#[pymethods]
impl Call {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        if let Ok(heirs) = self.heirs.try_lock() {
            for heir in &heirs.all {
                visit.call(&heir.engine)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.end();
    }
}
