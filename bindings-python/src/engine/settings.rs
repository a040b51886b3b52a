//! What Python passes, and what it is told, in the engine's terms.

use std::{net::TcpStream, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyDict, PyInt, PyList},
};
use roletalk_engine::{
    ConnectionStats, CounterValue, ErrorKind, LimitValue, Limits, Measure, Quantity, UnitStats,
    check_header,
};

use crate::{
    destination::seconds,
    error::{exception, failure},
};

pub(super) fn headers_of(py: Python<'_>, pairs: Vec<(String, String)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let invalid = || {
            let text = format!("The header `{name}` is not one of HTTP's");
            failure(py, ErrorKind::InvalidArgument, text)
        };
        let key = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
        headers.append(key, HeaderValue::try_from(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

pub(super) fn check_header_names(py: Python<'_>, names: &[String]) -> PyResult<()> {
    let checked = names.iter().try_for_each(|name| check_header(name));
    checked.map_err(|error| exception(py, &error))
}

/// Takes over the socket of a Python socket object, which is closed for Python from then on.
#[cfg(unix)]
pub(super) fn take_socket(socket: &Bound<'_, PyAny>) -> PyResult<TcpStream> {
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};
    let fd: RawFd = socket.call_method0("detach")?.extract()?;
    if fd < 0 {
        return Err(PyValueError::new_err("the socket is closed"));
    }
    // SAFETY: `detach` has given up the descriptor, which was open: nobody else closes it.
    Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(not(unix))]
pub(super) fn take_socket(_socket: &Bound<'_, PyAny>) -> PyResult<TcpStream> {
    Err(pyo3::exceptions::PyRuntimeError::new_err("sockets cannot be handed over on this system"))
}

/// Adds the engine's lists of limits and counters to the module: what `limits.py` and `stats.py` have
/// to have.
pub(crate) fn add_tables(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let limits = PyList::empty(module.py());
    let defaults = Limits::default();
    for limit in Limits::ALL {
        let measure = measure_name(limit.measure);
        match defaults.get(limit.name) {
            Some(LimitValue::Number(number)) => limits.append((limit.name, measure, number))?,
            Some(LimitValue::Time(time)) => {
                limits.append((limit.name, measure, time.as_secs_f64()))?;
            }
            None => {}
        }
    }
    module.add("LIMITS", limits)?;
    let counters = |table: &[Quantity]| {
        table.iter().map(|row| (row.name, measure_name(row.measure))).collect::<Vec<_>>()
    };
    module.add("UNIT_COUNTERS", counters(UnitStats::ALL))?;
    module.add("CONNECTION_COUNTERS", counters(ConnectionStats::ALL))
}

fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Count => "count",
        Measure::Bytes => "bytes",
        Measure::Time => "seconds",
    }
}

pub(super) fn set_limits(limits: &mut Limits, given: &Bound<'_, PyDict>) -> PyResult<()> {
    for (name, value) in given {
        let name: String = name.extract()?;
        let limit = Limits::ALL.iter().find(|limit| limit.name == name);
        let measure = limit
            .map(|limit| limit.measure)
            .ok_or_else(|| PyTypeError::new_err(format!("there is no limit `{name}`")))?;
        let value = match measure {
            Measure::Count | Measure::Bytes => LimitValue::Number(size(&name, &value)?),
            // Where the default is none at all, that can be said, too.
            Measure::Time if is_zero(&value) && limits.get(&name) == Some(NO_TIME) => NO_TIME,
            Measure::Time => LimitValue::Time(time(&name, &value)?),
        };
        limits.set(&name, value).map_err(|error| exception(given.py(), &error))?;
    }
    Ok(())
}

const NO_TIME: LimitValue = LimitValue::Time(Duration::ZERO);

fn is_zero(value: &Bound<'_, PyAny>) -> bool {
    value.extract::<f64>().is_ok_and(|number| number == 0.0)
}

fn size(limit: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = value
        .cast::<PyInt>()
        .map_err(|_| PyTypeError::new_err(format!("Limits.{limit} must be an int")))?;
    let range =
        || PyValueError::new_err(format!("Limits.{limit} must be from 0 to {}", usize::MAX));
    number.extract().map_err(|_| range())
}

fn time(limit: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let number = value
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("Limits.{limit} must be a number of seconds")))?;
    seconds(&format!("Limits.{limit}"), number)
}

pub(super) fn unit_stats<'py>(py: Python<'py>, stats: &UnitStats) -> PyResult<Bound<'py, PyDict>> {
    let connections = PyList::empty(py);
    for conn in &stats.connections {
        connections.append(dict_of(py, conn.counters())?)?;
    }
    let counters = dict_of(py, stats.counters())?;
    counters.set_item("connections", connections)?;
    Ok(counters)
}

fn dict_of(
    py: Python<'_>,
    counters: impl Iterator<Item = (&'static str, CounterValue)>,
) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in counters {
        match value {
            CounterValue::Number(number) => dict.set_item(name, number)?,
            CounterValue::Time(time) => {
                dict.set_item(name, time.map(|time| time.as_secs_f64()))?;
            }
        }
    }
    Ok(dict)
}
