//! How the unit is chosen that something goes to, as Python says it.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyTypeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBool, PyBytes, PyFloat, PyInt, PyString},
};
use roletalk_engine::{Balance as Core, Bulkhead, Ejection as CoreEjection, ErrorKind};

use crate::{
    data::utf8,
    destination::seconds,
    error::{exception, failure},
};

/// A strategy, the tags that a unit should have, and which units are left out.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Balance {
    strategy: Strategy,
    prefer: Vec<(String, String)>,
    eject: Option<CoreEjection>,
    /// All together; where a function chooses, what it chooses from.
    core: Core,
}

enum Strategy {
    /// One that the engine knows.
    Known(Core),
    Function(Py<PyAny>),
}

/// The options of one call or destination.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given<'a, 'py> {
    pub(crate) balance: Option<&'a Bound<'py, PyAny>>,
    pub(crate) prefer: Option<&'a Bound<'py, PyAny>>,
    pub(crate) key: Option<&'a Bound<'py, PyAny>>,
    /// Of destinations only.
    pub(crate) eject: Option<&'a Bound<'py, PyAny>>,
}

impl Given<'_, '_> {
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        let Given { balance, prefer, key, eject } = self;
        balance.is_none() && prefer.is_none() && key.is_none() && eject.is_none()
    }
}

impl Balance {
    fn new(
        strategy: Strategy,
        prefer: Vec<(String, String)>,
        eject: Option<CoreEjection>,
    ) -> Balance {
        let bare = match &strategy {
            Strategy::Known(core) => core.clone(),
            Strategy::Function(_) => Core::default(),
        };
        let preferring = prefer.iter().fold(bare, |core, (tag, value)| core.prefer(tag, value));
        let core = match eject {
            Some(eject) => preferring.eject(eject),
            None => preferring,
        };
        Balance { strategy, prefer, eject, core }
    }

    /// That of a peer.
    ///
    /// # Errors
    /// `InvalidArgumentError` for a name that no strategy has, `TypeError` for what is neither a name nor a
    /// function, and for what is no ejection.
    pub(crate) fn of(
        strategy: &Bound<'_, PyAny>,
        eject: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Balance> {
        let eject = eject.map(ejection_of).transpose()?.flatten();
        Ok(Balance::new(Strategy::of(strategy)?, Vec::new(), eject))
    }

    /// The same, but for what is given.
    ///
    /// # Errors
    /// Also when a strategy and a key are given.
    pub(crate) fn with(&self, py: Python<'_>, given: Given<'_, '_>) -> PyResult<Balance> {
        let strategy = match (given.balance, given.key) {
            (None, None) => self.strategy.clone_ref(py),
            (Some(strategy), None) => Strategy::of(strategy)?,
            (None, Some(key)) => Strategy::by_key(key)?,
            (Some(_), Some(_)) => {
                let text = "balance and key are two ways to choose the unit: give one of them";
                return Err(failure(py, ErrorKind::InvalidArgument, text));
            }
        };
        let prefer = match given.prefer {
            Some(tags) => tags_of(tags)?,
            None => self.prefer.clone(),
        };
        let eject = match given.eject {
            Some(eject) => ejection_of(eject)?,
            None => self.eject,
        };
        Ok(Balance::new(strategy, prefer, eject))
    }

    /// What the engine needs of it: see [`function`](Self::function).
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// What is to be called, without any lock, for a choice among what the engine offers.
    pub(crate) fn function(&self) -> Option<&Py<PyAny>> {
        match &self.strategy {
            Strategy::Function(function) => Some(function),
            Strategy::Known(_) => None,
        }
    }

    /// As the engine's, of functions as well.
    pub(crate) fn means_one(&self) -> bool {
        self.function().is_some() || self.core.means_one()
    }
}

impl Strategy {
    fn of(strategy: &Bound<'_, PyAny>) -> PyResult<Strategy> {
        let py = strategy.py();
        if let Ok(name) = strategy.cast::<PyString>() {
            let known = Core::named(&name.to_string_lossy());
            return known.map(Strategy::Known).map_err(|error| exception(py, &error));
        }
        if !strategy.is_callable() {
            let name = strategy.get_type().name()?;
            let text = format!(
                "balance must be \"round_robin\", \"least_loaded\" or a function, not {name}"
            );
            return Err(PyTypeError::new_err(text));
        }
        if is_async(strategy)? {
            return Err(PyTypeError::new_err("balance must be a plain function, not an async one"));
        }
        Ok(Strategy::Function(strategy.clone().unbind()))
    }

    fn by_key(key: &Bound<'_, PyAny>) -> PyResult<Strategy> {
        let core = if let Ok(text) = key.cast::<PyString>() {
            Core::key(utf8(text)?.as_bytes())
        } else if let Ok(bytes) = key.cast::<PyBytes>() {
            Core::key(bytes.as_bytes())
        } else {
            let text = format!("key must be str or bytes, not {}", key.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        };
        Ok(Strategy::Known(core))
    }

    fn clone_ref(&self, py: Python<'_>) -> Strategy {
        match self {
            Strategy::Known(core) => Strategy::Known(core.clone()),
            Strategy::Function(function) => Strategy::Function(function.clone_ref(py)),
        }
    }
}

/// Whether calling it gives something to be awaited, as far as that can be seen.
fn is_async(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    const COROUTINE: u32 = 0x80;
    const ASYNC_GENERATOR: u32 = 0x200;
    let py = function.py();
    let Some(code) = function.getattr_opt(intern!(py, "__code__"))? else { return Ok(false) };
    let Some(flags) = code.getattr_opt(intern!(py, "co_flags"))? else { return Ok(false) };
    let flags = flags.cast::<PyInt>().ok().and_then(|flags| flags.extract::<u32>().ok());
    Ok(flags.is_some_and(|flags| flags & (COROUTINE | ASYNC_GENERATOR) != 0))
}

/// The tags of a mapping.
fn tags_of(tags: &Bound<'_, PyAny>) -> PyResult<Vec<(String, String)>> {
    let py = tags.py();
    let wrong = || PyTypeError::new_err("prefer must be a mapping of str to str");
    let items = tags.getattr_opt(intern!(py, "items"))?.ok_or_else(wrong)?.call0()?;
    let pairs = items.try_iter()?.map(|pair| {
        let (tag, value): (Bound<'_, PyString>, Bound<'_, PyString>) =
            pair?.extract().map_err(|_| wrong())?;
        let text = |text| utf8(text).map(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into());
        Ok((text(&tag)?, text(&value)?))
    });
    pairs.collect()
}

/// The option `eject`; none when no unit is to be left out.
fn ejection_of(eject: &Bound<'_, PyAny>) -> PyResult<Option<CoreEjection>> {
    if let Ok(wanted) = eject.cast::<PyBool>() {
        return Ok(wanted.is_true().then(CoreEjection::default));
    }
    match eject.cast::<Ejection>() {
        Ok(ejection) => Ok(Some(ejection.get().0)),
        Err(_) => {
            let name = eject.get_type().name()?;
            Err(PyTypeError::new_err(format!("eject must be a bool or an Ejection, not {name}")))
        }
    }
}

/// The option `max_in_flight`; none for no bound.
pub(crate) fn bulkhead_of(most: &Bound<'_, PyAny>) -> PyResult<Option<Bulkhead>> {
    if let Ok(most) = most.cast::<PyFloat>()
        && most.value() == f64::INFINITY
    {
        return Ok(None);
    }
    if !most.is_instance_of::<PyInt>() {
        let name = most.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "max_in_flight must be an int, or math.inf for no bound, not {name}"
        )));
    }
    let bound = most.extract().map_err(|_| {
        PyValueError::new_err(format!("max_in_flight must be from 0 to {}", usize::MAX))
    })?;
    Ok(Some(Bulkhead::new(bound)))
}

/// When a unit that keeps failing is left out for a while. Never more than half of those that serve a role are.
///
/// It is asked again, once, when its time is over: if that fails, too, it is left out for twice as long, otherwise it
/// is as good as any. What a unit has failed with before counts as well, whatever it was asked for.
///
/// Args:
///     failures: So many requests in a row that fail, at least 1. Default 5. A request fails when it is not answered
///         within its time.
///     rejections: Whether rejections are failures, too: by handlers, for want of a handler, or because the unit is
///         overloaded. Default False, since a handler may reject what is wrong with the request.
///     time: How many seconds the unit is left out at first. Default 5.
///     most: The most seconds that it is left out. Default 60, and never less than `time`.
///
/// Raises:
///     ValueError: For a number that cannot be one of these.
///     TypeError: For something of another type.
#[pyclass(frozen, module = "roletalk")]
pub struct Ejection(CoreEjection);

#[pymethods]
impl Ejection {
    #[new]
    #[pyo3(signature = (*, failures=None, rejections=None, time=None, most=None))]
    fn new(
        failures: Option<&Bound<'_, PyAny>>,
        rejections: Option<&Bound<'_, PyAny>>,
        time: Option<&Bound<'_, PyAny>>,
        most: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Ejection> {
        let mut ejection = CoreEjection::default();
        if let Some(failures) = failures {
            ejection.failures = whole("failures", failures, 1)?;
        }
        if let Some(rejections) = rejections {
            ejection.rejections = match rejections.cast::<PyBool>() {
                Ok(rejections) => rejections.is_true(),
                Err(_) => return Err(not_a("rejections", "a bool", rejections)),
            };
        }
        if let Some(time) = time {
            ejection.time = seconds("time", number("time", time, "a number of seconds")?)?;
        }
        if let Some(most) = most {
            ejection.most = seconds("most", number("most", most, "a number of seconds")?)?;
        }
        Ok(Ejection(ejection))
    }

    /// So many requests in a row that fail.
    #[getter]
    fn failures(&self) -> u32 {
        self.0.failures
    }

    /// Whether rejections are failures, too.
    #[getter]
    fn rejections(&self) -> bool {
        self.0.rejections
    }

    /// How many seconds a unit is left out at first.
    #[getter]
    fn time(&self) -> f64 {
        self.0.time.as_secs_f64()
    }

    /// The most seconds that it is left out.
    #[getter]
    fn most(&self) -> f64 {
        self.0.most.as_secs_f64()
    }

    fn __repr__(&self) -> String {
        let CoreEjection { failures, rejections, .. } = self.0;
        let rejections = if rejections { "True" } else { "False" };
        let (time, most) = (self.time(), self.most());
        format!(
            "Ejection(failures={failures}, rejections={rejections}, time={time:?}, most={most:?})"
        )
    }
}

/// An argument that is a whole number.
pub(crate) fn whole(name: &str, value: &Bound<'_, PyAny>, least: u32) -> PyResult<u32> {
    if !value.is_instance_of::<PyInt>() {
        return Err(not_a(name, "an int", value));
    }
    let number = value.extract().ok().filter(|number| *number >= least);
    number.ok_or_else(|| {
        PyValueError::new_err(format!("{name} must be from {least} to {}", u32::MAX))
    })
}

/// An argument that is a number.
pub(crate) fn number(name: &str, value: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    value.extract().map_err(|_| not_a(name, what, value))
}

fn not_a(name: &str, what: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value.get_type().name();
    let kind = kind.map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default();
    PyTypeError::new_err(format!("{name} must be {what}, not {kind}"))
}

#[pymethods]
impl Balance {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.function())
    }
}

/// A unit that can be asked: what a function that chooses gets of each.
#[pyclass(frozen, module = "roletalk")]
pub struct Candidate {
    /// The unit: what the function returns if it is to be this one.
    #[pyo3(get)]
    pub(crate) unit: Py<PyAny>,
    /// How many requests wait for its answer.
    #[pyo3(get)]
    waiting: usize,
    /// The seconds that an answer is likely to take: as its answers have taken, which counts for less and less as
    /// time goes by, or as long as it owes one and is silent. 0 when nothing is known.
    #[pyo3(get)]
    answer_time: f64,
}

#[pymethods]
impl Candidate {
    #[new]
    #[pyo3(signature = (unit, waiting=0, answer_time=0.0))]
    pub(crate) fn new(unit: Py<PyAny>, waiting: usize, answer_time: f64) -> Candidate {
        Candidate { unit, waiting, answer_time }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let unit = self.unit.bind(py).repr()?;
        Ok(format!("<Candidate {unit} waiting={} answer_time={}>", self.waiting, self.answer_time))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.unit)
    }
}
