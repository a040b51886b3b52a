//! Errors as exceptions of the package's classes.

use pyo3::{
    exceptions::{PyKeyboardInterrupt, PySystemExit},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyString},
};
use roletalk_engine::{Error, ErrorKind, Validity, hint};

/// The classes by the number of the kind, made in `roletalk/errors.py`.
fn classes(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static CLASSES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || {
        let classes = py.import("roletalk.errors")?.getattr("CLASSES")?;
        Ok::<_, PyErr>(classes.cast_into::<PyDict>()?.unbind())
    })?;
    Ok(classes.bind(py))
}

/// The exception for an error.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let made = classes(py).and_then(|classes| {
        let class = classes.as_any().get_item(error.kind().code())?;
        let made = class.call1((PyString::new(py, error.text()),))?;
        if let Some(hint) = error.hint() {
            made.call_method1(intern!(py, "_set_hint"), (hint,))?;
        }
        Ok::<_, PyErr>(made)
    });
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// Whether an exception is to end the program, whatever was called for it: what raises it there is not done
/// with when a request has its outcome.
pub(crate) fn ends_program(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

/// The exception for a kind and a text.
pub(crate) fn failure(py: Python<'_>, kind: ErrorKind, text: impl Into<String>) -> PyErr {
    exception(py, &Error::new(kind, text.into()))
}

/// The exception of whatever is done with a peer that was closed.
#[pyfunction]
pub(crate) fn peer_closed(py: Python<'_>) -> Py<PyAny> {
    exception(py, &Error::peer_closed()).into_value(py).into_any()
}

/// What to try when an address cannot be listened on, by the number of the error.
#[pyfunction]
pub(crate) fn listen_hint(address: &str, errno: i32) -> Option<String> {
    hint::listen(address, std::io::Error::from_raw_os_error(errno).kind())
}

/// From when and until when a certificate in DER is valid, in seconds since 1970.
#[pyfunction]
pub(crate) fn validity(py: Python<'_>, der: &[u8]) -> PyResult<(f64, f64)> {
    let Validity { not_before, not_after } =
        Validity::of(der).map_err(|error| exception(py, &error))?;
    Ok((not_before.as_secs_f64(), not_after.as_secs_f64()))
}

/// The text of an exception for a remote peer: its message, or its class when there is none.
pub(crate) fn text_of(error: &Bound<'_, PyAny>) -> String {
    let text = error.str().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    if !text.is_empty() {
        return text;
    }
    let name = error.get_type().name();
    name.map_or_else(
        |_| "The handler failed".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// A text that may come from a stranger, fit for logs and terminals.
#[pyfunction]
pub(crate) fn printable(text: &Bound<'_, PyString>) -> String {
    roletalk_engine::printable(&text.to_string_lossy())
}
