//! How the unit is chosen that something goes to, as Python says it.

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::PyTypeError,
    intern,
    prelude::*,
    types::{PyBytes, PyInt, PyString},
};
use roletalk_engine::{Balance as Core, ErrorKind};

use crate::{
    data::utf8,
    error::{exception, failure},
};

/// A strategy, and the tags that a unit should have.
#[pyclass(frozen, module = "roletalk._engine")]
pub struct Balance {
    strategy: Strategy,
    prefer: Vec<(String, String)>,
    /// Both together; where a function chooses, only what is preferred.
    core: Core,
}

enum Strategy {
    /// One that the engine knows.
    Known(Core),
    Function(Py<PyAny>),
}

/// The options of one call or destination.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a, 'py> {
    pub(crate) balance: Option<&'a Bound<'py, PyAny>>,
    pub(crate) prefer: Option<&'a Bound<'py, PyAny>>,
    pub(crate) key: Option<&'a Bound<'py, PyAny>>,
}

impl Given<'_, '_> {
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.balance.is_none() && self.prefer.is_none() && self.key.is_none()
    }
}

impl Balance {
    fn new(strategy: Strategy, prefer: Vec<(String, String)>) -> Balance {
        let bare = match &strategy {
            Strategy::Known(core) => core.clone(),
            Strategy::Function(_) => Core::default(),
        };
        let core = prefer.iter().fold(bare, |core, (tag, value)| core.prefer(tag, value));
        Balance { strategy, prefer, core }
    }

    /// By a strategy alone.
    ///
    /// # Errors
    /// `InvalidArgumentError` for a name that no strategy has, `TypeError` for what is neither a name nor a
    /// function.
    pub(crate) fn of(strategy: &Bound<'_, PyAny>) -> PyResult<Balance> {
        Ok(Balance::new(Strategy::of(strategy)?, Vec::new()))
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
        Ok(Balance::new(strategy, prefer))
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
