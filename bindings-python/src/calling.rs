//! Calls that are made for each request.
//!
//! PyO3 makes a tuple of the arguments for each call, and a bound method for each call of a method: the stable ABI of
//! CPython 3.9 has no vectorcall. It has functions with variable arguments, which need neither.

use std::ptr::null_mut;

use pyo3::{ffi, prelude::*, types::PyString};

/// Calls a method with one argument.
pub(crate) fn call_method_1<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = null_mut::<ffi::PyObject>();
    // SAFETY: The interpreter is attached, as `Bound` says. All are objects that outlive the call, and null ends
    // them. What is returned is a new reference, or null with an exception set.
    unsafe {
        let (object_, name, argument) = (object.as_ptr(), name.as_ptr(), argument.as_ptr());
        let returned = ffi::PyObject_CallMethodObjArgs(object_, name, argument, end);
        Bound::from_owned_ptr_or_err(object.py(), returned)
    }
}

/// Calls a method with two arguments.
pub(crate) fn call_method_2<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = null_mut::<ffi::PyObject>();
    // SAFETY: As in `call_method_1`.
    unsafe {
        let (object_, name) = (object.as_ptr(), name.as_ptr());
        let (first, second) = (first.as_ptr(), second.as_ptr());
        let returned = ffi::PyObject_CallMethodObjArgs(object_, name, first, second, end);
        Bound::from_owned_ptr_or_err(object.py(), returned)
    }
}

/// Calls a function with one argument.
pub(crate) fn call_1<'py>(
    function: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = null_mut::<ffi::PyObject>();
    // SAFETY: As in `call_method_1`.
    unsafe {
        let returned = ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), argument.as_ptr(), end);
        Bound::from_owned_ptr_or_err(function.py(), returned)
    }
}

/// Calls a function with three arguments.
pub(crate) fn call_3<'py>(
    function: &Bound<'py, PyAny>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
    third: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end = null_mut::<ffi::PyObject>();
    // SAFETY: As in `call_method_1`.
    unsafe {
        let (first, second, third) = (first.as_ptr(), second.as_ptr(), third.as_ptr());
        let returned =
            ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), first, second, third, end);
        Bound::from_owned_ptr_or_err(function.py(), returned)
    }
}
