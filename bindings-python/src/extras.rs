//! What goes with something that is sent besides its payload, and what came with something.

use std::borrow::Cow;

use pyo3::{
    exceptions::PyTypeError,
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyList, PyString, PyTuple},
};
use roletalk_engine::{Error, ErrorKind, Fields, FieldsView, HeaderValue};

use crate::{
    call::Call,
    data::{bytes_of, utf8},
    error::exception,
};

/// Headers and trace context, as the caller has given them.
#[pyclass(frozen, module = "roletalk._engine")]
#[derive(Clone)]
pub struct Extras {
    /// The headers, and the trace context if `traceparent` was given.
    fields: Fields,
    has_parent: bool,
    tracestate: Option<String>,
    baggage: Option<String>,
}

/// A trace context of the right form, by which the rest is checked.
const SOME_PARENT: &str = "00-00000000000000000000000000000001-0000000000000001-00";

impl Extras {
    /// None when nothing was given.
    pub(crate) fn of(
        headers: Option<&Bound<'_, PyAny>>,
        required: bool,
        traceparent: Option<&str>,
        tracestate: Option<String>,
        baggage: Option<String>,
        py: Python<'_>,
    ) -> PyResult<Option<Extras>> {
        if headers.is_none() && traceparent.is_none() && tracestate.is_none() && baggage.is_none() {
            return Ok(None);
        }
        let mut fields = Fields::new();
        fields.set_required(required);
        if let Some(headers) = headers {
            add_headers(&mut fields, headers)?;
        }
        let state = tracestate.as_deref().unwrap_or_default();
        let bag = baggage.as_deref().unwrap_or_default();
        let checked = match traceparent {
            Some(parent) => fields.set_trace(parent, state, bag),
            None => Fields::new().set_trace(SOME_PARENT, state, bag),
        };
        checked.map_err(|error| exception(py, &error))?;
        Ok(Some(Extras { fields, has_parent: traceparent.is_some(), tracestate, baggage }))
    }

    /// The headers, and the trace context that was given.
    pub(crate) fn into_fields(self) -> Fields {
        self.fields
    }

    /// Whether they go only to units that take them.
    pub(crate) fn are_required(&self) -> bool {
        self.fields.is_required() && !self.fields.is_empty()
    }
}

/// What goes with something that is sent: what was given, and the trace context of the call that is being
/// handled, as far as it was not.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when there is no `traceparent` to what was given of the rest.
pub(crate) fn fields_of<'a>(
    extras: Option<&'a Extras>,
    call: Option<&Call>,
) -> Result<Option<Cow<'a, Fields>>, Error> {
    let call = call.filter(|call| call.is_traced());
    let (extras, call) = match (extras, call) {
        (None, None) => return Ok(None),
        (None, Some(call)) => {
            let mut fields = Fields::new();
            fields.inherit_trace(call.fields());
            return Ok(Some(Cow::Owned(fields)));
        }
        (Some(extras), call) => (extras, call),
    };
    let (state, bag) = (extras.tracestate.as_deref(), extras.baggage.as_deref());
    let Some(view) = call.map(Call::fields) else {
        if !extras.has_parent && [state, bag].into_iter().flatten().any(|text| !text.is_empty()) {
            let text = "tracestate and baggage need a traceparent";
            return Err(Error::new(ErrorKind::InvalidArgument, text).with_hint(
                "Outside of handlers whose request has one, give traceparent as well.",
            ));
        }
        return Ok(Some(Cow::Borrowed(&extras.fields)));
    };
    if extras.has_parent && (bag.is_some() || view.baggage().is_none()) {
        return Ok(Some(Cow::Borrowed(&extras.fields)));
    }
    let mut fields = extras.fields.clone();
    let bag = bag.or(view.baggage()).unwrap_or_default();
    // A tracestate belongs to its traceparent.
    let (parent, state) = match extras.has_parent {
        true => (extras.fields.view().traceparent(), state),
        false => (view.traceparent(), state.or(view.tracestate())),
    };
    fields.set_trace(&parent.unwrap_or_default(), state.unwrap_or_default(), bag)?;
    Ok(Some(Cow::Owned(fields)))
}

/// Adds the headers of a mapping, or of pairs.
fn add_headers(fields: &mut Fields, headers: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = headers.py();
    let wrong =
        || PyTypeError::new_err("headers must be a mapping, or pairs of a name and a value");
    if headers.is_instance_of::<PyString>() || headers.is_instance_of::<PyBytes>() {
        return Err(wrong());
    }
    let pairs = if let Some(pairs) = headers.getattr_opt(intern!(py, "_pairs"))? {
        // Headers that came are sent on: all of a name.
        pairs
    } else if headers.hasattr(intern!(py, "items"))? {
        headers.call_method0(intern!(py, "items"))?
    } else {
        headers.clone()
    };
    for pair in pairs.try_iter().map_err(|_| wrong())? {
        let pair = pair?;
        let parts: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)> = pair.extract().ok();
        let (name, value) = parts.ok_or_else(wrong)?;
        add_header(fields, &name, &value)?;
    }
    Ok(())
}

/// Adds a header.
pub(crate) fn add_header(
    fields: &mut Fields,
    name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = name.py();
    let name = name.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the name of a header must be a str, not {}", kind_of(name)))
    })?;
    let name = utf8(name)?;
    let name = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
    let added = match value.cast::<PyString>() {
        Ok(text) => {
            let text = utf8(text)?;
            fields.add_header(name, std::str::from_utf8(text.as_bytes()).unwrap_or_default())
        }
        Err(_) => {
            let bytes = bytes_of(value).map_err(|_| {
                let kind = kind_of(value);
                PyTypeError::new_err(format!("the header {name} must be str or bytes, not {kind}"))
            })?;
            fields.add_header(name, bytes.as_bytes())
        }
    };
    added.map_err(|error| exception(py, &error))
}

/// The same headers with this one, in place of those of its name.
pub(crate) fn with_header(
    before: Option<&Fields>,
    name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<Fields> {
    let mut new = Fields::new();
    add_header(&mut new, name, value)?;
    let added = new.clone();
    let other = |(known, _): &(&str, HeaderValue<'_>)| added.view().header(known).is_none();
    for (known, value) in before.map(Fields::view).unwrap_or_default().headers().filter(other) {
        new.add_header(known, value).map_err(|error| exception(name.py(), &error))?;
    }
    Ok(new)
}

fn kind_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

/// A class or function of the package's, looked up once.
fn of_package<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let found = cell.get_or_try_init(py, || py.import(module)?.getattr(name).map(Bound::unbind))?;
    Ok(found.bind(py))
}

/// What came, as a `Headers`.
pub(crate) fn headers_of<'py>(
    py: Python<'py>,
    view: FieldsView<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static NONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = of_package(py, &CLASS, "roletalk._headers", "Headers")?;
    let mut headers = view.headers().peekable();
    if headers.peek().is_none() {
        return Ok(of_package(py, &NONE, "roletalk._headers", "NO_HEADERS")?.clone());
    }
    let pairs = PyList::empty(py);
    for (name, value) in headers {
        let name = PyString::new(py, name);
        let value = match value {
            HeaderValue::Text(text) => PyString::new(py, text).into_any(),
            HeaderValue::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        };
        pairs.append((name, value))?;
    }
    class.call1((pairs,))
}

/// An answer with its headers, as an `Answer`.
pub(crate) fn answer_of<'py>(
    data: Bound<'py, PyAny>,
    fields: Option<&Fields>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = data.py();
    let headers = headers_of(py, fields.map(Fields::view).unwrap_or_default())?;
    let arguments = PyTuple::new(py, [data, headers])?;
    of_package(py, &CLASS, "roletalk._headers", "Answer")?.call1(arguments)
}

#[pymethods]
impl Extras {
    /// `headers` are a mapping or pairs, with values that are str or bytes.
    #[new]
    #[pyo3(signature = (headers, required, traceparent, tracestate, baggage, /))]
    fn new(
        py: Python<'_>,
        headers: Option<&Bound<'_, PyAny>>,
        required: bool,
        traceparent: Option<&str>,
        tracestate: Option<String>,
        baggage: Option<String>,
    ) -> PyResult<Extras> {
        let made = Extras::of(headers, required, traceparent, tracestate, baggage, py)?;
        Ok(made.unwrap_or_else(|| Extras {
            fields: Fields::new(),
            has_parent: false,
            tracestate: None,
            baggage: None,
        }))
    }

    /// Whether they go only to units that take them.
    #[getter]
    fn required(&self) -> bool {
        self.are_required()
    }
}
