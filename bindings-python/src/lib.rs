//! The extension module of the Python package `roletalk`: the roletalk engine for a host that is
//! asyncio's event loop.
//!
//! Python owns the loop, the timers, name lookup and TLS. The module owns plain TCP sockets, which
//! the loop only watches: reading, decoding, finding the handler and writing happen in one call for
//! each time a socket is readable. It makes the objects that user code gets.
//!
//! No lock is held while Python code can run, which it can whenever a Python object is made or
//! dropped: `engine.rs` says what that means for its parts.

mod access;
mod balance;
mod call;
mod calling;
mod context;
mod data;
mod destination;
mod engine;
mod error;
mod event_loop;
mod exit;
mod extras;
#[cfg(unix)]
mod guarded;
mod request;
mod retry;
mod routes;
mod table;

use pyo3::prelude::*;
use roletalk_engine::ErrorKind;

/// The parts of `roletalk` that are in Rust.
// True: all state is behind locks or atomic, under none of which a Python object is made, called or
// dropped, and what changes it is refused in other threads than the loop's (`engine.rs`).
#[pymodule(gil_used = false)]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::Engine>()?;
    module.add_class::<context::Context>()?;
    module.add_class::<call::Call>()?;
    module.add_class::<extras::Extras>()?;
    module.add_class::<balance::Balance>()?;
    module.add_class::<balance::Candidate>()?;
    module.add_class::<balance::Ejection>()?;
    module.add_class::<retry::Retry>()?;
    module.add_class::<data::Encoded>()?;
    module.add_class::<access::Policy>()?;
    module.add_class::<access::PolicyFile>()?;
    module.add_class::<destination::DestinationBase>()?;
    module.add_function(wrap_pyfunction!(access::certificate, module)?)?;
    module.add_function(wrap_pyfunction!(data::bytes_of, module)?)?;
    module.add_function(wrap_pyfunction!(call::current_call, module)?)?;
    module.add("CURRENT_CALL", call::variable(module.py())?)?;
    module.add_function(wrap_pyfunction!(engine::forked, module)?)?;
    module.add_function(wrap_pyfunction!(exit::exiting, module)?)?;
    module.add_function(wrap_pyfunction!(error::peer_closed, module)?)?;
    module.add_function(wrap_pyfunction!(error::listen_hint, module)?)?;
    module.add_function(wrap_pyfunction!(error::validity, module)?)?;
    module.add_function(wrap_pyfunction!(error::printable, module)?)?;
    let kinds = ErrorKind::ALL.map(|kind| (kind.code(), kind.name()));
    module.add("OTHER_THREAD", engine::OTHER_THREAD)?;
    module.add("ERROR_KINDS", kinds.to_vec())?;
    engine::add_tables(module)?;
    module.add("OWNS_SOCKETS", cfg!(unix))?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
