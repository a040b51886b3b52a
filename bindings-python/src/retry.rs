//! How requests are made again, as Python says it.

use std::time::Duration;

use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::PyBool,
};
use roletalk_engine::{ErrorKind, Hedge, Retry as Core};

use crate::{
    balance::{number, whole},
    error::failure,
};

/// How requests that may be handled more than once are retried: after a failure, or while the first attempt is slow (a
/// hedge). Each attempt goes to another unit than the one before, all within the timeout of the request.
///
/// Use one for all requests of a kind, since they share its budget: each request adds a part of an attempt (`budget`),
/// and each further attempt takes a whole one. So when everything fails, units get little more load than without. Any
/// number of peers and threads may use it.
///
/// Args:
///     attempts: The most attempts, hedges included. Default 3; 1 means no retry.
///     backoff: Seconds before the second attempt. They double with each further attempt, and up to half is taken off
///         at random. Default 0.025. A longer time that the other side asks for (`RejectedError.retry_after`) is
///         kept to.
///     longest: The longest backoff in seconds. Default 1, and never less than `backoff`.
///     budget: Further attempts for each request, from 0 to 1, and ten besides. Default 0.1.
///     hedge_after: Seconds without an answer after which a second attempt is made at another unit. The first answer
///         counts, and the other attempt is cancelled. Default: no hedging.
///     hedge_quantile: The same after this quantile of all answer times, from 0 to 1: 0.95 hedges the slowest
///         twentieth. There are no hedges before a hundred answers are known.
///
/// Raises:
///     ValueError: For a number that cannot be one of these.
///     TypeError: For something of another type.
///     InvalidArgumentError: For `hedge_after` beside `hedge_quantile`.
#[pyclass(frozen, module = "roletalk")]
pub struct Retry(Core);

#[pymethods]
impl Retry {
    #[new]
    #[pyo3(signature = (
        *, attempts=None, backoff=None, longest=None, budget=None, hedge_after=None, hedge_quantile=None
    ))]
    fn new(
        py: Python<'_>,
        attempts: Option<&Bound<'_, PyAny>>,
        backoff: Option<&Bound<'_, PyAny>>,
        longest: Option<&Bound<'_, PyAny>>,
        budget: Option<&Bound<'_, PyAny>>,
        hedge_after: Option<&Bound<'_, PyAny>>,
        hedge_quantile: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Retry> {
        let mut retry = Core::new();
        if let Some(attempts) = attempts {
            retry = retry.attempts(whole("attempts", attempts, 1)?);
        }
        if backoff.is_some() || longest.is_some() {
            let or = |name, time: Option<&Bound<'_, PyAny>>, otherwise| {
                time.map_or(Ok(otherwise), |time| wait(name, time))
            };
            let (first, most) = retry.waits();
            let first = or("backoff", backoff, first)?;
            retry = retry.backoff(first, or("longest", longest, most)?);
        }
        if let Some(budget) = budget {
            retry = retry.budget(part("budget", budget)?);
        }
        let hedge = match (hedge_after, hedge_quantile) {
            (None, None) => return Ok(Retry(retry)),
            (Some(after), None) => Hedge::After(wait("hedge_after", after)?),
            (None, Some(quantile)) => Hedge::Quantile(part("hedge_quantile", quantile)?),
            (Some(_), Some(_)) => {
                let text =
                    "hedge_after and hedge_quantile are two ways to say when: give one of them";
                return Err(failure(py, ErrorKind::InvalidArgument, text));
            }
        };
        Ok(Retry(retry.hedge(hedge)))
    }

    /// Requests that were made again after a failure.
    #[getter]
    fn retried(&self) -> u64 {
        self.0.retried()
    }

    /// Requests that were made besides one that was slow.
    #[getter]
    fn hedged(&self) -> u64 {
        self.0.hedged()
    }

    /// Requests that were not made again because the account was empty.
    #[getter]
    fn refused(&self) -> u64 {
        self.0.refused()
    }

    fn __repr__(&self) -> String {
        let (retried, hedged, refused) = (self.retried(), self.hedged(), self.refused());
        format!("<Retry retried={retried} hedged={hedged} refused={refused}>")
    }
}

/// The option `retry`; none when nothing is to be made again.
pub(crate) fn retry_of(retry: &Bound<'_, PyAny>) -> PyResult<Option<Core>> {
    if let Ok(retry) = retry.cast::<Retry>() {
        return Ok(Some(retry.get().0.clone()));
    }
    if retry.cast::<PyBool>().is_ok_and(|wanted| !wanted.is_true()) {
        return Ok(None);
    }
    let name = retry.get_type().name()?;
    Err(PyTypeError::new_err(format!("retry must be a Retry, or False, not {name}")))
}

/// An argument that is a time to wait, perhaps none.
fn wait(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let time = number(name, value, "a number of seconds")?;
    Duration::try_from_secs_f64(time)
        .map_err(|_| PyValueError::new_err(format!("{name} must be a number of seconds from 0 on")))
}

/// An argument that is a part of all.
fn part(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let part = number(name, value, "a number")?;
    match (0.0..=1.0).contains(&part) {
        true => Ok(part),
        false => Err(PyValueError::new_err(format!("{name} must be from 0 to 1"))),
    }
}
