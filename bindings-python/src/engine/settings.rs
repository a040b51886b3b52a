//! What Python passes, and what it is told, in the engine's terms.

use std::{net::TcpStream, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyDict, PyInt, PyList},
};
use roletalk_engine::{ErrorKind, Limits, UnitStats};

use crate::{destination::seconds, error::failure};

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

pub(super) fn set_limits(limits: &mut Limits, given: &Bound<'_, PyDict>) -> PyResult<()> {
    for (name, value) in given {
        let name: String = name.extract()?;
        let size = || -> PyResult<usize> {
            let number = value
                .cast::<PyInt>()
                .map_err(|_| PyTypeError::new_err(format!("Limits.{name} must be an int")))?;
            let range =
                || PyValueError::new_err(format!("Limits.{name} must be from 0 to {}", usize::MAX));
            number.extract().map_err(|_| range())
        };
        let time = || -> PyResult<Duration> {
            let number = value.extract().map_err(|_| {
                PyTypeError::new_err(format!("Limits.{name} must be a number of seconds"))
            })?;
            seconds(&format!("Limits.{name}"), number)
        };
        match name.as_str() {
            "message_size" => limits.message_size = size()?,
            "handshake_message_size" => limits.handshake_message_size = size()?,
            "upgrade_size" => limits.upgrade_size = size()?,
            "handshake_timeout" => limits.handshake_timeout = time()?,
            "handshakes" => limits.handshakes = size()?,
            "units" => limits.units = size()?,
            "connections_per_unit" => limits.connections_per_unit = size()?,
            "waiting_requests" => limits.waiting_requests = size()?,
            "running_handlers" => limits.running_handlers = size()?,
            "running_bytes" => limits.running_bytes = size()?,
            "queue_per_connection" => limits.queue_per_connection = size()?,
            "owed_per_connection" => limits.owed_per_connection = size()?,
            "queue_per_peer" => limits.queue_per_peer = size()?,
            "streams" => limits.streams = size()?,
            "stream_window" => limits.stream_window = size()?,
            "stream_overrun" => limits.stream_overrun = size()?,
            "overrun_per_unit" => limits.overrun_per_unit = size()?,
            "request_timeout" => limits.request_timeout = time()?,
            "acquaintance_dials" => limits.acquaintance_dials = size()?,
            "acquaintance_addresses" => limits.acquaintance_addresses = size()?,
            "acquaintance_patience" => limits.acquaintance_patience = time()?,
            _ => return Err(PyTypeError::new_err(format!("there is no limit `{name}`"))),
        }
    }
    Ok(())
}

pub(super) fn unit_stats<'py>(py: Python<'py>, stats: &UnitStats) -> PyResult<Bound<'py, PyDict>> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let connections = PyList::empty(py);
    for conn in &stats.connections {
        let counters = PyDict::new(py);
        counters.set_item("frames_sent", conn.frames_sent)?;
        counters.set_item("frames_received", conn.frames_received)?;
        counters.set_item("bytes_sent", conn.bytes_sent)?;
        counters.set_item("bytes_received", conn.bytes_received)?;
        counters.set_item("queued", conn.queued)?;
        counters.set_item("round_trip", seconds(conn.round_trip))?;
        connections.append(counters)?;
    }
    let counters = PyDict::new(py);
    counters.set_item("messages_sent", stats.messages_sent)?;
    counters.set_item("messages_received", stats.messages_received)?;
    counters.set_item("messages_dropped", stats.messages_dropped)?;
    counters.set_item("requests_sent", stats.requests_sent)?;
    counters.set_item("requests_received", stats.requests_received)?;
    counters.set_item("requests_shed", stats.requests_shed)?;
    counters.set_item("waiting", stats.waiting)?;
    counters.set_item("running", stats.running)?;
    counters.set_item("running_bytes", stats.running_bytes)?;
    counters.set_item("streams", stats.streams)?;
    counters.set_item("stream_bytes_sent", stats.stream_bytes_sent)?;
    counters.set_item("stream_bytes_received", stats.stream_bytes_received)?;
    counters.set_item("last_answer", seconds(stats.last_answer))?;
    counters.set_item("connections", connections)?;
    Ok(counters)
}
