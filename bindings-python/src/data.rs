//! Python values as payloads, and back.

use pyo3::{
    PyTypeInfo,
    exceptions::{PyException, PyTypeError, PyUnicodeEncodeError, PyValueError},
    intern,
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString},
};
use roletalk_engine::{Data, DataType, Error, ErrorKind, hint, wire::Payload};

use crate::{
    error::{exception, failure},
    exit::Inside,
};

/// What makes JSON of objects and objects of JSON.
pub(crate) struct Codec {
    /// Takes a value, gives `str` or `bytes`.
    pub(crate) dumps: Py<PyAny>,
    /// Takes `bytes`.
    pub(crate) loads: Py<PyAny>,
}

/// The UTF-8 of a text.
pub(crate) fn utf8<'py>(text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyBytes>> {
    text.encode_utf8().map_err(|error| {
        let py = text.py();
        if error.is_instance_of::<PyUnicodeEncodeError>(py) {
            return failure(
                py,
                ErrorKind::Data,
                "The text has surrogates, which UTF-8 cannot hold",
            );
        }
        error
    })
}

/// A value as it is sent.
#[pyclass(frozen, module = "roletalk._engine")]
pub(crate) struct Encoded {
    kind: DataType,
    /// None stands for none. Nobody changes them.
    bytes: Option<Py<PyBytes>>,
}

impl Encoded {
    fn bytes(kind: DataType, bytes: Bound<'_, PyBytes>) -> Encoded {
        Encoded { kind, bytes: Some(bytes.unbind()) }
    }

    fn data(py: Python<'_>, data: &Data) -> Encoded {
        let Payload { kind, bytes } = data.payload();
        Encoded::bytes(kind, PyBytes::new(py, bytes))
    }

    #[inline]
    pub(crate) fn payload<'a>(&'a self, py: Python<'a>) -> Payload<'a> {
        let bytes = self.bytes.as_ref().map(|bytes| bytes.bind(py).as_bytes());
        Payload { kind: self.kind, bytes: bytes.unwrap_or_default() }
    }

    /// The same, without a copy of what is large.
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Encoded {
        let bytes = self.bytes.as_ref().map(|bytes| bytes.clone_ref(py));
        Encoded { kind: self.kind, bytes }
    }
}

/// Shows `take` a value as a payload.
///
/// # Errors
/// `DataError` when the value cannot be sent.
pub(crate) fn with_payload<T>(
    value: &Bound<'_, PyAny>,
    codec: &Codec,
    take: impl FnOnce(Payload<'_>) -> T,
) -> PyResult<T> {
    let py = value.py();
    let encoded = encode(value, codec)?;
    let _inside = Inside::enter(py);
    Ok(take(encoded.payload(py)))
}

/// A value as it is sent, which what becomes of the value does not change.
///
/// # Errors
/// `DataError` when the value cannot be sent.
pub(crate) fn encode(value: &Bound<'_, PyAny>, codec: &Codec) -> PyResult<Encoded> {
    let py = value.py();
    let _inside = Inside::enter(py);
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Encoded::bytes(DataType::String, utf8(text)?));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Encoded::bytes(DataType::Binary, bytes.clone()));
    }
    if value.is_none() {
        return Ok(Encoded { kind: DataType::Null, bytes: None });
    }
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(Encoded::data(py, &Data::boolean(value.is_true())));
    }
    if let Ok(number) = value.cast_exact::<PyInt>() {
        if let Ok(number) = number.extract::<i64>() {
            return Ok(Encoded::data(py, &Data::integer(number)));
        }
        let text = number.str().map_err(|error| unusable(py, error))?;
        return Ok(Encoded::bytes(DataType::Number, utf8(&text)?));
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return Ok(Encoded::data(py, &Data::number(number.value())));
    }
    // Of what is most often sent, it is known without asking.
    let is_plain = value.is_exact_instance_of::<PyDict>() || value.is_exact_instance_of::<PyList>();
    if !is_plain {
        if let Ok(encoded) = value.cast::<Encoded>() {
            return Ok(encoded.get().clone_ref(py));
        }
        if let Some(copy) = buffer(value)? {
            return Ok(Encoded::bytes(DataType::Binary, copy));
        }
    }
    let json = codec.dumps.bind(py).call1((value,)).map_err(|error| unusable(py, error))?;
    let bytes = match json.cast_into::<PyString>() {
        Ok(text) => utf8(&text)?,
        Err(other) => other.into_inner().cast_into::<PyBytes>().map_err(|_| {
            failure(py, ErrorKind::Data, "The codec's `dumps` gave neither str nor bytes")
        })?,
    };
    Ok(Encoded::bytes(DataType::Object, bytes))
}

/// The JSON of any value that the codec takes.
///
/// # Errors
/// `DataError` when it does not.
pub(crate) fn json_of(value: &Bound<'_, PyAny>, codec: &Codec) -> PyResult<String> {
    let py = value.py();
    let json = codec.dumps.bind(py).call1((value,)).map_err(|error| unusable(py, error))?;
    match json.extract::<String>() {
        Ok(text) => Ok(text),
        Err(_) => {
            let bytes: Vec<u8> = json.extract().map_err(|error| unusable(py, error))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

/// A copy of what an object exports by the buffer protocol, in C order; None when it does not.
///
/// # Errors
/// `DataError` when it exports what cannot be sent.
fn buffer<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let py = value.py();
    // The stable ABI has no other way to the protocol before CPython 3.11.
    let view = match PyMemoryView::from(value) {
        Ok(view) => view,
        Err(error) if error.is_instance_of::<PyTypeError>(py) => return Ok(None),
        Err(error) => return Err(unusable(py, error)),
    };
    let bytes = (|| {
        // A numpy scalar is a number that exports its bytes, too.
        let is_scalar = view.getattr(intern!(py, "ndim"))?.extract::<usize>()? == 0;
        if is_scalar && value.hasattr(intern!(py, "__float__"))? {
            return Ok(None);
        }
        let format = view.getattr(intern!(py, "format"))?;
        if format.contains("O")? {
            return Err(PyValueError::new_err("its elements are Python objects"));
        }
        let bytes = view.call_method0(intern!(py, "tobytes"))?;
        Ok(Some(bytes.cast_into::<PyBytes>()?))
    })();
    // A buffer that is exported cannot be resized: not after this.
    view.call_method0(intern!(py, "release"))?;
    bytes.map_err(|error| unusable(py, error))
}

/// The bytes of an object with the buffer protocol, contiguous or not.
#[pyfunction]
pub(crate) fn bytes_of<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    buffer(value)?.ok_or_else(|| {
        let name = value.get_type().name();
        let name = name.map_or_else(|_| "object".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!(
            "a stream takes bytes, or what has the buffer protocol, not {name}"
        ))
    })
}

fn unusable(py: Python<'_>, error: PyErr) -> PyErr {
    data_error(py, "The value cannot be sent", error)
}

/// A `DataError` with its cause, unless it is one such as KeyboardInterrupt.
fn data_error(py: Python<'_>, what: &str, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let text = format!("{what}: {}", error.value(py));
    let failed = exception(py, &Error::new(ErrorKind::Data, text).with_hint(hint::JSON));
    failed.set_cause(py, Some(error));
    failed
}

/// The value of a payload.
///
/// # Errors
/// `DataError` when an object's JSON cannot be read.
pub(crate) fn to_python<'py>(
    py: Python<'py>,
    payload: Payload<'_>,
    codec: &Codec,
) -> PyResult<Bound<'py, PyAny>> {
    let Payload { kind, bytes } = payload;
    match kind {
        DataType::String => Ok(text(py, bytes).into_any()),
        DataType::Binary => Ok(PyBytes::new(py, bytes).into_any()),
        DataType::Boolean => Ok(PyBool::new(py, bytes.first() != Some(&0)).to_owned().into_any()),
        DataType::Number => number(py, bytes),
        DataType::Object => {
            let read = codec.loads.bind(py).call1((PyBytes::new(py, bytes),));
            read.map_err(|error| data_error(py, "The object that came cannot be read", error))
        }
        DataType::Null | DataType::Unknown(_) => Ok(py.None().into_bound(py)),
    }
}

fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match PyString::from_bytes(py, bytes) {
        Ok(text) => text,
        Err(_) => PyString::new(py, &String::from_utf8_lossy(bytes)),
    }
}

/// Integers exactly, however long; everything else as a float.
fn number<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let data = Data::from_raw(DataType::Number, bytes.to_vec().into());
    if let Some(small) = data.as_i64() {
        return Ok(small.into_pyobject(py)?.into_any());
    }
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        // Python refuses those that take long to convert.
        && let Ok(number) = PyInt::type_object(py).call1((text(py, bytes),))
    {
        return Ok(number);
    }
    Ok(PyFloat::new(py, data.as_f64().unwrap_or(f64::NAN)).into_any())
}
